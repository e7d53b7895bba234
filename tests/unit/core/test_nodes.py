"""What speaks against a node: by tables of words, and by what is decided about pods that were lost there."""

from __future__ import annotations

from typing import Any

import pytest

from unit.core.builders import NOW, JobBuilder, a_job, a_pod, a_report, an_ended_pod, at, judge, message_of
from windlass.api.contract import Suspicion, Verdict
from windlass.api.meta import Exclusion, FailureClass, Rung, SuspectReason
from windlass.api.status import FailedRank, RecoveryRecord
from windlass.core.decision import Decision
from windlass.core.failure.classify import Judgement, classify
from windlass.core.failure.evidence import End
from windlass.core.failure.nodes import NODE_HITS, blames_node, is_bad_node, suspicion_of
from windlass.core.status.progress import merge_recoveries

Kind = FailureClass
STRICT, SOFT = Exclusion.REQUIRED, Exclusion.PREFERRED
XID = "NVRM: Xid (PCI:0000:3b:00): {number}, pid=4711, name=python3"


def end(*lines: str, node: str | None = "node-1", **fields: Any) -> Judgement:
    return classify([End(at=1.0, rank=1, pod="triage-1-2", node=node, exit_code=1, log_tail=lines, **fields)])


# (last words, whether the device itself is broken)
DEVICES = [
    (XID.format(number=79), True),
    (XID.format(number=48), True),
    (XID.format(number=94), True),
    (XID.format(number=31), False),
    (XID.format(number=13), False),
    (XID.format(number=45), False),
    ("error: Xid 63: row remapping", True),
    ("error: xid=74", True),
    ("RuntimeError: CUDA error: uncorrectable ECC error encountered", True),
    ("error: GPU has fallen off the bus", True),
    ("RuntimeError: NVLink error", True),
    ("RuntimeError: CUDA error: unspecified launch failure", False),
    ("RuntimeError: CUDA error: unknown error", False),
]


@pytest.mark.fault("F30")
@pytest.mark.parametrize(("words", "broken"), DEVICES)
def test_only_a_broken_device_excludes_its_node(words: str, broken: bool) -> None:
    judgement = end(words)
    assert (judgement.failure_class, judgement.row) == (Kind.INFRASTRUCTURE, "hardware")
    assert is_bad_node(judgement, {})
    found = suspicion_of(judgement)
    assert found.reason is SuspectReason.DEVICE_ERROR
    assert found.exclusion is (STRICT if broken else SOFT)
    assert found.evidence == [words]


# (judgement, failures on the node so far with this one, whether it may have had a part, whether it is bad)
NODES = [
    (end("ValueError: x"), 1, True, False),
    (end("ValueError: x"), 9, True, False),
    (end("connection reset by peer"), NODE_HITS - 1, True, False),
    (end("connection reset by peer"), NODE_HITS, True, True),
    (end("connection reset by peer", node=None), NODE_HITS, False, False),
    (end("gpu has fallen off the bus", node=None), 1, False, False),
    (end("torch.OutOfMemoryError: CUDA out of memory"), 9, False, False),
    (end("OSError: [Errno 28] No space left on device"), 9, False, False),
    (end("OSError: [Errno 5] Input/output error"), 9, False, False),
    (end("ModuleNotFoundError: no module named x", before_first_step=True), 9, False, False),
    (end(disruption="EvictionByEvictionAPI", whole_pod=True), 9, False, False),
    (end(disruption="DeletionByTaintManager", whole_pod=True), 1, True, True),
    (end(pod_reason="NodeLost", whole_pod=True), 1, True, True),
]


@pytest.mark.parametrize(("judgement", "failures", "part", "bad"), NODES)
def test_what_speaks_against_a_node(judgement: Judgement, failures: int, part: bool, bad: bool) -> None:
    assert blames_node(judgement) is part
    assert is_bad_node(judgement, {"node-1": failures}) is bad


def test_evidence_fits_into_a_termination_message() -> None:
    found = suspicion_of(end(*(f"error {n} " + "\U0001f4a5" * 2000 for n in range(9))))
    text = Verdict(result="Preempted", suspicion=found).model_dump_json(by_alias=True, exclude_none=True)
    assert len(text.encode()) <= 4096
    assert found.evidence


# --- what the operator decides ---------------------------------------------------------------------


def two() -> JobBuilder:
    return a_job().on_attempt(1, 1, 2)


def lost_with(decision: Decision) -> tuple[str, dict[str, tuple[str, str]]]:
    """Rung of the newest row, and why and how nodes are avoided."""
    assert decision.status is not None
    suspects = {item["name"]: (item["reason"], item["exclusion"]) for item in decision.status["suspectNodes"]}
    return decision.status["recoveries"][-1]["rung"], suspects


MOVED = Suspicion(
    reason=SuspectReason.DEVICE_ERROR,
    exclusion=STRICT,
    failure_class=Kind.INFRASTRUCTURE,
    evidence=["Xid 79"],
)
LET_GO = an_ended_pod(1, 2, exit_code=14, verdict=Verdict(result="Preempted", suspicion=MOVED))
PARTED = an_ended_pod(1, 2, exit_code=14, verdict=Verdict(result="Preempted"))
DEAD = a_pod(1, 2, deletion_timestamp=at(90), disruption="DeletionByTaintManager")
REFUSED = a_pod(1, 2, phase="Failed", reason="UnexpectedAdmissionError", message="no devices left")
LOST, DEVICE = SuspectReason.NODE_LOST, SuspectReason.DEVICE_ERROR

