"""A gang that goes on with fewer nodes: who starts, who is waited for, who is taken back, and what the rows say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant

from windlass.api.contract import AcceptedCheckpoint
from windlass_workloads.agent import events as ev
from windlass_workloads.agent.course import Mode
from windlass_workloads.agent.elastic import GATHER_SECONDS, Elastic
from windlass_workloads.agent.launch import rank_contexts
from windlass_workloads.agent.messages import Hello, Leaving, Ready, Start
from windlass_workloads.agent.roster import Roster
from workloads.agent.support import config
from workloads.agent.test_gang import AnyHistory
from workloads.agent.world import World

WAIT = 60
ELASTIC = {"elastic": {"minNodes": 2, "waitSeconds": WAIT}}


def elastic_world(nodes: int = 4, **elastic: Any) -> World:
    policy = {"minNodes": 2, "waitSeconds": WAIT} | elastic
    return World(nodes=nodes, changes={"elastic": policy})


def training(nodes: int = 4, **elastic: Any) -> World:
    """A whole gang at step 3, with a checkpoint of step 2."""
    world = elastic_world(nodes, **elastic).train()
    leader = world.uid(0)
    for _ in range(2):
        world.step(leader, 0)
    world.checkpoint(leader, 0)
    world.step(leader, 0)
    return world


def crew(world: World) -> dict[str, list[int]]:
    """Ranks by pod."""
    return {uid: sorted(ranks) for uid, ranks in world.running.items() if ranks}


def last_row(world: World) -> Any:
    return world.gang.recoveries[-1]


# --- the policy by itself -------------------------------------------------------------------------------


def roster_of(nodes: int, present: dict[int, bool]) -> Roster:
    roster = Roster(nodes)
    for index, ready in present.items():
        hello = Hello(
            pod=f"p-{index}",
            pod_uid=f"u-{index}",
            pod_ip="",
            node="",
            index=index,
            ticket=1,
            attempt=1,
            ready=ready,
        )
        roster.add(hello)
    return roster


@pytest.mark.parametrize(
    ("present", "seconds", "starts"),
    [
        ({0: True, 1: True, 2: True}, 0.0, 3),
        ({0: True, 1: True}, 59.9, 0),
        ({0: True, 1: True}, 60.0, 2),
        ({0: True, 1: True, 2: False}, 60.0, 2),
        ({0: True}, 3600.0, 0),
        ({1: True, 2: True}, 3600.0, 0),
        ({0: False, 1: True, 2: True}, 3600.0, 0),
    ],
    ids=["whole", "not-yet", "waited", "still-importing", "too-few", "no-leader", "leader-imports"],
)
def test_who_starts_when(present: dict[int, bool], seconds: float, starts: int) -> None:
    policy = Elastic(nodes=3, min_nodes=2, wait_seconds=60.0)
    roster = roster_of(3, present)
    policy.watch(roster, 100.0)
    policy.watch(roster, 100.0 + seconds)
    assert len(policy.crew(roster, 100.0 + seconds)) == starts


def test_waiting_begins_anew_for_each_that_goes() -> None:
    policy = Elastic(nodes=3, min_nodes=1, wait_seconds=60.0)
    policy.watch(roster_of(3, {0: True, 1: True}), 100.0)
    policy.watch(roster_of(3, {0: True}), 150.0)
    assert policy.crew(roster_of(3, {0: True}), 160.0) == [], "the second has been away for ten seconds only"
    assert len(policy.crew(roster_of(3, {0: True}), 210.0)) == 1


def test_one_that_came_back_is_waited_for_again_when_it_goes_again() -> None:
    policy = Elastic(nodes=2, min_nodes=1, wait_seconds=60.0)
    policy.watch(roster_of(2, {0: True}), 100.0)
    policy.watch(roster_of(2, {0: True, 1: True}), 150.0)
    policy.watch(roster_of(2, {0: True}), 155.0)
    assert policy.waits(200.0) and not policy.waits(215.0)


@pytest.mark.parametrize(("seconds", "starts"), [(29.9, 0), (30.0, 2)])
def test_new_leader_lets_the_others_find_it_first(seconds: float, starts: int) -> None:
    policy = Elastic(nodes=3, min_nodes=1, wait_seconds=0.0)
    roster = roster_of(3, {0: True, 1: True})
    policy.watch(roster, 100.0)
    assert len(policy.crew(roster, 100.0 + seconds)) == starts
    policy.led()
    assert len(policy.crew(roster, 100.1)) == 2, "from then on nobody is waited for"


def test_gang_without_the_policy_waits_for_ever() -> None:
    policy = Elastic.of(config(Path("/nowhere"), nodes=3))
    roster = roster_of(3, {0: True, 1: True})
    policy.watch(roster, 0.0)
    assert not policy.may_shrink and policy.crew(roster, 1e9) == [] and policy.waits(1e9)


@given(
    nodes=st.integers(1, 6),
    minimum=st.integers(1, 6),
    present=st.dictionaries(st.integers(0, 5), st.booleans()),
    moments=st.lists(st.floats(0, 200), min_size=1, max_size=5),
)
def test_a_crew_has_the_leader_and_enough_and_is_ready(
    nodes: int, minimum: int, present: dict[int, bool], moments: list[float]
) -> None:
    policy = Elastic(nodes=nodes, min_nodes=min(minimum, nodes), wait_seconds=60.0)
    roster = roster_of(nodes, {index: ready for index, ready in present.items() if index < nodes})
    now = 0.0
    for moment in sorted(moments):
        now = moment
        policy.watch(roster, now)
    found = policy.crew(roster, now)
    indices = [member.hello.index for member in found]
    if found:
        assert indices[0] == 0 and len(found) >= policy.min_nodes
        assert all(present[index] for index in indices) and indices == sorted(indices)
        assert len(found) == nodes or now - sorted(moments)[0] >= 60.0


def test_ranks_are_numbered_without_gaps_whoever_is_away(tmp_path: Path) -> None:
    world = training()
    made = rank_contexts(
        config(tmp_path, nodes=4, ranks=2), world.records[0], (0, 2, 3), prepared="toy", highest_step=3
    )
    assert {index: [each.rank for each in mine] for index, mine in made.items()} == {
        0: [0, 1],
        2: [2, 3],
        3: [4, 5],
    }
    assert {each.world_size for mine in made.values() for each in mine} == {6}


# --- histories ------------------------------------------------------------------------------------------


def test_lost_node_is_waited_for_and_then_done_without() -> None:
    world = training()
    world.lose(2)
    world.tick(WAIT - 1)
    assert world.gang.mode is Mode.GATHERING and crew(world) == {}
    world.tick(2)
    assert world.gang.mode is Mode.RUNNING
    assert crew(world) == {world.uid(0): [0], world.uid(1): [1], world.uid(3): [2]}
    world.begin_steps()
    row = last_row(world)
    assert (str(row.rung), row.from_step, row.resumed_step, row.lost_steps) == ("Shrink", 3, 2, 1)
    assert row.first_failed.pod == "toy-2-3"
    assert row.seconds.place >= WAIT - 1, "the wait is accounted for"


def test_no_wait_means_at_once() -> None:
    world = training(waitSeconds=0)
    world.lose(3)
    world.tick(0.1)
    assert sorted(rank for ranks in crew(world).values() for rank in ranks) == [0, 1, 2]


def test_fewer_than_the_minimum_wait_for_ever() -> None:
    world = training(minNodes=3)
    world.lose(2)
    world.lose(3)
    world.tick(3600)
    assert world.gang.mode is Mode.GATHERING and crew(world) == {}
    world.join(3)
    assert len(crew(world)) == 3, "the third is there, and the fourth was waited for long ago"


def test_shrunk_gang_restarts_in_place_without_waiting_again() -> None:
    world = training()
    world.lose(2)
    world.tick(WAIT + 1)
    world.begin_steps()
    world.exit(world.uid(3), 2, code=139, signal=11)
    assert world.gang.mode is Mode.RUNNING and len(crew(world)) == 3
    world.begin_steps()
    row = last_row(world)
    assert (str(row.rung), row.first_failed.rank, row.first_failed.pod) == ("InPlace", 2, "toy-3-4")


def test_second_loss_shrinks_further() -> None:
    world = training()
    world.lose(2)
    world.tick(WAIT + 1)
    world.begin_steps()
    world.lose(1)
    world.tick(WAIT + 1)
    assert crew(world) == {world.uid(0): [0], world.uid(3): [1]}
    world.begin_steps()
    assert str(last_row(world).rung) == "Shrink"


def shrunk() -> World:
    world = training()
    world.lose(2)
    world.tick(WAIT + 1)
    world.begin_steps()
    return world


def save_and_leave(world: World, step: int) -> None:
    """All ranks save as they were asked to, and exit."""
    world.steps[0] = step
    world.checkpoint(world.uid(0), 0)
    world.say(world.uid(0), 0, type="Saved", step=step)
    for uid, ranks in list(crew(world).items()):
        for rank in ranks:
            world.exit(uid, rank, code=0)


def test_node_that_comes_back_is_taken_in_after_a_save_and_no_step_is_lost() -> None:
    world = shrunk()
    world.step(world.uid(0), 0)
    world.join(2, ready=False)
    world.tick(0.1)
    assert not world.saving, "its imports are waited for"
    world.hear(world.uid(2), Ready(ready=True))
    world.tick(0.1)
    assert world.saving == {world.uid(0), world.uid(1), world.uid(3)}
    save_and_leave(world, 3)
    assert {index: crew(world)[world.uid(index)] for index in range(4)} == {0: [0], 1: [1], 2: [2], 3: [3]}
    world.begin_steps()
    row = last_row(world)
    assert (str(row.rung), str(row.failure_class), row.lost_steps) == ("RecreatePod", "Preempted", 0)
    assert row.evidence == ["back in the gang: toy-2-5"]
    assert world.gang.budgets.used.get("Preempted") is None


def test_first_of_two_that_come_back_waits_a_moment_for_the_second() -> None:
    world = shrunk()
    world.lose(1)
    world.tick(WAIT + 1)
    world.begin_steps()
    world.join(1)
    world.tick(0.1)
    assert not world.saving
    world.join(2)
    world.tick(0.1)
    assert len(world.saving) == 2, "all are there: nothing more to wait for"


def test_one_of_two_is_taken_in_alone_after_that_moment() -> None:
    world = shrunk()
    world.lose(1)
    world.tick(WAIT + 1)
    world.begin_steps()
    world.join(1)
    world.tick(0.1)
    world.tick(GATHER_SECONDS)
    assert len(world.saving) == 2
    save_and_leave(world, 4)
    assert len(crew(world)) == 3, "the fourth was given up already and is not waited for again"


def test_newcomer_that_goes_again_during_the_save_is_waited_for_like_any_other() -> None:
    world = shrunk()
    world.join(2)
    world.tick(0.1)
    world.lose(2)
    save_and_leave(world, 3)
    assert world.gang.mode is Mode.GATHERING
    world.tick(WAIT + 1)
    assert len(crew(world)) == 3


def test_nobody_is_taken_back_before_the_first_new_step() -> None:
    world = training()
    world.lose(2)
    world.tick(WAIT + 1)
    world.join(2)
    world.tick(GATHER_SECONDS + 1)
    assert not world.saving, "a recovery is finished before the next interruption"
    world.begin_steps()
    world.tick(0.1)
    assert world.saving


def test_all_of_a_shrunk_gang_leaving_is_the_whole_run_leaving() -> None:
    world = shrunk()
    for index in (0, 1, 3):
        world.hear(world.uid(index), Leaving(at=world.now))
    save_and_leave(world, 3)
    assert world.ended is not None and world.ended.verdict.result == "Preempted"
    assert world.commands(ev.Mark)[-1].left == "Whole"


def test_start_with_fewer_nodes_than_asked_for() -> None:
    world = elastic_world()
    world.open()
    world.join(0)
    world.prepare()
    world.join(1)
    world.tick(WAIT + 1)
    assert crew(world) == {world.uid(0): [0], world.uid(1): [1]}
    assert world.gang.recoveries == ()


def test_new_leader_waits_for_those_it_does_not_know() -> None:
    world = elastic_world()
    world.before = 3
    world.follow(steps=(20,))
    world.join(0)
    world.join(3)
    assert world.gang.mode is Mode.GATHERING
    world.tick(WAIT + 1)
    assert crew(world) == {world.uid(0): [0], world.uid(3): [1]}


class AnyElasticHistory(AnyHistory):
    """The same promises for a gang that may shrink."""

    @initialize(nodes=st.integers(2, 4), ranks=st.integers(1, 2), wait=st.sampled_from([0, 5, 60]))
    def begin(self, nodes: int, ranks: int, wait: int) -> None:
        self.world = World(
            nodes=nodes, ranks=ranks, changes={"elastic": {"minNodes": 1, "waitSeconds": wait}, "back_off": 0}
        )
        self.world.open()
        self.world.join(0)
        self.ordered = False

    @invariant()
    def ranks_of_one_life_are_a_whole_world(self) -> None:
        world = getattr(self, "world", None)
        if world is None:
            return
        starts = [c.message for c in world.history if isinstance(c, ev.Tell) and isinstance(c.message, Start)]
        if not starts or starts[-1].contexts[0].task != "train":
            return
        mine = [
            each for start in starts if start.incarnation == starts[-1].incarnation for each in start.contexts
        ]
        contexts = [each for each in mine if each.task == "train"]
        assert sorted(each.rank for each in contexts) == list(range(contexts[0].world_size))


AnyElasticHistory.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestAnyElasticHistory = AnyElasticHistory.TestCase


def test_checkpoint_of_the_whole_gang_is_what_the_rest_resumes_from() -> None:
    world = training()
    world.lose(1)
    world.tick(WAIT + 1)
    assert world.records[-1].resume == "step-00000002.i1"
    assert isinstance(world.checkpoints[0], AcceptedCheckpoint)
