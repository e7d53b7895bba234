"""Judges about what the spec needs of its namespace."""

from __future__ import annotations

from dataclasses import replace

import pytest

from unit.core.builders import NOW, a_job, a_pod, at, claims, conditions_of, judge, message_of, shared
from windlass.api.meta import Reason
from windlass.core.observed import ClaimView, ObjectView, PodView, Refusal

WAITING = {"phase": "Pending", "started_at": None}


def a_waiting_pod(**fields: object) -> PodView:
    return replace(a_pod(0, 1, phase="Pending", started_at=None), **fields)


@pytest.mark.bad_input("B49")
@pytest.mark.parametrize("missing", ["checkpoints", "models", "data"])
def test_missing_claim_is_named_and_nothing_is_made(missing: str) -> None:
    present = tuple(claim for claim in claims() if claim.name != missing)
    decision = judge(a_job(), claims=present)
    assert conditions_of(decision)["Stalled"] == ("True", "ClaimNotFound")
    assert message_of(decision).startswith(
        f"PersistentVolumeClaim {missing} does not exist in this namespace. hint:"
    )
    assert not decision.creates and decision.status is not None and decision.status["gang"]["members"] == []


def test_claim_on_its_way_out_counts_as_missing() -> None:
    leaving = (ClaimView("checkpoints", deleting=True), *claims()[1:])
    assert conditions_of(judge(a_job(), claims=leaving))["Stalled"] == ("True", "ClaimNotFound")


def test_job_starts_by_itself_when_the_claim_appears() -> None:
    job = a_job()
    job = job.after(judge(job, claims=()))
    assert conditions_of(judge(job))["Ready"] == ("False", "Accepted")


@pytest.mark.fault("F59")
@pytest.mark.bad_input("B50")
@pytest.mark.parametrize(
    ("nodes", "modes", "fits"),
    [
        (1, ("ReadWriteOnce",), True),
        (2, ("ReadWriteOnce",), False),
        (2, ("ReadWriteOncePod",), False),
        (2, ("ReadOnlyMany",), False),
        (2, ("ReadWriteMany",), True),
        (2, ("ReadWriteOnce", "ReadWriteMany"), True),
    ],
)
def test_store_of_several_nodes_must_be_shared(nodes: int, modes: tuple[str, ...], fits: bool) -> None:
    store = (ClaimView("checkpoints", "Bound", modes), *claims()[1:])
    decision = judge(a_job().with_nodes(nodes), claims=store)
    expected = ("False", "AsExpected") if fits else ("True", "AccessModeNotShared")
    assert conditions_of(decision)["Stalled"] == expected
    if not fits:
        assert f"by {nodes} nodes (got {', '.join(modes)})" in message_of(decision)


def test_claims_that_are_only_read_may_be_read_only() -> None:
    read_only = (claims()[0], *(replace(claim, access_modes=("ReadOnlyMany",)) for claim in claims()[1:]))
    assert conditions_of(judge(a_job().with_nodes(2), claims=read_only))["Stalled"] == ("False", "AsExpected")


def test_claim_that_binds_at_first_use_does_not_keep_pods_back() -> None:
    job = a_job()
    decision = judge(job, claims=claims(phase="Pending"))
    assert conditions_of(decision)["Ready"] == ("False", "Accepted")


def test_running_gang_is_not_stopped_by_a_claim_that_is_being_deleted() -> None:
    job = a_job().on_attempt(1, 1)
    decision = judge(job, pods=(a_pod(0, 1),), claims=())
    assert "ClaimNotFound" not in str(decision.status)


def test_object_of_another_owner_is_not_touched() -> None:
    job = a_job().on_attempt(1, 1)
    foreign = ObjectView("Service", "triage", owner_uid="somebody-else")
    seen = tuple(item for item in shared(job.build()) if item.kind != "Service")
    decision = judge(job, objects=(*seen, foreign))
    assert conditions_of(decision)["Stalled"] == ("True", "ObjectConflict")
    assert not decision.applies and not decision.creates
    assert message_of(decision).startswith(
        "Service triage exists and does not belong to this run. hint: rename"
    )


