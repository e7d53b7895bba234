"""Reports on their way in: who is known, how often, which one counts, and what is answered."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unit.shell.conftest import Hand
from windlass.api.contract import Orders, Report
from windlass.shell.identity import (
    ACCEPTED_SECONDS,
    REFUSED_SECONDS,
    REMEMBERED,
    Caller,
    Reviewer,
    lifetime,
    read,
    review,
)
from windlass.shell.inbox import COUNTED, HEARD, Inbox, is_newer, is_routine
from windlass.shell.reports import BURST, RATE_PER_SECOND, RateLimit, Refusal, is_member, parse, refuse

POD_UID = "authentication.kubernetes.io/pod-uid"
POD_NAME = "authentication.kubernetes.io/pod-name"


def answered(**changes: Any) -> dict[str, Any]:
    good: dict[str, Any] = {
        "authenticated": True,
        "audiences": ["windlass.dev"],
        "user": {
            "username": "system:serviceaccount:team:default",
            "extra": {POD_UID: ["u1"], POD_NAME: ["ft-0-1"]},
        },
    }
    return good | changes


REVIEWS: list[tuple[str, dict[str, Any], Caller | None]] = [
    ("a pod of ours", answered(), Caller("team", "ft-0-1", "u1")),
    ("nothing", {}, None),
    ("not authenticated", answered(authenticated=False), None),
    ("no audience", answered(audiences=None), None),
    ("another audience", answered(audiences=["https://kubernetes.default.svc"]), None),
    ("several audiences", answered(audiences=["x", "windlass.dev"]), Caller("team", "ft-0-1", "u1")),
    ("a person", answered(user={"username": "alice", "extra": {POD_UID: ["u"], POD_NAME: ["p"]}}), None),
    (
        "a node",
        answered(user={"username": "system:node:n1", "extra": {POD_UID: ["u"], POD_NAME: ["p"]}}),
        None,
    ),
    ("no user", answered(user=None), None),
    ("not bound to a pod", answered(user={"username": "system:serviceaccount:team:x", "extra": {}}), None),
    ("no extra", answered(user={"username": "system:serviceaccount:team:x"}), None),
    (
        "two pods",
        answered(
            user={"username": "system:serviceaccount:t:x", "extra": {POD_UID: ["a", "b"], POD_NAME: ["p"]}}
        ),
        None,
    ),
    (
        "pod without name",
        answered(user={"username": "system:serviceaccount:t:x", "extra": {POD_UID: ["a"], POD_NAME: []}}),
        None,
    ),
]


@pytest.mark.parametrize(("name", "status", "caller"), REVIEWS, ids=[row[0] for row in REVIEWS])
def test_whose_token_it_is(name: str, status: dict[str, Any], caller: Caller | None) -> None:
    assert read(status) == caller, name


class Asked:
    """An API server that counts reviews."""

    def __init__(self, status: dict[str, Any]) -> None:
        self.status = status
        self.times = 0

    async def ask(self, _: Any, body: dict[str, Any]) -> dict[str, Any]:
        assert body == review(body["spec"]["token"])
        self.times += 1
        return {"status": self.status}


TOKEN_SECONDS = lifetime(hashlib.sha256(b"token").hexdigest(), accepted=True)


def test_answers_of_many_tokens_do_not_end_together() -> None:
    ends = [lifetime(hashlib.sha256(bytes([number])).hexdigest(), accepted=True) for number in range(200)]
    assert min(ends) >= 0.8 * ACCEPTED_SECONDS and max(ends) <= ACCEPTED_SECONDS
    assert len({int(end) for end in ends}) > 40
    assert lifetime("ffff", accepted=False) == lifetime("0000", accepted=False) == REFUSED_SECONDS


@pytest.mark.parametrize(
    ("status", "seconds"), [(answered(), TOKEN_SECONDS), ({}, REFUSED_SECONDS)], ids=["known", "refused"]
)
async def test_a_token_is_asked_about_once_in_a_while(
    hand: Hand, status: dict[str, Any], seconds: float
) -> None:
    asked = Asked(status)
    reviewer = Reviewer(asked, hand.clock())  # type: ignore[arg-type]
    for _ in range(5):
        await reviewer.identify("token")
    assert asked.times == 1
    hand.at += seconds - 0.1
    await reviewer.identify("token")
    assert asked.times == 1
    hand.at += 0.2
    await reviewer.identify("token")
    assert asked.times == 2


async def test_tokens_are_remembered_by_hash_and_not_without_end(hand: Hand) -> None:
    asked = Asked(answered())
    reviewer = Reviewer(asked, hand.clock())  # type: ignore[arg-type]
    for number in range(REMEMBERED + 10):
        await reviewer.identify(f"token-{number}")
    assert len(reviewer._known) == REMEMBERED
    assert all(len(key) == 64 and "token" not in key for key in reviewer._known)


async def test_a_failed_review_is_not_remembered(hand: Hand) -> None:
    class Failing(Asked):
        async def ask(self, _: Any, body: dict[str, Any]) -> dict[str, Any]:
            self.times += 1
            if self.times == 1:
                raise TimeoutError
            return {"status": self.status}

    failing = Failing(answered())
    reviewer = Reviewer(failing, hand.clock())  # type: ignore[arg-type]
    with pytest.raises(TimeoutError):
        await reviewer.identify("token")
    assert await reviewer.identify("token") == Caller("team", "ft-0-1", "u1")


# --- rates -----------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 3), min_size=1, max_size=80))
def test_nobody_gets_more_than_burst_and_rate(pauses: list[float]) -> None:
    hand = Hand()
    limit = RateLimit(hand.monotonic)
    began, allowed = hand.at, 0
    for pause in pauses:
        hand.at += pause
        allowed += limit.allows("pod")
        assert allowed <= BURST + (hand.at - began) * RATE_PER_SECOND + 1e-6
    assert limit.allows("another") is True, "one sender never costs another"


def test_patience_is_rewarded(hand: Hand) -> None:
    limit = RateLimit(hand.monotonic, rate=1.0, burst=2.0)
    assert [limit.allows("p") for _ in range(4)] == [True, True, False, False]
    hand.at += 1
    assert [limit.allows("p") for _ in range(2)] == [True, False]
    hand.at += 1000
    assert [limit.allows("p") for _ in range(3)] == [True, True, False]


def test_senders_are_not_remembered_without_end(hand: Hand) -> None:
    limit = RateLimit(hand.monotonic)
    for number in range(10_000):
        limit.allows(f"pod-{number}")
    assert len(limit._buckets) <= 8192


# --- the inbox -------------------------------------------------------------------------------------


def report(sequence: int = 1, *, ticket: int = 1, uid: str = "p1", run: str = "r") -> Report:
    return Report.model_validate(
        {
            "run": {"kind": "FineTuneJob", "namespace": "team", "name": "ft", "uid": run},
            "pod": f"ft-0-{ticket}",
            "podUid": uid,
            "attempt": 1,
            "ticket": ticket,
            "sequence": sequence,
            "sentAt": "2026-11-23T12:00:00Z",
        }
    )


@pytest.mark.parametrize(
    ("new", "known", "newer"),
    [
        (report(2), report(1), True),
        (report(1), report(1), False),
        (report(1), report(2), False),
        (report(1, ticket=3, uid="p3"), report(9), True),
        (report(1, ticket=1, uid="p9"), report(9), True),
        (report(99, ticket=1), report(1, ticket=3, uid="p3"), False),
    ],
    ids=["next", "same", "late", "later leader", "same ticket, new pod", "former leader"],
)
def test_which_report_replaces_which(new: Report, known: Report, newer: bool) -> None:
    assert is_newer(new, known) is newer


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 3)), min_size=1, max_size=15),
)
def test_inbox_holds_the_latest_of_the_latest_leader(sent: list[tuple[int, int]]) -> None:
    inbox, arrived = Inbox(), list[Report]()
    inbox.arrived = lambda report, _: arrived.append(report)
    for sequence, ticket in sent:
        inbox.put(report(sequence, ticket=ticket, uid=f"p{ticket}"))
    kept = inbox.report("r")
    assert kept is not None
    leader = max(ticket for _, ticket in sent)
    assert kept.ticket == leader
    assert kept.sequence == max(sequence for sequence, ticket in sent if ticket == leader)
    assert arrived[-1] == kept
    pairs = [(each.ticket, each.sequence) for each in arrived]
    assert pairs == sorted(pairs) and len(pairs) == len(set(pairs))


def test_orders_are_kept_by_run_and_forgotten_with_it() -> None:
    inbox = Inbox()
    assert inbox.put(report()).action == "Continue"
    inbox.set_orders("r", Orders(action="Stop", reason="Completed"))
    assert inbox.put(report(2)).action == "Stop"
    assert inbox.put(report(1, run="other")).action == "Continue"
    inbox.forget("r")
    assert inbox.orders("r") == Orders()
    assert inbox.report("r") is None and inbox.heard_at("r") is None
    assert inbox.report("other") is not None
    inbox.forget("r")


def test_hearing_counts_by_our_clock_and_only_what_is_news() -> None:
    now = [datetime(2026, 11, 23, 12, 0, tzinfo=UTC)]
    inbox = Inbox(lambda: now[0])
    inbox.put(report(2))
    now[0] += timedelta(seconds=30)
    inbox.put(report(1))
    assert inbox.heard_at("r") == datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
    inbox.put(report(3))
    assert inbox.heard_at("r") == now[0]


def test_many_leaders_are_asked_to_report_more_seldom() -> None:
    now = [datetime(2026, 11, 23, 12, 0, tzinfo=UTC)]
    inbox = Inbox(lambda: now[0])
    for number in range(400):
        asked = inbox.put(report(1, run=f"r{number}")).retry_after_seconds
        assert asked == (0.0 if number < 200 else (number + 1) / 100)
    now[0] += COUNTED
    inbox.set_orders("r7", Orders(action="SaveAndExit", reason="Suspended"))
    answer = inbox.put(report(2, run="r7"))
    assert (answer.action, answer.reason, answer.retry_after_seconds) == ("SaveAndExit", "Suspended", 4.0)
    assert inbox.orders("r7").retry_after_seconds == 0.0, "the order itself is as it was given"
    now[0] += HEARD
    assert inbox.put(report(3, run="r7")).retry_after_seconds == 0.0, "the others are not heard any more"
    assert inbox.runs_heard() == 1


def test_runs_are_counted_anew_after_the_clock_was_set_back() -> None:
    now = [datetime(2026, 11, 23, 12, 0, tzinfo=UTC)]
    inbox = Inbox(lambda: now[0])
    assert inbox.runs_heard() == 0
    now[0] -= timedelta(hours=1)
    inbox.put(report(1))
    assert inbox.runs_heard() == 1


def test_a_leader_that_is_heard_again_after_a_silence_is_news() -> None:
    """Its silence was told in status, which no timer takes back."""
    now = [datetime(2026, 11, 23, 12, 0, tzinfo=UTC)]
    inbox, heard = Inbox(lambda: now[0]), list[bool]()
    inbox.arrived = lambda _, routine: heard.append(routine)
    for sequence, gap in ((1, 0.0), (2, 2.0), (3, 24.9), (4, 25.0), (5, 61.0), (6, 2.0)):
        now[0] += timedelta(seconds=gap)
        inbox.put(report(sequence))
    assert heard == [False, True, True, False, False, True]


def test_leaders_that_come_all_at_once_are_counted_at_once() -> None:
    """A new operator hears of a thousand runs before it would count again."""
    now = [datetime(2026, 11, 23, 12, 0, tzinfo=UTC)]
    inbox = Inbox(lambda: now[0])
    assert inbox.runs_heard() == 0
    for number in range(300):
        inbox.put(report(1, run=f"r{number}"))
        inbox.put(report(2, run=f"r{number}"))
    assert inbox.runs_heard() == 300
    now[0] += COUNTED
    assert inbox.runs_heard() == 300


PROGRESS = {"phase": "Train", "step": 7, "loss": 2.5}
NEWS: list[tuple[dict[str, Any], bool]] = [
    ({}, True),
    ({"progress": PROGRESS | {"step": 8, "loss": 2.4, "etaSeconds": 3.0}}, True),
    ({"sentAt": "2026-11-23T12:00:02Z"}, True),
    ({"timeline": {"startedAt": "2026-11-23T11:00:00Z", "until": "2026-11-23T12:00:00Z"}}, True),
    ({"tracking": {"runId": "a", "spooled": 9}}, True),
    ({"tracking": {"runId": "b"}}, False),
    ({"tracking": None}, False),
    ({"progress": PROGRESS | {"phase": "Save"}}, False),
    ({"phase": "Save"}, False),
    ({"podUid": "p2"}, False),
    ({"ticket": 2}, False),
    ({"incarnation": 4}, False),
    ({"restarts": 1}, False),
    ({"lostSteps": 3}, False),
    ({"checkpoints": [{"name": "step-7", "step": 7, "incarnation": 1, "digest": "d"}]}, False),
    ({"recoveries": [{"incarnation": 2, "rung": "InPlace", "class": "Crash"}]}, False),
    ({"failure": {"reason": "Crash", "class": "Crash"}}, False),
    ({"members": [{"index": 0, "pod": "ft-0-1", "podUid": "p1", "ready": True}]}, False),
    ({"nodes": 2}, False),
    ({"wanted": "RecreateGang"}, False),
    ({"saveError": "no space left"}, False),
    ({"unsaved": "nothing is saved"}, False),
    ({"stall": "rank 1"}, False),
    ({"straggler": "rank 1"}, False),
    ({"lossSpike": "step 7"}, False),
    ({"trackingError": "refused"}, False),
    ({"output": {"uri": "pvc://c/out"}}, False),
    ({"resume": {"step": 5}}, False),
    ({"plan": {"warnings": ["a"]}}, False),
    ({"verdict": {"result": "Succeeded"}}, False),
]


@pytest.mark.parametrize(("change", "routine"), NEWS, ids=[",".join(row[0]) or "nothing" for row in NEWS])
def test_which_reports_are_routine(change: dict[str, Any], routine: bool) -> None:
    base = report(1).to_wire() | {"progress": PROGRESS, "tracking": {"runId": "a"}, "phase": "Train"}
    known = Report.model_validate(base)
    new = Report.model_validate(base | {"sequence": 2} | change)
    assert is_routine(new, known) is routine


def test_every_field_of_a_report_was_thought_of() -> None:
    numbers = {"sequence", "sent_at", "progress", "timeline", "tracking"}
    tried = {key for change, _ in NEWS for key in change}
    fixed = {"version", "run", "pod", "attempt"}
    names = {info.alias or name for name, info in Report.model_fields.items() if name not in fixed}
    assert names - tried == {"sequence"} and numbers <= set(Report.model_fields)


def test_the_first_report_is_news_and_the_next_may_be_routine() -> None:
    inbox, heard = Inbox(), list[bool]()
    inbox.arrived = lambda _, routine: heard.append(routine)
    for sequence in (1, 2, 2, 3):
        inbox.put(report(sequence))
    inbox.put(report(1, ticket=2, uid="p2"))
    assert heard == [False, True, True, False]


# --- reading and refusing --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            b"{",
            "body: Invalid JSON: EOF while parsing an object at line 1 column 1. hint: contract version 1",
        ),
        (b"", "body: Invalid JSON: EOF while parsing a value at line 1 column 0. hint: contract version 1"),
        (b"[]", "body: Input should be an object. hint: contract version 1"),
        (b"{}", "run: Field required. hint: contract version 1"),
        (
            b'{"run": {"kind": "Job"}}',
            "run.kind: Input should be 'FineTuneJob' or 'PretrainJob'. hint: contract version 1",
        ),
    ],
)
def test_a_body_that_is_no_report_names_its_first_fault(body: bytes, message: str) -> None:
    with pytest.raises(Refusal) as caught:
        parse(body)
    assert (caught.value.status, caught.value.reason, caught.value.message) == (400, "BadReport", message)


def test_a_report_of_a_newer_agent_is_read() -> None:
    body = report().model_dump_json(by_alias=True).replace('"version":1', '"version":9,"fromTheFuture":true')
    assert parse(body.encode()).version == 9


@pytest.mark.parametrize(("retry", "headers"), [(True, {"Retry-After": "1"}), (False, {})])
def test_a_refusal_says_whether_to_come_again(retry: bool, headers: dict[str, str]) -> None:
    answer = refuse(Refusal(HTTPStatus.FORBIDDEN, "NotAMember", "m", retry=retry))
    assert answer.status == 403
    assert {key: answer.headers[key] for key in headers} == headers
    assert ("Retry-After" in answer.headers) is retry


@pytest.mark.parametrize(
    ("status", "member"),
    [
        ({}, False),
        ({"gang": {}}, False),
        ({"gang": {"members": [{"index": 0, "ticket": 1}]}}, True),
        ({"gang": {"members": [{"index": 0, "ticket": 2}]}}, False),
        ({"gang": {"members": [{"index": 1, "ticket": 1}]}}, False),
    ],
)
def test_who_is_a_member(status: dict[str, Any], member: bool) -> None:
    assert is_member({"status": status}, 0, 1) is member
    assert is_member({"status": None}, 0, 1) is False
