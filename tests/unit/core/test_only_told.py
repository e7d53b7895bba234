"""A status write that only repeats the leader: the shell makes no round after it, so that one must find nothing."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from unit.core.builders import NOW, UID, JobBuilder, a_checkpoint, a_job, a_pod, a_report, claims, shared
from unit.core.worlds import NODES, ROWS, WATCHING
from windlass.api.contract import Report, Timeline
from windlass.api.meta import Phase
from windlass.api.status import JobStatus, Output, Progress, TrackingStatus
from windlass.core.cost import PriceList
from windlass.core.decision import Decision
from windlass.core.observed import Observed
from windlass.core.reconcile import MOVING, TOLD, decide

PRICED = replace(WATCHING, prices=PriceList("EUR", {"cpu": Decimal("0.1"), "memoryGiB": Decimal("0.01")}))
SPECS: list[tuple[str, Any]] = [
    ("activeDeadlineSeconds", 3000),
    ("recovery.ladder", ["InPlace", "RecreatePod", "RecreateGang"]),
    ("recovery.forceDeleteAfterSeconds", 30),
    ("ttlSecondsAfterFinished", 60),
    ("checkpoint.keepLast", 2),
]


class Run:
    """A run whose ranks train, and what is seen of it."""

    def __init__(self, job: JobBuilder, seen: Observed, at: datetime) -> None:
        self.job, self.seen, self.at = job, seen, at

    def decided(self) -> Decision:
        built = self.job.build()
        assert built.spec is not None
        return decide(built, replace(self.seen, objects=shared(built)), self.at, PRICED)

    def write(self, decision: Decision) -> None:
        self.job = self.job.after(decision)

    def rest(self) -> None:
        """Write what there is to write until nothing is."""
        for _ in range(8):
            decision = self.decided()
            if decision.status is None:
                return
            self.write(decision)
        raise AssertionError("the run does not come to rest")


@st.composite
def runs(draw: st.DrawFn) -> Run:
    nodes = draw(st.integers(1, 3))
    job = a_job().with_nodes(nodes)
    for path, value in draw(st.lists(st.sampled_from(SPECS), max_size=2)):
        job = job.with_spec(path, value)
    job = job.on_attempt(1, *range(1, nodes + 1))
    pods = tuple(a_pod(index, index + 1) for index in range(nodes))
    if draw(st.integers(0, 5)) == 0:
        # One that goes: its place is renewed, and the run goes on waiting.
        pods = (*pods[:-1], replace(pods[-1], deletion_timestamp=NOW + timedelta(seconds=300)))
    report = draw(said(a_report(), NOW))
    seen = Observed(
        pods=pods,
        claims=claims(),
        report=report,
        heard_at=NOW,
        listening_since=draw(st.none() | st.just(NOW - timedelta(seconds=400))),
        nodes=draw(st.just(()) | NODES),
        runs_heard=draw(st.sampled_from([0, 1, 60, 1000])),
        busy=draw(st.booleans()),
    )
    return Run(job, seen, NOW)


@st.composite
def said(draw: st.DrawFn, before: Report, at: datetime) -> Report:
    """What the leader says next."""
    step = before.progress.step + draw(st.integers(0, 3))
    progress = Progress(step=step, total_steps=100, loss=draw(st.floats(0, 9)))
    update: dict[str, Any] = {"sequence": before.sequence + 1, "sent_at": at, "progress": progress}
    news: dict[str, Any] = {
        "checkpoints": [a_checkpoint(step).model_copy(update={"committed_at": at}), *before.checkpoints][:3],
        "timeline": Timeline(started_at=NOW - timedelta(seconds=50), until=at, training=40, loading=9),
        "tracking": TrackingStatus(run_id="r1", spooled=draw(st.integers(0, 9))),
        "phase": draw(st.sampled_from([Phase.TRAIN, Phase.SAVE, Phase.EXPORT])),
        "recoveries": draw(st.lists(ROWS, max_size=1)),
        "output": Output(uri="pvc://c/out"),
        "save_error": "no space left on device",
        "restarts": before.restarts + 1,
        "wanted": "RecreateGang",
    }
    for name in draw(st.lists(st.sampled_from(["checkpoints", "checkpoints", *news]), max_size=2)):
        update[name] = news[name]
    return before.model_copy(update=update)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(runs(), st.data(), st.sampled_from([1, 31, 61, 140]))
def test_a_round_right_after_it_would_decide_nothing(run: Run, data: st.DataObject, later: int) -> None:
    run.rest()
    before = run.job.build().status
    run.at += timedelta(seconds=later)
    report = data.draw(said(run.seen.report or a_report(), run.at))
    run.seen = replace(run.seen, report=report, heard_at=run.at)
    decision = run.decided()
    assume(decision.only_tells)
    run.write(decision)
    following = run.decided()
    assert following.status is None
    for part in ("applies", "creates", "deletes", "annotates", "orders", "confirm_absent"):
        assert getattr(following, part) == getattr(decision, part), part
    if following.requeue_after_seconds is not None:
        assert decision.requeue_after_seconds is not None
        assert decision.requeue_after_seconds <= following.requeue_after_seconds + 1e-6
    after = run.job.build().status
    assert differences(before, after) <= TOLD


def differences(one: JobStatus, other: JobStatus) -> set[str]:
    wire, theirs = one.to_wire(), other.to_wire()
    return {name for name in {*wire, *theirs} if wire.get(name) != theirs.get(name)}


def test_what_only_tells_is_named_alike_in_models_and_on_the_wire() -> None:
    """`to_wire(without=...)` takes names of fields, a stored status has those of the wire."""
    fields = JobStatus.model_fields
    assert {"progress", "goodput", "cost"} == MOVING
    assert {*MOVING, "checkpoints", "tracking"} == TOLD and set(fields) >= TOLD
    assert all(fields[name].alias == name for name in TOLD)


def test_what_a_report_without_news_changes_is_written_without_a_round_after_it() -> None:
    job = a_job().on_attempt(1, 1, 2)
    run = Run(
        job, Observed(pods=(a_pod(0, 1), a_pod(1, 2)), claims=claims(), report=a_report(), heard_at=NOW), NOW
    )
    run.rest()
    run.at += timedelta(seconds=40)
    report = a_report(sequence=2, sent_at=run.at, progress=Progress(step=44, total_steps=100), timeline=None)
    run.seen = replace(run.seen, report=report, heard_at=run.at)
    decision = run.decided()
    assert (
        decision.only_tells and decision.status is not None and decision.status["cost"]["currency"] == "EUR"
    )
    assert run.job.build().uid == UID
