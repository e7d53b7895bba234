"""Whether this process is fit: probes for Kubernetes and numbers for Prometheus, over plain HTTP.

/healthz fails when the process should be restarted: its loop hangs, a key is stuck, a watch is silent, kopf
is gone. /readyz is true on a standby too, since it is ready to take over. Answers name what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from aiohttp import web

from windlass.shell.clock import Clock
from windlass.shell.metrics import Metrics

LAG_LIMIT_SECONDS: Final = 10.0
QUEUE_LIMIT_SECONDS: Final = 600.0
WATCH_LIMIT_SECONDS: Final = 120.0
TICK_SECONDS: Final = 0.5

Check = Callable[[], str | None]
"""Returns what is wrong, or None."""


class LoopLag:
    """Measures how late the event loop runs its timers. Read from the loop itself: a hung loop answers nobody."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock.monotonic
        self._sleep = clock.sleep
        self._last = clock.monotonic()
        self.worst_seconds = 0.0

    async def run(self) -> None:
        """Measure for ever; the worst of the last moments fades slowly, so that a probe can see it."""
        while True:
            self._last = self._clock()
            await self._sleep(TICK_SECONDS)
            late = max(0.0, self._clock() - self._last - TICK_SECONDS)
            self.worst_seconds = max(late, self.worst_seconds * 0.9)

    def seconds(self) -> float:
        """The worst recent delay, the present one included."""
        return max(self.worst_seconds, self._clock() - self._last - TICK_SECONDS)


def limit(name: str, value: Callable[[], float], most: float) -> Check:
    """A check that a number of seconds stays below its limit."""

    def check() -> str | None:
        seconds = value()
        return f"{name}: {seconds:.0f} s (limit {most:.0f} s)" if seconds > most else None

    return check


class Health:
    """The HTTP application of probes and metrics."""

    def __init__(self, metrics: Metrics, *, before_scrape: Callable[[], None] = lambda: None) -> None:
        self.alive: list[Check] = []
        self.ready: list[Check] = []
        self._metrics = metrics
        self._before_scrape = before_scrape

    def application(self) -> web.Application:
        """The aiohttp application."""
        application = web.Application()
        application.router.add_get("/healthz", self.healthz)
        application.router.add_get("/readyz", self.readyz)
        application.router.add_get("/metrics", self.scrape)
        return application

    async def healthz(self, _: web.Request) -> web.Response:
        """200 while the process should go on."""
        return answer(self.alive)

    async def readyz(self, _: web.Request) -> web.Response:
        """200 once the caches are filled."""
        return answer(self.ready)

    async def scrape(self, _: web.Request) -> web.Response:
        """Metrics in Prometheus' text format."""
        self._before_scrape()
        return web.Response(
            body=self._metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4"}
        )


def answer(checks: list[Check]) -> web.Response:
    """`ok`, or what is wrong, one per line."""
    problems = [problem for check in checks if (problem := check()) is not None]
    if problems:
        return web.Response(status=503, text="\n".join(problems) + "\n")
    return web.Response(text="ok\n")


async def serve(
    application: web.Application, port: int, *, host: str | None = None, ssl_context: object = None
) -> tuple[web.AppRunner, int]:
    """Start a server; returns its runner and the port it listens on."""
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    site = web.TCPSite(runner, host, port, ssl_context=ssl_context)  # type: ignore[arg-type]
    await site.start()
    return runner, int(runner.addresses[0][1])
