"""The client: retries, Retry-After, lost answers, preconditions, lists and watches."""

from __future__ import annotations

import asyncio

import pytest

from unit.shell.fakeapi import FakeApi, Fault
from windlass.shell.client import PAGE, Call, Client
from windlass.shell.credentials import Credentials
from windlass.shell.errors import ApiError, Conflict, Forbidden, Gone, Invalid, NotFound, NotOurs, Unreachable
from windlass.shell.resources import CONFIG_MAPS, PODS, of


def pod(name: str = "p", *, owner: str = "job-1") -> dict:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "team",
            "ownerReferences": [{"kind": "FineTuneJob", "name": "ft", "uid": owner, "controller": True}],
        },
    }


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_a_passing_server_error_is_retried(api: FakeApi, client: Client, status: int) -> None:
    api.faults.append(Fault("POST", "pods", status, times=2))
    made = await client.create(PODS, pod())
    assert made["metadata"]["uid"]
    assert len(api.writes()) == 3


async def test_retries_end(api: FakeApi, client: Client) -> None:
    api.faults.append(Fault("GET", "pods", 503, times=99))
    with pytest.raises(ApiError, match="503 InternalError: fault"):
        await client.get(PODS, "p", namespace="team")
    assert len(api.requests) == 5


@pytest.mark.parametrize(("said", "least", "most"), [("3", 3.0, 3.3), ("3600", 30.0, 30.3)])
async def test_retry_after_is_honoured_up_to_a_limit(
    api: FakeApi, client: Client, said: str, least: float, most: float
) -> None:
    api.faults.append(Fault("GET", "pods", 429, headers={"Retry-After": said}))
    api.put("pods", pod())
    await client.get(PODS, "p", namespace="team")
    assert least <= api.pauses[0] <= most


async def test_pauses_grow_and_vary(api: FakeApi, client: Client) -> None:
    api.faults.append(Fault("GET", "pods", 500, times=4))
    api.put("pods", pod())
    await client.get(PODS, "p", namespace="team")
    for attempt, pause in enumerate(api.pauses, 1):
        assert 0.05 * 2**attempt <= pause <= 0.1 * 2**attempt


@pytest.mark.parametrize(
    ("status", "error"), [(400, Invalid), (422, Invalid), (403, Forbidden), (404, NotFound), (409, Conflict)]
)
async def test_what_will_not_pass_is_not_retried(
    api: FakeApi, client: Client, status: int, error: type[ApiError]
) -> None:
    api.faults.append(Fault("GET", "pods", status))
    with pytest.raises(error):
        await client.get(PODS, "p", namespace="team")
    assert len(api.requests) == 1


@pytest.mark.fault("F16")
async def test_a_create_whose_answer_was_lost_is_found_again(api: FakeApi, client: Client) -> None:
    api.faults.append(Fault("POST", "pods", drop=True, after=True))
    made = await client.create(PODS, pod())
    assert made["metadata"]["uid"] == api.get("pods", "p")["metadata"]["uid"]
    assert sum(key[0] == "pods" for key in api.objects) == 1


@pytest.mark.fault("F16")
async def test_a_status_whose_answer_was_lost_is_a_conflict(api: FakeApi, client: Client) -> None:
    job = api.put("finetunejobs", {"metadata": {"name": "ft", "namespace": "team"}})
    seen = {"metadata": dict(job["metadata"])}
    api.faults.append(Fault("PUT", "status", status=500, after=True))
    with pytest.raises(Conflict):
        await client.replace_status(of("FineTuneJob"), seen, {"incarnation": 1})
    assert api.get("finetunejobs", "ft")["status"] == {"incarnation": 1}


@pytest.mark.fault("F16")
async def test_a_delete_whose_answer_was_lost_is_done(api: FakeApi, client: Client) -> None:
    uid = api.put("pods", pod())["metadata"]["uid"]
    api.faults.append(Fault("DELETE", "pods", drop=True, after=True))
    await client.delete(PODS, "p", namespace="team", uid=uid)
    assert api.get("pods", "p") is None


async def test_a_hanging_request_times_out_and_is_retried(api: FakeApi) -> None:
    api.put("pods", pod())
    api.faults.append(Fault("GET", "pods", hang=True))
    async with api.client(request_timeout_seconds=0.2) as client:
        assert (await client.get(PODS, "p", namespace="team"))["metadata"]["name"] == "p"
    assert len(api.requests) == 2


async def test_nobody_listening_is_unreachable(api: FakeApi) -> None:
    await api.stop()
    async with api.client(attempts=2) as client:
        with pytest.raises(Unreachable):
            await client.get(PODS, "p", namespace="team")


async def test_a_name_held_by_another_owner_is_left_alone(api: FakeApi, client: Client) -> None:
    api.put("pods", pod(owner="job-2"))
    with pytest.raises(NotOurs) as caught:
        await client.create(PODS, pod(owner="job-1"))
    assert str(caught.value) == (
        "Pod p: exists and is not controlled by this job; allowed: a free name. "
        "hint: delete or rename that object, or give the job another name"
    )


