"""Which members are lost, why, and what that costs: by tables, and by runs that never stop losing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unit.core.builders import (
    NOW,
    SETTINGS,
    UID,
    JobBuilder,
    a_checkpoint,
    a_job,
    a_pod,
    an_ended_pod,
    at,
    claims,
    judge,
)
from windlass.api.contract import Verdict
from windlass.api.meta import ExitCode, FailureClass
from windlass.api.status import Failure
from windlass.core import names
from windlass.core.decision import Decision
from windlass.core.facts import Facts, gather
from windlass.core.judges.loss import is_lost, losses, pod_end, worst
from windlass.core.observed import Observed, PodView

Kind = FailureClass
GOOD = Verdict(result="Succeeded", step=100)
BAD = Verdict(
    result="Failed",
    failure=Failure(reason="DataEmpty", failure_class=Kind.CONFIGURATION, message="no rows"),
)


def facts_of(*pods: PodView, job: JobBuilder | None = None, now: object = NOW) -> Facts:
    job = job or a_job().on_attempt(1, 1, 2)
    return gather(job.build(), Observed(pods=pods, claims=claims()), now, SETTINGS)  # type: ignore[arg-type]


# (pod of index 1, lost while the leader lives, lost once the leader is lost)
LOST = [
    ("running", a_pod(1, 2), False, False),
    ("pending", a_pod(1, 2, phase="Pending"), False, False),
    ("unknown", a_pod(1, 2, phase="Unknown"), False, False),
    ("leaving", a_pod(1, 2, deletion_timestamp=at(90)), True, True),
    ("ended badly", an_ended_pod(1, 2, exit_code=1), True, True),
    ("ended with 0 and no word", an_ended_pod(1, 2, exit_code=0), True, True),
    ("preempted", an_ended_pod(1, 2, exit_code=14, verdict=Verdict(result="Preempted")), True, True),
    ("fenced", an_ended_pod(1, 2, exit_code=15, verdict=Verdict(result="Fenced")), True, True),
    ("succeeded just now", an_ended_pod(1, 2, exit_code=0, verdict=GOOD, finished_at=at(59)), False, True),
    ("failed just now", an_ended_pod(1, 2, exit_code=11, verdict=BAD, finished_at=at(59)), False, True),
    ("succeeded long ago", an_ended_pod(1, 2, exit_code=0, verdict=GOOD, finished_at=at(0)), True, True),
    ("succeeded, time unknown", an_ended_pod(1, 2, exit_code=0, verdict=GOOD, finished_at=None), False, True),
]


@pytest.mark.parametrize(("name", "pod", "alone", "with_leader"), LOST, ids=[row[0] for row in LOST])
def test_which_member_is_lost(name: str, pod: PodView, alone: bool, with_leader: bool) -> None:
    facts = facts_of(a_pod(0, 1), pod)
    slot = next(slot for slot in facts.slots if slot.member.index == 1)
    assert is_lost(facts, slot, leader_lost=False) is alone, name
    assert is_lost(facts, slot, leader_lost=True) is with_leader, name


def test_absent_pod_is_lost_only_if_it_was_seen() -> None:
    seen, unseen = facts_of(), facts_of(job=a_job().on_attempt(1, 1, 2).with_unmade_pods())
    assert [loss.name for loss in losses(seen)] == ["triage-0-1", "triage-1-2"]
    assert losses(unseen) == ()


def test_leader_that_ended_in_good_order_is_lost_like_any_other_way() -> None:
    """Its verdict is read by an earlier judge; whoever asks about its place gets a plain answer."""
    facts = facts_of(an_ended_pod(0, 1, exit_code=0, verdict=GOOD, finished_at=at(59)), a_pod(1, 2))
    assert [loss.slot.member.index for loss in losses(facts)] == [0]


# What the operator makes of a pod: class, its sentence, and whether it costs anything.
EVIDENCE = [
    ("gone", None, Kind.INFRASTRUCTURE, "pod triage-1-2 went away", True),
    (
        "user deleted it",
        a_pod(1, 2, deletion_timestamp=at(90)),
        Kind.PREEMPTED,
        "pod triage-1-2 was removed by the cluster (Deleted)",
        False,
    ),
    (
        "drained",
        a_pod(1, 2, deletion_timestamp=at(90), disruption="EvictionByEvictionAPI"),
        Kind.PREEMPTED,
        "pod triage-1-2 was removed by the cluster (EvictionByEvictionAPI)",
        False,
    ),
    (
        "node lost",
        a_pod(1, 2, deletion_timestamp=at(90), disruption="DeletionByTaintManager"),
        Kind.INFRASTRUCTURE,
        "pod triage-1-2 was removed by the cluster (DeletionByTaintManager)",
        True,
    ),
    (
        "evicted for memory of the node",
        a_pod(1, 2, phase="Failed", reason="Evicted", message="The node was low on resource: memory."),
        Kind.PREEMPTED,
        "pod triage-1-2 was ended by the kubelet (Evicted)",
        False,
    ),
    (
        "scratch space",
        a_pod(1, 2, phase="Failed", reason="Evicted", message="Pod ephemeral local storage usage exceeds"),
        Kind.STORAGE,
        "pod triage-1-2 was ended by the kubelet (Evicted)",
        True,
    ),
    (
        "killed for memory",
        an_ended_pod(1, 2, exit_code=137, terminated_reason="OOMKilled"),
        Kind.OUT_OF_MEMORY,
        "pod triage-1-2 was killed for memory by the kernel",
        True,
    ),
    (
        "killed for memory while leaving",
        an_ended_pod(1, 2, exit_code=137, terminated_reason="OOMKilled", deletion_timestamp=at(90)),
        Kind.OUT_OF_MEMORY,
        "pod triage-1-2 was killed for memory by the kernel",
        True,
    ),
    (
        "left when told to",
        an_ended_pod(1, 2, exit_code=14, verdict=Verdict(result="Preempted")),
        Kind.PREEMPTED,
        "pod triage-1-2 was removed by the cluster (Deleted)",
        False,
    ),
    (
        "fenced",
        an_ended_pod(1, 2, exit_code=15, verdict=Verdict(result="Fenced")),
        Kind.INFRASTRUCTURE,
        "pod triage-1-2 ended with exit code 15",
        True,
    ),
    (
        "no such program",
        an_ended_pod(1, 2, exit_code=127, terminated_reason="ContainerCannotRun"),
        Kind.CONFIGURATION,
        "pod triage-1-2 ended with exit code 127",
        True,
    ),
    (
        "start error",
        an_ended_pod(1, 2, exit_code=128, terminated_reason="StartError", termination_message="exec failed"),
        Kind.CONFIGURATION,
        "pod triage-1-2 ended with exit code 128",
        True,
    ),
    (
        "killed by a signal",
        an_ended_pod(1, 2, exit_code=139),
        Kind.CRASH,
        "pod triage-1-2 was killed by signal 11",
        True,
    ),
    (
        "agent broke",
        an_ended_pod(1, 2, exit_code=ExitCode.INTERNAL, termination_message="Traceback\nKeyError: 'x'"),
        Kind.CRASH,
        "pod triage-1-2 ended with exit code 17",
        True,
    ),
    (
        "disk full in the log",
        an_ended_pod(1, 2, exit_code=1, termination_message="OSError: [Errno 28] No space left on device"),
        Kind.STORAGE,
        "pod triage-1-2 ended with exit code 1",
        True,
    ),
    (
        "own word of an agent",
        an_ended_pod(1, 2, exit_code=11, verdict=BAD, finished_at=at(0)),
        Kind.CONFIGURATION,
        "no rows",
        True,
    ),
]


@pytest.mark.parametrize(
    ("name", "pod", "kind", "text", "charged"), EVIDENCE, ids=[row[0] for row in EVIDENCE]
)
def test_class_and_sentence_of_a_lost_pod(
    name: str, pod: PodView | None, kind: FailureClass, text: str, charged: bool
) -> None:
    facts = facts_of(a_pod(0, 1), *([pod] if pod is not None else []))
    (loss,) = losses(facts)
    assert (loss.judgement.failure_class, loss.judgement.message) == (kind, text), name
    assert loss.is_charged is charged
    assert loss.judgement.whole_pod
    assert loss.judgement.first_failed.pod == "triage-1-2"


def test_end_of_a_pod_keeps_its_last_lines_and_no_verdict() -> None:
    text = "\n".join(f"line {number}" for number in range(50))
    pod = an_ended_pod(1, 2, exit_code=1, termination_message=text, message="kubelet says")
    end = pod_end(facts_of(pod), pod, "triage-1-2")
    assert len(end.log_tail) == 21 and end.log_tail[-1] == "kubelet says"
    spoken = an_ended_pod(1, 2, exit_code=11, verdict=BAD)
    end = pod_end(facts_of(spoken), spoken, "triage-1-2")
    assert end.log_tail == () and end.failure == BAD.failure
    assert end.at == spoken.finished_at.timestamp()  # type: ignore[union-attr]


def test_text_that_only_looks_like_a_verdict_is_evidence() -> None:
    pod = an_ended_pod(1, 2, exit_code=1, termination_message='{"result": "Maybe"}')
    end = pod_end(facts_of(pod), pod, "triage-1-2")
    assert end.failure is None and end.log_tail == ('{"result": "Maybe"}',)


OOM = an_ended_pod(1, 2, exit_code=137, terminated_reason="OOMKilled")
DRAINED = a_pod(0, 1, deletion_timestamp=at(90))
CRASHED = an_ended_pod(2, 3, exit_code=17)


@pytest.mark.parametrize(
    ("pods", "cause"),
    [
        ((DRAINED, OOM, a_pod(2, 3)), "triage-1-2"),
        ((a_pod(0, 1), OOM), "triage-1-2"),
        ((OOM, CRASHED), "triage-1-2"),
        ((a_pod(0, 1), a_pod(1, 2), CRASHED), "triage-2-3"),
        ((), "triage-0-1"),
        ((DRAINED, replace(DRAINED, name="triage-1-2", index=1, ticket=2, uid="pod-1-2")), "triage-2-3"),
    ],
    ids=[
        "named before drained",
        "named before gone",
        "lowest index",
        "only one",
        "all gone",
        "gone before drained",
    ],
)
def test_loss_that_explains_the_others_is_the_cause(pods: tuple[PodView, ...], cause: str) -> None:
    facts = facts_of(*pods, job=a_job().on_attempt(1, 1, 2, 3))
    assert worst(losses(facts)).name == cause


# --- runs that never stop losing -------------------------------------------------------------------


def present(job: JobBuilder, state: dict[str, object] | None) -> tuple[PodView, ...]:
    """The gang's pods, all running but the last, which is as the state says or gone (None)."""
    members = job.build().status.gang.members
    pods = [
        a_pod(each.index, each.ticket, attempt=job.build().status.gang.attempt, uid=f"u-{each.ticket}")
        for each in members
    ]
    *others, last = pods
    return (*others, replace(last, **state)) if state is not None else tuple(others)  # type: ignore[arg-type]


