"""What is wrong with a PretrainJob's texts, model or tokenizer: told by its prepare task, with the way out."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import write_model, write_texts
from tests.workloads.train.support import NEW_BERT, NEW_LLAMA, PRETRAINING, ForkServer, Job, merge
from windlass.api.meta import ExitCode, Reason
from windlass_workloads.data import arrays

pytestmark = pytest.mark.workloads

ONE = "spec.corpus.sources[0].uri: "
Spoil = Callable[[Path], Any]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Volumes with nothing wrong in them."""
    root = tmp_path_factory.mktemp("sound")
    write_texts(root / "texts", count=12)
    write_model(root / "models" / "tiny", hidden=16, layers=1, context=64)
    return root


@pytest.fixture
def job(fork_server: ForkServer, sound: Path, tmp_path: Path) -> Job:
    """A job on volumes of its own, which a test may spoil."""
    shutil.copytree(sound, tmp_path / "volumes")
    return Job(fork_server, tmp_path / "volumes", tmp_path, merge(PRETRAINING, {}), kind="PretrainJob")


def rows(*texts: str, column: str = "text") -> bytes:
    return b"".join(json.dumps({column: text}).encode() + b"\n" for text in texts)


def source(name: str, **more: Any) -> dict[str, Any]:
    return {"corpus": {"sources": [{"uri": f"pvc://texts/{name}", **more}]}}


# --- what spoils a volume --------------------------------------------------------------------------


def cut_off(volumes: Path) -> None:
    packed = gzip.compress((volumes / "texts" / "a.jsonl").read_bytes(), mtime=0)
    (volumes / "texts" / "a.jsonl.gz").write_bytes(packed[:-20])


def bomb(volumes: Path) -> None:
    import pyarrow as pa

    with pa.CompressedOutputStream(str(volumes / "texts" / "bomb.jsonl.zst"), "zstd") as file:
        for _ in range(66):
            file.write(bytes(1 << 24))


def write(name: str, content: bytes) -> Spoil:
    return lambda volumes: (volumes / "texts" / name).write_bytes(content)


def link(name: str) -> Spoil:
    def spoil(volumes: Path) -> None:
        (volumes / "secret.jsonl").write_bytes(rows("root:x:0:0"))
        (volumes / "texts" / name).symlink_to(volumes / "secret.jsonl")

    return spoil


def edit(name: str, change: Callable[[dict[str, Any]], Any]) -> Spoil:
    """Change a JSON file of the tiny model."""

    def spoil(volumes: Path) -> None:
        path = volumes / "models" / "tiny" / name
        described = json.loads(path.read_text())
        change(described)
        path.write_text(json.dumps(described))

    return spoil


def no_tokenizer(volumes: Path) -> None:
    for path in (volumes / "models" / "tiny").glob("tokenizer*"):
        path.unlink()


def bidirectional(volumes: Path) -> None:
    edit("config.json", lambda config: config.update(model_type="bert", architectures=["BertForMaskedLM"]))(
        volumes
    )


@dataclass(frozen=True)
class Row:
    """One wrong thing: what spoils the volumes, the spec, and all that the failure says of it."""

    name: str
    spoil: Spoil
    changes: dict[str, Any]
    reason: Reason
    said: tuple[str, ...]
    hint: str
    bad: str | None = None


def nothing(volumes: Path) -> None:
    """The spec alone is wrong."""


