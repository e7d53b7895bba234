"""Waits until the API server serves our kinds, so that an operator that comes before its CRDs is no crash loop.

Called by `main` before anything else is made: kopf looks for its resources once, when it starts. Meanwhile
probes are answered: the process is alive, and not ready for a reason that they tell.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from windlass.shell.client import Client
from windlass.shell.errors import ApiError
from windlass.shell.health import answer, serve
from windlass.shell.logging import logger
from windlass.shell.resources import JOB_KINDS

LOG = logger("kinds")
FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 10.0


async def missing_kinds(client: Client) -> str | None:
    """What is wrong with the installation, or None: each of our kinds must be served."""
    for resource in JOB_KINDS:
        try:
            served = await client.raw(f"/apis/{resource.group}/{resource.version}")
        except ApiError as error:
            if error.status != 404:
                raise
            served = {}
        if resource.plural not in {item.get("name") for item in served.get("resources") or []}:
            return (
                f"customresourcedefinition {resource.plural}.{resource.group}: is not installed (got no version "
                f"{resource.version}); allowed: version {resource.version}. hint: kubectl apply -f crds/, or install "
                "the chart with crds.enabled=true"
            )
    return None


async def await_kinds(client: Client, health_port: int, stop: asyncio.Event) -> bool:
    """True once all kinds are served, False when `stop` is set first. Raises what the client raises."""
    problem = await missing_kinds(client)
    if problem is None:
        return True
    runner, _ = await serve(waiting(problem), health_port)
    pause = FIRST_PAUSE_SECONDS
    try:
        while problem is not None and not stop.is_set():
            LOG.error("kinds are missing", problem=problem, pause_seconds=pause)
            try:
                await asyncio.wait_for(stop.wait(), pause)
            except TimeoutError:
                problem = await missing_kinds(client)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
    finally:
        await runner.cleanup()
    return problem is None


def waiting(problem: str) -> web.Application:
    """Probes of a process that is alive and waits."""

    async def healthz(_: web.Request) -> web.Response:
        return answer([])

    async def readyz(_: web.Request) -> web.Response:
        return answer([lambda: problem])

    application = web.Application()
    application.router.add_get("/healthz", healthz)
    application.router.add_get("/readyz", readyz)
    return application
