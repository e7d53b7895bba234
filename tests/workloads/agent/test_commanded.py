"""The gang of a job with a command of its own: histories of scripts that speak, and of scripts that do not."""

from __future__ import annotations

from typing import Any

import pytest

from windlass.api.contract import Orders, RankEvent
from windlass.api.meta import FailureClass, Phase, Reason
from windlass.api.status import Failure
from windlass_workloads.agent import events as ev
from windlass_workloads.agent.course import Mode
from windlass_workloads.agent.messages import Exited, Idle, Leaving, Said, Stop
from windlass_workloads.agent.view import View, phase_of
from workloads.agent.world import World

COMMAND = ["python", "/scripts/train.py"]
SILENCE = 61.0


def start(*, nodes: int = 1, ranks: int = 2, **changes: Any) -> World:
    """A gang whose ranks run, and have said nothing."""
    world = World(nodes=nodes, ranks=ranks, changes={"custom": COMMAND, **changes})
    world.open()
    for index in range(nodes):
        world.join(index)
    return world


def speak(world: World) -> World:
    world.begin_steps()
    return world


def fail(world: World, rank: int = 0, *, code: int = 1, tail: tuple[str, ...] = (), **fields: Any) -> None:
    """One rank ends by itself, and the others are stopped for it."""
    uid = world.uid(0)
    incarnation = world.running[uid].pop(rank)
    message = Exited(incarnation=incarnation, rank=rank, code=code, at=world.now, tail=list(tail), **fields)
    world.hear(uid, message)
    if not world.running[uid]:
        world.busy[uid] = 0
        world.hear(uid, Idle(incarnation=incarnation))


def test_nothing_is_prepared_and_ranks_start_at_once() -> None:
    world = start(nodes=2)
    assert set(world.tasks.values()) == {"train"}
    assert world.gang.mode is Mode.RUNNING and world.gang.prepared is None


@pytest.mark.parametrize("speaks", [True, False])
def test_all_ranks_at_zero_are_a_success(speaks: bool) -> None:
    world = speak(start()) if speaks else start()
    for rank in (1, 0):
        world.exit(world.uid(0), rank, code=0)
    assert world.ended is not None and world.ended.verdict.result == "Succeeded"


def test_a_rank_may_go_on_for_an_hour_after_the_first_has_ended() -> None:
    world = start()
    world.exit(world.uid(0), 1, code=0)
    world.tick(3500.0)
    assert world.gang.mode is Mode.RUNNING
    world.exit(world.uid(0), 0, code=0)
    assert world.ended is not None and world.ended.verdict.result == "Succeeded"


def test_a_rank_that_never_ends_is_a_fault_of_its_own() -> None:
    world = start()
    world.exit(world.uid(0), 1, code=0)
    world.tick(3601.0)
    assert len(world.records) == 2
    assert world.records[1].cause is not None
    assert "ranks [0] did not end" in world.records[1].cause.evidence[0]


# --- a command that says nothing --------------------------------------------------------------------


def test_silence_counts_as_training_from_the_start_of_the_ranks() -> None:
    world = start()
    began = world.gang.life.started_at if world.gang.life is not None else 0.0
    world.tick(SILENCE)
    assert world.gang.is_silent
    mark = world.commands(ev.Mark)[-1]
    assert (str(mark.state), mark.at) == ("Training", began)
    assert phase_of(world.gang, View()) is Phase.TRAIN


def test_before_that_it_is_said_to_start() -> None:
    world = start()
    world.tick(SILENCE - 5)
    assert not world.gang.is_silent and world.gang.unsaved_notice is None
    assert phase_of(world.gang, View()) is Phase.RENDEZVOUS


def test_the_notice_outlives_a_restart_and_ends_with_the_first_word() -> None:
    world = start()
    world.tick(SILENCE)
    fail(world, signal=9, code=137)
    assert world.gang.mode is Mode.RUNNING and world.gang.incarnation == 2
    assert "starts from the beginning" in (world.gang.unsaved_notice or "")
    speak(world)
    world.tick(1.0)
    assert world.gang.unsaved_notice is None


def test_a_recovery_of_a_silent_command_ends_with_the_start_of_its_ranks() -> None:
    world = start()
    world.tick(SILENCE)
    fail(world, signal=9, code=137)
    world.tick(SILENCE)
    (row,) = world.gang.recoveries
    assert (row.rung, row.from_step, row.lost_steps) == ("InPlace", 0, 0)
    assert row.seconds.total < 1.0


def test_a_script_that_speaks_late_was_not_training_before() -> None:
    """Imports and a large model may take longer than a minute: the first step is told of by the script."""
    world = start()
    world.tick(SILENCE)
    assert world.gang.is_silent
    world.say(world.uid(0), 0, type="Phase", phase=Phase.LOAD)
    assert not world.gang.is_silent
    assert world.states[-2:] == ["Training", "Loading"]
    world.tick(30.0)
    speak(world)
    mark = world.commands(ev.Mark)[-1]
    assert str(mark.state) == "Training" and mark.at is not None and mark.at > 1000.0 + SILENCE + 29


