"""A store that fails for a while: the run waits for it, and a claim that was half made fences nobody."""

from __future__ import annotations

import errno
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from windlass.api.contract import BudgetUse
from windlass.api.meta import FailureClass
from windlass_workloads.agent import events as ev
from windlass_workloads.agent.claims import Claims
from windlass_workloads.agent.course import Mode
from windlass_workloads.agent.messages import Leaving
from windlass_workloads.checkpoint import incarnations
from windlass_workloads.checkpoint.store import INCARNATIONS, RunStore
from workloads.agent.lone_leader import LonePod, until
from workloads.agent.world import World

AWAY = ev.Unclaimable("[Errno 116] Stale file handle", storage=True)


class FlakyStore(RunStore):
    """Fails as often as it is told when a file of this kind is made, before or after making it."""

    failures = 0
    after = False
    prefix = INCARNATIONS
    always = False

    def create(self, relative: str, data: bytes, *, mode: int = 0o640) -> bool:
        fails = relative.startswith(self.prefix) and (self.always or self.failures > 0)
        if fails:
            self.failures -= 1
        if not fails or self.after:
            made = super().create(relative, data, mode=mode)
            if not fails:
                return made
        raise OSError(errno.EIO, "Input/output error")


# --- what the gang does ------------------------------------------------------------------------------


def waits_for_its_claim(nodes: int = 1, back_off: int = 10) -> World:
    """A rank has crashed, and the claim that follows is not answered yet."""
    world = World(nodes=nodes, changes={"back_off": back_off}).train()
    world.claims_wait = True
    world.exit(world.uid(0), 0, code=139, signal=11)
    assert world.gang.mode is Mode.CLAIMING
    return world


def claims(world: World) -> list[ev.Claim]:
    return [command for command in world.history if isinstance(command, ev.Claim)]


def test_a_store_that_fails_at_a_claim_is_asked_again_after_growing_pauses() -> None:
    world = waits_for_its_claim()
    first = claims(world)[-1]
    pauses = []
    for _ in range(5):
        began = world.now
        world.feed(AWAY)
        assert world.gang.mode is Mode.BACKING_OFF and world.states[-1] == "BackOff"
        while world.gang.mode is Mode.BACKING_OFF:
            world.tick(1.0)
        pauses.append(world.now - began)
    assert all(later > earlier * 1.2 for earlier, later in itertools.pairwise(pauses))
    again = claims(world)[-1]
    assert again.cause == first.cause, "the fault is still what ended the last incarnation"
    assert again.budgets.used == {FailureClass.CRASH: 1, FailureClass.STORAGE: 5}
    world.claims_wait = False
    world.obey(again)
    assert world.gang.mode is Mode.RUNNING
    world.begin_steps()
    (row,) = world.gang.recoveries
    assert (str(row.failure_class), row.signal) == ("Crash", 11)
    parts = row.seconds.model_dump()
    assert parts.pop("total") - sum(parts.values()) == pytest.approx(sum(pauses), abs=6.0)


def test_a_store_that_never_answers_ends_the_run_when_its_budget_is_used_up() -> None:
    world = waits_for_its_claim()
    for _ in range(6):
        world.feed(AWAY)
        world.tick(1000.0)
    assert world.ended is not None
    failure = world.ended.verdict.failure
    assert failure is not None
    assert (failure.reason, failure.failure_class) == ("BudgetExhausted", FailureClass.STORAGE)
    assert "Stale file handle" in failure.message and failure.first_failed.pod == "toy-0-1"


def test_a_wish_that_cannot_be_met_ends_the_run_at_once() -> None:
    world = waits_for_its_claim()
    world.feed(ev.Unclaimable("spec.resume.from: no such step. hint: choose another", storage=False))
    assert world.ended is not None and world.ended.verdict.failure is not None
    assert world.ended.verdict.failure.reason == "Configuration"


def test_a_store_that_cannot_be_read_at_the_start_is_opened_again() -> None:
    world = World(nodes=1, changes={"back_off": 10})
    world.join(0)
    kinds = []
    for _ in range(3):
        world.feed(AWAY)
        world.tick(100.0)
        kinds.append([type(command) for command in world.history if isinstance(command, ev.Open | ev.Claim)])
    assert kinds[-1] == [ev.Open] * 3
    assert world.states == [], "nothing is told of a run that is not known yet"
    world.open()
    assert world.gang.mode is Mode.PREPARING


