"""Documents for the tests of the API: small valid ones of both kinds, changes by path, and random ones from the models.

Random documents follow the nodes of the models: mostly values that fit their field, sometimes values of
another field, another type, null or a misspelt field, so that verdicts of both kinds come up often.
"""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from windlass.api.finetune import FineTuneJobSpec
from windlass.api.nodes import Kind, Node, members, read
from windlass.api.pretrain import PretrainJobSpec

Document = dict[str, Any]
JOBS = "/apis/windlass.dev/v1alpha1/namespaces/{}/finetunejobs"
PRETRAIN_JOBS = "/apis/windlass.dev/v1alpha1/namespaces/{}/pretrainjobs"
PATHS = {"FineTuneJob": JOBS, "PretrainJob": PRETRAIN_JOBS}
ABSENT = object()

VALID: Document = {
    "apiVersion": "windlass.dev/v1alpha1",
    "kind": "FineTuneJob",
    "metadata": {"name": "job"},
    "spec": {
        "model": {"uri": "pvc://models/SmolLM2-135M-Instruct"},
        "data": {"sources": [{"uri": "pvc://data/sft/train.jsonl", "format": "Instruction"}]},
        "training": {"globalBatchSize": 16, "epochs": 1},
        "checkpoint": {"store": "pvc://checkpoints"},
    },
}

VALID_PRETRAIN: Document = {
    "apiVersion": "windlass.dev/v1alpha1",
    "kind": "PretrainJob",
    "metadata": {"name": "job"},
    "spec": {
        "model": {"uri": "pvc://models/SmolLM2-135M"},
        "corpus": {"sources": [{"uri": "pvc://data/web"}]},
        "training": {"globalBatchSize": 16, "tokenBudget": 1_000_000},
        "checkpoint": {"store": "pvc://checkpoints"},
    },
}

STRINGS = (
    *(
        "1",
        "0",
        "0.05",
        "0.5",
        "0.25",
        "0.75",
        "0.51",
        "2e-5",
        "1e-8",
        "1.0",
        "1.5",
        "100",
        "-1",
        "1e99",
        "1e-99",
        ".5",
        "01",
    ),
    *(
        "500m",
        "4Gi",
        "4G",
        "0m",
        "0.000",
        "10GBB",
        "3%",
        "100%",
        "101%",
        "999999999",
        "Latest",
        "None",
        "120",
    ),
    *("pvc://models/m", "pvc://data/a/b.jsonl", "pvc://data", "pvc://data/../x", "pvc://a/..", "pvc:///x"),
    *("hf://org/name", "hf://org/name@main", "hf://name", "mlflow://models:/m@best", "mlflow://models:/m/3"),
    *(
        "mlflow://models:/m",
        "s3://u:p@b",
        "hf://u:p@org/name",
        "file:///etc/shadow",
        "pvc://a/b c",
        "pvc://a/ä",
    ),
    *("http://mlflow:5000", "https://u:p@mlflow", "http://169.254.169.254/", "nvidia.com/gpu", "gpu", "name"),
    *(
        "Name",
        "a-",
        "-a",
        "a.b",
        "a\n",
        "a\u0000",
        "",
        "RANK",
        "RANK2",
        "PET_X",
        "WORLD",
        "system-node",
        "batch",
    ),
    *(
        "hf_" + "a" * 20,
        "/data",
        "/data/",
        "/usr/x",
        "/usrx",
        "/",
        "/a/../b",
        "/a//b",
        "/.a",
        "/tmp",
        "/var/run/x",
    ),
    *(
        "team",
        "example.com/team",
        "windlass.dev/run",
        "a b",
        "q_proj",
        "all-linear",
        "image:1",
        "image@sha256:0",
    ),
    *(
        "LoRA",
        "lоra",
        "IA3",
        "DDP",
        "DeepSpeed",
        "x" * 64,
        "x" * 254,
        "x" * 1025,
        "🚀",
        "true",
        "$(RANK); rm -rf /",
    ),
)
ODD = (None, True, False, 0, 1, -1, 1.5, 2.0, 2**63, "two", "0777", "1_000", [], {}, [None], {"a": 1}, ["x"])


def change(path: str, value: Any, document: Document = VALID) -> Document:
    """A copy of `document` with the value at a dotted path set, or removed where `value` is ABSENT."""
    changed = copy.deepcopy(document)
    *parents, last = path.split(".")
    place: Any = changed
    for name in parents:
        place = place[int(name)] if isinstance(place, list) else place.setdefault(name, {})
    if value is ABSENT:
        place.pop(last, None)
    elif isinstance(place, list):
        place[int(last)] = value
    else:
        place[last] = value
    return changed


def _fitting(node: Node) -> list[str]:
    found = [
        one
        for one in STRINGS
        if (node.bounds.min_length or 0) <= len(one) <= (node.bounds.max_length or 9999)
        and all(rule.holds(one, None) for rule in node.rules)
    ]
    return found or ["x"]


