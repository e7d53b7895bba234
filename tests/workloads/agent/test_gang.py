"""The gang's state machine by itself: tables of histories, and any history that Hypothesis can think of."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from windlass.api.contract import AcceptedCheckpoint, Incarnation, Orders
from windlass_workloads.agent import events as ev
from windlass_workloads.agent.course import Mode
from windlass_workloads.agent.identity import Limits
from windlass_workloads.agent.messages import (
    Broken,
    Exited,
    Idle,
    Leaving,
    Ready,
    Start,
)
from workloads.agent.world import World, finish_save

# --- histories --------------------------------------------------------------------------------------


def test_first_ranks_start_only_when_every_pod_is_there_and_ready() -> None:
    world = World(nodes=2)
    world.open()
    world.join(0)
    assert world.tasks[world.uid(0)] == "prepare"
    world.prepare()
    assert world.gang.mode is Mode.GATHERING
    world.join(1, ready=False)
    assert world.gang.mode is Mode.GATHERING
    world.hear(world.uid(1), Ready(ready=True))
    assert world.gang.mode is Mode.RUNNING
    assert {uid: len(ranks) for uid, ranks in world.running.items()} == {"pod-0-1": 1, "pod-1-2": 1}


def test_a_killed_rank_ends_all_and_starts_all_in_a_new_incarnation() -> None:
    world = World(nodes=2, ranks=2).train()
    world.exit(world.uid(1), 3, code=137, signal=9)
    assert world.gang.mode is Mode.RUNNING
    assert {inc for ranks in world.running.values() for inc in ranks.values()} == {2}
    assert world.records[1].cause.first_failed.rank == 3
    assert world.records[1].budgets.used == {"Crash": 1}


def test_connection_errors_of_others_are_not_the_cause_even_when_heard_first() -> None:
    world = World(nodes=2).train()
    mine, other = world.uid(0), world.uid(1)
    world.deaf = {other}
    tail = ["ConnectionResetError: connection closed by peer"]
    world.running[mine].pop(0)
    world.hear(mine, Exited(incarnation=1, rank=0, code=10, at=world.now, tail=tail))
    world.hear(mine, Idle(incarnation=1))
    assert len(world.records) == 1, "decides when all ranks are gone"
    world.exit(other, 1, code=139, signal=11)
    cause = world.records[1].cause
    assert (cause.first_failed.rank, cause.signal) == (1, 11)


@pytest.mark.parametrize("when", ["before the others stop", "while gathering"])
def test_lost_pod_makes_it_a_recreated_pod(when: str) -> None:
    world = World(nodes=2).train()
    if when == "while gathering":
        world.exit(world.uid(0), 0, code=1)
        world.lose(1)
    else:
        world.lose(1)
    assert world.gang.mode in (Mode.GATHERING, Mode.RUNNING)
    world.join(1)
    assert world.gang.mode is Mode.RUNNING
    for uid, ranks in world.running.items():
        for rank in ranks:
            world.say(uid, rank, type="Forward", step=1)
    assert str(world.gang.recoveries[-1].rung) == "RecreatePod"


def test_leaving_pod_is_let_go_after_the_save_and_the_rest_waits() -> None:
    world = World(nodes=2).train()
    for _ in range(3):
        world.step(world.uid(0), 0)
    world.hear(world.uid(1), Leaving(at=world.now))
    assert world.saving == {world.uid(0), world.uid(1)}
    world.checkpoint(world.uid(0), 0)
    world.say(world.uid(0), 0, type="Saved", step=3)
    world.exit(world.uid(0), 0, code=0)
    world.exit(world.uid(1), 1, code=0)
    (finish,) = world.finished.values()
    assert (finish.verdict.result, finish.verdict.step, finish.verdict.lost_steps) == ("Preempted", 3, 0)
    assert world.ended is None and world.gang.mode is Mode.GATHERING
    assert world.records[-1].budgets.used == {}


def saving_while_one_leaves() -> tuple[World, str]:
    """A gang at step 3 that saves because pod 1 was told to leave; its UID."""
    world = World(nodes=2).train()
    for _ in range(3):
        world.step(world.uid(0), 0)
    leaving = world.uid(1)
    world.hear(leaving, Leaving(at=world.now))
    return world, leaving


@pytest.mark.fault("F26")
@pytest.mark.parametrize("ready_when", ["joining", "before the save ends", "after it"])
def test_replacement_that_joins_during_the_save_waits_for_its_end(ready_when: str) -> None:
    # A step and its save can take longer than a replacement pod needs to appear.
    world, leaving = saving_while_one_leaves()
    world.join(1, ready=ready_when == "joining")
    assert set(world.running) == {world.uid(0), leaving}, "nothing was stopped"
    assert all(world.running.values())
    if ready_when == "before the save ends":
        world.hear(world.uid(1), Ready(ready=True))
    finish_save(world, leaving)
    assert world.finished[leaving].verdict.lost_steps == 0
    if ready_when == "after it":
        assert world.gang.mode is Mode.GATHERING
        world.hear(world.uid(1), Ready(ready=True))
    assert world.gang.mode is Mode.RUNNING
    assert world.records[-1].resume == "step-00000003.i1"
    assert world.running[world.uid(1)] == {1: 2}


def test_leaving_pod_whose_ranks_ended_first_is_let_go_although_its_replacement_is_there() -> None:
    world, leaving = saving_while_one_leaves()
    world.exit(leaving, 1, code=0)
    world.join(1)
    assert leaving not in world.finished, "the save of the others is not over"
    world.checkpoint(world.uid(0), 0)
    world.say(world.uid(0), 0, type="Saved", step=3)
    world.exit(world.uid(0), 0, code=0)
    assert world.finished[leaving].verdict.result == "Preempted"
    assert world.records[-1].cause.first_failed.pod == "toy-1-2"
    assert world.gang.mode is Mode.RUNNING


def test_replacement_that_is_lost_while_it_waits_disturbs_no_save() -> None:
    world, leaving = saving_while_one_leaves()
    world.join(1)
    world.lose(1)
    assert all(world.running.values())
    finish_save(world, leaving)
    assert world.finished[leaving].verdict.lost_steps == 0
    assert world.gang.mode is Mode.GATHERING


@pytest.mark.parametrize("how", ["order", "all pods"])
def test_whole_run_leaving_ends_everybody_preempted(how: str) -> None:
    world = World(nodes=2).train()
    if how == "order":
        world.feed(ev.Ordered(Orders(action="SaveAndExit")))
    else:
        for index in (0, 1):
            world.hear(world.uid(index), Leaving(at=world.now))
    for index in (0, 1):
        world.exit(world.uid(index), index, code=0)
    assert world.ended is not None and world.ended.verdict.result == "Preempted"
    assert world.finished[world.uid(1)].verdict == world.ended.verdict


@pytest.mark.parametrize("action", ["SaveAndExit", "Stop"])
@pytest.mark.parametrize("stage", ["preparing", "gathering", "backing off", "running", "saving"])
def test_orders_are_obeyed_at_any_stage(action: str, stage: str) -> None:
    world = World(nodes=2, changes={"back_off": 100})
    if stage in ("preparing", "gathering"):
        world.open()
        world.join(0)
        if stage == "gathering":
            world.prepare()
    else:
        world.train()
        if stage == "backing off":
            world.exit(world.uid(0), 0, code=1)
            world.exit(world.uid(0), 0, code=1)
            assert world.gang.mode is Mode.BACKING_OFF
        elif stage == "saving":
            world.hear(world.uid(1), Leaving(at=world.now))
    world.feed(ev.Ordered(Orders(action=action, reason="DeadlineExceeded")))
    for index, hello in list(world.pods.items()):
        if hello.pod_uid in world.saving:
            world.exit(hello.pod_uid, index, code=0)
    assert world.ended is not None
    assert world.ended.verdict.result == ("Failed" if action == "Stop" else "Preempted")
    if action == "Stop":
        assert world.ended.verdict.failure.reason == "DeadlineExceeded"


def test_success_needs_every_rank_and_the_word_of_rank_0() -> None:
    world = World(nodes=2).train()
    world.say(world.uid(0), 0, type="Done", step=40)
    world.exit(world.uid(0), 0, code=0)
    assert world.ended is None
    world.exit(world.uid(1), 1, code=0)
    assert world.ended.verdict.result == "Succeeded"


@pytest.mark.fault("F45")
def test_ranks_that_never_end_after_the_others_are_stopped() -> None:
    world = World(nodes=2).train()
    world.say(world.uid(0), 0, type="Done", step=40)
    world.exit(world.uid(0), 0, code=0)
    world.tick(Limits().straggler_seconds + 1)
    assert "ranks [1] did not end" in " ".join(world.records[1].cause.evidence)


def test_member_that_cannot_be_stopped_is_given_up_for_a_new_pod() -> None:
    world = World(nodes=2).train()
    stuck = world.uid(1)
    ranks = world.running.pop(stuck)
    world.exit(world.uid(0), 0, code=1)
    assert ranks and world.gang.mode is Mode.STOPPING
    world.tick(Limits().stop_seconds + 1)
    assert world.finished[stuck].verdict.result == "Preempted"
    assert str(world.records[1].cause.rung) == "RecreatePod"


def test_warm_parent_that_never_comes_up_costs_budget_and_ends_the_run() -> None:
    world = World(nodes=1)
    world.open()
    world.join(0, ready=False)
    tail = ["Traceback", "ModuleNotFoundError: No module named 'torchh'"]
    for _ in range(2):
        world.hear(world.uid(0), Broken(at=world.now, tail=tail))
    assert world.ended.verdict.failure.reason == "Configuration"


def test_leader_that_follows_a_lost_one_charges_its_budget_and_counts_the_loss() -> None:
    world = World(nodes=1)
    newest = Incarnation(
        incarnation=4,
        attempt=1,
        ticket=1,
        owner_pod_uid="u",
        owner_pod="toy-0-1",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    memory = ev.Memory(last_at=900.0, step=17, highest_step=17, prepared="toy")
    world.checkpoints = [AcceptedCheckpoint(name="step-00000015.i4", step=15, incarnation=4, digest="d")]
    world.feed(ev.Opened(newest=newest, ledger_step=15, memory=memory))
    world.join(0)
    uid = world.uid(0)
    world.say(uid, 0, type="Forward", step=16)
    (row,) = world.gang.recoveries
    assert (row.from_step, row.resumed_step, row.lost_steps) == (17, 15, 2)
    assert row.seconds.total == pytest.approx(world.now - 900.0, abs=0.1)
    assert world.records[0].budgets.used == {"Infrastructure": 1}
    marks = [command.state for command in world.history if isinstance(command, ev.Mark)]
    assert marks == [ev.State.RECOVERING, ev.State.REWORKED]


def test_crash_looping_leaders_stop_without_an_operator() -> None:
    budgets, ends = None, 0
    for number in range(30):
        world = World(nodes=1)
        newest = Incarnation(
            incarnation=number + 1,
            attempt=1,
            ticket=1,
            owner_pod_uid="u",
            owner_pod="toy-0-1",
            created_at=datetime(2026, 1, 1, tzinfo=UTC),
            **({"budgets": budgets} if budgets else {}),
        )
        world.feed(ev.Opened(newest=newest, ledger_step=0, memory=ev.Memory(last_at=1.0)))
        budgets = world.gang.budgets
        if world.ended is not None:
            ends += 1
            assert world.ended.verdict.result == "Failed"
            break
    assert ends == 1


def test_fenced_leader_ends_alone() -> None:
    world = World(nodes=2).train()
    world.feed(ev.Refused())
    assert world.ended.verdict.result == "Fenced"
    assert world.finished == {}
    assert not [c for c in world.history if isinstance(c, ev.Mark) and c.state is ev.State.DOWN]


def test_failure_that_repeats_asks_the_operator_for_a_new_gang_until_progress() -> None:
    world = World(nodes=1, changes={"budgets": {"crash": 100}}).train()
    uid = world.uid(0)
    wanted = []
    for step in range(5):
        world.steps[0] = step
        world.step(uid, 0)
        world.exit(uid, 0, code=139, signal=11)
        wanted.append(world.gang.wants_gang)
    assert wanted == [False, False, False, False, True]
    world.checkpoint(uid, 0)
    assert not world.gang.wants_gang


# --- any history ------------------------------------------------------------------------------------


class AnyHistory(RuleBasedStateMachine):
    """Pods come, go and leave, ranks live and die, orders arrive: the promises hold all the same."""

    @initialize(nodes=st.integers(1, 3), ranks=st.integers(1, 2), back_off=st.sampled_from([0, 5]))
    def begin(self, nodes: int, ranks: int, back_off: int) -> None:
        self.world = World(nodes=nodes, ranks=ranks, changes={"back_off": back_off})
        self.world.open()
        self.world.join(0)
        self.ordered = False

    def pick(self, data: st.DataObject) -> tuple[str, int] | None:
        live = [(uid, rank) for uid, ranks in self.world.running.items() for rank in ranks]
        return data.draw(st.sampled_from(live)) if live else None

    @property
    def over(self) -> bool:
        return self.world.ended is not None

    @precondition(lambda self: not self.over)
    @rule(data=st.data())
    def pod_comes(self, data: st.DataObject) -> None:
        missing = [index for index in range(1, self.world.nodes) if index not in self.world.pods]
        if missing:
            self.world.join(data.draw(st.sampled_from(missing)))

    @precondition(lambda self: not self.over)
    @rule(data=st.data())
    def newer_pod_comes(self, data: st.DataObject) -> None:
        if self.world.nodes > 1:
            index = data.draw(st.integers(1, self.world.nodes - 1))
            old = self.world.pods.get(index)
            if old is not None:
                self.world.running.pop(old.pod_uid, None)
            self.world.join(index)

    @precondition(lambda self: not self.over)
    @rule(data=st.data())
    def pod_goes(self, data: st.DataObject) -> None:
        others = [index for index in self.world.pods if index != 0]
        if others:
            self.world.lose(data.draw(st.sampled_from(others)))

    @precondition(lambda self: not self.over)
    @rule(data=st.data())
    def pod_leaves(self, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from(sorted(self.world.pods)))
        self.world.hear(self.world.uid(index), Leaving(at=self.world.now))

    @precondition(lambda self: not self.over)
    @rule(data=st.data(), code=st.sampled_from([0, 0, 1, 10, 12, 13, 139]))
    def rank_ends(self, data: st.DataObject, code: int) -> None:
        picked = self.pick(data)
        if picked:
            self.world.exit(*picked, code=code, signal=11 if code == 139 else None)

    @precondition(lambda self: not self.over)
    @rule(
        data=st.data(), what=st.sampled_from(["step", "checkpoint", "forward", "done", "prepared", "saved"])
    )
    def rank_speaks(self, data: st.DataObject, what: str) -> None:
        picked = self.pick(data)
        if not picked:
            return
        uid, rank = picked
        if what == "step":
            self.world.step(uid, rank)
        elif what == "checkpoint":
            if self.world.tasks[uid] == "train":
                self.world.checkpoint(uid, rank)
        elif what == "forward":
            self.world.say(uid, rank, type="Forward", step=self.world.steps[rank] + 1)
        elif what == "prepared":
            self.world.say(uid, rank, type="Prepared", name="toy")
        else:
            self.world.say(uid, rank, type=what.capitalize(), step=self.world.steps[rank])

    @precondition(lambda self: not self.over)
    @rule(ready=st.booleans(), data=st.data())
    def warm_parent(self, ready: bool, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from(sorted(self.world.pods)))
        self.world.hear(self.world.uid(index), Ready(ready=ready))

    @precondition(lambda self: not self.over)
    @rule(seconds=st.sampled_from([0.1, 6.0, 40.0, 400.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.tick(seconds)

    @precondition(lambda self: not self.over)
    @rule(action=st.sampled_from(["Continue", "Continue", "Continue", "SaveAndExit", "Stop"]))
    def order(self, action: str) -> None:
        self.ordered = self.ordered or action != "Continue"
        self.world.feed(ev.Ordered(Orders(action=action)))

    @precondition(lambda self: self.over)
    @rule()
    def late_pod_hears_how_it_ended(self) -> None:
        self.world.tick(1.0)
        self.world.join(0)
        heard = self.world.finished.get(self.world.uid(0))
        if self.world.states[-1:] == ["Down"] and self.world.commands(ev.Mark)[-1].left == "Whole":
            assert heard is not None and heard.verdict == self.world.ended.verdict
        else:
            assert heard is None, "a leader that ends alone sends nobody away"

    @invariant()
    def nobody_trains_after_the_end(self) -> None:
        world = getattr(self, "world", None)
        if world is None or world.ended is None:
            return
        starts = [
            i for i, c in enumerate(world.history) if isinstance(c, ev.Tell) and isinstance(c.message, Start)
        ]
        end = next(i for i, c in enumerate(world.history) if isinstance(c, ev.End))
        assert all(start < end for start in starts)

    @invariant()
    def success_is_never_claimed_without_done(self) -> None:
        world = getattr(self, "world", None)
        if world is not None and world.ended is not None and world.ended.verdict.result == "Succeeded":
            assert world.gang.life is not None and world.gang.life.succeeded

    @invariant()
    def budgets_end_every_loop(self) -> None:
        world = getattr(self, "world", None)
        if world is None:
            return
        for record in world.records:
            for failure_class, used in record.budgets.used.items():
                assert used <= 10, failure_class

    @invariant()
    def rows_make_sense(self) -> None:
        world = getattr(self, "world", None)
        for row in world.gang.recoveries if world is not None else ():
            values = row.seconds.model_dump()
            total = values.pop("total")
            assert min(values.values()) >= 0
            assert sum(values.values()) <= total + 0.001
            assert row.lost_steps == max(0, row.from_step - row.resumed_step)

    def teardown(self) -> None:
        """Whatever happened: with pods that stay and ranks that work, the run ends."""
        world = getattr(self, "world", None)
        if world is None or world.ended is not None:
            return
        for _ in range(60):
            if world.ended is not None:
                return
            self.one_good_round(world)
        raise AssertionError(f"stuck in {world.gang.mode}")

    def one_good_round(self, world: World) -> None:
        for uid in world.finished:
            for index, hello in list(world.pods.items()):
                if hello.pod_uid == uid:
                    world.lose(index)
        if world.ended is None:
            world.tick(400.0)
        for index in range(world.nodes):
            if world.ended is None and (index not in world.pods or world.gang.roster.get(index) is None):
                world.join(index)
            if world.ended is None:
                world.hear(world.uid(index), Ready(ready=True))
        for uid, ranks in list(world.running.items()):
            for rank in list(ranks):
                if world.ended is None and rank in world.running.get(uid, {}):
                    if world.tasks[uid] == "prepare":
                        world.say(uid, rank, type="Prepared", name="toy")
                    elif rank == 0 and uid not in world.saving:
                        world.say(uid, rank, type="Done", step=world.steps[rank])
                    world.exit(uid, rank, code=0)


AnyHistory.TestCase.settings = settings(
    max_examples=80,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestAnyHistory = AnyHistory.TestCase
