"""Saves checkpoints without stopping training for longer than a copy.

Made once per incarnation by the training loop, on every rank at the same point (making it is
collective), after the optimizer exists:

    writer = CheckpointWriter(
        store=RunStore(context.config.store_path), context=context, channel=channel,
        state=TorchState(...) or DeepSpeedState(...), facts=SaveFacts(...), asynchronous=True)
    writer.save(step)                                    # all ranks, same step, never before the first step
    writer.save(step, blocking=True, notes=notes)  # returns when committed or failed
    result = writer.wait()                               # SaveResult | None: record, or problem
    writer.failed                                        # text of the last save's problem, or None

A save that fails is an event (SaveFailed) and leaves the last good one alone. Fenced is raised by
save() and wait() on all ranks once a newer incarnation exists: leave with ExitCode.FENCED. Retention
is the leading agent's work (retention.retain). Must never commit what is not durable.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from windlass.api.contract import FileEntry, Manifest, RankContext, RankEvent
from windlass_workloads.checkpoint import manifest as manifests
from windlass_workloads.checkpoint import randomness
from windlass_workloads.checkpoint.errors import Fenced, SaveError, full_text, is_full
from windlass_workloads.checkpoint.files import HashingWriter, OpenFile, hash_written, open_file
from windlass_workloads.checkpoint.flat import join
from windlass_workloads.checkpoint.group import SaveGroup
from windlass_workloads.checkpoint.incarnations import require_newest
from windlass_workloads.checkpoint.interface import (
    Channel,
    DirectoryAdapter,
    SaveFacts,
    SaveNotes,
    SaveResult,
    StateAdapter,
)
from windlass_workloads.checkpoint.ledger import record_of
from windlass_workloads.checkpoint.staging import Staging
from windlass_workloads.checkpoint.store import MANIFEST, RunStore, checkpoint_name, sync_directory
from windlass_workloads.checkpoint.trash import discard

__all__ = ["CheckpointWriter"]


@dataclass(frozen=True, slots=True)
class _Job:
    """One save on its way."""

    step: int
    name: str
    state: dict[str, Any] | None
    notes: SaveNotes
    blocking: bool
    started: float
    stall_seconds: float = 0.0


class CheckpointWriter:
    """At most one save in flight; see the module's text for how to use it."""

    def __init__(
        self,
        *,
        store: RunStore,
        context: RankContext,
        channel: Channel,
        state: StateAdapter | DirectoryAdapter,
        facts: SaveFacts | None = None,
        asynchronous: bool = True,
    ) -> None:
        self.store = store
        self.context = context
        self.channel = channel
        self.state = state
        self.facts = facts or SaveFacts()
        self.asynchronous = asynchronous and state.format == "DCP"
        self.group = SaveGroup()
        self.opener: OpenFile = open_file
        self.failed: str | None = None
        self._parent = context.resume
        self._result: SaveResult | None = None
        self._thread: threading.Thread | None = None
        self._staging = Staging()

    def save(self, step: int, *, blocking: bool = False, notes: SaveNotes | None = None) -> None:
        """Starts a save of the state as it is now; collective. A save still in flight is waited for."""
        if step < 1:
            raise ValueError(f"step: nothing to save before the first step (got {step}); allowed 1 or more")
        started = time.monotonic()
        self.wait()
        asynchronous = self.asynchronous and not blocking
        job = _Job(
            step=step,
            name=checkpoint_name(step, self.context.incarnation),
            state=self._state(asynchronous),
            notes=notes or SaveNotes(),
            blocking=not asynchronous,
            started=started,
            stall_seconds=time.monotonic() - started,
        )
        if asynchronous:
            self._thread = threading.Thread(
                target=self._run, args=(job,), name="checkpoint-save", daemon=True
            )
            self._thread.start()
        else:
            self._run(job)
            self.wait()

    def wait(self) -> SaveResult | None:
        """Returns when no save is in flight, with how the last one ended; Fenced as said above."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        result = self._result
        if result is not None and result.fenced_by is not None:
            action = f"commit step {result.step}"
            raise Fenced(mine=self.context.incarnation, newest=result.fenced_by, action=action)
        return result

    def _state(self, staged: bool) -> dict[str, Any] | None:
        if self.state.format == "DeepSpeed":
            return None
        random = {randomness.key_of(self.group.rank): randomness.capture()}
        live = {"state": self.state.state_dict(), "random": random}  # type: ignore[union-attr]
        return self._staging.copy(live) if staged else join(live)

    # --- from here on possibly in the thread ------------------------------------------------------

    def _run(self, job: _Job) -> None:
        try:
            result = self._save(job)
        except Exception as error:
            # A peer is gone or the group is broken: the gang is about to be stopped anyway.
            result = SaveResult(step=job.step, problem=_text_of(error, job.name))
            self._send_failed(result)
        self.failed = result.problem
        self._result = result
        if result.record is not None:
            self._parent = result.record.name

    def _save(self, job: _Job) -> SaveResult:
        result = self._begin(job)
        if result is None:
            everyone = self.group.gather(self._write(job))
            problems = [f"rank {rank}: {each}" for rank, (_, each) in enumerate(everyone) if each]
            result = None
            if self.group.rank == 0:
                result = self._finish(job, [entries for entries, _ in everyone], problems)
            result = self.group.from_first(result)
        if self.group.rank == 0:
            self._report(job, result)
        return result

    def _begin(self, job: _Job) -> SaveResult | None:
        """Rank 0 makes the directory; a result instead of None ends the save on every rank."""
        answer: SaveResult | None = None
        if self.group.rank == 0:
            try:
                answer = self._prepare_directory(job)
            except Fenced as error:
                answer = SaveResult(step=job.step, problem=str(error), fenced_by=error.newest)
            except (OSError, SaveError, ValueError) as error:
                answer = SaveResult(step=job.step, problem=_text_of(error, job.name))
        result: SaveResult | None = self.group.from_first(answer)
        return result

    def _prepare_directory(self, job: _Job) -> SaveResult | None:
        require_newest(self.store, self.context.incarnation, f"save {job.name}")
        if self.store.exists(f"{job.name}/{MANIFEST}"):
            return SaveResult(step=job.step, record=record_of(manifests.read(self.store, job.name)))
        if self.store.exists(job.name):
            discard(self.store, job.name, now=time.time())
        self.store.make(job.name)
        return None

    def _write(self, job: _Job) -> tuple[list[FileEntry] | None, str | None]:
        """Writes this rank's files; returns their entries, or None and the problem if it is this rank's."""
        directory = self.store.path(job.name)
        try:
            state = job.state
            entries = self._write_engine(directory) if state is None else self._write_dcp(directory, state)
            path = f"rank-{self.group.rank}.files.json"
            rows = [entry.model_dump(mode="json", by_alias=True) for entry in entries]
            self.store.write(f"{job.name}/{path}", json.dumps(rows, indent=1).encode())
            entries.append(manifests.entry_of(directory, path))
        except CheckpointException as error:
            # torch tells every rank of any rank's failure; each speaks for itself.
            mine, _ = error.failures.get(self.group.rank, (None, None))
            return None, None if mine is None else _text_of(mine, job.name)
        except Exception as error:  # the cause is told in the result
            return None, _text_of(error, job.name)
        return entries, None

    def _write_dcp(self, directory: Path, state: dict[str, Any]) -> list[FileEntry]:
        storage = HashingWriter(directory, self.opener)
        group = self.group.process_group
        try:
            dcp.save(state, storage_writer=storage, process_group=group, no_dist=group is None)
        except CheckpointException:
            if storage.hashing.error is not None:
                # What torch makes of a failed write no longer says why it failed.
                raise storage.hashing.error from None
            raise
        return storage.entries()

    def _write_engine(self, directory: Path) -> list[FileEntry]:
        engine: DirectoryAdapter = self.state  # type: ignore[assignment]
        rank = self.group.rank
        randomness.write(directory / randomness.file_of(rank), randomness.capture())
        engine.save_directory(directory)
        own = randomness.file_of(rank)
        shared = {randomness.file_of(other) for other in range(self.group.world_size)}
        return hash_written(
            directory, lambda path: path == own or (path not in shared and engine.owner_of(path) == rank)
        )

    def _finish(self, job: _Job, written: list[list[FileEntry] | None], problems: list[str]) -> SaveResult:
        """Rank 0: commits, or clears away what a failed save left."""
        try:
            parts = [entries for entries in written if entries is not None]
            if len(parts) < len(written):
                raise SaveError(
                    "; ".join(problems[:3]) or f"checkpoint {job.name}: not saved, for no known reason"
                )
            manifest = self._manifest(job, [entry for part in parts for entry in part])
            sync_directory(self.store.path(job.name))
            manifests.commit(self.store, job.name, manifest)
        except Fenced as error:
            return SaveResult(step=job.step, problem=str(error), fenced_by=error.newest)
        except (OSError, SaveError) as error:
            self._discard(job.name)
            return SaveResult(step=job.step, problem=_text_of(error, job.name))
        return SaveResult(step=job.step, record=record_of(manifest))

    def _discard(self, name: str) -> None:
        try:
            discard(self.store, name, now=time.time())
        except OSError:
            # Without a manifest it does not exist for anyone; retention clears it later.
            return

    def _manifest(self, job: _Job, files: list[FileEntry]) -> Manifest:
        spec = self.context.config.spec
        return Manifest(
            run_uid=self.context.config.run.uid,
            step=job.step,
            incarnation=self.context.incarnation,
            world_size=self.group.world_size,
            strategy=self.state.strategy,
            format=self.state.format,
            files=sorted(files, key=lambda entry: entry.path),
            files_digest=manifests.files_digest(files),
            data_digest=self.facts.data_digest,
            model_digest=self.facts.model_digest,
            parent=self._parent,
            global_batch_size=spec.units_per_step,
            seed=0 if spec.custom is not None else spec.training.seed,
            skipped_windows=list(self.facts.skipped_windows),
            precision=self.facts.precision,
            validation_loss=job.notes.validation_loss,
            recent_losses=list(job.notes.recent_losses),
            suspect_losses=list(job.notes.suspect_losses),
            created_at=datetime.now(UTC),
        )

    def _report(self, job: _Job, result: SaveResult) -> None:
        if result.record is None:
            self._send_failed(result)
            return
        seconds = time.monotonic() - job.started
        event = RankEvent(
            type="Checkpoint",
            at=time.time(),
            rank=self.context.rank,
            step=job.step,
            checkpoint=result.record,
            stall_seconds=seconds if job.blocking else job.stall_seconds,
            write_seconds=seconds if job.blocking else seconds - job.stall_seconds,
            message="blocking" if job.blocking else None,
        )
        self.channel.send(event)

    def _send_failed(self, result: SaveResult) -> None:
        self.channel.send(
            RankEvent(
                type="SaveFailed",
                at=time.time(),
                rank=self.context.rank,
                step=result.step,
                message=result.problem,
            )
        )


def _text_of(error: BaseException, name: str) -> str:
    """One line for the user: what failed, and for a full volume what to do."""
    if is_full(error):
        return full_text(name)
    if isinstance(error, SaveError):
        return str(error)
    first = (str(error).splitlines() or [""])[0]
    return f"checkpoint {name}: not saved ({type(error).__name__}: {first})"
