"""What a leader leaves in its pod: a verdict that always fits, and as much of its last report as does."""

from __future__ import annotations

import signal
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.api.contract import MemberReport, Report, RunIdentity, TerminationMessage, Timeline, Verdict
from windlass.api.meta import ExitCode, FailureClass, Reason, Rung
from windlass.api.status import (
    CheckpointRecord,
    Failure,
    Plan,
    RecoveryRecord,
    RecoverySeconds,
)
from windlass.core.facts import parse_last_report, parse_verdict
from windlass_workloads.agent import verdict as verdicts
from windlass_workloads.agent.verdict import (
    MAXIMUM_BYTES,
    encode,
    shorter_report,
    with_report,
)
from workloads.agent.lone_leader import LonePod
from workloads.agent.support import Agent, MakeRun

pytestmark = pytest.mark.workloads

AT = datetime(2026, 11, 23, 12, tzinfo=UTC)
DONE = Verdict(result="Succeeded", step=300, incarnation=4)


def row(incarnation: int, evidence: list[str] | None = None) -> RecoveryRecord:
    return RecoveryRecord(
        incarnation=incarnation,
        rung=Rung.IN_PLACE,
        failure_class=FailureClass.CRASH,
        evidence=evidence or [],
        from_step=64,
        resumed_step=50,
        lost_steps=14,
        seconds=RecoverySeconds(total=1.5),
        at=AT,
    )


def failure(**fields: Any) -> Failure:
    return Failure(reason=Reason.CRASH, failure_class=FailureClass.CRASH, **fields)


def report(**fields: Any) -> Report:
    told = Report(
        run=RunIdentity(kind="FineTuneJob", namespace="team", name="toy", uid="uid-1"),
        pod="toy-0-1",
        pod_uid="pod-0-1",
        attempt=1,
        ticket=1,
        sequence=9,
        sent_at=AT,
        incarnation=4,
        restarts=3,
        lost_steps=42,
        timeline=Timeline(started_at=AT, until=AT, training=12.5),
        members=[MemberReport(index=0, pod="toy-0-1", pod_uid="pod-0-1")],
    )
    return told.model_copy(update=fields)


def checkpoints(count: int) -> list[CheckpointRecord]:
    """Newest first, as the ledger has them."""
    return [
        CheckpointRecord(
            step=step, incarnation=1, name=f"step-{step:08d}.i1", digest="sha256:" + "a" * 64, committed_at=AT
        )
        for step in range(count * 50, 0, -50)
    ]


def read(data: bytes) -> Report:
    assert len(data) <= MAXIMUM_BYTES
    found = parse_last_report(data.decode())
    assert found is not None and found.report is not None
    return found.report


def test_a_short_history_fits_whole() -> None:
    told = report(recoveries=[row(2, ["ValueError: boom"]), row(3)], checkpoints=checkpoints(3), plan=Plan())
    message = with_report(DONE, told)
    again = read(encode(message))
    assert again == told.model_copy(update={"members": []})
    assert parse_verdict(encode(message).decode()) == DONE


def test_a_report_says_nothing_twice() -> None:
    """Members end with their leader, and the verdict has its own failure."""
    gave_up = failure(message="gave up")
    verdict = Verdict(result="Failed", failure=gave_up)
    message = with_report(verdict, report(verdict=verdict, failure=gave_up))
    assert message.failure == gave_up and message.report is not None
    assert (message.report.failure, message.report.verdict, message.report.members) == (None, None, [])
    other = failure(message="an earlier one")
    assert with_report(verdict, report(failure=other)).report.failure == other  # type: ignore[union-attr]


def test_what_is_missed_least_goes_first() -> None:
    """Plan; ends of texts; evidence, the oldest first; checkpoints but two; rows, the oldest first; all but sums."""
    told = report(
        plan=Plan(),
        recoveries=[row(2, ["a"]), row(3, ["b"])],
        failure=failure(message="m" * 500, evidence=["c"]),
        save_error="s" * 500,
        checkpoints=checkpoints(4),
    )
    seen, lines = told, []
    while (shorter := shorter_report(seen)) is not None:
        changed = [name for name, value in seen if getattr(shorter, name) != value]
        lines.append(
            (*changed, len(shorter.checkpoints), [len(each.evidence) for each in shorter.recoveries])
        )
        seen = shorter
    assert lines == [
        ("plan", 4, [1, 1]),
        ("failure", "save_error", 4, [1, 1]),
        ("recoveries", 4, [0, 1]),
        ("recoveries", 4, [0, 0]),
        ("failure", 4, [0, 0]),
        ("checkpoints", 3, [0, 0]),
        ("checkpoints", 2, [0, 0]),
        ("recoveries", 2, [0]),
        ("recoveries", 2, []),
        ("checkpoints", "failure", "save_error", 1, []),
    ]
    assert seen == told.model_copy(
        update={
            "plan": None,
            "recoveries": [],
            "failure": None,
            "save_error": None,
            "checkpoints": told.checkpoints[:1],
        }
    )
    assert (seen.restarts, seen.lost_steps, seen.timeline) == (told.restarts, told.lost_steps, told.timeline)


