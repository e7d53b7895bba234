"""The order of the judges: when several have something to say, the earlier one speaks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import pytest

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
    shared,
)
from windlass.api.contract import Verdict
from windlass.api.meta import Reason
from windlass.api.status import Condition, Failure, Gang, Member
from windlass.core.chains import TRAINING_CHAIN
from windlass.core.facts import Facts, Outcome, gather
from windlass.core.judges import elastic, gang, lifecycle, nodes, queued, world
from windlass.core.judges import paused as paused_judges
from windlass.core.observed import NodeView, ObjectView, Observed, PodView, Refusal, Taint
from windlass.core.reconcile import decide

WATCHING = replace(SETTINGS, health_taints=("sick",))


@dataclass
class Scene:
    """A world that is built up by what happens to it."""

    job: JobBuilder
    pods: tuple[PodView, ...] = ()
    objects: tuple[ObjectView, ...] | None = None
    claims: tuple[Any, ...] = claims()
    report: Any = None
    refusals: tuple[Refusal, ...] = ()
    nodes: tuple[NodeView, ...] = ()
    now: datetime = NOW

    def facts(self) -> Facts:
        built = self.job.build()
        objects = self.objects
        if objects is None:
            objects = shared(built) if built.spec is not None and built.status.gang.members else ()
        heard = self.report.sent_at if self.report is not None else None
        seen = Observed(
            pods=self.pods,
            objects=objects,
            claims=self.claims,
            report=self.report,
            heard_at=heard,
            refusals=self.refusals,
            nodes=self.nodes,
        )
        return gather(built, seen, self.now, WATCHING)


def speaker(scene: Scene) -> str:
    """The first judge that answers."""
    facts = scene.facts()
    return next(judge.__name__ for judge in TRAINING_CHAIN if judge(facts) is not None)


def running() -> Scene:
    return Scene(a_job().on_attempt(1, 1, 2), (a_pod(0, 1), a_pod(1, 2)), report=a_report())


# Each turns a training run into one about which its judge has something to say.
def deleted(scene: Scene) -> None:
    scene.job = scene.job.deleted()


def finished(scene: Scene) -> None:
    ended = Condition(type="Complete", status="True", reason="Completed", last_transition_time=at(30))
    update_status(scene, conditions=[ended], finished_at=at(30))


def verdict(scene: Scene) -> None:
    failure = Failure(reason="DataEmpty", failure_class="Configuration", message="no rows")  # type: ignore[arg-type]
    scene.report = a_report(verdict=Verdict(result="Failed", failure=failure))


def invalid(scene: Scene) -> None:
    # A value that parses nowhere, so that pods and gang of the job stay as they are.
    scene.job = scene.job.with_spec("training.seed", "seventeen")


def suspended(scene: Scene) -> None:
    scene.job = scene.job.suspended()


def paused(scene: Scene) -> None:
    held = Condition(type="Suspended", status="True", reason="NonFinite", last_transition_time=at(30))
    update_status(scene, conditions=[held], suspended_at=at(30))


def resumed(scene: Scene) -> None:
    update_status(scene, suspended_at=at(20))


def late(scene: Scene) -> None:
    scene.job = scene.job.with_spec("activeDeadlineSeconds", 60)
    update_status(scene, started_at=at(-30))


def queue_closed(scene: Scene) -> None:
    """Its pods may be made by an operator that is set up for the queue only."""
    scene.job = scene.job.with_spec("scheduling.queue", {"kind": "Kueue", "name": "team"})
    scene.pods = scene.pods[:1]


def claim_missing(scene: Scene) -> None:
    """Claims are asked about only while a pod is to be made."""
    scene.claims = claims()[1:]
    scene.pods = scene.pods[:1]


def no_gang(scene: Scene) -> None:
    update_status(scene, gang=Gang(attempt=1, last_ticket=2))


def config_lost(scene: Scene) -> None:
    scene.objects = tuple(view for view in there(scene) if view.kind != "ConfigMap")


def name_taken(scene: Scene) -> None:
    scene.objects = (*there(scene), ObjectView("Service", "triage", owner_uid="somebody-else"))


def wants_gang(scene: Scene) -> None:
    scene.report = a_report(wanted="RecreateGang")


def unhealthy(scene: Scene) -> None:
    scene.nodes = (NodeView("node-0", taints=(Taint("sick"),)),)


def member_lost(scene: Scene) -> None:
    scene.pods = (scene.pods[0], an_ended_pod(1, 2, exit_code=17))


def old_pods(scene: Scene) -> None:
    scene.pods = (*scene.pods, a_pod(1, 9, attempt=7))


def shrunk(scene: Scene) -> None:
    """The leader trains alone, and the other pod finds no node."""
    scene.job = scene.job.with_spec("recovery.elastic", {"minNodes": 1, "waitSeconds": 10})
    scene.report = a_report(nodes=1)
    homeless(scene, 1)


def leader_homeless(scene: Scene) -> None:
    scene.job = scene.job.with_spec("recovery.elastic", {"minNodes": 1, "waitSeconds": 10})
    homeless(scene, 0)


def homeless(scene: Scene, index: int) -> None:
    """A pod that no node takes."""
    waiting = {"phase": "Pending", "scheduled_at": None, "started_at": None, "unschedulable": "no room"}
    scene.pods = tuple(replace(pod, **waiting) if pod.index == index else pod for pod in scene.pods)


def not_whole(scene: Scene) -> None:
    """The leader has had no node for too long, while the other pod holds one."""
    scene.job = scene.job.with_spec("scheduling.gangStartSeconds", 30)
    homeless(scene, 0)


def at_the_gates(scene: Scene) -> None:
    held = {"phase": "Pending", "node": None, "scheduled_at": None, "started_at": None, "gates": ("gate",)}
    scene.pods = tuple(replace(pod, **held) for pod in scene.pods)


def partial(scene: Scene) -> None:
    unmake_last(scene)
    scene.refusals = (Refusal("Pod", "triage-1-2", Reason.QUOTA_EXCEEDED, "full", at=NOW, count=6),)


def backing_off(scene: Scene) -> None:
    unmake_last(scene)
    update_status(scene, back_off_until=at(90))


def incomplete(scene: Scene) -> None:
    unmake_last(scene)


def exclusion_over(scene: Scene) -> None:
    """It waits for a node, kept off one that is free of suspicion by now."""
    kept_off = a_pod(1, 2, phase="Pending", node=None, unschedulable="0/2 nodes", avoids=("node-9",))
    scene.pods = (scene.pods[0], kept_off)


def waiting(scene: Scene) -> None:
    scene.pods = (scene.pods[0], a_pod(1, 2, phase="Pending", started_at=None))


def nothing(scene: Scene) -> None:
    """The gang trains."""


def there(scene: Scene) -> tuple[ObjectView, ...]:
    """The objects so far, as they were rendered from a spec that parsed."""
    return (
        scene.objects
        if scene.objects is not None
        else shared(scene.job.with_spec("training.seed", 17).build())
    )


def update_status(scene: Scene, **update: Any) -> None:
    scene.job = scene.job.with_status(scene.job.build().status.model_copy(update=update))


def unmake_last(scene: Scene) -> None:
    """The last member has a ticket and no pod yet."""
    members = [Member(index=0, ticket=1, pod_uid="pod-0-1"), Member(index=1, ticket=2)]
    update_status(scene, gang=Gang(attempt=1, last_ticket=2, members=members))
    scene.pods = scene.pods[:1]


CASES: dict[str, Callable[[Scene], None]] = {
    "being_deleted": deleted,
    "is_finished": finished,
    "verdict_reached": verdict,
    "spec_is_invalid": invalid,
    "is_suspended": suspended,
    "is_paused": paused,
    "is_resumed": resumed,
    "deadline_passed": late,
    "queue_is_closed": queue_closed,
    "claims_do_not_fit": claim_missing,
    "has_no_gang": no_gang,
    "config_is_lost": config_lost,
    "name_is_taken": name_taken,
    "gang_wants_recreation": wants_gang,
    "node_is_unhealthy": unhealthy,
    "member_is_lost": member_lost,
    "old_pods_are_in_the_way": old_pods,
    "exclusion_is_over": exclusion_over,
    "gang_is_shrunk": shrunk,
    "leader_finds_no_room": leader_homeless,
    "gang_is_not_whole": not_whole,
    "gang_is_partial": partial,
    "is_backing_off": backing_off,
    "gang_is_incomplete": incomplete,
    "gang_is_queued": at_the_gates,
    "gang_is_waiting": waiting,
    "gang_is_running": nothing,
}
ORDER = [judge.__name__ for judge in TRAINING_CHAIN]


def test_every_judge_has_a_case_and_the_chain_its_promised_order() -> None:
    assert list(CASES) == ORDER
    known = {
        value
        for module in (elastic, gang, lifecycle, nodes, paused_judges, queued, world)
        for name, value in vars(module).items()
        if callable(value) and name in ORDER
    }
    assert set(TRAINING_CHAIN) == known


@pytest.mark.parametrize("name", CASES)
def test_judge_speaks_in_its_own_case(name: str) -> None:
    scene = running()
    CASES[name](scene)
    assert speaker(scene) == name


# One needs what the other takes away: a leader to be heard, a gang without a gap, a leader that trains, a node.
EXCLUSIVE = {
    ("verdict_reached", "has_no_gang"),
    ("gang_is_shrunk", "leader_finds_no_room"),
    ("leader_finds_no_room", "gang_is_partial"),
    ("leader_finds_no_room", "is_backing_off"),
    ("leader_finds_no_room", "gang_is_incomplete"),
    ("gang_is_shrunk", "gang_is_not_whole"),
    ("node_is_unhealthy", "gang_is_queued"),
    ("gang_is_shrunk", "gang_is_queued"),
    ("leader_finds_no_room", "gang_is_queued"),
    ("gang_is_not_whole", "gang_is_queued"),
}
PAIRS = [
    (first, second)
    for number, first in enumerate(ORDER)
    for second in ORDER[number + 1 :]
    if (first, second) not in EXCLUSIVE
]


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=[f"{one}-{other}" for one, other in PAIRS])
def test_earlier_judge_speaks_when_both_could(first: str, second: str) -> None:
    """Applied in either order: what happens to a run does not come in the order of the chain."""
    scene = running()
    CASES[first](scene)
    CASES[second](scene)
    # The second step may undo the first (a lost pod that is then unmade), but nobody behind both may speak.
    assert ORDER.index(speaker(scene)) <= ORDER.index(second)
    scene = running()
    CASES[second](scene)
    CASES[first](scene)
    assert speaker(scene) == first


@pytest.mark.parametrize("name", ORDER)
def test_judge_that_passes_has_changed_nothing(name: str) -> None:
    """Judges are asked one after another about the same facts."""
    scene = running()
    CASES[name](scene)
    facts = scene.facts()
    before = repr(facts)
    for judge in TRAINING_CHAIN:
        outcome = None
        if facts.job.spec is not None or judge in TRAINING_CHAIN[:4]:
            outcome = judge(facts)
        assert repr(facts) == before
        if outcome is not None:
            assert isinstance(outcome, Outcome)
            return


@pytest.mark.parametrize("name", ORDER)
def test_decision_is_the_outcome_of_the_judge_that_speaks(name: str) -> None:
    scene = running()
    CASES[name](scene)
    facts = scene.facts()
    judge = next(each for each in TRAINING_CHAIN if each.__name__ == name)
    outcome = judge(facts)
    assert outcome is not None
    made = decide(facts.job, facts.seen, facts.now, WATCHING)
    assert made.orders == outcome.orders
    assert (made.creates, made.applies, made.deletes) == (
        outcome.creates,
        outcome.applies,
        outcome.deletes,
    )
    assert outcome.quiet is (name in ("being_deleted", "is_finished"))


def test_a_refusal_holds_pods_back_only_where_some_are_missing() -> None:
    refused = Refusal("Pod", "triage-1-2", Reason.QUOTA_EXCEEDED, "full", at=NOW)
    scene = running()
    scene.refusals = (refused,)
    assert speaker(scene) == "gang_is_running"
    incomplete(scene)
    assert speaker(scene) == "gang_is_incomplete"
    outcome = gang.gang_is_incomplete(scene.facts())
    assert outcome is not None and outcome.creates == ()
