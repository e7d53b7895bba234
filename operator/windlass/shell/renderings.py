"""Remembers how each run's objects besides pods were rendered: every round compares with them, few change them.

The observer asks it. A rendering follows from the spec, the attempt and the installation's settings alone, so it
is kept until one of those is another. The newest runs are remembered, so that memory does not grow with all.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from windlass.api.meta import ConditionType
from windlass.core.decision import Manifest
from windlass.core.observed import Job
from windlass.core.render.gang import shared_objects
from windlass.core.settings import RenderSettings
from windlass.core.status.conditions import is_true

REMEMBERED: Final = 2048
ENDED: Final = (ConditionType.COMPLETE, ConditionType.FAILED)
Cause = tuple[int, int, RenderSettings]


class Renderings:
    """Renderings by the run's UID, with what they were made of."""

    def __init__(self, most: int = REMEMBERED) -> None:
        self._most = most
        self._known: OrderedDict[str, tuple[Cause, tuple[Manifest, ...]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def of(self, job: Job, settings: RenderSettings) -> tuple[Manifest, ...] | None:
        """The objects as they should be: none once the run has ended, None before it has an attempt."""
        attempt = job.status.gang.attempt
        if any(is_true(job.status.conditions, ended) for ended in ENDED):
            self.forget(job.uid)
            return ()
        if job.spec is None or attempt == 0:
            return None
        cause = (job.generation, attempt, settings)
        known = self._known.pop(job.uid, None)
        if known is None or known[0] != cause:
            known = cause, shared_objects(job, job.spec, attempt=attempt, settings=settings)
        self._known[job.uid] = known
        if len(self._known) > self._most:
            self._known.popitem(last=False)
        return known[1]

    def forget(self, uid: str) -> None:
        """The run is gone."""
        self._known.pop(uid, None)
