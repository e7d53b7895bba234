"""Every bad input of the matrix that schema and rules judge: refused by a real API server, and said well.

Each row names the field's path, the value given, what is allowed and the next step. The server must refuse
at that path; where its text is our own, all four stand in it. `windlass validate` always says all four.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from contract.crd.specs import GROUPS_THAT_FIT_NOT, JOBS, NO_QUEUES, VALID, change
from contract.server import Client
from windlass.api.validation import validate

pytestmark = pytest.mark.contract

ENV = "spec.pod.env"
VOLUMES = "spec.pod.volumes"


@dataclass(frozen=True)
class Row:
    """One bad input. `native` rows are refused by the schema, in the server's own words."""

    bad: str
    field: str
    value: Any
    at: str
    says: tuple[str, ...]
    native: str = ""


def env(name: str, value: str = "1") -> list[dict[str, str]]:
    return [{"name": name, "value": value}]


ROWS = (
    Row("B1", "spec.resources.nodes", -1, "", ("got -1", "1 to 4096", "suspend")),
    Row("B2", "spec.resources.nodes", 0, "", ("got 0", "1 to 4096", "set spec.suspend: true to pause")),
    Row("B3", "spec.resources.nodes", 100_000, "", ("got 100000", "1 to 4096", "hint: ")),
    Row(
        "B4",
        "spec.resources",
        {"nodes": 4096, "accelerator": {"count": 16}},
        "spec.resources.nodes",
        ("got 65536", "up to 32768", "fewer nodes"),
    ),
    Row(
        "B5", "spec.resources.nodes", "two", "", ('got "two"', "1 to 4096", "without quotes"), "type integer"
    ),
    Row("B5", "spec.resources.nodes", 1.5, "", ("got 1.5", "1 to 4096", "without quotes"), "type integer"),
    *(Row("B7", *row) for row in GROUPS_THAT_FIT_NOT),
    Row("B8", "spec.recovery.budgets.crash", -5, "", ("got -5", "0 to 1000", "5 is usual")),
    Row("B8", "spec.recovery.budgets.crash", 10**9, "", ("got 1000000000", "0 to 1000", "5 is usual")),
    Row("B9", "spec.activeDeadlineSeconds", 0, "", ("got 0", "60 to 31536000", "leave it out")),
    Row("B9", "spec.activeDeadlineSeconds", -1, "", ("got -1", "60 to 31536000", "leave it out")),
    Row(
        "B10", "spec.ttlSecondsAfterFinished", 2**63 - 1, "", ("got 9223372036854775807", "31536000", "a day")
    ),
    Row("B11", "spec.activeDeadlineSeconds", "5 mins", "", ('got "5 mins"', "60 to", "unit"), "type integer"),
    Row("B12", "spec.resources.perNode.memory", "10GBB", "", ("got 10GBB", "quantity", "64Gi")),
    Row("B13", "spec.resources.perNode.cpu", "-1", "", ("got -1", "positive Kubernetes quantity", "500m")),
    Row("B13", "spec.resources.perNode.cpu", "0m", "", ("got 0m", "above 0", "500m")),
    Row(
        "B15",
        "spec.resources.accelerator.count",
        "0.5",
        "",
        ('got "0.5"', "0 to 16", "point"),
        "type integer",
    ),
    Row("B17", "spec.worker", 2, "", ("got worker", "model, data", "hint: "), 'unknown field "spec.worker"'),
    Row("B18", "spec.resources.node", 2, "", ("nodes, ranksPerNode", "did you mean nodes?"), "unknown field"),
    Row("B19", "spec.model", None, "", ("got nothing", "a block", "pvc://models/", "custom")),
    Row("B20", "spec.model.uri", "", "", ('got ""', "1 to 1024", "write a value"), "at least 1 chars"),
    Row("B21", "spec.pod.image", "x" * 1_000_000, "", ("got 1000000", "512", "shorten"), "Too long"),
    Row(
        "B22",
        ENV,
        [{"name": f"V{index}", "value": ""} for index in range(10_000)],
        "",
        ("got 10000 entries", "0 to 64", "remove some"),
        "Too many",
    ),
    Row(
        "B23",
        "spec.pod.labels",
        {f"k{index}": "v" for index in range(10_000)},
        "",
        ("got 10000 entries", "0 to 32", "remove some"),
        "Too many",
    ),
    Row("B24", ENV, [*env("A"), *env("A")], f"{ENV}[1]", ("got name: A", "once", "remove one"), "Duplicate"),
    *(
        Row("B25", ENV, env(name), f"{ENV}[0].name", (f"got {name}", "names other than LD_*", "remove it"))
        for name in (
            *(
                "LD_PRELOAD",
                "PYTHONPATH",
                "NVIDIA_VISIBLE_DEVICES",
                "CUDA_VISIBLE_DEVICES",
                "RANK",
                "WORLD_SIZE",
            ),
            *("LOCAL_RANK", "MASTER_ADDR", "PET_NNODES", "WINDLASS_INDEX", "POD_NAME"),
        )
    ),
    Row("B26", ENV, env("KEY", "hf_" + "a" * 30), f"{ENV}[0].value", ("got KEY=***", "plain", "secretRef")),
    Row("B26", ENV, env("KEY", "sk-" + "a" * 30), f"{ENV}[0].value", ("got KEY=***", "plain", "secretRef")),
    Row("B27", "metadata.name", "a" * 63, "", ("63 characters", "up to 40", "shorter")),
    Row(
        "B28",
        "metadata.name",
        "support.bot",
        "",
        ("got support.bot", "letters, digits and '-'", "replace dots"),
    ),
    Row("B30", "spec.adapter.type", "L\u043eRA", "", ("LoRA, IA3", "did you mean LoRA?"), "supported values"),
    Row("B31", "spec.model.uri", "pvc://models/a\nb", "", ("letters, digits", "without spaces and control")),
    Row(
        "B32", "spec.model.uri", "pvc://models/a\u0000", "", ("letters, digits", "without spaces and control")
    ),
    Row("B33", "spec.data.sources.0.uri", "../../etc/passwd", "", ("got ../../etc", "pvc://", "claim/path")),
    Row(
        "B33",
        "spec.data.sources.0.uri",
        "pvc://data/../../etc/passwd",
        "",
        ("'..'", "below the root", "without"),
    ),
    Row("B33", "spec.checkpoint.store", "pvc://data/../x", "", ("'..'", "below the root", "without '..'")),
    Row(
        "B34",
        "spec.data.sources.0.uri",
        "file:///etc/shadow",
        "",
        ("got file:///etc", "hf://, pvc://", "claim"),
    ),
    Row(
        "B35",
        "spec.data.sources.0.uri",
        "pvc://other:claim/x",
        "",
        ("own namespace", "other namespaces cannot"),
    ),
    Row(
        "B36",
        "spec.model.uri",
        "http://169.254.169.254/",
        "",
        ("got http://169", "hf://, pvc://", "claim/path"),
    ),
    Row(
        "B37",
        "spec.model.uri",
        "s3://user:word@bucket",
        "",
        ("got s3://***@bucket", "without user", "secretRef"),
    ),
    Row("B37", "spec.model.uri", "hf://user:word@org/name", "", ("***@org", "without user", "secretRef")),
    Row(
        "B57",
        "spec.data.validation",
        {},
        "",
        ("got fraction=nothing, uri=nothing", "fraction, or uri", "remove"),
    ),
    Row(
        "B57",
        "spec.data.validation",
        {"fraction": "0.1", "uri": "pvc://data/x"},
        "",
        ("got fraction=0.1, uri=pvc://data/x", "fraction, or uri", "remove"),
    ),
    Row(
        "B57",
        "spec.training.maxSteps",
        5,
        "spec.training",
        ("got epochs=1, maxSteps=5", "or maxSteps", "hint"),
    ),
    Row(
        "B58",
        "spec.adapter",
        {"type": "IA3", "rank": 8},
        "spec.adapter.rank",
        ("rank=8", "LoRA", "remove rank"),
    ),
    Row("B59", "spec.adapter.rank", 0, "", ("got 0", "1 to 1024", "leave adapter out")),
    Row("B59", "spec.adapter.rank", 100_000, "", ("got 100000", "1 to 1024", "8 to 64")),
    Row("B60", "spec.training.learningRate", 0.00001, "", ("1e-05", "string", "quotes"), "type string"),
    Row("B60", "spec.training.learningRate", "0", "", ("got 0", "> 0 and <= 1", "2e-5")),
    Row("B60", "spec.training.learningRate", "5", "", ("got 5", "> 0 and <= 1", "2e-5")),
    Row(
        "B61",
        "spec.resources",
        {"nodes": 3},
        "spec.training.globalBatchSize",
        ("got 16 rows with 3 nodes", "a multiple of nodes", "multiple of 3"),
    ),
    Row(
        "B63",
        "spec.training.precision",
        "FP8",
        "",
        ('got "FP8"', "Auto, BF16, FP32", "hint"),
        "supported values",
    ),
    Row(
        "B64",
        "spec.parallelism",
        {"strategy": "DeepSpeed", "zeroStage": 4},
        "spec.parallelism.zeroStage",
        ("4",),
    ),
    Row(
        "B65",
        "spec.parallelism",
        {"strategy": "FSDP", "zeroStage": 3},
        "spec.parallelism.zeroStage",
        ("strategy=FSDP, zeroStage=3", "DeepSpeed", "choose one strategy"),
    ),
    Row(
        "B90",
        "spec.scheduling.priorityClassName",
        "system-node-critical",
        "",
        ("system-node", "not begin", "get"),
    ),
    *(Row("B90", "spec.scheduling.queue", *row) for row in NO_QUEUES),
    Row("B91", "spec.pod.hostNetwork", True, "", ("hostNetwork", "image,", "hint"), "unknown field"),
    Row(
        "B91",
        VOLUMES,
        [{"name": "a", "mountPath": "/data", "hostPath": {"path": "/"}}],
        f"{VOLUMES}[0].hostPath",
        ("hostPath", "claim, secret, configMap", "hint"),
        "unknown field",
    ),
    Row(
        "B91",
        VOLUMES,
        [{"name": "a", "claim": "c", "mountPath": "/usr/lib"}],
        f"{VOLUMES}[0].mountPath",
        ("got /usr/lib", "outside /windlass", "/data/extra"),
    ),
    Row("B92", "spec.suspend", "on", "", ('got "on"', "true or false", "without quotes"), "type boolean"),
    Row("B92", "spec.resources.nodes", "0777", "", ('"0777"', "1 to 4096", "without quotes"), "type integer"),
    Row("B92", "spec.resources.nodes", "1_000", "", ('"1_000"', "1 to 4096", "underscore"), "type integer"),
    Row("B92", "spec.resume.from", True, "", ("got true", "a string", "YAML reads on"), "type string"),
)

