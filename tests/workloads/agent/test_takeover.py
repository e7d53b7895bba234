"""A leader follows another: nothing that the first one did is counted wrongly, whatever of it is known.

The last sign of life is a second old at best, may be torn or missing, and checkpoints are committed after it.
"""

from __future__ import annotations

import itertools
import json
import signal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.api.contract import BudgetUse
from windlass.api.meta import FailureClass, Rung
from windlass_workloads.agent import events as ev
from windlass_workloads.agent import timeline
from windlass_workloads.agent.course import Mode
from windlass_workloads.agent.messages import Leaving
from workloads.agent.support import MakeRun, orphans, wait_for
from workloads.agent.world import World

LONG = {"TOY_STEP_SECONDS": "0.05"}


def followed(**memory: object) -> World:
    """A leader that has taken over from an earlier one, in training again."""
    world = World(nodes=1, before=4)
    world.follow(**memory)
    world.join(0)
    world.begin_steps()
    assert world.gang.mode is Mode.RUNNING
    return world


# --- what the row of the recovery says -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("remembered", "committed", "from_step", "lost"),
    [
        (17, (10, 15), 17, 2),
        (15, (15,), 15, 0),
        (15, (10, 16), 16, 0),
        (0, (10, 16), 16, 0),
        (40, (), 40, 40),
        (0, (), 0, 0),
    ],
    ids=["fresh sign", "saved on leaving", "sign older than the save", "no sign", "no checkpoint", "nothing"],
)
@pytest.mark.parametrize("left", ["", "Pod"])
def test_a_row_never_resumes_beyond_the_step_it_came_from(
    remembered: int, committed: tuple[int, ...], from_step: int, lost: int, left: str
) -> None:
    world = followed(steps=committed, step=remembered, highest_step=remembered, left=left)
    (row,) = world.gang.recoveries
    assert (row.from_step, row.resumed_step, row.lost_steps) == (from_step, max(committed, default=0), lost)
    assert world.records[0].cause.from_step == from_step


def test_a_checkpoint_that_the_claim_finds_later_than_the_ledger_raises_the_step_too() -> None:
    # Committed by the old leader's rank between the reading of the ledger and the claim.
    world = World(nodes=1, before=4)
    world.follow(steps=(10, 20), ledger=10, step=12, highest_step=12)
    world.join(0)
    world.begin_steps()
    (row,) = world.gang.recoveries
    assert (row.from_step, row.resumed_step, row.lost_steps) == (20, 20, 0)


def test_a_checkpoint_tells_of_steps_whose_own_words_were_dropped() -> None:
    # A rank whose agent is slow drops step rows first; the checkpoint's row always comes.
    world = World(nodes=1).train()
    uid = world.uid(0)
    world.steps[0] = 30
    world.checkpoint(uid, 0)
    world.exit(uid, 0, code=139, signal=11)
    world.begin_steps()
    (row,) = world.gang.recoveries
    assert (row.from_step, row.resumed_step, row.lost_steps) == (30, 30, 0)


@given(
    sign=st.integers(0, 60),
    highest=st.integers(0, 60),
    steps=st.lists(st.integers(1, 60), max_size=3, unique=True),
    left=st.sampled_from(["", "Pod"]),
    ago=st.floats(0, 900),
)
@settings(max_examples=60, deadline=None)
def test_any_memory_gives_a_row_that_adds_up(
    sign: int, highest: int, steps: list[int], left: str, ago: float
) -> None:
    world = World(nodes=1, before=2)
    world.follow(steps=tuple(steps), step=sign, highest_step=highest, left=left, last_at=world.now - ago)
    world.join(0)
    world.begin_steps()
    (row,) = world.gang.recoveries
    assert 0 <= row.resumed_step <= row.from_step
    assert row.lost_steps == row.from_step - row.resumed_step
    parts = row.seconds.model_dump()
    total = parts.pop("total")
    assert total > 0 and min(parts.values()) >= 0
    assert sum(parts.values()) == pytest.approx(total, abs=0.001)


@pytest.mark.parametrize(
    ("highest", "steps", "state"),
    [(20, (10,), "Reworked"), (10, (10,), "Training"), (0, (10,), "Training"), (0, (), "Training")],
)
def test_steps_that_were_done_before_are_reworked_and_no_others(
    highest: int, steps: tuple[int, ...], state: str
) -> None:
    assert followed(steps=steps, highest_step=highest, step=highest).states[-1] == state


def test_rework_ends_at_the_highest_step_that_a_checkpoint_vouches_for() -> None:
    world = World(nodes=1, before=4)
    world.follow(steps=(10,), ledger=12, highest_step=0)
    world.join(0)
    world.begin_steps()
    assert world.gang.highest_step == 12
    assert world.states[-1] == "Reworked"
    for _ in range(2):
        world.step(world.uid(0), 0)
    assert world.states[-1] == "Training"


