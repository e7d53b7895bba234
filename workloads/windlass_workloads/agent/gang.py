"""The gang's state machine: what the leader does about everything that can happen to a run.

Pure: events in, commands out, no clock, no I/O. `leader` feeds it and carries out its commands in
order. Ranks are never started while one of an older incarnation may still run in a member's pod.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from windlass.api.contract import Incarnation, RankEvent, RunConfig, Verdict
from windlass.api.meta import FailureClass, Phase, Rung
from windlass.core.failure.classify import classify
from windlass.core.failure.evidence import End
from windlass_workloads.agent import events as ev
from windlass_workloads.agent.clock import RecoveryClock
from windlass_workloads.agent.commanded import Commanded
from windlass_workloads.agent.course import WORKING, Mode, cause_of
from windlass_workloads.agent.events import State
from windlass_workloads.agent.failures import unclaimable
from windlass_workloads.agent.identity import Limits
from windlass_workloads.agent.life import Life, pod_end
from windlass_workloads.agent.messages import (
    Broken,
    Exited,
    Finish,
    Idle,
    Leaving,
    Ready,
    Said,
    Stacks,
)
from windlass_workloads.agent.roster import Member


class Gang(Commanded):
    """State of one leader. `handle` is the only way in."""

    def __init__(self, config: RunConfig, limits: Limits, *, memory_group: bool = False) -> None:
        super().__init__(config, limits, memory_group=memory_group)
        self._handlers: dict[type[Any], Callable[[Any], None]] = {
            ev.Opened: self._opened,
            ev.Claimed: self._claimed,
            ev.Refused: self._refused,
            ev.Unclaimable: self._unclaimable,
            ev.Joined: self._joined,
            ev.Gone: self._gone,
            ev.Heard: self._heard,
            ev.Ordered: self._ordered,
            ev.TimeUp: self._time_up,
            ev.Tick: self._tick,
        }
        self._messages: dict[type[Any], Callable[[Member, Any], None]] = {
            Ready: self._ready,
            Said: self._said,
            Exited: self._exited,
            Idle: self._idle,
            Leaving: self._leaves,
            Broken: self._broken,
            Stacks: self._stacks,
        }

    def handle(self, event: ev.Event, now: float) -> list[ev.Command]:
        """Takes in one event at Unix time `now` and says what to do, in order."""
        self._now, self._out = now, []
        self.elastic.watch(self.roster, now)
        if self.mode is not Mode.ENDED or isinstance(event, ev.Joined):
            self._handlers[type(event)](event)
        return self._out

    # --- how a leader begins -------------------------------------------------------------------

    def _opened(self, event: ev.Opened) -> None:
        memory, newest, self._opened_once = event.memory, event.newest, True
        # The last sign of life may be older than the last checkpoint, or missing.
        self.ledger_step = event.ledger_step
        self.highest_step = max(event.ledger_step, memory.highest_step)
        self.prepared, self.recoveries = memory.prepared, memory.recoveries
        if memory.finished is not None:
            self._end(memory.finished)
            return
        if newest is not None:
            charged = memory.charged_in(newest.incarnation)
            self.budgets = charged.budgets if charged is not None else newest.budgets
        if newest is None or memory.left == "Whole":
            self._mark(State.STARTING)
            self._claim(None)
        else:
            self._take_over(newest, memory)

    def _take_over(self, newest: Incarnation, memory: ev.Memory) -> None:
        """The last leader is gone, and the run was not meant to stop."""
        self._mark(State.RECOVERING)
        fault_at = memory.last_at if memory.last_at is not None else self._now
        judgement = classify([pod_end(newest.owner_pod, None, fault_at)])
        rung = Rung.RECREATE_GANG if self.config.attempt > newest.attempt else Rung.RECREATE_POD
        step = max(self.ledger_step, memory.step)
        cause = cause_of(judgement, rung, from_step=step)
        charged = memory.charged_in(newest.incarnation)
        if memory.left == "Pod" and charged is not None and charged.cause is not None:
            moved = (charged.cause.rung, rung) == (Rung.OTHER_NODE, Rung.RECREATE_POD)
            kept = Rung.OTHER_NODE if moved else rung
            cause = charged.cause.model_copy(update={"rung": kept, "from_step": step})
        elif memory.left == "Pod":
            cause = cause.model_copy(update={"failure_class": FailureClass.PREEMPTED})
        elif self._charge(judgement, step) is None:
            return
        self.clock = RecoveryClock(cause=cause, fault_at=fault_at, known_at=fault_at, stopped_at=fault_at)
        self._claim(cause)

    def _claimed(self, event: ev.Claimed) -> None:
        self.record = event.record
        self.ledger_step = max((each.step for each in event.record.accepted), default=0)
        if self.clock is not None:
            self.clock.claimed(self._now, self._resumed_step(event.record))
            self.clock.skipped = event.record.cause.skipped if event.record.cause is not None else None
        self.life = None
        prepares = self.prepared is None and not self.runs_command
        self.mode = Mode.PREPARING if prepares else Mode.GATHERING
        self._advance()

    def _refused(self, _: ev.Refused) -> None:
        self._end(Verdict(result="Fenced", step=self.step, incarnation=self.incarnation), others=False)

    def _unclaimable(self, event: ev.Unclaimable) -> None:
        failure = unclaimable(event.message, event.storage)
        if not event.storage:
            self._fail(failure)
        elif self.mode is Mode.CLAIMING:
            self._ask_again(failure)

    # --- members -------------------------------------------------------------------------------

    def _joined(self, event: ev.Joined) -> None:
        hello = event.hello
        fenced = Finish(verdict=Verdict(result="Fenced", incarnation=self.incarnation))
        if self.roster.outdated(hello) or hello.attempt < self.config.attempt:
            self._out.append(ev.Tell(hello.pod_uid, fenced))
            return
        if self.mode is Mode.ENDED:
            # A leader that ended alone has no say over who serves its successor.
            if self.verdict is not None and self.ended_whole:
                self._out.append(ev.Tell(hello.pod_uid, Finish(verdict=self.verdict)))
            return
        older = self.roster.get(hello.index)
        if older is not None:
            replaced = older.hello.pod_uid != hello.pod_uid
            if replaced and older.leaving_at is not None:
                self.roster.hold(hello)
                return
            self._lose(older)
            if replaced:
                self._tell(older, fenced)
        self.roster.add(hello)
        self.elastic.watch(self.roster, self._now)
        self._advance()

    def _gone(self, event: ev.Gone) -> None:
        member = self.roster.find(event.index, event.pod_uid)
        if member is not None:
            self._lose(member)

    def _lose(self, member: Member) -> None:
        waited = self.roster.waits(member)
        self.roster.remove(member)
        if waited:
            return
        if self.clock is not None and member.leaving_at is None:
            self.clock.moved_to(Rung.RECREATE_POD)
        if member.busy and self.life is not None:
            if member.leaving_at is None:
                self.life.lose(member.hello, self._now)
            self._stop("Leave" if self.mode is Mode.SAVING else "Fault", self._now)
            self._conclude_when_idle()

    def _heard(self, event: ev.Heard) -> None:
        member = self.roster.find(event.index, event.pod_uid)
        handler = self._messages.get(type(event.message))
        if member is not None and handler is not None:
            handler(member, event.message)

    def _ready(self, member: Member, message: Ready) -> None:
        member.ready = message.ready
        self.elastic.watch(self.roster, self._now)
        self._advance()

    def _broken(self, member: Member, message: Broken) -> None:
        """The warm parent does not come up; it matters only where ranks are wanted."""
        if self.mode in (Mode.GATHERING, Mode.PREPARING) and self.life is None:
            hello = member.hello
            self._start_clock(message.at)
            tail = tuple(message.tail)
            self._decide(
                [End(at=message.at, pod=hello.pod, node=hello.node, log_tail=tail, before_first_step=True)]
            )

    # --- ranks ---------------------------------------------------------------------------------

    def _said(self, member: Member, message: Said) -> None:
        life = self.life
        if life is None or message.incarnation != life.incarnation:
            return
        self._heed_first_word(life)
        life.hear(message.event)
        event = message.event
        if life.task == "prepare":
            return
        self._follow_progress(event)
        if event.type == "Checkpoint" and event.checkpoint is not None:
            self.ledger_step = max(self.ledger_step, event.checkpoint.step)
            self.wants_gang = False
            if event.stall_seconds and event.rank == 0:
                self._out.append(ev.Stalled(event.stall_seconds))
        if self.mode in (Mode.RUNNING, Mode.SAVING):
            self._follow(life, event)

    def _follow(self, life: Life, event: RankEvent) -> None:
        """Keeps the run's state in step with what ranks say."""
        if event.type == "Phase" and event.phase is not None:
            self._follow_phase(life, event.phase, rank=event.rank)
        elif event.type == "Forward" and life.forward_at is not None:
            self._recovered(life, life.forward_at)
            reworks = life.resumed_step < self.highest_step
            self._mark(State.REWORKED if reworks else State.TRAINING, at=life.forward_at)
        elif event.type == "Step" and event.rank == 0 and life.step >= self.highest_step:
            self.highest_step = life.step
            if self.state is State.REWORKED:
                self._mark(State.TRAINING)

    def _follow_phase(self, life: Life, phase: Phase, *, rank: int) -> None:
        """What time is spent on from here. After the loading rank 0 speaks for all."""
        if phase is Phase.LOAD and self.clock is None and not life.times.forward:
            self._mark(State.LOADING)
        elif rank != 0:
            return
        elif phase is Phase.VALIDATE:
            self._mark(State.VALIDATING)
        elif phase is Phase.TRAIN and self.state is State.VALIDATING:
            self._mark(State.REWORKED if life.step < self.highest_step else State.TRAINING)
        elif phase is Phase.EXPORT:
            if self.mode is Mode.RUNNING:
                # A run that failed in its export has no step left whose beginning could end the recovery.
                self._recovered(life, self._now)
            self._mark(State.FINISHING)

    def _exited(self, member: Member, message: Exited) -> None:
        life = self.life
        if life is None or message.incarnation != life.incarnation or member.busy != life.incarnation:
            return
        life.ended(message)
        self._heed_command(life)
        if message.code != 0 and not message.ordered and self.mode in WORKING:
            self._stop("Leave" if self.mode is Mode.SAVING else "Fault", message.at)
        elif self.mode is Mode.RUNNING and self._deadline is None:
            self._deadline = self._now + self._straggler_seconds

    def _idle(self, member: Member, message: Idle) -> None:
        if member.busy == message.incarnation:
            member.busy = 0
            self._conclude_when_idle()

    # --- ending an incarnation -----------------------------------------------------------------

    def _leaves(self, member: Member, message: Leaving) -> None:
        member.leaving_at = message.at
        if self.roster.waits(member):
            self._tell(member, Finish(verdict=Verdict(result="Preempted", incarnation=self.incarnation)))
            self.roster.remove(member)
            return
        if self.mode is Mode.RUNNING:
            self._save(message.at)
        elif self.mode is Mode.PREPARING and member.busy:
            self._stop("Leave", message.at)
        elif not self.roster.busy or self.mode is Mode.PREPARING:
            self._let_go()

    def _ordered(self, event: ev.Ordered) -> None:
        orders = event.orders
        self._operator_at = self._now
        if orders.action == "Stop" and self._reason_to_stop != "Order":
            self._reason_to_stop, self._order_reason = "Order", orders.reason
            if self.mode in WORKING:
                self._stop("Order", self._now)
            self._conclude_when_idle()
        elif orders.action == "SaveAndExit" and not self._whole_leaves:
            self._whole_leaves = True
            if self.mode is Mode.RUNNING:
                self._save(self._now)
            elif self.mode is Mode.PREPARING:
                self._stop("Leave", self._now)
            if not self.roster.busy:
                self._let_go()

    def _time_up(self, _: ev.TimeUp) -> None:
        self._end(self._parted(), others=self._whole_leaves or self._all_leave)

    def _tick(self, _: ev.Tick) -> None:
        if self.elastic.may_shrink:
            self._breathe()
        self._look()
        self._listen_to_command()
        if self._deadline is None or self._now < self._deadline:
            return
        self._deadline = None
        if self.mode is Mode.BACKING_OFF and self._next is not None:
            if self._opened_once:
                self._mark(State.RECOVERING)
            self._ask(self._next, 0.0)
        elif self.mode is Mode.SAVING:
            self._stop("Leave", self._now)
        elif self.mode is Mode.RUNNING:
            self._stop("Fault", self._now)
        elif self.mode is Mode.STOPPING:
            self._drop_stuck()

    def _breathe(self) -> None:
        """Goes on with those that are left, or takes back who has returned, when it is time for that."""
        life = self.life
        if self.mode is Mode.GATHERING:
            self._advance()
        elif self.mode is Mode.RUNNING and life is not None and self.clock is None and life.times.forward:
            if self.unsaved_notice is not None:
                return  # all that is done would be lost, and by choice
            self._returning = self.elastic.returning(self.roster, life.crew, self._now)
            if self._returning and self._deadline is None:
                self._save(self._now)

    def _drop_stuck(self) -> None:
        """A process that survives SIGKILL hangs in the kernel: only a new pod helps."""
        verdict = Verdict(result="Preempted", step=self.ledger_step, incarnation=self.incarnation)
        for member in self.roster.busy:
            if member.hello.index == 0:
                self._end(verdict, others=False)
                return
            self._tell(member, Finish(verdict=verdict))
            self._lose(member)
