"""The leader's pod is told of a checkpoint by one patch, and a refusal harms nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from unit.shell.conftest import Hand
from unit.shell.fakeapi import FakeApi, Fault
from unit.shell.life import KEY, Life, world
from unit.shell.test_rounds import run
from windlass.api.contract import Report
from windlass.core.decision import Annotate
from windlass.shell.notices import REFUSED_SECONDS, NoticeBoard

STEP, TIME = "windlass.dev/checkpoint-step", "windlass.dev/checkpoint-time"
JOB = {"kind": "FineTuneJob", "metadata": {"namespace": "team", "name": "ft", "uid": "u"}}


@pytest_asyncio.fixture
async def life(api: FakeApi, hand: Hand) -> AsyncIterator[Life]:
    made = Life(api, hand)
    yield made
    await made.close()


async def step(life: Life) -> None:
    life.load()
    await life.settle()


def save(api: FakeApi, number: int, time: str) -> None:
    """A checkpoint appears in the ledger."""
    body = api.get("finetunejobs", "ft")
    assert body is not None
    row = {"step": number, "incarnation": 1, "name": f"s{number}", "digest": "d", "committedAt": time}
    body["status"]["checkpoints"] = [row, *body["status"].get("checkpoints", [])]
    api.put("finetunejobs", body)


def said(api: FakeApi, pod: str) -> dict[str, str]:
    return ((api.get("pods", pod) or {}).get("metadata") or {}).get("annotations") or {}


def patches(api: FakeApi) -> list[str]:
    return [path.rsplit("/", 1)[1] for method, path in api.writes() if method == "PATCH" and "/pods/" in path]


async def start(api: FakeApi, life: Life) -> None:
    world(api)
    await step(life)
    run(api, "ft-0-1")
    run(api, "ft-1-2")
    await step(life)


async def test_a_new_checkpoint_is_one_patch_of_one_pod(api: FakeApi, hand: Hand, life: Life) -> None:
    await start(api, life)
    assert patches(api) == []
    save(api, 10, "2026-11-23T12:00:00Z")
    await step(life)
    assert patches(api) == ["ft-0-1"]
    assert said(api, "ft-0-1") == {STEP: "10", TIME: "2026-11-23T12:00:00Z"}
    assert said(api, "ft-1-2") == {}
    for _ in range(3):
        await step(life)
    assert patches(api) == ["ft-0-1"]


async def test_checkpoints_in_a_row_wait_for_the_interval(api: FakeApi, hand: Hand, life: Life) -> None:
    await start(api, life)
    for second in range(0, 50, 10):
        save(api, second + 10, f"2026-11-23T12:00:{second:02d}Z")
        await step(life)
    assert len(patches(api)) == 1
    hand.at += 120
    life.queue.add(KEY)
    await step(life)
    assert said(api, "ft-0-1")[STEP] == "50" and len(patches(api)) == 2


async def test_what_else_is_on_the_pod_stays(api: FakeApi, life: Life) -> None:
    await start(api, life)
    pod = api.get("pods", "ft-0-1")
    assert pod is not None
    pod["metadata"]["annotations"] = {"example.com/owner": "support"}
    api.put("pods", pod)
    labels, spec = dict(pod["metadata"]["labels"]), dict(pod["spec"])
    save(api, 10, "2026-11-23T12:00:00Z")
    await step(life)
    kept = api.get("pods", "ft-0-1")
    assert kept is not None
    assert kept["metadata"]["annotations"]["example.com/owner"] == "support"
    assert kept["metadata"]["labels"] == labels and kept["spec"] == spec


@pytest.mark.parametrize(("code", "reason"), [(403, "Forbidden"), (422, "Invalid"), (500, "InternalError")])
async def test_a_refusal_fails_no_round_and_is_not_repeated(
    api: FakeApi, hand: Hand, life: Life, code: int, reason: str
) -> None:
    await start(api, life)
    api.faults.append(Fault("PATCH", "/pods/ft-0-1", code, reason=reason, times=1000))
    save(api, 10, "2026-11-23T12:00:00Z")
    await step(life)
    tried = len(patches(api))
    assert tried >= 1
    save(api, 20, "2026-11-23T12:00:01Z")
    await step(life)
    assert len(patches(api)) == tried
    assert 'result="error"' not in life.metrics.render().decode()
    api.faults.clear()
    hand.at += REFUSED_SECONDS
    await step(life)
    assert said(api, "ft-0-1")[STEP] == "20"


@pytest.mark.parametrize("uid", ["another", None])
async def test_a_pod_that_is_gone_is_not_made_by_its_notice(
    api: FakeApi, hand: Hand, life: Life, uid: str | None
) -> None:
    """The server refuses an apply that names a UID where there is no such object; the fake answers for it."""
    if uid is None:
        api.faults.append(Fault("PATCH", "/pods/", 409, reason="Conflict"))
    else:
        api.put("pods", {"metadata": {"name": "ft-0-1", "namespace": "team", "uid": uid}})
    board = NoticeBoard(life.client, life.caches, clock=hand.clock())
    await board.post(JOB, [Annotate("ft-0-1", "gone", ((STEP, "1"), (TIME, "x")))])
    assert said(api, "ft-0-1") == {}
    assert len(patches(api)) == 1


async def test_the_patch_names_its_pod_and_two_annotations_only(api: FakeApi, hand: Hand, life: Life) -> None:
    api.put("pods", {"metadata": {"name": "ft-0-1", "namespace": "team", "uid": "u1"}})
    board = NoticeBoard(life.client, life.caches, clock=hand.clock())
    await board.post(JOB, [Annotate("ft-0-1", "u1", ((STEP, "1"), (TIME, "x")))])
    body: dict[str, Any] = api.bodies[-1]
    assert set(body) == {"apiVersion", "kind", "metadata"}
    assert set(body["metadata"]) == {"name", "namespace", "uid", "annotations"}
    assert body["metadata"]["annotations"] == {STEP: "1", TIME: "x"}


def reported(api: FakeApi, step: int, rows: list[tuple[int, str]], sequence: int) -> Report:
    """What the leader says after a save: its whole view."""
    body, pod = api.get("finetunejobs", "ft"), api.get("pods", "ft-0-1")
    assert body is not None and pod is not None
    ledger = [
        {"step": number, "incarnation": 1, "name": f"s{number}", "digest": "d", "committedAt": time}
        for number, time in rows
    ]
    run = {"kind": "FineTuneJob", "namespace": "team", "name": "ft", "uid": body["metadata"]["uid"]}
    return Report.model_validate(
        {
            "run": run,
            "pod": "ft-0-1",
            "podUid": pod["metadata"]["uid"],
            "attempt": 1,
            "ticket": 1,
            "sequence": sequence,
            "sentAt": rows[0][1],
            "incarnation": 1,
            "phase": "Train",
            "progress": {"step": step, "totalSteps": 40},
            "checkpoints": ledger,
        }
    )


async def test_a_reported_checkpoint_costs_at_most_three_writes(api: FakeApi, hand: Hand, life: Life) -> None:
    await start(api, life)
    life.inbox.put(reported(api, 10, [(10, "2026-11-23T12:00:05Z")], 1))
    await step(life)  # the first report starts training as well, which is a change of its own
    hand.at += 120
    before = len(api.writes())
    life.inbox.put(reported(api, 20, [(20, "2026-11-23T12:01:50Z"), (10, "2026-11-23T12:00:05Z")], 2))
    await step(life)
    made = api.writes()[before:]
    assert said(api, "ft-0-1")[STEP] == "20"
    assert len(made) <= 3, made
    assert [path for _, path in made if "/pods/" in path] == ["/api/v1/namespaces/team/pods/ft-0-1"]
