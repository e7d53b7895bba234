"""The fence under every order of leaders, zombies and crashes that Hypothesis finds.

Leaders claim, save, commit and delete; each store operation is one turn. A leader that gets no turns is
paused or partitioned, one that gets them again after a takeover is a zombie.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from windlass.api.contract import Incarnation
from windlass.core.checkpoints.choose import objection
from windlass_workloads.checkpoint import choose, incarnations
from windlass_workloads.checkpoint import manifest as manifests
from windlass_workloads.checkpoint.errors import Fenced
from windlass_workloads.checkpoint.incarnations import Claimant, may_claim
from windlass_workloads.checkpoint.retention import purge, retain
from windlass_workloads.checkpoint.store import MANIFEST, RunStore, checkpoint_name
from workloads.checkpoint.support import incarnation, manifest_of
from workloads.checkpoint.turns import Actor, TurnStore

EVERY = 10
KEEP_LAST = 2
PURGE_DELAY = 10_000.0
"""Longer than any scenario: a claim takes less time than the trash keeps things."""


def save(store: TurnStore, step: int, number: int) -> None:
    directory = store.make(checkpoint_name(step, number))
    for rank in (0, 1):
        store.actor.stop("data")
        (directory / f"rank-{rank}.bin").write_bytes(f"{step}.{number}.{rank}".encode())
    plain = RunStore(store.root)
    store.actor.stop("data")
    manifest = manifest_of(plain, step, number)
    manifests.commit(store, checkpoint_name(step, number), manifest)


def lead(store: TurnStore, me: Claimant, saves: list[int], now: float) -> None:
    """The life of a leading agent: after each failure of a rank (an entry in saves) it claims again."""
    for count in saves:
        newest = incarnations.newest(store)
        if not may_claim(newest, me):
            return
        choice = choose.choose(store, newest, "Latest")
        number = 1 if newest is None else newest.incarnation + 1
        record = incarnation(
            number,
            owner_pod_uid=me.pod_uid,
            ticket=me.ticket,
            attempt=me.attempt,
            accepted=list(choice.accepted),
            resume=choice.name,
        )
        if not incarnations.claim(store, record):
            return
        step = choice.step
        try:
            for _ in range(count):
                step += EVERY
                save(store, step, number)
                retain(store, incarnation=number, keep_last=KEEP_LAST, clock=lambda: now)
                purge(store, incarnation=number, delay_seconds=PURGE_DELAY, clock=lambda: now)
        except (Fenced, OSError):
            # An OSError is a zombie whose unfinished directory a newer leader has cleared away.
            return


class Fence(RuleBasedStateMachine):
    """Several leaders on one store."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="fence-"))
        self.store = RunStore(self.root)
        self.actors: list[Actor] = []
        self.turns = 0
        self.tickets = 0
        self.committed: dict[str, int] = {}
        """Newest incarnation at the moment at which each checkpoint's manifest appeared."""

    @initialize()
    def layout(self) -> None:
        self.store.probe()

    @rule(saves=st.lists(st.integers(1, 4), min_size=1, max_size=3))
    @precondition(lambda self: len(self.actors) < 3)
    def pod_is_made(self, saves: list[int]) -> None:
        self.tickets += 1
        me = Claimant(f"pod-{self.tickets}", ticket=self.tickets, attempt=1)
        self.actors.append(Actor(self.root, lambda store: lead(store, me, saves, float(self.turns))))

    @rule(index=st.integers(0, 2), count=st.integers(1, 4))
    @precondition(lambda self: bool(self.actors))
    def an_actor_goes_on(self, index: int, count: int) -> None:
        for _ in range(count):
            self.one_turn(self.actors[index % len(self.actors)])

    @rule(index=st.integers(0, 2), operation=st.sampled_from(("create", "move")), times=st.integers(1, 2))
    @precondition(lambda self: bool(self.actors))
    def an_actor_pauses_just_before(self, index: int, operation: str, times: int) -> None:
        actor = self.actors[index % len(self.actors)]
        for _ in range(times):
            self.one_turn(actor)
            while not actor.finished and actor.next != operation:
                self.one_turn(actor)

    def one_turn(self, actor: Actor) -> None:
        actor.turn()
        self.turns += 1
        self.look()

    @rule(index=st.integers(0, 2))
    @precondition(lambda self: bool(self.actors))
    def an_actor_dies(self, index: int) -> None:
        actor = self.actors.pop(index % len(self.actors))
        actor.kill()
        assert actor.error is None, actor.error

    def newest(self) -> Incarnation | None:
        return incarnations.newest(self.store)

    def look(self) -> None:
        newest = self.newest()
        for name in self.store.list_checkpoints():
            if name not in self.committed and self.store.exists(f"{name}/{MANIFEST}"):
                assert newest is not None
                self.committed[name] = newest.incarnation

    @invariant()
    def commits_of_at_most_one_incarnation_count(self) -> None:
        newest = self.newest()
        for each in choose.candidates(self.store):
            if objection(each, newest) is None:
                assert self.committed[each.name] == each.incarnation, "committed after a takeover, and counts"

    @invariant()
    def a_run_resumes_only_from_what_is_verified(self) -> None:
        newest = self.newest()
        if newest is None or newest.resume is None:
            return
        assert newest.resume in self.committed
        assert newest.resume in {each.name for each in newest.accepted}
        for folder in ("", "trash/"):
            for name in self.store.names(folder.rstrip("/")):
                if newest.resume in name:
                    manifest = manifests.decode(self.store.read(f"{folder}{name}/{MANIFEST}") or b"")
                    assert manifests.verify(self.store.path(f"{folder}{name}"), manifest, deep=True) == []
                    return
        raise AssertionError("what the newest incarnation resumes from is gone")

    @invariant()
    def nobody_fails_in_an_unexpected_way(self) -> None:
        for actor in self.actors:
            assert actor.error is None, actor.error

    def teardown(self) -> None:
        for actor in self.actors:
            actor.kill()
        newest = self.newest()
        if newest is not None:
            choice = choose.choose(self.store, newest, "Latest")
            floor = max((each.step for each in newest.accepted), default=0)
            assert choice.step >= floor, "a newer leader lost what it had accepted"
            if choice.name is not None:
                manifest = manifests.read(self.store, choice.name)
                assert manifests.verify(self.store.path(choice.name), manifest, deep=True) == []
        shutil.rmtree(self.root)


TestFence = Fence.TestCase
TestFence.settings = settings(
    max_examples=100, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_the_machine_would_notice_a_commit_without_the_fence() -> None:
    """A zombie's checkpoint that counted would be seen: its entry in `committed` is of the newer one."""
    machine = Fence()
    machine.layout()
    incarnations.claim(machine.store, incarnation(1))
    incarnations.claim(machine.store, incarnation(2))
    machine.store.make("step-00000010.i1")
    manifest = manifest_of(machine.store, 10, 1)
    machine.store.create(f"step-00000010.i1/{MANIFEST}", manifests.encode(manifest))
    machine.look()
    assert machine.committed == {"step-00000010.i1": 2}
    assert objection(choose.candidate(machine.store, "step-00000010.i1"), machine.newest()) is not None
    machine.teardown()
