"""Which model a run works on, settled once: prepare writes it down, every rank of every incarnation reads it.

A branch of a hub repository and an alias of a registry move. A run that looked them up again after a restart could put
its saved adapter on another base without a word, and could not recover while the network is away.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from windlass.api.contract import RunConfig
from windlass.api.meta import Reason
from windlass.api.training import ModelSource
from windlass_workloads.checkpoint.store import INITIAL, MODEL, RunStore
from windlass_workloads.data.errors import WorkloadError
from windlass_workloads.data.sources import Finder, Request
from windlass_workloads.train.model import FIELD, LocalModel, find_model, read_model


@dataclass(frozen=True, slots=True)
class Pin:
    """A remote model as it was when the run began; `directory` is relative to the run's store."""

    uri: str
    directory: str
    revision: str | None
    digest: str


def pin_model(config: RunConfig, finder: Finder) -> LocalModel:
    """The run's model for prepare: looked up, downloaded and pinned, if no prepare did so before."""
    source, store = started_from(config), RunStore(config.store_path)
    if source.uri.startswith("pvc://"):
        return find_model(source, finder)
    if not store.exists(MODEL):
        found = finder.look_up(Request(source.uri, FIELD, "model", source.secret_ref))
        local = read_model(source.uri, found.path)
        directory = found.path.resolve().relative_to(store.root.resolve()).as_posix()
        pin = Pin(source.uri, directory, found.revision, local.digest)
        store.create(MODEL, (json.dumps(asdict(pin), indent=1) + "\n").encode())
    return pinned_model(config, finder)


def pinned_model(config: RunConfig, finder: Finder) -> LocalModel:
    """The run's model for ranks, without the network: on its claim, or where prepare put it."""
    store = RunStore(config.store_path)
    if config.spec.start is None:
        return new_model(config)
    source = config.spec.start
    if source.uri.startswith("pvc://"):
        return find_model(source, finder)
    data = store.read(MODEL)
    if data is None:
        raise _lost(source.uri, f"{MODEL} is missing")
    pin = Pin(**json.loads(data))
    directory = store.path(pin.directory)
    if not directory.is_dir():
        raise _lost(source.uri, f"{pin.directory} is missing")
    local = read_model(source.uri, directory)
    if local.digest != pin.digest:
        raise _lost(source.uri, f"the files in {pin.directory} have changed")
    return local


def new_model(config: RunConfig) -> LocalModel:
    """The model that prepare made for this run."""
    origin, directory = config.spec.origin, RunStore(config.store_path).path(INITIAL)
    if not directory.is_dir():
        raise _lost(origin, f"{INITIAL} is missing", field="spec.architecture")
    return read_model(origin, directory)


def started_from(config: RunConfig) -> ModelSource:
    """The model that the spec names."""
    start = config.spec.start
    if start is None:
        raise TypeError(f"{FIELD}: is not there (got a new model); allowed: a job that names one")
    return start


def _lost(uri: str, what: str, *, field: str = FIELD) -> WorkloadError:
    return WorkloadError(
        Reason.MODEL_NOT_FOUND,
        f"{field}: the run's copy of its model in the checkpoint store is gone (got {uri}): {what}.",
        hint="create a new job; what is in a run's directory of the store must not be changed while it exists.",
    )
