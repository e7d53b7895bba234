"""Whole documents as people write them: YAML's surprises, updates, and what is said about the whole."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contract.crd.specs import VALID, change
from windlass.api.finetune import FineTuneJobSpec
from windlass.api.judging import Problem, closest, shown, text
from windlass.api.validation import validate

HEAD = """
apiVersion: windlass.dev/v1alpha1
kind: FineTuneJob
metadata: {name: job}
"""
SPEC = """
spec:
  model: {uri: pvc://models/m}
  data: {sources: [{uri: pvc://data/train.jsonl}]}
  training: {globalBatchSize: 16, epochs: 1}
  checkpoint: {store: pvc://checkpoints}
"""


def told(document: Any, previous: dict[str, Any] | None = None) -> list[str]:
    return [str(problem) for problem in validate(document, previous)]


def written(below_spec: str) -> Any:
    return yaml.safe_load(HEAD + SPEC + below_spec)


# What YAML 1.1 makes of a line, and what is then said: (lines below spec, what the first problem says).
SURPRISES = [
    ("  suspend: on", None),
    ("  suspend: yes", None),
    (
        '  suspend: "true"',
        'spec.suspend: has the wrong type (got "true"); allowed: true or false. hint: write true',
    ),
    ("  suspend: 1", "spec.suspend: has the wrong type (got 1); allowed: true or false"),
    (
        "  resume: {from: 120}",
        "spec.resume.from: has the wrong type (got 120); allowed: a string. hint: put the",
    ),
    ("  resume: {from: None}", None),
    ("  resume: {from: null}", None),
    (
        "  resume: {from: yes}",
        "spec.resume.from: has the wrong type (got true); allowed: a string. hint: put the",
    ),
    ("  resources: {nodes: 0777}", None),
    ("  resources: {nodes: 1_0}", None),
    (
        "  resources: {nodes: 2.0}",
        "spec.resources.nodes: has the wrong type (got 2.0); allowed: a whole number",
    ),
    (
        '  resources: {nodes: "2"}',
        'spec.resources.nodes: has the wrong type (got "2"); allowed: a whole number',
    ),
    (
        "  resources: {nodes: two}",
        'spec.resources.nodes: has the wrong type (got "two"); allowed: a whole number',
    ),
    (
        "  resources: {nodes: true}",
        "spec.resources.nodes: has the wrong type (got true); allowed: a whole number",
    ),
    (
        "  resources: {perNode: {cpu: 4}}",
        "spec.resources.perNode.cpu: has the wrong type (got 4); allowed: a string",
    ),
    ("  resources: {perNode: {memory: 4Gi}}", None),
    ("  pod: {labels: {1: a}}", None),
    ("  pod: {labels: {yes: a}}", None),
    ("  pod: {labels: {null: a}}", None),
    (
        "  pod: {labels: {a: 1}}",
        "spec.pod.labels.a: has the wrong type (got 1); allowed: a string. hint: put the",
    ),
    ("  pod: {labels: {a: null}}", None),
    ("  pod: {labels: [a]}", 'spec.pod.labels: has the wrong type (got ["a"]); allowed: a map of strings'),
    (
        "  pod: {env: {A: b}}",
        'spec.pod.env: has the wrong type (got {"A": "b"}); allowed: a list. hint: begin each',
    ),
    ("  pod: {env: [A=b]}", 'spec.pod.env[0]: has the wrong type (got "A=b"); allowed: a block of fields'),
    (
        "  pod: {env: [{name: A, value: 1}]}",
        "spec.pod.env[0].value: has the wrong type (got 1); allowed: a string",
    ),
    ("  pod: {env: [{name: A}]}", None),
    ("  5: 1", "spec.5: unknown field (got 5); allowed: model, data"),
    ("  true: 1", "spec.true: unknown field (got true); allowed: model, data"),
    (
        "  tracking: 2026-01-01",
        'spec.tracking: has the wrong type (got "2026-01-01"); allowed: a block of fields',
    ),
    (
        "  activeDeadlineSeconds: 1h",
        'spec.activeDeadlineSeconds: has the wrong type (got "1h"); allowed: a whole',
    ),
    ("  activeDeadlineSeconds: 1:30:00", None),
]


@pytest.mark.bad_input("B92")
@pytest.mark.parametrize(("lines", "said"), SURPRISES, ids=[row[0].strip() for row in SURPRISES])
def test_surprises_of_yaml_are_explained_or_harmless(lines: str, said: str | None) -> None:
    document = written(lines)
    found = told(document)
    if lines.endswith("0777}"):
        # 511 nodes do not divide the batch of this document; the number itself is a number.
        assert [problem.split(":")[0] for problem in found] == ["spec.training.globalBatchSize"]
    elif lines.endswith("1_0}"):
        assert "16 rows with 10 nodes" in found[0]
    elif said is None:
        assert found == []
    else:
        assert found and found[0].startswith(said), found


@pytest.mark.parametrize(
    ("document", "path", "message"),
    [
        (
            None,
            "document",
            "is not an object (got null); allowed: a block of fields. hint: begin with apiVersion, kind",
        ),
        (
            [],
            "document",
            "is not an object (got []); allowed: a block of fields. hint: begin with apiVersion, kind",
        ),
        (
            "x",
            "document",
            'is not an object (got "x"); allowed: a block of fields. hint: begin with apiVersion',
        ),
        (
            {},
            "kind",
            "no matches for this kind (got null); allowed: FineTuneJob, PretrainJob. hint: see `kubectl api-resources`",
        ),
        (
            {"kind": ["FineTuneJob"]},
            "kind",
            'no matches for this kind (got ["FineTuneJob"]); allowed: FineTuneJob, PretrainJob',
        ),
        (
            {"kind": "finetunejob"},
            "kind",
            'no matches for this kind (got "finetunejob"); allowed: FineTuneJob, PretrainJob. hint: did',
        ),
        (
            {"kind": "FineTuneJob", "apiVersion": "windlass.dev/v1beta9"},
            "apiVersion",
            'no such version (got "windlass.dev/v1beta9"); allowed: windlass.dev/v1alpha1. hint: write apiVersion: ',
        ),
        (
            VALID | {"Spec": {}},
            "Spec",
            "unknown field (got Spec); allowed: apiVersion, kind, metadata, spec, status. hint: did",
        ),
        (
            VALID | {"resources": {}},
            "resources",
            "unknown field (got resources); allowed: apiVersion, kind, metadata, spec, status. hint: is its indent",
        ),
        (
            {key: value for key, value in VALID.items() if key != "spec"},
            "spec",
            "required value is missing (got nothing); allowed: a block of fields. hint: write what the FineTuneJob",
        ),
        (VALID | {"spec": "x"}, "spec", 'has the wrong type (got "x"); allowed: a block of fields'),
        (
            VALID | {"metadata": []},
            "metadata",
            "has the wrong type (got []); allowed: a block of fields. hint: write",
        ),
        (
            VALID | {"metadata": {}},
            "metadata.name",
            "required value is missing (got null); allowed: a name. hint: write",
        ),
        (
            VALID | {"metadata": {"name": ""}},
            "metadata.name",
            'required value is missing (got ""); allowed: a name',
        ),
    ],
)
def test_what_is_wrong_with_a_whole_document(document: Any, path: str, message: str) -> None:
    found = validate(document)
    assert any(one.path == path and one.message.startswith(message) for one in found), told(document)


NAMES = [
    ("job", None),
    ("a" * 40, None),
    (
        "a" * 41,
        f"metadata.name: is too long for the names of its pods (got {'a' * 41}, 41 characters); allowed: up to 40",
    ),
    (
        "a.b",
        "metadata.name: cannot be the name of a Service (got a.b); allowed: lower-case letters, digits and '-'",
    ),
    ("1a", "metadata.name: cannot be the name of a Service (got 1a)"),
    ("a-", "metadata.name: cannot be the name of a Service (got a-)"),
    ("-a", "metadata.name: cannot be the name of a Service (got -a)"),
    ("Job", "metadata.name: cannot be the name of a Service (got Job)"),
    ("jöb", "metadata.name: cannot be the name of a Service (got jöb)"),
    ("job\n", "metadata.name: cannot be the name of a Service (got job\n)"),
    ("a_b", "metadata.name: cannot be the name of a Service (got a_b)"),
]


@pytest.mark.bad_input("B27")
@pytest.mark.bad_input("B28")
@pytest.mark.parametrize(("name", "said"), NAMES, ids=[repr(row[0])[:14] for row in NAMES])
def test_names_that_children_can_bear(name: str, said: str | None) -> None:
    found = told(change("metadata.name", name))
    assert (found == []) if said is None else found[0].startswith(said)


# --- updates ---------------------------------------------------------------------------------------

FIXED = [
    (
        "spec.model.uri",
        "pvc://models/other",
        "spec.model: cannot change after creation (got pvc://models/other, was pvc",
    ),
    ("spec.data.sequenceLength", 64, "spec.data: cannot change after creation (got another block)"),
    ("spec.method", {"objective": "SupervisedFineTuning"}, None),
    ("spec.adapter", {"type": "LoRA"}, "spec.adapter: cannot change after creation (got another block)"),
    ("spec.training.learningRate", "1e-3", "spec.training: cannot change after creation (got another block)"),
    ("spec.training.learningRate", "2e-5", None),
    (
        "spec.parallelism",
        {"strategy": "FSDP"},
        "spec.parallelism: cannot change after creation (got another block)",
    ),
    ("spec.resources.nodes", 2, "spec.resources.nodes: cannot change after creation (got 2, was 1)"),
    (
        "spec.resources.ranksPerNode",
        2,
        "spec.resources.ranksPerNode: cannot change after creation (got 2, was 1)",
    ),
    (
        "spec.checkpoint.store",
        "pvc://other",
        "spec.checkpoint.store: cannot change after creation (got pvc://other, was ",
    ),
    ("spec.checkpoint.keepLast", 9, None),
    ("spec.resources.perNode", {"memory": "8Gi"}, None),
    ("spec.suspend", True, None),
    ("spec.recovery", {"budgets": {"crash": 9}}, None),
    ("spec.resume", {"from": "120"}, None),
    ("spec.activeDeadlineSeconds", 3600, None),
    ("spec.pod", {"nodeSelector": {"pool": "gpu"}}, None),
]


@pytest.mark.bad_input("B68")
@pytest.mark.bad_input("B69")
@pytest.mark.parametrize(("path", "value", "said"), FIXED, ids=[f"{row[0]}={row[1]}" for row in FIXED])
def test_what_may_change_in_a_living_job(path: str, value: Any, said: str | None) -> None:
    found = told(change(path, value), VALID)
    if said is None:
        assert found == []
    else:
        assert len(found) == 1 and found[0].startswith(said), found
        assert found[0].endswith("delete this one if it is no longer wanted")


def test_defaults_written_out_are_no_change() -> None:
    full = FineTuneJobSpec.model_validate(VALID["spec"]).to_wire()
    assert told(VALID | {"spec": full}, VALID) == []
    assert told(VALID, VALID | {"spec": full}) == []


def test_an_old_object_that_breaks_newer_rules_can_still_be_compared() -> None:
    broken = change("spec.resources.nodes", "two")
    assert [problem.split(":")[0] for problem in told(VALID, broken)] == ["spec.resources.nodes"]


ELDER = "pvc://checkpoints/team-a/team/elder/uid-1"


@pytest.mark.parametrize(
    ("before", "after", "may"),
    [
        (ELDER, ELDER, True),
        (ELDER, "Latest", True),
        (ELDER, "120", True),
        ("Latest", ELDER, False),
        ("120", ELDER, False),
        (ELDER, f"{ELDER}/step-00000120.i3", False),
    ],
)
def test_another_run_s_checkpoint_is_named_at_creation_only(before: str, after: str, may: bool) -> None:
    found = told(change("spec.resume", {"from": after}), change("spec.resume", {"from": before}))
    if may:
        assert found == []
    else:
        assert found == [
            f"spec.resume.from: another run's checkpoint can be named at creation only (got {after}, was {before}); "
            "allowed: Latest, None or a step of this job. hint: create a new job that names it"
        ]


# --- texts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "null"),
        ("a", '"a"'),
        ("ä", '"ä"'),
        ({"a": [1, True]}, '{"a": [1, true]}'),
        ("x" * 62, '"' + "x" * 62 + '"'),
        ("x" * 63, '"' + "x" * 63 + "… (65 characters)"),
    ],
)
def test_values_are_shown_as_json_and_shortened(value: Any, said: str) -> None:
    assert shown(value) == said


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("learnigRate", "did you mean learningRate?"),
        ("LEARNINGRATE", "did you mean learningRate?"),
        ("zzz", "otherwise"),
        ("", "otherwise"),
    ],
)
def test_the_nearest_word_is_offered(word: str, hint: str) -> None:
    assert closest(word, ["learningRate", "epochs"], "otherwise") == hint


def test_one_form_of_all_messages() -> None:
    made = Problem("spec.a", text("is wrong", got="1", allowed="2", hint="write 2"))
    assert str(made) == "spec.a: is wrong (got 1); allowed: 2. hint: write 2"


# --- anything --------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=True) | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=6) | st.integers() | st.booleans() | st.none(), inner, max_size=3)
    ),
    max_leaves=8,
)
PATHS = st.sampled_from(
    [
        *(
            "spec",
            "spec.model",
            "spec.data",
            "spec.data.sources",
            "spec.training",
            "spec.pod",
            "spec.pod.labels",
        ),
        *(
            "spec.pod.env",
            "spec.recovery",
            "spec.recovery.ladder",
            "spec.resources",
            "metadata",
            "kind",
            "apiVersion",
        ),
        *(
            "spec.checkpoint",
            "spec.tracking",
            "spec.pod.volumes",
            "spec.adapter",
            "spec.resume",
            "spec.scheduling",
        ),
    ]
)


def as_stored(value: Any) -> Any:
    """As the server keeps it: JSON, and without fields that are null."""
    if isinstance(value, dict):
        plain = json.loads(json.dumps(value))
        return {key: as_stored(one) for key, one in plain.items() if one is not None}
    return [as_stored(one) for one in value] if isinstance(value, list) else value


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(PATHS, JSON)
def test_nothing_that_anybody_writes_breaks_the_validator(path: str, value: Any) -> None:
    document = change(path, copy.deepcopy(value))
    found = validate(document)
    for one in found:
        assert one.path and "; allowed: " in one.message and ". hint: " in one.message, one
    if not found:
        FineTuneJobSpec.model_validate(as_stored(document["spec"]))
    validate(VALID, document if isinstance(document.get("spec"), dict) else None)
