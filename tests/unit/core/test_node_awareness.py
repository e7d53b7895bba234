"""What follows from what is seen of nodes: lost ones, unhealthy ones, and pods that nobody can end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from unit.core.builders import (
    SETTINGS,
    JobBuilder,
    a_job,
    a_pod,
    a_report,
    an_ended_pod,
    at,
    judge,
    message_of,
)
from windlass.api.contract import MemberReport, Verdict
from windlass.api.meta import Exclusion, FailureClass, SuspectReason
from windlass.api.running import Toleration
from windlass.core.decision import Decision, Delete
from windlass.core.facts import gather
from windlass.core.judges.nodes import matches, tolerates, until_node_is_lost
from windlass.core.observed import NodeView, Observed, PodView, Taint
from windlass.core.settings import RenderSettings

WATCHING = replace(SETTINGS, health_taints=("AggregatedNodeHealth", "example.com/bad-*"))
SICK = Taint("AggregatedNodeHealth", "False", "NoSchedule")
DOWN = NodeView("node-1", ready=False)
UP = (NodeView("node-0"), NodeView("node-1"))


def members(*indices: int) -> list[MemberReport]:
    return [
        MemberReport(index=index, pod=f"triage-{index}-{index + 1}", pod_uid=f"pod-{index}-{index + 1}")
        for index in indices
    ]


def seen(
    *nodes: NodeView,
    job: JobBuilder | None = None,
    heard: tuple[int, ...] = (0, 1),
    silent_seconds: float = 0,
    pods: tuple[PodView, ...] | None = None,
    now: float = 60,
    **more: Any,
) -> Decision:
    """What is decided about a gang of two that trains, with these nodes and members in the last report."""
    return judge(
        job or a_job().on_attempt(1, 1, 2),
        pods=pods if pods is not None else (a_pod(0, 1), a_pod(1, 2)),
        nodes=nodes,
        report=a_report(members=members(*heard), sent_at=at(now - silent_seconds)),
        listening_since=at(0),
        now=at(now),
        settings=WATCHING,
        **more,
    )


def tickets(decision: Decision) -> list[int]:
    assert decision.status is not None
    return [member["ticket"] for member in decision.status["gang"]["members"]]


def suspects(decision: Decision) -> dict[str, tuple[str, str]]:
    status = decision.status or {}
    return {item["name"]: (item["reason"], item["exclusion"]) for item in status.get("suspectNodes", ())}


# --- lost nodes ------------------------------------------------------------------------------------

LOST = {"node-1": (SuspectReason.NODE_LOST, Exclusion.PREFERRED)}


@pytest.mark.fault("F23")
@pytest.mark.fault("F24")
def test_a_lost_node_is_acted_upon_before_its_pods_are_evicted() -> None:
    decision = seen(UP[0], DOWN, heard=(0,))
    assert tickets(decision) == [1, 3]
    assert suspects(decision) == LOST
    assert decision.status is not None
    row = decision.status["recoveries"][-1]
    assert (row["rung"], row["class"], row["firstFailed"]["node"]) == (
        "OtherNode",
        "Infrastructure",
        "node-1",
    )
    assert "NodeLost" in message_of(decision)


# (nodes, members heard, silence, whether the pod of node-1 is lost)
READINESS = [
    ("both ready", UP, (0, 1), 0, False),
    ("ready, though its agent is not heard", UP, (0,), 0, False),
    ("nodes are not watched", (), (0,), 0, False),
    ("only its kubelet is silent", (UP[0], DOWN), (0, 1), 0, False),
    ("only its kubelet, and the report is late", (UP[0], DOWN), (0, 1), 14, False),
    ("node and agent are silent", (UP[0], DOWN), (0,), 0, True),
    ("nobody is heard any more", (UP[0], DOWN), (0, 1), 15, True),
]


@pytest.mark.fault("F23")
@pytest.mark.parametrize(
    ("name", "nodes", "heard", "silent", "lost"), READINESS, ids=[row[0] for row in READINESS]
)
def test_a_node_is_lost_when_neither_it_nor_the_agent_on_it_is_heard(
    name: str, nodes: tuple[NodeView, ...], heard: tuple[int, ...], silent: float, lost: bool
) -> None:
    decision = seen(*nodes, heard=heard, silent_seconds=silent)
    assert tickets(decision) == ([1, 3] if lost else [1, 2]), name
    assert suspects(decision) == (LOST if lost else {})


@pytest.mark.parametrize(("silent", "lost"), [(18, False), (19, True)])
def test_where_many_run_an_agent_is_given_more_time(silent: float, lost: bool) -> None:
    """Their leaders report every six seconds."""
    assert tickets(seen(UP[0], DOWN, silent_seconds=silent, runs_heard=600)) == ([1, 3] if lost else [1, 2])


def test_an_operator_that_has_just_begun_to_listen_waits_for_a_report() -> None:
    fields: dict[str, Any] = {
        "pods": (a_pod(0, 1), a_pod(1, 2)),
        "nodes": (UP[0], DOWN),
        "settings": WATCHING,
    }
    job = a_job().on_attempt(1, 1, 2)
    early = judge(job, listening_since=at(50), now=at(60), **fields)
    assert tickets(early) == [1, 2]
    assert early.requeue_after_seconds is not None and early.requeue_after_seconds <= 15
    late = judge(job, listening_since=at(45), now=at(60), **fields)
    assert tickets(late) == [1, 3]
    deaf = judge(
        job, listening_since=at(0), now=at(600), **(fields | {"settings": replace(WATCHING, report_url=None)})
    )
    assert deaf.status is None or tickets(deaf) == [1, 2], "without reports the eviction is waited for"


@pytest.mark.parametrize(
    ("nodes", "pods", "settings", "wakes"),
    [
        ((UP[0], DOWN), (a_pod(0, 1), a_pod(1, 2)), WATCHING, True),
        (UP, (a_pod(0, 1), a_pod(1, 2)), WATCHING, False),
        ((UP[0], DOWN), (a_pod(0, 1), a_pod(1, 2)), replace(WATCHING, report_url=None), False),
        ((UP[0], DOWN), (a_pod(0, 1), a_pod(1, 2, node="node-0")), WATCHING, False),
    ],
    ids=["one in doubt", "all well", "no reports", "nobody there"],
)
def test_only_an_agent_in_doubt_is_watched_by_a_timer(
    nodes: tuple[NodeView, ...], pods: tuple[PodView, ...], settings: RenderSettings, wakes: bool
) -> None:
    seen_now = Observed(pods=pods, nodes=nodes, listening_since=at(50))
    facts = gather(a_job().on_attempt(1, 1, 2).build(), seen_now, at(60), settings)
    assert until_node_is_lost(facts) == (15.0 if wakes else None)
    many = gather(facts.job, replace(seen_now, runs_heard=600), at(60), settings)
    assert until_node_is_lost(many) == (19.0 if wakes else None)


@pytest.mark.fault("F24")
def test_the_leaders_node_may_be_the_lost_one() -> None:
    decision = seen(NodeView("node-0", ready=False), UP[1], silent_seconds=15)
    assert tickets(decision) == [3, 2]
    assert set(suspects(decision)) == {"node-0"}


@pytest.mark.fault("F24")
def test_a_pod_of_an_old_attempt_on_a_lost_node_blocks_nobody() -> None:
    job = a_job().on_attempt(2, 3, 4).with_unmade_pods()
    old = a_pod(1, 2, deletion_timestamp=at(200))
    ready = seen(UP[1], job=job, pods=(old,))
    assert ready.creates == () and "waits for the pods of an earlier one" in message_of(ready)
    lost = judge(job, pods=(old,), nodes=(DOWN,), listening_since=at(0), settings=WATCHING)
    assert len(lost.creates) == 2


@pytest.mark.parametrize(
    ("nodes", "failure_class", "avoided"),
    [
        ((), FailureClass.INFRASTRUCTURE, True),
        ((DOWN,), FailureClass.INFRASTRUCTURE, True),
        (UP, FailureClass.PREEMPTED, False),
    ],
    ids=["not watched", "not ready", "ready"],
)
def test_an_eviction_by_taint_is_no_lost_node_where_the_node_is_seen_to_be_well(
    nodes: tuple[NodeView, ...], failure_class: FailureClass, avoided: bool
) -> None:
    evicted = a_pod(1, 2, deletion_timestamp=at(90), disruption="DeletionByTaintManager")
    decision = seen(*nodes, pods=(a_pod(0, 1), evicted))
    assert decision.status is not None
    assert decision.status["recoveries"][-1]["class"] == failure_class
    assert bool(suspects(decision)) is avoided


# --- unhealthy nodes -------------------------------------------------------------------------------

TAINTED = {"node-1": (SuspectReason.HEALTH_TAINT, Exclusion.REQUIRED)}
UNWELL = (UP[0], NodeView("node-1", taints=(SICK,)))


@pytest.mark.fault("F30")
def test_a_pod_saves_and_leaves_a_node_whose_devices_are_not_sound() -> None:
    decision = seen(*UNWELL)
    assert decision.deletes == (Delete("Pod", "triage-1-2", "pod-1-2"),)
    assert suspects(decision) == TAINTED
    assert tickets(decision) == [1, 2], "its successor comes when it is on its way out"
    assert message_of(decision).startswith(
        "node node-1 carries the taint AggregatedNodeHealth: pod triage-1-2 saves"
    )
    assert [event.reason for event in decision.events if event.type == "Warning"] == ["NodeSuspected"]


@pytest.mark.fault("F30")
def test_moving_off_an_unhealthy_node_is_charged_to_nobody() -> None:
    first = seen(*UNWELL)
    job = a_job().on_attempt(1, 1, 2).after(first)
    leaving = (a_pod(0, 1), a_pod(1, 2, deletion_timestamp=at(120)))
    second = seen(*UNWELL, job=job, pods=leaving)
    assert tickets(second) == [1, 3] and second.status is not None
    row = second.status["recoveries"][-1]
    assert (row["rung"], row["class"]) == ("OtherNode", "Preempted")
    assert row["evidence"] == ["taint AggregatedNodeHealth=False:NoSchedule"]
    assert "charges" not in second.status
    assert second.status["suspectNodes"] == (first.status or {})["suspectNodes"], (
        "one taint is suspected once"
    )
    third = seen(*UNWELL, job=job.after(second), pods=leaving)
    (made,) = third.creates
    rules = made["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert rules["nodeSelectorTerms"][0]["matchFields"][0]["values"] == ["node-1"]


def test_a_crash_between_suspicion_and_deletion_loses_neither() -> None:
    job = a_job().on_attempt(1, 1, 2).after(seen(*UNWELL))
    again = seen(*UNWELL, job=job)
    assert again.deletes == (Delete("Pod", "triage-1-2", "pod-1-2"),)
    assert again.status is None, "nothing new is to be written"


def taint(key: str, value: str = "", effect: str = "NoSchedule") -> NodeView:
    return NodeView("node-1", taints=(Taint(key, value, effect),))


# (the node, changes of the spec, whether the pod is moved)
HEALTH = [
    ("another taint", taint("example.com/dedicated"), {}, False),
    ("a key by its beginning", taint("example.com/bad-gpu"), {}, True),
    ("any effect", taint("AggregatedNodeHealth", effect="NoExecute"), {}, True),
    ("cordoned", taint("node.kubernetes.io/unschedulable"), {}, False),
    ("no such rung", taint("AggregatedNodeHealth"), {"recovery.ladder": ["InPlace", "RecreatePod"]}, False),
    (
        "the user tolerates it",
        taint("AggregatedNodeHealth"),
        {"pod.tolerations": [{"key": "AggregatedNodeHealth", "operator": "Exists"}]},
        False,
    ),
    (
        "the user tolerates another value",
        taint("AggregatedNodeHealth", "False"),
        {"pod.tolerations": [{"key": "AggregatedNodeHealth", "value": "True"}]},
        True,
    ),
]


@pytest.mark.fault("F30")
@pytest.mark.parametrize(("name", "node", "changes", "moved"), HEALTH, ids=[row[0] for row in HEALTH])
def test_which_taints_move_a_pod(name: str, node: NodeView, changes: dict[str, Any], moved: bool) -> None:
    job = a_job().on_attempt(1, 1, 2)
    for path, value in changes.items():
        job = job.with_spec(path, value)
    assert bool(seen(UP[0], node, job=job).deletes) is moved, name


def test_no_list_of_taints_moves_nobody() -> None:
    job = a_job().on_attempt(1, 1, 2)
    decision = judge(job, pods=(a_pod(0, 1), a_pod(1, 2)), nodes=UNWELL, report=a_report())
    assert decision.deletes == ()


def test_a_pod_that_has_ended_is_not_asked_to_leave() -> None:
    ended = an_ended_pod(1, 2, exit_code=0, verdict=Verdict(result="Succeeded", step=100), finished_at=at(59))
    assert seen(*UNWELL, pods=(a_pod(0, 1), ended)).deletes == ()


@pytest.mark.parametrize(
    ("pattern", "key", "same"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/bc", False),
        ("a/b*", "a/bc", True),
        ("a/b*", "a/b", True),
        ("*", "x", True),
    ],
)
def test_keys_are_compared_whole_or_by_their_beginning(pattern: str, key: str, same: bool) -> None:
    assert matches(pattern, key) is same


@examples(max_examples=100, deadline=None)
@given(st.text(max_size=8), st.sampled_from(["NoSchedule", "NoExecute", "PreferNoSchedule"]))
def test_a_toleration_is_for_its_key_effect_and_value(value: str, effect: Any) -> None:
    seen_taint = Taint("k", value, effect)
    assert tolerates(Toleration(key="k", operator="Exists"), seen_taint)
    assert tolerates(Toleration(key="k", value=value, effect=effect), seen_taint)
    assert not tolerates(Toleration(key="other", operator="Exists"), seen_taint)
    assert not tolerates(Toleration(key="k", value=value + "x"), seen_taint)
    for other in {"NoSchedule", "NoExecute"} - {effect}:
        assert not tolerates(Toleration(key="k", operator="Exists", effect=other), seen_taint)  # type: ignore[arg-type]


# --- pods that nobody can end ----------------------------------------------------------------------


def stuck(
    after: int | None = 60, *, now: float, nodes: tuple[NodeView, ...] = (UP[0], DOWN), **fields: Any
) -> Decision:
    """A former pod whose grace period ended at second 100, on a node that is not ready."""
    job = a_job().on_attempt(1, 1, 3)
    if after is not None:
        job = job.with_spec("recovery.forceDeleteAfterSeconds", after)
    old = a_pod(1, 2, deletion_timestamp=at(100), **fields)
    return seen(*nodes, job=job, pods=(a_pod(0, 1), old, a_pod(1, 3, node="node-2")), heard=(0,), now=now)


FORCED = (Delete("Pod", "triage-1-2", "pod-1-2", force=True),)
# (seconds to wait, now, nodes that are watched, removed by force)
STUCK = [
    ("never by itself", None, 10_000, (UP[0], DOWN), ()),
    ("not yet", 60, 159, (UP[0], DOWN), ()),
    ("in time", 60, 160, (UP[0], DOWN), FORCED),
    ("at once", 0, 100, (UP[0], DOWN), FORCED),
    ("its node is well", 60, 10_000, UP, ()),
    ("nodes are not watched, not yet", 0, 129, (), ()),
    ("nodes are not watched", 0, 130, (), FORCED),
    ("nodes are not watched, later", 60, 160, (), FORCED),
]


@pytest.mark.fault("F24")
@pytest.mark.parametrize(("name", "after", "now", "nodes", "deletes"), STUCK, ids=[row[0] for row in STUCK])
def test_when_a_pod_is_removed_by_force(
    name: str, after: int | None, now: float, nodes: tuple[NodeView, ...], deletes: tuple[Delete, ...]
) -> None:
    decision = stuck(after, now=now, nodes=nodes)
    assert tuple(each for each in decision.deletes if each.force) == deletes, name
    told = [event for event in decision.events if event.reason == "PodForceDeleted"]
    assert len(told) == len(deletes)


def test_a_timer_wakes_the_operator_for_a_forced_deletion() -> None:
    early = stuck(60, now=130)
    assert early.requeue_after_seconds is not None and early.requeue_after_seconds <= 30
    assert all(not each.force for each in early.deletes)


def test_a_deleted_job_is_left_to_the_garbage_collector() -> None:
    job = a_job().on_attempt(1, 1).with_spec("recovery.forceDeleteAfterSeconds", 0).deleted()
    gone = a_pod(0, 1, deletion_timestamp=at(0))
    decision = judge(job, pods=(gone,), nodes=(NodeView("node-0", ready=False),), now=at(600))
    assert decision.is_idle


@examples(max_examples=100, deadline=None)
@given(st.integers(0, 300), st.integers(0, 900), st.sampled_from([(), UP, (UP[0], DOWN)]))
def test_force_is_never_used_before_its_time_nor_on_a_pod_that_is_not_leaving(
    after: int, now: int, nodes: tuple[NodeView, ...]
) -> None:
    for each in stuck(after, now=now, nodes=nodes).deletes:
        if each.force:
            assert each.uid == "pod-1-2" and now >= 100 + after and nodes != UP


@pytest.mark.parametrize(
    ("body", "view"),
    [
        ({}, NodeView("n", ready=False)),
        ({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}, NodeView("n")),
        ({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}, NodeView("n", ready=False)),
        ({"status": {"conditions": [{"type": "Ready", "status": "False"}]}}, NodeView("n", ready=False)),
        (
            {"status": {"conditions": [{"type": "DiskPressure", "status": "True"}]}},
            NodeView("n", ready=False),
        ),
        (
            {
                "spec": {
                    "taints": [{"key": "k", "effect": "NoExecute"}, {"key": "l", "value": "v", "effect": "e"}]
                },
                "status": {"conditions": [{"type": "Ready", "status": "True"}]},
            },
            NodeView("n", taints=(Taint("k", "", "NoExecute"), Taint("l", "v", "e"))),
        ),
    ],
)
def test_node_is_read_from_the_apis_form(body: dict[str, Any], view: NodeView) -> None:
    assert NodeView.from_wire({"metadata": {"name": "n"}} | body) == view
