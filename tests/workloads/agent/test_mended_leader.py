"""What a leader tells of a run, and what it does about a store that fails."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from windlass.api.contract import Orders
from windlass.api.meta import FailureClass
from windlass.api.status import Failure
from windlass_workloads.agent import events as ev
from windlass_workloads.agent.messages import Leaving
from workloads.agent.lone_leader import LonePod, until
from workloads.agent.world import World


async def test_a_new_incarnation_is_reported_from_the_step_that_it_resumes_at(tmp_path: Path) -> None:
    """An operator takes no report that goes back within an incarnation, so the first must not be ahead."""
    pod = LonePod(tmp_path)
    async with pod.leading():
        await pod.train()
        pod.work(20)
        pod.save()
        pod.work(17)
        pod.exit(1)
        await until(lambda: pod.incarnation == 2)
        report = pod.leader._report()
        assert (report.incarnation, report.resume.step, report.progress.step) == (2, 20, 20)
        pod.begin()
        pod.work(1)
        await until(lambda: pod.leader._report().progress.step == 21)


# --- a run of one pod is preempted -------------------------------------------------------------------


async def test_a_preempted_run_of_one_pod_goes_on_with_a_row_that_says_so(tmp_path: Path) -> None:
    first = LonePod(tmp_path)
    async with first.leading() as life:
        await first.train()
        first.work(37)
        first.sink(Leaving(at=time.time()))
        await until(lambda: "Save" in first.stopped)
        first.save()
        first.say(type="Saved", step=37)
        first.exit(0)
        verdict = await life
    assert (verdict.result, verdict.step, verdict.lost_steps) == ("Preempted", 37, 0)
    second = LonePod(tmp_path, ticket=2)
    async with second.leading():
        await second.train()
        await until(lambda: second.leader._report().recoveries)
        (row,) = second.leader._report().recoveries
    assert (row.incarnation, str(row.failure_class), str(row.rung)) == (2, "Preempted", "RecreatePod")
    assert (row.from_step, row.resumed_step, row.lost_steps) == (37, 37, 0)
    assert row.seconds.total > 0


LEFT = {
    "one of one": (1, (0,), False, "Pod"),
    "one of one, suspended": (1, (), True, "Whole"),
    "both of two": (2, (0, 1), False, "Whole"),
    "the leader of two": (2, (0,), False, "Pod"),
    "two, suspended": (2, (), True, "Whole"),
}


@pytest.mark.parametrize("case", list(LEFT))
def test_only_a_run_that_was_meant_to_stop_has_left_as_a_whole(case: str) -> None:
    nodes, leaving, suspended, left = LEFT[case]
    world = World(nodes=nodes).train()
    world.step(world.uid(0), 0)
    if suspended:
        world.feed(ev.Ordered(Orders(action="SaveAndExit")))
    for index in leaving:
        world.hear(world.uid(index), Leaving(at=world.now))
    for index in range(nodes):
        world.exit(world.uid(index), index, code=0)
    assert world.ended is not None
    assert world.commands(ev.Mark)[-1].left == left


def test_a_leader_whose_follower_is_gone_leaves_with_its_pod_only() -> None:
    world = World(nodes=2).train()
    world.lose(1)
    world.hear(world.uid(0), Leaving(at=world.now))
    assert world.commands(ev.Mark)[-1].left == "Pod"


# --- the ledger ------------------------------------------------------------------------------------------


async def test_the_ledger_lists_nothing_that_the_new_incarnation_does_not_accept(tmp_path: Path) -> None:
    pod = LonePod(tmp_path)
    async with pod.leading():
        await pod.train()
        names = []
        for _ in range(2):
            pod.work(5)
            names.append(pod.save())
        await until(lambda: len(pod.leader._report().checkpoints) == 2)
        unusable = Failure(
            reason="CheckpointUnusable",
            failure_class=FailureClass.STORAGE,
            message="its content does not match its digests",
        )
        pod.exit(139, signal=11)
        for incarnation in (2, 3):
            await until(lambda number=incarnation: pod.incarnation == number)
            pod.say(type="Failure", failure=unusable)
            pod.exit(13)
        await until(lambda: pod.incarnation == 4)
        report = pod.leader._report()
        assert report.resume.name == names[0], "the newer one failed to load twice"
        assert [row.name for row in report.checkpoints] == names[:1]
        pod.begin()
        pod.work(1)
        later = pod.save()
        await until(lambda: pod.leader._report().checkpoints[0].name == later)
        assert [row.name for row in pod.leader._report().checkpoints] == [later, names[0]]


# --- a pod whose time is up before its save ----------------------------------------------------------------


async def test_a_pod_that_ran_out_of_time_is_followed_without_a_charge(tmp_path: Path) -> None:
    first = LonePod(tmp_path)
    async with first.leading() as life:
        await first.train()
        first.work(20)
        first.save()
        first.work(17)
        first.sink(Leaving(at=time.time()))
        await until(lambda: "Save" in first.stopped)
        first.end(first.parting())
        verdict = await life
    assert (verdict.result, verdict.step, verdict.lost_steps) == ("Preempted", 20, 17)
    second = LonePod(tmp_path, ticket=2)
    async with second.leading():
        await second.train()
        await until(lambda: second.leader._report().recoveries)
        (row,) = second.leader._report().recoveries
        assert (str(row.failure_class), row.from_step, row.resumed_step) == ("Preempted", 37, 20)
        assert second.leader._gang.budgets.used == {}


async def test_a_verdict_stands_when_the_time_is_up_after_it(tmp_path: Path) -> None:
    pod = LonePod(tmp_path)
    async with pod.leading() as life:
        await pod.train()
        pod.work(3)
        pod.say(type="Done", step=3)
        pod.exit(0)
        assert (await life).result == "Succeeded"
        assert pod.parting().result == "Succeeded"
