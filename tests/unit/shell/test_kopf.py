"""kopf as we use it: it watches, hands over what it saw, remembers nothing and writes nothing."""

from __future__ import annotations

import asyncio
import copy
import threading
import time
from typing import Any

import kopf
import pytest

from unit.shell.conftest import Hand, until
from windlass.shell import handlers
from windlass.shell.credentials import Credentials
from windlass.shell.handlers import UNTAKEN, Intake
from windlass.shell.jobs import Jobs
from windlass.shell.kopf_loop import connection, operator_settings
from windlass.shell.kopf_storage import NoDiffBase, NoProgress

# --- intake ---------------------------------------------------------------------------------------


def body(version: int, name: str = "ft") -> dict[str, Any]:
    return {
        "kind": "FineTuneJob",
        "metadata": {"name": name, "namespace": "team", "uid": name, "resourceVersion": str(version)},
        "spec": {},
        "status": {},
    }


async def test_what_kopf_saw_reaches_the_cache_from_its_thread() -> None:
    jobs = Jobs()
    intake = Intake(asyncio.get_running_loop(), jobs)
    body = {
        "kind": "FineTuneJob",
        "metadata": {
            "name": "ft",
            "namespace": "team",
            "uid": "u",
            "resourceVersion": "3",
            "managedFields": [1],
        },
    }
    threading.Thread(target=intake.take, args=(None, body)).start()
    await until(lambda: len(jobs) == 1)
    assert "managedFields" not in (jobs.get(("FineTuneJob", "team", "ft")) or {})["metadata"]
    gone = body | {"metadata": body["metadata"] | {"resourceVersion": "4"}}
    threading.Thread(target=intake.take, args=("DELETED", gone)).start()
    await until(lambda: len(jobs) == 0)


def test_a_closed_main_loop_does_not_break_kopfs_thread() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    Intake(loop, Jobs()).take(
        "ADDED", {"kind": "FineTuneJob", "metadata": {"name": "ft", "namespace": "team"}}
    )


def test_kopf_is_told_to_watch_only() -> None:
    settings = operator_settings()
    assert settings.scanning.disabled
    assert not settings.posting.enabled
    assert settings.peering.standalone
    assert settings.queueing.worker_limit is None
    assert settings.persistence.finalizer == "kopf.windlass.dev/unused"


def test_kopf_logs_in_with_our_token_for_some_minutes(hand: Hand) -> None:
    made = connection(Credentials(server="https://api", token="t", ca_pem="CA"))
    assert (made.server, made.token, made.scheme, made.ca_data) == ("https://api", "t", "Bearer", b"CA")
    assert made.expiration is not None
    assert not made.trust_env


async def test_no_more_than_so_many_jobs_are_on_their_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread waits, instead of filling memory with what the main loop has not taken."""
    monkeypatch.setattr(handlers, "PATIENCE_SECONDS", 60.0)
    jobs = Jobs()
    intake = Intake(asyncio.get_running_loop(), jobs)
    handed: list[int] = []

    def see() -> None:
        for number in range(UNTAKEN + 3):
            intake.take(None, body(number + 1, f"ft-{number}"))
            handed.append(number)

    thread = threading.Thread(target=see)
    thread.start()
    # The loop stands still meanwhile: nothing is taken.
    deadline = time.monotonic() + 30
    while len(handed) < UNTAKEN and time.monotonic() < deadline:
        thread.join(0.01)
    thread.join(0.1)
    assert thread.is_alive() and len(handed) == UNTAKEN
    assert len(jobs) == 0
    await until(lambda: len(jobs) == UNTAKEN + 3)
    thread.join(10)
    assert not thread.is_alive()


async def test_a_main_loop_that_hangs_costs_no_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "PATIENCE_SECONDS", 0.01)
    jobs = Jobs()
    intake = Intake(asyncio.get_running_loop(), jobs)
    for number in range(2 * UNTAKEN):
        intake.take(None, body(number + 1, f"ft-{number}"))
    assert len(jobs) == 0
    await until(lambda: len(jobs) == 2 * UNTAKEN)
    # What went without room gives none back: the limit is the same as before.
    assert sum(intake._room.acquire(blocking=False) for _ in range(2 * UNTAKEN)) == UNTAKEN


async def test_an_event_that_breaks_the_cache_gives_its_room_back(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = Jobs()
    loop = asyncio.get_running_loop()
    broken: list[Any] = []
    loop.set_exception_handler(lambda _, context: broken.append(context["exception"]))
    jobs.when_changed(lambda item: 1 / 0)
    intake = Intake(loop, jobs)
    for number in range(5):
        intake.take("MODIFIED", body(number + 1))
    await until(lambda: len(broken) == 5)
    assert sum(intake._room.acquire(blocking=False) for _ in range(2 * UNTAKEN)) == UNTAKEN


# --- storage --------------------------------------------------------------------------------------


def test_kopf_remembers_nothing_of_an_object(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own storages would copy each object twice for every event."""
    settings = operator_settings()
    base, progress = settings.persistence.diffbase_storage, settings.persistence.progress_storage
    assert isinstance(base, NoDiffBase) and isinstance(progress, NoProgress)

    def no_copy(*_: Any) -> None:
        raise AssertionError("copied")

    monkeypatch.setattr(copy, "deepcopy", no_copy)
    seen, patch = kopf.Body(body(1)), kopf.Patch()
    essence = base.build(body=seen, extra_fields={("spec",)})
    assert essence == {} and progress.clear(essence=essence) == {}
    assert base.fetch(body=seen) is None and progress.fetch(key="take", body=seen) is None
    base.store(body=seen, patch=patch, essence=essence)
    progress.store(key="take", record={}, body=seen, patch=patch)
    progress.purge(key="take", body=seen, patch=patch)
    progress.touch(body=seen, patch=patch, value="now")
    progress.flush()
    assert dict(patch) == {}


def test_an_idle_worker_of_kopf_lets_go_of_its_object_soon() -> None:
    assert operator_settings().queueing.idle_timeout <= 1
