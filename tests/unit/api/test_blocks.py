"""Rules of the spec about combinations: each refusal with its whole sentence."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.crd.specs import VALID, change
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
        "x 1 ranksPerNode x 4 microBatchSize / 1 (tensor x pipeline) = 4); allowed: a multiple of nodes x "
        "ranksPerNode x microBatchSize / (tensor x pipeline). hint: "
        "change globalBatchSize to a multiple of 4, or microBatchSize",
    ),
    (
        "guards.nonFinite",
        {"checkpoints": 4},
        "spec.guards.nonFinite.checkpoints: goes back further than checkpoints are kept (got 4 with "
        "checkpoint.keepLast=3); allowed: up to checkpoint.keepLast. hint: raise checkpoint.keepLast, or go back less "
        "far",
    ),
    ("guards.lossSpike", {"action": "Notify", "checkpoints": 9}, None),
    (
        "guards.lossSpike",
        {"action": "Rollback", "checkpoints": 9},
        "spec.guards.lossSpike.checkpoints: goes back further than checkpoints are kept (got 9 with "
        "checkpoint.keepLast=3); allowed: up to checkpoint.keepLast. hint: raise checkpoint.keepLast, or go back less "
        "far",
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
        "parallelism",
        {"strategy": "DDP", "shardGroupSize": 2},
        "spec.parallelism.shardGroupSize: shardGroupSize is for FSDP only (got shardGroupSize=2 with strategy DDP); "
        "allowed: shardGroupSize with strategy FSDP. hint: remove shardGroupSize, or set strategy: FSDP",
    ),
    (
        "parallelism",
        {"strategy": "FSDP", "shardGroupSize": 2},
        "spec.parallelism.shardGroupSize: does not divide the ranks into equal groups (got 2 with 1 nodes x "
        "1 ranksPerNode = 1); allowed: a number that divides nodes x ranksPerNode. hint: use ranksPerNode, or "
        "remove shardGroupSize to split over all ranks",
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
        "spec.resume.from: is not written as it must be (got newest); allowed: Latest, None, a step, or "
        "pvc://claim/path of another run's directory or checkpoint. hint: see status.checkpoints for the steps that "
        "can be resumed",
    ),
    ("resume", {"from": "pvc://checkpoints/team-a/team/elder/uid-1"}, None),
    ("resume", {"from": "pvc://checkpoints/elder/step-00000120.i3"}, None),
    (
        "resume",
        {"from": "pvc://checkpoints"},
        "spec.resume.from: is not written as it must be (got pvc://checkpoints); allowed: Latest, None, a step, or "
        "pvc://claim/path of another run's directory or checkpoint. hint: see status.checkpoints for the steps that "
        "can be resumed",
    ),
    (
        "resume",
        {"from": "pvc://checkpoints/../elder"},
        "spec.resume.from: path must not contain '..' (got pvc://checkpoints/../elder); allowed: a path below the root "
        "of the claim or repository. hint: write the path from the root, without '..'",
    ),
    (
        "resume",
        {"from": "pvc://elsewhere/elder"},
        "spec.resume.from: is not in the claim of checkpoint.store (got pvc://elsewhere/elder with "
        "checkpoint.store=pvc://checkpoints); allowed: a path in the claim that checkpoint.store names. hint: name "
        "that claim in checkpoint.store, or copy the other run's directory into this one",
    ),
    ("recovery.elastic", {"minNodes": 1}, None),
    (
        "recovery.elastic",
        {"minNodes": 2},
        "spec.recovery.elastic.minNodes: is more than all nodes (got 2 with resources.nodes=1); allowed: at most "
        "resources.nodes. hint: lower minNodes, or raise resources.nodes",
    ),
    (
        "recovery",
        {"elastic": {"minNodes": 1}, "ladder": ["InPlace", "RecreatePod"]},
        "spec.recovery.elastic: elastic needs its rung (got elastic with a ladder without Shrink); allowed: elastic "
        "with Shrink in ladder. hint: add Shrink to ladder, or remove elastic",
    ),
    (
        "recovery.ladder",
        ["InPlace", "RecreatePod", "InPlace"],
        "spec.recovery.ladder: a rung is named twice (got InPlace); allowed: InPlace, RecreatePod, OtherNode, "
        "Shrink and RecreateGang, each "
        "at most once. hint: remove the repeated rung; how often a rung is tried is set by budgets",
    ),
    (
        "recovery.ladder",
        [],
        "spec.recovery.ladder: has the wrong size (got 0 entries); allowed: 1 to 5 entries. hint: add one, or "
        "leave the "
        "field out if it is optional",
    ),
    (
        "recovery.ladder",
        ["Restart"],
        'spec.recovery.ladder[0]: is not supported (got "Restart"); allowed: InPlace, RecreatePod, '
        "OtherNode, Shrink, RecreateGang. hint: "
        "choose one of the allowed values",
    ),
    (
        "guards.stall",
        {"action": "Kill"},
        'spec.guards.stall.action: is not supported (got "Kill"); allowed: Restart, Notify, Off. hint: choose one of '
        "the allowed values",
    ),
    (
        "guards.stall",
        {"action": False},
        "spec.guards.stall.action: has the wrong type (got false); allowed: Restart, Notify, Off. hint: put the value "
        "in quotes; YAML reads on, off, yes and no as true or false",
    ),
    (
        "guards.stall",
        {"limitSeconds": "5m"},
        'spec.guards.stall.limitSeconds: has the wrong type (got "5m"); allowed: a whole number from 5 to 604800. '
        "hint: write whole digits without quotes, point, underscore or unit",
    ),
    (
        "guards",
        {"stalls": {}},
        "spec.guards.stalls: unknown field (got stalls); allowed: nonFinite, lossSpike, stall. "
        "hint: did you mean stall?",
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
        {"queue": {"name": "Team A"}},
        "spec.scheduling.queue.name: is not written as it must be (got Team A); allowed: lower-case letters, digits "
        "and '-', beginning and ending with a letter or digit. hint: see `kubectl get localqueues` in the job's "
        "namespace",
    ),
    (
        "scheduling",
        {"gangStartSeconds": 5},
        "spec.scheduling.gangStartSeconds: is out of range (got 5); allowed: 30 to 86400. hint: allow for pulling the "
        "image, 600 is usual; leave it out to wait",
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


@pytest.mark.parametrize(
    "parallelism",
    [
        {"strategy": "DDP"},
        {"strategy": "FSDP"},
        *({"strategy": "DeepSpeed", "zeroStage": stage} for stage in (1, 2, 3)),
    ],
    ids=lambda value: "-".join(map(str, value.values())),
)
def test_every_strategy_may_shrink(parallelism: dict[str, object]) -> None:
    assert told("recovery.elastic", {"minNodes": 1}, change("spec.parallelism", parallelism, VALID)) == []


# --- groups of ranks that split a copy of the model ---------------------------------------------------


def grouped(nodes: int, ranks: int, size: Any, least: int | None = None) -> list[str]:
    """What is said of groups of `size` in a gang of so many nodes and ranks in each, of which `least` may be left."""
    document = change("spec.parallelism", {"strategy": "FSDP", "shardGroupSize": size})
    document = change("spec.resources", {"nodes": nodes, "ranksPerNode": ranks}, document)
    document = change("spec.training.globalBatchSize", nodes * ranks, document)
    if least is not None:
        document = change("spec.recovery.elastic", {"minNodes": least}, document)
    return [str(problem) for problem in validate(document)]


@given(st.integers(1, 64), st.integers(1, 16), st.integers(2, 70))
def test_groups_must_divide_the_ranks(nodes: int, ranks: int, size: int) -> None:
    found = grouped(nodes, ranks, size)
    if nodes * ranks % size == 0:
        assert found == []
        return
    assert found == [
        "spec.parallelism.shardGroupSize: does not divide the ranks into equal groups "
        f"(got {size} with {nodes} nodes x {ranks} ranksPerNode = {nodes * ranks}); allowed: a number that divides "
        "nodes x ranksPerNode. hint: use ranksPerNode, or remove shardGroupSize to split over all ranks"
    ]


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 16), st.integers(2, 40))
def test_no_number_of_nodes_that_a_gang_may_have_is_without_equal_groups(
    nodes: int, least: int, ranks: int, size: int
) -> None:
    """Taken if, and only if, the ranks of each allowed number of nodes divide."""
    least = min(least, nodes)
    fits = all(each * ranks % size == 0 for each in range(least, nodes + 1))
    assert (grouped(nodes, ranks, size, least) == []) == fits


def test_a_gang_that_may_shrink_past_its_groups_is_told_why_and_what_to_do() -> None:
    assert grouped(4, 1, 2, 2) == [
        "spec.recovery.elastic: the ranks of fewer nodes would not divide into groups of "
        "parallelism.shardGroupSize (got minNodes 2 of 4 nodes x 1 ranksPerNode with shardGroupSize 2); allowed: "
        "recovery.elastic with a shardGroupSize that divides ranksPerNode, or without one. hint: set minNodes to "
        "resources.nodes, remove recovery.elastic, or create the job with another shardGroupSize"
    ]


@pytest.mark.parametrize("size", [0, -2, 1, 32_769, "2", 2.5, True])
def test_what_is_no_size_of_a_group_is_said_once(size: Any) -> None:
    """Rules about other fields leave it to the rule about its bounds."""
    (found,) = grouped(2, 2, size, 1)
    assert found.startswith("spec.parallelism.shardGroupSize: ")


def test_a_strategy_that_splits_nothing_in_groups_has_none() -> None:
    for parallelism in ({"strategy": "DDP"}, {"strategy": "DeepSpeed", "zeroStage": 3}):
        (found,) = told(
            "parallelism", {**parallelism, "shardGroupSize": 2}, change("spec.resources.nodes", 2)
        )
        assert f"with strategy {parallelism['strategy']})" in found