def test_what_fails_in_it_before_the_first_step_is_a_setting() -> None:
    world = start(ranks=1)
    world.tick(SILENCE)
    world.say(world.uid(0), 0, type="Phase", phase=Phase.LOAD)
    fail(world, tail=("ModuleNotFoundError: No module named 'einops'",))
    assert world.records[1].cause is not None
    assert world.records[1].cause.failure_class is FailureClass.CONFIGURATION


def test_who_has_spoken_before_is_waited_for_after_a_restart() -> None:
    world = speak(start())
    fail(world, signal=9, code=137)
    for rank in world.running[world.uid(0)]:
        assert world.running[world.uid(0)][rank] == 2
    world.tick(90.0)
    assert not world.gang.is_silent and world.gang.recoveries == ()
    speak(world)
    (row,) = world.gang.recoveries
    assert row.seconds.total >= 90.0
    assert not world.gang.is_silent


def test_a_silent_command_is_never_taken_for_stalled() -> None:
    world = start(stall={"action": "Restart", "limitSeconds": 60, "phaseLimitSeconds": 60})
    for _ in range(400):
        world.tick(1.0)
    assert world.gang.mode is Mode.RUNNING and len(world.records) == 1
    assert world.gang.stall_notice is None


@pytest.mark.parametrize("says", ["nothing", "steps only", "that it saves"])
def test_a_pod_comes_back_only_where_work_is_saved(says: str) -> None:
    """Taking it back ends all ranks: hours of a script without checkpoints would be lost by choice."""
    world = start(nodes=2, ranks=1, every=5, elastic={"minNodes": 1, "waitSeconds": 0})
    world.lose(1)
    world.tick(1.0)
    assert world.gang.incarnation == 2 and world.gang.mode is Mode.RUNNING
    if says != "nothing":
        speak(world)
        for _ in range(11):
            world.step(world.uid(0), 0)
    if says == "that it saves":
        world.checkpoint(world.uid(0), 0)
    world.tick(SILENCE)
    world.join(1)
    for _ in range(3):
        world.tick(1.0)
    assert (world.uid(0) in world.saving) is (says == "that it saves")
    assert (world.gang.unsaved_notice is None) is (says == "that it saves")


def test_a_validation_of_a_script_is_no_stall() -> None:
    world = speak(start(ranks=1, stall={"action": "Restart", "limitSeconds": 60}))
    world.step(world.uid(0), 0)
    world.say(world.uid(0), 0, type="Phase", phase=Phase.VALIDATE)
    for _ in range(2000):
        world.tick(1.0)
    assert len(world.records) == 1 and world.gang.stall_notice is None
    world.say(world.uid(0), 0, type="Phase", phase=Phase.TRAIN)
    for _ in range(80):
        world.tick(1.0)
    assert len(world.records) == 2, "what is no phase of its own is judged as a step"


def test_a_command_that_speaks_and_stands_still_is() -> None:
    world = speak(start(stall={"action": "Restart", "limitSeconds": 60, "phaseLimitSeconds": 60}))
    for rank in (0, 1):
        world.step(world.uid(0), rank)
    for _ in range(80):
        world.tick(1.0)
    assert len(world.records) == 2
    assert world.records[1].cause is not None
    assert world.records[1].cause.failure_class is FailureClass.STALL


# --- a command that saves, or should --------------------------------------------------------------


def test_steps_without_a_checkpoint_are_told_of_after_two_intervals() -> None:
    world = speak(start(every=5))
    for _ in range(9):
        world.step(world.uid(0), 0)
    assert world.gang.unsaved_notice is None
    world.step(world.uid(0), 0)
    assert world.gang.unsaved_notice == "no checkpoint has been seen by step 10 (checkpoint.everySteps is 5)"
    world.checkpoint(world.uid(0), 0)
    assert world.gang.unsaved_notice is None


def test_other_jobs_are_never_told_so() -> None:
    world = World(nodes=1).train()
    for _ in range(50):
        world.step(world.uid(0), 0)
    world.tick(SILENCE)
    assert world.gang.unsaved_notice is None and not world.gang.is_silent


def test_a_restart_goes_on_from_the_checkpoint_and_counts_what_was_lost() -> None:
    world = speak(start())
    for _ in range(3):
        world.step(world.uid(0), 0)
    world.checkpoint(world.uid(0), 0)
    world.step(world.uid(0), 0)
    fail(world, signal=9, code=137)
    assert world.records[1].resume == "step-00000003.i1"
    speak(world)
    (row,) = world.gang.recoveries
    assert (row.from_step, row.resumed_step, row.lost_steps) == (4, 3, 1)