# --- a real leader and its store -----------------------------------------------------------------------


@pytest.mark.parametrize("after", [False, True], ids=["not made", "made, but not told"])
@pytest.mark.parametrize("failures", [1, 3])
async def test_a_recovery_outlives_a_store_that_fails_for_a_while(
    tmp_path: Path, failures: int, after: bool
) -> None:
    store = FlakyStore(tmp_path)
    pod = LonePod(tmp_path, store)
    async with pod.leading() as life:
        await pod.train()
        store.failures, store.after = failures, after
        pod.exit(139, signal=11)
        await until(lambda: pod.incarnation > 1 or life.done())
        assert not life.done(), await life
        assert pod.incarnation == (2 + failures if after else 2)
        newest = incarnations.newest(store)
        assert newest is not None and newest.incarnation == pod.incarnation
        assert newest.budgets.used == {FailureClass.CRASH: 1, FailureClass.STORAGE: failures}


async def test_a_pod_that_starts_while_the_store_fails_leads_when_it_is_back(tmp_path: Path) -> None:
    store = FlakyStore(tmp_path)
    store.prefix, store.failures = "probe-", 2
    pod = LonePod(tmp_path, store)
    async with pod.leading() as life:
        await until(lambda: pod.started or life.done())
        assert not life.done(), await life
        await pod.train()
    assert store.failures == 0


async def test_a_pod_that_waits_for_its_store_leaves_when_it_is_told_to(tmp_path: Path) -> None:
    store = FlakyStore(tmp_path)
    store.prefix, store.always = "probe-", True
    pod = LonePod(tmp_path, store, back_off=3600)
    async with pod.leading() as life:
        await until(lambda: pod.leader._gang.mode is Mode.BACKING_OFF)
        pod.sink(Leaving(at=time.time()))
        verdict = await life
    assert verdict.result == "Preempted"


# --- the fence -----------------------------------------------------------------------------------------


def claims_of(pod: LonePod) -> Claims:
    return Claims(store=pod.store, config=pod.config, me=pod.identity)


WISH: dict[str, Any] = {"cause": None, "prepared": None}
CLAIMED_AFTER_1: dict[str, tuple[tuple[int, ...], bool]] = {
    "nobody": ((), False),
    "itself": ((1,), False),
    "itself twice": ((1, 1), False),
    "another": ((2,), True),
    "itself, then another": ((1, 2), True),
}


@pytest.mark.parametrize("case", list(CLAIMED_AFTER_1))
async def test_only_what_another_agent_has_claimed_ends_a_leader(tmp_path: Path, case: str) -> None:
    claimants, taken = CLAIMED_AFTER_1[case]
    pods = {ticket: LonePod(tmp_path, ticket=ticket) for ticket in (1, 2)}
    wish = ev.Claim(budgets=BudgetUse(), **WISH)
    for ticket in (1, *claimants):
        assert isinstance(claims_of(pods[ticket]).claim(wish, 0), ev.Claimed)
    assert claims_of(pods[1]).taken(1) is taken
    answer = claims_of(pods[1]).claim(wish, 1)
    assert isinstance(answer, ev.Refused if taken else ev.Claimed)


async def test_a_fence_that_cannot_be_seen_for_a_moment_ends_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("windlass_workloads.agent.leader.SIGN_SECONDS", 0.01)
    seen: list[int] = []
    real: Callable[..., Any] = incarnations.read

    def read(store: RunStore, number: int) -> Any:
        if number == 2:
            seen.append(number)
            if len(seen) < 4:
                raise OSError(errno.ESTALE, "Stale file handle")
        return real(store, number)

    pod = LonePod(tmp_path)
    async with pod.leading() as life:
        await pod.train()
        monkeypatch.setattr(incarnations, "read", read)
        await until(lambda: len(seen) > 5 or life.done())
        assert not life.done(), await life
        other = LonePod(tmp_path, ticket=2)
        wish = ev.Claim(budgets=BudgetUse(), **WISH)
        assert isinstance(claims_of(other).claim(wish, 0), ev.Claimed)
        verdict = await life
    assert verdict.result == "Fenced"