# --- class, rung, budget -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "newest_attempt", "rung", "failure_class", "used"),
    [
        ("", 1, Rung.RECREATE_POD, FailureClass.INFRASTRUCTURE, {"Infrastructure": 1}),
        ("Pod", 1, Rung.RECREATE_POD, FailureClass.PREEMPTED, {}),
        ("", 0, Rung.RECREATE_GANG, FailureClass.INFRASTRUCTURE, {"Infrastructure": 1}),
        ("Pod", 0, Rung.RECREATE_GANG, FailureClass.PREEMPTED, {}),
    ],
)
def test_who_went_without_a_word_is_charged_and_who_was_told_to_go_is_not(
    left: str, newest_attempt: int, rung: Rung, failure_class: FailureClass, used: dict[str, int]
) -> None:
    world = followed(left=left, attempt=newest_attempt)
    (record,) = world.records
    assert (record.cause.rung, record.cause.failure_class, record.budgets.used) == (rung, failure_class, used)


@pytest.mark.parametrize("left", ["", "Pod", "Whole"])
def test_budgets_and_signatures_pass_from_leader_to_leader(left: str) -> None:
    budgets = BudgetUse(used={FailureClass.CRASH: 2}, signature="s", signature_count=2)
    world = World(nodes=1, before=3)
    world.follow(left=left, budgets=budgets)
    (record,) = world.records
    assert record.budgets.used[FailureClass.CRASH] == 2
    if left:
        assert (record.budgets.signature, record.budgets.signature_count) == ("s", 2)


def test_a_whole_run_that_left_begins_again_without_a_recovery() -> None:
    world = World(nodes=1, before=3)
    world.follow(left="Whole", steps=(30,), step=30, highest_step=30)
    world.join(0)
    world.begin_steps()
    assert world.gang.recoveries == ()
    assert world.records[0].cause is None
    assert world.states == ["Starting", "Loading", "Training"]


def test_a_run_that_had_finished_says_so_again_and_trains_no_more() -> None:
    first = World(nodes=1).train()
    first.say(first.uid(0), 0, type="Done", step=40)
    first.exit(first.uid(0), 0, code=0)
    world = World(nodes=1, before=1)
    world.follow(finished=first.ended.verdict)
    assert world.ended.verdict == first.ended.verdict
    assert world.records == []


# --- one that leaves before the run goes on ------------------------------------------------------------


def test_a_recovery_that_its_leader_could_not_finish_is_still_told() -> None:
    world = World(nodes=2).train()
    world.lose(1)
    world.now += 7.0
    assert world.gang.mode is Mode.GATHERING
    world.hear(world.uid(0), Leaving(at=world.now))
    assert world.ended.verdict.result == "Preempted"
    (row,) = world.gang.recoveries
    assert (row.incarnation, str(row.rung)) == (2, "RecreatePod")
    assert row.seconds.total == pytest.approx(7.0, abs=0.2)
    told = [dict(command.facts) for command in world.commands(ev.Remember)]
    assert [facts["recovery"]["incarnation"] for facts in told if "recovery" in facts] == [2]


@pytest.mark.parametrize("stage", ["training", "saving", "backing off"])
def test_one_that_leaves_with_no_new_incarnation_yet_tells_no_row(stage: str) -> None:
    world = World(nodes=1, changes={"back_off": 100}).train()
    uid = world.uid(0)
    if stage == "backing off":
        world.exit(uid, 0, code=139, signal=11)
        world.begin_steps()
        world.exit(uid, 0, code=139, signal=11)
        assert world.gang.mode is Mode.BACKING_OFF
    rows = len(world.gang.recoveries)
    world.hear(uid, Leaving(at=world.now))
    if stage != "backing off":
        world.exit(uid, 0, code=0)
    assert world.ended.verdict.result == "Preempted"
    assert len(world.gang.recoveries) == rows


def test_a_fenced_leader_writes_no_row() -> None:
    world = World(nodes=2).train()
    world.lose(1)
    assert world.gang.mode is Mode.GATHERING
    before = len(world.commands(ev.Remember))
    world.feed(ev.Refused())
    assert len(world.commands(ev.Remember)) == before
    assert world.states[-1] == "Recovering"


# --- the record behind it ------------------------------------------------------------------------------

ROWS = [
    timeline.state_row(ev.State.STARTING, 100.0, 1, ""),
    timeline.state_row(ev.State.TRAINING, 110.0, 1, ""),
]


@pytest.mark.parametrize(
    ("sign", "step", "highest"),
    [
        (timeline.alive(150.0, 30, 32), 30, 32),
        (None, 0, 0),
        (b"", 0, 0),
        (b"[]", 0, 0),
        (b'{"at": 1', 0, 0),
        (b'{"at": 150.0}', 0, 0),
    ],
)
@pytest.mark.parametrize("left", ["", "Pod"])
def test_what_a_later_leader_learns_of_an_earlier_one(
    sign: bytes | None, step: int, highest: int, left: str
) -> None:
    rows = [*ROWS, timeline.state_row(ev.State.DOWN, 160.0, 1, left)] if left else ROWS
    memory = timeline.read_past(rows, sign).memory
    assert (memory.left, memory.step, memory.highest_step) == (left, step, highest)
    alive_at = 150.0 if b'"at": 150.0' in (sign or b"") else 110.0
    assert memory.last_at == (160.0 if left else alive_at)


