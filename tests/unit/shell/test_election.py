"""The election under every order of events: at most one leader, and it knows in time that it is none."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unit.shell.conftest import Hand
from windlass.shell.clock import Clock
from windlass.shell.errors import ApiError, Conflict, NotFound, Unreachable
from windlass.shell.lease import (
    DURATION_SECONDS,
    RENEW_DEADLINE_SECONDS,
    RETRY_SECONDS,
    Candidate,
    Elector,
    Timing,
)


@dataclass
class LeaseServer:
    """One Lease with versions; requests fail while it is away, writes may lose their answer."""

    lease: dict[str, Any] | None = None
    version: int = 0
    away: bool = False
    loses_answers: bool = False
    writes: list[str] = field(default_factory=list)

    def _answer(self) -> None:
        if self.away:
            raise Unreachable("away")

    def _store(self, body: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        self.lease = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.version)}}
        self.writes.append(str(body["spec"]["holderIdentity"]))
        if self.loses_answers:
            raise Unreachable("answer lost")
        return self.lease

    async def get(self, *_: Any, **__: Any) -> dict[str, Any]:
        self._answer()
        if self.lease is None:
            raise NotFound(404, "NotFound", "")
        return self.lease

    async def create(self, _: Any, body: dict[str, Any]) -> dict[str, Any]:
        self._answer()
        # The real client answers AlreadyExists with the object that is there, when both have no controller.
        return self._store(body) if self.lease is None else self.lease

    async def replace(self, _: Any, body: dict[str, Any]) -> dict[str, Any]:
        self._answer()
        if self.lease is None:
            raise NotFound(404, "NotFound", "")
        if body["metadata"].get("resourceVersion") != self.lease["metadata"]["resourceVersion"]:
            raise Conflict(409, "Conflict", "")
        return self._store(body)


class Replica:
    """One elector that shares the server and has a clock of its own."""

    def __init__(self, server: LeaseServer, name: str, hand: Hand) -> None:
        self.lost: list[float] = []
        self.hand = hand
        self.elector = Elector(
            server,  # type: ignore[arg-type]
            Candidate("system", "operator", name),
            clock=Clock(hand.monotonic, hand.now, hand.sleep),
            on_lost=lambda: self.lost.append(hand.at),
        )

    async def turn(self) -> None:
        """What `keep` does at each pause, without the pause."""
        led = self.elector.leading
        renewed = await self.elector.attempt()
        elector = self.elector
        if led and not renewed:
            other = elector._holder() not in (elector._identity, "", None)
            if other or elector.seconds_since_renewal() > RENEW_DEADLINE_SECONDS:
                elector.leading = False
                self.lost.append(self.hand.at)


def test_deadlines_leave_room_for_each_other() -> None:
    """The old leader must be gone before a new one may begin, with retries in between."""
    assert RENEW_DEADLINE_SECONDS + 2 * RETRY_SECONDS <= DURATION_SECONDS
    assert RENEW_DEADLINE_SECONDS > 3 * RETRY_SECONDS, "one lost request is no lost Lease"
    assert Timing() == Timing(DURATION_SECONDS, RENEW_DEADLINE_SECONDS, RETRY_SECONDS)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["turn", "turn", "turn", "away", "back", "lose", "keep", "edit", "delete"]),
        st.integers(0, 2),
        st.floats(0.1, 4.0),
    ),
    min_size=10,
    max_size=60,
)


@pytest.mark.fault("F4")
@settings(max_examples=80, deadline=None)
@given(EVENTS)
async def test_there_are_never_two_leaders_at_once(events: list[tuple[str, int, float]]) -> None:
    server, hand = LeaseServer(), Hand()
    replicas = [Replica(server, name, hand) for name in ("one", "two", "three")]
    for kind, number, pause in events:
        hand.at += pause
        match kind:
            case "away":
                server.away = True
            case "back":
                server.away = False
            case "lose":
                server.loses_answers = True
            case "keep":
                server.loses_answers = False
            case "edit" if server.lease is not None:
                server.version += 1
                server.lease["metadata"]["resourceVersion"] = str(server.version)
            case "turn":
                await replicas[number].turn()
        # A leader acts only between renewals that are younger than the deadline; its own loop sees to that.
        leading = [
            each
            for each in replicas
            if each.elector.leading and each.elector.seconds_since_renewal() <= RENEW_DEADLINE_SECONDS
        ]
        assert len(leading) <= 1, [each.elector._identity for each in leading]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(1.6, 2.4), min_size=12, max_size=20))
async def test_somebody_leads_again_once_the_leader_is_gone(pauses: list[float]) -> None:
    server, hand = LeaseServer(), Hand()
    gone, left = Replica(server, "gone", hand), Replica(server, "left", hand)
    await gone.turn()
    assert gone.elector.leading
    began = hand.at
    await left.turn()
    for pause in pauses:
        hand.at += pause
        await left.turn()
        if left.elector.leading:
            break
    assert left.elector.leading
    assert DURATION_SECONDS <= hand.at - began <= DURATION_SECONDS + 3


async def test_lease_that_was_deleted_is_made_again() -> None:
    server, hand = LeaseServer(), Hand()
    one = Replica(server, "one", hand)
    await one.turn()
    server.lease = None
    hand.at += 2
    await one.turn()
    hand.at += 2
    await one.turn()
    assert one.elector.leading and one.lost == []
    assert server.lease is not None and server.lease["spec"]["holderIdentity"] == "one"


async def test_a_renewal_whose_answer_was_lost_is_found_again() -> None:
    server, hand = LeaseServer(), Hand()
    one = Replica(server, "one", hand)
    await one.turn()
    server.loses_answers = True
    hand.at += 2
    await one.turn()
    server.loses_answers = False
    for _ in range(3):
        hand.at += 2
        await one.turn()
    assert one.elector.leading and one.lost == []
    assert one.elector.seconds_since_renewal() <= 2


@pytest.mark.parametrize(
    ("spec", "waits"),
    [
        ({}, False),
        ({"holderIdentity": ""}, False),
        ({"holderIdentity": "one"}, False),
        ({"holderIdentity": "other"}, True),
        ({"holderIdentity": "other", "leaseDurationSeconds": 1}, True),
        ({"holderIdentity": "other", "leaseDurationSeconds": None}, True),
    ],
)
async def test_whose_lease_may_be_taken_at_once(spec: dict[str, Any], waits: bool) -> None:
    server, hand = LeaseServer(), Hand()
    server.lease = {"metadata": {"resourceVersion": "1"}, "spec": spec}
    one = Replica(server, "one", hand)
    await one.turn()
    assert one.elector.leading is not waits


@pytest.mark.parametrize(("seconds", "after"), [(1, 1.1), (30, 30.1), (None, DURATION_SECONDS + 0.1)])
async def test_the_other_ones_own_duration_counts(seconds: int | None, after: float) -> None:
    server, hand = LeaseServer(), Hand()
    spec = {"holderIdentity": "other", "leaseDurationSeconds": seconds}
    server.lease = {"metadata": {"resourceVersion": "1"}, "spec": spec}
    one = Replica(server, "one", hand)
    await one.turn()
    hand.at += after - 0.2
    await one.turn()
    assert not one.elector.leading
    hand.at += 0.2
    await one.turn()
    assert one.elector.leading


async def test_transitions_count_changes_of_hands_only() -> None:
    server, hand = LeaseServer(), Hand()
    one, two = Replica(server, "one", hand), Replica(server, "two", hand)
    for _ in range(3):
        await one.turn()
        hand.at += 2
    assert server.lease is not None and server.lease["spec"]["leaseTransitions"] == 0
    taken = server.lease["spec"]["acquireTime"]
    await one.elector.release()
    await two.turn()
    assert server.lease["spec"]["leaseTransitions"] == 1
    assert server.lease["spec"]["acquireTime"] > taken


async def test_a_release_that_fails_ends_leading_all_the_same() -> None:
    server, hand = LeaseServer(), Hand()
    one = Replica(server, "one", hand)
    await one.turn()
    server.away = True
    await one.elector.release()
    assert not one.elector.leading
    assert server.lease is not None and server.lease["spec"]["holderIdentity"] == "one", (
        "it expires by itself"
    )


async def test_server_errors_of_any_kind_are_survived() -> None:
    class Broken(LeaseServer):
        errors = [ApiError(500, "x", "y"), TimeoutError(), Unreachable("z"), Conflict(409, "Conflict", "c")]

        async def get(self, *_: Any, **__: Any) -> dict[str, Any]:
            if self.errors:
                raise self.errors.pop()
            return await super().get()

    server, hand = Broken(), Hand()
    one = Replica(server, "one", hand)
    for _ in range(5):
        await one.turn()
    assert one.elector.leading
