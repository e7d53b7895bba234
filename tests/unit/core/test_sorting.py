"""Sorting out what was seen: facts, names, gangs and plans, by tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

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
    a_report,
    an_ended_pod,
    at,
    claims,
)
from windlass.api import uris
from windlass.api.contract import Verdict
from windlass.api.finetune import FineTuneJobSpec
from windlass.api.meta import ConditionType
from windlass.api.status import Condition, Gang, Member
from windlass.core import names
from windlass.core.decision import Decision, Delete
from windlass.core.facts import DEAD_KUBELET, Facts, find_pod, gather, parse_verdict
from windlass.core.gang import first_gang, is_same_member, next_attempt, replace_members
from windlass.core.observed import Observed, PodView
from windlass.core.plan import arithmetic_plan


def facts_of(job: JobBuilder, *pods: PodView, **seen: Any) -> Facts:
    return gather(job.build(), Observed(pods=pods, claims=claims(), **seen), NOW, SETTINGS)


def spec_of(job: JobBuilder) -> FineTuneJobSpec:
    spec = job.build().spec
    assert spec is not None
    return spec


# --- facts -----------------------------------------------------------------------------------------

JOB = a_job().on_attempt(1, 1, 2)


def test_pods_count_by_their_owner_and_are_sorted_by_place() -> None:
    stranger = a_pod(0, 1, owner_uid="somebody-else", uid="s")
    facts = facts_of(JOB, a_pod(1, 2), stranger, a_pod(1, 9, attempt=7), a_pod(0, 1))
    assert [pod.name for pod in facts.pods] == ["triage-0-1", "triage-1-2", "triage-1-9"]
    assert [pod.name for pod in facts.former] == ["triage-1-9"]
    assert facts.leader is not None and facts.leader.name == "triage-0-1"


@pytest.mark.parametrize(
    ("pod", "found"),
    [
        (a_pod(1, 2), True),
        (a_pod(1, 2, uid="another"), False),
        (a_pod(1, 3), False),
        (a_pod(1, 2, name="renamed"), False),
        (a_pod(0, 2, name="triage-1-2"), False),
    ],
    ids=["it", "made anew", "other ticket", "other name", "other labels"],
)
def test_pod_of_a_place_is_known_by_name_labels_and_uid(pod: PodView, found: bool) -> None:
    member = Member(index=1, ticket=2, pod_uid="pod-1-2")
    assert (find_pod(JOB.build(), (pod,), member) is not None) is found
    unseen = Member(index=1, ticket=2)
    assert (find_pod(JOB.build(), (a_pod(1, 2, uid="any"),), unseen)) is not None


@pytest.mark.parametrize(
    ("pod", "out", "blocks"),
    [
        (a_pod(0, 1), False, True),
        (a_pod(0, 1, deletion_timestamp=NOW), False, True),
        (a_pod(0, 1, deletion_timestamp=NOW - DEAD_KUBELET), True, False),
        (a_pod(0, 1, deletion_timestamp=at(500), disruption="DeletionByTaintManager"), True, False),
        (a_pod(0, 1, disruption="DeletionByTaintManager"), False, True),
        (an_ended_pod(0, 1, exit_code=1), False, False),
        (an_ended_pod(0, 1, exit_code=1, deletion_timestamp=at(500)), False, False),
    ],
    ids=["runs", "leaving", "kubelet is dead", "node lost", "only marked", "ended", "ended and leaving"],
)
def test_who_stands_in_the_way_of_a_replacement(pod: PodView, out: bool, blocks: bool) -> None:
    facts = facts_of(JOB, pod)
    assert facts.is_out_of_reach(pod) is out
    assert facts.blocks(pod) is blocks


GOOD = Verdict(result="Succeeded", step=100)
TEXT = GOOD.model_dump_json(by_alias=True, exclude_none=True)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        (TEXT, GOOD),
        (f"  {TEXT}\n", GOOD),
        ('{"result":"Preempted","new":1}', Verdict(result="Preempted")),
        ('{"result":"Maybe"}', None),
        ('{"result"', None),
        ("", None),
        ("Traceback (most recent call last):", None),
        ("[1]", None),
    ],
)
def test_verdict_in_a_termination_message(text: str, verdict: Verdict | None) -> None:
    assert parse_verdict(text) == verdict


def test_report_wins_over_the_message_and_only_for_its_own_pod() -> None:
    report = a_report(verdict=Verdict(result="Failed"))
    pods = (a_pod(0, 1), an_ended_pod(1, 2, exit_code=0, verdict=GOOD))
    facts = facts_of(JOB, *pods, report=report)
    assert facts.verdict(pods[0]) == Verdict(result="Failed")
    assert facts.verdict(pods[1]) == GOOD
    assert facts.verdict(a_pod(1, 2, termination_message=TEXT)) is None, "it still runs"
    assert facts.verdict(None) is None


def test_report_of_somebody_else_does_not_count() -> None:
    facts = facts_of(JOB, a_pod(0, 1), report=a_report(pod_uid="another"))
    assert facts.report is None
    assert facts.status == JOB.build().status


@pytest.mark.parametrize(("steps", "newest"), [((), 0), ((20,), 20), ((20, 60, 40), 60)])
def test_newest_step_is_that_of_the_ledger(steps: tuple[int, ...], newest: int) -> None:
    job = a_job().on_attempt(1, 1, checkpoints=[a_checkpoint(step) for step in steps])
    assert facts_of(job).newest_step == newest


def test_only_pods_that_are_not_leaving_yet_are_deleted() -> None:
    facts = facts_of(JOB, a_pod(0, 1), a_pod(1, 2, deletion_timestamp=at(90)))
    assert facts.deletes(facts.pods) == (Delete("Pod", "triage-0-1", "pod-0-1"),)


def test_condition_counts_only_when_true_and_stored() -> None:
    made = Condition(type="Failed", status="True", reason="Crash", last_transition_time=at(3))
    facts = facts_of(a_job().on_attempt(1, 1, conditions=[made]))
    assert facts.has(ConditionType.FAILED) and not facts.has(ConditionType.COMPLETE)


# --- names, gangs, plans ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "claim", "path"),
    [
        ("pvc://c", "c", ""),
        ("pvc://c/", "c", ""),
        ("pvc://c/a", "c", "a"),
        ("pvc://c/a/b/", "c", "a/b"),
        ("pvc://c.d-e//a//", "c.d-e", "a"),
    ],
)
def test_claim_and_path_of_a_uri(uri: str, claim: str, path: str) -> None:
    assert uris.split_claim_uri(uri) == (claim, path)


def test_claims_and_keys_are_named_once_in_the_order_of_the_spec() -> None:
    job = (
        a_job()
        .with_spec("model", {"uri": "hf://org/m", "secretRef": {"name": "hub"}})
        .with_spec(
            "data.sources",
            [
                {"uri": "pvc://b/x.jsonl", "secretRef": {"name": "hub", "key": "other"}},
                {"uri": "pvc://a/y.jsonl", "secretRef": {"name": "s3"}},
                {"uri": "pvc://b/z.jsonl", "secretRef": {"name": "hub", "key": "token"}},
            ],
        )
        .with_spec("data.validation", {"uri": "pvc://held/out.jsonl"})
        .with_spec("pod.volumes", [{"name": "v", "mountPath": "/v", "claim": "a"}])
    )
    spec = spec_of(job)
    assert names.read_claims(spec) == ("b", "a", "held")
    assert names.all_claims(spec) == ("checkpoints", "b", "a", "held")
    assert names.extra_claims(spec) == ("a",)
    assert names.secret_keys(spec) == {"hub": ("token", "other"), "s3": ("token",)}


def test_gangs_of_any_size_have_distinct_growing_tickets() -> None:
    gang = first_gang(spec_of(a_job().with_nodes(4)))
    assert [(each.index, each.ticket) for each in gang.members] == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert (gang.attempt, gang.last_ticket) == (1, 4)
    replaced = replace_members(gang, {3, 1})
    assert [each.ticket for each in replaced.members] == [1, 5, 3, 6]
    again = next_attempt(replaced, 2)
    assert [each.ticket for each in again.members] == [7, 8] and again.attempt == 2
    assert all(each.pod_uid is None for each in again.members)
    assert replace_members(gang, set()) == gang


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.lists(st.sets(st.integers(0, 7), max_size=8), max_size=8))
def test_no_ticket_is_ever_given_twice(nodes: int, losses: list[set[int]]) -> None:
    gang, given_out = next_attempt(Gang(), nodes), set(range(1, nodes + 1))
    for lost in losses:
        after = replace_members(gang, lost) if lost else next_attempt(gang, nodes)
        fresh = {each.ticket for each in after.members} - {each.ticket for each in gang.members}
        assert not fresh & given_out and all(ticket <= after.last_ticket for ticket in fresh)
        given_out |= fresh
        gang = after
    assert is_same_member(gang.members[0], index=0, ticket=gang.members[0].ticket)


PLANS: list[tuple[str, dict[str, Any], int | None, dict[str, Any]]] = [
    ("steps are said", {"globalBatchSize": 16, "maxSteps": 7}, None, {"total_steps": 7, "accumulation": 16}),
    ("rows are not known yet", {"globalBatchSize": 16, "epochs": 3}, None, {"total_steps": None}),
    ("rows are known", {"globalBatchSize": 16, "epochs": 3}, 100, {"total_steps": 19, "train_samples": 100}),
    ("one row", {"globalBatchSize": 16, "epochs": 1}, 1, {"total_steps": 1}),
    ("steps win over rows", {"globalBatchSize": 16, "maxSteps": 7}, 1000, {"total_steps": 7}),
    (
        "micro-batches",
        {"globalBatchSize": 16, "microBatchSize": 8, "maxSteps": 200},
        None,
        {"accumulation": 2, "world_size": 1},
    ),
]


@pytest.mark.parametrize(("name", "training", "rows", "fields"), PLANS, ids=[row[0] for row in PLANS])
def test_plan_of_a_spec(
    name: str, training: dict[str, Any], rows: int | None, fields: dict[str, Any]
) -> None:
    plan = arithmetic_plan(spec_of(a_job().with_spec("training", training)), rows=rows)
    assert {key: getattr(plan, key) for key in fields} == fields, name


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 8), st.integers(1, 8), st.integers(1, 500))
def test_every_row_is_taken_in_every_pass(nodes: int, ranks: int, micro: int, times: int, rows: int) -> None:
    batch = nodes * ranks * micro * times
    job = (
        a_job()
        .with_nodes(nodes)
        .with_spec("resources.ranksPerNode", ranks)
        .with_spec("training", {"globalBatchSize": batch, "microBatchSize": micro, "epochs": 2})
    )
    plan = arithmetic_plan(spec_of(job), rows=rows)
    assert plan.world_size is not None and plan.accumulation is not None and plan.total_steps is not None
    assert plan.world_size * micro * plan.accumulation == batch
    assert (plan.total_steps - 1) * batch < 2 * rows <= plan.total_steps * batch


@pytest.mark.parametrize(
    ("decision", "idle"),
    [
        (Decision(), True),
        (Decision(requeue_after_seconds=5, confirm_absent=("p",)), True),
        (Decision(status={}), False),
        (Decision(deletes=(Delete("Pod", "p", "u"),)), False),
        (Decision(creates=({},)), False),
        (Decision(applies=({},)), False),
    ],
)
def test_decision_that_writes_nothing_is_idle(decision: Decision, idle: bool) -> None:
    assert decision.is_idle is idle


def test_views_are_values() -> None:
    assert a_pod(0, 1) == a_pod(0, 1) and replace(a_pod(0, 1), uid="x") != a_pod(0, 1)
    assert a_job().build().uid == UID
