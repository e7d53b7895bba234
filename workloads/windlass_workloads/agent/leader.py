"""The agent of pod 0: feeds the gang's state machine and carries out its commands.

Holds nothing precious: what a later leader needs is in the store before anybody acts on it. The main
loop handles one event at a time; sockets, reports and file writes go on beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any

from windlass.api.contract import Incarnation, Orders, RankEvent, Report, Verdict
from windlass_workloads.agent import events as ev
from windlass_workloads.agent import verdict as verdicts
from windlass_workloads.agent.claims import Claims
from windlass_workloads.agent.delivery import Courier
from windlass_workloads.agent.gang import Gang
from windlass_workloads.agent.identity import GRACE_RESERVE_SECONDS
from windlass_workloads.agent.memoir import Memoir
from windlass_workloads.agent.messages import UPWARD, Beat, Downward, Dump, Finish, Said, Start, Stop, Upward
from windlass_workloads.agent.oom import kills_whole_container
from windlass_workloads.agent.pod import Pod
from windlass_workloads.agent.reports import Reporter
from windlass_workloads.agent.succession import Predecessor, wait_for_predecessor
from windlass_workloads.agent.view import View, build_report, resume_point
from windlass_workloads.agent.wire import LINE_LIMIT, Link, Refusal, greet_follower, make_gang_key
from windlass_workloads.checkpoint import incarnations, ledger
from windlass_workloads.checkpoint.errors import CheckpointError
from windlass_workloads.checkpoint.manifest import ManifestInvalid
from windlass_workloads.checkpoint.store import RunStore

log = logging.getLogger(__name__)

TICK_SECONDS = 0.1
SIGN_SECONDS = 1.0
BIND_SECONDS = 20.0


class Leader:
    """Leads until there is a verdict."""

    def __init__(self, pod: Pod, store: RunStore) -> None:
        self._pod = pod
        self._store = store
        self._claims = Claims(store=store, config=pod.config, me=pod.identity)
        self._gang = Gang(pod.config, pod.limits, memory_group=kills_whole_container())
        recovery = pod.config.spec.recovery
        self._view = View(grace_seconds=recovery.termination_grace_period_seconds)
        self._memoir = Memoir(store)
        # No pod lives longer than its grace period once it was asked to end.
        grace = pod.config.spec.recovery.termination_grace_period_seconds
        self._predecessor = Predecessor(pod.limits.quiet_seconds, grace + GRACE_RESERVE_SECONDS)
        self._events: asyncio.Queue[ev.Event] = asyncio.Queue()
        self._links: dict[str, Link] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._sequence = 0
        self._port = (0, 0)
        self._key = b""
        self._reporter: Reporter | None = None
        self._opened = asyncio.Event()

    async def run(self) -> Verdict:
        """The verdict that this pod ends with."""
        pod = self._pod
        pod.sink = self._own
        pod.parting = self._parting
        pod.start()
        server: asyncio.Server | None = None
        try:
            self._post(ev.Joined(pod.hello()))
            self._begin(self._lead(), self._tick())
            await self._until_open()
            if not pod.ended.done():
                server = await self._listen()
                self._begin(self._watch_fence())
                self._start_reporter()
            return await pod.ended
        finally:
            await self._close(server)

    # --- beginning and end ---------------------------------------------------------------------

    async def _until_open(self) -> None:
        """Waits until this agent leads or has come to its end. A store that fails is asked again."""
        opened = asyncio.ensure_future(self._opened.wait())
        either: list[asyncio.Future[Any]] = [opened, self._pod.ended]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            opened.cancel()

    async def _open(self) -> None:
        """Reads the store and decides whether this agent may lead at all."""
        try:
            if not await wait_for_predecessor(
                self._store, self._claims.claimant, self._predecessor, self._must_go
            ):
                self._pod.end(self._pod.parting())
                return
            newest = await asyncio.to_thread(self._read_store)
        except (CheckpointError, OSError, Refusal) as error:
            await self._feed(ev.Unclaimable(message=str(error), storage=True))
            return
        if not incarnations.may_claim(newest, self._claims.claimant):
            log.warning("fenced", extra={"newest": newest.incarnation if newest is not None else 0})
            await self._feed(ev.Refused())
            return
        self._view.checkpoints = self._memoir.ledger
        past = self._memoir.past
        self._view.plan, self._view.output, self._view.tracking = past.memory.plan, past.output, past.tracking
        ledger_step = max((row.step for row in self._memoir.ledger), default=0)
        await self._feed(ev.Opened(newest=newest, ledger_step=ledger_step, memory=past.memory))
        self._opened.set()

    def _must_go(self) -> bool:
        return self._pod.leaving_at is not None or self._pod.ended.done()

    def _read_store(self) -> Any:
        self._store.probe()
        self._key = make_gang_key(self._store)
        newest = incarnations.newest(self._store)
        self._memoir.read(newest)
        return newest

    async def _listen(self) -> asyncio.Server:
        """The port may still be held by an older agent of this pod's name for a moment."""
        options = self._pod.options
        deadline = time.monotonic() + BIND_SECONDS
        while True:
            try:
                return await asyncio.start_server(
                    self._serve, options.bind or None, options.port, limit=LINE_LIMIT
                )
            except OSError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(self._pod.limits.retry_seconds)

    async def _close(self, server: asyncio.Server | None) -> None:
        """Lets followers and the operator hear the verdict, within a limit."""
        limit = self._pod.limits.farewell_seconds
        self._pod.host.stop("Kill")
        for task in self._tasks:
            task.cancel()
        if server is not None:
            server.close()
        waits: list[Coroutine[Any, Any, None]] = [link.flush(limit) for link in self._links.values()]
        if self._reporter is not None and self._gang.verdict is not None:
            waits.append(self._reporter.farewell(limit))
        self._sign_off()
        await asyncio.gather(*waits, self._memoir.close(limit))
        for link in self._links.values():
            link.close()

    def _sign_off(self) -> None:
        """The next leader counts lost steps from here. One that was replaced leaves the sign to its successor."""
        gang = self._gang
        fenced = gang.verdict is not None and gang.verdict.result == "Fenced"
        if gang.record is not None and not fenced:
            self._memoir.sign(gang.step, gang.highest_step, last=True)

    def _parting(self) -> Verdict:
        """The verdict when the pod's time is up before the gang came to one."""
        for command in self._gang.handle(ev.TimeUp(), time.time()):
            if isinstance(command, ev.Tell):
                self._tell(command.pod_uid, command.message)
            elif not isinstance(command, ev.Open | ev.Claim | ev.End):
                self._memoir.note(command)
        return self._last_word(self._gang.verdict or Verdict(result="Preempted"))

    def _last_word(self, verdict: Verdict) -> Verdict:
        """The verdict with the state of the run, for an operator that does not hear the last report."""
        if self._memoir.newest is None or verdict.result == "Fenced":
            return verdict
        try:
            message = verdicts.with_report(verdict, self._account(self._memoir.newest, verdict))
            verdicts.encode(message)
            return message
        except Exception:  # a report that cannot be made must not take the verdict with it
            log.exception("report failed")
            return verdict

    def _account(self, newest: Incarnation, verdict: Verdict) -> Report:
        """The last report. A leader that never led tells of what it found: nobody may have heard of it."""
        report = self._report()
        if self._gang.record is not None:
            return report
        progress = report.progress.model_copy(update={"step": verdict.step})
        incarnation = max(newest.incarnation, verdict.incarnation)
        found = {"incarnation": incarnation, "progress": progress, "resume": resume_point(newest)}
        return report.model_copy(update=found)

    # --- the main loop -------------------------------------------------------------------------

    async def _lead(self) -> None:
        await self._open()
        while True:
            await self._feed(await self._events.get())

    async def _feed(self, event: ev.Event) -> None:
        mode = self._gang.mode
        for command in self._gang.handle(event, time.time()):
            await self._carry_out(command)
        if isinstance(event, ev.Heard) and isinstance(event.message, Said):
            self._hear(event.message.event)
        if self._gang.mode is not mode:
            log.info("mode", extra={"mode": str(self._gang.mode), "incarnation": self._gang.incarnation})
            self._poke()

    async def _carry_out(self, command: ev.Command) -> None:
        if isinstance(command, ev.Open):
            await self._open()
        elif isinstance(command, ev.Claim):
            await self._claim(command)
        elif isinstance(command, ev.Tell):
            self._tell(command.pod_uid, command.message)
        elif isinstance(command, ev.End):
            self._pod.end(self._last_word(command.verdict))
        else:
            self._memoir.note(command)

    async def _claim(self, command: ev.Claim) -> None:
        result = await asyncio.to_thread(self._claims.claim, command, self._gang.incarnation)
        if isinstance(result, ev.Claimed):
            self._memoir.lead(result.record)
            if result.record.accepted and not self._view.checkpoints:
                # Adopted: until it was accepted nobody vouched for it. Status can do without, the run cannot wait.
                with contextlib.suppress(CheckpointError, ManifestInvalid, OSError):
                    self._view.checkpoints = await asyncio.to_thread(ledger.rows, self._store, result.record)
            self._view.restarted(result.record)
            log.info(
                "claimed",
                extra={"incarnation": result.record.incarnation, "resume": result.record.resume or ""},
            )
        await self._feed(result)

    def _tell(self, pod_uid: str, message: Downward) -> None:
        if isinstance(message, Start):
            message = self._with_address(message)
        if pod_uid != self._pod.identity.pod_uid:
            link = self._links.get(pod_uid)
            if link is not None:
                link.send(message)
        elif isinstance(message, Start):
            self._pod.start_ranks(message)
        elif isinstance(message, Stop):
            self._pod.host.stop(message.mode)
        elif isinstance(message, Dump):
            self._pod.host.dump(message.incarnation)
        elif isinstance(message, Finish):
            self._pod.end(message.verdict)

    def _with_address(self, message: Start) -> Start:
        """Ranks meet at this pod's address, on a port that no earlier incarnation used."""
        if self._port[0] != message.incarnation:
            self._port = (message.incarnation, free_port())
        where = {"master_address": self._pod.identity.pod_ip, "master_port": self._port[1]}
        contexts = [context.model_copy(update=where) for context in message.contexts]
        return message.model_copy(update={"contexts": contexts})

    def _hear(self, event: RankEvent) -> None:
        """What concerns reports and records, not decisions."""
        self._view.hear(event)
        self._memoir.hear(event, self._gang.incarnation)
        if event.type == "Checkpoint" and event.rank == 0:
            self._memoir.retain(self._gang.incarnation, self._pod.config.spec.checkpoint.keep_last)
        if event.type not in ("Step", "Forward"):
            self._poke()

    # --- what feeds it -------------------------------------------------------------------------

    def _post(self, event: ev.Event) -> None:
        self._events.put_nowait(event)

    def _own(self, message: Upward) -> None:
        me = self._pod.identity
        self._post(ev.Heard(me.index, me.pod_uid, message))

    async def _tick(self) -> None:
        signed = 0.0
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self._post(ev.Tick())
            if self._gang.record is not None and time.monotonic() - signed >= SIGN_SECONDS:
                signed = time.monotonic()
                self._memoir.sign(self._gang.step, self._gang.highest_step)

    async def _watch_fence(self) -> None:
        """A leader that was frozen or cut off learns here that it has been replaced."""
        while True:
            await asyncio.sleep(SIGN_SECONDS)
            mine = self._gang.incarnation
            try:
                taken = bool(mine) and await asyncio.to_thread(self._claims.taken, mine)
            except (CheckpointError, OSError) as error:
                log.warning("fence not seen", extra={"reason": str(error)})
                continue
            if taken and self._gang.incarnation == mine:
                log.warning("fenced", extra={"mine": mine})
                self._post(ev.Refused())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One follower's connection."""
        link = Link(reader, writer)
        try:
            hello = await greet_follower(link, self._key, self._pod.identity.attempt)
        except Refusal as error:
            log.warning("connection refused", extra={"reason": str(error)})
            link.close()
            return
        self._links[hello.pod_uid] = link
        self._post(ev.Joined(hello))
        beats = asyncio.get_running_loop().create_task(self._beat(link))
        try:
            while True:
                line = await link.line(self._pod.limits.silence_seconds)
                self._post(ev.Heard(hello.index, hello.pod_uid, UPWARD.validate_json(line)))
        except (Refusal, ValueError) as error:
            log.info("follower gone", extra={"pod": hello.pod, "reason": str(error)})
        finally:
            beats.cancel()
            if self._links.get(hello.pod_uid) is link:
                del self._links[hello.pod_uid]
                self._post(ev.Gone(hello.index, hello.pod_uid))
            link.close()

    async def _beat(self, link: Link) -> None:
        while True:
            link.send(Beat())
            await asyncio.sleep(self._pod.limits.heartbeat_seconds)

    # --- reports -------------------------------------------------------------------------------

    def _start_reporter(self) -> None:
        target = self._pod.config.report
        if target is None:
            return
        options = self._pod.options
        courier = Courier(target, token_file=options.token_file, ca_file=options.ca_file)
        self._reporter = Reporter(
            courier, self._report, self._ordered, interval_seconds=target.interval_seconds
        )
        self._begin(self._reporter.run())

    def _report(self) -> Report:
        self._sequence += 1
        return build_report(
            self._pod.config,
            self._pod.identity,
            self._gang,
            self._view,
            totals=self._memoir.past.totals,
            sequence=self._sequence,
        )

    def _ordered(self, orders: Orders) -> None:
        self._post(ev.Ordered(orders))

    def _poke(self) -> None:
        if self._reporter is not None:
            self._reporter.poke()

    def _begin(self, *work: Coroutine[Any, Any, None]) -> None:
        for each in work:
            task = asyncio.get_running_loop().create_task(each)
            self._tasks.add(task)
            task.add_done_callback(self._done(task))

    def _done(self, task: asyncio.Task[None]) -> Callable[[asyncio.Task[None]], None]:
        """A part of the leader that breaks must not leave a pod that looks alive."""

        def check(_: asyncio.Task[None]) -> None:
            if task.cancelled() or task.exception() is None:
                return
            if not self._pod.ended.done():
                self._pod.ended.set_exception(task.exception() or RuntimeError("leader"))

        return check


def free_port() -> int:
    """A port that nobody listens on now."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
