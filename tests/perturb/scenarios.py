"""The stories that a run can live through, each with the end it must reach whatever happens to the operator."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field, replace
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


@dataclass(frozen=True)
class Moment:
    """The world at the beginning of a tick, as bytes, and how far its script was."""

    number: int
    writes: int
    rounds: int
    done: int
    calm: int
    world: bytes

    def restore(self) -> World:
        """The world again, to be changed at will."""
        return pickle.loads(self.world)  # type: ignore[no-any-return]


def play(scenario: Scenario, perturbation: Perturbation) -> Result:
    """Play a scenario to its end, with one perturbation; invariants are checked at every tick.

    Until the perturbation strikes, all plays of a scenario are alike: that part is played once. Once the
    world is the same again as without it, so is all that follows.
    """
    if perturbation.kind == "none":
        world = begin(scenario)
        run(world, scenario)
        return result(world)
    counter = "writes" if perturbation.kind == "crash" else "rounds"
    known = [each for each in moments(scenario.name) if getattr(each, counter) <= perturbation.index]
    world = known[-1].restore()
    world.operator.perturbation = perturbation
    merged = run(world, scenario, known[-1])
    if merged is None:
        return result(world)
    baseline, operator = undisturbed(scenario.name), world.operator
    return replace(
        baseline,
        writes=operator.writes + baseline.writes - merged.writes,
        rounds=operator.rounds + baseline.rounds - merged.rounds,
    )


@functools.cache
def undisturbed(name: str) -> Result:
    """How a scenario ends when nothing disturbs the operator."""
    return play(next(each for each in SCENARIOS if each.name == name), Perturbation())


@functools.cache
def worlds(name: str) -> tuple[World, ...]:
    """The undisturbed world at the beginning of each tick, only to be compared with."""
    return tuple(each.restore() for each in moments(name))


def is_alike(one: World, other: World) -> bool:
    """Whether all that can still have an effect is the same."""
    return all(
        getattr(one.api, name) == getattr(other.api, name) for name in ("now", "version", "objects")
    ) and (one.gang.state(), one.operator.state()) == (other.gang.state(), other.operator.state())


@functools.cache
def moments(name: str) -> tuple[Moment, ...]:
    """Every tick of the undisturbed play."""
    scenario = next(each for each in SCENARIOS if each.name == name)
    seen: list[Moment] = []
    run(begin(scenario), scenario, record=seen.append)
    return tuple(seen)


def begin(scenario: Scenario) -> World:
    """The world before the first tick."""
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
    return World(api, gang, Operator(api, gang, Perturbation()))


def run(
    world: World,
    scenario: Scenario,
    start: Moment | None = None,
    record: Callable[[Moment], None] | None = None,
) -> Moment | None:
    """Play on; the moment of the undisturbed play at which it and this one became the same, if they did."""
    script = list(scenario.script)[start.done if start is not None else 0 :]
    calm = start.calm if start is not None else 0
    operator = world.operator
    for number in range(start.number if start is not None else 0, 220):
        if record is not None:
            done = len(scenario.script) - len(script)
            record(Moment(number, operator.writes, operator.rounds, done, calm, pickle.dumps(world)))
        if operator.has_been_struck and number < len(moments(scenario.name)):
            usual = moments(scenario.name)[number]
            if usual.done == len(scenario.script) - len(script) and is_alike(
                world, worlds(scenario.name)[number]
            ):
                return usual
        if operator.perturbation.kind.startswith("stale"):
            operator.previous = world.api.snapshot()
        world.api.now += TICK
        world.gang.tick()
        if script and (world.job is not None) and script[0][0](world):
            script.pop(0)[1](world)
        operator.wake()
        check_invariants(world)
        calm = 0 if script else calm + 1
        if calm > 4 and is_over(world, scenario):
            break
    assert not script, f"{scenario.name}: {len(script)} actions were never done; at {world.reason()}"
    return None


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