# --- leaving ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 143])
def test_ranks_that_end_when_told_to_leave_have_not_succeeded(code: int) -> None:
    world = speak(start())
    for _ in range(2):
        world.step(world.uid(0), 0)
    world.checkpoint(world.uid(0), 0)
    world.feed(ev.Ordered(Orders(action="SaveAndExit")))
    assert [message.mode for message in world.told(world.uid(0)) if isinstance(message, Stop)] == ["Save"]
    for rank in list(world.running[world.uid(0)]):
        if rank in world.running[world.uid(0)]:
            world.exit(world.uid(0), rank, code=code, signal=15 if code else None)
    assert world.ended is not None
    assert (world.ended.verdict.result, world.ended.verdict.step, world.ended.verdict.lost_steps) == (
        "Preempted",
        2,
        0,
    )


def test_a_script_that_says_done_while_it_is_told_to_leave_is_done() -> None:
    world = speak(start(ranks=1))
    world.step(world.uid(0), 0)
    world.hear(world.uid(0), Leaving(at=world.now))
    done = RankEvent(type="Done", at=world.now, step=1)
    world.hear(world.uid(0), Said(incarnation=1, event=done))
    world.exit(world.uid(0), 0, code=0)
    assert world.ended is not None and world.ended.verdict.result == "Succeeded"


def test_what_is_left_after_the_grace_period_is_killed() -> None:
    world = speak(start(grace=20))
    world.feed(ev.Ordered(Orders(action="SaveAndExit")))
    world.tick(16.0)
    assert [message.mode for message in world.told(world.uid(0)) if isinstance(message, Stop)] == [
        "Save",
        "Kill",
    ]
    assert world.ended is not None and world.ended.verdict.result == "Preempted"


# --- failures ---------------------------------------------------------------------------------------

NO_MODULE = ("Traceback (most recent call last):", "ModuleNotFoundError: No module named 'mine'")
ENDS: list[tuple[str, dict[str, Any], str]] = [
    ("a missing module before any step", {"tail": NO_MODULE}, "Configuration"),
    ("a program that is not there", {"code": 127}, "Configuration"),
    ("a code that says so", {"code": 11}, "Configuration"),
    ("an error of its own", {"tail": ("ValueError: boom",)}, "Crash"),
    ("a signal", {"code": 139, "signal": 11}, "Crash"),
    ("our code for leaving", {"code": 14}, "Crash"),
    ("memory", {"tail": ("torch.OutOfMemoryError: CUDA out of memory",)}, "OutOfMemory"),
]


@pytest.mark.parametrize(("fields", "expected"), [row[1:] for row in ENDS], ids=[row[0] for row in ENDS])
def test_a_script_that_fails_at_once_is_judged_by_the_table(fields: dict[str, Any], expected: str) -> None:
    world = start()
    fail(world, **fields)
    assert world.records[1].cause is not None
    assert str(world.records[1].cause.failure_class) == expected


@pytest.mark.parametrize("fields", [row[1] for row in ENDS], ids=[row[0] for row in ENDS])
def test_a_script_that_fails_for_ever_is_given_up(fields: dict[str, Any]) -> None:
    world = start()
    for _ in range(8):
        if world.ended is not None:
            break
        fail(world, **fields)
    assert world.ended is not None and world.ended.verdict.result == "Failed"
    failure = world.ended.verdict.failure
    assert failure is not None and failure.first_failed.rank == 0


def test_a_module_that_goes_missing_while_it_trains_is_no_setting() -> None:
    world = speak(start())
    fail(world, tail=NO_MODULE)
    assert world.records[1].cause is not None
    assert world.records[1].cause.failure_class is FailureClass.CRASH


@pytest.mark.parametrize(("skip_steps", "windows"), [(0, []), (1, [(6, 7)]), (4, [(4, 7)])])
def test_a_loss_that_is_no_number_goes_back_and_past_the_batches(skip_steps: int, windows: list[Any]) -> None:
    world = speak(start(guards={"nonFinite": {"skipSteps": skip_steps}}))
    for step in range(1, 7):
        world.step(world.uid(0), 0)
        if step == 4:
            world.checkpoint(world.uid(0), 0)
    failure = Failure(
        reason=Reason.NON_FINITE, failure_class=FailureClass.NUMERIC, message="step 7: loss nan"
    )
    event = RankEvent(type="Failure", at=world.now, step=7, failure=failure)
    world.hear(world.uid(0), Said(incarnation=1, event=event))
    fail(world, code=1)
    record = world.records[1]
    assert record.resume == "step-00000004.i1"
    # Numbers of batches, from zero: step 7 trains on batch 6.
    assert record.skipped_windows == windows