@pytest.mark.parametrize("gap", [0.0, 3.0, 400.0])
def test_the_time_between_two_leaders_is_down_time_and_sums_to_the_whole(gap: float) -> None:
    past = timeline.read_past(ROWS, timeline.alive(150.0, 5, 5))
    past.totals.change(ev.State.RECOVERING, 150.0 + gap)
    past.totals.change(ev.State.TRAINING, 155.0 + gap)
    totals = past.totals.at(170.0 + gap)
    assert (totals.down, totals.recovering, totals.training) == (gap, 5.0, 55.0)
    parts = totals.model_dump(exclude={"started_at", "until"})
    assert sum(parts.values()) == pytest.approx(70.0 + gap)


def test_a_leader_that_outlives_its_successors_start_turns_no_time_back() -> None:
    # The old one, cut off from the cluster but not from the store, goes on to write.
    rows = [
        *ROWS,
        timeline.state_row(ev.State.RECOVERING, 150.0, 2, ""),
        timeline.state_row(ev.State.DOWN, 140.0, 1, "Pod"),
        timeline.state_row(ev.State.TRAINING, 160.0, 2, ""),
    ]
    past = timeline.read_past(rows, timeline.alive(165.0, 9, 9))
    assert past.memory.left == ""
    totals = past.totals.at(165.0)
    parts = totals.model_dump(exclude={"started_at", "until"})
    assert sum(parts.values()) == pytest.approx(65.0)


@given(
    times=st.lists(st.floats(0, 1000), min_size=1, max_size=12),
    states=st.lists(st.sampled_from(list(ev.State)), min_size=12, max_size=12),
    stalls=st.lists(st.floats(0, 0.5), max_size=3),
    now=st.floats(0, 2000),
)
@settings(max_examples=80, deadline=None)
def test_totals_sum_to_wall_time_whatever_was_written(
    times: list[float], states: list[ev.State], stalls: list[float], now: float
) -> None:
    totals = timeline.Totals()
    for at, state in zip(times, itertools.cycle(states)):
        totals.change(state, at)
    found = totals.at(now)
    parts = found.model_dump(exclude={"started_at", "until"})
    wall = (found.until - found.started_at).total_seconds()
    assert sum(parts.values()) == pytest.approx(wall, abs=0.01)
    for seconds in stalls:
        totals.stall(seconds)
    after = totals.at(now).model_dump(exclude={"started_at", "until"})
    assert after["checkpoint_stall"] == pytest.approx(sum(stalls), abs=0.01)


# --- real agents ---------------------------------------------------------------------------------------


@pytest.mark.workloads
@pytest.mark.fault("F26")
def test_a_leader_that_leaves_between_two_signs_of_life_is_followed_without_loss(make_run: MakeRun) -> None:
    run = make_run(steps=120, every=1000, nodes=2, ranks=1, environment=LONG)
    leader, follower = run.start_all()
    run.training(1)
    fresh = wait_for("a sign of life in training", lambda: run.sign().get("step", 0) >= 3 and run.sign())
    wait_for("the next sign", lambda: run.sign().get("at") != fresh["at"])
    leader.send(signal.SIGTERM)
    leader.wait()
    saved = leader.verdict.step
    assert (run.sign()["step"], run.sign()["highestStep"]) == (saved, saved), "the last sign is the last step"
    replacement = run.start(0)
    assert replacement.wait() == 0, replacement.log
    assert follower.wait() == 0, follower.log
    (row,) = run.recoveries()
    assert (row["rung"], row["class"]) == ("RecreatePod", "Preempted")
    assert (row["fromStep"], row["resumedStep"], row["lostSteps"]) == (saved, saved, 0)
    assert row["seconds"]["total"] > 0


@pytest.mark.workloads
@pytest.mark.parametrize("sign", [None, b'{"at": 17', b'{"at": 1.0, "step": 1, "highestStep": 1}'])
def test_a_sign_of_life_that_is_lost_torn_or_old_spoils_no_row(make_run: MakeRun, sign: bytes | None) -> None:
    run = make_run(steps=40, every=5, nodes=1, ranks=1, environment=LONG)
    leader = run.start(0)
    run.reach(1, 10)
    leader.send(signal.SIGKILL)
    leader.wait()
    wait_for("its rank to be gone", lambda: not orphans(run.store.root))
    run.store.remove("leader.json")
    if sign is not None:
        run.store.write("leader.json", sign)
    replacement = run.start(0)
    assert replacement.wait() == 0, replacement.log
    (row,) = run.recoveries()
    assert row["resumedStep"] >= 10
    assert row["fromStep"] >= row["resumedStep"]
    assert row["lostSteps"] == row["fromStep"] - row["resumedStep"]
    assert json.loads(run.store.read("leader.json"))["highestStep"] == 40
