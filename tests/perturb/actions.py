"""What the stories of `scenarios` are made of: the world of one run, what can happen in it, and when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from perturb.operator_model import Operator
from perturb.world import Api, Body, Gang, stamp
from windlass.api import meta
from windlass.api.contract import Suspicion, Verdict
from windlass.api.meta import Exclusion, ExitCode, FailureClass, Reason, SuspectReason
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


def queue_admits(world: World) -> None:
    world.api.kueue.open = True
    world.api.version += 1


def queue_evicts(world: World) -> None:
    """Somebody of a higher priority gets the quota."""
    kueue = world.api.kueue
    kueue.open = False
    kueue.evicting |= kueue.admitted
    world.api.version += 1


def queue_closes(world: World) -> None:
    """What is admitted stays so; nobody else is."""
    world.api.kueue.open = False
    world.api.version += 1


def kueue_is_away(world: World) -> None:
    """No webhook and no controller."""
    world.api.kueue.here = False
    world.api.version += 1


def is_queued_again(world: World) -> bool:
    return world.reason() == "Queued" and world.gang.store.incarnation > 0


def delete_job(world: World) -> None:
    assert world.job is not None
    world.api.remove(world.job)


def suspend(world: World) -> None:
    world.set_spec(suspend=True)


def resume(world: World) -> None:
    world.set_spec(suspend=False)


def operator_goes(world: World) -> None:
    """Nobody takes reports or looks at anything."""
    world.operator.is_away = True


def operator_returns(world: World) -> None:
    world.operator.is_away, world.gang.report = False, None
    world.operator.restart()


def all_pods_ended(world: World) -> bool:
    pods = world.api.of_kind("Pod")
    return bool(pods) and all(pod["status"]["phase"] in ("Succeeded", "Failed") for pod in pods)


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


def a_node(name: str, *, ready: bool = True, taint: str = "") -> Body:
    taints = [{"key": taint, "effect": "NoSchedule"}] if taint else []
    condition = {"type": "Ready", "status": "True" if ready else "Unknown"}
    return {
        "kind": "Node",
        "metadata": {"name": name},
        "spec": {"taints": taints},
        "status": {"conditions": [condition]},
    }


def node_goes_silent(index: int) -> Action:
    """The node and all on it fall silent; the control plane marks it, and nobody evicts its pod."""

    def act(world: World) -> None:
        name = world.pod(index)["spec"]["nodeName"]
        world.gang.dead_nodes.add(name)
        world.api.put(a_node(name, ready=False))

    return act


def node_becomes_unhealthy(index: int) -> Action:
    """A monitor finds a broken device and taints the node; the ranks on it still work."""
    return lambda world: world.api.put(a_node(world.pod(index)["spec"]["nodeName"], taint="sick")) and None


def nothing_is_left_on_dead_nodes(world: World) -> bool:
    return all(pod["spec"].get("nodeName") not in world.gang.dead_nodes for pod in world.api.of_kind("Pod"))


def only_nodes(*names: str) -> Action:
    def act(world: World) -> None:
        world.gang.nodes = names

    return act


def pod_leaves_its_node(index: int, exclusion: Exclusion) -> Action:
    """The leader lets a pod go because of its node."""

    def act(world: World) -> None:
        against = Suspicion(
            reason=SuspectReason.DEVICE_ERROR,
            exclusion=exclusion,
            failure_class=FailureClass.INFRASTRUCTURE,
            evidence=["Xid 79"],
        )
        verdict = Verdict(result="Preempted", step=world.gang.store.step, suspicion=against)
        world.gang.end(world.pod(index), ExitCode.PREEMPTED, verdict)

    return act


def gang_wants_recreation(world: World) -> None:
    world.gang.wanted = True


def gang_stands(world: World) -> None:
    world.gang.stands = True


def gang_moves(world: World) -> None:
    world.gang.stands = False


def is_told(type: str) -> Trigger:
    """A condition of this type is true."""

    def holds(world: World) -> bool:
        conditions = ((world.job or {}).get("status") or {}).get("conditions", ())
        return any(item["type"] == type and item["status"] == "True" for item in conditions)

    return holds


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
