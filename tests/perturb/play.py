"""Plays a story against the operator, undisturbed or disturbed at one place, and says how the world ended."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace

from perturb.actions import GONE, Scenario, World, a_claim
from perturb.kueue import is_held
from perturb.operator_model import Operator, Perturbation
from perturb.scenarios import SCENARIOS
from perturb.world import START, TICK, Api, Gang, stamp
from unit.core.builders import a_job
from windlass.api import meta


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
    check_account(world)
    return None


def is_over(world: World, scenario: Scenario) -> bool:
    """Whether the end is reached and nothing is still on its way out."""
    if world.job is None:
        return not any(map(is_held, world.api.of_kind("Pod")))
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
    kept = {
        pod["metadata"]["labels"][meta.LABEL_ATTEMPT]
        for pod in world.api.of_kind("Pod")
        if is_held(pod) and pod["spec"].get("nodeName") not in world.gang.dead_nodes
    }
    assert len(kept) <= 1, f"two attempts hold quota: {kept}"
    assert world.api.kueue.excess == [], "pods that the queue deletes as one too many"
    by_incarnation: dict[int, str] = {}
    for incarnation, leader in world.gang.trained_by:
        assert by_incarnation.setdefault(incarnation, leader) == leader, (
            f"two leaders in incarnation {incarnation}"
        )


def check_account(world: World) -> None:
    """However the operator was disturbed, it knows of a run that is done all that its leader knew."""
    status, store = (world.job or {}).get("status") or {}, world.gang.store
    if world.job is None or world.reason() != "Completed":
        return
    rows = [(row["incarnation"], row.get("lostSteps", 0)) for row in status.get("recoveries", [])]
    # That a pod went away before the first incarnation, only the operator knows.
    told = [row for row in rows if row[0] > 1]
    known = [(row.incarnation, row.lost_steps) for row in store.recoveries[-10:]]
    assert told == known, f"told {told}, known {known}"
    assert status["counters"]["restarts"] == store.incarnation - 1
    ledger = [(row["step"], row["incarnation"]) for row in status.get("checkpoints", [])]
    assert ledger == list(reversed(store.checkpoints))[:20]
    assert status["progress"]["step"] == store.step


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
            if (item["type"], item["status"]) not in (("Suspended", "False"), ("Queued", "False"))
        ),
        writes=world.operator.writes,
        status_writes=world.operator.status_writes,
        rounds=world.operator.rounds,
    )
