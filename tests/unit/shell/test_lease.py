"""The election, with clocks that the test moves: who leads, when it stops, how it hands over."""

from __future__ import annotations

import asyncio

import pytest

from unit.shell.conftest import Hand
from unit.shell.fakeapi import FakeApi, Fault
from windlass.shell.lease import DURATION_SECONDS, RENEW_DEADLINE_SECONDS, Candidate, Elector, micro_time


def make(api: FakeApi, hand: Hand, identity: str, lost: list[str] | None = None) -> Elector:
    lost = lost if lost is not None else []
    return Elector(
        api.client(attempts=1),
        Candidate("system", "operator", identity),
        clock=hand.clock(),
        on_lost=lambda: lost.append(identity),
    )


def spec(api: FakeApi) -> dict:
    body = api.get("leases", "operator", "system")
    assert body is not None
    return body["spec"]


async def test_the_first_makes_the_lease(api: FakeApi, hand: Hand) -> None:
    one = make(api, hand, "one")
    await one.acquire()
    assert one.leading
    assert spec(api)["holderIdentity"] == "one"
    assert spec(api)["leaseDurationSeconds"] == 15
    assert spec(api)["renewTime"] == "2026-11-23T12:00:00.000000Z"
    assert spec(api)["leaseTransitions"] == 0


async def test_a_second_waits_while_the_first_renews(api: FakeApi, hand: Hand) -> None:
    one, two = make(api, hand, "one"), make(api, hand, "two")
    assert await one.attempt()
    for _ in range(20):
        hand.at += 5
        assert await one.attempt()
        assert not await two.attempt()
    assert spec(api)["holderIdentity"] == "one"


async def test_a_second_takes_over_when_it_saw_no_renewal_for_the_whole_duration(
    api: FakeApi, hand: Hand
) -> None:
    one, two = make(api, hand, "one"), make(api, hand, "two")
    await one.attempt()
    assert not await two.attempt()
    hand.at += DURATION_SECONDS - 0.1
    assert not await two.attempt()
    hand.at += 0.2
    assert await two.attempt()
    assert (spec(api)["holderIdentity"], spec(api)["leaseTransitions"]) == ("two", 1)


async def test_another_ones_clock_does_not_matter(api: FakeApi, hand: Hand) -> None:
    behind = Hand()
    one, two = make(api, hand, "one"), make(api, behind, "two")
    await one.attempt()
    behind.at += 10_000
    assert not await two.attempt(), "an old renewTime alone is no proof"
    assert spec(api)["holderIdentity"] == "one"


async def test_two_at_once_make_one_leader(api: FakeApi, hand: Hand) -> None:
    electors = [make(api, hand, name) for name in ("one", "two", "three")]
    results = await asyncio.gather(*(one.attempt() for one in electors))
    assert results.count(True) == 1
    hand.at += DURATION_SECONDS + 1
    for one in electors:
        await one._read()
    hand.at += DURATION_SECONDS + 1
    results = await asyncio.gather(*(one.attempt() for one in electors))
    assert results.count(True) == 1


async def test_renewals_that_fail_past_the_deadline_end_the_process(api: FakeApi, hand: Hand) -> None:
    lost: list[str] = []
    one = make(api, hand, "one", lost)
    await one.acquire()
    api.faults.append(Fault("PUT", "leases", 503, times=999))
    began = hand.at
    await one.keep()
    assert lost == ["one"]
    assert RENEW_DEADLINE_SECONDS < hand.at - began < DURATION_SECONDS, "must end before another may lead"


async def test_a_short_outage_is_survived(api: FakeApi, hand: Hand) -> None:
    lost: list[str] = []
    one = make(api, hand, "one", lost)
    await one.acquire()
    api.faults.append(Fault("PUT", "leases", 503, times=3))
    for _ in range(4):
        hand.at += 2
        await one.attempt()
    assert lost == []
    assert one.leading
    assert one.seconds_since_renewal() == 0


async def test_a_lease_taken_by_another_ends_the_process_at_once(api: FakeApi, hand: Hand) -> None:
    lost: list[str] = []
    one = make(api, hand, "one", lost)
    await one.acquire()
    body = api.get("leases", "operator", "system")
    assert body is not None
    api.put("leases", {**body, "spec": {**body["spec"], "holderIdentity": "two"}})
    began = hand.at
    await one.keep()
    assert lost == ["one"]
    assert hand.at - began < 3


async def test_a_conflict_with_a_foreign_edit_is_survived(api: FakeApi, hand: Hand) -> None:
    one = make(api, hand, "one")
    await one.acquire()
    body = api.get("leases", "operator", "system")
    assert body is not None
    api.put("leases", {**body, "metadata": {**body["metadata"], "labels": {"edited": "yes"}}})
    assert not await one.attempt()
    assert await one.attempt()


async def test_release_lets_a_standby_lead_at_once(api: FakeApi, hand: Hand) -> None:
    one, two = make(api, hand, "one"), make(api, hand, "two")
    await one.acquire()
    assert not await two.attempt()
    await one.release()
    assert spec(api)["holderIdentity"] == ""
    hand.at += 1
    assert await two.attempt()
    assert not one.leading


async def test_release_of_what_is_not_held_writes_nothing(api: FakeApi, hand: Hand) -> None:
    await make(api, hand, "one").release()
    assert api.requests == []


async def test_pauses_have_jitter(api: FakeApi, hand: Hand) -> None:
    one = make(api, hand, "one")
    pauses = {one.pause() for _ in range(20)}
    assert len(pauses) > 10
    assert all(1.6 <= pause <= 2.4 for pause in pauses)


@pytest.mark.parametrize(("seconds", "text"), [(1000.0, "12:00:00.000000Z"), (1000.25, "12:00:00.250000Z")])
def test_micro_times_always_have_six_digits(hand: Hand, seconds: float, text: str) -> None:
    hand.at = seconds
    assert micro_time(hand.now()) == f"2026-11-23T{text}"
