"""What the gang does about ranks that stand still or slow the others down, with the stacks that it asks for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.api.contract import RankEvent
from windlass.api.meta import FailureClass, Phase, Reason
from windlass_workloads.agent import events as ev
from windlass_workloads.agent.course import Mode
from windlass_workloads.agent.guarding import STACKS_SECONDS
from windlass_workloads.agent.messages import Dump, Leaving, Said, Stacks, Stop
from windlass_workloads.agent.stragglers import STEPS, WARM_STEPS, WINDOWS
from workloads.agent.world import World

AT_WORK = [
    "Current thread 0x1 (most recent call first):",
    '  File "/app/data/arrays.py", line 40 in rows',
    '  File "/app/agent/child.py", line 66 in run_rank',
]
WAITING = [
    "Current thread 0x2 (most recent call first):",
    '  File "/x/site-packages/torch/distributed/distributed_c10d.py", line 2799 in all_reduce',
    '  File "/app/train/runtime.py", line 62 in sum_over_ranks',
    '  File "/app/agent/child.py", line 66 in run_rank',
]
TWENTY = {"limitSeconds": 20, "phaseLimitSeconds": 60}


def trained(stall: dict[str, Any] | None = None, *, nodes: int = 2, steps: int = 3, **changes: Any) -> World:
    """A gang that has finished some steps."""
    world = World(nodes=nodes, changes={"stall": TWENTY if stall is None else stall, **changes}).train()
    work(world, steps)
    return world


def everyone(world: World) -> list[tuple[str, int]]:
    return [(uid, rank) for uid, ranks in world.running.items() for rank in ranks]


def work(world: World, steps: int) -> None:
    for _ in range(steps):
        for uid, rank in everyone(world):
            world.step(uid, rank)


def live(world: World, seconds: float) -> None:
    """Time passes, in ticks that a living leader makes."""
    for _ in range(round(seconds)):
        world.tick(1.0)


def dumps(world: World) -> list[str]:
    return [command.pod_uid for command in world.commands(ev.Tell) if isinstance(command.message, Dump)]


def answer(world: World, index: int, lines: list[str], *, state: str = "S", incarnation: int = 1) -> None:
    world.hear(world.uid(index), Stacks(incarnation=incarnation, rank=index, state=state, lines=lines))


def answer_all(world: World, *, stuck: int = 1) -> None:
    for index in list(world.pods):
        answer(world, index, AT_WORK if index == stuck else WAITING)


def kills(world: World) -> int:
    return sum(
        isinstance(command.message, Stop) and command.message.mode == "Kill"
        for command in world.commands(ev.Tell)
    )


# --- restarts -----------------------------------------------------------------------------------------------


@pytest.mark.fault("F40")
def test_a_gang_that_stands_is_restarted_in_place_with_its_stacks_kept() -> None:
    world = trained()
    world.checkpoint(world.uid(0), 0)
    work(world, 2)
    live(world, 19.0)
    assert dumps(world) == []
    live(world, 3.0)
    assert dumps(world) == [world.uid(0), world.uid(1)]
    assert kills(world) == 0, "stacks come first"
    answer_all(world)
    assert (world.gang.mode, world.newest) == (Mode.RUNNING, 2)
    kept = {command.rank: command.lines for command in world.commands(ev.KeepLog) if command.what == "stacks"}
    assert kept == {0: tuple(WAITING), 1: tuple(AT_WORK)}
    cause = world.records[1].cause
    assert (str(cause.failure_class), str(cause.rung), cause.from_step) == ("Stall", "InPlace", 5)
    assert (cause.first_failed.rank, cause.first_failed.pod) == (1, "toy-1-2")
    assert "rank 1 in rows (arrays.py:40)" in cause.evidence
    assert world.records[1].budgets.used == {FailureClass.STALL: 1}
    assert world.records[1].resume == "step-00000003.i1"


def test_the_row_tells_how_long_nothing_moved_and_those_seconds_are_no_training() -> None:
    world = trained()
    stopped = world.now
    live(world, 22.0)
    answer_all(world)
    world.begin_steps()
    (row,) = world.gang.recoveries
    assert row.seconds.detect == pytest.approx(22.0, abs=1.5)
    assert row.at.timestamp() == pytest.approx(stopped, abs=1.5)
    marks = [command for command in world.commands(ev.Mark) if command.state is ev.State.RECOVERING]
    assert [mark.at for mark in marks] == [pytest.approx(stopped, abs=1.5)]


def test_a_rank_that_does_not_answer_is_the_one() -> None:
    world = trained()
    live(world, 22.0)
    answer(world, 0, WAITING)
    assert world.newest == 1
    answer(world, 1, [], state="T")
    assert world.newest == 2
    assert world.records[1].cause.first_failed.rank == 1
    assert world.gang.last_failure.message.endswith("the process of rank 1 is stopped by a signal")


def test_a_pod_that_does_not_answer_is_not_waited_for() -> None:
    world = trained()
    live(world, 22.0)
    answer(world, 0, WAITING)
    live(world, STACKS_SECONDS + 2.0)
    assert world.newest == 2
    assert world.records[1].cause.first_failed.rank == 1


def test_a_gang_that_moves_while_its_stacks_are_collected_is_left_alone() -> None:
    world = trained()
    live(world, 22.0)
    work(world, 1)
    answer_all(world)
    live(world, 15.0)
    assert (world.newest, kills(world), world.gang.stall_notice) == (1, 0, None)
    live(world, 10.0)
    assert len(dumps(world)) == 4, "and watched as before"


def test_one_rank_that_moves_does_not_save_a_gang_that_waits_for_another() -> None:
    world = trained()
    live(world, 18.0)
    world.step(world.uid(0), 0)
    live(world, 4.0)
    answer_all(world)
    assert world.newest == 2
    assert world.records[1].cause.first_failed.rank == 1
    assert "did not get as far" in world.gang.last_failure.message


@pytest.mark.parametrize(
    ("phase", "words", "storage"),
    [
        (Phase.SAVE, "a save took more than 60 s", True),
        (Phase.VALIDATE, "validation took more than 60 s", False),
        (Phase.EXPORT, "the export took more than 60 s", False),
    ],
)
@pytest.mark.fault("F57")
def test_other_phases_have_their_own_limit_and_their_name(phase: Phase, words: str, storage: bool) -> None:
    world = trained()
    for uid, rank in everyone(world):
        world.say(uid, rank, type="Phase", phase=phase)
    live(world, 59.0)
    assert dumps(world) == []
    live(world, 3.0)
    answer_all(world)
    failure = world.gang.last_failure
    assert failure.message.startswith(words) and failure.reason == Reason.STALL
    assert ("checkpoint.store" in failure.hint) is storage


def test_a_rank_that_never_speaks_is_late_by_the_limit_of_the_rendezvous() -> None:
    world = World(nodes=2, changes={"stall": TWENTY})
    world.open()
    world.join(0)
    world.join(1)
    world.prepare()
    live(world, 500.0)
    assert dumps(world) == [], "a task that tells nothing at all is not known to be late"
    world.say(world.uid(0), 0, type="Phase", phase=Phase.LOAD)
    live(world, 62.0)
    answer_all(world)
    assert world.newest == 2
    assert world.records[1].cause.first_failed.rank == 1
    assert "the rendezvous took more than 60 s" in world.gang.last_failure.message


def test_the_same_stall_for_ever_ends_the_run() -> None:
    world = trained()
    for incarnation in range(1, 9):
        if world.ended is not None:
            break
        for uid, rank in everyone(world):
            world.say(uid, rank, type="Phase", phase=Phase.TRAIN)
        work(world, 1)
        live(world, 30.0)
        for index in list(world.pods):
            answer(world, index, WAITING, incarnation=incarnation)
        live(world, 400.0)
    assert world.ended is not None and world.ended.verdict.failure is not None
    assert world.ended.verdict.failure.failure_class is FailureClass.STALL
    assert world.ended.verdict.failure.reason == Reason.NO_PROGRESS


# --- who is told only ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stall", "why"),
    [
        ({**TWENTY, "action": "Notify"}, "the user wants to know only"),
        ({"phaseLimitSeconds": 60}, "no limit for steps has been learned"),
    ],
)
def test_a_stall_that_may_not_be_acted_upon_is_told_with_its_stacks(stall: dict[str, Any], why: str) -> None:
    world = trained(stall)
    live(world, 22.0 if "limitSeconds" in stall else 3602.0)
    answer_all(world)
    assert (world.newest, kills(world)) == (1, 0), why
    notice = world.gang.stall_notice
    assert notice is not None and "rank 1 did not come to where the others wait" in notice
    assert "rank 0: waits in sum_over_ranks (runtime.py:62)" in notice
    assert len([each for each in world.commands(ev.KeepLog) if each.what == "stacks"]) == 2
    live(world, 100.0)
    assert world.gang.stall_notice == notice, "said once, and the same as long as it lasts"
    assert len(dumps(world)) == 2
    work(world, 1)
    live(world, 2.0)
    assert world.gang.stall_notice is None


def test_limits_learned_from_steps_are_acted_upon() -> None:
    world = trained({})
    for number in range(4, 40):
        for uid, rank in everyone(world):
            world.steps[rank] = number
            world.say(uid, rank, type="Step", step=number, seconds=40.0)
    live(world, 399.0)
    assert dumps(world) == []
    live(world, 3.0)
    answer_all(world)
    assert world.newest == 2
    assert "for more than 400 s" in world.gang.last_failure.message


def test_off_does_not_watch() -> None:
    world = trained({**TWENTY, "action": "Off"})
    live(world, 5000.0)
    assert dumps(world) == [] and world.gang.stall_notice is None


# --- what is not watched ------------------------------------------------------------------------------------


def test_a_gang_that_saves_because_a_pod_leaves_has_the_limit_of_its_grace() -> None:
    world = trained()
    world.hear(world.uid(1), Leaving(at=world.now))
    assert world.gang.mode is Mode.SAVING
    live(world, 14.0)
    assert dumps(world) == []


def test_data_may_be_prepared_for_as_long_as_it_takes() -> None:
    world = World(nodes=1, changes={"stall": TWENTY})
    world.open()
    world.join(0)
    assert world.gang.mode is Mode.PREPARING
    live(world, 5000.0)
    assert dumps(world) == []


def test_ranks_that_end_one_after_the_other_have_a_limit_of_their_own() -> None:
    world = trained()
    world.say(world.uid(0), 0, type="Done", step=3)
    world.exit(world.uid(0), 0, code=0)
    live(world, 100.0)
    assert dumps(world) == []


def test_an_open_phase_of_an_incarnation_that_ended_is_forgotten() -> None:
    world = trained()
    for uid, rank in everyone(world):
        world.say(uid, rank, type="Phase", phase=Phase.SAVE)
    live(world, 59.0)
    world.exit(world.uid(1), 1, code=1)
    assert world.newest == 2
    world.begin_steps()
    live(world, 55.0)
    assert dumps(world) == []


@pytest.mark.parametrize("when", ["of another incarnation", "that nobody asked for", "after the judgement"])
def test_stacks_that_are_not_asked_for_change_nothing(when: str) -> None:
    world = trained({**TWENTY, "action": "Notify"})
    if when != "that nobody asked for":
        live(world, 22.0)
    if when == "after the judgement":
        answer_all(world)
    notice, before = world.gang.stall_notice, len(world.commands(ev.KeepLog))
    for index in (0, 1):
        number = 7 if when == "of another incarnation" else 1
        answer(world, index, AT_WORK, incarnation=number)
    assert (world.gang.stall_notice, len(world.commands(ev.KeepLog))) == (notice, before)


def test_words_of_an_incarnation_that_is_gone_are_no_progress() -> None:
    world = trained()
    live(world, 19.0)
    old = Said(incarnation=9, event=RankEvent(type="Step", at=1.0, rank=1, step=99))
    world.hear(world.uid(1), old)
    live(world, 3.0)
    assert len(dumps(world)) == 2


# --- stragglers ---------------------------------------------------------------------------------------------


def pace(world: World, steps: int, *own: float) -> None:
    for _ in range(steps):
        for uid, rank in everyone(world):
            world.steps[rank] += 1
            world.say(uid, rank, type="Step", step=world.steps[rank], seconds=1.0, own_seconds=own[rank])
        live(world, 1.0)


@pytest.mark.fault("F42")
def test_a_slow_rank_is_told_with_its_place_and_nothing_is_done_about_it() -> None:
    world = trained()
    pace(world, WARM_STEPS + (STEPS + 2) * WINDOWS, 0.4, 0.9)
    assert world.gang.straggler_notice == (
        "rank 1 (pod toy-1-2, node node-1) takes 2.2 times as long as the others, "
        "before it first waits for them in a step"
    )
    assert (world.newest, kills(world), world.gang.mode) == (1, 0, Mode.RUNNING)
    world.exit(world.uid(1), 1, code=1)
    assert world.gang.straggler_notice is None, "a new incarnation has to show it again"


def test_many_slow_ranks_are_told_in_one_sentence() -> None:
    world = trained(nodes=14)
    pace(world, WARM_STEPS + (STEPS + 2) * WINDOWS, *[0.4] * 8, *[0.9] * 6)
    notice = world.gang.straggler_notice
    assert notice is not None and "; and 2 more, before" in notice
    assert notice.count("times as long") == 4


# --- any history --------------------------------------------------------------------------------------------


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_a_gang_that_steps_within_its_limit_is_never_asked(data: st.DataObject) -> None:
    world = trained()
    for _ in range(data.draw(st.integers(1, 10))):
        live(world, data.draw(st.integers(0, 18)))
        if data.draw(st.booleans()):
            for uid, rank in everyone(world):
                world.say(uid, rank, type="Phase", phase=Phase.SAVE)
            live(world, data.draw(st.integers(0, 58)))
            world.checkpoint(world.uid(0), 0)
            for uid, rank in everyone(world):
                world.say(uid, rank, type="Phase", phase=Phase.TRAIN)
        work(world, 1)
        if world.newest < 3 and data.draw(st.booleans()):
            world.exit(world.uid(1), 1, code=1)
            world.begin_steps()
    assert dumps(world) == [] and world.gang.stall_notice is None


OPERATIONS = st.lists(
    st.sampled_from(
        ["live", "work", "one steps", "save", "answer", "one answers", "exit", "lose", "join", "begin"]
    ),
    min_size=1,
    max_size=40,
)


def operate(world: World, what: str, wait: int) -> None:
    uids = everyone(world)
    if what == "live":
        live(world, wait)
    elif what == "work" and uids:
        work(world, 1)
    elif what == "one steps" and uids:
        world.step(*uids[wait % len(uids)])
    elif what == "save":
        for uid, rank in uids:
            world.say(uid, rank, type="Phase", phase=Phase.SAVE)
    elif what == "answer":
        for index in list(world.pods):
            answer(world, index, WAITING, incarnation=world.newest)
    elif what == "one answers" and world.pods:
        answer(world, sorted(world.pods)[wait % len(world.pods)], AT_WORK, incarnation=world.newest)
    elif what == "exit" and uids:
        world.exit(*uids[wait % len(uids)], code=1)
    elif what == "lose" and 1 in world.pods:
        world.lose(1)
    elif what == "join" and 1 not in world.pods:
        world.join(1)
    elif what == "begin":
        world.begin_steps()


@given(OPERATIONS, st.lists(st.integers(0, 70), min_size=40, max_size=40))
@settings(max_examples=60, deadline=None)
def test_whatever_happens_ranks_of_one_incarnation_run_and_each_stall_is_paid_for(
    operations: list[str], waits: list[int]
) -> None:
    """The world itself asserts that no rank starts on top of another and that a run ends once."""
    world = trained(budgets={"stall": 1000, "crash": 1000, "infrastructure": 1000})
    for what, wait in zip(operations, waits, strict=False):
        if world.ended is not None:
            break
        operate(world, what, wait)
        assert world.gang.stall_notice is None, "a given limit is acted upon"
    stalls = [each for each in world.records if each.cause and each.cause.failure_class is FailureClass.STALL]
    asked = len(dumps(world))
    assert len(stalls) <= asked, "no restart without a look at the stacks"
