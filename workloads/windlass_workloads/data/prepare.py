"""The prepare phase: rows of all sources become arrays in the store, once per run.

Called by train/tasks.prepare on one rank before the others start. The result's name is a digest of everything it
depends on, so that a second call finds the first one's work. No randomness: what is left out and what is held out
follows from hashes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from windlass.api.meta import Reason
from windlass.api.training import Columns, Data, DataSource
from windlass_workloads.data.arrays import (
    FORMAT,
    Index,
    SplitWriter,
    digest_of,
    publish,
    read_index,
    write_index,
)
from windlass_workloads.data.chat import Recipe, Sample, Tokenizer, make_sample
from windlass_workloads.data.errors import WorkloadError
from windlass_workloads.data.read import BadRow, Complaints, Limits, read_rows
from windlass_workloads.data.sources import Finder, Request

CHECK_EVERY_ROWS = 64


@dataclass(frozen=True, slots=True)
class Preparation:
    """Everything prepare works from. `check` is called often and may raise StopRequested."""

    data: Data
    seed: int
    tokenizer: Tokenizer
    tokenizer_digest: str
    finder: Finder
    directory: Path
    check: Callable[[], None] = lambda: None
    limits: Limits = field(default_factory=Limits)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LocatedSource:
    """A source with its file. `position` is its index in the spec; `place` is the spec field for messages; `share`
    is the part of its rows that is used."""

    source: DataSource
    path: Path
    place: str
    position: int
    share: Decimal = Decimal(1)


@dataclass(slots=True)
class Counts:
    """What was left out or cut, for the plan. By source: rows that could be trained on, and those of them not taken."""

    dropped: int = 0
    cut: int = 0
    usable: dict[int, int] = field(default_factory=dict)
    left_out: dict[int, int] = field(default_factory=dict)

    def takes(self, position: int, *, taken: bool) -> bool:
        """Counts a row of a source and passes on whether it is taken."""
        self.usable[position] = self.usable.get(position, 0) + 1
        self.left_out[position] = self.left_out.get(position, 0) + (not taken)
        return taken


def prepare(work: Preparation) -> Index:
    """Returns the index of the prepared data, made now or found. WorkloadError on anything wrong with the data."""
    training, held_out = locate(work)
    name = name_of(work, [*training, *held_out])
    final = work.directory / name
    found = read_index(final)
    if found is not None:
        return found
    work.directory.mkdir(parents=True, exist_ok=True)
    # Whoever else left one is dead or replaced: a data set half made may be large.
    for left in work.directory.glob(f".{name}.*"):
        shutil.rmtree(left, ignore_errors=True)
    temporary = work.directory / f".{name}.{os.getpid()}"
    try:
        index = _write(work, training, held_out, temporary=temporary, name=name)
        publish(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return index


def locate(work: Preparation) -> tuple[list[LocatedSource], list[LocatedSource]]:
    """Files of all sources: for training, and for validation when it names a file."""
    training = []
    heaviest = max(Decimal(source.weight) for source in work.data.sources)
    for position, source in enumerate(work.data.sources):
        place = f"spec.data.sources[{position}]"
        path = work.finder.find(Request(source.uri, f"{place}.uri", "data", source.secret_ref))
        training.append(LocatedSource(source, path, place, position, Decimal(source.weight) / heaviest))
    validation = work.data.validation
    if validation is None or validation.uri is None:
        return training, []
    # A validation file has no format of its own: it is written like the first source.
    like = work.data.sources[0].model_copy(update={"uri": validation.uri, "weight": "1"})
    path = work.finder.find(Request(validation.uri, "spec.data.validation.uri", "data", like.secret_ref))
    return training, [LocatedSource(like, path, "spec.data.validation", len(training))]


def name_of(work: Preparation, sources: list[LocatedSource]) -> str:
    """Digest of all that the arrays depend on: settings, tokenizer, contents of the files."""
    facts: dict[str, Any] = {
        "format": FORMAT,
        "data": work.data.to_wire(),
        "seed": work.seed,
        "tokenizer": work.tokenizer_digest,
        "files": [file_digest(source.path) if source.path.is_file() else "" for source in sources],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:20]


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(
    work: Preparation,
    training: list[LocatedSource],
    held_out: list[LocatedSource],
    *,
    temporary: Path,
    name: str,
) -> Index:
    counts = Counts()
    train, validation = SplitWriter(temporary / "train"), SplitWriter(temporary / "validation")
    fraction = Decimal(work.data.validation.fraction or "0") if work.data.validation else Decimal(0)
    try:
        for located in training:
            for line, sample in _samples(work, located, counts):
                if held_back(sample, work.seed, fraction):
                    validation.add(sample.tokens, sample.learned)
                elif counts.takes(located.position, taken=is_taken(located, line, work.seed)):
                    train.add(sample.tokens, sample.learned)
        for located in held_out:
            for _, sample in _samples(work, located, counts):
                validation.add(sample.tokens, sample.learned)
        refuse_empty(work.data, len(train.lengths), len(validation.lengths), counts)
        pack_to = work.data.sequence_length if work.data.packing else None
        train.finish(pack_to)
        validation.finish(pack_to)
    finally:
        train.close()
        validation.close()
    digest, sizes = digest_of(temporary)
    index = Index(
        name=name,
        digest=digest,
        train_units=sizes["train/unit_lengths.bin"] // 8,
        validation_units=sizes["validation/unit_lengths.bin"] // 8,
        train_samples=len(train.lengths),
        validation_samples=len(validation.lengths),
        train_tokens=sum(train.lengths),
        dropped_samples=counts.dropped,
        sequence_length=work.data.sequence_length,
        packed=work.data.packing,
        sizes=sizes,
        warnings=[*work.warnings, *warnings_of(counts, work.data)],
    )
    write_index(temporary, index)
    return index


def _samples(work: Preparation, located: LocatedSource, counts: Counts) -> Iterator[tuple[int, Sample]]:
    """Usable samples of one source, cut to length, each with its line."""
    complaints = Complaints(f"{located.place}.uri", located.path.name)
    recipe = Recipe(
        format=located.source.format,
        columns=located.source.columns or Columns(),
        learn_all=work.data.loss_on == "All",
        sequence_length=work.data.sequence_length,
    )
    for number, row in enumerate(
        read_rows(located.path, field=f"{located.place}.uri", complaints=complaints, limits=work.limits)
    ):
        if number % CHECK_EVERY_ROWS == 0:
            work.check()
        try:
            sample = make_sample(row.values, recipe, work.tokenizer)
        except BadRow as error:
            complaints.add(row.line, str(error))
            continue
        counts.cut += len(sample.tokens) > recipe.sequence_length
        sample = Sample(sample.tokens[: recipe.sequence_length], sample.learned[: recipe.sequence_length])
        if not any(sample.learned[1:]):
            counts.dropped += 1
            continue
        yield row.line, sample
    complaints.raise_if_any()


def fraction_of(key: bytes) -> Decimal:
    """A number in [0, 1) that depends on the key alone."""
    return Decimal(int.from_bytes(hashlib.sha256(key).digest()[:7], "big")) / Decimal(1 << 56)


def is_taken(located: LocatedSource, line: int, seed: int) -> bool:
    """Whether a row is used, by its source's share. It follows from seed and place alone."""
    return fraction_of(f"share {seed}/{located.position}/{line}".encode()) < located.share


