"""Where ranks may not be restarted in their pods, the leader gives its own pod up as well."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from windlass.api.contract import Orders
from windlass.api.meta import FailureClass
from windlass_workloads.agent import events as ev
from windlass_workloads.agent.course import Mode
from workloads.agent.lone_leader import LonePod, until
from workloads.agent.world import World

ALL = ["InPlace", "RecreatePod", "RecreateGang"]
PODS = ["RecreatePod", "RecreateGang"]
GANG = ["RecreateGang"]

# ladder, whether the operator answers, whose rank crashes: the pods that go, and how the leader left
GOING: dict[str, tuple[list[str], bool, int, set[int], str]] = {
    "in place is allowed": (ALL, True, 0, set(), ""),
    "pods only, the leader's": (PODS, True, 0, {0}, "Pod"),
    "pods only, a follower's": (PODS, True, 1, {1}, ""),
    "gang only": (GANG, True, 1, {0, 1}, "Pod"),
    "gang only, the leader's": (GANG, True, 0, {0, 1}, "Pod"),
    "pods only, no operator": (PODS, False, 0, set(), ""),
    "gang only, no operator": (GANG, False, 1, set(), ""),
    "order does not matter": ([*reversed(ALL)], True, 0, set(), ""),
}


@pytest.mark.parametrize("case", list(GOING))
def test_the_ladder_says_which_pods_go(case: str) -> None:
    ladder, answers, index, going, left = GOING[case]
    world = World(nodes=2, changes={"ladder": ladder}).train()
    if answers:
        world.feed(ev.Ordered(Orders()))
    world.exit(world.uid(index), index, code=139, signal=11)
    gone = {each for each in (0, 1) if world.uid(each) in world.finished} | ({0} if world.ended else set())
    assert gone == going
    assert (world.ended is not None) is (0 in going)
    marks = world.commands(ev.Mark)
    assert marks[-1].left == left
    if world.ended is not None:
        assert world.ended.verdict.result == "Preempted"
        assert world.gang.recoveries == (), "the next leader tells the row"
    else:
        assert world.gang.mode is (Mode.GATHERING if going else Mode.RUNNING)
        assert len(world.records) == 2


async def crash_until_handed_over(pod: LonePod) -> None:
    async with pod.leading() as life:
        await pod.train()
        pod.leader._ordered(Orders())
        pod.exit(139, signal=11)
        verdict = await asyncio.wait_for(life, 10.0)
    assert verdict.result == "Preempted"


async def test_the_next_leader_tells_the_fault_for_which_a_pod_was_given_up(tmp_path: Path) -> None:
    first = LonePod(tmp_path, ladder=PODS)
    await crash_until_handed_over(first)
    second = LonePod(tmp_path, ticket=2, ladder=PODS)
    async with second.leading():
        await second.train()
        await until(lambda: second.leader._report().recoveries)
        (row,) = second.leader._report().recoveries
        assert (str(row.rung), row.failure_class, row.signal) == ("RecreatePod", FailureClass.CRASH, 11)
        assert (row.first_failed.rank, row.first_failed.pod) == (0, "toy-0-1")
        assert second.leader._gang.budgets.used == {FailureClass.CRASH: 1}, "charged once"


async def test_pods_that_are_given_up_one_after_the_other_use_the_budget_up(tmp_path: Path) -> None:
    changes = {"ladder": PODS, "budgets": {"crash": 1}}
    await crash_until_handed_over(LonePod(tmp_path, **changes))
    last = LonePod(tmp_path, ticket=2, **changes)
    async with last.leading() as life:
        await last.train()
        last.leader._ordered(Orders())
        last.exit(139, signal=11)
        verdict = await asyncio.wait_for(life, 10.0)
    assert verdict.result == "Failed" and verdict.failure is not None
    assert verdict.failure.reason == "BudgetExhausted"
