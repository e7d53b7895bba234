"""A follower obeys its leader and nobody else, and without one it stops its ranks before it says hello again.

The follower is the real one; its pod is a stand-in that remembers, and the leader's side is played by the test.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from windlass.api.contract import RankContext, Verdict
from windlass_workloads.agent import follower
from windlass_workloads.agent.follower import Follower
from windlass_workloads.agent.identity import Limits
from windlass_workloads.agent.messages import (
    UPWARD,
    Beat,
    Dump,
    Exited,
    Finish,
    Hello,
    Idle,
    Leaving,
    Ready,
    Stacks,
    Start,
    Stop,
    Upward,
)
from windlass_workloads.agent.wire import Link, Refusal, greet_follower, make_gang_key
from windlass_workloads.checkpoint import incarnations
from windlass_workloads.checkpoint.errors import StoreUnusable
from windlass_workloads.checkpoint.store import RunStore
from workloads.agent.support import config, free_port
from workloads.checkpoint.support import commit, incarnation, write_files

LIMITS = Limits(heartbeat_seconds=0.02, silence_seconds=8.0, retry_seconds=0.01, stop_seconds=0.2)


class Host:
    """Ranks that only exist as a number."""

    def __init__(self) -> None:
        self.incarnation = 0
        self.stops: list[str] = []
        self.dumps: list[int] = []
        self.stuck = False

    def stop(self, mode: str) -> None:
        self.stops.append(mode)

    def dump(self, incarnation: int) -> None:
        self.dumps.append(incarnation)

    async def kill_and_wait(self, limit_seconds: float) -> bool:
        self.stop("Kill")
        if self.stuck and self.incarnation:
            return False
        self.incarnation = 0
        return True


@dataclass
class Pod:
    """What a follower needs of its pod."""

    config: Any
    options: Any
    limits: Limits = LIMITS
    host: Host = field(default_factory=Host)
    ready: bool = True
    leaving_at: float | None = None
    hellos: list[int] = field(default_factory=list)
    """Incarnation whose ranks were there at each hello."""
    sink: Callable[[Upward], None] = lambda _: None
    known: list[int] = field(default_factory=list)
    """Steps of checkpoints that it was told of."""

    def __post_init__(self) -> None:
        self.ended: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()

    def start(self) -> None:
        """Nothing to start."""

    def hello(self) -> Hello:
        self.hellos.append(self.host.incarnation)
        return Hello(
            pod="toy-1-2",
            pod_uid="u",
            pod_ip="10.0.0.2",
            node="n",
            index=1,
            ticket=2,
            attempt=2,
            ready=self.ready,
        )

    def announce(self) -> None:
        self.sink(Ready(ready=self.ready))
        if self.leaving_at is not None:
            self.sink(Leaving(at=self.leaving_at))

    def start_ranks(self, message: Start) -> None:
        assert not self.host.incarnation
        self.host.incarnation = message.incarnation

    def end(self, verdict: Verdict) -> None:
        if not self.ended.done():
            self.ended.set_result(verdict)

    def verified(self, step: int) -> None:
        self.known.append(step)

    def parting(self) -> Verdict:
        return Verdict(result="Preempted", step=max([7, *self.known]))

    def leave(self) -> None:
        self.leaving_at = time.time()
        self.sink(Leaving(at=self.leaving_at))


class Scene:
    """One follower, and a port where leaders may appear."""

    def __init__(self, root: Path) -> None:
        self.store = RunStore(root)
        self.port = free_port()
        self.pod = Pod(config(root, attempt=2, nodes=2, ranks=1), SimpleNamespace(port=self.port))
        self.links: asyncio.Queue[Link] = asyncio.Queue()
        self.server: asyncio.Server | None = None
        self.follower = Follower(self.pod, self.store)  # type: ignore[arg-type]
        self.task = asyncio.get_running_loop().create_task(self.follower.run())

    async def lead(self, serve: Callable[[Link], Awaitable[Any]] | None = None) -> None:
        """A leader at the port: a real greeting, or whatever the test serves."""
        key = make_gang_key(self.store)

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            link = Link(reader, writer)
            if serve is not None:
                with contextlib.suppress(Refusal, OSError):
                    await serve(link)
                link.close()
                return
            with contextlib.suppress(Refusal):
                await greet_follower(link, key, 2)
                self.links.put_nowait(link)

        self.server = await asyncio.start_server(accept, "127.0.0.1", self.port)

    async def joined(self) -> Link:
        return await asyncio.wait_for(self.links.get(), 10)

    async def hears(self, link: Link, kind: type[Any]) -> Any:
        """The follower's next word of this kind."""
        async with asyncio.timeout(10):
            while True:
                message = UPWARD.validate_json(await link.line(10))
                if isinstance(message, kind):
                    return message

    async def end_leading(self) -> None:
        if self.server is not None:
            self.server.close()
            self.server = None

    async def close(self) -> None:
        self.pod.end(Verdict(result="Fenced"))
        await asyncio.wait_for(self.task, 10)
        await self.end_leading()


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    made = Scene(tmp_path)
    yield made
    await made.close()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.002)