def _integers(node: Node) -> st.SearchStrategy[Any]:
    low, high = node.bounds.at_least or 0, node.bounds.at_most or 100
    small = st.sampled_from([one for one in (low, low + 1, 2, 3, 4, 8, 16, 64, 100) if low <= one <= high])
    edges = st.sampled_from([low - 1, low, high, high + 1])
    return st.one_of(small, small, small, small, st.integers(low, high), edges)


def scalars(node: Node) -> st.SearchStrategy[Any]:
    """Values of one leaf, mostly fitting."""
    if node.kind is Kind.BOOLEAN:
        return st.booleans()
    if node.kind is Kind.INTEGER:
        return _integers(node)
    if node.choices:
        return st.one_of(
            st.sampled_from(node.choices), st.sampled_from(node.choices), st.sampled_from(STRINGS)
        )
    fitting = st.sampled_from(_fitting(node))
    return st.one_of(*[fitting] * 15, st.sampled_from(STRINGS))


@st.composite
def values(draw: st.DrawFn, node: Node, rarity: int) -> Any:
    """A value of `node`; about one in `rarity` leaves is of a type that does not belong there."""
    if draw(st.integers(0, rarity)) == 0:
        return draw(st.sampled_from(ODD))
    if node.kind is Kind.OBJECT and node.model is not None:
        return draw(objects(node, rarity))
    if node.kind is Kind.ARRAY and node.item is not None:
        least = node.bounds.min_length or 0
        size = draw(st.sampled_from([least, 1, 1, 2, 3]))
        return [draw(values(node.item, rarity)) for _ in range(size)]
    if node.kind is Kind.MAP:
        keys = st.sampled_from(["team", "example.com/team", "pool", "a b", "windlass.dev/run", "x" * 64])
        inside = st.sampled_from(["a", "b-c", "", "a b", "x" * 64])
        return draw(st.dictionaries(keys, inside, max_size=2))
    return draw(scalars(node))


@st.composite
def objects(draw: st.DrawFn, node: Node, rarity: int) -> Document:
    """A block: required fields nearly always, optional ones now and then, rarely an unknown one."""
    assert node.model is not None
    found: Document = {}
    for one in members(node.model):
        wanted = draw(st.integers(0, 60)) > 0 if one.required else draw(st.integers(0, 4)) == 0
        if wanted:
            found[one.name] = draw(values(one.node, rarity))
    if draw(st.integers(0, 150)) == 0:
        found[draw(st.sampled_from(["worker", "global_batch_size", "Nodes"]))] = draw(
            st.sampled_from([1, None])
        )
    return found


def fields_below(node: Node, path: str) -> list[tuple[str, Node]]:
    """Every field that is reached without a list, by dotted path."""
    assert node.model is not None
    found: list[tuple[str, Node]] = []
    for one in members(node.model):
        here = f"{path}.{one.name}"
        found.append((here, one.node))
        if one.node.kind is Kind.OBJECT:
            found += fields_below(one.node, here)
    return found


def declared(model: type[BaseModel], path: str) -> dict[str, FieldInfo]:
    """How each field of `fields_below` is declared, by dotted path."""
    found: dict[str, FieldInfo] = {}
    for one in members(model):
        here = f"{path}.{one.name}"
        found[here] = model.model_fields[one.attribute]
        if one.node.model is not None:
            found |= declared(one.node.model, here)
    return found


def own_fields(model: type[BaseModel], other: type[BaseModel]) -> list[tuple[str, Node]]:
    """Fields of `model` that are not declared by the very same words in `other`."""
    here, there = declared(model, "spec"), declared(other, "spec")

    def is_shared(path: str) -> bool:
        one, two = here[path], there.get(path)
        return two is not None and (one.annotation, one.metadata) == (two.annotation, two.metadata)

    return [(path, node) for path, node in fields_below(read(model), "spec") if not is_shared(path)]


FIELDS = fields_below(read(FineTuneJobSpec), "spec")
PRETRAIN_FIELDS = fields_below(read(PretrainJobSpec), "spec")
PRETRAIN_OWN = own_fields(PretrainJobSpec, FineTuneJobSpec)
TRACKED = change("spec.tracking", {"mlflow": {"uri": "http://mlflow:5000", "registerAs": "bot"}})
DEEP = change("spec.parallelism", {"strategy": "DeepSpeed", "zeroStage": 2})
GROUPED = change(
    "spec.parallelism",
    {"strategy": "FSDP", "shardGroupSize": 2},
    change(
        "spec.recovery.elastic",
        {"minNodes": 1},
        change("spec.resources", {"nodes": 2, "ranksPerNode": 2}),
    ),
)
SPLIT = change(
    "spec.parallelism",
    {"strategy": "FSDP", "tensor": 2},
    change("spec.resources", {"nodes": 2, "ranksPerNode": 2}),
)
SCRIPT: Document = {
    **VALID,
    "spec": {
        "custom": {"command": ["python", "/scripts/train.py"]},
        "checkpoint": {"store": "pvc://checkpoints"},
    },
}
HELD_OUT = change("spec.data.validation", {"fraction": "0.05"}, change("spec.adapter", {"rank": 8}))

