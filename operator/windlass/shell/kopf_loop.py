"""Runs kopf in a thread and an event loop of its own, where it watches our custom resources and nothing else.

kopf installs signal handlers in a main thread and on exit cancels tasks that it did not start; hence its own
loop. No peering, no finalizer, no annotation, no posting: it writes nothing. Settings were measured, see
docs/decisions/0002-kopf-as-shell.md.
"""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import kopf

from windlass.api.meta import GROUP
from windlass.shell.credentials import Credentials
from windlass.shell.handlers import Intake, register
from windlass.shell.kopf_storage import NoDiffBase, NoProgress
from windlass.shell.logging import logger

LOG = logger("kopf")
LOGIN_SECONDS: Final = 300
JOIN_SECONDS: Final = 8.0


def operator_settings() -> kopf.OperatorSettings:
    """kopf's settings for watching only."""
    settings = kopf.OperatorSettings()
    settings.process.ultimate_exiting_timeout = JOIN_SECONDS
    # Watching CRDs and namespaces would need rights that we do not ask for; `main` checks the CRDs once.
    settings.scanning.disabled = True
    settings.networking.connect_timeout = 5
    settings.networking.request_timeout = 30
    settings.networking.error_backoffs = (0.2, 0.5, 1, 2, 5, 10, 20)
    settings.watching.connect_timeout = 5
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.reconnect_backoff = 0.5
    settings.watching.chunk_size = 500
    settings.watching.initial_streaming = False
    # A limit on workers deadlocks at start (kopf issue 1243).
    settings.queueing.worker_limit = None
    # A worker keeps the last event that it had, with the whole object, until then.
    settings.queueing.idle_timeout = 1
    settings.queueing.error_delays = (1, 2, 5, 10, 30, 60)
    settings.posting.enabled = False
    settings.peering.standalone = True
    # kopf removes the finalizer of this name from objects: it must be one that nobody uses.
    settings.persistence.finalizer = f"kopf.{GROUP}/unused"
    settings.persistence.progress_storage = NoProgress()
    settings.persistence.diffbase_storage = NoDiffBase()
    return settings


def connection(credentials: Credentials) -> kopf.ConnectionInfo:
    """Our credentials in kopf's terms; the token is read again when kopf logs in again."""
    return kopf.ConnectionInfo(
        server=credentials.server,
        ca_data=credentials.ca_pem.encode() if credentials.ca_pem else None,
        insecure=credentials.insecure or None,
        scheme="Bearer",
        token=credentials.bearer(fresh=True),
        certificate_data=credentials.certificate_pem.encode() if credentials.certificate_pem else None,
        private_key_data=credentials.key_pem.encode() if credentials.key_pem else None,
        trust_env=False,
        expiration=datetime.now(UTC) + timedelta(seconds=LOGIN_SECONDS),
    )


class KopfLoop:
    """kopf in its own thread. `ended` tells the main loop when it stops, whether asked to or not."""

    def __init__(self, credentials: Credentials, intake: Intake, namespaces: tuple[str, ...]) -> None:
        self._credentials = credentials
        self._namespaces = namespaces
        self._registry = kopf.OperatorRegistry()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kopf", daemon=True)
        self.failure: BaseException | None = None
        register(self._registry, intake)

        kopf.on.login(registry=self._registry, id="login")(self._login)

    async def _login(self, **_: Any) -> kopf.ConnectionInfo:
        return connection(self._credentials)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def _run(self) -> None:
        where: dict[str, Any] = (
            {"namespaces": self._namespaces} if self._namespaces else {"clusterwide": True}
        )
        try:
            asyncio.run(
                kopf.operator(
                    registry=self._registry,
                    settings=operator_settings(),
                    standalone=True,
                    stop_flag=self._stop,
                    **where,
                )
            )
        except BaseException as error:  # a thread has nobody else to tell
            self.failure = error
            LOG.error("kopf ended", error=error)

    async def stop(self) -> None:
        """Ask kopf to stop and wait for its thread, within the time that a pod has to end."""
        self._stop.set()
        await asyncio.to_thread(self._thread.join, JOIN_SECONDS)
