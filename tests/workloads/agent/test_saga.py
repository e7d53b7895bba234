"""Runs over many leaders: their accounts add up, and whatever goes wrong for ever comes to an end."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.api.meta import FailureClass
from windlass_workloads.agent import timeline
from windlass_workloads.agent.course import Mode
from workloads.agent.saga import Saga

# --- accounts -----------------------------------------------------------------------------------------


def test_a_quiet_run_has_one_incarnation_and_no_row(tmp_path: Path) -> None:
    saga = Saga(tmp_path).lead()
    saga.work(10)
    saga.save()
    saga.finish()
    saga.check()
    assert [record.incarnation for record in saga.history()] == [1]
    assert saga.rows == []
    assert saga.past.memory.finished.step == 10
    assert saga.past.memory.left == "Whole"


def test_a_leader_after_the_end_repeats_the_verdict_and_claims_nothing(tmp_path: Path) -> None:
    saga = Saga(tmp_path).lead()
    saga.work(3)
    saga.finish()
    first = saga.ended
    saga.lead()
    assert saga.ended == first
    assert len(saga.history()) == 1


def test_each_way_to_go_on_leaves_its_row(tmp_path: Path) -> None:
    saga = Saga(tmp_path).lead()
    saga.work(7)
    saga.save()
    saga.work(3)
    saga.exit(139, signal=11)
    saga.work(2)
    saga.killed().lead()
    saga.work(6)
    saga.leave()
    saga.lead()
    saga.work(1)
    saga.leave(whole=True)
    saga.lead(attempt=2)
    saga.work(2)
    saga.finish()
    saga.check()
    assert [
        (str(row.rung), str(row.failure_class), row.from_step, row.resumed_step) for row in saga.rows
    ] == [
        ("InPlace", "Crash", 10, 7),
        ("RecreatePod", "Infrastructure", 7, 7),
        ("RecreatePod", "Preempted", 13, 13),
    ]
    assert [record.cause is None for record in saga.history()] == [True, False, False, False, True]
    assert [record.attempt for record in saga.history()] == [1, 1, 1, 1, 2]


@pytest.mark.parametrize("told", [True, False], ids=["told", "not told"])
def test_a_checkpoint_of_the_last_moment_is_resumed_from_whether_or_not_anybody_heard_of_it(
    tmp_path: Path, told: bool
) -> None:
    saga = Saga(tmp_path).lead()
    saga.work(5)
    saga.sign()
    saga.work(5)
    if told:
        saga.save()
    else:
        saga.commit()
    saga.killed().lead()
    assert saga.step == 10
    (row,) = saga.rows or saga.gang.recoveries
    assert (row.from_step, row.resumed_step, row.lost_steps) == (10, 10, 0)
    saga.finish()
    saga.check()


def test_seconds_without_a_leader_are_down_and_all_seconds_are_told(tmp_path: Path) -> None:
    saga = Saga(tmp_path).lead()
    saga.work(20)
    saga.save()
    saga.sign()
    saga.killed()
    saga.now += 100.0
    saga.lead()
    saga.work(5)
    saga.finish()
    saga.check()
    totals = saga.past.totals.at(saga.now)
    assert totals.down == pytest.approx(103.0, abs=1.0)
    assert totals.training == pytest.approx(32.0, abs=4.0)
    (row,) = saga.rows
    assert row.seconds.total == pytest.approx(totals.down + totals.recovering, abs=1.0)


@pytest.mark.fault("F40")
def test_seconds_in_which_nothing_moved_are_recovering_and_no_training(tmp_path: Path) -> None:
    saga = Saga(tmp_path, stall={"limitSeconds": 20}).lead()
    saga.work(20)
    saga.save()
    saga.work(3)
    stood = saga.now
    for _ in range(30):
        saga.wait(1.0)
    saga.work(1)
    saga.finish()
    saga.check()
    (row,) = saga.rows
    assert (row.failure_class, row.from_step, row.resumed_step) == (FailureClass.STALL, 23, 20)
    assert row.at.timestamp() == pytest.approx(stood, abs=2.0)
    assert 26.0 < row.seconds.detect < 38.0, "its limit, and the wait for stacks"
    totals = saga.past.totals.at(saga.now)
    assert totals.recovering == pytest.approx(row.seconds.total, abs=1.0)
    assert totals.training == pytest.approx(stood - saga.began, abs=10.0)


def test_a_recovery_cut_short_by_the_next_fault_has_its_own_row(tmp_path: Path) -> None:
    saga = Saga(tmp_path).lead()
    saga.work(4)
    saga.save()
    for signal in (11, 6, 4):
        saga.exit(128 + signal, signal=signal)
    assert [row.signal for row in saga.gang.recoveries] == [11, 6, 4]
    assert [row.incarnation for row in saga.gang.recoveries] == [2, 3, 4]
    saga.finish()
    saga.check()


# --- whatever goes wrong for ever -----------------------------------------------------------------------

TRACEBACK = "RuntimeError: the toy is broken"


def same_crash(saga: Saga, turn: int) -> None:
    saga.exit(1, tail=TRACEBACK)


def other_crash(saga: Saga, turn: int) -> None:
    saga.exit(1, tail=f"RuntimeError: the {'abcdefghijklmnopqrstuvwxyz'[turn % 26]} is broken")


def other_signal(saga: Saga, turn: int) -> None:
    number = (4, 6, 8, 11)[turn % 4]
    saga.work(turn % 5)
    saga.exit(128 + number, signal=number)


def out_of_memory(saga: Saga, turn: int) -> None:
    saga.exit(12)


def full_disk(saga: Saga, turn: int) -> None:
    saga.exit(13, tail=f"OSError: [Errno 28] No space left on device: {turn * 'x'}")


def bad_setting(saga: Saga, turn: int) -> None:
    saga.exit(10)


def lost_leader(saga: Saga, turn: int) -> None:
    saga.killed().lead()


def lost_leader_or_crash(saga: Saga, turn: int) -> None:
    (lost_leader if turn % 2 else other_crash)(saga, turn)


def silent_success(saga: Saga, turn: int) -> None:
    saga.exit(0)


def crash_then_polite_leave(saga: Saga, turn: int) -> None:
    """The pod is preempted during every back-off."""
    other_crash(saga, turn)
    if saga.ended is None and saga.gang.mode is Mode.BACKING_OFF:
        saga.leave()
        saga.lead()


def crash_then_lost_leader(saga: Saga, turn: int) -> None:
    other_crash(saga, turn)
    if saga.ended is None:
        saga.killed().lead()


EVILS: list[Callable[[Saga, int], None]] = [
    same_crash,
    other_crash,
    other_signal,
    out_of_memory,
    full_disk,
    bad_setting,
    lost_leader,
    lost_leader_or_crash,
    silent_success,
    crash_then_polite_leave,
    crash_then_lost_leader,
]
TURNS = 80


@pytest.mark.parametrize("back_off", [0, 5])
@pytest.mark.parametrize("evil", EVILS, ids=lambda evil: evil.__name__)
def test_what_goes_wrong_for_ever_ends_with_the_evidence(
    tmp_path: Path, evil: Callable[[Saga, int], None], back_off: int
) -> None:
    saga = Saga(tmp_path, back_off=back_off).lead()
    saga.work(3)
    for turn in range(TURNS):
        if saga.ended is not None:
            break
        if saga.gang.mode is Mode.BACKING_OFF:
            saga.wait(400.0)
        evil(saga, turn)
    assert saga.ended is not None, f"still at it after {saga.newest.incarnation} incarnations"
    assert saga.ended.result == "Failed"
    failure = saga.ended.failure
    assert failure.message and failure.reason
    if evil is not silent_success:
        assert failure.first_failed.rank == 0 or failure.first_failed.pod is not None
    if saga.memoir is not None:
        saga.close(signed=True)
    saga.check()


@pytest.mark.parametrize(
    "evil", [other_crash, out_of_memory, lost_leader, lost_leader_or_crash], ids=lambda evil: evil.__name__
)
def test_a_run_that_makes_progress_in_between_never_runs_out_of_budget(
    tmp_path: Path, evil: Callable[[Saga, int], None]
) -> None:
    saga = Saga(tmp_path).lead()
    for turn in range(25):
        saga.work(2)
        saga.save()
        evil(saga, turn)
        assert saga.ended is None, saga.ended
    saga.finish()
    saga.check()
    assert saga.gang.step == 50
    assert sum(row.lost_steps for row in saga.rows) == 0


def test_a_run_that_is_preempted_without_end_is_never_charged(tmp_path: Path) -> None:
    saga = Saga(tmp_path).lead()
    for _ in range(25):
        saga.work(1)
        saga.leave()
        saga.lead()
    assert saga.newest.budgets.used == {}
    saga.work(1)
    saga.finish()
    saga.check()
    assert [row.lost_steps for row in saga.rows] == [0] * 25


@pytest.mark.parametrize("polite", [True, False], ids=["leaves", "is killed"])
def test_a_charge_outlives_the_leader_that_made_it_also_during_the_back_off(
    tmp_path: Path, polite: bool
) -> None:
    saga = Saga(tmp_path, back_off=5).lead()
    saga.exit(1, tail="RuntimeError: a")
    saga.exit(1, tail="RuntimeError: b")
    assert saga.gang.mode is Mode.BACKING_OFF
    assert saga.gang.budgets.used == {FailureClass.CRASH: 2}
    if polite:
        saga.leave()
    else:
        saga.killed()
    saga.lead()
    assert saga.newest.budgets.used[FailureClass.CRASH] == 2
    saga.work(1)
    saga.save()
    saga.exit(1, tail="RuntimeError: c")
    assert saga.newest.budgets.used == {FailureClass.CRASH: 1}, "progress begins the count anew"
    saga.killed()


def test_the_breaker_counts_the_same_failure_over_leaders(tmp_path: Path) -> None:
    saga = Saga(tmp_path, budgets={"crash": 50, "infrastructure": 50}).lead()
    for _ in range(2):
        saga.exit(1, tail=TRACEBACK)
        assert saga.ended is None
    saga.leave()
    saga.lead()
    saga.exit(1, tail=TRACEBACK)
    assert saga.ended.failure.reason == "NoProgress"
    saga.close(signed=True)


# --- any history ----------------------------------------------------------------------------------------

ACTIONS = ("work", "save", "commit", "crash", "kill", "leave", "suspend", "sign", "wait", "tear")


def act(saga: Saga, action: str) -> None:
    """One thing happens, if it can."""
    if action == "wait":
        saga.wait(30.0)
    elif action == "sign":
        saga.sign()
    elif action == "tear":
        saga.store.write(timeline.ALIVE, b'{"at": 12')
    elif action == "kill":
        saga.killed()
    elif action == "leave":
        saga.leave()
    elif action == "suspend":
        saga.leave(whole=True)
    elif saga.trains and action == "work":
        saga.work(3)
    elif saga.trains and action in ("save", "commit") and saga.step:
        getattr(saga, action)()
    elif saga.trains and action == "crash":
        saga.exit(139, signal=11)


@given(actions=st.lists(st.sampled_from(ACTIONS), max_size=24), back_off=st.sampled_from([0, 5]))
@settings(max_examples=40, deadline=None)
def test_any_history_keeps_its_accounts(actions: list[str], back_off: int) -> None:
    with tempfile.TemporaryDirectory() as root:
        saga = Saga(Path(root), back_off=back_off).lead()
        for action in actions:
            if saga.ended is not None and saga.ended.result == "Failed":
                break
            act(saga, action)
            if saga.memoir is None:
                saga.lead()
        if saga.memoir is not None:
            saga.close(signed=True)
        saga.check()
