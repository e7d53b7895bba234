"""The gang's course: its state, and what follows when an incarnation begins or ends.

Pure; the base of `gang`, which turns events into calls of these. Commands are gathered in `_out`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from windlass.api.contract import (
    BudgetUse,
    Incarnation,
    IncarnationCause,
    Rollback,
    RunConfig,
    Suspicion,
    Verdict,
)
from windlass.api.meta import FailureClass, Reason, Rung
from windlass.api.status import FailedRank, Failure, RecoveryRecord
from windlass.core.failure.budget import Charge, Place, charge
from windlass.core.failure.classify import Judgement, classify
from windlass.core.failure.evidence import End
from windlass.core.failure.nodes import suspicion_of
from windlass.core.failure.numeric import rollback_of
from windlass_workloads.agent import events as ev
from windlass_workloads.agent.clock import RankTimes, RecoveryClock
from windlass_workloads.agent.elastic import Elastic
from windlass_workloads.agent.events import State
from windlass_workloads.agent.failures import gave_up, stopped_by_order
from windlass_workloads.agent.identity import GRACE_RESERVE_SECONDS, Limits
from windlass_workloads.agent.launch import prepare_context, rank_contexts
from windlass_workloads.agent.life import Life
from windlass_workloads.agent.messages import (
    Dump,
    Finish,
    Hello,
    Start,
    Stop,
)
from windlass_workloads.agent.numeric import stop_of
from windlass_workloads.agent.roster import Member, Roster


class Mode(StrEnum):
    """What the gang is at."""

    CLAIMING = "Claiming"
    PREPARING = "Preparing"
    GATHERING = "Gathering"
    RUNNING = "Running"
    SAVING = "Saving"
    STOPPING = "Stopping"
    BACKING_OFF = "BackingOff"
    ENDED = "Ended"


OPERATOR_SECONDS = 30.0
"""A pod is only given up for a new one while the operator was heard of so recently."""

WORKING = (Mode.PREPARING, Mode.RUNNING, Mode.SAVING)


class Course:
    """State of one leader; attributes are for reading."""

    def __init__(self, config: RunConfig, limits: Limits, *, memory_group: bool = False) -> None:
        self.config = config
        self.limits = limits
        self.memory_group = memory_group
        resources = config.spec.resources
        self.recovery = config.spec.recovery
        self.roster = Roster(resources.nodes)
        self.elastic = Elastic.of(config)
        self.mode = Mode.CLAIMING
        self.record: Incarnation | None = None
        self.life: Life | None = None
        self.clock: RecoveryClock | None = None
        self.budgets = BudgetUse()
        self.ledger_step = 0
        self.highest_step = 0
        self.prepared: str | None = None
        self.recoveries: tuple[RecoveryRecord, ...] = ()
        self.last_failure: Failure | None = None
        self.verdict: Verdict | None = None
        self.ended_whole = False
        self.wants_gang = False
        self.crew_size = 0
        """Pods that this leader's last ranks trained in; 0 before the first."""
        self.state: State | None = None
        self._reason_to_stop: Literal["Fault", "Leave", "Order"] = "Fault"
        self._order_reason = ""
        self._whole_leaves = False
        self._opened_once = False
        self._deadline: float | None = None
        self._bad_loads: dict[str, int] = {}
        self._cause: IncarnationCause | None = None
        self._returning: tuple[str, ...] = ()
        self._next: ev.Claim | ev.Open | None = None
        self._operator_at = 0.0
        self._now = 0.0
        self._out: list[ev.Command] = []

    @property
    def incarnation(self) -> int:
        """Number of the incarnation that this leader owns; 0 before the first claim."""
        return self.record.incarnation if self.record is not None else 0

    @property
    def step(self) -> int:
        """The step that training is at."""
        return self.life.step if self.life is not None and self.life.task == "train" else self.ledger_step

    def _advance(self) -> None:
        """Starts what can be started now."""
        if self.mode is Mode.PREPARING and self.life is None:
            leader = self.roster.get(0)
            if leader is not None and leader.ready and not leader.busy:
                self._launch([leader], "prepare")
        elif self.mode is Mode.GATHERING and (crew := self.elastic.crew(self.roster, self._now)):
            self._launch_crew(crew)

    def _launch_crew(self, crew: list[Member]) -> None:
        """Starts training on these pods; fewer than before make it a Shrink."""
        if self.clock is not None and len(crew) < (self.crew_size or self.elastic.nodes):
            self.clock.moved_to(Rung.SHRINK)
        self.crew_size, self._returning = len(crew), ()
        self.elastic.led()
        self._launch(crew, "train")
        self.mode = Mode.RUNNING

    def _launch(self, members: list[Member], task: Literal["prepare", "train"]) -> None:
        record = self.record
        if record is None:
            return
        crew = tuple(member.hello.index for member in members)
        by_index = {0: prepare_context(self.config, record)}
        if task == "train":
            by_index = rank_contexts(
                self.config, record, crew, prepared=self.prepared, highest_step=self.highest_step
            )
        resumed = self._resumed_step(record)
        self.life = Life(
            incarnation=record.incarnation,
            task=task,
            world=sum(len(by_index[index]) for index in crew),
            crew=crew,
            resumed_step=resumed,
            step=resumed,
            started_at=self._now,
        )
        self._deadline, self._reason_to_stop = None, "Fault"
        if task == "train" and self.clock is not None:
            self.clock.launched_at = self._now
        if self.clock is None:
            self._mark(State.LOADING if task == "prepare" else State.STARTING)
        for member in members:
            member.busy = record.incarnation
            self._tell(member, Start(incarnation=record.incarnation, contexts=by_index[member.hello.index]))

    def _resumed_step(self, record: Incarnation) -> int:
        return next((each.step for each in record.accepted if each.name == record.resume), 0)

    def _claim(self, cause: IncarnationCause | None, back_off_seconds: float = 0.0) -> None:
        bad = tuple(name for name, count in self._bad_loads.items() if count >= 2)
        claim = ev.Claim(cause=cause, budgets=self.budgets, prepared=self.prepared, poisoned=bad)
        self._cause = cause
        if back_off_seconds > 0:
            charged = ev.Charged(incarnation=self.incarnation, budgets=self.budgets)
            self._out.append(ev.Remember((("charged", charged.to_wire()),)))
            self._mark(State.BACK_OFF)
        self._ask(claim, back_off_seconds)

    def _ask(self, command: ev.Claim | ev.Open, back_off_seconds: float) -> None:
        """Something that the store answers, now or after a pause."""
        if back_off_seconds > 0:
            self.mode, self._next = Mode.BACKING_OFF, command
            self._deadline = self._now + back_off_seconds
        else:
            self.mode, self._next, self._deadline = Mode.CLAIMING, None, None
            self._out.append(command)

    def _ask_again(self, failure: Failure) -> None:
        """The store failed, which may pass: its budget is charged, and it is asked again after a pause."""
        leader = self.roster.get(0)
        pod, node = (leader.hello.pod, leader.hello.node or None) if leader is not None else (None, None)
        judgement = classify([End(at=self._now, pod=pod, node=node, failure=failure)])
        cost = self._charge(judgement, self.step)
        if cost is None:
            return
        if self.clock is not None:
            self.clock.back_off_seconds += cost.delay_seconds
        if self._opened_once:
            self._claim(self._cause, cost.delay_seconds)
        else:
            self._ask(ev.Open(), cost.delay_seconds)

    def _save(self, at: float) -> None:
        """Asks all ranks to save and exit; the limit is the pod's grace period."""
        self._start_clock(at, mark=False)
        self.mode = Mode.SAVING
        grace = max(1.0, self.recovery.termination_grace_period_seconds - GRACE_RESERVE_SECONDS)
        # A pod that was asked to leave before its grace began, or will be, is one whose clock differs from ours.
        began = at if 0 <= self._now - at < grace else self._now
        self._deadline = began + grace
        for member in self.roster.busy:
            self._tell(member, Stop(incarnation=member.busy, mode="Save"))

    def _stop(self, reason: Literal["Fault", "Leave", "Order"], fault_at: float) -> None:
        """Kills all ranks; what happens then is decided when none is left."""
        if self.mode is Mode.STOPPING:
            return
        self._start_clock(fault_at)
        if self._reason_to_stop != "Order":
            self._reason_to_stop = reason
        self.mode, self._deadline = Mode.STOPPING, self._now + self.limits.stop_seconds
        for member in self.roster.busy:
            self._tell(member, Stop(incarnation=member.busy, mode="Kill"))

    def _start_clock(self, fault_at: float, *, mark: bool = True) -> None:
        """A recovery begins; one that never reached its first step is closed as it is."""
        if self.mode in (Mode.SAVING, Mode.STOPPING):
            return
        self._recovered(self.life, self._now)
        cause = IncarnationCause(rung=Rung.IN_PLACE, failure_class=FailureClass.CRASH, from_step=self.step)
        # The stamp is another node's, whose clock may be ahead: nothing is known before it happens.
        self.clock = RecoveryClock(cause=cause, fault_at=min(fault_at, self._now), known_at=self._now)
        if mark:
            self._mark(State.RECOVERING)

    def _recovered(self, life: Life | None, at: float) -> None:
        """Closes the row of the recovery that is under way, if any."""
        if self.clock is None or self.record is None:
            return
        row = self.clock.record(
            incarnation=self.incarnation,
            resumed_step=self._resumed_step(self.record),
            times=life.times if life is not None else RankTimes(),
            ended_at=at,
        )
        self.clock = None
        self.recoveries = (*self.recoveries, row)
        self._out.append(ev.Remember((("recovery", row.to_wire()),)))

    def _conclude_when_idle(self) -> None:
        if self.roster.busy or self.mode is Mode.ENDED:
            return
        if self.life is not None and self.mode in (*WORKING, Mode.STOPPING):
            self._conclude(self.life)
        elif self._reason_to_stop == "Order":
            self._fail(stopped_by_order(self._order_reason))
        elif self.roster.leaving:
            self._let_go()

    def _conclude(self, life: Life) -> None:
        """No rank is left: what now?"""
        if self.clock is not None:
            self.clock.stopped_at = self._now
        if life.succeeded:
            self._succeed(life)
        elif self._reason_to_stop == "Order":
            self._fail(stopped_by_order(self._order_reason))
        elif self.mode is Mode.SAVING or self._reason_to_stop == "Leave" or self._someone_leaves():
            self._let_go()
        else:
            self._start_clock(self._now)
            self._decide(life.ends(self._places()))

    def _succeed(self, life: Life) -> None:
        if life.task == "train":
            done = life.done_step if life.done_step is not None else life.step
            self._end(Verdict(result="Succeeded", step=done, incarnation=life.incarnation))
            return
        self.prepared, self.life, self.mode = life.prepared, None, Mode.GATHERING
        self._out.append(ev.Remember((("prepared", life.prepared),)))
        if self._someone_leaves():
            self._let_go()
        else:
            self._advance()

    def _someone_leaves(self) -> bool:
        return self._whole_leaves or bool(self.roster.leaving)

    @property
    def _all_leave(self) -> bool:
        """Whether every pod of several was asked to end. One of one is replaced like any other pod."""
        size = self.crew_size or self.elastic.nodes
        return len(self.roster.leaving) >= size > 1

    def _let_go(self) -> None:
        """Lets leaving pods go; the others wait for their replacements, unless all leave."""
        life, leaving = self.life, self.roster.leaving
        saved = max(self.ledger_step, (life.saved_step or 0) if life is not None else 0)
        verdict = Verdict(
            result="Preempted",
            step=saved,
            lost_steps=max(0, self.step - saved),
            incarnation=self.incarnation,
        )
        whole = self._whole_leaves or self._all_leave
        if whole or any(member.hello.index == 0 for member in leaving):
            self._end(verdict, others=whole)
            return
        gone = leaving[0].hello if leaving else None
        for member in leaving:
            self._tell(member, Finish(verdict=verdict))
            self.roster.remove(member)
        if self.mode not in (Mode.SAVING, Mode.STOPPING):
            self._advance()
            return
        self.ledger_step = saved
        cause = IncarnationCause(
            rung=Rung.RECREATE_POD,
            failure_class=FailureClass.PREEMPTED,
            first_failed=FailedRank(pod=gone.pod, node=gone.node) if gone is not None else FailedRank(),
            evidence=[f"back in the gang: {', '.join(self._returning)}"] if self._returning else [],
            from_step=self.step,
        )
        self._mark(State.RECOVERING)
        self._recover_by(cause)

    def _decide(self, ends: list[End]) -> None:
        """Charges the failure to its budget and goes on, or gives up."""
        judgement = classify(ends)
        first = judgement.first_failed
        if judgement.reason == Reason.CHECKPOINT_UNUSABLE and self.record and self.record.resume:
            name = self.record.resume
            self._bad_loads[name] = self._bad_loads.get(name, 0) + 1
        for end in ends:
            if end.rank is not None and end.rank == first.rank and end.log_tail:
                self._out.append(ev.KeepLog(self.incarnation, end.rank, end.log_tail))
        guards = self.config.spec.guards
        stop = stop_of(judgement, guards, step=self.ledger_step, reached=self.step)
        if stop is not None:
            self.last_failure = stop.failure
            self._end(stop.model_copy(update={"incarnation": self.incarnation}))
            return
        cost = self._charge(judgement, self.step)
        if cost is None:
            return
        failed = self.life.failed_step if self.life is not None else None
        rollback = rollback_of(judgement.failure(), guards, cost.use, failed or self.step + 1)
        self.wants_gang = cost.rung is Rung.RECREATE_GANG
        # Nobody else makes new pods: without an operator only a restart in place is left.
        can_replace = self._now - self._operator_at < OPERATOR_SECONDS
        against = suspicion_of(judgement) if cost.rung is Rung.OTHER_NODE else None
        if can_replace and self._gives_up(first.pod, against):
            rung = cost.rung or Rung.RECREATE_POD
            self._hand_over(cause_of(judgement, rung, from_step=self.step, rollback=rollback), against)
            return
        rung = self._make_way(first.pod, cost.rung if can_replace else None, against)
        cause = cause_of(judgement, rung, from_step=self.step, rollback=rollback)
        self._recover_by(cause, cost.delay_seconds)

    def _make_way(self, pod: str | None, wanted: Rung | None, against: Suspicion | None) -> Rung:
        """Lets a pod go where that is wanted; the rung that the recovery then is on."""
        let_go = wanted in (Rung.RECREATE_POD, Rung.OTHER_NODE) and self._replace(pod, against)
        replaced = Rung.OTHER_NODE if let_go and against is not None else Rung.RECREATE_POD
        self.elastic.watch(self.roster, self._now)
        awaited = self.roster.missing and self.elastic.waits(self._now)
        return replaced if awaited else Rung.IN_PLACE

    def _gives_up(self, pod: str | None, against: Suspicion | None) -> bool:
        """Whether the leader's own pod has to go: its ranks may not be restarted in it, or its node is bad."""
        leader = self.roster.get(0)
        own = leader is not None and leader.hello.pod == pod
        if own and against is not None:
            return True
        return Rung.IN_PLACE not in self.recovery.ladder and (self.wants_gang or own)

    def _hand_over(self, cause: IncarnationCause, against: Suspicion | None) -> None:
        """Ends this pod, or all, for new ones; the next leader goes on with this fault, which is paid for."""
        charged = ev.Charged(incarnation=self.incarnation, budgets=self.budgets, cause=cause)
        self._out.append(ev.Remember((("charged", charged.to_wire()),)))
        verdict = self._parted().model_copy(update={"suspicion": against})
        self._end(verdict, others=self.wants_gang, left="Pod")

    def _parted(self) -> Verdict:
        """The verdict of a pod that goes without a save: what is verified stays."""
        return Verdict(
            result="Preempted",
            step=self.ledger_step,
            lost_steps=max(0, self.step - self.ledger_step),
            incarnation=self.incarnation,
        )

    def _charge(self, judgement: Judgement, at_step: int) -> Charge | None:
        """Charges a failure; None when it was one too many, which ends the run."""
        self.last_failure = judgement.failure()
        place = Place(
            verified_step=self.ledger_step,
            at_step=at_step,
            seed=self.config.run.uid,
            memory_group=self.memory_group,
        )
        cost = charge(self.budgets, judgement, self.recovery, place)
        self.budgets = cost.use
        if cost.stop is not None:
            self._fail(gave_up(judgement, cost, self._now))
            return None
        return cost

    def _replace(self, pod: str | None, against: Suspicion | None) -> bool:
        """Lets a pod go that keeps failing. Not the leader's: it would take the gang's memory with it."""
        for member in self.roster:
            if member.hello.pod == pod and member.hello.index != 0:
                verdict = Verdict(
                    result="Preempted",
                    step=self.ledger_step,
                    incarnation=self.incarnation,
                    suspicion=against,
                )
                self._tell(member, Finish(verdict=verdict))
                self.roster.remove(member)
                return True
        return False

    def _recover_by(self, cause: IncarnationCause, back_off_seconds: float = 0.0) -> None:
        if self.clock is not None:
            self.clock.cause, self.clock.back_off_seconds = cause, back_off_seconds
        self._claim(cause, back_off_seconds)

    def _fail(self, failure: Failure) -> None:
        self.last_failure = failure
        lost = max(0, self.step - self.ledger_step)
        self._end(
            Verdict(
                result="Failed",
                step=self.ledger_step,
                lost_steps=lost,
                incarnation=self.incarnation,
                failure=failure,
            )
        )

    def _end(
        self, verdict: Verdict, *, others: bool = True, left: Literal["Pod", "Whole"] | None = None
    ) -> None:
        """The leader's end; `others` says whether the whole gang ends with it, `left` what a successor takes it for."""
        if self.clock is not None and self.clock.claimed_at and verdict.result != "Fenced":
            self._recovered(self.life, self._now)
        self.mode, self.verdict, self._deadline = Mode.ENDED, verdict, None
        self.ended_whole = others
        if verdict.result == "Succeeded":
            self._out.append(ev.Remember((("finished", verdict.to_wire()),)))
        if verdict.result != "Fenced":
            self._mark(State.DOWN, left=left or ("Whole" if others else "Pod"))
        for member in self.roster:
            if member.hello.index != 0 and (others or member.leaving_at is not None):
                self._tell(member, Finish(verdict=verdict))
        self._out.append(ev.End(verdict))

    def _places(self) -> dict[int, Hello]:
        per_node = self.config.spec.resources.ranks_per_node
        crew = self.life.crew if self.life is not None else ()
        return {
            crew.index(member.hello.index) * per_node + local: member.hello
            for member in self.roster
            if member.hello.index in crew
            for local in range(per_node)
        }

    def _tell(self, member: Member, message: Start | Stop | Finish | Dump) -> None:
        self._out.append(ev.Tell(member.hello.pod_uid, message))

    def _mark(self, state: State, *, at: float | None = None, left: Literal["", "Pod", "Whole"] = "") -> None:
        if state is not self.state:
            self.state = state
            self._out.append(
                ev.Mark(state, at=self._now if at is None else at, incarnation=self.incarnation, left=left)
            )


def cause_of(
    judgement: Judgement, rung: Rung, *, from_step: int, rollback: Rollback | None = None
) -> IncarnationCause:
    """The cause of the next incarnation, for its file."""
    return IncarnationCause(
        rung=rung,
        failure_class=judgement.failure_class,
        first_failed=judgement.first_failed,
        exit_code=judgement.exit_code,
        signal=judgement.signal,
        evidence=list(judgement.evidence),
        from_step=from_step,
        rollback=rollback,
    )