CONTROLLER = {
    "B16": "Unschedulable",
    "B38": "DataUnreadable",
    "B39": "DataUnreadable",
    "B47": "SecretNotFound",
    "B48": "SecretKeyNotFound",
    "B49": "ClaimNotFound",
    "B50": "AccessModeNotShared",
    "B62": "SequenceTooLong",
    "B70": "retention keeps what is in use",
    "B72": "drift is reverted",
    "B73": "a deleted pod is a disruption",
    "B74": "owners are told by UID",
    "B75": "deletion during a restart",
    "B76": "deletion of the namespace",
    "B77": "a new job of the same name",
    "B78": "create, suspend, delete in a loop",
    "B87": "environment is passed on as it is, no shell reads it",
}
"""Judged by operator and pods, not by schema and rules: their tests carry the ids."""

ELSEWHERE = {"B29", "B68", "B69", "B71", "B93"}
"""Judged by the API server, with a test of their own below."""


# Kubernetes falls back to a text without the value where the value holds a line break.
OWN_WORDS = [row for row in ROWS if not row.native and "\n" not in str(row.value)]


def path_of(row: Row) -> str:
    return row.at or row.field.replace(".0.", "[0].")


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=pytest.mark.bad_input(row.bad), id=f"{row.bad}-{path_of(row)}") for row in ROWS],
)
def test_bad_input_is_refused_with_the_way_out(api_server: Client, row: Row) -> None:
    document = change(row.field, row.value)
    answer = api_server.create(JOBS.format("default"), document, dry_run=True)
    assert answer.code in (400, 422), answer.message
    if row.native:
        assert row.native in answer.message
        assert path_of(row).split("[")[0] in answer.message
    else:
        own = [message for field, message in answer.causes if field == path_of(row)]
        assert own, f"no cause at {path_of(row)}: {answer.causes}"
        assert any(all(part in message for part in row.says) for message in own), own
        assert any("; allowed: " in message and ". hint: " in message for message in own), own
    problems = [one for one in validate(document) if one.path == path_of(row)]
    assert problems, f"windlass validate says nothing at {path_of(row)}: {validate(document)}"
    assert any(all(part in one.message for part in row.says) for one in problems), problems
    assert all("(got " in one.message and "; allowed: " in one.message for one in problems), problems


