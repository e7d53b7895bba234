"""What is to be true after a fault: the promises of docs/promises.md that a run without a cluster can be held to."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from bench.faults.gang import EVERY, Gang
from bench.faults.kinds import Kind, last_step
from bench.faults.witness import read_losses
from windlass.api.meta import ExitCode
from windlass_workloads.agent import timeline
from windlass_workloads.checkpoint import incarnations
from windlass_workloads.checkpoint.store import parse_checkpoint_name
from workloads.agent import support

IN_FLIGHT_STEPS = EVERY
"""A save must be committed before the next one begins."""
SLACK_SECONDS = 0.06
LEADER_DIES = ("leader-killed",)
"""Faults after which nobody is there to agree on a save with."""


@dataclass(frozen=True, slots=True)
class Before:
    """The run as it was when the fault came."""

    incarnation: int
    step: int
    sound: tuple[str, ...]
    recoveries: int
    at: float


def look(gang: Gang) -> Before:
    """The run as it is now."""
    return Before(
        incarnation=gang.newest().incarnation,
        step=last_step(gang),
        sound=tuple(each.name for each in gang.sound()),
        recoveries=len(gang.run.recoveries()),
        at=time.time(),
    )


def broken(gang: Gang, before: Before, kinds: list[Kind], facts: list[dict[str, Any]]) -> list[str]:
    """The promises that do not hold, each with what was found."""
    rows = gang.run.recoveries()[before.recoveries :]
    found = [
        *processes(gang),
        *resumed(gang, before),
        *lost_steps(gang, before, kinds),
        *accounts(gang, rows, kinds),
        *budgets(gang, before, kinds),
    ]
    for each in facts:
        found += leaving(each, without_leader=any(kind.name in LEADER_DIES for kind in kinds))
        if each.get("zombie") is False:
            found.append("P3: the old leader did not end as fenced")
        if each.get("stepsMeanwhile", 1) < 1:
            found.append("P10: no step while the operator was away")
    return found


def processes(gang: Gang) -> list[str]:
    """P1: an agent per index, a warm parent and its ranks for each, and nobody else."""
    problems = []
    known = {agent.pid for agent in gang.agents}
    children = {child for agent in gang.agents for child in agent.children()}
    strangers = [
        pid
        for pid in support.orphans(gang.witness)
        if pid not in known | children and parent_of(pid) not in known | children
    ]
    if strangers:
        problems.append(f"P1: processes of nobody: {strangers}")
    counts = {agent.index: len(agent.ranks()) for agent in gang.agents}
    wrong = {index: count for index, count in counts.items() if count != gang.ranks_per_node}
    return [*problems, *([f"P1: ranks by agent {counts}"] if wrong else [])]


def parent_of(process: int) -> int:
    """The parent's process id; 0 for one that is gone."""
    fields = support.stat_of(process)
    return int(fields[1]) if fields else 0


def resumed(gang: Gang, before: Before) -> list[str]:
    """P3, P4 and no verified checkpoint lost: what the incarnations after the fault began from."""
    problems = []
    best = max((key_of(name) for name in before.sound if name not in gang.damaged), default=(0, 0))
    newest = gang.newest()
    for number in range(before.incarnation + 1, newest.incarnation + 1):
        record = incarnations.read(gang.store, number)
        if record is None:
            problems.append(f"P3: incarnation {number} is missing")
            continue
        name = record.resume
        if name is not None and name not in {each.name for each in record.accepted}:
            problems.append(f"P4: incarnation {number} resumed from {name}, which it does not accept")
        poisoning = number < newest.incarnation
        if name in gang.damaged and not poisoning:
            problems.append(f"P4: incarnation {number} trains from the damaged {name}")
        if name is not None and not poisoning and gang.store.exists(name) and gang.problems_of(name):
            problems.append(f"P4: incarnation {number} trains from {name}, which is not sound")
        if name not in gang.damaged and (key_of(name) if name else (0, 0)) < best:
            problems.append(f"lost: incarnation {number} resumed from {name}, {best} was verified")
    return problems