NEW_LLAMA = change(
    "spec.tokenizer",
    {"train": {"vocabularySize": 8192}},
    change(
        "spec.architecture",
        {"hiddenSize": 64, "layers": 2, "heads": 4, "keyValueHeads": 2},
        change("spec.model", ABSENT, VALID_PRETRAIN),
    ),
)
NEW_BERT = change(
    "spec.objective",
    "MaskedLM",
    change(
        "spec.tokenizer",
        {"uri": "hf://org/name"},
        change("spec.architecture", {"type": "Bert", "hiddenSize": 64, "layers": 2, "heads": 4}, NEW_LLAMA),
    ),
)
SHARES = change(
    "spec.corpus.sources",
    [{"uri": "pvc://data/web", "share": "0.75"}, {"uri": "pvc://data/books", "share": "0.25"}],
    VALID_PRETRAIN,
)
PASSES = change("spec.training", {"globalBatchSize": 16, "epochs": 1}, VALID_PRETRAIN)
WITH_HELD_OUT = change(
    "spec.training.validateEverySteps", 10, change("spec.corpus.heldOut", {}, VALID_PRETRAIN)
)
DRAWN_FROM = {
    "FineTuneJob": ((VALID, TRACKED, DEEP, GROUPED, SPLIT, HELD_OUT, SCRIPT), FIELDS),
    "PretrainJob": ((VALID_PRETRAIN, NEW_LLAMA, NEW_BERT, SHARES, PASSES, WITH_HELD_OUT), PRETRAIN_FIELDS),
}
"""By kind: the documents that random ones begin with, and the fields that are changed in them."""


def grouped(size: int, **gang: int) -> Document:
    """A spec with groups of `size` ranks in a gang of these numbers; with minNodes it may shrink."""
    least = gang.pop("minNodes", None)
    changes = {
        "parallelism": {"strategy": "FSDP", "shardGroupSize": size},
        "resources": gang,
        "training": {"globalBatchSize": gang["nodes"] * gang["ranksPerNode"], "epochs": 1},
    }
    return {**VALID["spec"], **changes, **({"recovery": {"elastic": {"minNodes": least}}} if least else {})}


GROUP_SIZE = "spec.parallelism.shardGroupSize"
NO_QUEUES: tuple[tuple[Any, ...], ...] = (
    ({"name": "Team_A"}, "spec.scheduling.queue.name", ("Team_A", "lower-case", "get")),
    ({"kind": "Kueue"}, "spec.scheduling.queue.name", ("required", "name: team-a"), "Required value"),
    (
        {"kind": "Volcano", "name": "a"},
        "spec.scheduling.queue.kind",
        ("Volcano", "allowed: Kueue"),
        "supported values",
    ),
)
"""What no queue is: value, path, what is said, the API server's own words where it has some."""

GROUPS_THAT_FIT_NOT: tuple[tuple[str, Any, str, tuple[str, ...]], ...] = (
    (
        "spec",
        grouped(4, nodes=3, ranksPerNode=2),
        GROUP_SIZE,
        ("got 4 with 3 nodes x 2 ranksPerNode = 6", "divides nodes x ranksPerNode", "use ranksPerNode"),
    ),
    (
        "spec",
        grouped(16, nodes=1, ranksPerNode=8),
        GROUP_SIZE,
        ("got 16 with 1 nodes x 8 ranksPerNode = 8", "divides nodes x ranksPerNode", "over all ranks"),
    ),
    (
        "spec",
        grouped(2, nodes=4, ranksPerNode=1, minNodes=2),
        "spec.recovery.elastic",
        ("minNodes 2 of 4 nodes x 1 ranksPerNode with shardGroupSize 2", "divides ranksPerNode", "minNodes"),
    ),
    (GROUP_SIZE, 1, "", ("got 1", "2 to 32768", "DDP is what 1 would be")),
    (
        "spec.parallelism",
        {"strategy": "DDP", "shardGroupSize": 2},
        GROUP_SIZE,
        ("shardGroupSize=2 with strategy DDP", "strategy FSDP", "remove shardGroupSize"),
    ),
)
"""Field, value, place of the refusal and parts of what it says."""


@st.composite
def documents(draw: st.DrawFn, kind: str = "FineTuneJob") -> Document:
    """A valid document with one to six fields changed, mostly to values that fit."""
    bases, fields = DRAWN_FROM[kind]
    leaves = [(path, node) for path, node in fields if node.kind is not Kind.OBJECT]
    document = draw(st.sampled_from(bases))
    for _ in range(draw(st.integers(1, 6))):
        path, node = draw(st.sampled_from(fields if draw(st.integers(0, 5)) == 0 else leaves))
        value = draw(values(node, draw(st.sampled_from([10, 5000, 5000, 5000, 5000]))))
        try:
            document = change(path, value, document)
        except (AttributeError, TypeError, IndexError, ValueError):
            continue  # an earlier change left no block at this path
    names = ["job"] * 30 + ["a.b", "9a", "x" * 41, "x" * 40]
    return change("metadata.name", draw(st.sampled_from(names)), document)
