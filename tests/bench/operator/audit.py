"""The API server's own record of what the operator wrote and read, with times of a microsecond's precision.

The server logs nothing but requests of the operator's ServiceAccount, and no watches, so that reading is cheap.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

OPERATOR = "system:serviceaccount:windlass-system:operator"
CHANGES = ("create", "update", "patch", "delete", "deletecollection")
READS = ("get", "list")
# Asked and answered, nothing is stored.
REVIEWS = ("tokenreviews", "subjectaccessreviews", "selfsubjectaccessreviews")
# Written while nothing happens to any job: who leads, and where reports go.
OWN = ("leases", "endpointslices")


def policy() -> dict[str, Any]:
    """The audit policy: changes and reads by the operator, once each, without bodies."""
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{"level": "Metadata", "users": [OPERATOR], "verbs": [*CHANGES, *READS]}, {"level": "None"}],
    }


@dataclass(frozen=True, slots=True)
class Write:
    """One request. `at` is when the server had answered it, in seconds since 1970."""

    at: float
    verb: str
    resource: str
    namespace: str
    name: str
    code: int

    @property
    def changes(self) -> bool:
        """Whether it was sent to change something."""
        return self.verb in CHANGES

    @property
    def is_of_jobs(self) -> bool:
        """Whether it was made for a job rather than for the operator itself."""
        return self.resource not in OWN

    @property
    def made_a_pod(self) -> bool:
        """Whether a pod exists by it that did not before."""
        return (self.verb, self.resource, self.code) == ("create", "pods", 201)


def parse(line: str) -> Write | None:
    """One line of the log; None for what neither changes nor reads an object."""
    event = json.loads(line)
    reference = event.get("objectRef") or {}
    if event.get("stage") != "ResponseComplete" or event.get("verb") not in (*CHANGES, *READS):
        return None
    resource = "/".join(part for part in (reference.get("resource"), reference.get("subresource")) if part)
    if resource in REVIEWS:
        return None
    return Write(
        at=datetime.fromisoformat(event["stageTimestamp"]).timestamp(),
        verb=event["verb"],
        resource=resource,
        namespace=reference.get("namespace", ""),
        name=reference.get("name", ""),
        code=int((event.get("responseStatus") or {}).get("code", 0)),
    )


@dataclass
class Audit:
    """The log, read on from where the last look ended."""

    path: Path
    writes: list[Write] = field(default_factory=list)
    reads: list[Write] = field(default_factory=list)
    _offset: int = 0

    def read(self) -> list[Write]:
        """All writes so far. A line that is still being written waits for the next look."""
        if self.path.exists():
            with self.path.open("rb") as log:
                log.seek(self._offset)
                text = log.read()
            whole = text[: text.rfind(b"\n") + 1]
            self._offset += len(whole)
            for found in (parse(line) for line in whole.decode().splitlines() if line):
                if found is not None:
                    (self.writes if found.changes else self.reads).append(found)
        return self.writes

    def since(self, at: float, until: float = float("inf")) -> list[Write]:
        """Writes answered in an interval of time."""
        return [write for write in self.read() if at <= write.at < until]

    def reads_since(self, at: float, until: float = float("inf")) -> list[Write]:
        """Reads answered in an interval of time."""
        self.read()
        return [one for one in self.reads if at <= one.at < until]


def by_resource(writes: Iterable[Write]) -> dict[str, int]:
    """How many changes of which resource, refused ones included."""
    return dict(sorted(Counter(write.resource for write in writes).items()))
