"""A real leader in this process: real store, claims, records and sockets; its pod's ranks are the test's words."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from windlass.api.contract import RankEvent, Verdict
from windlass_workloads.agent.identity import Identity, options_from
from windlass_workloads.agent.leader import Leader
from windlass_workloads.agent.messages import Exited, Hello, Idle, Said, Start, Upward
from windlass_workloads.agent.pod import Pod
from windlass_workloads.checkpoint import incarnations, ledger
from windlass_workloads.checkpoint import manifest as manifests
from windlass_workloads.checkpoint.store import RunStore, checkpoint_name
from workloads.agent.support import config, free_port
from workloads.checkpoint.support import manifest_of


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        await asyncio.sleep(0.005)


class LonePod:
    """Stands in for a pod with one rank, and leads."""

    def __init__(self, root: Path, store: RunStore | None = None, *, ticket: int = 1, **changes: Any) -> None:
        self.store = store or RunStore(root)
        self.config = config(root, nodes=1, ranks=1, **changes)
        self.identity = Identity(
            pod=f"toy-0-{ticket}",
            pod_uid=f"pod-0-{ticket}",
            pod_ip="127.0.0.1",
            node="node-0",
            index=0,
            ticket=ticket,
            attempt=1,
        )
        self.options = options_from(["--bind", "127.0.0.1", "--port", str(free_port())])
        self.limits = self.options.limits
        self.ended: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self.leaving_at: float | None = None
        self.sink: Callable[[Upward], None] = lambda _: None
        self.parting: Callable[[], Verdict] = lambda: Verdict(result="Preempted")
        self.host = SimpleNamespace(stop=self.stop, incarnation=0)
        self.started: list[Start] = []
        self.stopped: list[str] = []
        self.step = 0
        self.leader = Leader(cast(Pod, self), self.store)

    # --- what a leader wants of its pod ------------------------------------------------------------

    def start(self) -> None:
        """There is no warm parent to start."""

    def hello(self) -> Hello:
        me = self.identity
        return Hello(
            pod=me.pod,
            pod_uid=me.pod_uid,
            pod_ip=me.pod_ip,
            node=me.node,
            index=me.index,
            ticket=me.ticket,
            attempt=me.attempt,
            ready=True,
        )

    def start_ranks(self, message: Start) -> None:
        self.started.append(message)

    def stop(self, mode: str) -> None:
        self.stopped.append(mode)

    def end(self, verdict: Verdict) -> None:
        if not self.ended.done():
            self.ended.set_result(verdict)

    # --- what its ranks do ---------------------------------------------------------------------------

    @property
    def incarnation(self) -> int:
        return self.started[-1].incarnation

    def say(self, **fields: Any) -> None:
        event = RankEvent(at=time.time(), rank=0, **fields)
        self.sink(Said(incarnation=self.incarnation, event=event))

    def exit(self, code: int, **fields: Any) -> None:
        self.sink(Exited(incarnation=self.incarnation, rank=0, code=code, at=time.time(), **fields))
        self.sink(Idle(incarnation=self.incarnation))

    def work(self, steps: int) -> None:
        for _ in range(steps):
            self.step += 1
            self.say(type="Step", step=self.step)

    def save(self) -> str:
        name = checkpoint_name(self.step, self.incarnation)
        (self.store.make(name) / "state.bin").write_bytes(b"state of %d" % self.step)
        manifest = manifest_of(self.store, self.step, self.incarnation, run_uid=self.config.run.uid)
        manifests.commit(self.store, name, manifest)
        record = ledger.record_of(manifests.read(self.store, name))
        self.say(type="Checkpoint", step=self.step, checkpoint=record, stall_seconds=0.01)
        return name

    async def train(self) -> None:
        """Prepares if need be, and begins to train."""
        await until(lambda: self.started)
        if self.started[-1].contexts[0].task == "prepare":
            self.say(type="Prepared", name="toy")
            self.exit(0)
        await until(lambda: self.started[-1].contexts[0].task == "train")
        self.begin()

    def begin(self) -> None:
        record = incarnations.newest(self.store)
        assert record is not None
        self.step = next((each.step for each in record.accepted if each.name == record.resume), 0)
        self.say(type="Forward", step=self.step + 1)

    @contextlib.asynccontextmanager
    async def leading(self) -> AsyncIterator[asyncio.Task[Verdict]]:
        """Leads while the block runs."""
        task = asyncio.get_running_loop().create_task(self.leader.run())
        try:
            yield task
        finally:
            self.end(Verdict(result="Preempted"))
            with contextlib.suppress(Exception):
                await asyncio.wait_for(task, 10.0)
