"""The stories that a run can live through, each with the end it must reach whatever happens to the operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from perturb.operator_model import Operator, Perturbation
from perturb.world import START, TICK, Api, Body, Gang, stamp
from unit.core.builders import a_job
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


def claims_appear(world: World) -> None:
    for name in ("checkpoints", "models", "data"):
        world.api.put(a_claim(name))


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
)


@dataclass(frozen=True)
class Result:
    """How a scenario ended, and what it took."""

    end: str
    step: int
    pods: tuple[tuple[str, int], ...]
    objects: tuple[str, ...]
    conditions: tuple[tuple[str, str, str], ...]
    writes: int
    status_writes: int
    rounds: int


def play(scenario: Scenario, perturbation: Perturbation) -> Result:
    """Play a scenario to its end, with one perturbation; invariants are checked at every tick."""
    api = Api()
    job = a_job().with_nodes(2)
    for path, value in scenario.spec:
        job = job.with_spec(path, value)
    steps = job.body["spec"]["training"]["maxSteps"]
    gang = Gang(api, steps=60 if steps == 100 else steps)
    body = job.body
    body["metadata"]["creationTimestamp"] = stamp(START)
    api.put(body)
    if scenario.claims_at_start:
        for name in ("checkpoints", "models", "data"):
            api.put(a_claim(name))
    world = World(api, gang, Operator(api, gang, perturbation))
    run(world, scenario)
    return result(world)


def run(world: World, scenario: Scenario) -> None:
    script = list(scenario.script)
    calm = 0
    for _ in range(220):
        if world.operator.perturbation.kind.startswith("stale"):
            world.operator.previous = world.api.snapshot()
        world.api.now += TICK
        world.gang.tick()
        if script and (world.job is not None) and script[0][0](world):
            script.pop(0)[1](world)
        world.operator.wake()
        check_invariants(world)
        calm = 0 if script else calm + 1
        if calm > 4 and is_over(world, scenario):
            break
    assert not script, f"{scenario.name}: {len(script)} actions were never done; at {world.reason()}"


def is_over(world: World, scenario: Scenario) -> bool:
    """Whether the end is reached and nothing is still on its way out."""
    if world.job is None:
        return True
    pods = [
        pod for pod in world.api.of_kind("Pod") if pod["spec"].get("nodeName") not in world.gang.dead_nodes
    ]
    leaving = any("deletionTimestamp" in pod["metadata"] for pod in pods)
    alive = any(pod["status"]["phase"] in ("Pending", "Running") for pod in pods)
    return world.reason() == scenario.ends and not leaving and not alive


def check_invariants(world: World) -> None:
    """What may never be seen, not even for a moment."""
    alive = [
        pod
        for pod in world.api.of_kind("Pod")
        if pod["status"]["phase"] in ("Pending", "Running")
        and "deletionTimestamp" not in pod["metadata"]
        and pod["spec"].get("nodeName") not in world.gang.dead_nodes
    ]
    indices = [pod["metadata"]["labels"][meta.LABEL_INDEX] for pod in alive]
    assert len(indices) == len(set(indices)), (
        f"two pods of one index: {[pod['metadata']['name'] for pod in alive]}"
    )
    attempts = {pod["metadata"]["labels"][meta.LABEL_ATTEMPT] for pod in alive}
    assert len(attempts) <= 1, f"two attempts at once: {attempts}"
    by_incarnation: dict[int, str] = {}
    for incarnation, leader in world.gang.trained_by:
        assert by_incarnation.setdefault(incarnation, leader) == leader, (
            f"two leaders in incarnation {incarnation}"
        )


def result(world: World) -> Result:
    job = world.job
    status = (job or {}).get("status") or {}
    kinds = ("ConfigMap", "Service", "NetworkPolicy")
    dead = world.gang.dead_nodes
    pods = [pod for pod in world.api.of_kind("Pod") if pod["spec"].get("nodeName") not in dead]
    return Result(
        end=world.reason() if job is not None else GONE,
        step=world.gang.store.step,
        pods=tuple(
            sorted((pod["status"]["phase"], int(pod["metadata"]["labels"][meta.LABEL_INDEX])) for pod in pods)
        ),
        objects=tuple(sorted(f"{kind}" for (kind, _) in world.api.objects if kind in kinds)),
        conditions=tuple(
            (item["type"], item["status"], item["reason"])
            for item in status.get("conditions", ())
            # Whether a short pause was noticed at all may depend on the fault.
            if (item["type"], item["status"]) != ("Suspended", "False")
        ),
        writes=world.operator.writes,
        status_writes=world.operator.status_writes,
        rounds=world.operator.rounds,
    )