def start(incarnation: int, scene: Scene) -> Start:
    context = RankContext(
        task="train", config=scene.pod.config, incarnation=incarnation, rank=1, world_size=2
    )
    return Start(incarnation=incarnation, contexts=[context])


async def trains(scene: Scene, link: Link, incarnation: int = 3) -> None:
    link.send(start(incarnation, scene))
    await until(lambda: scene.pod.host.incarnation == incarnation)
    # Before it found a leader, it made sure that no rank was there.
    scene.pod.host.stops.clear()


# --- obeying ----------------------------------------------------------------------------------------------------


async def test_a_follower_joins_tells_its_state_and_beats(scene: Scene) -> None:
    await scene.lead()
    link = await scene.joined()
    assert (await scene.hears(link, Ready)).ready is True
    for _ in range(3):
        await scene.hears(link, Beat)
    assert scene.pod.hellos == [0]


async def test_it_starts_and_stops_ranks_as_told(scene: Scene) -> None:
    await scene.lead()
    link = await scene.joined()
    await trains(scene, link)
    link.send(Stop(incarnation=3, mode="Save"))
    await until(lambda: scene.pod.host.stops == ["Save"])
    link.send(Stop(incarnation=3, mode="Kill"))
    await until(lambda: scene.pod.host.stops == ["Save", "Kill"])


async def test_it_has_its_ranks_asked_for_their_stacks(scene: Scene) -> None:
    await scene.lead()
    link = await scene.joined()
    await trains(scene, link)
    link.send(Dump(incarnation=3))
    await until(lambda: scene.pod.host.dumps == [3])
    scene.pod.sink(Stacks(incarnation=3, rank=1, state="S", lines=["Thread 0x1"]))
    assert (await scene.hears(link, Stacks)).lines == ["Thread 0x1"]


async def test_an_order_for_another_incarnation_touches_no_rank(scene: Scene) -> None:
    await scene.lead()
    link = await scene.joined()
    await trains(scene, link)
    for other in (2, 4):
        link.send(Stop(incarnation=other, mode="Kill"))
    link.send(Stop(incarnation=3, mode="Save"))
    await until(lambda: scene.pod.host.stops)
    assert scene.pod.host.stops == ["Save"]


async def test_what_ranks_do_is_passed_on_in_order(scene: Scene) -> None:
    await scene.lead()
    link = await scene.joined()
    await scene.hears(link, Ready)
    scene.pod.sink(Exited(incarnation=3, rank=1, code=1, at=5.0, tail=["x"]))
    scene.pod.sink(Idle(incarnation=3))
    assert (await scene.hears(link, Exited)).tail == ["x"]
    assert (await scene.hears(link, Idle)).incarnation == 3


async def test_a_verdict_ends_it(scene: Scene) -> None:
    await scene.lead()
    link = await scene.joined()
    verdict = Verdict(result="Succeeded", step=40)
    link.send(Finish(verdict=verdict))
    assert await asyncio.wait_for(scene.task, 10) == verdict