PULLING = "Back-off pulling image"
TABLE = [
    ({"waiting_reason": "ImagePullBackOff", "waiting_message": PULLING}, Reason.IMAGE_UNAVAILABLE, PULLING),
    ({"waiting_reason": "ErrImageNeverPull"}, Reason.IMAGE_UNAVAILABLE, "ErrImageNeverPull"),
    (
        {"waiting_reason": "InvalidImageName", "waiting_message": "bad"},
        Reason.IMAGE_UNAVAILABLE,
        "check pod.image",
    ),
    (
        {"waiting_reason": "CreateContainerConfigError", "waiting_message": 'secret "hub-token" not found'},
        Reason.SECRET_NOT_FOUND,
        "Secret hub-token does not exist",
    ),
    (
        {"warning": 'MountVolume.SetUp failed for volume "secret-0" : secret "hub-token" not found'},
        Reason.SECRET_NOT_FOUND,
        "create Secret hub-token",
    ),
    (
        {
            "waiting_reason": "CreateContainerConfigError",
            "waiting_message": "couldn't find key token in Secret team/hub-token",
        },
        Reason.SECRET_KEY_NOT_FOUND,
        "Secret hub-token has no key token",
    ),
    (
        {
            "warning": 'MountVolume.SetUp failed for volume "secret-0" : references non-existent secret key: token'
        },
        Reason.SECRET_KEY_NOT_FOUND,
        "the Secret has no key token",
    ),
    (
        {"unschedulable": "0/3 nodes are available: 3 Insufficient memory."},
        Reason.UNSCHEDULABLE,
        "Insufficient memory",
    ),
]


@pytest.mark.fault("F33")
@pytest.mark.bad_input("B16")
@pytest.mark.bad_input("B47")
@pytest.mark.bad_input("B48")
@pytest.mark.parametrize(("fields", "reason", "text"), TABLE)
def test_pod_that_cannot_start_says_why(fields: dict[str, str], reason: Reason, text: str) -> None:
    decision = judge(a_job().on_attempt(1, 1), pods=(a_waiting_pod(**fields),))
    assert conditions_of(decision)["Stalled"] == ("True", reason)
    assert text in message_of(decision)
    assert "hint: " in message_of(decision)
    assert [event.type for event in decision.events] == ["Warning"]


@pytest.mark.fault("F35")
def test_pod_without_a_volume_says_which_claim() -> None:
    pod = a_waiting_pod(
        unschedulable="pod has unbound immediate PersistentVolumeClaims; preemption: no VolumeBinding"
    )
    decision = judge(a_job().on_attempt(1, 1), pods=(pod,), claims=claims(phase="Pending"))
    assert conditions_of(decision)["Stalled"] == ("True", "ClaimNotBound")
    assert message_of(decision).startswith("PersistentVolumeClaim checkpoints has no volume (phase Pending)")


@pytest.mark.parametrize(
    "fields",
    [
        {"waiting_reason": "CreateContainerError", "waiting_message": "no such runtime"},
        {"warning": "MountVolume.SetUp failed: timed out"},
    ],
)
def test_other_trouble_of_the_kubelet_is_told_but_not_called_stalled(fields: dict[str, str]) -> None:
    decision = judge(a_job().on_attempt(1, 1), pods=(a_waiting_pod(**fields),))
    assert conditions_of(decision)["Ready"] == ("False", "WaitingForPods")
    assert "`kubectl describe pod triage-0-1`" in message_of(decision)


@pytest.mark.fault("F18")
@pytest.mark.fault("F19")
@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (Reason.QUOTA_EXCEEDED, "quota refused triage-0-1: exceeded quota: pods=2"),
        (Reason.POD_SECURITY_DENIED, "admission refused triage-0-1"),
        (Reason.OBJECT_CONFLICT, "Pod triage-0-1 exists and does not belong to this run"),
        (Reason.INFRASTRUCTURE, "the API server refused Pod triage-0-1"),
    ],
)
def test_refusal_is_told_and_tried_again_with_growing_pauses(reason: Reason, text: str) -> None:
    job = a_job().on_attempt(1, 1).with_unmade_pods()
    waits = []
    for count in (1, 2, 3, 20):
        refused = Refusal("Pod", "triage-0-1", reason, "exceeded quota: pods=2", at=NOW, count=count)
        decision = judge(job, refusals=(refused,))
        assert conditions_of(decision)["Stalled"] == ("True", reason)
        assert text in message_of(decision)
        assert not decision.creates
        waits.append(decision.requeue_after_seconds)
    assert waits == [5, 10, 20, 300]


def test_refused_pod_is_made_once_its_pause_is_over() -> None:
    job = a_job().on_attempt(1, 1).with_unmade_pods()
    refused = Refusal("Pod", "triage-0-1", Reason.QUOTA_EXCEEDED, "full", at=at(55), count=1)
    assert len(judge(job, refusals=(refused,)).creates) == 1
