"""Starting, repairing and following a gang: each branch of the gang's judges, by tables."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unit.core.builders import (
    NOW,
    SETTINGS,
    JobBuilder,
    a_job,
    a_pod,
    a_report,
    an_ended_pod,
    at,
    claims,
    conditions_of,
    judge,
    message_of,
    shared,
)
from windlass.api.contract import Verdict
from windlass.api.meta import FailureClass, Phase, Reason, Rung
from windlass.api.status import Condition, Gang, Member, Progress, RecoveryRecord
from windlass.core.decision import Decision
from windlass.core.facts import Facts, gather
from windlass.core.judges import gang
from windlass.core.judges.gang import (
    SILENCE_SECONDS,
    heard_at,
    is_first_start,
    until_out_of_reach,
)
from windlass.core.judges.making import missing_objects
from windlass.core.observed import ObjectView, Observed, PodView, Refusal

BOTH = (a_pod(0, 1), a_pod(1, 2))
ROW = RecoveryRecord(incarnation=2, rung=Rung.RECREATE_POD, failure_class=FailureClass.CRASH)


def facts_of(job: JobBuilder, *pods: PodView, now: datetime = NOW, **seen: Any) -> Facts:
    return gather(job.build(), Observed(pods=pods, claims=claims(), **seen), now, SETTINGS)


def status_of(decision: Decision) -> dict[str, Any]:
    assert decision.status is not None
    return decision.status


# --- words of a start and of a restart -------------------------------------------------------------

STARTS: list[tuple[str, dict[str, Any], bool]] = [
    ("nothing yet", {}, True),
    ("first incarnation", {"incarnation": 1}, True),
    ("second incarnation", {"incarnation": 2}, False),
    ("a pod was lost before any", {"recoveries": [ROW]}, False),
]


@pytest.mark.parametrize(("name", "fields", "first"), STARTS, ids=[row[0] for row in STARTS])
def test_first_start_is_told_from_a_restart(name: str, fields: dict[str, Any], first: bool) -> None:
    job = a_job().on_attempt(1, 1, 2, **fields)
    assert is_first_start(facts_of(job)) is first, name
    made = judge(job.with_unmade_pods(), pods=())
    assert conditions_of(made)["Ready"] == ("False", "Starting" if first else "Recovering")
    pending = tuple(replace(pod, phase="Pending") for pod in BOTH)
    waiting = judge(job, pods=pending)
    assert conditions_of(waiting)["Ready"] == ("False", "WaitingForPods" if first else "Recovering")


def test_second_attempt_is_never_a_first_start() -> None:
    assert not is_first_start(facts_of(a_job().on_attempt(2, 3, 4)))


@pytest.mark.parametrize(
    ("phase", "restarted", "text"),
    [
        (Phase.TRAIN, False, "training of 100 steps in incarnation 1; status.progress has the step"),
        (Phase.PREPARE, False, "the first agent reads, tokenises and packs the data"),
        (Phase.EXPORT, False, "all steps are done, the result is being written"),
        (Phase.RENDEZVOUS, False, "ranks are starting"),
        (Phase.LOAD, True, "incarnation 2 is loading its checkpoint"),
        (Phase.TRAIN, True, "training of 100 steps in incarnation 2; status.progress has the step"),
    ],
)
def test_what_a_following_operator_says(phase: Phase, restarted: bool, text: str) -> None:
    report = a_report(phase=phase, incarnation=2 if restarted else 1)
    decision = judge(a_job().on_attempt(1, 1, 2), pods=BOTH, report=report)
    assert message_of(decision) == text


# --- who is heard, and for how long ----------------------------------------------------------------

HEARD: list[tuple[str, dict[str, Any], datetime | None]] = [
    ("a report", {"report": a_report(sent_at=at(50)), "heard_at": at(58)}, at(58)),
    ("a report of somebody else", {"report": a_report(pod_uid="x"), "heard_at": at(58)}, at(5)),
    ("we have just begun to listen", {"listening_since": at(55)}, at(55)),
    ("we listen for long", {"listening_since": at(-500)}, at(5)),
    ("nobody ever", {}, at(5)),
]


@pytest.mark.parametrize(("name", "seen", "since"), HEARD, ids=[row[0] for row in HEARD])
def test_silence_counts_from_when_something_could_have_been_heard(
    name: str, seen: dict[str, Any], since: datetime | None
) -> None:
    assert heard_at(facts_of(a_job().on_attempt(1, 1, 2), *BOTH, **seen)) == since, name


def test_written_progress_counts_as_heard() -> None:
    job = a_job().on_attempt(1, 1, 2, progress=Progress(step=40, updated_at=at(50)))
    assert heard_at(facts_of(job, *BOTH)) == at(50)


@pytest.mark.parametrize(
    ("silent", "state", "wait"),
    [(0, "True", 60), (30, "True", 30), (59.5, "True", 0.5), (60, "Unknown", None), (3600, "Unknown", None)],
)
def test_silence_is_told_after_its_limit(silent: float, state: str, wait: float | None) -> None:
    now = at(5 + silent)
    running = Condition(type="Running", status="True", reason="Training", last_transition_time=at(4))
    job = a_job().on_attempt(1, 1, 2, conditions=[running], started_at=at(5), progress=Progress(step=3))
    decision = judge(job, pods=BOTH, now=now)
    assert decision.requeue_after_seconds == wait
    if state == "Unknown":
        assert conditions_of(decision)["Running"] == ("Unknown", "ReportsMissing")
        assert f"more than {SILENCE_SECONDS:.0f} s" in message_of(decision)
    else:
        assert decision.status is None or conditions_of(decision)["Running"] == ("True", "Training")
    assert not decision.deletes and not decision.creates


def test_a_word_after_silence_ends_it() -> None:
    job = a_job().on_attempt(1, 1, 2)
    job = job.after(judge(job, pods=BOTH, now=at(500)))
    again = judge(job, pods=BOTH, now=at(501), report=a_report(sent_at=at(501)))
    assert conditions_of(again)["Running"] == ("True", "Training")


# --- what is missing -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ConfigMap", "Service", "NetworkPolicy"])
def test_each_missing_object_is_applied_alone(kind: str) -> None:
    job = a_job().on_attempt(1, 1, 2)
    kept = tuple(
        view for view in shared(job.build()) if view.kind != kind or view.name == "triage-config-00000000"
    )
    facts = facts_of(job, *BOTH, objects=kept)
    assert {item["kind"] for item in missing_objects(facts)} == {kind}


def test_nothing_is_missing_when_all_is_there() -> None:
    job = a_job().on_attempt(1, 1, 2)
    assert missing_objects(facts_of(job, *BOTH, objects=shared(job.build()))) == ()


def test_objects_come_before_the_pods_that_need_them() -> None:
    job = a_job().with_nodes(2)
    decision = judge(job.after(judge(job)), objects=())
    assert decision.applies[0]["kind"] == "ConfigMap"
    config = decision.applies[0]["metadata"]["name"]
    for pod in decision.creates:
        assert {"name": "config", "configMap": {"name": config}} in pod["spec"]["volumes"]


@pytest.mark.parametrize(
    ("ends", "seconds"),
    [([], None), ([None], None), ([at(70)], 41.0), ([at(70), None, at(90)], 61.0), ([at(0)], 1.0)],
    ids=["nobody", "not leaving", "one", "the last", "long ago"],
)
def test_wait_for_pods_that_are_on_their_way_out(ends: list[datetime | None], seconds: float | None) -> None:
    assert until_out_of_reach(facts_of(a_job().on_attempt(1, 1)), ends) == seconds


@pytest.mark.parametrize(
    ("ago", "count", "left"),
    [(0, 1, 5.0), (4, 1, 1.0), (5, 1, None), (0, 3, 20.0), (19, 3, 1.0), (21, 3, None), (0, 99, 300.0)],
)
def test_refused_object_waits_for_its_pause(ago: float, count: int, left: float | None) -> None:
    refused = Refusal(
        "Pod", "triage-0-1", Reason.POD_SECURITY_DENIED, "no", NOW - timedelta(seconds=ago), count
    )
    decision = judge(a_job().on_attempt(1, 1).with_unmade_pods(), refusals=(refused,))
    assert bool(decision.creates) is (left is None)
    if left is not None:
        assert decision.requeue_after_seconds == left
        assert conditions_of(decision)["Stalled"] == ("True", "PodSecurityDenied")


# --- old configurations ----------------------------------------------------------------------------


def config(name: str, owner: str | None = None, kind: str = "ConfigMap") -> ObjectView:
    return ObjectView(kind, name, owner or a_job().build().uid, uid=f"uid-{name}")


@pytest.mark.parametrize(
    ("view", "goes"),
    [
        (config("triage-config-aaaaaaaa"), True),
        (config("triage-config-00000000"), False),
        (config("triage-ca"), False),
        (config("triage-configuration"), False),
        (config("other-config-aaaaaaaa"), False),
        (config("triage-config-aaaaaaaa", owner="somebody-else"), False),
        (config("triage-config-aaaaaaaa", kind="Service"), False),
    ],
    ids=["old", "in use", "ca", "another name", "another run's", "another owner's", "another kind"],
)
def test_which_configurations_go(view: ObjectView, goes: bool) -> None:
    facts = facts_of(a_job().on_attempt(1, 1), a_pod(0, 1), objects=(view,))
    assert [delete.name for delete in gang.old_configs(facts)] == ([view.name] if goes else [])


def test_configuration_stays_while_a_pod_of_its_attempt_lives() -> None:
    old = config("triage-config-aaaaaaaa")
    leaving = a_pod(1, 9, attempt=1, deletion_timestamp=at(90))
    facts = facts_of(a_job().on_attempt(2, 3), a_pod(0, 3, attempt=2), leaving, objects=(old,))
    assert gang.old_configs(facts) == ()


# --- leaders ---------------------------------------------------------------------------------------


def with_new_leader() -> JobBuilder:
    members = [Member(index=0, ticket=3), Member(index=1, ticket=2, pod_uid="pod-1-2")]
    job = a_job().on_attempt(1, 3, 2)
    made = Gang(attempt=1, last_ticket=3, members=members)
    return job.with_status(job.build().status.model_copy(update={"gang": made}))


OLD_LEADERS: list[tuple[str, PodView | None]] = [
    ("runs", a_pod(0, 1)),
    ("pending", a_pod(0, 1, phase="Pending")),
    ("leaving", a_pod(0, 1, deletion_timestamp=at(90))),
    ("ended", an_ended_pod(0, 1, exit_code=14)),
    ("gone", None),
    ("dead kubelet", a_pod(0, 1, deletion_timestamp=at(20))),
    ("lost node", a_pod(0, 1, deletion_timestamp=at(90), disruption="DeletionByTaintManager")),
]


@pytest.mark.fault("F24")
@pytest.mark.fault("F25")
@pytest.mark.parametrize(("name", "old"), OLD_LEADERS, ids=[row[0] for row in OLD_LEADERS])
def test_new_leader_is_made_whatever_the_old_one_still_does(name: str, old: PodView | None) -> None:
    # It is the agent that waits for the old one's last word: its imports need not.
    pods = [a_pod(1, 2), *([old] if old is not None else [])]
    decision = judge(with_new_leader(), pods=tuple(pods))
    assert [item["metadata"]["name"] for item in decision.creates] == ["triage-0-3"], name
    deleting = old is not None and old.deletion_timestamp is None
    assert [each.name for each in decision.deletes] == (["triage-0-1"] if deleting else [])


def test_nobody_is_held_by_an_old_leader() -> None:
    members = [Member(index=0, ticket=3), Member(index=1, ticket=4)]
    job = a_job().on_attempt(1, 3, 4)
    made = Gang(attempt=1, last_ticket=4, members=members)
    job = job.with_status(job.build().status.model_copy(update={"gang": made}))
    decision = judge(job, pods=(a_pod(0, 1, deletion_timestamp=at(90)),))
    assert [item["metadata"]["name"] for item in decision.creates] == ["triage-0-3", "triage-1-4"]


# --- members that ended in good order --------------------------------------------------------------


@pytest.mark.fault("F45")
@pytest.mark.parametrize("result", ["Succeeded", "Failed"])
def test_followers_end_is_not_the_runs(result: str) -> None:
    verdict = Verdict(result=result)  # type: ignore[arg-type]
    ended = an_ended_pod(1, 2, exit_code=0, verdict=verdict, finished_at=at(59))
    decision = judge(a_job().on_attempt(1, 1, 2), pods=(a_pod(0, 1), ended), report=a_report())
    types = {each["type"] for each in status_of(decision)["conditions"]}
    assert not types & {"Complete", "Failed"}
    assert conditions_of(decision)["Running"] == ("True", "Training")


def test_time_of_the_start_is_the_first_leaders_and_stays() -> None:
    job = a_job().on_attempt(1, 1, 2)
    first = judge(job, pods=(a_pod(0, 1, started_at=at(7)), a_pod(1, 2)), report=a_report())
    assert status_of(first)["startedAt"] == "2026-11-23T12:00:07Z"
    later = judge(
        job.after(first), pods=(a_pod(0, 1, started_at=at(30)), a_pod(1, 2)), report=a_report(), now=at(70)
    )
    assert later.status is None or later.status["startedAt"] == "2026-11-23T12:00:07Z"


# --- clocks ----------------------------------------------------------------------------------------


@pytest.mark.fault("F12")
@settings(max_examples=60, deadline=None)
@given(st.integers(-600, 600), st.booleans())
def test_clock_that_jumps_neither_ends_nor_replaces_a_training_run(jump: int, reported: bool) -> None:
    job = a_job().on_attempt(1, 1, 2)
    job = job.after(judge(job, pods=BOTH, report=a_report()))
    now = NOW + timedelta(seconds=jump)
    report = a_report(sent_at=now, progress=Progress(step=41, total_steps=100)) if reported else None
    decision = judge(job, pods=BOTH, now=now, report=report)
    assert not decision.creates and not decision.deletes and decision.orders.action == "Continue"
    if decision.status is not None:
        assert decision.status["gang"] == job.build().status.gang.to_wire()
        assert not {each["type"] for each in decision.status["conditions"]} & {"Complete", "Failed"}
    assert decision.requeue_after_seconds is None or decision.requeue_after_seconds <= 700


@pytest.mark.fault("F2")
def test_spec_edited_twice_while_nobody_looked_counts_as_it_is_now() -> None:
    job = a_job().on_attempt(1, 1, 2)
    job = job.after(judge(job, pods=BOTH, report=a_report()))
    body = job.suspended().suspended(False).body
    body["metadata"]["generation"] = 3
    decision = judge(JobBuilder(body), pods=BOTH, report=a_report(), now=at(61))
    assert not decision.deletes and decision.orders.action == "Continue"
    assert "Suspended" not in {event.reason for event in decision.events}
