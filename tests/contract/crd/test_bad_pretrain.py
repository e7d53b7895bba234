"""Bad input of a PretrainJob: refused by a real API server and offline, at one field and in one sentence.

Each row is one rule that a FineTuneJob lacks: the field's path, the value given, what is allowed and the next step
stand in both answers. Bounds of numbers and forms of strings are in tests/unit/api/test_pretrain.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from contract.crd.specs import (
    ABSENT,
    NEW_BERT,
    NEW_LLAMA,
    PASSES,
    PRETRAIN_JOBS,
    SHARES,
    VALID_PRETRAIN,
    Document,
    change,
)
from contract.server import Client
from windlass.api.finetune import FineTuneJobSpec
from windlass.api.judging import text
from windlass.api.nodes import Node, members, read
from windlass.api.pretrain import PretrainJobSpec
from windlass.api.rules import Rule
from windlass.api.validation import validate

pytestmark = pytest.mark.contract

SOURCES = "spec.corpus.sources"
LLAMA = NEW_LLAMA["spec"]["architecture"]
TRAIN = {"train": {"vocabularySize": 8192}}


@dataclass(frozen=True)
class Row:
    """One bad input: a change of a valid document, and each part of what is said at the field `at`."""

    bad: str
    base: Document
    path: str
    value: Any
    at: str
    wrong: str
    got: str
    allowed: str
    hint: str

    @property
    def said(self) -> str:
        return text(self.wrong, got=self.got, allowed=self.allowed, hint=self.hint)


def shares(*parts: str | None) -> list[dict[str, str]]:
    return [
        {"uri": f"pvc://data/{place}"} | ({} if part is None else {"share": part})
        for place, part in enumerate(parts)
    ]


ONE_START = (
    "exactly one of model and architecture must be set",
    "model to train on an existing one, or architecture for a new one",
    "write for example model: {uri: pvc://models/SmolLM2-135M}",
)
TOKENIZER = (
    "a new model needs a tokenizer, and an existing one has its own",
    "tokenizer with architecture, and no tokenizer with model",
    "write tokenizer: {train: {vocabularySize: 32768}} for a new model, or remove tokenizer",
)
ONE_TOKENIZER = (
    "exactly one of uri and train must be set",
    "uri, or train",
    "write train: {vocabularySize: 32768} to train one on the corpus",
)
FAMILY = (
    "does not fit the objective",
    "Llama with CausalLM, Bert with MaskedLM",
    "change architecture.type, or objective",
)
ONE_LENGTH = (
    "exactly one of tokenBudget, epochs and maxSteps must be set",
    "tokenBudget, epochs, or maxSteps",
    "write tokenBudget: 1000000000 to train on so many tokens",
)
SUM = ("the shares of all sources do not sum to 1", "shares whose sum is 1", "raise or lower one of them")
SOME = (
    "some sources have a share and some have none",
    "a share for each source, or for none",
    "give every source its share of the tokens",
)
HEADS = ("is not divisible by heads", "a multiple of heads", "64 or 128 per head is usual")
PAIRS = (
    "leaves an odd width to each head",
    "a multiple of twice heads with type Llama",
    "64 or 128 per head is usual",
)
GROUPS = ("does not divide heads", "a number that divides heads", "leave it out for one per head")


def row(
    bad: str, base: Document, path: str, value: Any, *, at: str = "", got: str, says: tuple[str, str, str]
) -> Row:
    wrong, allowed, hint = says
    return Row(bad, base, path, value, at or path, wrong, got, allowed, hint)


ROWS = (
    row(
        "B57",
        VALID_PRETRAIN,
        "spec.model",
        ABSENT,
        got="model.uri=nothing, architecture.type=nothing",
        says=ONE_START,
    ),
    row(
        "B57",
        NEW_LLAMA,
        "spec.model",
        {"uri": "pvc://models/m"},
        got="model.uri=pvc://models/m, architecture.type=Llama",
        says=ONE_START,
    ),
    row("B57", VALID_PRETRAIN, "spec.tokenizer", TRAIN, got="a tokenizer with model", says=TOKENIZER),
    row("B57", NEW_LLAMA, "spec.tokenizer", ABSENT, got="no tokenizer with architecture", says=TOKENIZER),
    row(
        "B57",
        NEW_LLAMA,
        "spec.tokenizer",
        {},
        got="uri=nothing, train.vocabularySize=nothing",
        says=ONE_TOKENIZER,
    ),
    row(
        "B57",
        NEW_LLAMA,
        "spec.tokenizer.uri",
        "hf://org/name",
        at="spec.tokenizer",
        got="uri=hf://org/name, train.vocabularySize=8192",
        says=ONE_TOKENIZER,
    ),
    *(
        row(
            "B57",
            VALID_PRETRAIN,
            "spec.training",
            {"globalBatchSize": 16, **lengths},
            got=", ".join(
                f"{name}={lengths.get(name, 'nothing')}" for name in ("tokenBudget", "epochs", "maxSteps")
            ),
            says=ONE_LENGTH,
        )
        for lengths in (
            {},
            {"epochs": 1, "maxSteps": 5},
            {"tokenBudget": 10, "epochs": 1},
            {"tokenBudget": 10, "epochs": 1, "maxSteps": 5},
        )
    ),
    row(
        "B58",
        NEW_LLAMA,
        "spec.objective",
        "MaskedLM",
        at="spec.architecture.type",
        got="Llama with objective MaskedLM",
        says=FAMILY,
    ),
    row(
        "B58",
        NEW_BERT,
        "spec.objective",
        ABSENT,
        at="spec.architecture.type",
        got="Bert with objective CausalLM",
        says=FAMILY,
    ),
    row(
        "B58",
        VALID_PRETRAIN,
        "spec.maskedShare",
        "0.3",
        got="0.3 with objective CausalLM",
        says=(
            "is for MaskedLM only",
            "maskedShare with objective MaskedLM",
            "remove maskedShare, or set objective: MaskedLM",
        ),
    ),
    row(
        "B58",
        NEW_BERT,
        "spec.training.zLoss",
        "1e-4",
        got="1e-4 with objective MaskedLM",
        says=("is for CausalLM only", "zLoss with objective CausalLM", "remove zLoss"),
    ),
    row(
        "B58",
        VALID_PRETRAIN,
        "spec.corpus.prepare",
        {"duplicates": "Exact", "threshold": "0.8"},
        at="spec.corpus.prepare.threshold",
        got="threshold=0.8 with duplicates Exact",
        says=(
            "threshold is for near duplicates only",
            "threshold with duplicates Near",
            "remove threshold, or set duplicates: Near",
        ),
    ),
    row(
        "B58",
        NEW_BERT,
        "spec.architecture.keyValueHeads",
        2,
        got="2 with type Bert",
        says=("is for Llama only", "keyValueHeads with type Llama", "remove keyValueHeads"),
    ),
    row("B61", NEW_LLAMA, "spec.architecture.hiddenSize", 66, got="66 with 4 heads", says=HEADS),
    row(
        "B61",
        NEW_LLAMA,
        "spec.architecture",
        {**LLAMA, "heads": 5, "keyValueHeads": 5},
        at="spec.architecture.hiddenSize",
        got="64 with 5 heads",
        says=HEADS,
    ),
    row("B61", NEW_LLAMA, "spec.architecture.hiddenSize", 12, got="12 with 4 heads", says=PAIRS),
    row("B61", NEW_LLAMA, "spec.architecture.keyValueHeads", 3, got="3 with 4 heads", says=GROUPS),
    row("B61", NEW_LLAMA, "spec.architecture.keyValueHeads", 8, got="8 with 4 heads", says=GROUPS),
    *(
        row("", VALID_PRETRAIN, SOURCES, shares(*parts), got=got, says=SUM)
        for parts, got in (
            (("0.5",), "0.5"),
            (("0.7", "0.2"), "0.9"),
            (("0.7", "0.4"), "1.1"),
            (("0.9999",), "0.9999"),
            (("1", "1.0"), "2"),
            (("0.3333", "0.3333", "0.3333"), "0.9999"),
            (("0.3334", "0.3334", "0.3333"), "1.0001"),
            (("0.0001",) * 64, "0.0064"),
            (("1",) * 64, "64"),
        )
    ),
    *(
        row("", VALID_PRETRAIN, SOURCES, shares(*parts), got=got, says=SOME)
        for parts, got in (
            ((None, "1"), "1 of 2 sources without share"),
            (("0.5", None, None), "2 of 3 sources without share"),
        )
    ),
    row(
        "",
        SHARES,
        "spec.training",
        PASSES["spec"]["training"],
        at="spec.training.epochs",
        got="epochs=1 with shares",
        says=(
            "sources with shares have no passes in common",
            "epochs with sources without share",
            "write tokenBudget or maxSteps in place of epochs, or remove the shares",
        ),
    ),
    row(
        "",
        VALID_PRETRAIN,
        "spec.training.validateEverySteps",
        10,
        got="validateEverySteps=10 without corpus.heldOut",
        says=(
            "there are no validation samples",
            "validateEverySteps with corpus.heldOut",
            'add corpus.heldOut with fraction: "0.01", or remove validateEverySteps',
        ),
    ),
    *(
        row(
            "B59",
            NEW_LLAMA,
            "spec.tokenizer.train.vocabularySize",
            size,
            got=str(size),
            says=("is out of range", "300 to 1000000", "32768 is usual"),
        )
        for size in (299, 1_000_001)
    ),
    *(
        row(
            "B33",
            VALID_PRETRAIN,
            SOURCES,
            [{"uri": uri}],
            at=f"{SOURCES}[0].uri",
            got=uri,
            says=(
                "is not written as it must be",
                "pvc://claim or pvc://claim/path",
                "copy the texts onto a PersistentVolumeClaim of this namespace and write for example pvc://data/web",
            ),
        )
        for uri in ("/etc/passwd", "hf://org/name", "s3://bucket/web", "pvc://")
    ),
    row(
        "B33",
        VALID_PRETRAIN,
        SOURCES,
        [{"uri": "pvc://data/../x"}],
        at=f"{SOURCES}[0].uri",
        got="pvc://data/../x",
        says=(
            "path must not contain '..'",
            "a path below the root of the claim or repository",
            "write the path from the root, without '..'",
        ),
    ),
    row(
        "B37",
        VALID_PRETRAIN,
        SOURCES,
        [{"uri": "s3://user:word@bucket/web"}],
        at=f"{SOURCES}[0].uri",
        got="s3://***@bucket/web",
        says=(
            "credentials in a URI are not allowed",
            "a URI without user and password",
            "put the credential into a Secret of this namespace and name it in secretRef beside the uri",
        ),
    ),
)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            one, marks=[pytest.mark.bad_input(one.bad)] if one.bad else [], id=f"{one.at}-{one.got[:40]}"
        )
        for one in ROWS
    ],
)
def test_bad_input_is_refused_with_the_way_out(api_server: Client, case: Row) -> None:
    document = change(case.path, case.value, case.base)
    answer = api_server.create(PRETRAIN_JOBS.format("default"), document, dry_run=True)
    assert answer.code == 422, answer.message
    own = [message for field, message in answer.causes if field == case.at]
    assert any(case.said in message for message in own), answer.causes
    assert "user:word" not in answer.message
    assert [str(one) for one in validate(document)] == [f"{case.at}: {case.said}"]


def rules_of(node: Node) -> Iterator[Rule]:
    yield from node.rules
    if node.item is not None:
        yield from rules_of(node.item)
    for one in members(node.model) if node.model is not None else ():
        yield from rules_of(one.node)


def test_every_rule_that_only_this_kind_has_is_broken_above() -> None:
    other = {rule.template for rule in rules_of(read(FineTuneJobSpec))}
    own = {
        (rule.wrong, rule.allowed): rule
        for rule in rules_of(read(PretrainJobSpec))
        if rule.template not in other
    }
    told = {(one.wrong, one.allowed) for one in ROWS}
    # Ranges of single numbers are in the unit tests' tables.
    assert {
        key for key, rule in own.items() if not rule.frozen and rule.wrong != "is out of range"
    } - told == {
        # Its shares are strings of one form, judged with the other strings' forms.
        ("is not written as it must be", "0.0001 to 1, with at most four places")
    }


# --- what cannot change -----------------------------------------------------------------------------

FROZEN: tuple[tuple[Document, str, Any, str, str], ...] = (
    (VALID_PRETRAIN, "spec.objective", "MaskedLM", "spec.objective", "got MaskedLM, was CausalLM"),
    (NEW_BERT, "spec.maskedShare", "0.3", "spec.maskedShare", "got 0.3, was nothing"),
    (
        VALID_PRETRAIN,
        "spec.model.uri",
        "pvc://models/b",
        "spec.model",
        "got pvc://models/b, was pvc://models/S",
    ),
    (NEW_LLAMA, "spec.architecture.layers", 3, "spec.architecture", "got another block"),
    (NEW_LLAMA, "spec.tokenizer.train.vocabularySize", 512, "spec.tokenizer", "got another block"),
    (VALID_PRETRAIN, f"{SOURCES}.0.column", "content", "spec.corpus", "got another block"),
    (VALID_PRETRAIN, "spec.corpus.prepare.quality", "Gopher", "spec.corpus", "got another block"),
    (VALID_PRETRAIN, "spec.training.tokenBudget", 2_000_000, "spec.training", "got another block"),
)


@pytest.mark.bad_input("B68")
@pytest.mark.parametrize(("base", "path", "value", "at", "got"), FROZEN, ids=[one[1] for one in FROZEN])
def test_what_a_run_stands_on_cannot_change(
    api_server: Client, namespace: str, base: Document, path: str, value: Any, at: str, got: str
) -> None:
    jobs = PRETRAIN_JOBS.format(namespace)
    stored = api_server.create(jobs, base).expect(201)
    changed = change(path, value, stored)
    answer = api_server.replace(f"{jobs}/job", changed, dry_run=True)
    assert answer.code == 422, answer.message
    (message,) = [message for field, message in answer.causes if field == at]
    (problem,) = validate(changed, previous=stored)
    assert problem.path == at
    for said in (message, problem.message):
        assert f"cannot change after creation ({got}" in said, said
        assert "; allowed: what the job was created with. hint: create a new job with another name" in said


@pytest.mark.bad_input("B68")
def test_a_model_that_is_trained_further_cannot_become_a_new_one(api_server: Client, namespace: str) -> None:
    jobs = PRETRAIN_JOBS.format(namespace)
    stored = api_server.create(jobs, VALID_PRETRAIN).expect(201)
    changed = {**stored, "spec": {**stored["spec"], **NEW_LLAMA["spec"]}}
    del changed["spec"]["model"]
    answer = api_server.replace(f"{jobs}/job", changed, dry_run=True)
    assert answer.code == 422
    at = {"spec.model", "spec.architecture", "spec.tokenizer"}
    assert {field for field, _ in answer.causes} == {one.path for one in validate(changed, stored)} == at


@pytest.mark.parametrize(
    ("path", "value"),
    [("spec.suspend", True), ("spec.checkpoint.everySteps", 5), ("spec.pod.image", "two:2")],
)
def test_what_a_run_does_not_stand_on_can_change(
    api_server: Client, namespace: str, path: str, value: Any
) -> None:
    jobs = PRETRAIN_JOBS.format(namespace)
    stored = api_server.create(jobs, NEW_LLAMA).expect(201)
    changed = change(path, value, stored)
    api_server.replace(f"{jobs}/job", changed, dry_run=True).expect(200)
    assert validate(changed, previous=stored) == []
