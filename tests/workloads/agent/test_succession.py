"""A new leader's pod is made while the old one still ends: it waits for the last word, and never for ever."""

from __future__ import annotations

import asyncio
import errno
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.api.meta import ExitCode
from windlass_workloads.agent import timeline
from windlass_workloads.agent.identity import GRACE_RESERVE_SECONDS, Limits
from windlass_workloads.agent.succession import Predecessor, wait_for_predecessor
from windlass_workloads.checkpoint import incarnations
from windlass_workloads.checkpoint.incarnations import Claimant
from windlass_workloads.checkpoint.store import RunStore
from workloads.agent.lone_leader import LonePod, until
from workloads.agent.support import MakeRun, wait_for
from workloads.checkpoint.support import incarnation

LONG = {"TOY_STEP_SECONDS": "0.05"}
NEXT = Claimant(pod_uid="pod-0-9", ticket=9, attempt=1)


def sign(step: int, *, last: bool = False) -> bytes:
    return timeline.alive(100.0 + step, step, step, last=last)


# --- what the signs say ------------------------------------------------------------------------------------

LOOKS: list[tuple[str, list[tuple[float, bytes | None]], float | None]] = [
    ("said its last word before", [(0, sign(4, last=True))], 0),
    ("says its last word", [(0, sign(4)), (1, sign(5)), (2, sign(6, last=True)), (3, sign(6, last=True))], 2),
    ("says nothing", [(0, None), (4.9, None), (5, None)], 5),
    ("has fallen silent", [(0, sign(4)), (4.9, sign(4)), (5.1, sign(4))], 5.1),
    ("goes on", [(0, sign(1)), (4, sign(2)), (8, sign(3)), (12, sign(4)), (16, sign(5))], None),
    ("speaks late", [(0, sign(1)), (4.9, sign(2)), (9.8, sign(2)), (9.95, sign(2))], 9.95),
    ("goes on for longer than a pod may", [(4.0 * each, sign(each)) for each in range(9)], 28),
    ("its sign is torn", [(0, b'{"at": 1'), (3, b""), (7, b""), (8, b"")], 8),
    ("its sign is another thing", [(0, b"[]"), (5, b"[]")], 5),
    ("its last word is no truth value", [(0, b'{"last": 1}'), (2, b'{"last": "yes"}'), (7, None)], None),
]


@pytest.mark.parametrize(("what", "looks", "gone_at"), LOOKS, ids=[row[0] for row in LOOKS])
def test_when_the_leader_before_counts_as_gone(
    what: str, looks: list[tuple[float, bytes | None]], gone_at: float | None
) -> None:
    watch = Predecessor(quiet_seconds=5.0, limit_seconds=25.0)
    first = next((at for at, seen in looks if watch.is_gone(seen, 1000.0 + at)), None)
    assert first == gone_at, what


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 3.0), st.integers(0, 3), st.booleans()), min_size=1, max_size=60))
def test_waiting_always_ends_and_never_while_signs_change_in_time(
    looks: list[tuple[float, int, bool]],
) -> None:
    watch, now = Predecessor(quiet_seconds=5.0, limit_seconds=25.0), 50.0
    began, changed, before = now, now, b"nothing seen"
    for pause, step, last in looks:
        now += pause
        seen = sign(step, last=last)
        if before == b"nothing seen":
            began = now
        if seen != before:
            changed, before = now, seen
        gone = watch.is_gone(seen, now)
        assert gone is (last or now - changed >= 5.0 or now - began >= 25.0)


def test_last_word_is_said_in_the_sign_and_only_there() -> None:
    assert timeline.is_last(sign(7, last=True))
    assert [timeline.is_last(each) for each in (sign(7), None, b"", b"{", b"[1]", b"null")] == [False] * 6
    past = timeline.read_past([], sign(7, last=True))
    assert past.memory.step == 7


# --- whom one waits for ------------------------------------------------------------------------------------


async def answer(store: RunStore, me: Claimant, *, stop: Callable[[], bool] = lambda: False) -> bool:
    watch = Predecessor(quiet_seconds=3600.0, limit_seconds=3600.0)
    return await asyncio.wait_for(wait_for_predecessor(store, me, watch, stop), 5.0)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    store = RunStore(tmp_path / "run")
    store.probe()
    return store


def led(store: RunStore, **changes: Any) -> None:
    """Somebody leads, and was seen a moment ago."""
    assert incarnations.claim(store, incarnation(1, **changes))
    store.write(timeline.ALIVE, sign(3))


