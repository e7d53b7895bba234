"""A pod whose node is at fault is let go, and the operator learns from its verdict which node to avoid and why."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from windlass.api.contract import Orders, Suspicion, Verdict
from windlass.api.meta import Exclusion, ExitCode, FailureClass, SuspectReason
from windlass.api.status import Failure
from windlass_workloads.agent import events as ev
from windlass_workloads.agent.course import Mode
from windlass_workloads.agent.verdict import MAXIMUM_BYTES, encode, exit_code
from workloads.agent.lone_leader import LonePod, until
from workloads.agent.world import World

ALL = ["InPlace", "RecreatePod", "OtherNode", "RecreateGang"]
WITHOUT = ["InPlace", "RecreatePod", "RecreateGang"]
BROKEN = "NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus"
RESET = "RuntimeError: temporary failure in name resolution"


def fail(world: World, index: int, line: str) -> None:
    """The only rank of a pod says one line and crashes."""
    uid = world.uid(index)
    told = Failure(reason="Crash", failure_class=FailureClass.CRASH, message=line)
    world.say(uid, index, type="Failure", failure=told)
    world.exit(uid, index, code=10)


def trained(ladder: list[str] = ALL, *, answers: bool = True, nodes: int = 2) -> World:
    world = World(nodes=nodes, changes={"ladder": ladder}).train()
    if answers:
        world.feed(ev.Ordered(Orders()))
    return world


def suspicions(world: World) -> dict[int, Suspicion | None]:
    """What is said against the node of each pod that was let go, by index."""
    found = {int(uid.split("-")[1]): finish.verdict.suspicion for uid, finish in world.finished.items()}
    if world.ended is not None:
        found[0] = world.ended.verdict.suspicion
    return found


@pytest.mark.fault("F30")
def test_a_follower_on_a_broken_device_is_let_go_at_once() -> None:
    world = trained()
    fail(world, 1, BROKEN)
    (found,) = suspicions(world).values()
    assert set(suspicions(world)) == {1} and found is not None
    assert (found.reason, found.exclusion) == (SuspectReason.DEVICE_ERROR, Exclusion.REQUIRED)
    assert found.failure_class is FailureClass.INFRASTRUCTURE
    assert BROKEN in found.evidence[0] or BROKEN in world.records[-1].cause.evidence[0]
    assert (world.gang.mode, world.ended) == (Mode.GATHERING, None)
    cause = world.records[-1].cause
    assert (cause.rung, cause.failure_class, cause.first_failed.node) == (
        "OtherNode",
        "Infrastructure",
        "node-1",
    )
    assert world.records[-1].budgets.nodes == {"node-1": 1}


@pytest.mark.fault("F30")
def test_a_leader_on_a_broken_device_hands_over_and_only_its_pod_goes() -> None:
    world = trained()
    fail(world, 0, BROKEN)
    assert set(suspicions(world)) == {0}
    assert world.ended is not None
    verdict = world.ended.verdict
    assert (verdict.result, exit_code(verdict)) == ("Preempted", ExitCode.PREEMPTED)
    assert verdict.suspicion is not None and verdict.suspicion.exclusion is Exclusion.REQUIRED
    assert world.commands(ev.Mark)[-1].left == "Pod"


# (ladder, whether the operator answers, whose rank, what it says: the pods that go, mode)
STAYING: dict[str, tuple[list[str], bool, int, str]] = {
    "the ladder has no such rung": (WITHOUT, True, 1, BROKEN),
    "the operator is away": (ALL, False, 1, BROKEN),
    "the operator is away, the leader's": (ALL, False, 0, BROKEN),
    "first failure that may be an accident": (ALL, True, 1, RESET),
    "a crash": (ALL, True, 1, "ValueError: x"),
    "too little memory": (ALL, True, 1, "torch.OutOfMemoryError: CUDA out of memory"),
}


@pytest.mark.parametrize("case", list(STAYING))
def test_who_stays_where_it_is(case: str) -> None:
    ladder, answers, index, line = STAYING[case]
    world = trained(ladder, answers=answers)
    fail(world, index, line)
    assert suspicions(world) == {}
    assert world.gang.mode is Mode.RUNNING
    assert world.records[-1].cause.rung == "InPlace"


@pytest.mark.parametrize(("index", "mode"), [(1, Mode.GATHERING), (0, Mode.ENDED)])
def test_second_failure_of_the_infrastructure_on_one_node_moves_its_pod(index: int, mode: Mode) -> None:
    world = trained()
    fail(world, index, RESET)
    world.begin_steps()
    assert world.gang.mode is Mode.RUNNING
    fail(world, index, RESET)
    found = suspicions(world)[index]
    assert found is not None
    assert (found.reason, found.exclusion) == (SuspectReason.REPEATED_FAILURES, Exclusion.PREFERRED)
    assert world.gang.mode is mode


def test_one_failure_each_on_two_nodes_moves_nobody() -> None:
    world = trained()
    for index in (0, 1):
        fail(world, index, RESET)
        world.begin_steps()
    assert suspicions(world) == {}
    assert world.records[-1].budgets.nodes == {"node-0": 1, "node-1": 1}


def test_crashes_climb_to_another_node_before_the_whole_gang_goes() -> None:
    world, rungs = trained(), []
    for number in range(5):
        world.feed(ev.Ordered(Orders()))
        fail(world, 1, f"ValueError: {'abcde'[number]}")
        rungs.append(str(world.records[-1].cause.rung))
        if world.uid(1) in world.finished:
            world.join(1)
        world.begin_steps()
    assert rungs == ["InPlace", "InPlace", "RecreatePod", "OtherNode", "InPlace"]
    assert world.gang.wants_gang, "the operator is asked for a new gang"


def test_a_pod_that_is_gone_already_is_the_operators_to_place() -> None:
    """Twice from one node: the row does not claim that the node is avoided, for no verdict says so."""
    world = trained()
    world.feed(ev.Ordered(Orders()))
    for _ in range(2):
        world.lose(1)
        for uid, ranks in list(world.running.items()):
            for rank in list(ranks):
                world.exit(uid, rank, code=137, signal=9, ordered=True)
        assert world.records[-1].cause.rung == "RecreatePod"
        world.join(1)
        world.begin_steps()
    assert suspicions(world) == {}


@pytest.mark.fault("F30")
async def test_the_next_leader_tells_that_the_pod_was_moved(tmp_path: Path) -> None:
    first = LonePod(tmp_path, ladder=ALL)
    async with first.leading() as life:
        await first.train()
        first.leader._ordered(Orders())
        told = Failure(reason="Crash", failure_class=FailureClass.CRASH, message=BROKEN)
        first.say(type="Failure", failure=told)
        first.exit(10)
        verdict = await asyncio.wait_for(life, 10.0)
    assert verdict.suspicion is not None and verdict.suspicion.reason is SuspectReason.DEVICE_ERROR
    second = LonePod(tmp_path, ticket=2, ladder=ALL)
    async with second.leading():
        await second.train()
        await until(lambda: second.leader._report().recoveries)
        (row,) = second.leader._report().recoveries
        assert (str(row.rung), row.failure_class) == ("OtherNode", FailureClass.INFRASTRUCTURE)
        assert row.first_failed.node == "node-0"
        assert second.leader._gang.budgets.used == {FailureClass.INFRASTRUCTURE: 1}, "charged once"


@pytest.mark.parametrize("letter", ["x", "\U0001f4a5", "\x1b"], ids=["plain", "wide", "escaped"])
def test_a_long_suspicion_still_fits_into_the_termination_message(letter: str) -> None:
    verdict = Verdict(
        result="Preempted",
        suspicion=Suspicion(
            reason=SuspectReason.DEVICE_ERROR,
            exclusion=Exclusion.REQUIRED,
            failure_class=FailureClass.INFRASTRUCTURE,
            evidence=[letter * 400] * 4,
        ),
    )
    data = encode(verdict)
    assert len(data) <= MAXIMUM_BYTES
    again = Verdict.model_validate_json(data)
    assert again.suspicion is not None and again.suspicion.exclusion is Exclusion.REQUIRED
