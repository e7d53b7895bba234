"""What the leader does about a loss or gradient that went wrong: back, past the data, or a stop that says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from windlass.api.contract import BudgetUse, IncarnationCause, RankEvent, Rollback
from windlass.api.meta import ExitCode, FailureClass, Reason, Rung
from windlass.api.status import Failure, SkippedData
from windlass_workloads.agent import events as ev
from windlass_workloads.agent.claims import Claims
from windlass_workloads.agent.course import Mode
from windlass_workloads.agent.identity import Identity
from windlass_workloads.agent.messages import Start
from windlass_workloads.agent.verdict import exit_code
from windlass_workloads.agent.view import View
from windlass_workloads.checkpoint import incarnations
from windlass_workloads.checkpoint.store import RunStore
from workloads.agent.support import config
from workloads.agent.world import World
from workloads.checkpoint.support import commit, incarnation

NUMERIC = FailureClass.NUMERIC


def trip(world: World, step: int, reason: Reason = Reason.NON_FINITE) -> None:
    """Guards stop the step on all ranks, which say so and exit."""
    text = f"step {step}: loss nan; the step was not applied"
    failure = Failure(reason=reason, failure_class=NUMERIC, message=text, hint="look", evidence=[text])
    ranks = [(uid, rank) for uid, running in world.running.items() for rank in running]
    for uid, rank in ranks:
        world.say(uid, rank, type="Failure", failure=failure, step=step)
    # Nobody is stopped by order before it has left by itself.
    world.deaf = {uid for uid, _ in ranks}
    for uid, rank in ranks:
        world.exit(uid, rank, code=int(ExitCode.NUMERIC))
    world.deaf = set()


def trained(steps: int, every: int = 5, **guards: Any) -> World:
    """Two ranks that have taken some steps (global batch 2), with checkpoints."""
    world = World(nodes=2, changes={"guards": guards}).train()
    go(world, steps, every)
    return world


def go(world: World, steps: int, every: int = 5) -> None:
    for _ in range(steps):
        world.step(world.uid(0), 0)
        if world.steps[0] % every == 0:
            world.checkpoint(world.uid(0), 0)


def contexts(world: World) -> list[Any]:
    """What the ranks of the newest incarnation were told."""
    starts = [
        message for index in (0, 1) for message in world.told(world.uid(index)) if isinstance(message, Start)
    ]
    return [each for start in starts for each in start.contexts if each.incarnation == world.newest]


@pytest.mark.fault("F43")
def test_all_ranks_start_in_place_from_the_newest_checkpoint_and_past_the_data_of_the_step() -> None:
    world = trained(12)
    trip(world, 13)
    assert world.gang.mode is Mode.RUNNING
    record = world.records[-1]
    assert (record.incarnation, record.resume) == (2, "step-00000010.i1")
    assert record.skipped_windows == [(24, 26)]
    assert record.budgets.used == {NUMERIC: 1}
    assert [each.skipped_windows for each in contexts(world)] == [[(24, 26)], [(24, 26)]]
    world.begin_steps()
    row = world.gang.recoveries[-1]
    assert (row.rung, row.failure_class, row.from_step, row.resumed_step) == (Rung.IN_PLACE, NUMERIC, 12, 10)
    assert row.skipped == SkippedData(first=24, last=25, steps=1)
    assert row.evidence[0] == "step 13: loss nan; the step was not applied"
    assert world.gang.last_failure.reason == Reason.NON_FINITE


@pytest.mark.parametrize(
    ("checkpoints", "resume", "left"),
    [
        (1, "step-00000015.i1", ["step-00000015.i1", "step-00000010.i1", "step-00000005.i1"]),
        (2, "step-00000010.i1", ["step-00000010.i1", "step-00000005.i1"]),
        (3, "step-00000005.i1", ["step-00000005.i1"]),
        (9, "step-00000005.i1", ["step-00000005.i1"]),
    ],
)
def test_a_run_goes_back_as_many_checkpoints_as_its_spec_says(
    checkpoints: int, resume: str, left: list[str]
) -> None:
    world = trained(17, nonFinite={"checkpoints": checkpoints, "skipSteps": 2})
    trip(world, 18)
    record = world.records[-1]
    assert record.resume == resume
    assert [each.name for each in record.accepted] == left
    assert record.skipped_windows == [(32, 36)]
    assert world.gang.ledger_step == int(resume[5:13])


def test_without_a_checkpoint_the_run_begins_anew_past_the_data() -> None:
    world = trained(3)
    trip(world, 4)
    record = world.records[-1]
    assert (record.resume, record.accepted, record.skipped_windows) == (None, [], [(6, 8)])


def test_the_next_one_without_progress_goes_further_back_and_leaves_out_more() -> None:
    world = trained(12)
    trip(world, 13)
    world.begin_steps()
    go(world, 2)
    trip(world, 13)
    record = world.records[-1]
    assert (record.resume, record.skipped_windows) == ("step-00000005.i1", [(24, 28)])
    assert record.budgets.used == {NUMERIC: 2}


def test_what_comes_back_all_the_time_ends_the_run() -> None:
    world = trained(12)
    for _ in range(3):
        assert world.ended is None
        trip(world, 13)
    verdict = world.ended.verdict
    assert (verdict.result, verdict.failure.reason) == ("Failed", Reason.NO_PROGRESS)
    assert len(world.records) == 3


def test_the_budget_of_the_spec_holds() -> None:
    world = World(nodes=2, changes={"budgets": {"numeric": 0}}).train()
    trip(world, 1)
    assert (world.ended.verdict.result, world.ended.verdict.failure.reason) == (
        "Failed",
        Reason.BUDGET_EXHAUSTED,
    )


def test_other_failures_keep_the_windows() -> None:
    world = trained(12)
    trip(world, 13)
    world.begin_steps()
    world.exit(world.uid(1), 1, code=137, signal=9)
    record = world.records[-1]
    assert (record.incarnation, record.cause.failure_class) == (3, FailureClass.CRASH)
    assert (record.cause.rollback, record.cause.skipped) == (None, None)
    assert record.skipped_windows == [(24, 26)]
    world.begin_steps()
    assert world.gang.recoveries[-1].skipped is None


@pytest.mark.parametrize(("action", "result"), [("Pause", "Paused"), ("Fail", "Failed")])
@pytest.mark.parametrize(
    ("reason", "guard"), [(Reason.NON_FINITE, "nonFinite"), (Reason.LOSS_SPIKE, "lossSpike")]
)
def test_a_guard_may_stop_the_run_instead(reason: Reason, guard: str, action: str, result: str) -> None:
    world = trained(12, **{guard: {"action": action}})
    trip(world, 13, reason)
    verdict = world.ended.verdict
    assert (verdict.result, verdict.step, verdict.lost_steps, verdict.incarnation) == (result, 10, 2, 1)
    assert (verdict.failure.reason, verdict.failure.failure_class) == (reason, NUMERIC)
    assert f"guards.{guard}" in verdict.failure.hint
    assert verdict.failure.first_failed.rank == 0
    assert len(world.records) == 1
    assert {each.verdict.result for each in world.finished.values()} == {result}
    assert world.gang.last_failure == verdict.failure
    assert exit_code(verdict) == (ExitCode.PREEMPTED if action == "Pause" else ExitCode.NUMERIC)


def test_a_paused_run_goes_on_where_it_was_and_is_charged_nothing() -> None:
    world = trained(12, nonFinite={"action": "Pause"})
    trip(world, 13)
    (mark,) = [each for each in world.commands(ev.Mark) if each.left]
    assert mark.left == "Whole"
    assert [fact for each in world.commands(ev.Remember) for fact, _ in each.facts] == ["prepared"]
    assert world.gang.budgets == BudgetUse()


def test_a_spike_that_the_run_goes_on_through_is_in_the_report_until_it_is_over() -> None:
    view = View()
    said = "step 12: loss 9.5, above 2.7"
    view.hear(RankEvent(type="LossSpike", at=1.0, rank=1, step=12, message="not rank 0"))
    assert view.loss_spike is None
    view.hear(RankEvent(type="LossSpike", at=1.0, rank=0, step=12, loss=9.5, message=said))
    assert view.loss_spike == said
    view.hear(RankEvent(type="LossSpike", at=2.0, rank=0, step=40))
    assert view.loss_spike is None
    view.hear(RankEvent(type="LossSpike", at=3.0, rank=0, step=50, loss=9.5, message=said))
    view.restarted(incarnation(2))
    assert view.loss_spike is None


# --- in the store ------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path)


def claimed(store: RunStore, cause: IncarnationCause | None, **changes: Any) -> Any:
    me = Identity(pod="toy-0-2", pod_uid="me", pod_ip="", node="", index=0, ticket=2, attempt=1)
    claims = Claims(store=store, config=config(store.root, **changes), me=me)
    newest = incarnations.newest(store)
    result = claims.claim(ev.Claim(cause=cause, budgets=BudgetUse(), prepared="toy"), newest.incarnation)
    assert isinstance(result, ev.Claimed)
    return result.record


def cause(checkpoints: int = 1, step: int = 33, skip_steps: int = 1) -> IncarnationCause:
    wish = Rollback(checkpoints=checkpoints, step=step, skip_steps=skip_steps)
    return IncarnationCause(rung=Rung.IN_PLACE, failure_class=NUMERIC, from_step=step - 1, rollback=wish)


@pytest.mark.parametrize(("back", "step"), [(1, 30), (2, 20), (3, 10), (7, 10)])
def test_a_claim_that_goes_back_accepts_no_newer_checkpoint(store: RunStore, back: int, step: int) -> None:
    assert incarnations.claim(store, incarnation(1, owner_pod_uid="me", ticket=2))
    for each in (10, 20, 30):
        commit(store, each, 1)
    record = claimed(store, cause(back))
    assert record.resume == f"step-{step:08d}.i1"
    assert max(each.step for each in record.accepted) == step
    assert record.skipped_windows == [(64, 66)]
    assert record.cause.skipped == SkippedData(first=64, last=65, steps=1)
    assert incarnations.newest(store) == record


def test_a_claim_without_a_rollback_keeps_what_was_left_out(store: RunStore) -> None:
    windows = [(64, 66), (80, 90)]
    first = incarnation(1, owner_pod_uid="me", ticket=2, skipped_windows=windows)
    assert incarnations.claim(store, first)
    for wished in (None, cause().model_copy(update={"rollback": None})):
        record = claimed(store, wished)
        assert record.skipped_windows == windows
        assert record.cause == wished


def test_windows_of_several_rollbacks_add_up(store: RunStore) -> None:
    assert incarnations.claim(store, incarnation(1, owner_pod_uid="me", ticket=2))
    commit(store, 30, 1)
    assert claimed(store, cause()).skipped_windows == [(64, 66)]
    assert claimed(store, cause()).skipped_windows == [(64, 68)]
    assert claimed(store, cause(step=40, skip_steps=2)).skipped_windows == [(64, 68), (80, 84)]


def test_a_checkpoint_that_cannot_be_used_is_not_counted(store: RunStore) -> None:
    assert incarnations.claim(store, incarnation(1, owner_pod_uid="me", ticket=2))
    names = [commit(store, each, 1) for each in (10, 20, 30)]
    (store.path(names[2]) / "weights.bin").unlink()
    assert claimed(store, cause(1)).resume == names[1]
