"""What can go wrong when talking to the API server, as types that callers can tell apart.

Raised by `client` only. Texts carry the server's message, which is public, and never a token or a body.
"""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """The server answered with an error status."""

    def __init__(
        self, status: int, reason: str, message: str, *, retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after_seconds = retry_after_seconds


class NotFound(ApiError):
    """404: no such object, or no such kind."""


class Conflict(ApiError):
    """409: a stale version, a failed precondition, or a name that is taken."""


class Gone(ApiError):
    """410: the version asked for is no longer in the server's history."""


class Forbidden(ApiError):
    """403: by RBAC, quota or admission; the message tells which."""


class Invalid(ApiError):
    """400 or 422: the server refuses the body."""


class NotOurs(Exception):
    """The name is taken by an object that another owner controls; it is left alone."""

    def __init__(self, kind: str, name: str, owner_uid: str | None = None) -> None:
        super().__init__(
            f"{kind} {name}: exists and is not controlled by this job; allowed: a free name. "
            "hint: delete or rename that object, or give the job another name"
        )
        self.kind = kind
        self.name = name
        self.owner_uid = owner_uid


class Unreachable(Exception):
    """No answer: connection refused or broken, or a timeout. The outcome of a write is unknown."""


class Silent(Unreachable):
    """A watch on which nothing came for its limit. A quiet kind and a dead stream look the same from here."""


TYPES: dict[int, type[ApiError]] = {
    400: Invalid,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: Invalid,
}


def from_status(status: int, body: dict[str, Any], retry_after: str | None) -> ApiError:
    """The error for an HTTP status and a Status body; Retry-After from the header or the body's details."""
    details = body.get("details") or {}
    seconds: float | None = None
    if retry_after is not None and retry_after.strip().isdigit():
        seconds = float(retry_after)
    elif details.get("retryAfterSeconds"):
        seconds = float(details["retryAfterSeconds"])
    kind = TYPES.get(status, ApiError)
    return kind(
        status,
        str(body.get("reason") or "Unknown"),
        str(body.get("message") or ""),
        retry_after_seconds=seconds,
    )
