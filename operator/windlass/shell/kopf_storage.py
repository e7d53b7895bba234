"""kopf's memory of what it handled, which is nothing: we use it to watch, and handlers see every event.

kopf's own storages copy each object deeply, twice, to find what changed since it last handled it: more than half of
what it takes for an event, and its answer would have no reader. These two answer that nothing is known.
"""

from __future__ import annotations

from typing import Any, cast

import kopf


class NoDiffBase(kopf.DiffBaseStorage):  # type: ignore[misc]
    """No state of an object is remembered as handled."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        """Nothing of an object is compared."""
        return cast(kopf.BodyEssence, {})

    def fetch(self, **_: Any) -> None:
        """Nothing was handled."""

    def store(self, **_: Any) -> None:
        """Write nothing."""


class NoProgress(kopf.ProgressStorage):  # type: ignore[misc]
    """No handler has progress: each is done when it returns."""

    def fetch(self, **_: Any) -> None:
        """No handler has begun."""

    def store(self, **_: Any) -> None:
        """Write nothing."""

    def purge(self, **_: Any) -> None:
        """Nothing is there to be removed."""

    def touch(self, **_: Any) -> None:
        """Write nothing."""

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        """An essence has none of our marks."""
        return essence
