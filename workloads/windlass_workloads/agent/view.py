"""The leader's picture of the run for reports: progress, ledger, plan, tracking, output.

Fed with every event of a rank; read by the reporter. Must never be needed by a decision: those are
`gang`'s.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from windlass.api.contract import Incarnation, MemberReport, RankEvent, Report, RunConfig
from windlass.api.meta import Phase
from windlass.api.status import (
    CheckpointRecord,
    Output,
    Plan,
    Progress,
    ResumePoint,
    TrackingStatus,
)
from windlass_workloads.agent.course import Mode
from windlass_workloads.agent.gang import Gang
from windlass_workloads.agent.grace import grace_warning
from windlass_workloads.agent.identity import Identity
from windlass_workloads.agent.pace import Pace
from windlass_workloads.agent.timeline import Totals, moment

LEDGER_ROWS = 20
RECOVERY_ROWS = 10
SMOOTHING = 0.2


def shown(value: float | None) -> float | None:
    """Five significant digits: people read these in a column, and the exact ones are in MLflow."""
    return None if value is None else float(f"{value:.5g}")


def outlook(eta: float | None, band: tuple[float, float] | None) -> dict[str, float | None]:
    """Progress about what is left. The band holds the expectation, which follows the last steps more closely."""
    if eta is None or band is None:
        return {"eta_seconds": shown(eta), "eta_low_seconds": None, "eta_high_seconds": None}
    low, high = min(band[0], eta), max(band[1], eta)
    return {"eta_seconds": shown(eta), "eta_low_seconds": shown(low), "eta_high_seconds": shown(high)}


@dataclass(slots=True)
class View:
    """What ranks have said so far that a report tells."""

    progress: Progress = field(default_factory=Progress)
    plan: Plan | None = None
    checkpoints: list[CheckpointRecord] = field(default_factory=list)
    phase: Phase | None = None
    save_error: str | None = None
    loss_spike: str | None = None
    tracking: TrackingStatus | None = None
    tracking_error: str | None = None
    output: Output | None = None
    grace_seconds: int | None = None
    """What a pod has to save when it is told to stop; not judged where it is not given."""
    _step_seconds: float | None = None
    _pace: Pace = field(default_factory=Pace)
    _is_grace_judged: bool = False

    def hear(self, event: RankEvent) -> None:
        """Takes in what a rank says; most of it counts from rank 0 only."""
        if event.type == "Plan" and event.plan is not None:
            self._merge_plan(event.plan)
        elif event.type == "SaveFailed":
            self.save_error = event.message
        elif event.rank == 0:
            self._hear_first(event)

    def restarted(self, record: Incarnation) -> None:
        """A new incarnation begins: at the step that it resumes from, with the checkpoints that it accepts.

        Progress within it never goes back, and the ledger lists nothing that nobody may resume from.
        """
        self._step_seconds = None
        self._pace = Pace()
        self.phase = self.loss_spike = None
        accepted = {each.name for each in record.accepted}
        self.checkpoints = [row for row in self.checkpoints if row.name in accepted]
        step = resume_point(record).step
        self.progress = self.progress.model_copy(update={"step": step, **outlook(None, None)})

    def _hear_first(self, event: RankEvent) -> None:
        if event.type == "Step":
            self._step(event)
        elif event.type == "Phase":
            self.phase = event.phase
        elif event.type == "Validation":
            self.progress = self.progress.model_copy(update={"validation_loss": shown(event.loss)})
        elif event.type == "Checkpoint" and event.checkpoint is not None:
            rest = [row for row in self.checkpoints if row.name != event.checkpoint.name]
            self.checkpoints = [event.checkpoint, *rest][:LEDGER_ROWS]
            self.save_error = None
            self._judge_grace(event)
        elif event.type == "LossSpike":
            self.loss_spike = event.message
        elif event.type == "Tracking":
            self.tracking = event.tracking or self.tracking
            self.tracking_error = event.message
        elif event.type == "Output":
            self.output = event.output

    def _judge_grace(self, event: RankEvent) -> None:
        """Warns once, by the first save that shows it."""
        if self.grace_seconds is None or self._is_grace_judged:
            return
        stall, write = event.stall_seconds or 0.0, event.write_seconds or 0.0
        # A save that blocks tells its whole time as both.
        saving = write if stall == write else stall + write
        text = grace_warning(self.grace_seconds, step_seconds=self._step_seconds or 0.0, save_seconds=saving)
        if text is not None:
            self._is_grace_judged = True
            self._merge_plan(Plan(warnings=[text]))

    def _step(self, event: RankEvent) -> None:
        step = event.step or 0
        total = self.plan.total_steps if self.plan is not None else None
        if event.seconds is not None:
            before = self._step_seconds if self._step_seconds is not None else event.seconds
            self._step_seconds = before + SMOOTHING * (event.seconds - before)
        self._pace.hear(step, seconds=event.seconds, at=event.at)
        left = max(0, total - step) if total else None
        eta = self._step_seconds * left if left is not None and self._step_seconds else None
        rate = event.tokens / event.seconds if event.tokens is not None and event.seconds else None
        self.progress = self.progress.model_copy(
            update={
                "step": step,
                "total_steps": total,
                "loss": shown(event.loss),
                "tokens": event.tokens_so_far,
                "learning_rate": event.learning_rate,
                "tokens_per_second": shown(rate),
                "mfu": shown(event.mfu),
                **outlook(eta, self._pace.band(left) if left is not None else None),
                "updated_at": moment(event.at),
            }
        )

    def _merge_plan(self, plan: Plan) -> None:
        """Later stages know more, but not everything that earlier ones knew."""
        known = self.plan.model_dump(exclude_none=True) if self.plan is not None else {}
        told = plan.model_dump(exclude_none=True)
        warnings = list(dict.fromkeys([*known.get("warnings", []), *told.get("warnings", [])]))[:32]
        self.plan = Plan.model_validate({**known, **told, "warnings": warnings})
        self.progress = self.progress.model_copy(update={"total_steps": self.plan.total_steps})


def phase_of(gang: Gang, view: View) -> Phase | None:
    """What the gang as a whole is doing; None from a failure to the next claim, and at the end.

    The operator tells by this whether a lost pod belongs to the present incarnation or ends it.
    """
    if gang.mode is Mode.PREPARING and gang.life is not None:
        return Phase.PREPARE
    if gang.mode is Mode.RUNNING:
        return view.phase or (Phase.TRAIN if gang.is_silent else Phase.RENDEZVOUS)
    if gang.mode is Mode.SAVING:
        return Phase.SAVE
    forming = gang.mode in (Mode.PREPARING, Mode.GATHERING) or gang.record is None
    return Phase.IMPORTS if forming and gang.mode is not Mode.ENDED else None


def build_report(
    config: RunConfig, me: Identity, gang: Gang, view: View, *, totals: Totals, sequence: int
) -> Report:
    """The whole state of the run as this leader sees it."""
    now = time.time()
    phase = phase_of(gang, view)
    return Report(
        run=config.run,
        pod=me.pod,
        pod_uid=me.pod_uid,
        attempt=config.attempt,
        ticket=me.ticket,
        sequence=sequence,
        sent_at=moment(now),
        incarnation=gang.incarnation,
        phase=phase,
        progress=view.progress.model_copy(update={"phase": phase}),
        plan=view.plan,
        checkpoints=view.checkpoints[: min(LEDGER_ROWS, config.spec.checkpoint.keep_last)],
        resume=resume_point(gang.record),
        recoveries=list(gang.recoveries[-RECOVERY_ROWS:]),
        restarts=len(gang.recoveries),
        lost_steps=sum(row.lost_steps for row in gang.recoveries),
        failure=gang.last_failure,
        timeline=totals.at(now),
        members=[
            MemberReport(
                index=member.hello.index,
                pod=member.hello.pod,
                pod_uid=member.hello.pod_uid,
                ready=member.ready,
            )
            for member in gang.roster
        ],
        nodes=len(gang.life.crew) if gang.life is not None and gang.life.task == "train" else None,
        wanted="RecreateGang" if gang.wants_gang else "Nothing",
        save_error=view.save_error,
        unsaved=gang.unsaved_notice,
        stall=gang.stall_notice,
        straggler=gang.straggler_notice,
        loss_spike=view.loss_spike,
        tracking=view.tracking,
        tracking_error=view.tracking_error,
        output=view.output,
        verdict=gang.verdict,
    )


def resume_point(record: Incarnation | None) -> ResumePoint:
    """The checkpoint that an incarnation resumes from; empty when it begins at the beginning."""
    if record is None or record.resume is None:
        return ResumePoint()
    for each in record.accepted:
        if each.name == record.resume:
            return ResumePoint(step=each.step, name=each.name, incarnation=each.incarnation)
    return ResumePoint(name=record.resume)
