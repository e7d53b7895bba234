"""The HTTPS server that leaders of gangs report to; each report is answered with orders.

Who reports is proven by the pod's token and compared with the pods that the run should have now. What is
said is stored in the inbox and decides nothing here. Bodies, rates and header sizes are bounded, and texts
of errors never repeat a token.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web
from pydantic import ValidationError

from windlass.api import meta
from windlass.api.contract import Report
from windlass.core.observed import controller_uid, label_number
from windlass.shell.clock import Clock
from windlass.shell.errors import ApiError, Unreachable
from windlass.shell.identity import Caller, Reviewer
from windlass.shell.inbox import Inbox
from windlass.shell.logging import logger
from windlass.shell.observe import Caches

LOG = logger("reports")

BODY_BYTES: Final = 2 * 1024 * 1024
TOKEN_LENGTH: Final = 16_384
RATE_PER_SECOND: Final = 5.0
BURST: Final = 20.0
REMEMBERED: Final = 8192
RETRY_SECONDS: Final = 1
PLACE: Final = (meta.LABEL_INDEX, meta.LABEL_TICKET, meta.LABEL_ATTEMPT)


@dataclass(frozen=True, slots=True)
class Refusal(Exception):
    """A report that is not taken."""

    status: HTTPStatus
    reason: str
    message: str
    retry: bool = False


class RateLimit:
    """A bucket of tokens per caller."""

    def __init__(
        self, clock: Callable[[], float], *, rate: float = RATE_PER_SECOND, burst: float = BURST
    ) -> None:
        self._clock = clock
        self._rate = rate
        self._burst = burst
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, caller: str) -> bool:
        """Whether the caller may go on; takes one token."""
        now = self._clock()
        tokens, at = self._buckets.pop(caller, (self._burst, now))
        tokens = min(self._burst, tokens + (now - at) * self._rate)
        allowed = tokens >= 1
        self._buckets[caller] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)
        return allowed


class ReportServer:
    """Checks and takes reports."""

    def __init__(
        self,
        *,
        reviewer: Reviewer,
        inbox: Inbox,
        caches: Caches,
        is_leader: Callable[[], bool],
        clock: Clock,
        counted: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._reviewer = reviewer
        self._inbox = inbox
        self._jobs = caches.jobs
        self._pods = caches.pods
        self._is_leader = is_leader
        self._limit = RateLimit(clock.monotonic)
        # Before a token is known to be good, its sender is known by address only, which many pods may share.
        self._strangers = RateLimit(clock.monotonic, rate=500.0, burst=2000.0)
        self._counted = counted

    def application(self) -> web.Application:
        """The aiohttp application."""
        application = web.Application(client_max_size=BODY_BYTES)
        application.router.add_post(meta.REPORT_PATH, self.handle)
        return application

    async def handle(self, request: web.Request) -> web.Response:
        """Answer one report: 200 with orders, or an error with a reason."""
        try:
            response = web.json_response(await self.accept(request))
        except Refusal as refusal:
            response = refuse(refusal)
        except web.HTTPRequestEntityTooLarge:
            response = refuse(
                Refusal(
                    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                    "TooLarge",
                    f"body: is too large (got more than {BODY_BYTES} bytes); allowed: up to {BODY_BYTES}. "
                    "hint: send the newest 20 checkpoints only",
                )
            )
        except (ApiError, Unreachable) as error:
            LOG.warning("token review failed", problem=str(error)[:200])
            response = refuse(
                Refusal(
                    HTTPStatus.SERVICE_UNAVAILABLE,
                    "ReviewFailed",
                    "the token could not be checked now",
                    retry=True,
                )
            )
        self._counted(response.status)
        return response

    async def accept(self, request: web.Request) -> dict[str, object]:
        """Check a report from the outside in, store it, and return orders."""
        if not self._is_leader():
            raise Refusal(
                HTTPStatus.SERVICE_UNAVAILABLE, "NotLeader", "this replica does not lead", retry=True
            )
        if not self._strangers.allows(request.remote or ""):
            raise Refusal(
                HTTPStatus.TOO_MANY_REQUESTS, "TooMany", "too many requests from this address", retry=True
            )
        caller = await self._reviewer.identify(bearer(request))
        if caller is None:
            raise Refusal(
                HTTPStatus.UNAUTHORIZED,
                "BadToken",
                f"authorization: is no token of a pod for audience {meta.REPORT_AUDIENCE}. "
                "hint: send the projected token of this pod",
            )
        if not self._limit.allows(caller.pod_uid):
            raise Refusal(
                HTTPStatus.TOO_MANY_REQUESTS, "TooMany", "too many reports from this pod", retry=True
            )
        report = parse(await whole_body(request))
        self.check(caller, report)
        return self._inbox.put(report).to_wire()

    def check(self, caller: Caller, report: Report) -> None:
        """Refuse unless the caller is a pod that the run should have now."""
        if (report.pod_uid, report.run.namespace) != (caller.pod_uid, caller.namespace):
            raise forbidden("podUid: is not the sender's")
        job = self._jobs.get((report.run.kind, report.run.namespace, report.run.name))
        if job is None:
            raise not_yet("the run is not known yet")
        if job["metadata"]["uid"] != report.run.uid:
            raise forbidden("run.uid: belongs to another object of that name")
        body = self._pods.get(caller.namespace, caller.pod)
        if body is None or body["metadata"]["uid"] != caller.pod_uid:
            raise not_yet("the pod is not known yet")
        if controller_uid(body) != report.run.uid:
            raise forbidden("pod: is not controlled by the run")
        labels = body["metadata"].get("labels") or {}
        index, ticket, attempt = (label_number(labels, name) for name in PLACE)
        if (report.ticket, report.attempt) != (ticket, attempt):
            raise forbidden("ticket, attempt: are not those of the pod")
        if not is_member(job, index, ticket):
            raise forbidden("pod: is not a member of the run's present gang")


def is_member(job: dict[str, Any], index: int, ticket: int) -> bool:
    """Whether the run's status lists a pod's index and ticket."""
    members = ((job.get("status") or {}).get("gang") or {}).get("members") or []
    return any((one.get("index"), one.get("ticket")) == (index, ticket) for one in members)


def forbidden(message: str) -> Refusal:
    """The sender is known and may not report this."""
    return Refusal(HTTPStatus.FORBIDDEN, "NotAMember", message)


def not_yet(message: str) -> Refusal:
    """Our caches may be behind: the sender should try again."""
    return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "NotYetKnown", message, retry=True)


def bearer(request: web.Request) -> str:
    """The token of the Authorization header."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip() or len(token) > TOKEN_LENGTH:
        raise Refusal(
            HTTPStatus.UNAUTHORIZED,
            "NoToken",
            "authorization: is missing or malformed; allowed: Bearer <token>. hint: send the projected token",
        )
    return token.strip()


async def whole_body(request: web.Request) -> bytes:
    """The body; a refusal when its sender goes away before its end, whom nothing answers and who reports again."""
    try:
        return await request.read()
    except OSError:
        raise Refusal(HTTPStatus.REQUEST_TIMEOUT, "Cut", "body: ended early. hint: send it again") from None


def parse(body: bytes) -> Report:
    """The report; a refusal names the first field that is wrong."""
    try:
        return Report.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"]) or "body"
        raise Refusal(
            HTTPStatus.BAD_REQUEST,
            "BadReport",
            f"{path}: {first['msg']}. hint: contract version {meta.CONTRACT_VERSION}",
        ) from error


def refuse(refusal: Refusal) -> web.Response:
    """A refusal as JSON, with Retry-After where trying again makes sense."""
    headers = {"Retry-After": str(RETRY_SECONDS)} if refusal.retry else {}
    body = {"error": {"reason": refusal.reason, "message": refusal.message}}
    return web.json_response(body, status=refusal.status, headers=headers)