def noted(job: JobBuilder) -> JobBuilder:
    """As after all pods were seen."""
    status = job.build().status
    members = [each.model_copy(update={"pod_uid": f"u-{each.ticket}"}) for each in status.gang.members]
    return job.with_status(
        status.model_copy(update={"gang": status.gang.model_copy(update={"members": members})})
    )


BROKEN: dict[str, dict[str, object] | None] = {
    "gone": None,
    "crash": {"phase": "Failed", "exit_code": 17, "terminated_reason": "Error", "finished_at": NOW},
    "oom": {"phase": "Failed", "exit_code": 137, "terminated_reason": "OOMKilled", "finished_at": NOW},
    "storage": {
        "phase": "Failed",
        "exit_code": 1,
        "termination_message": "OSError: [Errno 5] Input/output error",
        "finished_at": NOW,
    },
    "configuration": {"phase": "Failed", "exit_code": 127, "finished_at": NOW},
}


def lose(job: JobBuilder, kind: str, seconds: float) -> tuple[JobBuilder, Decision]:
    job = noted(job)
    decision = judge(job, now=NOW + timedelta(seconds=seconds), pods=present(job, BROKEN[kind]))
    return job.after(decision), decision


def losses_until_the_end(kinds: Iterable[str], job: JobBuilder) -> int:
    for number, kind in enumerate(kinds, 1):
        job, decision = lose(job, kind, 400.0 * number)
        assert decision.status is not None
        if any(each["type"] == "Failed" for each in decision.status["conditions"]):
            return number
    raise AssertionError("the run goes on for ever")