@pytest.mark.parametrize("row", OWN_WORDS, ids=lambda row: f"{row.bad}-{path_of(row)}")
def test_server_and_offline_say_the_same(api_server: Client, row: Row) -> None:
    document = change(row.field, row.value)
    answer = api_server.create(JOBS.format("default"), document, dry_run=True)
    spoken = "\n".join(message for _, message in answer.causes)
    assert any(one.message in spoken for one in validate(document))


@pytest.mark.bad_input("B37")
def test_a_credential_is_never_repeated(api_server: Client) -> None:
    for path, value in (
        ("spec.model.uri", "hf://user:pass-word@org/name"),
        (ENV, env("K", "hf_" + "q" * 30)),
    ):
        document = change(path, value)
        answer = api_server.create(JOBS.format("default"), document, dry_run=True)
        told = answer.message + "".join(str(one) for one in validate(document))
        assert "pass-word" not in told
        assert "q" * 30 not in told


@pytest.mark.bad_input("B18")
def test_unknown_fields_are_dropped_where_the_client_asks_for_it(api_server: Client) -> None:
    document = change("spec.worker", 2)
    answer = api_server.create(JOBS.format("default"), document, dry_run=True, validation="Warn")
    assert "worker" not in answer.expect(201)["spec"]
    assert any("unknown field" in warning and "spec.worker" in warning for warning in answer.warnings)