# (the lost pod, rung, nodes avoided)
LOSSES = [
    ("moved by the leader", LET_GO, Rung.OTHER_NODE, {"node-1": (DEVICE, STRICT)}),
    ("left in peace", PARTED, Rung.RECREATE_POD, {}),
    ("node lost", DEAD, Rung.OTHER_NODE, {"node-1": (LOST, SOFT)}),
    ("refused by the kubelet", REFUSED, Rung.RECREATE_POD, {}),
    ("crashed", an_ended_pod(1, 2, exit_code=17), Rung.RECREATE_POD, {}),
]


@pytest.mark.fault("F24")
@pytest.mark.fault("F34")
@pytest.mark.parametrize(("name", "pod", "rung", "suspects"), LOSSES)
def test_which_losses_speak_against_the_node(
    name: str, pod: Any, rung: Rung, suspects: dict[str, Any]
) -> None:
    decision = judge(two(), pods=(a_pod(0, 1), pod), report=a_report())
    assert lost_with(decision) == (rung, suspects), name
    assert bool(suspects) is any(event.reason == "NodeSuspected" for event in decision.events)


@pytest.mark.parametrize("pod", [LET_GO, DEAD], ids=["moved by the leader", "node lost"])
def test_without_the_rung_no_node_is_avoided(pod: Any) -> None:
    job = two().with_spec("recovery.ladder", ["InPlace", "RecreatePod", "RecreateGang"])
    assert lost_with(judge(job, pods=(a_pod(0, 1), pod), report=a_report())) == (Rung.RECREATE_POD, {})


def test_a_pod_that_was_moved_is_charged_by_the_leader_alone() -> None:
    decision = judge(two(), pods=(a_pod(0, 1), LET_GO), report=a_report())
    assert decision.status is not None
    assert "charges" not in decision.status and "lastFailure" not in decision.status
    row = decision.status["recoveries"][-1]
    assert (row["class"], row["evidence"]) == ("Infrastructure", ["Xid 79"])


@pytest.mark.fault("F34")
def test_second_refusal_by_the_same_node_moves_the_pod() -> None:
    first = judge(two(), pods=(a_pod(0, 1), REFUSED), report=a_report())
    again = a_pod(1, 3, phase="Failed", reason="UnexpectedAdmissionError", node="node-1")
    second = judge(two().after(first), pods=(a_pod(0, 1), again), report=a_report())
    assert lost_with(second) == (Rung.OTHER_NODE, {"node-1": (SuspectReason.REPEATED_FAILURES, SOFT)})
    assert second.status is not None
    assert second.status["charges"]["nodes"] == {"node-1": 2}


@pytest.mark.fault("F24")
def test_all_nodes_lost_are_all_avoided_and_the_gang_is_made_anew() -> None:
    pods = tuple(
        a_pod(index, index + 1, deletion_timestamp=at(90), disruption="DeletionByTaintManager")
        for index in (0, 1)
    )
    rung, suspects = lost_with(judge(two(), pods=pods))
    assert (rung, set(suspects)) == (Rung.RECREATE_GANG, {"node-0", "node-1"})


def test_suspicion_ends_by_a_timer_and_a_write() -> None:
    first = judge(two(), pods=(a_pod(0, 1), LET_GO), report=a_report())
    job = two().after(first)
    pods = (a_pod(0, 1), a_pod(1, 3, node="node-2"))
    before = judge(job, pods=pods, report=a_report(), now=at(60 + 3600 - 1))
    assert before.requeue_after_seconds is not None and before.requeue_after_seconds <= 1.0
    after = judge(job, pods=pods, report=a_report(), now=at(60 + 3600))
    assert after.status is not None and after.status["suspectNodes"] == []
    assert not after.events or all(event.reason != "NodeSuspected" for event in after.events)


def test_pod_that_no_other_node_takes_says_so_and_is_freed_when_the_suspicion_ends() -> None:
    first = judge(two(), pods=(a_pod(0, 1), LET_GO), report=a_report())
    job = two().after(first)
    kept_off = a_pod(
        1, 3, phase="Pending", node=None, started_at=None, unschedulable="0/1 nodes fit", avoids=("node-1",)
    )
    waiting = judge(job, pods=(a_pod(0, 1), kept_off), report=a_report())
    assert "may not be placed on node-1 until 2026-11-23T13:01:00Z" in message_of(waiting)
    freed = judge(job.after(waiting), pods=(a_pod(0, 1), kept_off), report=a_report(), now=at(3660))
    assert freed.status is not None
    assert [member["ticket"] for member in freed.status["gang"]["members"]] == [1, 4]
    assert freed.status["recoveries"] == waiting.status["recoveries"] if waiting.status else False
    assert "free of suspicion" in message_of(freed)


@pytest.mark.parametrize(
    ("ours", "told", "rung"),
    [
        (Rung.OTHER_NODE, Rung.RECREATE_POD, Rung.OTHER_NODE),
        (Rung.OTHER_NODE, Rung.IN_PLACE, Rung.IN_PLACE),
        (Rung.OTHER_NODE, Rung.RECREATE_GANG, Rung.RECREATE_GANG),
        (Rung.RECREATE_POD, Rung.OTHER_NODE, Rung.OTHER_NODE),
        (Rung.RECREATE_POD, Rung.RECREATE_POD, Rung.RECREATE_POD),
    ],
)
def test_where_a_pod_went_is_the_operators_knowledge(ours: Rung, told: Rung, rung: Rung) -> None:
    def row(rung: Rung) -> RecoveryRecord:
        return RecoveryRecord(
            incarnation=2, rung=rung, failure_class=Kind.INFRASTRUCTURE, first_failed=FailedRank(), at=NOW
        )

    assert [each.rung for each in merge_recoveries([row(ours)], [row(told)])] == [rung]