# --- without a leader --------------------------------------------------------------------------------------------


async def test_it_waits_for_a_key_and_a_leader(scene: Scene, caplog: Any) -> None:
    await until(
        lambda: any(vars(record).get("reason") == "the gang has no key yet" for record in caplog.records)
    )
    make_gang_key(scene.store)
    await until(lambda: sum(record.message == "no leader" for record in caplog.records) == 2)
    await scene.lead()
    await scene.joined()
    told = [vars(record)["reason"] for record in caplog.records if record.message == "no leader"]
    assert len(told) == len(set(told)), "each reason once, however often it is tried"


async def test_a_leader_that_goes_takes_the_ranks_with_it_before_the_next_hello(scene: Scene) -> None:
    await scene.lead()
    link = await scene.joined()
    await trains(scene, link)
    link.close()
    again = await scene.joined()
    assert scene.pod.host.stops == ["Kill"]
    assert set(scene.pod.hellos) == {0}, "never a hello while a rank runs"
    await trains(scene, again, 4)


async def test_a_leader_that_falls_silent_is_left(scene: Scene) -> None:
    scene.pod.limits = replace(LIMITS, silence_seconds=0.4)
    await scene.lead()
    link = await scene.joined()
    await trains(scene, link)
    began = time.monotonic()
    await scene.joined()
    assert time.monotonic() - began >= 0.3
    assert scene.pod.host.stops == ["Kill"]


async def test_beats_keep_a_quiet_leader(scene: Scene) -> None:
    await scene.lead()
    link = await scene.joined()
    await trains(scene, link)
    for _ in range(30):
        link.send(Beat())
        await scene.hears(link, Beat)
    assert scene.pod.host.stops == [] and scene.links.empty()


@pytest.mark.parametrize(
    "line",
    [b"hello\n", b"{}\n", b'{"type": "Unheard"}\n', b'{"type": "Start"}\n', b"\xff\n", b"[" * 50_000 + b"\n"],
    ids=lambda line: repr(line[:20]),
)
async def test_a_leader_of_another_language_is_left_and_tried_again(scene: Scene, line: bytes) -> None:
    await scene.lead()
    link = await scene.joined()
    await trains(scene, link)
    link._writer.write(line)
    await scene.joined()
    assert scene.pod.host.stops == ["Kill"]
    assert not scene.task.done()


STRANGERS: list[tuple[str, bytes]] = [
    ("nothing", b""),
    ("a mail server", b"220 ready\r\n"),
    ("an odd attempt", '{"challenge": "00", "attempt": "²"}\n'.encode()),
    ("a long attempt", b'{"challenge": "00", "attempt": "%s"}\n' % (b"9" * 5000)),
    ("an older attempt", b'{"challenge": "00", "attempt": "1"}\n'),
    ("a wrong proof", '{"challenge": "00", "attempt": "2"}\n{"proof": "ß"}\n'.encode()),
    ("deep brackets", b"[" * 50_000 + b"\n"),
]


@pytest.mark.parametrize("sent", [row[1] for row in STRANGERS], ids=[row[0] for row in STRANGERS])
async def test_a_stranger_at_the_leaders_name_does_not_end_a_follower(scene: Scene, sent: bytes) -> None:
    visits = []

    async def serve(link: Link) -> None:
        visits.append(1)
        link._writer.write(sent)
        await link.flush(1)

    await scene.lead(serve)
    await until(lambda: len(visits) >= 3)
    await scene.end_leading()
    await scene.lead()
    await scene.joined()
    assert not scene.task.done()


async def test_a_damaged_key_is_waited_out(scene: Scene) -> None:
    scene.store.write("gang.key", b"zz")
    await until(lambda: scene.pod.host.stops)
    scene.store.remove("gang.key")
    await scene.lead()
    await scene.joined()


# --- leaving -----------------------------------------------------------------------------------------------------


