"""The operator, played: takes reports, replaces pods that have ended, and can be away."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

from bench.faults.wire import Wire
from windlass.api.contract import Verdict
from workloads.agent import support
from workloads.agent.operator_fake import FakeOperator

LOOK_SECONDS = 0.02
REPORT_SECONDS = 0.5


class Played:
    """Holds the agent that stands for each index now; a thread of its own replaces the ended ones."""

    def __init__(self, run: support.Run, wire: Wire, folder: Path) -> None:
        self.run, self.wire = run, wire
        self.server = FakeOperator(folder)
        target = self.server.target.model_copy(update={"interval_seconds": REPORT_SECONDS})
        run.config = run.config.model_copy(update={"report": target})
        self.agents: list[support.Agent] = []
        self.attempt = 1
        self.ended: Verdict | None = None
        """The verdict of a pod after which no other is made."""
        self._away = self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def begin(self) -> None:
        """Makes the first pods."""
        self.agents = [self._start(index) for index in range(self.run.config.spec.resources.nodes)]
        self._thread.start()

    def away(self, away: bool) -> None:
        """Neither answers nor makes pods."""
        self._away, self.server.status = away, 503 if away else 200

    def renew(self, index: int) -> support.Agent:
        """Makes a pod's successor while it still lives; the old one."""
        with self._lock:
            old, self.agents[index] = self.agents[index], self._start(index)
        return old

    def drain(self) -> list[support.Agent]:
        """From here on pods are of the next attempt; those of this one."""
        with self._lock:
            self.attempt += 1
            return list(self.agents)

    def close(self) -> None:
        """Makes no pods any more and answers nobody."""
        self._closed = True
        if self._thread.is_alive():
            self._thread.join()
        self.server.close()

    def _start(self, index: int) -> support.Agent:
        """Leaders listen on ports of their own, as pods have addresses of their own; followers ask the wire."""
        port = support.free_port() if index == 0 else self.wire.port
        if index == 0:
            self.wire.target = port
        arguments = ["--port", str(port), *self.server.arguments]
        return self.run.start(index, attempt=self.attempt, arguments=arguments)

    def _watch(self) -> None:
        while not self._closed:
            time.sleep(LOOK_SECONDS)
            self.server.reports.clear()
            if self._away or self.ended is not None:
                continue
            with self._lock:
                for index, agent in enumerate(self.agents):
                    if agent.process.poll() is not None and not self._is_over(agent):
                        self.agents[index] = self._start(index)

    def _is_over(self, agent: support.Agent) -> bool:
        with contextlib.suppress(OSError, ValueError):
            verdict = agent.verdict
            if verdict.result in ("Failed", "Succeeded"):
                self.ended = verdict
        return self.ended is not None
