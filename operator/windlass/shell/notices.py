"""Sets the annotations that a decision asks for on a pod that runs.

`NoticeBoard.post` is called by the actor as the last thing of a round. A notice is an offer to other programs: it
must never fail a round, so a refusal is logged and not tried again for some minutes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from windlass.api.meta import NOTICE_MANAGER
from windlass.core.decision import Annotate
from windlass.shell.cache import slim_pod
from windlass.shell.client import Client
from windlass.shell.clock import Clock
from windlass.shell.errors import ApiError, Conflict, NotFound, Unreachable
from windlass.shell.logging import logger
from windlass.shell.observe import Caches
from windlass.shell.resources import PODS

LOG = logger("notices")

REFUSED_SECONDS: Final = 600.0
Json = dict[str, Any]


class NoticeBoard:
    """Patches pods by server-side apply under a field manager of its own, so that it owns two fields only."""

    def __init__(self, client: Client, caches: Caches, *, clock: Clock) -> None:
        self._client = client
        self._caches = caches
        self._clock = clock.monotonic
        self._refused: dict[str, float] = {}

    async def post(self, job: Json, notices: Iterable[Annotate]) -> None:
        """Set them. A pod that is gone or another by now is left to the next round."""
        namespace = job["metadata"]["namespace"]
        for notice in notices:
            if self._clock() < self._refused.get(namespace, float("-inf")):
                continue
            try:
                await self._apply(namespace, notice)
                self._refused.pop(namespace, None)
            except (NotFound, Conflict):
                continue
            except (ApiError, Unreachable) as error:
                self._refused[namespace] = self._clock() + REFUSED_SECONDS
                LOG.warning(
                    "checkpoint not announced on the pod",
                    namespace=namespace,
                    name=notice.name,
                    problem=str(error)[:300],
                    retry_seconds=REFUSED_SECONDS,
                )

    async def _apply(self, namespace: str, notice: Annotate) -> None:
        # The UID keeps an apply from making a pod of this name that is gone.
        metadata = {
            "name": notice.name,
            "namespace": namespace,
            "uid": notice.uid,
            "annotations": dict(notice.annotations),
        }
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}
        self._caches.pods.upsert(slim_pod(await self._client.apply(PODS, body, manager=NOTICE_MANAGER)))
