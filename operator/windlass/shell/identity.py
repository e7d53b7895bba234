"""Who sends a report: a bearer token checked by TokenReview, cached for a while by its hash.

The report server calls `Reviewer.identify`. Tokens are kept nowhere but in the request; the cache holds
their sha256. Reviews that fail to get an answer are not cached. What a cached answer proves is whose the token
was; whether that pod is there and a member of its gang is looked at for each report.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

from windlass.api.meta import REPORT_AUDIENCE
from windlass.shell.client import Client
from windlass.shell.clock import Clock
from windlass.shell.resources import TOKEN_REVIEWS

ACCEPTED_SECONDS: Final = 300.0
"""With a thousand leaders one minute made 17 reviews a second, a sixth of what 50 writes a second cost."""
REFUSED_SECONDS: Final = 10.0
REMEMBERED: Final = 8192
CONCURRENT_REVIEWS: Final = 8
ACCOUNT_PREFIX: Final = "system:serviceaccount:"
POD_UID: Final = "authentication.kubernetes.io/pod-uid"
POD_NAME: Final = "authentication.kubernetes.io/pod-name"


@dataclass(frozen=True, slots=True)
class Caller:
    """A pod, proven by its token."""

    namespace: str
    pod: str
    pod_uid: str


class Reviewer:
    """Asks the API server whose token it is, every four to five minutes for each that is good."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._clock = clock.monotonic
        self._known: OrderedDict[str, tuple[float, Caller | None]] = OrderedDict()
        self._slots = asyncio.Semaphore(CONCURRENT_REVIEWS)

    async def identify(self, token: str) -> Caller | None:
        """The pod that the token belongs to; None if it is no valid pod token for our audience."""
        digest = hashlib.sha256(token.encode()).hexdigest()
        known = self._known.get(digest)
        if known is not None and known[0] > self._clock():
            return known[1]
        async with self._slots:
            answer = await self._client.ask(TOKEN_REVIEWS, review(token))
        caller = read(answer.get("status") or {})
        self._known.pop(digest, None)
        self._known[digest] = (self._clock() + lifetime(digest, accepted=caller is not None), caller)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return caller


def lifetime(digest: str, *, accepted: bool) -> float:
    """Seconds for which an answer counts, up to a fifth less for some: a new leader asks about all within seconds."""
    return ACCEPTED_SECONDS * (1.0 - 0.2 * int(digest[:4], 16) / 0xFFFF) if accepted else REFUSED_SECONDS


def review(token: str) -> dict[str, Any]:
    """The question."""
    return {
        "apiVersion": TOKEN_REVIEWS.api_version,
        "kind": TOKEN_REVIEWS.kind,
        "spec": {"token": token, "audiences": [REPORT_AUDIENCE]},
    }


def read(status: dict[str, Any]) -> Caller | None:
    """The answer. A token of another audience, of a person, or not bound to a pod is nobody's."""
    if not status.get("authenticated") or REPORT_AUDIENCE not in (status.get("audiences") or ()):
        return None
    user = status.get("user") or {}
    extra = user.get("extra") or {}
    name = str(user.get("username") or "")
    uids, pods = extra.get(POD_UID) or [], extra.get(POD_NAME) or []
    if not name.startswith(ACCOUNT_PREFIX) or len(uids) != 1 or len(pods) != 1:
        return None
    return Caller(namespace=name.removeprefix(ACCOUNT_PREFIX).partition(":")[0], pod=pods[0], pod_uid=uids[0])