def key_of(name: str) -> tuple[int, int]:
    """(step, incarnation) of a checkpoint's name."""
    found = parse_checkpoint_name(name)
    assert found is not None, name
    return found


def lost_steps(gang: Gang, before: Before, kinds: list[Kind]) -> list[str]:
    """P5: of the steps done at the fault, those that had to be done again; volumes that fail aside."""
    newest = gang.newest()
    if newest.incarnation == before.incarnation or any("disk" in kind.name for kind in kinds):
        return []
    step = key_of(newest.resume)[0] if newest.resume else 0
    limit = EVERY + IN_FLIGHT_STEPS + given_up(gang, step, kinds) + 1
    lost = steps_done(gang, newest.incarnation) - step
    return [f"P5: {lost} steps lost, at most {limit} are allowed"] if lost > limit else []


def given_up(gang: Gang, step: int, kinds: list[Kind]) -> int:
    """Steps between the damaged checkpoint and the one before it: more than an interval after a save that failed."""
    count = sum("damaged" in kind.name for kind in kinds)
    beyond = [key_of(name)[0] - step for name in gang.damaged] if count else []
    return max([EVERY * count, *beyond])


def steps_done(gang: Gang, number: int) -> int:
    """The highest step that any incarnation before this one has done."""
    rows = read_losses(gang.witness)
    return max((int(row["step"]) for row in rows if row["incarnation"] < number), default=0)


def accounts(gang: Gang, rows: list[dict[str, Any]], kinds: list[Kind]) -> list[str]:
    """P7: a row for each recovery, with a class that fits and seconds that add up; all seconds are told."""
    problems = []
    allowed = set().union(*(kind.classes for kind in kinds))
    if allowed and all(kind.restarts for kind in kinds) and not rows:
        problems.append("P7: no row tells of the recovery")
    for row in rows:
        if row["class"] not in allowed:
            problems.append(
                f"P7: class {row['class']} for {[kind.name for kind in kinds]}: {row['evidence'][-2:]}"
            )
        seconds = dict(row["seconds"])
        total = seconds.pop("total")
        if min(seconds.values()) < 0 or sum(seconds.values()) > total + SLACK_SECONDS:
            problems.append(f"P7: seconds do not add up: {row['seconds']}")
    now = time.time()
    past = timeline.read_past(gang.run.rows(), None)
    totals = past.totals.at(max(now, past.totals.since))
    if totals is not None:
        parts = totals.model_dump(exclude={"started_at", "until"})
        wall = (totals.until - totals.started_at).total_seconds()
        if abs(sum(parts.values()) - wall) > 0.01 * wall:
            problems.append(f"goodput: parts of {sum(parts.values()):.2f} s in {wall:.2f} s")
    return problems


def budgets(gang: Gang, before: Before, kinds: list[Kind]) -> list[str]:
    """P8: no more is charged than failed since the last progress."""
    newest = gang.newest()
    if newest.incarnation == before.incarnation:
        return []
    # What was charged before the last progress is forgotten at the next charge.
    verified = max((key_of(name)[0] for name in before.sound), default=0)
    use = newest.budgets
    used = dict(use.used) if use.since_step >= verified or not before.sound else {}
    allowed = sum(kind.charges for kind in kinds)
    if sum(used.values()) > allowed:
        return [f"P8: {used} charged, at most {allowed} failed"]
    return []


def leaving(facts: dict[str, Any], *, without_leader: bool = False) -> list[str]:
    """Pods that were asked to end say so and lose nothing; with a leader that dies no more than P5 allows."""
    allowed = EVERY + IN_FLIGHT_STEPS + 1 if without_leader else 0
    return [
        f"preempted: {each}"
        for each in facts.get("leaving", [])
        if each.get("begun", True)
        and (each["code"] != ExitCode.PREEMPTED or not 0 <= each.get("lost", -1) <= allowed)
    ]
