"""A run over many leaders: real store, claims and timeline around the state machine, and ranks that obey the test.

Time is the saga's own. A leader ends with a word (it leaves, or the run ends) or without one (it is killed).
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from windlass.api.contract import Incarnation, Orders, RankEvent, Verdict
from windlass.api.meta import Phase
from windlass.api.status import RecoveryRecord
from windlass_workloads.agent import events as ev
from windlass_workloads.agent import timeline
from windlass_workloads.agent.claims import Claims
from windlass_workloads.agent.course import Mode
from windlass_workloads.agent.gang import Gang
from windlass_workloads.agent.identity import Identity, Limits
from windlass_workloads.agent.memoir import Memoir
from windlass_workloads.agent.messages import Exited, Hello, Idle, Leaving, Said, Start, Stop
from windlass_workloads.checkpoint import incarnations, ledger
from windlass_workloads.checkpoint import manifest as manifests
from windlass_workloads.checkpoint.store import RunStore, checkpoint_name
from workloads.agent.support import config
from workloads.checkpoint.support import manifest_of


class Saga:
    """One run of two pods with one rank each: leaders come and go, the follower stays."""

    def __init__(self, root: Path, **changes: Any) -> None:
        self.store = RunStore(root)
        self.config = config(root, nodes=2, ranks=1, **changes)
        self.back_off = bool(changes.get("back_off", 0))
        self.now = 1000.0
        self.began = self.now
        self.ticket = 0
        self.step = 0
        self.leaders = 0
        self.ended: Verdict | None = None
        self.gang: Gang
        self.memoir: Memoir | None = None
        self.running = 0
        """Incarnation of the leader's rank; 0 when there is none."""
        self.second = 0
        """The same of the follower's."""
        self.saving = False

    # --- leaders ---------------------------------------------------------------------------------

    def lead(self, attempt: int = 1) -> Saga:
        """A pod with a higher ticket leads from what the store says."""
        assert self.memoir is None, "one leader at a time"
        self.ticket, self.leaders, self.ended = self.ticket + 1, self.leaders + 1, None
        self.now += 3.0
        me = Identity(
            pod=f"toy-0-{self.ticket}",
            pod_uid=f"pod-0-{self.ticket}",
            pod_ip="10.0.0.1",
            node="node-0",
            index=0,
            ticket=self.ticket,
            attempt=attempt,
        )
        settings = self.config.model_copy(update={"attempt": attempt})
        self.store.probe()
        self.claims = Claims(store=self.store, config=settings, me=me)
        newest = incarnations.newest(self.store)
        self.gang, self.memoir = Gang(settings, Limits()), Memoir(self.store)
        self.memoir.read(newest)
        step = max((row.step for row in self.memoir.ledger), default=0)
        self.feed(ev.Opened(newest=newest, ledger_step=step, memory=self.memoir.past.memory))
        self.hello = hello_of(me, index=0, ticket=self.ticket)
        self.other = hello_of(me, index=1, ticket=1)
        if self.ended is None:
            self.feed(ev.Joined(self.hello))
            self.feed(ev.Joined(self.other))
        else:
            self.close(signed=True)
        return self

    def close(self, *, signed: bool) -> None:
        """The leader is gone; `signed` if it came to leave its last sign."""
        memoir, self.memoir, self.running, self.second, self.saving = self.memoir, None, 0, 0, False
        assert memoir is not None
        if signed and self.gang.record is not None:
            self.sign()
        asyncio.run(memoir.close(10.0))

    def killed(self) -> Saga:
        """The leader's pod is gone without a word, and its rank with it."""
        self.close(signed=False)
        return self

    def sign(self) -> None:
        self.store.write(timeline.ALIVE, timeline.alive(self.now, self.gang.step, self.gang.highest_step))

    # --- the loop --------------------------------------------------------------------------------

    def feed(self, event: ev.Event) -> None:
        self.now += 0.25
        for command in self.gang.handle(event, self.now):
            self.obey(command)

    def obey(self, command: ev.Command) -> None:
        assert self.memoir is not None
        if isinstance(command, ev.Claim):
            result = self.claims.claim(command, self.gang.incarnation)
            if isinstance(result, ev.Claimed):
                self.memoir.lead(result.record)
            self.feed(result)
        elif isinstance(command, ev.Tell):
            self.deliver(command.pod_uid, command.message)
        elif isinstance(command, ev.End):
            assert self.ended is None, "ends once"
            self.ended = command.verdict
        else:
            self.memoir.note(command)

    def deliver(self, uid: str, message: Any) -> None:
        mine = uid == self.hello.pod_uid
        if isinstance(message, Start):
            assert not (self.running if mine else self.second), "started on top of a running rank"
            (self.start_first if mine else self.start_second)(message)
        elif isinstance(message, Stop) and message.mode == "Save":
            self.saving = True
        elif isinstance(message, Stop) and mine and self.running:
            self.end_first(137, signal=9, ordered=True)
        elif isinstance(message, Stop) and not mine and self.second:
            self.end_second(137, signal=9, ordered=True)

    def start_first(self, message: Start) -> None:
        record, (context,) = self.newest, message.contexts
        assert (message.incarnation, context.resume) == (
            record.incarnation,
            record.resume if context.task == "train" else None,
        )
        self.running = message.incarnation
        self.step = next((each.step for each in record.accepted if each.name == record.resume), 0)
        if context.task == "prepare":
            self.say(type="Prepared", name="toy")
            self.end_first(0)
        else:
            self.say(type="Phase", phase=Phase.LOAD)
            self.say(type="Forward", step=self.step + 1)

    def start_second(self, message: Start) -> None:
        self.second = message.incarnation
        event = RankEvent(type="Forward", at=self.now, rank=1, step=self.step + 1)
        self.hear(Said(incarnation=self.second, event=event), self.other)

    def hear(self, message: Any, hello: Hello | None = None) -> None:
        if self.memoir is not None:
            hello = hello or self.hello
            self.feed(ev.Heard(hello.index, hello.pod_uid, message))

    def say(self, **fields: Any) -> None:
        self.hear(Said(incarnation=self.running, event=RankEvent(at=self.now, rank=0, **fields)))

    def end_first(self, code: int, **fields: Any) -> None:
        incarnation, self.running = self.running, 0
        self.hear(Exited(incarnation=incarnation, rank=0, code=code, at=self.now, **fields))
        self.hear(Idle(incarnation=incarnation))

    def end_second(self, code: int, **fields: Any) -> None:
        incarnation, self.second = self.second, 0
        self.hear(Exited(incarnation=incarnation, rank=1, code=code, at=self.now, **fields), self.other)
        self.hear(Idle(incarnation=incarnation), self.other)

    # --- what ranks and the world do -----------------------------------------------------------------

    @property
    def newest(self) -> Incarnation:
        found = incarnations.newest(self.store)
        assert found is not None
        return found

    @property
    def trains(self) -> bool:
        return bool(self.running) and self.gang.mode is Mode.RUNNING

    def exit(self, code: int, *, signal: int | None = None, tail: str = "") -> None:
        """The leader's rank ends; one that ends well takes the other with it."""
        if code == 0 and self.second:
            self.end_second(0)
        self.end_first(code, signal=signal, tail=[tail] if tail else [])

    def work(self, steps: int) -> None:
        for _ in range(steps):
            self.step += 1
            self.now += 1.0
            self.say(type="Step", step=self.step)

    def commit(self) -> str:
        """A checkpoint of this step is durable; nobody has been told yet."""
        name = checkpoint_name(self.step, self.running)
        if not self.store.exists(name):
            (self.store.make(name) / "state.bin").write_bytes(b"state of %d" % self.step)
            manifest = manifest_of(self.store, self.step, self.running, run_uid=self.config.run.uid)
            manifests.commit(self.store, name, manifest)
        return name

    def save(self) -> None:
        name = self.commit()
        record = ledger.record_of(manifests.read(self.store, name))
        self.say(type="Checkpoint", step=self.step, checkpoint=record, stall_seconds=0.01)

    def leave(self, *, whole: bool = False) -> None:
        """The pod (or the run) is told to go; its rank saves and ends."""
        if whole:
            self.feed(ev.Ordered(Orders(action="SaveAndExit")))
        else:
            self.hear(Leaving(at=self.now))
        if self.running and self.saving:
            if self.step > 0:
                self.save()
            self.say(type="Saved", step=self.step)
            self.exit(0)
        assert self.ended is not None
        self.close(signed=True)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.feed(ev.Tick())

    def finish(self) -> None:
        self.say(type="Done", step=self.step)
        self.exit(0)
        assert self.ended is not None and self.ended.result == "Succeeded"
        self.close(signed=True)

    # --- what is to be true ----------------------------------------------------------------------

    @property
    def rows(self) -> list[RecoveryRecord]:
        return list(self.past.memory.recoveries)

    @property
    def past(self) -> timeline.Past:
        lines = self.store.read_lines("timeline.jsonl")
        return timeline.read_past(lines, self.store.read(timeline.ALIVE))

    def history(self) -> list[Incarnation]:
        found = []
        while (record := incarnations.read(self.store, len(found) + 1)) is not None:
            found.append(record)
        return found

    def check(self) -> None:
        records = self.history()
        tickets = [record.ticket for record in records]
        assert tickets == sorted(tickets), "nobody with a lower ticket leads again"
        assert all(record.cause is None for record in records[:1])
        for record in records:
            assert record.resume is None or record.resume in {each.name for each in record.accepted}
        rows = self.rows
        numbers = [row.incarnation for row in rows]
        assert numbers == sorted(set(numbers)), "one row for an incarnation"
        assert set(numbers) <= {record.incarnation for record in records}
        for row in rows:
            record = records[row.incarnation - 1]
            resumed = next((each.step for each in record.accepted if each.name == record.resume), 0)
            assert row.resumed_step == resumed <= row.from_step
            assert row.lost_steps == row.from_step - resumed
            parts = row.seconds.model_dump()
            total = parts.pop("total")
            assert min(parts.values()) >= 0
            # The pause before the next try is told in the run's own account.
            assert sum(parts.values()) <= total + 0.01
            assert self.back_off or abs(sum(parts.values()) - total) < 0.01
        totals = self.past.totals.at(self.now)
        if totals is not None:
            parts = totals.model_dump(exclude={"started_at", "until"})
            wall = (totals.until - totals.started_at).total_seconds()
            assert abs(sum(parts.values()) - wall) < 0.1


def hello_of(me: Identity, *, index: int, ticket: int) -> Hello:
    return Hello(
        pod=f"toy-{index}-{ticket}",
        pod_uid=f"pod-{index}-{ticket}",
        pod_ip="10.0.0.1",
        node=f"node-{index}",
        index=index,
        ticket=ticket,
        attempt=me.attempt,
        ready=True,
    )