ROWS = [
    Row(
        "a file that is not there",
        nothing,
        source("c.jsonl"),
        Reason.DATA_NOT_FOUND,
        (ONE, "nothing at c.jsonl on claim texts (got pvc://texts/c.jsonl); / holds a.jsonl, b"),
        "correct the path",
    ),
    Row(
        "a gzip file that is cut off",
        cut_off,
        source("a.jsonl.gz"),
        Reason.DATA_UNREADABLE,
        (ONE, "a.jsonl.gz cannot be read to its end: "),
        "write it again; it may be cut off; nothing was written.",
    ),
    Row(
        "an empty file",
        write("c.jsonl", b""),
        source("c.jsonl"),
        Reason.DATA_EMPTY,
        (ONE, "no document of c.jsonl can be used (got no row); allowed at least 1"),
        "each row needs a text in column text",
    ),
    Row(
        "a column that is not there",
        nothing,
        source("a.jsonl", column="body"),
        Reason.DATA_EMPTY,
        (ONE, "no document of a.jsonl can be used (got NoText 13, for example a.jsonl@0: got text)"),
        "each row needs a text in column body",
    ),
    Row(
        "rows that are no UTF-8",
        write("c.jsonl", b'{"text": "\xff"}\n' * 3),
        source("c.jsonl"),
        Reason.DATA_EMPTY,
        (
            ONE,
            "no document of c.jsonl can be used (got NotUTF8 3, for example c.jsonl@0: ",
            "allowed at least 1",
        ),
        "each row needs a text in column text",
    ),
    Row(
        "a file that expands beyond all measure",
        bomb,
        source("bomb.jsonl.zst"),
        Reason.DATA_UNREADABLE,
        (ONE, "bomb.jsonl.zst expands too far (got more than ", "allowed 1000 times its stored size"),
        "split it, or remove it",
        bad="B39",
    ),
    Row(
        "a link that leads out of the claim",
        link("out.jsonl"),
        source("out.jsonl"),
        Reason.DATA_NOT_FOUND,
        (
            ONE,
            "leaves its claim through a symbolic link (got pvc://texts/out.jsonl); allowed are links inside claim",
        ),
        "replace the link by the file it points to",
        bad="B38",
    ),
    Row(
        "a link in a directory that leads out of it",
        link("b/out.jsonl"),
        source("b"),
        Reason.DATA_UNREADABLE,
        (ONE, "out.jsonl is a link that leads out of b"),
        "copy what it leads to in its place",
        bad="B38",
    ),
    Row(
        "texts that fill no row",
        write("c.jsonl", rows("a few words")),
        source("c.jsonl"),
        Reason.DATA_EMPTY,
        (
            ONE,
            "its texts fill no row of corpus.sequenceLength 32 (got ",
            "of 1 texts in all); allowed at least 32 ",
        ),
        "add texts, lower corpus.sequenceLength, or leave the source out",
    ),
    Row(
        "a source with a share that fills no row",
        write("c.jsonl", rows("a few words")),
        {
            "corpus": {
                "sources": [
                    {"uri": "pvc://texts/a.jsonl", "share": "0.9"},
                    {"uri": "pvc://texts/c.jsonl", "share": "0.1"},
                ]
            }
        },
        Reason.DATA_EMPTY,
        ("spec.corpus.sources[1].uri: its texts fill no row of corpus.sequenceLength 32",),
        "leave the source out",
    ),
    Row(
        "held-out texts that fill no row",
        nothing,
        {"corpus": {"heldOut": {"fraction": "0.001"}}},
        Reason.DATA_EMPTY,
        (
            "spec.corpus.heldOut.fraction: the held-out texts fill no row of corpus.sequenceLength 32 (got 0 tokens",
            "allowed at least 32 tokens of a source",
        ),
        "raise the fraction, add texts, or leave heldOut out",
    ),
    Row(
        "a tokenizer of another model",
        edit("config.json", lambda config: config.update(vocab_size=300)),
        {},
        Reason.MODEL_NOT_FOUND,
        (
            "spec.model.uri: the tokenizer does not fit the model (got ",
            " tokens for 300 embeddings in pvc://models/tiny); allowed at most 300 tokens",
        ),
        "copy the model again with its own tokenizer files",
    ),
    Row(
        "a model without a tokenizer",
        no_tokenizer,
        {},
        Reason.MODEL_NOT_FOUND,
        ("spec.model.uri: the tokenizer cannot be loaded (got pvc://models/tiny)",),
        "copy the model's tokenizer files",
    ),
    Row(
        "a model whose tokenizer ends no text",
        edit("tokenizer_config.json", lambda config: config.pop("eos_token")),
        {},
        Reason.CONFIGURATION,
        (
            "spec.model.uri: the tokenizer has no eos_token (got none); allowed one with it, for objective CausalLM",
        ),
        "set eos_token in its tokenizer_config.json.",
    ),
    Row(
        "a named tokenizer that ends no text",
        edit("tokenizer_config.json", lambda config: config.pop("eos_token")),
        {**NEW_LLAMA, "tokenizer": {"uri": "pvc://models/tiny"}},
        Reason.CONFIGURATION,
        ("spec.tokenizer.uri: the tokenizer has no eos_token (got none); allowed one with it",),
        "or train a new one by tokenizer.train",
    ),
    Row(
        "a named tokenizer that hides nothing",
        nothing,
        {**NEW_BERT, "tokenizer": {"uri": "pvc://models/tiny"}},
        Reason.CONFIGURATION,
        (
            "spec.tokenizer.uri: the tokenizer has no mask_token (got none); allowed one with it, for objective M",
        ),
        "set mask_token in its tokenizer_config.json",
    ),
    Row(
        "a named tokenizer that is none",
        no_tokenizer,
        {**NEW_LLAMA, "tokenizer": {"uri": "pvc://models/tiny"}},
        Reason.MODEL_NOT_FOUND,
        ("spec.tokenizer.uri: the tokenizer cannot be loaded (got pvc://models/tiny)",),
        "copy the model's tokenizer files",
    ),
    Row(
        "hidden tokens for a model that predicts the next",
        nothing,
        {"objective": "MaskedLM"},
        Reason.CONFIGURATION,
        (
            "spec.model.uri: this model cannot learn MaskedLM (got model_type llama in pvc://models/tiny); allowed a "
            "model that AutoModelForMaskedLM of transformers knows.",
        ),
        "name another model, or choose another objective",
    ),
    Row(
        "next tokens for a model that sees them",
        bidirectional,
        {},
        Reason.CONFIGURATION,
        (
            "spec.model.uri: this model cannot learn CausalLM (got model_type bert in pvc://models/tiny)",
            "whose tokens see none after them.",
        ),
        "name another model, or choose another objective",
    ),
    Row(
        "rows that are longer than the model's positions",
        nothing,
        {"corpus": {"sequenceLength": 65}},
        Reason.SEQUENCE_TOO_LONG,
        (
            "spec.corpus.sequenceLength: longer than the model's context (got 65); allowed at most 64 for "
            "pvc://models/tiny.",
        ),
        "set corpus.sequenceLength to 64 or less",
        bad="B62",
    ),
]


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=row.name, marks=[pytest.mark.bad_input(row.bad)] if row.bad else [])
        for row in ROWS
    ],
)
def test_what_cannot_be_trained_on_is_refused_with_field_value_and_way_out(job: Job, row: Row) -> None:
    row.spoil(job.volumes)
    job.spec = merge(job.spec, row.changes)
    refused = job.start("prepare")
    assert refused.codes == [ExitCode.CONFIGURATION], refused.logs[0][-1500:]
    failure = refused.of("Failure")[0].failure
    assert failure.reason == row.reason
    assert failure.message.startswith(row.said[0])
    assert [part for part in row.said if part not in failure.message] == [], failure.message
    assert failure.hint.endswith(row.hint) if row.hint.endswith(".") else row.hint in failure.hint
    assert not refused.of("Prepared") and not refused.of("Plan")
    assert list((job.store / "prepared").glob("*")) == []


