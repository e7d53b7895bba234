"""What only a PretrainJob has: values that its fields take and refuse, defaults, and what code asks of its spec.

What it shares with a FineTuneJob is in the tables beside this one; combinations are judged in tests/contract/crd.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from contract.crd.specs import (
    NEW_BERT,
    NEW_LLAMA,
    PASSES,
    PRETRAIN_OWN,
    SHARES,
    VALID,
    VALID_PRETRAIN,
    WITH_HELD_OUT,
    Document,
    change,
)
from windlass.api.contract import RunConfig
from windlass.api.finetune import FineTuneJobSpec
from windlass.api.jobs import Input
from windlass.api.kinds import KINDS
from windlass.api.nodes import Kind, defaults
from windlass.api.pretrain import Architecture, NewTokenizer, PretrainJobSpec
from windlass.api.training import SecretReference
from windlass.api.validation import validate

WIDE = change(
    "spec.architecture", {"hiddenSize": 65_536, "layers": 2, "heads": 1024, "keyValueHeads": 1}, NEW_LLAMA
)
ONE_HEAD = change("spec.architecture", {"hiddenSize": 64, "layers": 2, "heads": 1}, NEW_LLAMA)

MANY_RANKS = change(
    "spec.parallelism",
    {"strategy": "FSDP"},
    change(
        "spec.resources",
        {"nodes": 8, "ranksPerNode": 8},
        change("spec.training.globalBatchSize", 64, NEW_LLAMA),
    ),
)


def spec(document: Document, path: str = "", value: Any = None) -> PretrainJobSpec:
    changed = change(f"spec.{path}", value, document) if path else document
    assert validate(changed) == []
    return PretrainJobSpec.model_validate(changed["spec"])


def told(path: str, value: Any, base: Document) -> list[str]:
    return [str(problem) for problem in validate(change(f"spec.{path}", value, base))]


# --- fields: (path, base, smallest, largest, hint) ---------------------------------------------------

NUMBERS: list[tuple[str, Document, int, int, str]] = [
    ("architecture.hiddenSize", ONE_HEAD, 8, 65_536, "768 makes a model of about 100M weights"),
    ("architecture.layers", NEW_LLAMA, 1, 1024, "12 makes a model of about 100M weights"),
    ("architecture.heads", WIDE, 1, 1024, "hiddenSize / 64 is usual"),
    ("architecture.keyValueHeads", WIDE, 1, 1024, "leave it out for one per head"),
    ("architecture.intermediateSize", NEW_LLAMA, 8, 524_288, "leave it out for what is usual"),
    ("tokenizer.train.vocabularySize", NEW_LLAMA, 300, 1_000_000, "32768 is usual"),
    (
        "corpus.prepare.workers",
        VALID_PRETRAIN,
        1,
        256,
        "as many as the first node has processors; 1 needs no Ray",
    ),
    ("corpus.sequenceLength", VALID_PRETRAIN, 8, 1_048_576, "use a length the model supports (max_position_"),
    (
        "training.tokenBudget",
        VALID_PRETRAIN,
        1,
        10**15,
        "about 20 tokens per weight is usual for a new model",
    ),
    ("training.epochs", PASSES, 1, 10_000, "1 is usual for pre-training"),
    (
        "parallelism.pipeline",
        MANY_RANKS,
        2,
        64,
        "stages of some layers each; micro-batches keep them busy in turn",
    ),
]


@pytest.mark.bad_input("B59")
@pytest.mark.parametrize(("path", "base", "low", "high", "hint"), NUMBERS, ids=[row[0] for row in NUMBERS])
def test_numbers_are_taken_inside_their_range_only(
    path: str, base: Document, low: int, high: int, hint: str
) -> None:
    for value in (low, high):
        assert told(path, value, base) == []
    for value in (low - 1, high + 1, -(2**63)):
        said = f"spec.{path}: is out of range (got {value}); allowed: {low} to {high}. hint: {hint}"
        assert any(one.startswith(said) for one in told(path, value, base))
    for odd in ("1", 1.5, True):
        assert told(path, odd, base)[0].startswith(f"spec.{path}: has the wrong type (got {json.dumps(odd)})")


DECIMALS: list[tuple[str, Document, list[str], list[str], str]] = [
    ("maskedShare", NEW_BERT, ["0.15", "0.0001", "0.9"], ["0", "0.901", "1"], "> 0 and <= 0.9"),
    ("training.zLoss", VALID_PRETRAIN, ["1e-4", "1"], ["0", "0.0", "1.1"], "> 0 and <= 1"),
    ("corpus.prepare.threshold", VALID_PRETRAIN, ["0.3", "0.8", "1"], ["0.29", "1.1"], ">= 0.3 and <= 1"),
    ("corpus.heldOut.fraction", VALID_PRETRAIN, ["0.01", "0.5"], ["0", "0.51"], "> 0 and <= 0.5"),
]


@pytest.mark.bad_input("B60")
@pytest.mark.parametrize(
    ("path", "base", "good", "bad", "allowed"), DECIMALS, ids=[row[0] for row in DECIMALS]
)
def test_decimals_are_taken_inside_their_range_only(
    path: str, base: Document, good: list[str], bad: list[str], allowed: str
) -> None:
    for value in good:
        assert told(path, value, base) == []
    for value in bad:
        (found,) = told(path, value, base)
        assert found.startswith(f"spec.{path}: is out of range (got {value}); allowed: {allowed}. hint: ")
    (found,) = told(path, 0.5, base)
    assert found.startswith(f"spec.{path}: has the wrong type (got 0.5)")


CHOICES: list[tuple[str, Document, list[str], list[str]]] = [
    # Each of the others goes with another objective or model.
    ("objective", VALID_PRETRAIN, ["CausalLM", "MaskedLM"], ["CausalLM", "MaskedLM"]),
    ("architecture.type", NEW_LLAMA, ["Llama"], ["Llama", "Bert"]),
    ("architecture.type", NEW_BERT, ["Bert"], ["Llama", "Bert"]),
    ("corpus.prepare.quality", VALID_PRETRAIN, ["None", "Gopher"], ["None", "Gopher"]),
    ("corpus.prepare.duplicates", VALID_PRETRAIN, ["Near", "Exact"], ["Near", "Exact"]),
]


@pytest.mark.parametrize(("path", "base", "good", "known"), CHOICES)
def test_choices_are_taken_as_they_are_written(
    path: str, base: Document, good: list[str], known: list[str]
) -> None:
    for value in good:
        assert told(path, value, base) == []
    for wrong in (good[0].lower(), "", "Semantic"):
        (found,) = told(path, wrong, base)
        assert f"is not supported (got {json.dumps(wrong)}); allowed: {', '.join(known)}. hint: " in found


SHARE = "written as it must be (got {}); allowed: 0.0001 to 1, with at most four places. hint: write a share in quotes"


@pytest.mark.parametrize("share", ["1", "1.0", "0.5", "0.25", "0.125", "0.0001", "0.9999", "0.0500"])
def test_shares_are_whole_parts_of_ten_thousand(share: str) -> None:
    sources = [{"uri": "pvc://data/web", "share": share}]
    assert not [one for one in told("corpus.sources", sources, VALID_PRETRAIN) if "written" in one]


@pytest.mark.parametrize(
    "share", ["0", "0.0", "0.0000", "0.00001", "1.1", "2", ".5", "50%", "1e-1", "-0.5", "0.", "0.5 ", "half"]
)
def test_what_is_no_share_says_how_one_looks(share: str) -> None:
    (found,) = told("corpus.sources", [{"uri": "pvc://data/web", "share": share}], VALID_PRETRAIN)
    assert found.startswith("spec.corpus.sources[0].share: is not " + SHARE.format(share))


def test_every_own_number_and_choice_has_a_case_here() -> None:
    """A field that is added must come with the values that it takes and refuses."""
    wanted = {
        path.removeprefix("spec.") for path, node in PRETRAIN_OWN if node.kind is Kind.INTEGER or node.choices
    }
    # Declared anew for its description, with the bounds of the other kind, in whose tables it is.
    assert wanted - {row[0] for row in (*NUMBERS, *CHOICES)} <= {"training.maxSteps"}


# --- defaults ----------------------------------------------------------------------------------------


def test_what_is_left_out_is_what_the_reference_says() -> None:
    found = defaults(PretrainJobSpec)
    assert found["objective"] == "CausalLM"
    assert not {"model", "architecture", "tokenizer", "corpus", "training", "maskedShare"} & set(found)
    assert defaults(NewTokenizer) == {"vocabularySize": 32_768}
    assert defaults(Architecture)["type"] == "Llama"
    made = spec(WITH_HELD_OUT)
    assert made.corpus.to_wire() == {
        "sources": [{"uri": "pvc://data/web", "column": "text"}],
        "prepare": {"quality": "None", "duplicates": "Near", "workers": 1},
        "heldOut": {"fraction": "0.01"},
        "sequenceLength": 1024,
    }
    assert (made.custom, made.adapter, made.merges_adapter, made.image) == (None, None, False, None)


# --- what code asks of a spec --------------------------------------------------------------------------


def training(**length: Any) -> dict[str, Any]:
    return {"globalBatchSize": 16, **length}


STEPS = [
    # A step is 16 rows of 1024 tokens.
    (training(tokenBudget=1), 1, "training.tokenBudget"),
    (training(tokenBudget=16_384), 1, "training.tokenBudget"),
    (training(tokenBudget=16_385), 2, "training.tokenBudget"),
    (training(tokenBudget=10**15), 61_035_156_250, "training.tokenBudget"),
    (training(maxSteps=7), 7, "training.maxSteps"),
    (training(epochs=2), None, "training.epochs"),
]


@pytest.mark.parametrize(("block", "steps", "field"), STEPS)
def test_steps_are_known_from_the_spec_unless_it_counts_passes(
    block: dict[str, Any], steps: int | None, field: str
) -> None:
    made = spec(VALID_PRETRAIN, "training", block)
    assert (made.known_steps, made.length_field) == (steps, field)
    assert made.units_per_step == 16


STARTS = [
    (VALID_PRETRAIN, "CausalLM", "pvc://models/SmolLM2-135M", "pvc://models/SmolLM2-135M"),
    (NEW_LLAMA, "CausalLM", None, "new Llama"),
    (NEW_BERT, "MaskedLM", None, "new Bert"),
]


@pytest.mark.parametrize(("document", "objective", "uri", "origin"), STARTS, ids=[row[3] for row in STARTS])
def test_a_job_begins_with_a_model_or_with_a_new_one(
    document: Document, objective: str, uri: str | None, origin: str
) -> None:
    made = spec(document)
    assert (made.objective, made.origin) == (objective, origin)
    assert (made.start.uri if made.start is not None else None) == uri
    assert (made.is_packed, made.sequence_length, made.rows_block) == (True, 1024, "corpus")


HUB = {"uri": "hf://org/name", "secretRef": {"name": "hub"}}
SECRET = SecretReference(name="hub")
WEB = Input("pvc://data/web", "spec.corpus.sources[0].uri")
INPUTS = [
    (spec(VALID_PRETRAIN), (Input("pvc://models/SmolLM2-135M", "spec.model.uri"), WEB)),
    (spec(VALID_PRETRAIN, "model", HUB), (Input("hf://org/name", "spec.model.uri", SECRET), WEB)),
    (spec(NEW_LLAMA), (WEB,)),
    (spec(NEW_LLAMA, "tokenizer", HUB), (Input("hf://org/name", "spec.tokenizer.uri", SECRET), WEB)),
    (
        spec(SHARES),
        (
            Input("pvc://models/SmolLM2-135M", "spec.model.uri"),
            WEB,
            Input("pvc://data/books", "spec.corpus.sources[1].uri"),
        ),
    ),
]


@pytest.mark.parametrize(("made", "inputs"), INPUTS, ids=range(len(INPUTS)))
def test_inputs_are_told_by_the_fields_that_name_them(
    made: PretrainJobSpec, inputs: tuple[Input, ...]
) -> None:
    assert made.inputs == inputs


def test_shares_and_facts_are_those_of_the_spec() -> None:
    assert spec(VALID_PRETRAIN).shares == ()
    assert spec(SHARES).shares == ("0.75", "0.25")
    made = spec(NEW_BERT, "maskedShare", "0.3")
    assert made.facts["masked_share"] == "0.3" and made.z_loss is None
    assert spec(VALID_PRETRAIN, "training.zLoss", "1e-4").z_loss == "1e-4"


# --- on its way to the pods ----------------------------------------------------------------------------


def run_config(document: Document, **changes: Any) -> dict[str, Any]:
    kind = document["kind"]
    made = RunConfig.model_validate(
        {
            "run": {"kind": kind, "namespace": "team", "name": "job", "uid": "u"},
            "attempt": 1,
            "spec": KINDS[kind].spec.model_validate(document["spec"]),
            "leaderHost": "job-0.job.team.svc",
            "storePath": "/windlass/store/team/job/u",
        }
    )
    return json.loads(json.dumps(made.to_wire())) | changes


@pytest.mark.parametrize(
    "document", [VALID_PRETRAIN, NEW_LLAMA, NEW_BERT, SHARES, WITH_HELD_OUT, VALID], ids=range(6)
)
def test_a_run_is_told_its_spec_as_that_of_its_kind(document: Document) -> None:
    wire = run_config(document)
    again = RunConfig.model_validate(wire)
    model = KINDS[document["kind"]].spec
    assert type(again.spec) is model
    assert again.spec == model.model_validate(document["spec"])
    assert again.to_wire() == wire
    assert RunConfig.model_validate_json(json.dumps(wire)) == again


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("PretrainJobs", "Input should be 'FineTuneJob' or 'PretrainJob'"),
        ("EvalRun", "Input should be 'FineTuneJob' or 'PretrainJob'"),
        ("", "Input should be 'FineTuneJob' or 'PretrainJob'"),
        ("FineTuneJob", "corpus"),
    ],
)
def test_a_run_of_another_kind_is_refused(kind: str, said: str) -> None:
    wire = run_config(VALID_PRETRAIN)
    wire["run"]["kind"] = kind
    with pytest.raises(ValidationError, match=said):
        RunConfig.model_validate(wire)


def test_the_other_kinds_blocks_are_unknown_to_each() -> None:
    for model, document in ((FineTuneJobSpec, VALID_PRETRAIN), (PretrainJobSpec, VALID)):
        with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
            model.model_validate(document["spec"])