@pytest.mark.fault("F50")
@pytest.mark.parametrize(
    ("kind", "budget"),
    [("crash", 5), ("gone", 10), ("oom", 2), ("storage", 5), ("configuration", 1)],
)
def test_run_that_only_loses_pods_ends_one_after_its_budget(kind: str, budget: int) -> None:
    assert losses_until_the_end([kind] * 30, a_job().on_attempt(1, 1, 2)) == budget + 1


@pytest.mark.fault("F50")
@pytest.mark.parametrize(
    ("field", "kind"), [("crash", "crash"), ("infrastructure", "gone"), ("storage", "storage")]
)
def test_budget_larger_than_the_rows_of_status_still_ends(field: str, kind: str) -> None:
    job = a_job().on_attempt(1, 1, 2).with_spec("recovery.budgets", {field: 25})
    assert losses_until_the_end([kind] * 60, job) == 26


@pytest.mark.fault("F50")
def test_taking_turns_between_classes_does_not_outwit_the_budgets() -> None:
    turns = ["crash", "storage", "gone"] * 20
    assert losses_until_the_end(turns, a_job().on_attempt(1, 1, 2)) == 16


@settings(max_examples=12, deadline=None)
@given(st.lists(st.sampled_from(sorted(BROKEN)), min_size=30, max_size=30))
def test_no_sequence_of_losses_lasts_for_ever(kinds: list[str]) -> None:
    assert losses_until_the_end(kinds, a_job().on_attempt(1, 1, 2)) <= 5 + 10 + 2 + 5 + 1 + 1


