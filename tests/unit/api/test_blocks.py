"""Blocks of the spec: combinations, URIs, overrides of pods; each refusal with its whole sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.crd.specs import ABSENT, VALID, change
from windlass.api.finetune import ROOT_RULES, FineTuneJobSpec
from windlass.api.nodes import Node, members, read
from windlass.api.pods import CREDENTIAL, ODD_SEGMENT, RESERVED_ENV, RESERVED_PATH
from windlass.api.rules import PLACEHOLDER, Rule, matches
from windlass.api.validation import validate


def told(path: str, value: Any, base: dict[str, Any] = VALID) -> list[str]:
    return [str(problem) for problem in validate(change(f"spec.{path}", value, base))]


# --- one sentence per rule: (field, value, the whole message) ----------------------------------------

RULES: list[tuple[str, Any, str]] = [
    (
        "adapter",
        {"type": "IA3", "rank": 8},
        "spec.adapter.rank: rank is for LoRA only (got rank=8 with type IA3); allowed: rank with type LoRA. "
        "hint: remove "
        "rank, or set type: LoRA",
    ),
    (
        "adapter",
        {"type": "IA3", "dropout": "0.1"},
        "spec.adapter.dropout: dropout is for LoRA only (got dropout=0.1 with type IA3); allowed: dropout with "
        "type LoRA. "
        "hint: remove dropout, or set type: LoRA",
    ),
    (
        "training",
        {"globalBatchSize": 4, "epochs": 1, "maxSteps": 1},
        "spec.training: exactly one of epochs and maxSteps must be set (got epochs=1, maxSteps=1); allowed: "
        "epochs, or "
        "maxSteps. hint: write epochs: 1 for one pass over the data, or maxSteps for a number of steps",
    ),
    (
        "training",
        {"globalBatchSize": 4, "maxSteps": 5, "scheduler": {"warmup": "6"}},
        "spec.training.scheduler.warmup: warm-up is longer than the training (got 6 steps of 5); allowed: at most "
        'maxSteps. hint: write a percentage, such as "3%"',
    ),
    (
        "training.globalBatchSize",
        3,
        None,
    ),
    (
        "training",
        {"globalBatchSize": 6, "microBatchSize": 4, "epochs": 1},
        "spec.training.globalBatchSize: is not divisible by the rows of one pass over all ranks (got 6 rows "
        "with 1 nodes "
        "x 1 ranksPerNode x 4 microBatchSize = 4); allowed: a multiple of nodes x ranksPerNode x "
        "microBatchSize. hint: "
        "change globalBatchSize to a multiple of 4, or microBatchSize",
    ),
    (
        "training.validateEverySteps",
        5,
        "spec.training.validateEverySteps: there are no validation samples (got validateEverySteps=5 without "
        "data.validation); allowed: validateEverySteps with data.validation. hint: add data.validation with "
        'fraction: "0.05", '
        "or remove validateEverySteps",
    ),
    (
        "data.validation",
        {},
        "spec.data.validation: exactly one of fraction and uri must be set (got fraction=nothing, uri=nothing); "
        "allowed: "
        "fraction, or uri. hint: remove one of them, or remove the validation block to train without validation",
    ),
    (
        "data.validation",
        {"uri": "mlflow://models:/m@a"},
        "spec.data.validation.uri: data cannot come from a model registry (got mlflow://models:/m@a); allowed: "
        "pvc://claim/path or hf://organisation/name. hint: put the samples on a PersistentVolumeClaim and write "
        "pvc://claim/path",
    ),
    (
        "parallelism",
        {"strategy": "FSDP", "zeroStage": 2},
        "spec.parallelism.zeroStage: zeroStage and strategy do not fit (got strategy=FSDP, zeroStage=2); allowed: "
        "zeroStage 1, 2 or 3 with strategy DeepSpeed, and no zeroStage with DDP or FSDP. hint: choose one "
        "strategy: add "
        "zeroStage for DeepSpeed, or remove it",
    ),
    (
        "parallelism",
        {"strategy": "DeepSpeed"},
        "spec.parallelism.zeroStage: zeroStage and strategy do not fit (got strategy=DeepSpeed, zeroStage=nothing); "
        "allowed: zeroStage 1, 2 or 3 with strategy DeepSpeed, and no zeroStage with DDP or FSDP. hint: choose one "
        "strategy: add zeroStage for DeepSpeed, or remove it",
    ),
    (
        "resources",
        {"ranksPerNode": 8, "accelerator": {"count": 4}},
        "spec.resources.ranksPerNode: more ranks than accelerators in a pod (got ranksPerNode=8, "
        "accelerator.count=4); "
        "allowed: ranksPerNode up to accelerator.count. hint: set ranksPerNode to accelerator.count",
    ),
    (
        "resources",
        {"nodes": 4096, "ranksPerNode": 16},
        "spec.resources.nodes: too many ranks (got 65536 = nodes x ranksPerNode); allowed: up to 32768. hint: "
        "use fewer "
        "nodes",
    ),
    (
        "resources",
        {"nodes": 4096, "accelerator": {"count": 16}},
        "spec.resources.nodes: too many accelerators (got 65536 = nodes x accelerator.count); allowed: up to "
        "32768. hint: "
        "use fewer nodes",
    ),
    (
        "resources.accelerator.resource",
        "gpu",
        "spec.resources.accelerator.resource: is not written as it must be (got gpu); allowed: domain/name, such as "
        "nvidia.com/gpu. hint: see `kubectl describe node` under Allocatable",
    ),
    (
        "checkpoint",
        {"store": "pvc://c", "export": "None", "mergeAdapter": True},
        "spec.checkpoint.mergeAdapter: mergeAdapter needs an export (got mergeAdapter=true with export=None); "
        "allowed: "
        "mergeAdapter with export HuggingFace. hint: set export: HuggingFace, or remove mergeAdapter",
    ),
    (
        "checkpoint.mergeAdapter",
        True,
        "spec.checkpoint.mergeAdapter: there is no LoRA adapter to merge (got mergeAdapter=true); allowed: "
        "mergeAdapter "
        "with adapter type LoRA. hint: add an adapter of type LoRA, or remove mergeAdapter",
    ),
    (
        "checkpoint.store",
        "hf://org/name",
        "spec.checkpoint.store: is not written as it must be (got hf://org/name); allowed: pvc://claim or "
        "pvc://claim/path. hint: name a ReadWriteMany PersistentVolumeClaim of this namespace, for example "
        "pvc://checkpoints/team-a",
    ),
    (
        "resume",
        {"from": "newest"},
        "spec.resume.from: is not written as it must be (got newest); allowed: Latest, None or a step. hint: see "
        "status.checkpoints for the steps that can be resumed",
    ),
    (
        "recovery.ladder",
        ["InPlace", "RecreatePod", "InPlace"],
        "spec.recovery.ladder: a rung is named twice (got InPlace); allowed: InPlace, RecreatePod and "
        "RecreateGang, each "
        "at most once. hint: remove the repeated rung; how often a rung is tried is set by budgets",
    ),
    (
        "recovery.ladder",
        [],
        "spec.recovery.ladder: has the wrong size (got 0 entries); allowed: 1 to 3 entries. hint: add one, or "
        "leave the "
        "field out if it is optional",
    ),
    (
        "recovery.ladder",
        ["Restart"],
        'spec.recovery.ladder[0]: is not supported (got "Restart"); allowed: InPlace, RecreatePod, '
        "RecreateGang. hint: "
        "choose one of the allowed values",
    ),
    (
        "tracking",
        {},
        "spec.tracking.mlflow: required value is missing (got nothing); allowed: a block of fields. hint: write for "
        'example mlflow: {uri: "http://mlflow.windlass.svc:5000", registerAs: support-bot}',
    ),
    (
        "tracking.mlflow",
        {"uri": "http://m:5000", "alias": "best"},
        "spec.tracking.mlflow.alias: alias needs a registered model (got alias=best, registerAs=nothing); "
        "allowed: alias "
        "with registerAs. hint: add registerAs, or remove alias",
    ),
    (
        "tracking.mlflow",
        {"uri": "mlflow:5000"},
        "spec.tracking.mlflow.uri: is not written as it must be (got mlflow:5000); allowed: http:// or https:// with "
        "host, port and path, without credentials. hint: put user and password or token into a Secret and name it in "
        "secretRef",
    ),
    (
        "scheduling",
        {"priorityClassName": "system-node-critical"},
        "spec.scheduling.priorityClassName: system priority classes are reserved for the cluster itself (got "
        "system-node-critical); allowed: a PriorityClass whose name does not begin with system-. hint: see "
        "`kubectl get "
        "priorityclasses`",
    ),
    (
        "pod.env",
        [{"name": "A", "value": "hf_0123456789abcdef"}],
        "spec.pod.env[0].value: value looks like a credential (got A=***); allowed: plain settings. hint: put "
        "it into a "
        "Secret of this namespace and name that in a secretRef",
    ),
    (
        "pod.env",
        [{"name": "1A", "value": "x"}],
        "spec.pod.env[0].name: is not written as it must be (got 1A); allowed: letters, digits and _, not "
        "beginning with a "
        "digit. hint: write it as a shell would",
    ),
    (
        "pod.env",
        [{"name": "A"}, {"name": "B"}, {"name": "A"}],
        "spec.pod.env[2]: duplicate value (got name: A); allowed: each name once. hint: remove one of the two "
        "entries, or "
        "rename it",
    ),
    (
        "pod.tolerations",
        [{"operator": "Exists"}],
        "spec.pod.tolerations[0].key: required value is missing (got nothing); allowed: a string. hint: write "
        "for example "
        "key: nvidia.com/gpu",
    ),
    (
        "pod.tolerations",
        [{"key": "a", "operator": "Exists", "value": "b"}],
        "spec.pod.tolerations[0].value: Exists takes no value (got b); allowed: value with operator Equal. "
        "hint: remove "
        "value, or set operator: Equal",
    ),
    (
        "pod.tolerations",
        [{"key": "a", "effect": "NoSchedule", "tolerationSeconds": 5}],
        "spec.pod.tolerations[0].tolerationSeconds: tolerationSeconds is for the effect NoExecute (got 5 with effect "
        "NoSchedule); allowed: tolerationSeconds with effect NoExecute. hint: set effect: NoExecute, or remove "
        "tolerationSeconds",
    ),
    (
        "pod.volumes",
        [{"name": "a", "mountPath": "/a", "claim": "c", "secret": "s"}],
        "spec.pod.volumes[0]: exactly one source must be set (got claim=c, secret=s, configMap=nothing); "
        "allowed: one of "
        "claim, secret, configMap, or emptyDir: true. hint: keep one of them and write a second volume for another",
    ),
    (
        "pod.volumes",
        [{"name": "a", "mountPath": "/a", "claim": "c"}, {"name": "b", "mountPath": "/a", "secret": "s"}],
        "spec.pod.volumes: two volumes have the same mountPath (got /a); allowed: one volume per path. hint: "
        "give each "
        "volume its own mountPath",
    ),
    (
        "pod.labels",
        {"windlass.dev/run": "x"},
        "spec.pod.labels: keys with the prefix windlass.dev/ are the operator's (got windlass.dev/run); "
        "allowed: keys with "
        "another prefix, or none. hint: use your own prefix, for example example.com/team",
    ),
    (
        "pod.labels",
        {"a b": "x"},
        "spec.pod.labels: a key is not a qualified name (got a b); allowed: name or prefix/name of letters, "
        "digits, '-', "
        "'_' and '.', name at most 63 characters. hint: rename the key, for example to example.com/team",
    ),
    (
        "pod.nodeSelector",
        {"pool": "-gpu"},
        "spec.pod.nodeSelector: a value is not a label value (got -gpu); allowed: letters, digits, '-', '_' and '.', "
        "beginning and ending with a letter or digit. hint: shorten or rename the value; free text belongs into "
        "annotations",
    ),
    (
        "pod.image",
        "registry.example/a b",
        "spec.pod.image: is not written as it must be (got registry.example/a b); allowed: registry/name:tag or "
        "registry/name@sha256:digest. hint: name an image built from the workload image, best by digest",
    ),
    ("startDeadlineSeconds", 30, None),
]


@pytest.mark.bad_input("B24")
@pytest.mark.bad_input("B26")
@pytest.mark.bad_input("B58")
@pytest.mark.bad_input("B61")
@pytest.mark.bad_input("B65")
@pytest.mark.bad_input("B88")
@pytest.mark.bad_input("B90")
@pytest.mark.parametrize(
    ("path", "value", "message"), RULES, ids=[f"{row[0]}={row[1]}"[:60] for row in RULES]
)
def test_rule_says_field_value_allowed_and_next_step(path: str, value: Any, message: str | None) -> None:
    found = told(path, value)
    assert (found == []) if message is None else (message in found), found


def test_a_start_deadline_after_the_end_is_refused() -> None:
    document = change("spec.startDeadlineSeconds", 600, change("spec.activeDeadlineSeconds", 300))
    (found,) = [str(one) for one in validate(document)]
    assert (
        found.startswith("spec.startDeadlineSeconds: ")
        and "(got " in found
        and "activeDeadlineSeconds" in found
    )


def test_a_model_cannot_be_registered_without_an_output() -> None:
    tracking = {"mlflow": {"uri": "http://m:5000", "registerAs": "bot"}}
    document = change("spec.checkpoint.export", "None", change("spec.tracking", tracking))
    found = [str(one) for one in validate(document)]
    assert len(found) == 1
    assert (
        "there is no output to register (got checkpoint.export=None with tracking.mlflow.registerAs)"
        in found[0]
    )


# --- URIs ------------------------------------------------------------------------------------------

GOOD_URIS = [
    "pvc://models/m",
    "pvc://models/a/b/c.jsonl",
    "pvc://models/a..b",
    "pvc://a.b-c/x",
    "hf://org/name",
    "hf://org/name@main",
    "hf://HuggingFaceTB/SmolLM2-135M-Instruct@0123abcd",
    "mlflow://models:/support-bot@candidate",
    "mlflow://models:/support-bot/12",
]
BAD_URIS = [
    ("", "is "),
    (
        "models/m",
        "scheme is not supported (got models/m); allowed: hf://, pvc:// and mlflow://. hint: put the files on",
    ),
    ("file:///etc/shadow", "scheme is not supported (got file:///etc/shadow)"),
    ("s3://bucket/x", "scheme is not supported (got s3://bucket/x)"),
    ("http://169.254.169.254/", "scheme is not supported (got http://169.254.169.254/)"),
    ("PVC://models/m", "scheme is not supported (got PVC://models/m)"),
    (
        "pvc://models/../x",
        "path must not contain '..' (got pvc://models/../x); allowed: a path below the root",
    ),
    ("pvc://models/..", "path must not contain '..' (got pvc://models/..)"),
    ("pvc://models", "is not a pvc URI (got pvc://models); allowed: pvc://claim/path, where claim is a"),
    ("pvc://Models/x", "is not a pvc URI (got pvc://Models/x)"),
    ("pvc:///x", "is not a pvc URI (got pvc:///x)"),
    (
        "pvc://a/b c",
        "holds a character that a URI here may not hold (got pvc://a/b c); allowed: letters, digits and",
    ),
    ("pvc://a/ä", "holds a character that a URI here may not hold (got pvc://a/ä)"),
    ("pvc://a/b\n", "holds a character that a URI here may not hold (got pvc://a/b\n)"),
    ("pvc://a/\u0000", "holds a character that a URI here may not hold"),
    (
        "hf://name",
        "is not a hf URI (got hf://name); allowed: hf://organisation/name or hf://organisation/name@revision",
    ),
    (
        "mlflow://models:/m",
        "is not a mlflow URI (got mlflow://models:/m); allowed: mlflow://models:/name@alias or",
    ),
    ("mlflow://m/3", "is not a mlflow URI (got mlflow://m/3)"),
    ("mlflow://models:/m/0", "is not a mlflow URI (got mlflow://models:/m/0)"),
    (
        "s3://user:pass@bucket",
        "credentials in a URI are not allowed (got s3://***@bucket); allowed: a URI without user",
    ),
    ("hf://token@org/name", "credentials in a URI are not allowed (got hf://***@org/name)"),
]


@pytest.mark.parametrize("uri", GOOD_URIS)
def test_uris_that_are_taken(uri: str) -> None:
    assert told("model.uri", uri) == []


@pytest.mark.bad_input("B33")
@pytest.mark.bad_input("B34")
@pytest.mark.bad_input("B36")
@pytest.mark.bad_input("B37")
@pytest.mark.parametrize(("uri", "said"), BAD_URIS, ids=[repr(row[0]) for row in BAD_URIS])
def test_uris_that_are_refused(uri: str, said: str) -> None:
    found = told("model.uri", uri)
    assert any(one.startswith(f"spec.model.uri: {said}") for one in found), found
    assert all("pass" not in one.split("; allowed")[0] for one in found), "a password is never repeated"


@settings(max_examples=60, deadline=None)
@given(st.from_regex(r"[a-z]{2,6}://[a-z0-9]{1,8}(:[A-Za-z0-9!]{4,12})?@[a-z]{1,8}/x", fullmatch=True))
def test_what_stands_before_an_at_is_never_shown(uri: str) -> None:
    secret = uri.split("://")[1].split("@")[0]
    for one in told("model.uri", uri):
        assert f"{secret}@" not in one


# --- overrides of pods -----------------------------------------------------------------------------

RESERVED = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_X", "MASTER_ADDR", "PET_X", "LD_PRELOAD", "PYTHONPATH"]
RESERVED += [
    "NVIDIA_VISIBLE_DEVICES",
    "CUDA_VISIBLE_DEVICES",
    "WINDLASS_INDEX",
    "POD_NAME",
    "NODE_NAME",
    "HOME",
]
FREE = [
    "RANKING",
    "MY_RANK",
    "CUDA_LAUNCH_BLOCKING",
    "OMP_NUM_THREADS",
    "HOMEPAGE",
    "NODE",
    "WINDLASS",
    "PATH",
]


@pytest.mark.bad_input("B25")
@pytest.mark.parametrize("name", RESERVED)
def test_reserved_variables_are_refused(name: str) -> None:
    assert matches(RESERVED_ENV, name)
    (found,) = told("pod.env", [{"name": name, "value": "x"}])
    assert found.startswith(
        f"spec.pod.env[0].name: is a reserved name, set by the operator (got {name}); allowed: names "
    )


@pytest.mark.parametrize("name", FREE)
def test_other_variables_are_free(name: str) -> None:
    assert told("pod.env", [{"name": name, "value": "x"}]) == []


CREDENTIALS = [
    "hf_" + "a" * 16,
    "sk-" + "A1" * 8,
    "sk-proj_" + "a" * 16,
    "ghp_" + "a" * 16,
    "gho_" + "0" * 20,
]
CREDENTIALS += ["AKIA" + "A" * 12]
PLAIN = ["hf_", "hf_short", "sk-1", "x hf_" + "a" * 16, "false", "", "AKIAx", "ghq_" + "a" * 16]


@pytest.mark.bad_input("B26")
@pytest.mark.parametrize("value", CREDENTIALS)
def test_credentials_are_known_and_not_repeated(value: str) -> None:
    assert matches(CREDENTIAL, value)
    (found,) = told("pod.env", [{"name": "A", "value": value}])
    assert "value looks like a credential (got A=***)" in found and value not in found


@pytest.mark.parametrize("value", PLAIN)
def test_plain_values_are_taken(value: str) -> None:
    assert told("pod.env", [{"name": "A", "value": value}]) == []


PATHS = [
    *[
        (path, False)
        for path in ("/windlass", "/windlass/store", "/etc", "/etc/windlass/run", "/usr", "/usr/lib")
    ],
    *[
        (path, False)
        for path in ("/var", "/var/run", "/var/run/x", "/run/x", "/tmp", "/tmp/x", "/proc/1", "/sys")
    ],
    *[
        (path, False)
        for path in ("/dev/shm", "/bin", "/sbin/x", "/lib", "/lib64", "/a/../b", "/a/./b", "/a//b", "/a/")
    ],
    *[
        (path, True)
        for path in (
            "/data",
            "/etc/ssl",
            "/var/lib/x",
            "/usrdata",
            "/home/me",
            "/a.b/c-d_e",
            "/tmpx",
            "/libs",
        )
    ],
]


@pytest.mark.parametrize(("path", "free"), PATHS, ids=[row[0] for row in PATHS])
def test_paths_that_a_volume_may_be_mounted_at(path: str, free: bool) -> None:
    assert (not matches(RESERVED_PATH, path) and not matches(ODD_SEGMENT, path)) is free
    found = told("pod.volumes", [{"name": "a", "claim": "c", "mountPath": path}])
    assert (found == []) is free
    if not free:
        assert found[0].startswith(
            f"spec.pod.volumes[0].mountPath: is reserved, or is not a plain path (got {path}); allowed"
        )


KEYS = [
    *[(key, True) for key in ("a", "A-b_c.d", "example.com/team", "a.b.c/x", "1", "x" * 63)],
    *[(key, False) for key in ("", "-a", "a-", "a b", "a/b/c", "/a", "a/", "Example.com/a", "x" * 64, "ä")],
]


@pytest.mark.parametrize(("key", "good"), KEYS, ids=[repr(row[0])[:20] for row in KEYS])
def test_keys_of_labels(key: str, good: bool) -> None:
    for field in ("labels", "annotations", "nodeSelector"):
        assert (told(f"pod.{field}", {key: "x"}) == []) is good, field


# --- sizes -----------------------------------------------------------------------------------------

SIZES: list[tuple[str, int, Any]] = [
    ("data.sources", 64, [{"uri": f"pvc://data/{n}.jsonl"} for n in range(65)]),
    ("pod.env", 64, [{"name": f"A{n}"} for n in range(65)]),
    ("pod.volumes", 16, [{"name": f"v{n}", "mountPath": f"/v{n}", "secret": "s"} for n in range(17)]),
    ("pod.tolerations", 16, [{"key": f"k{n}"} for n in range(17)]),
    ("pod.imagePullSecrets", 8, [f"s{n}" for n in range(9)]),
    ("pod.labels", 32, {f"k{n}": "v" for n in range(33)}),
    ("pod.annotations", 32, {f"k{n}": "v" for n in range(33)}),
    ("pod.nodeSelector", 32, {f"k{n}": "v" for n in range(33)}),
    ("adapter.targetModules", 64, [f"m{n}" for n in range(65)]),
]


@pytest.mark.bad_input("B22")
@pytest.mark.bad_input("B23")
@pytest.mark.parametrize(("path", "most", "items"), SIZES, ids=[row[0] for row in SIZES])
def test_lists_and_maps_are_bounded(path: str, most: int, items: Any) -> None:
    base = change("spec.adapter", {"type": "LoRA"})
    kept = items[:most] if isinstance(items, list) else dict(list(items.items())[:most])
    assert told(path, kept, base) == []
    low = 1 if path in ("data.sources", "adapter.targetModules") else 0
    assert told(path, items, base)[0] == (
        f"spec.{path}: has the wrong size (got {most + 1} entries); allowed: {low} to {most} entries. hint: "
        f"remove some"
    )


LENGTHS = [
    ("model.uri", 1024, "pvc://a/"),
    ("checkpoint.store", 1024, "pvc://a/"),
    ("pod.image", 512, "a"),
    ("scheduling.schedulerName", 253, "a"),
    ("tracking.mlflow.experiment", 250, "a"),
]


@pytest.mark.bad_input("B21")
@pytest.mark.parametrize(("path", "most", "start"), LENGTHS, ids=[row[0] for row in LENGTHS])
def test_strings_are_bounded(path: str, most: int, start: str) -> None:
    base = change("spec.tracking", {"mlflow": {"uri": "http://m:5000"}})
    longest = start + "x" * (most - len(start))
    assert told(path, longest, base) == []
    (found, *_) = told(path, longest + "x" * 1_000_000, base)
    assert found == (
        f"spec.{path}: is too long (got {most + 1_000_000} characters); allowed: up to {most} characters. hint: "
        f"shorten it"
    )


# --- rules as such ---------------------------------------------------------------------------------


def all_rules(node: Node) -> Iterator[Rule]:
    yield from node.rules
    if node.entries is not None:
        yield from node.entries.rules()
    if node.item is not None:
        yield from all_rules(node.item)
    if node.model is not None:
        for one in members(node.model):
            yield from all_rules(one.node)


EVERY_RULE = [*ROOT_RULES, *all_rules(read(FineTuneJobSpec))]


def test_every_rule_becomes_cel_with_the_same_words() -> None:
    for rule in EVERY_RULE:
        wire = rule.to_kubernetes()
        assert wire["rule"] == rule.cel and wire["message"] == rule.static
        assert not PLACEHOLDER.search(rule.static), rule.static
        shown = PLACEHOLDER.findall(rule.template)
        assert ("messageExpression" in wire) is bool(shown)
        if shown:
            assert wire["messageExpression"].count("%s") == len(shown)
        assert wire["reason"] == ("FieldValueForbidden" if rule.forbidden else "FieldValueInvalid")


def test_what_a_message_shows_is_a_field_or_computed() -> None:
    for rule in EVERY_RULE:
        for name in PLACEHOLDER.findall(rule.template):
            assert name in rule.computed or name.split(".")[0] in ("self", "old"), rule.template
        assert set(rule.computed) <= set(PLACEHOLDER.findall(rule.template)), rule.template


def test_cel_has_no_regular_expression_that_python_reads_differently() -> None:
    """RE2 has no look-around and no back-references; Python would accept both."""
    for rule in EVERY_RULE:
        for pattern in re.findall(r'matches\("((?:[^"\\]|\\.)*)"\)', rule.cel):
            assert "(?" not in pattern and not re.search(r"\\\\[1-9]", pattern), pattern


def test_absent_is_shown_as_nothing() -> None:
    assert told("training", {"globalBatchSize": 4})[0].startswith(
        "spec.training: exactly one of epochs and maxSteps must be set (got epochs=nothing, maxSteps=nothing)"
    )
    assert told("training.globalBatchSize", ABSENT)[0] == (
        "spec.training.globalBatchSize: required value is missing (got nothing); allowed: a whole number from 1 to "
        "1048576. hint: write for example globalBatchSize: 16"
    )
