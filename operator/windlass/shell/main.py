"""The operator process: reads settings, wires the parts, leads when it holds the Lease, and ends in order.

`python -m windlass.shell.main` is the container's command. Every replica watches and serves probes; only the
leader runs rounds, takes reports and writes. Losing the Lease ends the process at once, see `lease`.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import time
from collections.abc import Coroutine
from typing import Any, Final

from windlass.shell.client import Client
from windlass.shell.credentials import Credentials, CredentialsError, find
from windlass.shell.errors import ApiError, Unreachable
from windlass.shell.kinds import await_kinds
from windlass.shell.logging import configure, logger
from windlass.shell.settings import Settings, SettingsError, from_environment
from windlass.shell.tls import read_in_small_pieces

LOG = logger("main")

EXIT_SETTINGS: Final = 2
EXIT_PART_DIED: Final = 5
DRAIN_SECONDS: Final = 15.0
COLLECT_AFTER: Final = (20_000, 20, 20)
"""Containers made and not freed before a look at the youngest; such looks before one at those that outlived them."""


def collect_seldom() -> None:
    """Look for garbage in cycles seldom, and never among what was imported.

    Nearly all garbage here is freed by counts of references. With Python's own thresholds an operator of 60 busy
    gangs used 0.60 of a core and not 0.58; the more it holds, the more a look costs.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


async def run(settings: Settings, credentials: Credentials) -> int:
    """Run until a signal or a fatal error; returns the exit status."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # Imported late, so that wrong settings are told at once.
    from windlass.shell.operator import Operator

    try:
        async with Client(credentials) as client:
            if not await await_kinds(client, settings.health_port, stop):
                return 0
    except (ApiError, Unreachable) as error:
        LOG.error("start failed", problem=str(error)[:500])
        return EXIT_PART_DIED
    operator = Operator(settings, credentials)
    collect_seldom()
    read_in_small_pieces()
    try:
        await operator.start()
        tasks = [asyncio.create_task(body, name=name) for name, body in operator.background().items()]
        return await wait(stop, tasks, operator.lead())
    except (ApiError, Unreachable) as error:
        LOG.error("start failed", problem=str(error)[:500])
        return EXIT_PART_DIED
    finally:
        await operator.stop()


async def wait(stop: asyncio.Event, tasks: list[asyncio.Task[None]], lead: Coroutine[Any, Any, None]) -> int:
    """Wait for a signal (0) or the unexpected end of a part; cancel the rest."""
    stopping: asyncio.Task[Any] = asyncio.create_task(stop.wait(), name="signal")
    parts: list[asyncio.Task[Any]] = [*tasks, asyncio.create_task(lead, name="lead")]
    await asyncio.wait([stopping, *parts], return_when=asyncio.FIRST_COMPLETED)
    status = 0
    for task in parts:
        if task.done() and not task.cancelled():
            LOG.error("a part of the operator ended", part=task.get_name(), error=task.exception())
            status = EXIT_PART_DIED
    for task in (stopping, *parts):
        task.cancel()
    # Rounds in progress end at their next await; each write is safe to lose.
    await asyncio.wait([stopping, *parts], timeout=DRAIN_SECONDS)
    return status


def main() -> int:
    """Entry point."""
    began = time.monotonic()
    try:
        settings = from_environment(os.environ)
        credentials = find()
    except (SettingsError, CredentialsError) as error:
        print(str(error), file=sys.stderr)  # noqa: T201 - before logs are configured
        return EXIT_SETTINGS
    configure(settings.log_level)
    # kopf imports these clients if they are there, only to recognise their objects: 10 MB and 0.4 s for nothing.
    for unused in ("kubernetes", "pykube"):
        sys.modules.setdefault(unused, None)  # type: ignore[arg-type]
    LOG.info("operator starts", namespace=settings.namespace, pod=settings.pod_name)
    status = asyncio.run(run(settings, credentials))
    LOG.info("operator ends", status=status, seconds=round(time.monotonic() - began, 1))
    return status


if __name__ == "__main__":
    sys.exit(main())