def test_newer_checkpoint_begins_the_count_anew() -> None:
    job = a_job().on_attempt(1, 1, 2)
    for number in range(5):
        job, _ = lose(job, "crash", 400.0 * number)
    saved = job.build().status.model_copy(update={"checkpoints": [a_checkpoint(20)]})
    job = job.with_status(saved)
    for number in range(5, 10):
        job, decision = lose(job, "crash", 400.0 * number)
        assert decision.status is not None
        assert all(each["type"] != "Failed" for each in decision.status["conditions"])
    assert losses_until_the_end(["crash"], job) == 1


def test_every_loss_leaves_a_row_a_sentence_and_a_ticket() -> None:
    job = a_job().on_attempt(1, 1, 2)
    for number in range(1, 4):
        job, _ = lose(job, "crash", 400.0 * number)
        status = job.build().status
        assert len(status.recoveries) == number
        assert status.recoveries[-1].evidence == [] and status.recoveries[-1].first_failed.pod
        assert status.last_failure is not None and status.last_failure.hint
    tickets = [member.ticket for member in job.build().status.gang.members]
    assert tickets == sorted(tickets) and tickets[0] > 2, "the third crash replaces the whole gang"


def test_back_off_grows_is_counted_and_is_capped() -> None:
    job = a_job().on_attempt(1, 1, 2).with_spec("recovery.budgets", {"infrastructure": 9, "crash": 9})
    waits = []
    for number in range(1, 9):
        job, _ = lose(job, "crash", 400.0 * number)
        status = job.build().status
        until = status.back_off_until
        waits.append((until - NOW).total_seconds() - 400.0 * number if until is not None else 0.0)
    assert waits[0] == 0
    for plain, wait in zip((10, 20, 40, 80, 160, 300, 300), waits[1:], strict=True):
        assert plain * 0.8 <= wait <= plain * 1.2
    assert job.build().status.counters.back_off_seconds == pytest.approx(sum(waits), abs=0.01)


def test_names_of_replacements_are_never_used_twice() -> None:
    job, used = a_job().on_attempt(1, 1, 2), {"triage-0-1", "triage-1-2"}
    for number in range(1, 6):
        before = {(each.index, each.ticket) for each in job.build().status.gang.members}
        job, _ = lose(job, "gone", 400.0 * number)
        fresh = {(each.index, each.ticket) for each in job.build().status.gang.members} - before
        made = {names.pod_name("triage", index, ticket) for index, ticket in fresh}
        assert made and not made & used
        used |= made
    assert UID not in used