LONG = "l" * 2000


@pytest.mark.parametrize(
    ("told", "found"),
    [
        (report(failure=failure(message=LONG, evidence=["e" * 400] * 8)), None),
        (report(save_error=LONG, tracking_error=LONG), None),
        (report(checkpoints=checkpoints(20)), None),
        (report(), failure(message="gave up", evidence=["e" * 400] * 8)),
        (report(recoveries=[row(2, ["x" * 400] * 8)]), failure(message=LONG, evidence=["e" * 400] * 8)),
    ],
    ids=["long failure before", "long texts", "twenty checkpoints", "lines of the end", "everything long"],
)
def test_no_text_is_so_long_that_the_sums_are_lost(told: Report, found: Failure | None) -> None:
    verdict = Verdict(result="Failed" if found else "Succeeded", step=9, failure=found)
    data = encode(with_report(verdict, told))
    again = read(data)
    assert (again.restarts, again.lost_steps, again.timeline) == (3, 42, told.timeline)
    message = TerminationMessage.model_validate_json(data)
    assert message.is_cut is (again != told.model_copy(update={"members": []}))
    if found is not None:
        assert message.failure is not None and message.failure.message == found.message


def test_a_message_that_fits_is_not_called_cut() -> None:
    data = encode(with_report(DONE, report(recoveries=[row(2)])))
    assert not TerminationMessage.model_validate_json(data).is_cut


def test_ten_restarts_leave_the_newest_and_the_sums() -> None:
    told = report(recoveries=[row(number, ["x" * 200] * 8) for number in range(2, 12)], restarts=10)
    again = read(encode(with_report(DONE, told)))
    numbers = [each.incarnation for each in again.recoveries]
    assert len(numbers) >= 6 and numbers == list(range(12 - len(numbers), 12))
    assert (again.restarts, again.lost_steps) == (10, 42)
    assert again.timeline is not None and again.timeline.training == 12.5


TEXT = st.text(max_size=900)
LINES = st.lists(TEXT, max_size=8)


@settings(deadline=None)
@given(
    st.builds(
        report,
        recoveries=st.lists(st.builds(row, st.integers(1, 99), LINES), max_size=10),
        checkpoints=st.builds(checkpoints, st.integers(0, 20)),
        failure=st.none() | st.builds(failure, message=TEXT, hint=TEXT, evidence=LINES),
        save_error=st.none() | TEXT,
        plan=st.none() | st.builds(Plan, warnings=LINES),
    ),
    st.none() | st.builds(failure, message=TEXT, hint=TEXT, evidence=LINES),
)
def test_any_message_fits_and_keeps_its_verdict(told: Report, found: Failure | None) -> None:
    verdict = Verdict(result="Failed" if found else "Succeeded", step=7, incarnation=3, failure=found)
    data = encode(with_report(verdict, told))
    assert len(data) <= MAXIMUM_BYTES
    again = TerminationMessage.model_validate_json(data)
    assert (again.result, again.step, again.incarnation) == (verdict.result, 7, 3)
    if found is not None and again.report is not None:
        assert again.failure is not None
        kept_lines = again.failure.evidence
        assert found.evidence[len(found.evidence) - len(kept_lines) :] == kept_lines, "the last lines stay"
        assert again.failure.model_copy(update={"evidence": found.evidence}) == found
    if again.report is not None:
        kept = [each.incarnation for each in again.report.recoveries]
        assert kept == [each.incarnation for each in told.recoveries][len(told.recoveries) - len(kept) :]
        assert again.report.checkpoints == told.checkpoints[: len(again.report.checkpoints)]


def last_report_of(agent: Agent) -> Report | None:
    found = parse_last_report((agent.directory / "termination-log").read_text())
    return found.report if found is not None else None


