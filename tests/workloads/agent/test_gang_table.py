"""What the gang does about each event in each mode: the rows where something happens, and nothing elsewhere."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from windlass.api.contract import Orders, RankEvent
from windlass_workloads.agent import events as ev
from windlass_workloads.agent.course import Mode
from windlass_workloads.agent.messages import (
    Beat,
    Broken,
    Exited,
    Finish,
    Hello,
    Idle,
    Leaving,
    Ready,
    Said,
    Start,
    Stop,
)
from workloads.agent.world import World

# --- a gang of two pods in each mode ------------------------------------------------------------------


def claiming() -> World:
    world = World(nodes=2)
    world.claims_wait = True
    world.open()
    world.join(0)
    world.join(1)
    return world


def waiting_to_prepare() -> World:
    world = World(nodes=2)
    world.open()
    world.join(0, ready=False)
    world.join(1)
    return world


def preparing() -> World:
    world = World(nodes=2)
    world.open()
    world.join(0)
    world.join(1)
    return world


def gathering() -> World:
    world = World(nodes=2)
    world.open()
    world.join(0)
    world.prepare()
    world.join(1, ready=False)
    return world


def running() -> World:
    world = World(nodes=2).train()
    world.step(world.uid(0), 0)
    return world


def saving() -> World:
    world = running()
    world.hear(world.uid(1), Leaving(at=world.now))
    return world


def stopping() -> World:
    """Rank 1 has crashed; rank 0 has not been reached by its signal yet."""
    world = running()
    world.deaf = {world.uid(0)}
    world.exit(world.uid(1), 1, code=139, signal=11)
    return world


def backing_off() -> World:
    world = World(nodes=2, changes={"back_off": 100}).train()
    for _ in range(2):
        world.exit(world.uid(1), 1, code=139, signal=11)
    return world


def ended_alone() -> World:
    world = running()
    world.feed(ev.Refused())
    return world


def ended_whole() -> World:
    world = running()
    world.feed(ev.Unclaimable("resume.from names what is not there", storage=False))
    return world


STAGES: dict[str, tuple[Callable[[], World], Mode]] = {
    "claiming": (claiming, Mode.CLAIMING),
    "waiting to prepare": (waiting_to_prepare, Mode.PREPARING),
    "preparing": (preparing, Mode.PREPARING),
    "gathering": (gathering, Mode.GATHERING),
    "running": (running, Mode.RUNNING),
    "saving": (saving, Mode.SAVING),
    "stopping": (stopping, Mode.STOPPING),
    "backing off": (backing_off, Mode.BACKING_OFF),
    "ended alone": (ended_alone, Mode.ENDED),
    "ended whole": (ended_whole, Mode.ENDED),
}

# --- events -------------------------------------------------------------------------------------------


def hello(index: int, ticket: int, attempt: int = 1) -> Hello:
    return Hello(
        pod=f"toy-{index}-{ticket}",
        pod_uid=f"pod-{index}-{ticket}",
        pod_ip="10.0.0.9",
        node="node-9",
        index=index,
        ticket=ticket,
        attempt=attempt,
        ready=True,
    )


def life_of(world: World) -> int:
    return world.gang.life.incarnation if world.gang.life is not None else 1


def heard(index: int, make: Callable[[World], Any]) -> Callable[[World], ev.Event]:
    return lambda world: ev.Heard(index, f"pod-{index}-{index + 1}", make(world))


def exits(**fields: Any) -> Callable[[World], ev.Event]:
    return heard(1, lambda world: Exited(incarnation=life_of(world), rank=1, at=world.now, **fields))


def says(**fields: Any) -> Callable[[World], ev.Event]:
    return heard(
        0, lambda world: Said(incarnation=life_of(world), event=RankEvent(at=world.now, rank=0, **fields))
    )


EVENTS: dict[str, Callable[[World], ev.Event]] = {
    "tick": lambda _: ev.Tick(),
    "newer pod 1": lambda _: ev.Joined(hello(1, 9)),
    "pod 1 again": lambda world: ev.Joined(world.pods[1]),
    "older pod 1": lambda _: ev.Joined(hello(1, 1)),
    "pod of index 2": lambda _: ev.Joined(hello(2, 9)),
    "pod of an older attempt": lambda _: ev.Joined(hello(1, 9, attempt=0)),
    "pod 1 gone": lambda _: ev.Gone(1, "pod-1-2"),
    "stranger gone": lambda _: ev.Gone(1, "pod-1-77"),
    "pod 1 ready": heard(1, lambda _: Ready(ready=True)),
    "pod 0 not ready": heard(0, lambda _: Ready(ready=False)),
    "pod 1 leaves": heard(1, lambda world: Leaving(at=world.now)),
    "pod 0 leaves": heard(0, lambda world: Leaving(at=world.now)),
    "pod 1 broken": heard(1, lambda world: Broken(at=world.now, tail=["Traceback", "boom"])),
    "rank 1 crashes": exits(code=139, signal=11),
    "rank 1 ends well": exits(code=0),
    "rank 1 was ended by order": exits(code=137, signal=9, ordered=True),
    "rank of another life ends": heard(1, lambda _: Exited(incarnation=77, rank=1, code=1, at=0.0)),
    "rank of another life speaks": heard(
        0, lambda _: Said(incarnation=77, event=RankEvent(type="Done", at=0.0, step=9))
    ),
    "pod 0 idle": heard(0, lambda world: Idle(incarnation=life_of(world))),
    "pod 1 was idle long ago": heard(1, lambda _: Idle(incarnation=77)),
    "beat": heard(1, lambda _: Beat()),
    "validation": says(type="Validation", step=1, loss=0.5),
    "export": says(type="Phase", phase="Export"),
    "stranger speaks": lambda _: ev.Heard(1, "pod-1-77", Ready(ready=True)),
    "order to continue": lambda _: ev.Ordered(Orders()),
    "order to save": lambda _: ev.Ordered(Orders(action="SaveAndExit", reason="Suspended")),
    "order to stop": lambda _: ev.Ordered(Orders(action="Stop", reason="DeadlineExceeded")),
    "refused": lambda _: ev.Refused(),
    "unclaimable": lambda _: ev.Unclaimable("resume.from names what is not there", storage=False),
    "time is up": lambda _: ev.TimeUp(),
    "store fails": lambda _: ev.Unclaimable("the store is gone", storage=True),
}

# --- commands as words --------------------------------------------------------------------------------


def words(command: ev.Command) -> str:
    if isinstance(command, ev.Tell):
        return f"{told(command.message)} to {command.pod_uid}"
    if isinstance(command, ev.Mark):
        return f"mark {command.state} {command.left}".rstrip()
    if isinstance(command, ev.End):
        return f"end {command.verdict.result}"
    if isinstance(command, ev.Claim):
        return f"claim {command.cause.rung if command.cause else 'first'}"
    if isinstance(command, ev.Remember):
        return f"remember {command.facts[0][0]}"
    return type(command).__name__


def told(message: Any) -> str:
    if isinstance(message, Start):
        return f"start {message.contexts[0].task} {message.incarnation}"
    if isinstance(message, Stop):
        return message.mode.lower()
    assert isinstance(message, Finish)
    return f"finish {message.verdict.result}"


ALIVE = tuple(stage for stage in STAGES if not stage.startswith("ended"))
SAVE_BOTH = ("save to pod-0-1", "save to pod-1-2")
KILL_BOTH = ("kill to pod-0-1", "kill to pod-1-2")
TRAIN_BOTH = ("mark Starting", "start train 1 to pod-0-1", "start train 1 to pod-1-2")
END_WHOLE = ("mark Down Whole", "finish Preempted to pod-1-2", "end Preempted")
END_FAILED = ("mark Down Whole", "finish Failed to pod-1-2", "end Failed")

# event, stage: mode afterwards and commands
TABLE: dict[tuple[str, str], tuple[Mode, tuple[str, ...]]] = {
    # a pod made later takes the place of the one before it
    ("newer pod 1", "claiming"): (Mode.CLAIMING, ("finish Fenced to pod-1-2",)),
    ("newer pod 1", "waiting to prepare"): (Mode.PREPARING, ("finish Fenced to pod-1-2",)),
    ("newer pod 1", "preparing"): (Mode.PREPARING, ("finish Fenced to pod-1-2",)),
    ("newer pod 1", "gathering"): (
        Mode.RUNNING,
        (
            "finish Fenced to pod-1-2",
            "mark Starting",
            "start train 1 to pod-0-1",
            "start train 1 to pod-1-9",
        ),
    ),
    ("newer pod 1", "running"): (
        Mode.STOPPING,
        ("mark Recovering", "kill to pod-0-1", "finish Fenced to pod-1-2"),
    ),
    ("newer pod 1", "stopping"): (Mode.STOPPING, ("finish Fenced to pod-1-2",)),
    ("newer pod 1", "backing off"): (Mode.BACKING_OFF, ("finish Fenced to pod-1-2",)),
    ("newer pod 1", "ended whole"): (Mode.ENDED, ("finish Failed to pod-1-9",)),
    # a pod whose connection was lost says hello again only when no rank of it is left
    ("pod 1 again", "gathering"): (Mode.GATHERING, ()),
    ("pod 1 again", "running"): (Mode.STOPPING, ("mark Recovering", "kill to pod-0-1")),
    ("pod 1 again", "saving"): (Mode.STOPPING, ("kill to pod-0-1",)),
    ("pod 1 again", "ended whole"): (Mode.ENDED, ("finish Failed to pod-1-2",)),
    # who has no place is told so, whatever goes on
    **{("older pod 1", stage): (mode, ("finish Fenced to pod-1-1",)) for stage, (_, mode) in STAGES.items()},
    **{
        ("pod of index 2", stage): (mode, ("finish Fenced to pod-2-9",))
        for stage, (_, mode) in STAGES.items()
    },
    **{
        ("pod of an older attempt", stage): (mode, ("finish Fenced to pod-1-9",))
        for stage, (_, mode) in STAGES.items()
    },
    # a pod is lost
    ("pod 1 gone", "running"): (Mode.STOPPING, ("mark Recovering", "kill to pod-0-1")),
    ("pod 1 gone", "saving"): (Mode.STOPPING, ("kill to pod-0-1",)),
    # ranks start when all are there and ready
    ("pod 1 ready", "gathering"): (Mode.RUNNING, TRAIN_BOTH),
    # a pod is asked to leave: nobody else goes unless it is the leader's
    **{
        ("pod 1 leaves", stage): (STAGES[stage][1], ("finish Preempted to pod-1-2",))
        for stage in ("claiming", "waiting to prepare", "preparing", "gathering", "backing off")
    },
    ("pod 1 leaves", "running"): (Mode.SAVING, SAVE_BOTH),
    **{
        ("pod 0 leaves", stage): (Mode.ENDED, ("mark Down Pod", "end Preempted"))
        for stage in ("claiming", "waiting to prepare", "gathering", "backing off")
    },
    ("pod 0 leaves", "preparing"): (Mode.STOPPING, ("mark Recovering", "kill to pod-0-1")),
    ("pod 0 leaves", "running"): (Mode.SAVING, SAVE_BOTH),
    # a warm parent that does not come up matters where ranks are wanted
    ("pod 1 broken", "waiting to prepare"): (Mode.CLAIMING, ("mark Recovering", "claim InPlace")),
    ("pod 1 broken", "gathering"): (Mode.CLAIMING, ("mark Recovering", "claim InPlace")),
    # ranks end
    ("rank 1 crashes", "running"): (Mode.STOPPING, ("mark Recovering", *KILL_BOTH)),
    ("rank 1 crashes", "saving"): (Mode.STOPPING, KILL_BOTH),
    ("pod 0 idle", "preparing"): (Mode.CLAIMING, ("mark Recovering", "claim InPlace")),
    ("pod 0 idle", "stopping"): (Mode.CLAIMING, ("claim InPlace",)),
    # ranks speak
    ("export", "running"): (Mode.RUNNING, ("mark Finishing",)),
    ("export", "saving"): (Mode.SAVING, ("mark Finishing",)),
    # the operator orders
    ("order to save", "claiming"): (Mode.ENDED, END_WHOLE),
    ("order to save", "waiting to prepare"): (Mode.ENDED, ("mark Recovering", *END_WHOLE)),
    ("order to save", "preparing"): (Mode.STOPPING, ("mark Recovering", "kill to pod-0-1")),
    ("order to save", "gathering"): (Mode.ENDED, END_WHOLE),
    ("order to save", "running"): (Mode.SAVING, SAVE_BOTH),
    ("order to save", "backing off"): (Mode.ENDED, END_WHOLE),
    ("order to stop", "claiming"): (Mode.ENDED, END_FAILED),
    ("order to stop", "waiting to prepare"): (Mode.ENDED, ("mark Recovering", *END_FAILED)),
    ("order to stop", "preparing"): (Mode.STOPPING, ("mark Recovering", "kill to pod-0-1")),
    ("order to stop", "gathering"): (Mode.ENDED, END_FAILED),
    ("order to stop", "running"): (Mode.STOPPING, ("mark Recovering", *KILL_BOTH)),
    ("order to stop", "saving"): (Mode.STOPPING, KILL_BOTH),
    ("order to stop", "backing off"): (Mode.ENDED, END_FAILED),
    # somebody else leads: this pod ends, and those that were about to end anyway
    **{("refused", stage): (Mode.ENDED, ("end Fenced",)) for stage in ALIVE},
    ("refused", "saving"): (Mode.ENDED, ("finish Fenced to pod-1-2", "end Fenced")),
    **{("unclaimable", stage): (Mode.ENDED, END_FAILED) for stage in ALIVE},
    # this pod's time is up: a successor must not take that for a fault
    **{("time is up", stage): (Mode.ENDED, ("mark Down Pod", "end Preempted")) for stage in ALIVE},
    ("time is up", "saving"): (
        Mode.ENDED,
        ("mark Down Pod", "finish Preempted to pod-1-2", "end Preempted"),
    ),
    # a store that fails is asked again
    ("store fails", "claiming"): (Mode.CLAIMING, ("claim first",)),
}


@pytest.mark.parametrize(
    ("event", "stage"), list(itertools.product(EVENTS, STAGES)), ids=lambda part: str(part).replace(" ", "-")
)
def test_each_event_in_each_mode(event: str, stage: str) -> None:
    make, mode = STAGES[stage]
    world = make()
    assert world.gang.mode is mode
    before = world.gang.incarnation
    commands = world.gang.handle(EVENTS[event](world), world.now + 0.01)
    after, wanted = TABLE.get((event, stage), (mode, ()))
    assert (world.gang.mode, tuple(words(command) for command in commands)) == (after, wanted)
    assert world.gang.incarnation == before, "only a claim that was granted makes an incarnation"


def test_the_table_speaks_of_what_there_is() -> None:
    assert {event for event, _ in TABLE} <= set(EVENTS)
    assert {stage for _, stage in TABLE} <= set(STAGES)


@pytest.mark.parametrize(
    "stage", [stage for stage in STAGES if stage not in ("claiming", "ended alone", "ended whole")]
)
@pytest.mark.parametrize(
    "event", [event for event in EVENTS if event not in ("refused", "unclaimable", "store fails")]
)
def test_an_event_heard_twice_claims_and_ends_once(event: str, stage: str) -> None:
    world = STAGES[stage][0]()
    world.claims_wait = True
    made = [world.gang.handle(EVENTS[event](world), world.now + 0.01 * turn) for turn in (1, 2)]
    kinds = [type(command) for commands in made for command in commands]
    assert kinds.count(ev.End) <= 1
    assert kinds.count(ev.Claim) <= 1
    starts = [
        (command.pod_uid, command.message.incarnation)
        for commands in made
        for command in commands
        if isinstance(command, ev.Tell) and isinstance(command.message, Start)
    ]
    assert len(starts) == len(set(starts))


@pytest.mark.parametrize("stage", ["ended alone", "ended whole"])
@pytest.mark.parametrize("event", [event for event in EVENTS if "pod" not in event or event.endswith("gone")])
def test_nothing_changes_a_verdict(event: str, stage: str) -> None:
    world = STAGES[stage][0]()
    verdict, rows = world.gang.verdict, world.gang.recoveries
    assert world.gang.handle(EVENTS[event](world), world.now + 1.0) == []
    assert (world.gang.verdict, world.gang.recoveries) == (verdict, rows)


# --- limits in time -----------------------------------------------------------------------------------

LATE: dict[str, tuple[float, Mode, tuple[str, ...]]] = {
    "claiming": (1e6, Mode.CLAIMING, ()),
    "waiting to prepare": (1e6, Mode.PREPARING, ()),
    "preparing": (1e6, Mode.PREPARING, ()),
    "gathering": (1e6, Mode.GATHERING, ()),
    "running": (1e6, Mode.RUNNING, ()),
    "saving": (15.1, Mode.STOPPING, KILL_BOTH),
    "stopping": (30.1, Mode.ENDED, ("mark Down Pod", "end Preempted")),
    "backing off": (121.0, Mode.CLAIMING, ("mark Recovering", "claim InPlace")),
    "ended alone": (1e6, Mode.ENDED, ()),
    "ended whole": (1e6, Mode.ENDED, ()),
}


@pytest.mark.parametrize("stage", list(LATE))
def test_what_the_clock_alone_does(stage: str) -> None:
    seconds, mode, wanted = LATE[stage]
    world = STAGES[stage][0]()
    commands = world.gang.handle(ev.Tick(), world.now + seconds)
    assert (world.gang.mode, tuple(words(command) for command in commands)) == (mode, wanted)


@pytest.mark.parametrize(("stage", "seconds"), [("saving", 14.0), ("stopping", 29.0), ("backing off", 79.0)])
def test_nothing_happens_before_a_limit_is_over(stage: str, seconds: float) -> None:
    world = STAGES[stage][0]()
    mode = world.gang.mode
    assert world.gang.handle(ev.Tick(), world.now + seconds) == []
    assert world.gang.mode is mode


def test_a_limit_is_over_once() -> None:
    world = backing_off()
    world.claims_wait = True
    made = [world.gang.handle(ev.Tick(), world.now + 200.0 + turn) for turn in range(5)]
    assert [type(command) for commands in made for command in commands].count(ev.Claim) == 1


def test_stragglers_have_their_limit_from_the_first_good_end_on() -> None:
    world = running()
    limit = world.gang.limits.straggler_seconds
    world.hear(world.uid(1), Exited(incarnation=1, rank=1, code=0, at=world.now))
    assert world.gang.handle(ev.Tick(), world.now + limit - 1.0) == []
    commands = world.gang.handle(ev.Tick(), world.now + limit + 1.0)
    assert [words(command) for command in commands] == ["mark Recovering", *KILL_BOTH]
