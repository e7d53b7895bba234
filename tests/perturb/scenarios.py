"""The stories that a run can live through, each with the end it must reach whatever happens to the operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from perturb.operator_model import Operator
from perturb.world import Api, Body, Gang, stamp
from windlass.api import meta
from windlass.api.meta import ExitCode, FailureClass, Reason
from windlass.api.status import Failure

Action = Callable[["World"], None]
Trigger = Callable[["World"], bool]


@dataclass
class World:
    """API, gang and operator of one run of a scenario."""

    api: Api
    gang: Gang
    operator: Operator
    marks: dict[str, Any] = field(default_factory=dict)

    @property
    def job(self) -> Body | None:
        return self.api.objects.get(("FineTuneJob", "triage"))

    def reason(self) -> str:
        conditions = ((self.job or {}).get("status") or {}).get("conditions", ())
        return next((item["reason"] for item in conditions if item["type"] == "Ready"), "")

    def pod(self, index: int) -> Body:
        """The newest pod of an index."""
        pods = [
            pod
            for pod in self.api.of_kind("Pod")
            if pod["metadata"]["labels"][meta.LABEL_INDEX] == str(index)
        ]
        return max(pods, key=lambda pod: int(pod["metadata"]["labels"][meta.LABEL_TICKET]))

    def set_spec(self, **fields: Any) -> None:
        assert self.job is not None
        self.job["spec"].update(fields)
        self.job["metadata"]["generation"] += 1
        self.api.touch(self.job)


@dataclass(frozen=True)
class Scenario:
    """Actions, each done once as soon as its trigger holds, in order; and the reason that Ready ends with."""

    name: str
    ends: str
    script: tuple[tuple[Trigger, Action], ...] = ()
    spec: tuple[tuple[str, Any], ...] = ()
    claims_at_start: bool = True


GONE = "(gone)"


def always(_: World) -> bool:
    return True


def at_step(step: int) -> Trigger:
    return lambda world: world.gang.store.step >= step


def when(reason: str) -> Trigger:
    return lambda world: world.reason() == reason


def is_paused(world: World) -> bool:
    """A guard has paused the run and its pods are gone."""
    return world.reason() == "NonFinite" and not pods_exist(world)


def pods_exist(world: World) -> bool:
    return bool(world.api.of_kind("Pod"))


def pods_run(world: World) -> bool:
    return bool(world.gang.running())


def delete_job(world: World) -> None:
    assert world.job is not None
    world.api.remove(world.job)


def suspend(world: World) -> None:
    world.set_spec(suspend=True)


def resume(world: World) -> None:
    world.set_spec(suspend=False)


def rank_dies(world: World) -> None:
    world.gang.begin(meta.Rung.IN_PLACE)


def pod_vanishes(index: int) -> Action:
    return lambda world: world.api.remove(world.pod(index))


def pod_is_deleted(index: int) -> Action:
    def act(world: World) -> None:
        pod = world.pod(index)
        world.api.delete("Pod", pod["metadata"]["name"], pod["metadata"]["uid"])

    return act


def pod_is_killed(index: int) -> Action:
    return lambda world: world.gang.end(world.pod(index), 137, reason="OOMKilled")


def node_dies(index: int) -> Action:
    """The node falls silent; after a while the control plane marks its pod for deletion, in vain."""

    def act(world: World) -> None:
        pod = world.pod(index)
        world.gang.dead_nodes.add(pod["spec"]["nodeName"])
        pod["metadata"]["deletionTimestamp"] = stamp(world.api.now + timedelta(seconds=10))
        world.api.touch(pod)

    return act


def gang_wants_recreation(world: World) -> None:
    world.gang.wanted = True


def gang_fails(world: World) -> None:
    world.gang.verdict_to_give = Failure(
        reason=Reason.DATA_NOT_FOUND,
        failure_class=FailureClass.CONFIGURATION,
        message="no such file",
        hint="check the claim",
    )


def guard_pauses(world: World) -> None:
    world.gang.pause_to_give = Failure(
        reason=Reason.NON_FINITE, failure_class=FailureClass.NUMERIC, message="step 25: loss nan", hint="look"
    )


def spec_changes(world: World) -> None:
    world.set_spec(guards={"nonFinite": {"action": "Rollback"}})


def claims_appear(world: World) -> None:
    for name in ("checkpoints", "models", "data"):
        world.api.put(a_claim(name))


def at_incarnation(number: int) -> Trigger:
    return lambda world: world.gang.store.incarnation >= number


def at_attempt(number: int) -> Trigger:
    def holds(world: World) -> bool:
        gang = ((world.job or {}).get("status") or {}).get("gang") or {}
        return bool(gang.get("attempt", 0) >= number)

    return holds


def object_vanishes(kind: str) -> Action:
    """Somebody deletes one of our objects by hand."""
    return lambda world: world.api.remove(world.api.of_kind(kind)[0])


def both(one: Action, other: Action) -> Action:
    def act(world: World) -> None:
        one(world)
        other(world)

    return act


def quota(pods: int | None) -> Action:
    def act(world: World) -> None:
        world.api.quota = pods
        world.api.version += 1

    return act


def is_given_back(world: World) -> bool:
    """The admitted part is gone again."""
    return world.reason() == "QuotaExceeded" and not pods_exist(world)


def gang_may_stay(world: World) -> None:
    """Nothing happens: only a pause in the script."""


def leader_is_fenced(world: World) -> None:
    world.gang.end(world.pod(0), ExitCode.FENCED)


def a_claim(name: str) -> Body:
    status = {"phase": "Bound", "accessModes": ["ReadWriteMany"]}
    return {"kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": {}, "status": status}


SCENARIOS = (
    Scenario("create-and-succeed", "Completed"),
    Scenario("rank-dies", "Completed", ((at_step(30), rank_dies),)),
    Scenario("pod-vanishes", "Completed", ((at_step(30), pod_vanishes(1)),)),
    Scenario("pod-is-deleted", "Completed", ((at_step(30), pod_is_deleted(1)),)),
    Scenario("pod-is-killed-for-memory", "Completed", ((at_step(30), pod_is_killed(1)),)),
    Scenario("leader-vanishes", "Completed", ((at_step(30), pod_vanishes(0)),)),
    Scenario("leader-is-deleted", "Completed", ((at_step(30), pod_is_deleted(0)),)),
    Scenario("leader-vanishes-before-the-first-step", "Completed", ((pods_run, pod_vanishes(0)),)),
    Scenario("leader-is-fenced", "Completed", ((at_step(30), leader_is_fenced),)),
    Scenario("node-of-pod-dies", "Completed", ((at_step(30), node_dies(1)),)),
    Scenario("node-of-leader-dies", "Completed", ((at_step(30), node_dies(0)),)),
    Scenario("gang-is-recreated", "Completed", ((at_step(30), gang_wants_recreation),)),
    Scenario("suspend", "Suspended", ((at_step(30), suspend),)),
    Scenario("suspend-before-pods", "Suspended", ((always, suspend),)),
    Scenario("suspend-and-resume", "Completed", ((at_step(30), suspend), (when("Suspended"), resume))),
    Scenario("suspend-taken-back-at-once", "Completed", ((at_step(30), suspend), (always, resume))),
    Scenario(
        "suspend-twice",
        "Completed",
        (
            (at_step(20), suspend),
            (when("Suspended"), resume),
            (at_step(40), suspend),
            (when("Suspended"), resume),
        ),
    ),
    Scenario("fail", "DataNotFound", ((at_step(20), gang_fails),)),
    Scenario("guard-pauses", "NonFinite", ((at_step(20), guard_pauses),)),
    Scenario(
        "guard-pauses-until-the-spec-changes",
        "Completed",
        ((at_step(20), guard_pauses), (is_paused, spec_changes)),
    ),
    Scenario(
        "spec-changes-as-soon-as-a-guard-pauses",
        "Completed",
        ((at_step(20), guard_pauses), (when("NonFinite"), spec_changes)),
    ),
    Scenario(
        "suspend-what-a-guard-paused",
        "Completed",
        ((at_step(20), guard_pauses), (is_paused, suspend), (when("Suspended"), resume)),
    ),
    Scenario(
        "delete-what-a-guard-paused", GONE, ((at_step(20), guard_pauses), (when("NonFinite"), delete_job))
    ),
    Scenario("ttl", GONE, spec=(("ttlSecondsAfterFinished", 6),)),
    Scenario(
        "deadline", "DeadlineExceeded", spec=(("activeDeadlineSeconds", 60), ("training.maxSteps", 10_000))
    ),
    Scenario(
        "claims-appear-later", "Completed", ((when("ClaimNotFound"), claims_appear),), claims_at_start=False
    ),
    Scenario("delete-when-created", GONE, ((always, delete_job),)),
    Scenario("delete-while-starting", GONE, ((pods_exist, delete_job),)),
    Scenario("delete-while-waiting", GONE, ((pods_run, delete_job),)),
    Scenario("delete-while-training", GONE, ((at_step(30), delete_job),)),
    Scenario(
        "delete-while-recovering", GONE, ((at_step(30), pod_vanishes(1)), (when("Recovering"), delete_job))
    ),
    Scenario("delete-while-suspending", GONE, ((at_step(30), suspend), (when("Suspending"), delete_job))),
    Scenario("delete-while-suspended", GONE, ((at_step(30), suspend), (when("Suspended"), delete_job))),
    Scenario("delete-when-finished", GONE, ((when("Completed"), delete_job),)),
    # --- more of the same, in pairs: what happens while something else is still being dealt with
    Scenario("delete-when-failed", GONE, ((at_step(20), gang_fails), (when("DataNotFound"), delete_job))),
    Scenario(
        "delete-while-leader-is-lost",
        GONE,
        ((at_step(30), pod_vanishes(0)), (when("Recovering"), delete_job)),
    ),
    Scenario(
        "delete-while-gang-is-recreated",
        GONE,
        ((at_step(30), gang_wants_recreation), (at_attempt(2), delete_job)),
    ),
    Scenario(
        "delete-while-resuming",
        GONE,
        ((at_step(30), suspend), (when("Suspended"), resume), (at_attempt(2), delete_job)),
    ),
    Scenario(
        "delete-while-claims-are-missing",
        GONE,
        ((when("ClaimNotFound"), delete_job),),
        claims_at_start=False,
    ),
    Scenario(
        "delete-while-backing-off",
        GONE,
        (
            (at_step(30), pod_is_killed(1)),
            (at_incarnation(2), pod_is_killed(1)),
            (when("BackingOff"), delete_job),
        ),
    ),
    Scenario(
        "delete-before-ttl", GONE, ((when("Completed"), delete_job),), (("ttlSecondsAfterFinished", 60),)
    ),
    Scenario("fail-and-ttl", GONE, ((at_step(20), gang_fails),), spec=(("ttlSecondsAfterFinished", 6),)),
    Scenario(
        "killed-for-memory-twice",
        "Completed",
        ((at_step(30), pod_is_killed(1)), (at_incarnation(2), pod_is_killed(1))),
    ),
    Scenario(
        "killed-for-memory-too-often",
        "BudgetExhausted",
        (
            (at_step(30), pod_is_killed(1)),
            (at_incarnation(2), pod_is_killed(1)),
            (at_incarnation(3), pod_is_killed(1)),
        ),
    ),
    Scenario("all-nodes-die", "Completed", ((at_step(30), both(node_dies(0), node_dies(1))),)),
    Scenario("all-pods-vanish", "Completed", ((at_step(30), both(pod_vanishes(1), pod_vanishes(0))),)),
    Scenario(
        "leader-vanishes-twice",
        "Completed",
        ((at_step(30), pod_vanishes(0)), (at_incarnation(2), pod_vanishes(0))),
    ),
    Scenario(
        "pod-vanishes-while-leader-recovers",
        "Completed",
        ((at_step(30), pod_vanishes(0)), (when("Recovering"), pod_vanishes(1))),
    ),
    Scenario(
        "pod-vanishes-while-gang-is-recreated",
        "Completed",
        ((at_step(30), gang_wants_recreation), (at_attempt(2), gang_may_stay), (pods_run, pod_vanishes(1))),
    ),
    Scenario(
        "suspend-while-recovering",
        "Suspended",
        ((at_step(30), pod_vanishes(1)), (when("Recovering"), suspend)),
    ),
    Scenario(
        "suspend-while-gang-is-recreated",
        "Suspended",
        ((at_step(30), gang_wants_recreation), (at_attempt(2), suspend)),
    ),
    Scenario(
        "leader-vanishes-while-suspending",
        "Suspended",
        ((at_step(30), suspend), (when("Suspending"), pod_vanishes(0))),
    ),
    Scenario(
        "pod-vanishes-after-resuming",
        "Completed",
        (
            (at_step(30), suspend),
            (when("Suspended"), resume),
            (at_incarnation(2), pod_vanishes(1)),
        ),
    ),
    Scenario(
        "quota-admits-a-part",
        "Completed",
        ((always, quota(1)), (pods_exist, gang_may_stay), (is_given_back, quota(None))),
    ),
    Scenario(
        "delete-while-quota-admits-a-part",
        GONE,
        ((always, quota(1)), (when("QuotaExceeded"), delete_job)),
    ),
    Scenario("service-vanishes", "Completed", ((at_step(30), object_vanishes("Service")),)),
    Scenario("configuration-vanishes", "Completed", ((at_step(30), object_vanishes("ConfigMap")),)),
    Scenario("policy-vanishes", "Completed", ((at_step(30), object_vanishes("NetworkPolicy")),)),
    Scenario(
        "start-deadline",
        "StartDeadlineExceeded",
        spec=(("startDeadlineSeconds", 20),),
        claims_at_start=False,
    ),
    Scenario(
        "deadline-while-suspended-does-not-count",
        "Completed",
        ((at_step(20), suspend), (when("Suspended"), resume)),
        spec=(("activeDeadlineSeconds", 600),),
    ),
)
