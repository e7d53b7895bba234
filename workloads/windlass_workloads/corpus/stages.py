"""All stages of a corpus, from files to shards and a datasheet.

`make` is what a pod calls. The directory's name is a digest of everything that the corpus depends on, so that the same
corpus is made once; it appears under that name when it is whole. Stages work in a directory beside it, where each task
leaves what it made: a call after a kill goes on from there, and ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

from windlass.api.meta import Reason
from windlass_workloads.corpus import datasheet, match
from windlass_workloads.corpus.inputs import Files, alone, discard
from windlass_workloads.corpus.minhash import Bands
from windlass_workloads.corpus.read import Source, refused, spelled
from windlass_workloads.corpus.rules import SETS
from windlass_workloads.corpus.shards import SHARD, Shard
from windlass_workloads.corpus.sign import Sign
from windlass_workloads.corpus.tasks import Json, appearing, clear, crew, perform_all, report_of, write_json
from windlass_workloads.data.read import Limits

Twins = dict[str, dict[int, int]]

FORMAT: Final = 2
INDEX: Final = "corpus.json"
THRESHOLD: Final = 0.8
PIECE_BYTES: Final = 16 << 20


@dataclass(frozen=True)
class Recipe:
    """What is made of which files. Nothing here says how fast: the result does not depend on workers."""

    sources: tuple[Source, ...]
    rules: str = "None"
    threshold: float | None = THRESHOLD
    """Resemblance from which a document counts as a repetition; None leaves only exact ones out."""
    piece_bytes: int = PIECE_BYTES
    limits: Limits = field(default_factory=Limits)

    def to_wire(self) -> Json:
        """The recipe without places on this machine."""
        return {
            "format": FORMAT,
            "columns": [source.column for source in self.sources],
            "rules": self.rules,
            "threshold": self.threshold,
            "pieceBytes": self.piece_bytes,
            "rowBytes": self.limits.row_bytes,
        }


def make(
    recipe: Recipe, directory: Path, *, workers: int = 1, check: Callable[[], None] = lambda: None
) -> Path:
    """The directory of the corpus, made now or found. WorkloadError on anything wrong with the sources.

    One process at a time makes it; another one waits, and finds it.
    """
    files = Files.of(recipe.sources, recipe.to_wire())
    name = files.name
    final, working = directory / name, directory / f".{name}.stages"
    directory.mkdir(parents=True, exist_ok=True)
    if final.exists() and not working.exists():
        return final
    with alone(directory / f".{name}.lock", check):
        clear(directory, name)
        if not final.exists():
            files.begin(working)
            with crew(workers):
                run = Run(recipe, working, workers, check)
                signed = run.sign(files)
                refuse_empty(recipe, signed)
                documents = match.Signed(
                    tuple(task.directory for task in signed), starts_of(signed), run.bands
                )
                twins = run.repeats(documents)
                shards = run.write(signed, documents, twins)
            files.refuse_changes(working)
            with appearing(final) as temporary:
                publish(recipe, temporary, signed, shards, twins)
        discard(working)
    return final


@dataclass(frozen=True)
class Run:
    """One call of `make`: what the stages share."""

    recipe: Recipe
    working: Path
    workers: int
    check: Callable[[], None]

    @property
    def bands(self) -> Bands:
        """Keys of each document; a single one, that nobody looks at, where only exact repetitions are left out."""
        threshold = self.recipe.threshold
        return Bands(1, 1) if threshold is None else Bands.for_threshold(threshold)

    def sign(self, files: Files) -> list[Sign]:
        """The first stage."""
        recipe = self.recipe
        tasks = [
            Sign(
                self.working / f"sign-{number:06d}",
                piece,
                recipe.sources[piece.source],
                recipe.rules,
                self.bands,
                recipe.limits,
            )
            for number, piece in enumerate(files.pieces(recipe.piece_bytes))
        ]
        perform_all(tasks, self.workers, self.check)
        return tasks

    def repeats(self, documents: match.Signed) -> Twins:
        """The second stage: documents that repeat others, by reason, each with the one that it repeats."""
        found: Twins = {"ExactDuplicate": match.exact_repeats(documents), "NearDuplicate": {}}
        threshold = self.recipe.threshold
        if threshold is None:
            return found
        groups = match.candidate_groups(documents, list(found["ExactDuplicate"]))
        self.check()
        with match.Library(documents) as library:
            shares = match.shared_out(groups, library)
        tasks = [
            match.Verify(
                self.working / f"verify-{number:06d}", documents, tuple(map(tuple, share)), threshold
            )
            for number, share in enumerate(shares)
        ]
        perform_all(tasks, self.workers, self.check)
        for task in tasks:
            found["NearDuplicate"] |= match.twins_of(task)
        return found

    def write(self, signed: list[Sign], documents: match.Signed, twins: Twins) -> list[Shard]:
        """The last stage."""
        dropped: list[list[int]] = [[] for _ in signed]
        for number in sorted({number for found in twins.values() for number in found}):
            piece, row = documents.place(number)
            dropped[piece].append(row)
        tasks = [
            Shard(
                self.working / f"shard-{number:06d}",
                task.directory,
                task.piece.source,
                self.bands.bands,
                tuple(dropped[number]),
            )
            for number, task in enumerate(signed)
        ]
        perform_all(tasks, self.workers, self.check)
        return tasks


def starts_of(signed: list[Sign]) -> tuple[int, ...]:
    """The number of each piece's first document, and of all."""
    return (0, *accumulate(report_of(task)["documents"] for task in signed))


def refuse_empty(recipe: Recipe, signed: list[Sign]) -> None:
    """DataEmpty where a source has no document that stays: what is wrong with its rows is the same for all."""
    every: list[list[Json]] = [[] for _ in recipe.sources]
    for task in signed:
        every[task.piece.source].append(report_of(task))
    for source, reports in zip(recipe.sources, every, strict=True):
        if any(report["documents"] for report in reports):
            continue
        reasons = datasheet.summed([report["dropped"] for report in reports])
        shown = next((rows[0] for report in reports for rows in report["shown"].values()), None)
        said = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items())) or "no row"
        example = f", for example {shown['place']}: {shown['text'][:80]}" if shown is not None else ""
        problem = f"no document of {spelled(source.path.name)} can be used (got {said}{example}); allowed at least 1"
        ruled = any(rule.name in reasons for rule in SETS[recipe.rules])
        hint = "choose rules None" if ruled else f"each row needs a text in column {source.column}"
        raise refused(source.field, Reason.DATA_EMPTY, problem, hint)


def publish(recipe: Recipe, temporary: Path, signed: list[Sign], shards: list[Shard], twins: Twins) -> None:
    """Shards under their numbers, the index with a digest over all, and the datasheet."""
    files: list[dict[str, Any]] = []
    for task in shards:
        report = report_of(task)
        if report["documents"]:
            name = f"{len(files):06d}.parquet"
            link_or_copy(task.directory / SHARD, temporary / name)
            files.append({"name": name, "source": task.source, **report})
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    sheet = datasheet.sheet([spelled(source.path.name) for source in recipe.sources], signed, shards, twins)
    index = {"digest": f"sha256:{digest}", "recipe": recipe.to_wire(), "shards": files, **sheet}
    write_json(temporary / INDEX, index)
    (temporary / "datasheet.html").write_text(datasheet.page(index), encoding="utf-8")


def link_or_copy(made: Path, name: Path) -> None:
    """A file under a second name; not every volume has links."""
    try:
        name.hardlink_to(made)
    except OSError:
        shutil.copyfile(made, name)
