"""The report server: who may report, what is answered, and what is bounded."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from unit.shell.conftest import Hand, until
from unit.shell.fakeapi import FakeApi, Fault
from windlass.api.contract import Orders, Report
from windlass.shell.health import serve
from windlass.shell.identity import ACCEPTED_SECONDS, REFUSED_SECONDS, Caller, Reviewer, read
from windlass.shell.inbox import Inbox
from windlass.shell.observe import Caches
from windlass.shell.reports import BODY_BYTES, BURST, Refusal, ReportServer, whole_body

RUN = {"kind": "FineTuneJob", "namespace": "team", "name": "ft", "uid": "run-1"}


def report(**changes: Any) -> dict[str, Any]:
    body = {
        "run": RUN,
        "pod": "ft-0-1",
        "podUid": "pod-1",
        "attempt": 1,
        "ticket": 1,
        "sequence": 1,
        "sentAt": "2026-11-23T12:00:00Z",
    }
    return body | changes


def reviewed(**changes: Any) -> dict[str, Any]:
    """The status of a TokenReview for the pod ft-0-1."""
    extra = {
        "authentication.kubernetes.io/pod-name": ["ft-0-1"],
        "authentication.kubernetes.io/pod-uid": ["pod-1"],
    }
    good = {
        "authenticated": True,
        "audiences": ["windlass.dev"],
        "user": {"username": "system:serviceaccount:team:trainer", "extra": extra},
    }
    return good | changes


def pod(uid: str = "pod-1", *, owner: str = "run-1", ticket: int = 1, attempt: int = 1) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "ft-0-1",
            "namespace": "team",
            "uid": uid,
            "resourceVersion": "5",
            "labels": {
                "windlass.dev/index": "0",
                "windlass.dev/ticket": str(ticket),
                "windlass.dev/attempt": str(attempt),
            },
            "ownerReferences": [{"kind": "FineTuneJob", "name": "ft", "uid": owner, "controller": True}],
        }
    }


def job(uid: str = "run-1", *, ticket: int = 1) -> dict[str, Any]:
    return {
        "kind": "FineTuneJob",
        "metadata": {"name": "ft", "namespace": "team", "uid": uid, "resourceVersion": "5"},
        "status": {"gang": {"attempt": 1, "members": [{"index": 0, "ticket": ticket}]}},
    }


class Rig:
    """A server, what it knows, and a way to post."""

    def __init__(self, api: FakeApi, hand: Hand) -> None:
        self.api, self.hand, self.leading = api, hand, True
        self.caches, self.inbox, self.codes = Caches(), Inbox(), []
        self.caches.jobs.upsert(job())
        self.caches.pods.upsert(pod())
        api.reviews = lambda _: reviewed()
        self.client = api.client(attempts=1)
        self.server = ReportServer(
            reviewer=Reviewer(self.client, hand.clock()),
            inbox=self.inbox,
            caches=self.caches,
            is_leader=lambda: self.leading,
            clock=hand.clock(),
            counted=self.codes.append,
        )
        self.runner: web.AppRunner | None = None
        self.port = 0

    async def post(
        self, body: Any = None, *, token: str | None = "t1", raw: bytes | None = None
    ) -> tuple[int, dict[str, Any], dict[str, str]]:
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        url = f"http://127.0.0.1:{self.port}/v1/reports"
        async with aiohttp.ClientSession() as session:
            content: dict[str, Any] = {"data": raw} if raw is not None else {"json": body or report()}
            async with session.post(url, headers=headers, **content) as answer:
                return answer.status, await answer.json(), dict(answer.headers)


@pytest_asyncio.fixture
async def rig(api: FakeApi, hand: Hand) -> AsyncIterator[Rig]:
    made = Rig(api, hand)
    made.runner, made.port = await serve(made.server.application(), 0, host="127.0.0.1")
    yield made
    await made.runner.cleanup()
    await made.client.close()


async def test_a_members_report_is_kept_and_answered_with_orders(rig: Rig) -> None:
    arrived: list[Report] = []
    rig.inbox.arrived = lambda report, _: arrived.append(report)
    rig.inbox.set_orders("run-1", Orders(action="SaveAndExit", reason="Suspended"))
    code, answer, _ = await rig.post()
    assert (code, answer["action"], answer["reason"]) == (200, "SaveAndExit", "Suspended")
    kept = rig.inbox.report("run-1")
    assert kept is not None and kept.pod == "ft-0-1"
    assert [one.sequence for one in arrived] == [1]
    assert rig.codes == [200]


async def test_before_any_decision_a_run_goes_on(rig: Rig) -> None:
    assert (await rig.post())[1]["action"] == "Continue"


def forget_pod(rig: Rig) -> None:
    rig.caches.pods.drop(pod())


def forget_job(rig: Rig) -> None:
    rig.caches.jobs.drop(job())


def stand_by(rig: Rig) -> None:
    rig.leading = False


def replace_pod(rig: Rig) -> None:
    rig.caches.pods.upsert(pod("pod-2") | {"metadata": pod("pod-2")["metadata"] | {"resourceVersion": "9"}})


def grow_ticket(rig: Rig) -> None:
    changed = job(ticket=2)
    changed["metadata"]["resourceVersion"] = "9"
    rig.caches.jobs.upsert(changed)


def steal_pod(rig: Rig) -> None:
    changed = pod(owner="run-2")
    changed["metadata"]["resourceVersion"] = "9"
    rig.caches.pods.upsert(changed)


def review(**changes: Any) -> Any:
    def change(rig: Rig) -> None:
        rig.api.reviews = lambda _: reviewed(**changes)

    return change


def extra(**values: list[str]) -> Any:
    prefix = "authentication.kubernetes.io/"
    named = {prefix + name.replace("_", "-"): value for name, value in values.items()}
    return review(user={"username": "system:serviceaccount:team:trainer", "extra": named})


BOTH = {"pod_name": ["ft-0-1"], "pod_uid": ["pod-1"]}


@pytest.mark.parametrize(
    ("change", "body", "code", "reason", "retry"),
    [
        (stand_by, {}, 503, "NotLeader", True),
        (review(authenticated=False), {}, 401, "BadToken", False),
        (review(audiences=["https://kubernetes.default.svc"]), {}, 401, "BadToken", False),
        (review(audiences=[]), {}, 401, "BadToken", False),
        (review(user={"username": "alice"}), {}, 401, "BadToken", False),
        (review(user={"username": "system:serviceaccount:team:trainer"}), {}, 401, "BadToken", False),
        (extra(pod_name=["ft-0-1"]), {}, 401, "BadToken", False),
        (extra(pod_name=["ft-0-1"], pod_uid=["pod-1", "pod-2"]), {}, 401, "BadToken", False),
        (extra(pod_name=["ft-0-1"], pod_uid=["pod-9"]), {}, 403, "NotAMember", False),
        (
            review(
                user={"username": "system:serviceaccount:other:trainer", "extra": reviewed()["user"]["extra"]}
            ),
            {},
            403,
            "NotAMember",
            False,
        ),
        (None, {"podUid": "pod-9"}, 403, "NotAMember", False),
        (None, {"run": RUN | {"uid": "run-9"}}, 403, "NotAMember", False),
        (None, {"run": RUN | {"namespace": "other"}}, 403, "NotAMember", False),
        (None, {"ticket": 2}, 403, "NotAMember", False),
        (None, {"attempt": 2}, 403, "NotAMember", False),
        (grow_ticket, {}, 403, "NotAMember", False),
        (steal_pod, {}, 403, "NotAMember", False),
        (forget_job, {}, 503, "NotYetKnown", True),
        (forget_pod, {}, 503, "NotYetKnown", True),
        (replace_pod, {}, 503, "NotYetKnown", True),
        (None, {"sequence": "many"}, 400, "BadReport", False),
    ],
)
async def test_who_may_not_report(
    rig: Rig, change: Any, body: dict[str, Any], code: int, reason: str, retry: bool
) -> None:
    if change is not None:
        change(rig)
    answered, answer, headers = await rig.post(report(**body))
    assert (answered, answer["error"]["reason"]) == (code, reason)
    assert ("Retry-After" in headers) is retry
    assert rig.inbox.report("run-1") is None
    assert rig.codes == [code]


@pytest.mark.parametrize("token", [None, "", "x" * 20_000])
async def test_without_a_proper_token_nobody_is_asked(rig: Rig, token: str | None) -> None:
    # A header of 20 kB is refused by the server itself.
    async with aiohttp.ClientSession() as session:
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        async with session.post(
            f"http://127.0.0.1:{rig.port}/v1/reports", json=report(), headers=headers
        ) as answer:
            assert answer.status in (400, 401)
    assert rig.api.requests == []


async def test_texts_of_refusals(rig: Rig) -> None:
    _, answer, _ = await rig.post(token=None)
    assert answer["error"]["message"] == (
        "authorization: is missing or malformed; allowed: Bearer <token>. hint: send the projected token"
    )
    rig.api.reviews = lambda _: {"authenticated": False}
    _, answer, _ = await rig.post(token="other")
    assert answer["error"]["message"] == (
        "authorization: is no token of a pod for audience windlass.dev. hint: send the projected token of this pod"
    )


async def test_a_body_too_large_is_refused(rig: Rig) -> None:
    code, answer, _ = await rig.post(raw=b"x" * (BODY_BYTES + 1))
    assert (code, answer["error"]["reason"]) == (413, "TooLarge")
    assert answer["error"]["message"].startswith(
        f"body: is too large (got more than {BODY_BYTES} bytes); allowed: "
    )


async def test_garbage_is_refused_with_the_contracts_version(rig: Rig) -> None:
    code, answer, _ = await rig.post(raw=b"{")
    assert code == 400
    assert answer["error"]["message"].endswith("hint: contract version 1")


async def test_too_many_reports_of_one_pod_are_refused(rig: Rig) -> None:
    codes = [(await rig.post(report(sequence=number)))[0] for number in range(1, int(BURST) + 4)]
    assert codes == [200] * int(BURST) + [429] * 3
    rig.hand.at += 1
    assert (await rig.post(report(sequence=99)))[0] == 200


async def test_a_review_that_fails_is_tried_again_later(rig: Rig) -> None:
    rig.api.faults.append(Fault("POST", "tokenreviews", 503))
    code, answer, headers = await rig.post()
    assert (code, answer["error"]["reason"], headers["Retry-After"]) == (503, "ReviewFailed", "1")
    assert (await rig.post())[0] == 200


async def test_a_sender_that_goes_away_in_the_middle_is_no_error(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    head = "POST /v1/reports HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer t1\r\nContent-Length: 900\r\n\r\n{"
    writer.write(head.encode())
    await writer.drain()
    await until(lambda: rig.api.requests)
    writer.transport.abort()
    await until(lambda: rig.codes)
    assert rig.codes == [HTTPStatus.REQUEST_TIMEOUT]
    assert [record for record in caplog.records if record.name.startswith("aiohttp")] == []
    assert (await rig.post())[0] == HTTPStatus.OK


@pytest.mark.parametrize(
    "error",
    [OSError(113, "no route to host"), TimeoutError(), ssl.SSLError(1, "bad record"), ConnectionResetError()],
)
async def test_however_a_body_is_cut_off_its_sender_is_told_alike(error: OSError) -> None:
    class Cut:
        async def read(self) -> bytes:
            raise error

    with pytest.raises(Refusal) as found:
        await whole_body(Cut())  # type: ignore[arg-type]
    assert (found.value.status, found.value.reason) == (HTTPStatus.REQUEST_TIMEOUT, "Cut")


async def test_a_token_is_reviewed_once_in_five_minutes(rig: Rig) -> None:
    for number in range(1, 4):
        await rig.post(report(sequence=number))
    assert len(rig.api.requests) == 1
    rig.hand.at += ACCEPTED_SECONDS + 1
    await rig.post(report(sequence=9))
    assert len(rig.api.requests) == 2
    spec = rig.api.bodies[0]["spec"]
    assert spec == {"token": "t1", "audiences": ["windlass.dev"]}


async def test_a_refused_token_is_asked_about_again_soon(rig: Rig) -> None:
    rig.api.reviews = lambda _: {"authenticated": False}
    await rig.post()
    await rig.post()
    assert len(rig.api.requests) == 1
    rig.hand.at += REFUSED_SECONDS + 1
    rig.api.reviews = lambda _: reviewed()
    assert (await rig.post())[0] == 200


async def test_the_cache_keeps_no_token(rig: Rig) -> None:
    await rig.post(token="very-secret-token")
    assert "very-secret-token" not in repr(vars(rig.server._reviewer))


def test_reading_a_review() -> None:
    assert read(reviewed()) == Caller("team", "ft-0-1", "pod-1")
    assert read({}) is None


@pytest.mark.parametrize(
    ("known", "new", "kept"),
    [
        ({"sequence": 5}, {"sequence": 6}, 6),
        ({"sequence": 5}, {"sequence": 5}, 5),
        ({"sequence": 5}, {"sequence": 4}, 5),
        ({"sequence": 5}, {"sequence": 1, "podUid": "pod-2", "ticket": 2}, 1),
        ({"sequence": 5, "ticket": 3}, {"sequence": 9, "podUid": "pod-2", "ticket": 2}, 5),
    ],
)
def test_which_report_is_kept(known: dict[str, Any], new: dict[str, Any], kept: int) -> None:
    inbox = Inbox()
    for body in (known, new):
        inbox.put(Report.model_validate(report(**body)))
    found = inbox.report("run-1")
    assert found is not None and found.sequence == kept
    inbox.forget("run-1")
    assert inbox.report("run-1") is None
    assert inbox.heard_at("run-1") is None


async def test_reviews_at_once_are_bounded(rig: Rig) -> None:
    running, most = 0, 0

    async def slow(*_: object, **__: object) -> dict[str, Any]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return {"status": reviewed()}

    reviewer = Reviewer(rig.client, rig.hand.clock())
    rig.client.ask = slow  # type: ignore[method-assign]
    await asyncio.gather(*(reviewer.identify(f"token-{number}") for number in range(50)))
    assert most <= 8