# --- what is left out and told ---------------------------------------------------------------------


def test_texts_that_are_left_out_are_counted_and_told_in_the_plan(job: Job) -> None:
    texts = (job.volumes / "texts" / "a.jsonl").read_bytes().splitlines(keepends=True)
    (job.volumes / "texts" / "c.jsonl").write_bytes(
        b"".join([*texts, texts[0], b'{"text": "\xff"}\n', b"not json\n", b'{"body": "x"}\n'])
    )
    job.spec = merge(job.spec, source("c.jsonl"))
    plan = job.prepare().of("Plan")[0].plan
    assert plan.dropped_samples == 5
    assert plan.warnings[0] == (
        "spec.corpus: 5 texts were left out (ExactDuplicate 2, NoText 1, NotJSON 1, NotUTF8 1); see the datasheet"
    )


def test_tokens_that_fill_no_row_are_told_in_the_plan(job: Job) -> None:
    plan = job.prepare().of("Plan")[0].plan
    index = arrays.open_prepared(job.store / "prepared" / str(job.prepared))
    assert plan.train_tokens == 32 * sum(index.train_parts) and len(index.train_parts) == 2
    [told] = [warning for warning in plan.warnings if warning.startswith("spec.corpus.sequenceLength: ")]
    left = int(told.split()[1])
    assert 0 < left < 2 * 32
    assert told.endswith("tokens at the ends of sources fill no row and are not trained on")


def test_a_source_that_is_passed_over_many_times_is_told_in_the_plan(job: Job) -> None:
    (job.volumes / "texts" / "c.jsonl").write_bytes(rows("a few words that go on and on " * 8))
    sources = [{"uri": "pvc://texts/a.jsonl", "share": "0.5"}, {"uri": "pvc://texts/c.jsonl", "share": "0.5"}]
    job.spec = merge(job.spec, {"corpus": {"sources": sources}, "training": {"maxSteps": 100}})
    plan = job.prepare().of("Plan")[0].plan
    few = arrays.open_prepared(job.store / "prepared" / str(job.prepared)).train_parts[1]
    assert (
        f"spec.corpus.sources[1].share: the source is passed over {200 / few:.1f} times ({few} rows for 200); more "
        "than 4 passes teach little"
    ) in plan.warnings


def test_texts_that_spell_special_tokens_are_learned_as_texts(job: Job) -> None:
    (job.volumes / "texts" / "c.jsonl").write_bytes(rows("[MASK]" * 200))
    sources = [{"uri": "pvc://texts/a.jsonl", "share": "0.5"}, {"uri": "pvc://texts/c.jsonl", "share": "0.5"}]
    changes = {"corpus": {"sources": sources}, "training": {"globalBatchSize": 1, "maxSteps": 4}}
    job.spec = merge(job.spec, {**NEW_BERT, **changes, "checkpoint": {"export": "None"}})
    run = job.train().ok()
    assert all(loss > 0 for loss in run.losses().values()), "as special tokens they could not be hidden"
    assert all(norm > 0 for norm in run.norms().values())
