"""Who may lead, and that only one does."""

from __future__ import annotations

from pathlib import Path

import pytest

from windlass.api.contract import AcceptedCheckpoint, Incarnation
from windlass_workloads.checkpoint import incarnations
from windlass_workloads.checkpoint.errors import Fenced, StoreUnusable
from windlass_workloads.checkpoint.incarnations import Claimant, may_claim
from windlass_workloads.checkpoint.store import RunStore
from windlass_workloads.checkpoint.trash import discard
from workloads.checkpoint.support import commit, incarnation

NEWEST = incarnation(3, owner_pod_uid="pod-a", ticket=5, attempt=2)


@pytest.mark.parametrize(
    ("newest", "pod_uid", "ticket", "attempt", "allowed"),
    [
        (None, "pod-b", 1, 1, True),
        (NEWEST, "pod-a", 5, 2, True),
        (NEWEST, "pod-b", 5, 2, False),
        (NEWEST, "pod-b", 4, 2, False),
        (NEWEST, "pod-b", 6, 2, True),
        (NEWEST, "pod-b", 1, 3, True),
        (NEWEST, "pod-b", 9, 1, False),
        (NEWEST, "pod-a", 9, 1, False),
    ],
)
def test_may_claim(
    newest: Incarnation | None, pod_uid: str, ticket: int, attempt: int, allowed: bool
) -> None:
    assert may_claim(newest, Claimant(pod_uid, ticket, attempt)) is allowed


def test_newest_goes_beyond_a_stale_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RunStore(tmp_path)
    assert incarnations.newest(store) is None
    for number in (1, 2, 3):
        assert incarnations.claim(store, incarnation(number))
    monkeypatch.setattr(store, "names", lambda folder: ["00000001.json", "notes.txt"])
    found = incarnations.newest(store)
    assert found is not None
    assert found.incarnation == 3


def test_a_number_is_claimed_once(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    assert incarnations.claim(store, incarnation(1, owner_pod_uid="pod-a"))
    assert not incarnations.claim(store, incarnation(1, owner_pod_uid="pod-b"))
    found = incarnations.read(store, 1)
    assert found is not None
    assert found.owner_pod_uid == "pod-a"


def test_everything_in_a_record_comes_back(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    record = incarnation(
        1,
        accepted=[AcceptedCheckpoint(name="step-00000010.i1", step=10, incarnation=1, digest="d")],
        poisoned=["step-00000020.i1"],
        resume="step-00000010.i1",
        details={"resumeFrom": "Latest"},
    )
    assert incarnations.claim(store, record)
    assert incarnations.newest(store) == record


def test_a_claim_brings_back_what_a_slower_leader_discarded(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    incarnations.claim(store, incarnation(1))
    name = commit(store, 10, 1)
    discard(store, name, now=100.0)
    accepted = [AcceptedCheckpoint(name=name, step=10, incarnation=1, digest="d")]
    assert incarnations.claim(store, incarnation(2, accepted=accepted))
    assert store.exists(name)


def test_an_unreadable_incarnation_is_named(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.write("incarnations/00000001.json", b"{}")
    with pytest.raises(StoreUnusable) as caught:
        incarnations.newest(store)
    assert str(caught.value) == (
        "incarnations/00000001.json: not a readable incarnation (got Field required); allowed what this "
        "version writes. hint: run the workload image that wrote it, or a newer one."
    )


def test_the_fence_says_who_has_taken_over(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    assert incarnations.require_newest(store, 1, "commit") is None
    for number in (1, 2):
        incarnations.claim(store, incarnation(number))
    assert incarnations.require_newest(store, 2, "commit") is not None
    with pytest.raises(Fenced) as caught:
        incarnations.require_newest(store, 1, "commit step-00000010.i1")
    assert str(caught.value) == (
        "fenced: incarnation 1 may not commit step-00000010.i1, incarnation 2 has taken over"
    )