async def test_nobody_waits_for_the_first(store: RunStore) -> None:
    assert await answer(store, NEXT)


async def test_a_leader_does_not_wait_for_itself(store: RunStore) -> None:
    led(store)
    mine = incarnations.newest(store)
    assert mine is not None
    me = Claimant(pod_uid=mine.owner_pod_uid, ticket=mine.ticket, attempt=mine.attempt)
    assert await answer(store, me)


async def test_who_may_not_follow_is_told_so_at_once(store: RunStore) -> None:
    led(store)
    assert await answer(store, Claimant(pod_uid="older", ticket=0, attempt=1))


async def test_who_is_asked_to_leave_does_not_wait(store: RunStore) -> None:
    led(store)
    assert not await answer(store, NEXT, stop=lambda: True)


async def test_the_last_word_ends_the_wait(store: RunStore) -> None:
    led(store)
    waiting = asyncio.ensure_future(answer(store, NEXT))
    for step in range(4, 8):
        await asyncio.sleep(0.05)
        assert not waiting.done()
        store.write(timeline.ALIVE, sign(step))
    store.write(timeline.ALIVE, sign(8, last=True))
    assert await waiting


async def test_a_store_that_fails_is_told_of(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    led(store)

    def read(name: str) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(RunStore, "read", lambda self, name: read(name))
    with pytest.raises(OSError, match="Input/output"):
        await answer(store, NEXT)


# --- real leaders ------------------------------------------------------------------------------------------


async def test_a_new_leader_claims_nothing_before_the_old_one_has_signed_off(tmp_path: Path) -> None:
    old, new = LonePod(tmp_path), LonePod(tmp_path, ticket=2)
    async with old.leading() as life:
        await old.train()
        old.work(3)
        async with new.leading():
            for _ in range(3):
                seen = old.store.read(timeline.ALIVE)
                await until(lambda seen=seen: old.store.read(timeline.ALIVE) != seen)
                old.work(1)
                assert not new.started and not life.done()
            name = old.save()
            await until(lambda: old.leader._gang.ledger_step == 6)
            old.leaving_at = time.time()
            old.end(old.parting())
            await life
            await until(lambda: new.started)
            record = incarnations.newest(new.store)
            assert record is not None and (record.incarnation, record.resume) == (2, name)
            assert record.cause is not None and record.cause.from_step == 6


async def test_a_waiting_leader_that_is_asked_to_leave_has_claimed_nothing(tmp_path: Path) -> None:
    old, new = LonePod(tmp_path), LonePod(tmp_path, ticket=2)
    async with old.leading():
        await old.train()
        async with new.leading() as life:
            await until(lambda: new.leader._predecessor._began_at is not None)
            new.leaving_at = time.time()
            assert (await asyncio.wait_for(life, 5.0)).result == "Preempted"
        record = incarnations.newest(old.store)
        assert record is not None and record.incarnation == 1


def test_no_pod_is_waited_for_longer_than_its_grace_period(tmp_path: Path) -> None:
    async def limits() -> tuple[float, float]:
        watch = LonePod(tmp_path, grace=77).leader._predecessor
        return watch.quiet_seconds, watch.limit_seconds

    assert asyncio.run(limits()) == (Limits().quiet_seconds, 77 + GRACE_RESERVE_SECONDS)


@pytest.mark.workloads
@pytest.mark.fault("F26")
def test_pods_that_overlap_lose_no_step(make_run: MakeRun) -> None:
    run = make_run(
        steps=80, every=1000, nodes=2, ranks=1, environment=LONG, arguments=["--quiet-seconds", "20"]
    )
    leader, follower = run.start_all()
    run.training(1)
    wait_for("some steps", lambda: run.sign().get("step", 0) >= 3)
    successor = run.start(0)
    leader.send(signal.SIGTERM)
    assert leader.wait() == ExitCode.PREEMPTED, leader.log
    assert leader.verdict.lost_steps == 0
    assert (successor.wait(), follower.wait()) == (0, 0), successor.log
    assert "the leader before is gone" in successor.log
    (row,) = run.recoveries()
    assert (row["rung"], row["class"], row["lostSteps"]) == ("RecreatePod", "Preempted", 0)
    assert row["resumedStep"] == leader.verdict.step
    assert run.newest().budgets.used == {}
