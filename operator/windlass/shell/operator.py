"""All parts of one operator process, wired together.

`main` makes one, starts it, and leads with it. This module holds no logic of its own besides what happens
when leading begins and ends; each part is tested by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

from aiohttp import web

from windlass.api.meta import LABEL_MANAGED_BY, MANAGED_BY, REPORT_PATH
from windlass.core.reconcile import decide
from windlass.core.settings import RenderSettings
from windlass.shell import health as probes
from windlass.shell.act import Actor
from windlass.shell.cache import slim_child, slim_claim, slim_node, slim_pod
from windlass.shell.client import Client
from windlass.shell.clock import Clock, utc_now
from windlass.shell.credentials import Credentials
from windlass.shell.endpoint import publish
from windlass.shell.errors import ApiError, Unreachable
from windlass.shell.events import Recorder
from windlass.shell.handlers import Intake
from windlass.shell.health import Health, LoopLag, limit, serve
from windlass.shell.identity import Reviewer
from windlass.shell.inbox import Inbox
from windlass.shell.jobs import Key
from windlass.shell.kopf_loop import KopfLoop
from windlass.shell.lease import Candidate, Elector
from windlass.shell.logging import logger
from windlass.shell.metrics import Metrics
from windlass.shell.observe import Caches, Observer
from windlass.shell.postbox import Postbox
from windlass.shell.probe import WatchProbe
from windlass.shell.queue import KeyedQueue
from windlass.shell.reconciler import Reconciler
from windlass.shell.reflector import Reflector, Selection
from windlass.shell.reports import ReportServer
from windlass.shell.resources import CLAIMS, JOB_KINDS, NODES, PODS, of
from windlass.shell.settings import Settings
from windlass.shell.tls import ServingCertificate
from windlass.shell.waking import Waker

LOG = logger("operator")

RESYNC_SECONDS: Final = 600.0
UPKEEP_SECONDS: Final = 10.0
FAREWELL_SECONDS: Final = 2.0
OURS: Final = f"{LABEL_MANAGED_BY}={MANAGED_BY}"


class Operator:
    """One replica."""

    def __init__(self, settings: Settings, credentials: Credentials) -> None:
        clock = Clock()
        self.settings = settings
        self.metrics = Metrics()
        self.client = Client(credentials, observer=self.metrics)
        self.caches = Caches()
        self.inbox = Inbox()
        self.queue: KeyedQueue[Key] = KeyedQueue(clock.monotonic, observer=self.metrics)
        self.waker = Waker(self.queue, self.caches, self.inbox)
        self.recorder = Recorder(
            self.client, instance=settings.pod_name, clock=clock, runs=self.inbox.runs_heard
        )
        self.postbox = Postbox(self.recorder, calm=self.queue.calm)
        # The Lease has a client of its own: its requests must not wait behind others'.
        self._lease_client = Client(credentials, observer=self.metrics, attempts=1, request_timeout_seconds=4)
        self.elector = Elector(
            self._lease_client,
            Candidate(settings.namespace, settings.lease_name, settings.identity),
            clock=clock,
        )
        self.observer = Observer(
            self.client,
            self.caches,
            self.inbox,
            settings=lambda: self._render,
            clock=clock,
            is_busy=lambda: self.queue.is_busy,
        )
        self._certificate = ServingCertificate(settings.tls_directory) if settings.tls_directory else None
        self._render = self._render_settings()
        self._reconciler = Reconciler(
            queue=self.queue,
            observer=self.observer,
            actor=Actor(self.client, self.caches, self.postbox, clock=clock),
            metrics=self.metrics,
            decide=lambda job, seen: decide(job, seen, clock.now(), self._render),
            clock=clock,
        )
        self._reports = ReportServer(
            reviewer=Reviewer(self.client, clock),
            inbox=self.inbox,
            caches=self.caches,
            is_leader=lambda: self.elector.leading,
            clock=clock,
            counted=lambda code: self.metrics.reports.labels(str(code)).inc(),
        )
        self.reflectors = list(self._make_reflectors())
        self._probe = WatchProbe(self.client, self.caches.jobs, settings.watch_namespaces, clock)
        self._lag = LoopLag(clock)
        self._health = Health(self.metrics, before_scrape=self._set_gauges)
        self._kopf: KopfLoop | None = None
        self._credentials = credentials
        self._servers: list[web.AppRunner] = []
        self.report_port = 0
        self.health_port = 0
        self._connect()

    # --- wiring -------------------------------------------------------------------------------

    def _make_reflectors(self) -> list[Reflector]:
        made = []
        kinds = [(PODS, self.caches.pods, slim_pod, OURS), (CLAIMS, self.caches.claims, slim_claim, "")]
        kinds += [(of(kind), cache, slim_child, OURS) for kind, cache in self.caches.children.items()]
        for namespace in self.settings.watch_namespaces or (None,):
            for resource, cache, slim, labels in kinds:
                selection = Selection(resource, slim, labels, namespace)
                made.append(Reflector(self.client, cache, selection, Clock()))
        if self.settings.watch_nodes:
            made.append(Reflector(self.client, self.caches.nodes.cache, Selection(NODES, slim_node), Clock()))
        return made

    def _connect(self) -> None:
        """Let caches wake jobs, and let numbers and probes be asked for."""
        self.waker.connect()
        self.metrics.show_jobs(lambda: self.caches.jobs, lambda: self.elector.leading)
        for reflector in self.reflectors:
            self._health.alive.append(
                limit(
                    f"watch of {reflector.resource.plural}", reflector.age_seconds, probes.WATCH_LIMIT_SECONDS
                )
            )
        self._health.alive += [
            limit("watch of jobs", self._probe.age_seconds, probes.WATCH_LIMIT_SECONDS),
            limit("loop lag", self._lag.seconds, probes.LAG_LIMIT_SECONDS),
            limit("oldest key", self._oldest_key, probes.QUEUE_LIMIT_SECONDS),
            lambda: None if self._kopf is None or self._kopf.alive else "kopf: its thread has ended",
        ]
        self._health.ready.append(lambda: None if self.is_synced() else "caches: are not filled yet")

    def _oldest_key(self) -> float:
        # Nobody takes keys on a standby.
        return self.queue.oldest_seconds() if self.elector.leading else 0.0

    def _render_settings(self) -> RenderSettings:
        settings, certificate = self.settings, self._certificate
        url = f"https://{settings.report_host}:{settings.report_port}{REPORT_PATH}"
        return RenderSettings(
            workload_image=settings.workload_image,
            workload_python=settings.workload_python,
            image_pull_policy=settings.image_pull_policy,
            host_root=settings.host_root,
            report_url=url if certificate is not None else None,
            report_server_name=settings.report_host,
            health_taints=settings.health_taints,
            ca_pem=certificate.authority_pem() if certificate is not None else "",
            prices=settings.prices,
            kueue=settings.kueue,
        )

    def _set_gauges(self) -> None:
        metrics = self.metrics
        metrics.queue_depth.set(len(self.queue))
        metrics.queue_unfinished.set(self.queue.unfinished_seconds())
        metrics.leading.set(1 if self.elector.leading else 0)
        metrics.lease_age.set(self.elector.seconds_since_renewal())
        metrics.loop_lag.set(self._lag.seconds())
        metrics.events_dropped.set(self.recorder.dropped + self.postbox.dropped)
        for resource in JOB_KINDS:
            metrics.watch_age.labels(resource.kind).set(self._probe.age_seconds())
        for reflector in self.reflectors:
            metrics.watch_age.labels(reflector.resource.kind).set(reflector.age_seconds())

    # --- life ---------------------------------------------------------------------------------

    def is_synced(self) -> bool:
        """Whether every reflector has listed its kind."""
        return all(reflector.synced.is_set() for reflector in self.reflectors)

    async def start(self) -> None:
        """Open the servers and start kopf's thread; what runs on after that is in `background`."""
        runner, self.health_port = await serve(self._health.application(), self.settings.health_port)
        self._servers.append(runner)
        if self._certificate is not None:
            runner, self.report_port = await serve(
                self._reports.application(), self.settings.report_port, ssl_context=self._certificate.context
            )
            self._servers.append(runner)
        self._kopf = KopfLoop(
            self._credentials,
            Intake(asyncio.get_running_loop(), self.caches.jobs),
            self.settings.watch_namespaces,
        )
        self._kopf.start()
        LOG.info("operator serves", health_port=self.health_port, report_port=self.report_port)

    def background(self) -> dict[str, Coroutine[Any, Any, None]]:
        """What every replica does for as long as it lives."""
        parts: dict[str, Coroutine[Any, Any, None]] = {
            f"watch {reflector.resource.plural} {number}": reflector.run()
            for number, reflector in enumerate(self.reflectors)
        }
        return parts | {"probe": self._probe.run(), "lag": self._lag.run(), "events": self.postbox.run()}

    async def lead(self) -> None:
        """Wait for the caches and the Lease, then run rounds until cancelled."""
        for reflector in self.reflectors:
            await reflector.synced.wait()
        await self.elector.acquire()
        self.observer.listening_since = utc_now()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.elector.keep())
            group.create_task(self._reconciler.run())
            group.create_task(self._resync())
            group.create_task(self._upkeep())

    async def _resync(self) -> None:
        """Look at every job now and then, whether anything was heard of it or not."""
        while True:
            self.waker.all_jobs()
            await asyncio.sleep(RESYNC_SECONDS)

    async def _upkeep(self) -> None:
        """Keep the Service pointed here, and follow the certificate's files."""
        while True:
            if self._certificate is not None:
                await self._publish()
                if self._certificate.refresh():
                    LOG.info("certificate reloaded")
                    self._render = self._render_settings()
                    self.waker.all_jobs()
            await asyncio.sleep(UPKEEP_SECONDS)

    async def _publish(self) -> None:
        try:
            if await publish(self.client, self.settings, self.report_port):
                LOG.info("report endpoint written", address=self.settings.pod_ip)
        except (ApiError, Unreachable) as error:
            LOG.warning("report endpoint not written", problem=str(error)[:300])

    async def stop(self) -> None:
        """Hand over the Lease first, then close everything."""
        self.queue.close()
        await self.elector.release()
        await self.postbox.flush(FAREWELL_SECONDS)
        if self._kopf is not None:
            await self._kopf.stop()
        for runner in self._servers:
            await runner.cleanup()
        await self.client.close()
        await self._lease_client.close()