@pytest.mark.fault("F22")
def test_a_leader_that_nobody_hears_leaves_its_whole_account(make_run: MakeRun) -> None:
    """No operator is there from beginning to end, and a rank is killed on the way."""
    run = make_run(steps=30, every=5)
    run.order(1, 12, "signal 9")
    leader = run.start()
    assert leader.wait() == 0, leader.log
    assert leader.verdict.result == "Succeeded"
    told = last_report_of(leader)
    assert told is not None
    (recovery,) = told.recoveries
    assert recovery.model_dump(mode="json", by_alias=True, exclude_none=True) == run.recoveries()[0]
    assert (told.incarnation, told.progress.step, told.restarts) == (2, 30, 1)
    steps = [each.step for each in told.checkpoints]
    assert steps[0] == 30 and all(newer > older for newer, older in pairwise(steps))
    assert told.timeline is not None and told.timeline.training > 0 and told.timeline.recovering > 0


@pytest.mark.fault("F22")
def test_a_leader_that_may_not_go_on_tells_what_it_found(make_run: MakeRun) -> None:
    """It gives the run up before it leads: there is no incarnation of its own to tell of."""
    run = make_run(steps=4000, every=5, ranks=1, budgets={"infrastructure": 0})
    first = run.start()
    run.reach(1, 10)
    first.send(signal.SIGKILL)
    first.wait()
    second = run.start()
    assert second.wait() == ExitCode.BUDGET, second.log
    told = last_report_of(second)
    assert told is not None
    assert (told.ticket, told.incarnation, told.progress.step) == (2, 1, second.verdict.step)
    assert told.checkpoints and told.timeline is not None


def test_a_preempted_leader_leaves_its_account_and_followers_do_not(make_run: MakeRun) -> None:
    run = make_run(steps=4000, every=5, nodes=2)
    leader, follower = run.start_all()
    run.reach(1, 10)
    for agent in (leader, follower):
        agent.send(signal.SIGTERM)
    assert [agent.wait() for agent in (leader, follower)] == [ExitCode.PREEMPTED] * 2, leader.log
    told = last_report_of(leader)
    assert told is not None and told.incarnation == 1 and told.checkpoints
    assert told.checkpoints[0].step == leader.verdict.step
    assert last_report_of(follower) is None


def test_a_leader_that_was_replaced_leaves_its_verdict_alone(make_run: MakeRun) -> None:
    """Whoever leads now knows better."""
    run = make_run(steps=4000, every=5)
    first = run.start()
    run.reach(1, 10)
    first.send(signal.SIGSTOP)
    second = run.start(arguments=["--quiet-seconds", "0.2"])
    run.training(2)
    first.send(signal.SIGCONT)
    first.wait()
    assert first.verdict.result == "Fenced"
    assert last_report_of(first) is None
    second.send(signal.SIGTERM)
    second.wait()


async def test_a_leader_whose_time_is_up_leaves_its_account(tmp_path: Path) -> None:
    """The kubelet kills it a second later: nothing but this message is left of it."""
    pod = LonePod(tmp_path)
    async with pod.leading():
        await pod.train()
        pod.end(pod.parting())
        verdict = await pod.ended
    assert isinstance(verdict, TerminationMessage) and verdict.report is not None
    assert (verdict.result, verdict.report.incarnation) == ("Preempted", pod.incarnation)


async def test_a_leader_that_found_nothing_has_no_account(tmp_path: Path) -> None:
    verdict = LonePod(tmp_path).leader._parting()
    assert not isinstance(verdict, TerminationMessage) and verdict.result == "Preempted"


@pytest.mark.fault("F22")
def test_the_successor_of_a_leader_that_had_ended_tells_what_that_one_could_not(make_run: MakeRun) -> None:
    """The run was done and its pod gone before anybody heard: the new pod has only the store to tell from."""
    run = make_run(steps=30, every=5)
    run.order(1, 12, "signal 9")
    first = run.start()
    assert first.wait() == 0, first.log
    second = run.start()
    assert second.wait() == 0, second.log
    told, before = last_report_of(second), last_report_of(first)
    assert told is not None and before is not None
    assert (told.ticket, told.incarnation, told.progress.step) == (2, 2, 30)
    assert (told.recoveries, told.restarts, told.lost_steps) == (before.recoveries, 1, before.lost_steps)
    assert [row.name for row in told.checkpoints] == [row.name for row in before.checkpoints]
    assert told.output == before.output and told.resume == before.resume
    assert told.timeline is not None and told.timeline.training > 0


@pytest.mark.parametrize("broken", ["report", "text"])
async def test_a_report_that_cannot_be_made_does_not_take_the_verdict_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    pod = LonePod(tmp_path)
    async with pod.leading():
        await pod.train()
        if broken == "report":
            monkeypatch.setattr(pod.leader, "_report", lambda: 1 / 0)
        else:
            monkeypatch.setattr(verdicts, "encode", lambda _: 1 / 0)
        pod.end(pod.parting())
        verdict = await pod.ended
    assert not isinstance(verdict, TerminationMessage) and verdict.result == "Preempted"