@pytest.mark.bad_input("B29")
@pytest.mark.parametrize("name", ["b\u00f6t", "bot\U0001f680", "\u202etob", "Bot"])
def test_names_outside_the_alphabet_are_refused(api_server: Client, name: str) -> None:
    document = change("metadata.name", name)
    answer = api_server.create(JOBS.format("default"), document, dry_run=True)
    assert answer.code == 422
    assert "metadata.name" in answer.message
    assert [one.path for one in validate(document)] == ["metadata.name"]


@pytest.mark.bad_input("B93")
def test_an_unknown_version_has_no_match(api_server: Client) -> None:
    document = change("apiVersion", "windlass.dev/v1beta9")
    path = JOBS.format("default").replace("v1alpha1", "v1beta9")
    assert api_server.create(path, document).code == 404
    assert api_server.create(JOBS.format("default"), document).code == 400
    (problem,) = validate(document)
    assert problem.path == "apiVersion"
    assert 'got "windlass.dev/v1beta9"' in problem.message
    assert "windlass.dev/v1alpha1" in problem.message


@pytest.mark.bad_input("B71")
def test_a_user_of_jobs_cannot_write_their_status(api_server: Client) -> None:
    api_server.create(JOBS.format("default"), change("metadata.name", "of-ada")).expect(201)
    group, jobs = "rbac.authorization.k8s.io", ["finetunejobs"]
    rules = [{"apiGroups": ["windlass.dev"], "resources": jobs, "verbs": ["*"]}]
    role = {"metadata": {"name": "editor"}, "rules": rules}
    binding = {
        "metadata": {"name": "editor"},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "editor"},
        "subjects": [{"apiGroup": group, "kind": "User", "name": "ada"}],
    }
    api_server.create(f"/apis/{group}/v1/clusterroles", role).expect(201)
    api_server.create(f"/apis/{group}/v1/clusterrolebindings", binding).expect(201)
    ada = api_server.impersonating("ada")
    path = f"{JOBS.format('default')}/of-ada"
    answer = ada.merge(f"{path}/status", {"status": {"incarnation": 9}})
    assert answer.code == 403
    assert 'cannot patch resource "finetunejobs/status"' in answer.message
    stored = ada.merge(path, {"status": {"incarnation": 9}, "metadata": {"labels": {"a": "b"}}}).expect(200)
    assert "status" not in stored


def listed_ids() -> set[str]:
    wanted = [*range(1, 40), *range(47, 51), *range(57, 79), 86, 87, *range(90, 94)]
    return {f"B{number}" for number in wanted}


def test_every_listed_id_is_judged_somewhere() -> None:
    page = Path(__file__).resolve().parents[3] / "docs" / "bad-input.md"
    without_field = {
        line.split("|")[1].strip() for line in page.read_text().splitlines() if line.startswith("| B")
    }
    assert len(without_field) <= 8
    rows = {row.bad for row in ROWS}
    assert rows | set(CONTROLLER) | ELSEWHERE | without_field == listed_ids()
    assert without_field.isdisjoint(rows | set(CONTROLLER) | ELSEWHERE)


def test_the_valid_document_is_not_changed_by_rows() -> None:
    before = copy.deepcopy(VALID)
    change("spec.data.sources.0.uri", "x")
    assert before == VALID