async def test_leaving_is_told_and_the_leader_lets_it_go(scene: Scene) -> None:
    await scene.lead()
    link = await scene.joined()
    await trains(scene, link)
    scene.pod.leave()
    assert (await scene.hears(link, Leaving)).at == scene.pod.leaving_at
    assert not scene.task.done(), "it stays until it is let go"
    verdict = Verdict(result="Preempted", step=12)
    link.send(Finish(verdict=verdict))
    assert await asyncio.wait_for(scene.task, 10) == verdict


async def test_leaving_without_a_leader_and_ranks_ends_at_once(scene: Scene) -> None:
    scene.pod.leave()
    assert (await asyncio.wait_for(scene.task, 10)).step == 7


async def left_without_a_leader(scene: Scene) -> int:
    """The step that a follower tells which is asked to leave as its leader goes."""
    await scene.lead()
    link = await scene.joined()
    await trains(scene, link)
    scene.pod.leave()
    await scene.hears(link, Leaving)
    link.close()
    return (await asyncio.wait_for(scene.task, 10)).step


async def test_leaving_when_the_leader_goes_ends_with_what_is_saved(scene: Scene) -> None:
    assert await left_without_a_leader(scene) == 7
    assert (await scene.task).result == "Preempted" and scene.pod.host.stops == ["Kill"]


async def test_what_is_verified_is_looked_up_in_the_store(scene: Scene) -> None:
    incarnations.claim(scene.store, incarnation(1))
    for step in (10, 20):
        commit(scene.store, step, 1)
    damaged = commit(scene.store, 30, 1)
    scene.store.path(f"{damaged}/manifest.json").write_text("{")
    write_files(scene.store, 40, 1)
    assert await left_without_a_leader(scene) == 20
    assert scene.pod.known == [20], "neither one that is damaged nor one without a manifest"


async def test_a_pod_whose_ranks_are_gone_already_looks_as_well(scene: Scene) -> None:
    """Its leader died some seconds ago; it waits for another one when it is asked to leave."""
    incarnations.claim(scene.store, incarnation(1))
    commit(scene.store, 20, 1)
    await scene.lead()
    link = await scene.joined()
    await trains(scene, link)
    await scene.end_leading()
    link.close()
    await until(lambda: not scene.pod.host.incarnation)
    scene.pod.leave()
    assert (await asyncio.wait_for(scene.task, 10)).step == 20


async def test_what_a_replaced_leader_wrote_is_not_verified(scene: Scene) -> None:
    commit(scene.store, 10, 1)
    incarnations.claim(scene.store, incarnation(1))
    late = commit(scene.store, 50, 1)
    incarnations.claim(scene.store, incarnation(2, accepted=[]))
    assert late in scene.store.list_checkpoints()
    assert await left_without_a_leader(scene) == 7 and scene.pod.known == [0]


@pytest.mark.parametrize("trouble", ["hangs", "is away", "cannot be used"])
async def test_a_store_that_cannot_be_asked_holds_no_verdict_up(
    scene: Scene, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()

    def asked(_: RunStore) -> int:
        if trouble == "hangs":
            released.wait(20)
        if trouble == "is away":
            raise OSError(errno.ESTALE, "Stale file handle")
        raise StoreUnusable("holds something unreadable")

    monkeypatch.setattr(follower, "verified_step", asked)
    monkeypatch.setattr(follower, "LOOK_SECONDS", 0.05)
    try:
        assert await left_without_a_leader(scene) == 7 and scene.pod.known == []
    finally:
        released.set()


async def test_a_rank_that_cannot_be_killed_needs_a_new_pod(scene: Scene) -> None:
    await scene.lead()
    link = await scene.joined()
    await trains(scene, link)
    scene.pod.host.stuck = True
    link.close()
    assert (await asyncio.wait_for(scene.task, 10)).result == "Preempted"
    assert scene.pod.hellos == [0], "no hello with a rank that may still write"


async def test_a_leader_that_comes_anew_learns_what_it_has_missed(scene: Scene) -> None:
    await scene.lead()
    link = await scene.joined()
    scene.pod.ready = False
    link.close()
    again = await scene.joined()
    assert (await scene.hears(again, Ready)).ready is False
