"""A perfect world around the gang's state machine: it does what commands say, and notices what must never be."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from windlass.api.contract import AcceptedCheckpoint, BudgetUse, Incarnation, RankEvent
from windlass.api.meta import Phase
from windlass.api.status import CheckpointRecord
from windlass_workloads.agent import events as ev
from windlass_workloads.agent.course import Mode
from windlass_workloads.agent.gang import Gang
from windlass_workloads.agent.identity import Limits
from windlass_workloads.agent.messages import Exited, Finish, Hello, Idle, Said, Start, Stop
from windlass_workloads.agent.numeric import way_of
from workloads.agent.support import config


@dataclass
class World:
    """A gang, and what a perfect world would do with its commands: pods, ranks, a store, a clock."""

    nodes: int = 2
    ranks: int = 1
    changes: dict[str, Any] = field(default_factory=dict)
    memory_group: bool = False
    before: int = 0
    """Incarnations that earlier leaders made."""

    def __post_init__(self) -> None:
        self.config = config(Path("/nowhere"), nodes=self.nodes, ranks=self.ranks, **self.changes)
        self.gang = Gang(self.config, Limits(), memory_group=self.memory_group)
        self.now = 1000.0
        self.ticket = 0
        self.pods: dict[int, Hello] = {}
        self.running: dict[str, dict[int, int]] = {}
        """Ranks that run in each pod (by UID), with their incarnation."""
        self.busy: dict[str, int] = {}
        self.saving: set[str] = set()
        self.records: list[Incarnation] = []
        self.checkpoints: list[AcceptedCheckpoint] = []
        self.steps: dict[int, int] = {}
        self.ended: ev.End | None = None
        self.finished: dict[str, Finish] = {}
        self.history: list[ev.Command] = []
        self.tasks: dict[str, str] = {}
        self.deaf: set[str] = set()
        """Pods that orders to stop have not reached yet."""
        self.claims_wait = False
        """Whether claims stay unanswered: the store is slow."""

    @property
    def newest(self) -> int:
        return self.before + len(self.records)

    # --- what the world does -------------------------------------------------------------------

    def feed(self, event: ev.Event) -> list[ev.Command]:
        self.now += 0.01
        commands = self.gang.handle(event, self.now)
        for command in commands:
            self.history.append(command)
            self.obey(command)
        return commands

    def obey(self, command: ev.Command) -> None:
        if isinstance(command, ev.Claim):
            assert self.ended is None
            if self.claims_wait:
                return
            known = sorted(self.checkpoints, key=lambda each: (each.step, each.incarnation), reverse=True)
            last = self.records[-1] if self.records else None
            way, cause = way_of(command.cause, tuple(known), last, self.config), command.cause
            if cause is not None and way.skipped is not None:
                cause = cause.model_copy(update={"skipped": way.skipped})
            self.checkpoints = list(way.accepted)
            record = Incarnation(
                incarnation=self.newest + 1,
                attempt=1,
                ticket=1,
                owner_pod_uid="pod-0-1",
                owner_pod="toy-0-1",
                created_at=datetime(2026, 1, 1, tzinfo=UTC),
                accepted=list(self.checkpoints),
                resume=way.accepted[0].name if way.accepted else None,
                prepared=command.prepared,
                budgets=command.budgets,
                cause=cause,
                skipped_windows=list(way.windows),
            )
            self.records.append(record)
            self.feed(ev.Claimed(record))
        elif isinstance(command, ev.Tell):
            self.deliver(command)
        elif isinstance(command, ev.End):
            assert self.ended is None, "two ends"
            self.ended = command

    def deliver(self, command: ev.Tell) -> None:
        uid, message = command.pod_uid, command.message
        if isinstance(message, Start):
            everything = [inc for ranks in self.running.values() for inc in ranks.values()]
            assert all(inc == message.incarnation for inc in everything), "ranks of two incarnations at once"
            assert not self.running.get(uid), "started on top of running ranks"
            assert message.incarnation == self.newest, "started an old incarnation"
            self.running[uid] = {context.rank: message.incarnation for context in message.contexts}
            self.busy[uid] = message.incarnation
            self.tasks[uid] = message.contexts[0].task
            resumed = next((c.step for c in self.checkpoints if c.name == self.records[-1].resume), 0)
            for context in message.contexts:
                self.steps[context.rank] = resumed
        elif isinstance(message, Stop) and message.mode == "Save":
            self.saving.add(uid)
        elif isinstance(message, Stop) and uid not in self.deaf:
            for rank in list(self.running.get(uid, {})):
                self.exit(uid, rank, code=137, signal=9, ordered=True)
        elif isinstance(message, Finish):
            self.finished[uid] = message

    def join(self, index: int, *, ready: bool = True) -> None:
        self.ticket += 1
        hello = Hello(
            pod=f"toy-{index}-{self.ticket}",
            pod_uid=f"pod-{index}-{self.ticket}",
            pod_ip="10.0.0.1",
            node=f"node-{index}",
            index=index,
            ticket=self.ticket,
            attempt=1,
            ready=ready,
        )
        self.pods[index] = hello
        self.feed(ev.Joined(hello))

    def hear(self, uid: str, message: Any) -> list[ev.Command]:
        index = int(uid.split("-")[1])
        return self.feed(ev.Heard(index, uid, message))

    def exit(
        self,
        uid: str,
        rank: int,
        *,
        code: int,
        signal: int | None = None,
        ordered: bool = False,
        ahead: float = 0.0,
    ) -> None:
        """A rank ends; the clock of its pod is so many seconds ahead."""
        incarnation = self.running[uid].pop(rank)
        self.saving.discard(uid)
        self.hear(
            uid,
            Exited(
                incarnation=incarnation,
                rank=rank,
                code=code,
                signal=signal,
                ordered=ordered,
                at=self.now + ahead,
            ),
        )
        if not self.running[uid] and self.busy.get(uid) == incarnation:
            self.busy[uid] = 0
            self.hear(uid, Idle(incarnation=incarnation))

    def lose(self, index: int) -> None:
        hello = self.pods.pop(index)
        self.running.pop(hello.pod_uid, None)
        self.busy.pop(hello.pod_uid, None)
        self.feed(ev.Gone(index, hello.pod_uid))

    def say(self, uid: str, rank: int, **fields: Any) -> None:
        incarnation = self.running[uid][rank]
        self.hear(uid, Said(incarnation=incarnation, event=RankEvent(at=self.now, rank=rank, **fields)))

    def step(self, uid: str, rank: int) -> None:
        self.steps[rank] += 1
        self.say(uid, rank, type="Step", step=self.steps[rank])

    def checkpoint(self, uid: str, rank: int) -> None:
        incarnation, step = self.running[uid][rank], self.steps[rank]
        name = f"step-{step:08d}.i{incarnation}"
        if any(each.name == name for each in self.checkpoints):
            return
        self.checkpoints.append(AcceptedCheckpoint(name=name, step=step, incarnation=incarnation, digest="d"))
        record = CheckpointRecord(step=step, incarnation=incarnation, name=name, digest="d")
        self.say(uid, rank, type="Checkpoint", step=step, checkpoint=record, stall_seconds=0.1)

    def prepare(self) -> None:
        uid = self.pods[0].pod_uid
        self.say(uid, 0, type="Prepared", name="toy")
        self.exit(uid, 0, code=0)

    def open(self, **memory: Any) -> None:
        self.feed(ev.Opened(newest=None, ledger_step=0, memory=ev.Memory(**memory)))

    def follow(
        self, *, steps: tuple[int, ...] = (), left: str = "", ledger: int | None = None, **memory: Any
    ) -> None:
        """Opens behind an earlier leader whose newest incarnation, `before`, has checkpoints of these steps."""
        number = self.before
        self.checkpoints = [
            AcceptedCheckpoint(name=f"step-{step:08d}.i{number}", step=step, incarnation=number, digest="d")
            for step in steps
        ]
        budgets = memory.pop("budgets", BudgetUse())
        newest = Incarnation(
            incarnation=number,
            attempt=memory.pop("attempt", 1),
            ticket=1,
            owner_pod_uid="earlier",
            owner_pod="toy-0-0",
            created_at=datetime(2026, 1, 1, tzinfo=UTC),
            budgets=budgets,
        )
        known = {"last_at": self.now - 5.0, "prepared": "toy", **memory}
        ledger_step = max(steps, default=0) if ledger is None else ledger
        self.feed(ev.Opened(newest=newest, ledger_step=ledger_step, memory=ev.Memory(left=left, **known)))

    def begin_steps(self) -> None:
        """All ranks that run enter the forward pass of their first step."""
        for uid, ranks in self.running.items():
            for rank in ranks:
                for phase in (Phase.LOAD, Phase.TRAIN):
                    self.say(uid, rank, type="Phase", phase=phase)
                self.say(uid, rank, type="Forward", step=self.steps[rank] + 1)

    def train(self) -> World:
        """Everything up to running ranks that have begun their first step."""
        self.open()
        for index in range(self.nodes):
            self.join(index)
        self.prepare()
        self.begin_steps()
        assert self.gang.mode is Mode.RUNNING
        return self

    def commands(self, kind: type[Any]) -> list[Any]:
        return [command for command in self.history if isinstance(command, kind)]

    def told(self, uid: str) -> list[Any]:
        return [command.message for command in self.commands(ev.Tell) if command.pod_uid == uid]

    @property
    def states(self) -> list[str]:
        return [str(command.state) for command in self.commands(ev.Mark)]

    def uid(self, index: int) -> str:
        return self.pods[index].pod_uid

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.feed(ev.Tick())


def finish_save(world: World, leaving: str) -> None:
    """The leader's save ends well and the ranks of both end after it."""
    world.checkpoint(world.uid(0), 0)
    world.say(world.uid(0), 0, type="Saved", step=3)
    world.exit(world.uid(0), 0, code=0)
    world.exit(leaving, 1, code=0)
