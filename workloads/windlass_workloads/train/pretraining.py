"""The preparation of a PretrainJob: a corpus, where it is new a tokenizer and a model, and rows of tokens.

Called by `preparation` on one rank before the others start. Each step leaves its result on the disk under a name that
says all it depends on, so that a preparation which was killed goes on, and one that was made before is found. A corpus
is kept beside the runs of its store, for other runs of the same texts.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from windlass.api.contract import RunConfig
from windlass.api.corpus import PARTS
from windlass.api.meta import Reason
from windlass.api.pretrain import PretrainJobSpec
from windlass_workloads.checkpoint.store import INITIAL, PREPARED, corpora_of
from windlass_workloads.corpus import stages
from windlass_workloads.corpus.inputs import discard
from windlass_workloads.corpus.read import Source
from windlass_workloads.corpus.tasks import UNFINISHED, clear, crew, perform_all, report_of
from windlass_workloads.corpus.tokens import HELD_OUT, TRAIN, Tokenise, tasks_of
from windlass_workloads.data.arrays import FORMAT, Index, digest_of, publish, read_index, write_index
from windlass_workloads.data.errors import WorkloadError
from windlass_workloads.data.rows import Written, all_but_first, write_rows
from windlass_workloads.data.sources import Finder, Request
from windlass_workloads.train.model import (
    FIELD,
    LocalModel,
    check_length,
    check_vocabulary,
    make_shapes,
    read_tokenizer,
    tokenizer_digest,
)
from windlass_workloads.train.newmodel import make_model, train_tokenizer
from windlass_workloads.train.objectives.masked import SHARE, Vocabulary, targets
from windlass_workloads.train.pin import pin_model, pinned_model

MANY_PASSES: Final = 4
"""Passes over a source beyond which repeating it is said to help little."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a preparation works from. `check` is called often and may raise StopRequested."""

    config: RunConfig
    spec: PretrainJobSpec
    finder: Finder
    check: Callable[[], None]

    @property
    def store(self) -> Path:
        """The run's directory."""
        return Path(self.config.store_path)

    @property
    def framed(self) -> bool:
        """Whether rows are for a masked model."""
        return self.spec.objective == "MaskedLM"


def prepare(work: Work) -> tuple[LocalModel, Index]:
    """The model and the index of the rows, made now or found. WorkloadError on anything wrong with texts or model."""
    spec = work.spec
    tokenizer, named = given_tokenizer(work)
    work.check()
    corpus = make_corpus(work)
    if tokenizer is None:
        tokenizer = new_tokenizer(work, corpus)
        work.check()
    if spec.architecture is not None:
        named = make_model(
            work.store / INITIAL,
            spec.architecture,
            tokenizer,
            objective=spec.objective,
            length=spec.sequence_length,
            seed=spec.training.seed,
        )
    work.check()
    local = pinned_model(work.config, work.finder)
    return local, make_rows(work, corpus, tokenizer, named)


def given_tokenizer(work: Work) -> tuple[Any, Path]:
    """The tokenizer of the model to train further, or the one that is named, with its directory; None for a new one.

    Once there is a first model, its own: what a name leads to may be another one by then.
    """
    spec, initial = work.spec, work.store / INITIAL
    if spec.start is not None:
        local = pin_model(work.config, work.finder)
        check_length(local, spec)
        make_shapes(local, spec.objective)
        tokenizer = read_tokenizer(local.directory, field=FIELD, uri=local.uri)
        check_vocabulary(local, tokenizer)
        return fitting(work, tokenizer, FIELD), local.directory
    if initial.exists():
        return read_tokenizer(initial, field="spec.tokenizer", uri=spec.origin), initial
    if spec.tokenizer is None or spec.tokenizer.uri is None:
        return None, initial
    request = Request(spec.tokenizer.uri, "spec.tokenizer.uri", "tokenizer", spec.tokenizer.secret_ref)
    directory = work.finder.find(request)
    tokenizer = read_tokenizer(directory, field=request.field, uri=request.uri)
    return fitting(work, tokenizer, request.field), directory


def fitting(work: Work, tokenizer: Any, field: str) -> Any:
    """The tokenizer; Configuration where it lacks the token that the objective needs."""
    needed = "mask_token" if work.framed else "eos_token"
    if getattr(tokenizer, needed) is None:
        raise WorkloadError(
            Reason.CONFIGURATION,
            f"{field}: the tokenizer has no {needed} (got none); allowed one with it, for objective "
            f"{work.spec.objective}.",
            hint=f"set {needed} in its tokenizer_config.json"
            + ("." if field == FIELD else ", or train a new one by tokenizer.train."),
        )
    return tokenizer


def make_corpus(work: Work) -> Path:
    """The directory of the corpus."""
    corpus = work.spec.corpus
    sources = []
    for place, source in enumerate(corpus.sources):
        field = f"spec.corpus.sources[{place}].uri"
        path = work.finder.find(Request(source.uri, field, "data"))
        sources.append(Source(path, field, source.column))
    near = corpus.prepare.duplicates == "Near"
    recipe = stages.Recipe(
        tuple(sources),
        corpus.prepare.quality,
        float(corpus.prepare.threshold or stages.THRESHOLD) if near else None,
    )
    return stages.make(recipe, corpora_of(work.store), workers=corpus.prepare.workers, check=work.check)


def new_tokenizer(work: Work, corpus: Path) -> Any:
    """A tokenizer that is trained for this run."""
    wanted = work.spec.tokenizer.train if work.spec.tokenizer is not None else None
    assert wanted is not None  # noqa: S101 - a rule of the API
    return train_tokenizer(corpus, wanted.vocabulary_size, framed=work.framed)


