"""Rows of status.checkpoints: the committed checkpoints that count, newest first.

Called by the leading agent for its reports. Must never list what nobody may resume from.
"""

from __future__ import annotations

from typing import Final

from windlass.api.contract import Incarnation, Manifest
from windlass.api.status import CheckpointRecord
from windlass.core.checkpoints.choose import objection
from windlass_workloads.checkpoint import choose as reading
from windlass_workloads.checkpoint import manifest as manifests
from windlass_workloads.checkpoint.store import RunStore, checkpoint_name

MAXIMUM_ROWS: Final = 20


def record_of(manifest: Manifest) -> CheckpointRecord:
    """The ledger's row of a committed checkpoint."""
    return CheckpointRecord(
        step=manifest.step,
        incarnation=manifest.incarnation,
        name=checkpoint_name(manifest.step, manifest.incarnation),
        digest=manifest.files_digest,
        bytes=manifests.total_bytes(manifest),
        committed_at=manifest.created_at,
        validation_loss=manifest.validation_loss,
    )


def rows(store: RunStore, newest: Incarnation | None) -> list[CheckpointRecord]:
    """At most 20 rows, newest first."""
    counted = [each for each in reading.candidates(store) if objection(each, newest) is None]
    return [record_of(manifests.read(store, each.name)) for each in counted[:MAXIMUM_ROWS]]
