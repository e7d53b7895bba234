"""Rounds that go wrong: each ends in the queue with its own pause, and never takes another job with it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from unit.shell.conftest import Hand
from windlass.api.contract import Orders
from windlass.core.decision import Decision
from windlass.core.observed import Observed
from windlass.shell.act import Done, Stale
from windlass.shell.errors import ApiError, Conflict, Forbidden, NotOurs, Unreachable
from windlass.shell.inbox import Inbox
from windlass.shell.metrics import Metrics
from windlass.shell.observe import WARNING_SECONDS, Caches, Memory
from windlass.shell.queue import FIRST_BACK_OFF_SECONDS, KeyedQueue
from windlass.shell.reconciler import SOONEST_SECONDS, STALE_SECONDS, Reconciler

KEY = ("FineTuneJob", "team", "ft")
OTHER = ("FineTuneJob", "team", "other")


class Rig:
    """A reconciler whose parts do what the test says."""

    def __init__(self, hand: Hand) -> None:
        self.hand = hand
        self.caches, self.inbox, self.metrics = Caches(), Inbox(), Metrics()
        self.queue: KeyedQueue[Any] = KeyedQueue(hand.monotonic, jitter=lambda low, high: 1.0)
        self.memories: dict[str, Memory] = {}
        self.forgotten: list[str] = []
        self.look_again = False
        self.decision = Decision()
        self.done = Done()
        self.failure: BaseException | None = None
        self.acted: list[Decision] = []
        self.acting_seconds = 0.0
        observer = SimpleNamespace(
            caches=self.caches,
            inbox=self.inbox,
            observe=self.observe,
            memory=lambda uid: self.memories.setdefault(uid, Memory()),
            forget=self.forgotten.append,
            must_look_again=lambda _: self.look_again,
            abandoned=lambda *_: [],
            has_formers=lambda *_: False,
        )
        self.reconciler = Reconciler(
            queue=self.queue,
            observer=observer,  # type: ignore[arg-type]
            actor=SimpleNamespace(act=self.act),  # type: ignore[arg-type]
            metrics=self.metrics,
            decide=lambda *_: self.decision,
            clock=hand.clock(),
        )
        self.put("ft")

    def put(self, name: str, uid: str = "u1", version: int = 1) -> None:
        metadata = {
            "name": name,
            "namespace": "team",
            "uid": uid,
            "resourceVersion": str(version),
            "creationTimestamp": "2026-11-23T12:00:00Z",
        }
        self.caches.jobs.upsert({"kind": "FineTuneJob", "metadata": metadata, "spec": {}, "status": {}})

    async def observe(self, _: Any) -> Observed:
        if self.failure is not None:
            raise self.failure
        return Observed()

    async def act(self, _: Any, decision: Decision, __: Any) -> Done:
        self.acted.append(decision)
        self.hand.at += self.acting_seconds
        return self.done

    def results(self) -> dict[str, float]:
        return {
            sample.labels["result"]: sample.value
            for metric in self.metrics.reconciles.collect()
            for sample in metric.samples
            if sample.name.endswith("_total")
        }


@pytest.fixture
def rig(hand: Hand) -> Rig:
    return Rig(hand)


FAILURES: list[tuple[str, BaseException, str, float]] = [
    ("stale view", Stale(), "conflict", STALE_SECONDS),
    ("conflict", Conflict(409, "Conflict", "x"), "conflict", STALE_SECONDS),
    ("server error", ApiError(500, "Internal", "x"), "error", FIRST_BACK_OFF_SECONDS),
    ("forbidden", Forbidden(403, "Forbidden", "x"), "error", FIRST_BACK_OFF_SECONDS),
    ("unreachable", Unreachable("x"), "error", FIRST_BACK_OFF_SECONDS),
    ("timeout", TimeoutError(), "error", FIRST_BACK_OFF_SECONDS),
    ("name taken", NotOurs("Pod", "p"), "error", FIRST_BACK_OFF_SECONDS),
    ("a bug of ours", KeyError("x"), "error", FIRST_BACK_OFF_SECONDS),
    ("recursion", RecursionError(), "error", FIRST_BACK_OFF_SECONDS),
]


@pytest.mark.fault("F7")
@pytest.mark.fault("F14")
@pytest.mark.parametrize(("name", "error", "result", "pause"), FAILURES, ids=[row[0] for row in FAILURES])
async def test_a_round_that_fails_comes_again_after_its_pause(
    rig: Rig, name: str, error: BaseException, result: str, pause: float
) -> None:
    rig.failure = error
    await rig.reconciler.attempt(KEY)
    assert rig.results() == {result: 1}, name
    assert rig.queue.seconds_until_next() == pytest.approx(pause)
    rig.failure = None
    await rig.reconciler.attempt(KEY)
    assert rig.results()["done"] == 1


@pytest.mark.parametrize(("acting", "left"), [(0.0, 10.0), (4.0, 6.0), (60.0, SOONEST_SECONDS)])
async def test_a_timer_counts_from_the_decision_however_long_its_writes_take(
    rig: Rig, acting: float, left: float
) -> None:
    rig.acting_seconds = acting
    rig.decision = Decision(requeue_after_seconds=10.0)
    await rig.reconciler.attempt(KEY)
    assert rig.queue.seconds_until_next() == pytest.approx(left)


@pytest.mark.fault("F7")
async def test_a_broken_job_waits_longer_each_time_and_its_success_ends_that(rig: Rig) -> None:
    rig.failure = KeyError("bug")
    pauses = []
    for _ in range(5):
        await rig.reconciler.attempt(KEY)
        pause = rig.queue.seconds_until_next()
        assert pause is not None
        pauses.append(pause)
        rig.hand.at += pause
        assert rig.queue.take() == KEY
        rig.queue.done(KEY)
    assert pauses == pytest.approx([0.5, 1.0, 2.0, 4.0, 8.0])
    rig.failure = None
    await rig.reconciler.attempt(KEY)
    rig.failure = KeyError("bug")
    await rig.reconciler.attempt(KEY)
    assert rig.queue.seconds_until_next() == pytest.approx(0.5)


@pytest.mark.parametrize("error", [asyncio.CancelledError(), SystemExit(1)], ids=["cancelled", "exit"])
async def test_the_end_of_the_process_is_no_failed_round(rig: Rig, error: BaseException) -> None:
    rig.failure = error
    with pytest.raises(type(error)):
        await rig.reconciler.attempt(KEY)
    assert rig.queue.seconds_until_next() is None


@pytest.mark.parametrize(("writes", "result"), [(0, "done"), (1, "written"), (7, "written")])
async def test_results_tell_whether_anything_was_written(rig: Rig, writes: int, result: str) -> None:
    rig.done = Done(writes=writes)
    await rig.reconciler.attempt(KEY)
    assert rig.results() == {result: 1}


async def test_a_job_that_is_gone_is_no_error(rig: Rig) -> None:
    await rig.reconciler.attempt(OTHER)
    assert rig.results() == {"gone": 1}
    assert rig.acted == []


@pytest.mark.parametrize(
    ("requeue", "look_again", "again", "wait"),
    [
        (None, False, False, None),
        (30.0, False, False, 30.0),
        (None, True, False, WARNING_SECONDS),
        (30.0, True, False, WARNING_SECONDS),
        (1.0, True, False, 1.0),
        (30.0, False, True, 30.0),
    ],
)
async def test_when_a_job_is_looked_at_again(
    rig: Rig, requeue: float | None, look_again: bool, again: bool, wait: float | None
) -> None:
    rig.decision = Decision(requeue_after_seconds=requeue)
    rig.look_again, rig.done = look_again, Done(again=again)
    await rig.reconciler.attempt(KEY)
    assert rig.queue.seconds_until_next() == wait
    assert len(rig.queue) == (1 if again else 0)


async def test_orders_are_left_before_anything_is_written(rig: Rig) -> None:
    rig.decision = Decision(orders=Orders(action="Stop", reason="Completed"))

    async def fails(*_: Any) -> Done:
        assert rig.inbox.orders("u1").action == "Stop"
        raise Unreachable("x")

    rig.reconciler._actor.act = fails  # type: ignore[method-assign]
    await rig.reconciler.attempt(KEY)
    assert rig.inbox.orders("u1").action == "Stop"


@pytest.mark.bad_input("B77")
async def test_what_was_remembered_of_a_former_job_of_the_name_is_forgotten(rig: Rig) -> None:
    await rig.reconciler.attempt(KEY)
    rig.put("ft", uid="u2", version=2)
    await rig.reconciler.attempt(KEY)
    assert rig.forgotten == ["u1"]
    body = rig.caches.jobs.get(("FineTuneJob", "team", "ft"))
    assert body is not None
    rig.caches.jobs.drop(body)
    await rig.reconciler.attempt(KEY)
    assert rig.forgotten == ["u1", "u2"]
    await rig.reconciler.attempt(KEY)
    assert rig.forgotten == ["u1", "u2"]


@pytest.mark.bad_input("B79")
async def test_many_jobs_share_the_workers_and_none_has_two(rig: Rig) -> None:
    working: set[str] = set()
    seen: list[str] = []
    all_seen = asyncio.Event()

    async def observe(job: Any) -> Observed:
        assert job.name not in working
        working.add(job.name)
        await asyncio.sleep(0)
        working.discard(job.name)
        seen.append(job.name)
        if len(set(seen)) == 100:
            all_seen.set()
        return Observed()

    rig.reconciler._observer.observe = observe  # type: ignore[method-assign]
    for number in range(100):
        rig.put(f"job-{number}", uid=f"u-{number}")
        rig.queue.add(("FineTuneJob", "team", f"job-{number}"))
    running = asyncio.create_task(rig.reconciler.run(workers=4))
    for number in range(20):
        rig.queue.add(("FineTuneJob", "team", f"job-{number}"))
        await asyncio.sleep(0)
    await asyncio.wait_for(all_seen.wait(), 10)
    rig.queue.close()
    await running
    assert len(seen) >= 100 and working == set()