def make_rows(work: Work, corpus: Path, tokenizer: Any, directory: Path) -> Index:
    """The prepared rows of this run; `directory` is where tasks find the tokenizer."""
    spec, prepared = work.spec, work.store / PREPARED
    index = json.loads((corpus / stages.INDEX).read_text(encoding="utf-8"))
    fraction = spec.corpus.held_out.fraction if spec.corpus.held_out is not None else "0"
    facts = {
        "format": FORMAT,
        "corpus": index["digest"],
        "tokenizer": tokenizer_digest(tokenizer),
        "heldOut": fraction,
        "length": spec.sequence_length,
        "masked": (spec.masked_share or SHARE) if work.framed else None,
        "shares": list(spec.shares),
    }
    name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:20]
    final, working = prepared / name, prepared / f".{name}.stages"
    # What killed ones have left may be as large as the corpus.
    clear(prepared, name)
    found = read_index(final)
    if found is None:
        tasks = tasks_of(corpus, working, tokenizer=directory, fraction=fraction, framed=work.framed)
        with crew(spec.corpus.prepare.workers):
            perform_all(tasks, spec.corpus.prepare.workers, work.check)
        temporary = Path(tempfile.mkdtemp(prefix=f"{UNFINISHED}{name}.", dir=prepared))
        temporary.chmod(0o755)
        try:
            found = write_split_pair(work, tasks, tokenizer, corpus, temporary=temporary, name=name)
            publish(temporary, final)
        except WorkloadError:
            discard(working)
            raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    discard(working)
    return found


def write_split_pair(
    work: Work, tasks: list[Tokenise], tokenizer: Any, corpus: Path, *, temporary: Path, name: str
) -> Index:
    """Rows of training and validation, and their index."""
    spec, length = work.spec, work.spec.sequence_length
    dropped = json.loads((corpus / stages.INDEX).read_text(encoding="utf-8"))["dropped"]
    vocabulary = Vocabulary.of(tokenizer) if work.framed else None
    count = targets(vocabulary, spec.masked_share or SHARE) if vocabulary is not None else all_but_first
    splits = {}
    for split, file in (("train", TRAIN), ("validation", HELD_OUT)):
        sources = [
            [task.directory / file for task in tasks if task.source == number]
            for number in range(len(spec.corpus.sources))
        ]
        splits[split] = write_rows(temporary / split, sources, length, count, work.check)
    train, validation = splits["train"], splits["validation"]
    refuse_empty(spec, train, validation, texts=sum(report_of(task)["texts"] for task in tasks))
    digest, sizes = digest_of(temporary)
    index = Index(
        name=name,
        digest=mixed(digest, spec.shares),
        train_units=sum(train.parts),
        validation_units=sum(validation.parts),
        train_samples=sum(train.parts),
        validation_samples=sum(validation.parts),
        train_tokens=sum(train.parts) * length,
        dropped_samples=sum(dropped.values()),
        sequence_length=length,
        packed=False,
        sizes=sizes,
        warnings=warnings_of(spec, train, dropped),
        train_parts=train.parts,
        validation_parts=validation.parts,
        corpus=corpus.name,
        vocabulary=vocabulary.to_wire() if vocabulary is not None else None,
    )
    write_index(temporary, index)
    return index


def mixed(digest: str, shares: tuple[str, ...]) -> str:
    """The digest of rows in a mix: a checkpoint may go on with the same rows in the same mix only."""
    if not shares:
        return digest
    parts = [round(Decimal(share) * PARTS) for share in shares]
    return f"sha256:{hashlib.sha256(f'{digest} {parts}'.encode()).hexdigest()}"


def refuse_empty(spec: PretrainJobSpec, train: Written, validation: Written, *, texts: int) -> None:
    """DataEmpty where nothing is left to train on, of a source that has a share, or to validate on."""
    length = spec.sequence_length
    empty = [
        place for place, rows in enumerate(train.parts) if not rows and (spec.shares or not any(train.parts))
    ]
    if empty:
        place = empty[0]
        raise WorkloadError(
            Reason.DATA_EMPTY,
            f"spec.corpus.sources[{place}].uri: its texts fill no row of corpus.sequenceLength {length} (got "
            f"{train.left[place]} tokens to train on, of {texts} texts in all); allowed at least {length} tokens.",
            hint="add texts, lower corpus.sequenceLength, or leave the source out.",
        )
    if spec.corpus.held_out is not None and not any(validation.parts):
        raise WorkloadError(
            Reason.DATA_EMPTY,
            f"spec.corpus.heldOut.fraction: the held-out texts fill no row of corpus.sequenceLength {length} (got "
            f"{sum(validation.left)} tokens, of {texts} texts in all); allowed at least {length} tokens of a source.",
            hint="raise the fraction, add texts, or leave heldOut out.",
        )


def warnings_of(spec: PretrainJobSpec, train: Written, dropped: dict[str, int]) -> list[str]:
    """What a reader should know although it is no error."""
    said = []
    if dropped:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(dropped.items()))
        said.append(
            f"spec.corpus: {sum(dropped.values())} texts were left out ({reasons}); see the datasheet"
        )
    if sum(train.left):
        said.append(
            f"spec.corpus.sequenceLength: {sum(train.left)} tokens at the ends of sources fill no row and are not "
            "trained on"
        )
    steps = spec.known_steps
    for place, share in enumerate(spec.shares):
        rows = (steps or 0) * spec.training.global_batch_size * float(share)
        if rows > MANY_PASSES * train.parts[place]:
            said.append(
                f"spec.corpus.sources[{place}].share: the source is passed over {rows / train.parts[place]:.1f} times "
                f"({train.parts[place]} rows for {rows:.0f}); more than {MANY_PASSES} passes teach little"
            )
    return said