async def test_our_own_earlier_object_counts_as_created(api: FakeApi, client: Client) -> None:
    uid = api.put("pods", pod())["metadata"]["uid"]
    assert (await client.create(PODS, pod()))["metadata"]["uid"] == uid


@pytest.mark.fault("F17")
@pytest.mark.parametrize("wrong", [{"uid": "another"}, {"resource_version": "1"}])
async def test_a_delete_of_what_changed_is_refused(api: FakeApi, client: Client, wrong: dict) -> None:
    metadata = api.put("pods", pod())["metadata"]
    seen = {"uid": metadata["uid"], "resource_version": metadata["resourceVersion"]} | wrong
    with pytest.raises(Conflict):
        await client.delete(PODS, "p", namespace="team", **seen)
    assert api.get("pods", "p") is not None


async def test_status_is_replaced_at_the_version_it_was_made_from(api: FakeApi, client: Client) -> None:
    job = api.put("finetunejobs", {"metadata": {"name": "ft", "namespace": "team"}})
    seen = {"metadata": dict(job["metadata"])}
    api.put("finetunejobs", {"metadata": dict(job["metadata"])})
    with pytest.raises(Conflict):
        await client.replace_status(of("FineTuneJob"), seen, {"incarnation": 1})
    assert "status" not in api.get("finetunejobs", "ft")


async def test_apply_creates_and_updates(api: FakeApi, client: Client) -> None:
    body = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "c", "namespace": "team"},
        "data": {"a": "1"},
    }
    await client.apply(CONFIG_MAPS, body)
    await client.apply(CONFIG_MAPS, body | {"data": {"a": "2"}})
    assert api.get("configmaps", "c")["data"] == {"a": "2"}


async def test_lists_go_page_by_page(api: FakeApi, client: Client) -> None:
    for number in range(PAGE + 3):
        api.put("pods", pod(f"p-{number:04}"))
    listing = await client.list(PODS, slim=lambda body: {"name": body["metadata"]["name"]})
    assert len(listing.items) == PAGE + 3
    assert listing.items[-1] == {"name": f"p-{PAGE + 2:04}"}
    assert listing.resource_version == str(api.version)


async def test_a_list_whose_continuation_expired_begins_again(api: FakeApi, client: Client) -> None:
    for number in range(PAGE + 1):
        api.put("pods", pod(f"p-{number:04}"))
    api.faults.append(Fault("GET", "pods", 410, reason="Expired", times=1))
    assert len((await client.list(PODS)).items) == PAGE + 1


async def test_a_watch_brings_events_and_long_lines(api: FakeApi, client: Client) -> None:
    since = str(api.version)
    stream = client.watch(PODS, since=since)
    api.put("pods", pod("big") | {"text": "x" * 300_000})
    event = await anext(stream)
    assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", "big")
    api.remove("pods", "team", "big")
    assert (await anext(stream))["type"] == "DELETED"
    await stream.aclose()


async def test_a_watch_from_too_long_ago_is_gone(api: FakeApi, client: Client) -> None:
    api.oldest = 50
    with pytest.raises(Gone):
        await anext(client.watch(PODS, since="10"))


async def test_a_token_is_read_again_after_401(api: FakeApi, tmp_path) -> None:
    path = tmp_path / "token"
    path.write_text("old\n")
    api.put("pods", pod())
    api.faults.append(Fault("GET", "pods", 401, reason="Unauthorized"))
    async with Client(Credentials(server=api.url, token_path=path)) as client:
        assert client.credentials.bearer() == "old"
        path.write_text("new\n")
        await client.get(PODS, "p", namespace="team")
    assert api.tokens == ["Bearer old", "Bearer new"]


class Crash(BaseException):
    """The process is killed here."""


class KillAt:
    """Kills the caller before or after its n-th write."""

    def __init__(self, index: int, *, after: bool) -> None:
        self.index, self.late = index, after
        self.calls: list[Call] = []

    async def before(self, call: Call) -> None:
        self.calls.append(call)
        if call.index == self.index and not self.late:
            raise Crash

    async def after(self, call: Call) -> None:
        if call.index == self.index and self.late:
            raise Crash


@pytest.mark.parametrize("after", [False, True])
async def test_a_perturbation_hits_exactly_one_write(api: FakeApi, after: bool) -> None:
    async with api.client(perturbation=KillAt(2, after=after)) as client:
        await client.create(PODS, pod("one"))
        with pytest.raises(Crash):
            await client.create(PODS, pod("two"))
    assert (api.get("pods", "two") is not None) is after


async def test_reviews_are_no_writes(api: FakeApi, client: Client) -> None:
    from windlass.shell.resources import TOKEN_REVIEWS

    await client.ask(TOKEN_REVIEWS, {"spec": {}})
    assert client.writes == 0


async def test_errors_never_carry_the_token(api: FakeApi, client: Client) -> None:
    api.faults.append(Fault("GET", "pods", 403, message="no"))
    with pytest.raises(Forbidden) as caught:
        await client.get(PODS, "p", namespace="team")
    assert "secret-token" not in repr(caught.value) + repr(client.credentials)
    await asyncio.sleep(0)