def held_back(sample: Sample, seed: int, fraction: Decimal) -> bool:
    """Whether a sample belongs to validation. It follows from the text, so that equal samples stay together."""
    if not fraction:
        return False
    return fraction_of(b"validation %d " % seed + repr(sample.tokens).encode()) < fraction


def refuse_empty(data: Data, train: int, validation: int, counts: Counts) -> None:
    """DataEmpty when a split that was asked for has no sample."""
    lost = f"{counts.dropped} samples had nothing to learn within sequenceLength {data.sequence_length}"
    if train == 0:
        raise WorkloadError(
            Reason.DATA_EMPTY,
            f"spec.data.sources: no sample to train on (got 0; {lost}); allowed at least 1.",
            hint="check the files' contents, the weights and data.sequenceLength.",
        )
    if data.validation is not None and validation == 0:
        raise WorkloadError(
            Reason.DATA_EMPTY,
            f"spec.data.validation: no sample to validate on (got 0 of {train}); allowed at least 1.",
            hint="raise validation.fraction, name a file by validation.uri, or leave validation out.",
        )


def warnings_of(counts: Counts, data: Data) -> list[str]:
    """What a reader should know although it is no error."""
    heaviest = max((source.weight for source in data.sources), key=Decimal)
    warnings = [
        f"spec.data.sources[{position}].weight: {left_out} of {counts.usable[position]} rows are left out of each pass "
        f"(weight {data.sources[position].weight} beside {heaviest})"
        for position, left_out in counts.left_out.items()
        if left_out
    ]
    if counts.cut:
        warnings.append(
            f"spec.data.sequenceLength: {counts.cut} samples were cut to {data.sequence_length} tokens"
        )
    if counts.dropped:
        warnings.append(
            f"spec.data: {counts.dropped} samples were dropped, nothing to learn was left in them"
        )
    return warnings
