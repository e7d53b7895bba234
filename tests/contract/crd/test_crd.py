"""The CRD on a real API server: columns, names, descriptions, status, defaults, ratcheting, merging."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml

from contract.crd.specs import JOBS, NEW_BERT, NEW_LLAMA, PATHS, PRETRAIN_JOBS, VALID, VALID_PRETRAIN, change
from contract.server import CRD_PATH, Client, install, shipped_crds
from windlass.api.kinds import KINDS, Kind
from windlass.api.nodes import defaults

pytestmark = pytest.mark.contract

ROOT = Path(__file__).resolve().parents[3]


EACH_KIND = pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)


def shipped_crd(plural: str) -> dict[str, Any]:
    return next(one for one in shipped_crds() if one["spec"]["names"]["plural"] == plural)


def shipped_jobs() -> list[tuple[str, dict[str, Any]]]:
    """Every job below examples/."""
    return [
        (str(path.relative_to(ROOT)), document)
        for path in sorted((ROOT / "examples").rglob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
        if isinstance(document, dict) and document.get("kind") in KINDS
    ]


@EACH_KIND
def test_names_and_categories_are_served(api_server: Client, kind: Kind) -> None:
    resources = api_server.get("/apis/windlass.dev/v1alpha1").expect(200)["resources"]
    served = {one["name"]: one for one in resources}
    assert served[kind.plural]["kind"] == kind.name
    assert served[kind.plural]["shortNames"] == [kind.short]
    assert served[kind.plural]["categories"] == ["windlass"]
    assert f"{kind.plural}/status" in served


@EACH_KIND
def test_explain_has_a_description_for_every_field(api_server: Client, kind: Kind) -> None:
    documents: list[dict[str, Any]] = []

    def is_served() -> bool:
        found: dict[str, Any] = api_server.get("/openapi/v3").expect(200)["paths"]
        place = found.get("apis/windlass.dev/v1alpha1")
        # Once a second the server merges what its parts serve, and moves what an address stood for.
        answer = api_server.get(place["serverRelativeURL"]) if place is not None else None
        if answer is None or answer.code != 200:
            return False
        documents.append(answer.expect(200)["components"]["schemas"])
        return f"dev.windlass.v1alpha1.{kind.name}" in documents[-1]

    api_server.until(is_served)
    schema = documents[-1][f"dev.windlass.v1alpha1.{kind.name}"]
    silent: list[str] = []

    def walk(block: dict[str, Any], path: str) -> None:
        for name, inner in block.get("properties", {}).items():
            if not inner.get("description"):
                silent.append(f"{path}.{name}")
            walk(inner, f"{path}.{name}")
            walk(inner.get("items", {}), f"{path}.{name}[]")

    walk(schema["properties"]["spec"], "spec")
    walk(schema["properties"]["status"], "status")
    assert silent == []


def shown_with_status(client: Client, path: str, document: dict[str, Any]) -> tuple[dict[str, Any], set[str]]:
    """What `kubectl get` shows of a job in full swing by column, without its age; and the wide columns."""
    client.create(path, document).expect(201)
    conditions = [
        {"type": kind, "status": "False", "reason": reason, "lastTransitionTime": "2026-01-01T00:00:00Z"}
        for kind, reason in (("Running", "Other"), ("Ready", "Training"))
    ]
    newest_first = [
        {"step": step, "incarnation": 1, "name": f"step-{step:08d}.i1", "digest": "d"} for step in (20, 10)
    ]
    status = {
        "conditions": conditions,
        "progress": {"step": 24, "tokens": 393216, "loss": 0.5, "tokensPerSecond": 12.5, "mfu": 0.25},
        "counters": {"restarts": 2},
        "goodput": {"ratio": 0.75},
        "checkpoints": newest_first,
        "cost": {"currency": "EUR", "total": "1.5", "ratePerHour": "2", "wasted": "0"},
    }
    client.merge(f"{path}/job/status", {"status": status}).expect(200)
    table = client.table(path)
    names = [column["name"] for column in table["columnDefinitions"]]
    shown = dict(zip(names, table["rows"][0]["cells"], strict=True))
    assert shown.pop("Age")
    return shown, {column["name"] for column in table["columnDefinitions"] if column["priority"]}


def test_columns_show_the_summary(api_server: Client, namespace: str) -> None:
    shown, wide = shown_with_status(api_server, JOBS.format(namespace), VALID)
    assert shown == {
        "Name": "job",
        "Ready": "False",
        "Reason": "Training",
        "Step": 24,
        "Loss": 0.5,
        "Restarts": 2,
        "Goodput": 0.75,
        "Tokens/s": 12.5,
        "MFU": 0.25,
        "Checkpoint": "step-00000020.i1",
        "Cost": "1.5",
        "Model": "pvc://models/SmolLM2-135M-Instruct",
    }
    assert wide == {"Tokens/s", "MFU", "Checkpoint", "Cost", "Model"}


@pytest.mark.parametrize(
    ("document", "model"), [(VALID_PRETRAIN, "pvc://models/SmolLM2-135M"), (NEW_LLAMA, None)]
)
def test_columns_of_a_pretrain_job_show_its_tokens(
    api_server: Client, namespace: str, document: dict[str, Any], model: str | None
) -> None:
    shown, wide = shown_with_status(api_server, PRETRAIN_JOBS.format(namespace), document)
    assert list(shown.items()) == [
        ("Name", "job"),
        ("Ready", "False"),
        ("Reason", "Training"),
        ("Step", 24),
        ("Tokens", 393216),
        ("Loss", 0.5),
        ("Tokens/s", 12.5),
        ("MFU", 0.25),
        ("Restarts", 2),
        ("Goodput", 0.75),
        ("Checkpoint", "step-00000020.i1"),
        ("Cost", "1.5"),
        ("Model", model),
    ]
    assert wide == {"Checkpoint", "Cost", "Model"}


def test_status_and_spec_are_written_apart(api_server: Client, namespace: str) -> None:
    path = JOBS.format(namespace)
    stored = api_server.create(path, {**VALID, "status": {"incarnation": 7}}).expect(201)
    assert "status" not in stored
    body = {"status": {"incarnation": 3}, "spec": {"suspend": True}}
    after = api_server.merge(f"{path}/job/status", body).expect(200)
    assert after["status"]["incarnation"] == 3
    assert after["spec"]["suspend"] is False
    assert after["metadata"]["generation"] == 1
    both = api_server.merge(f"{path}/job", {"status": {"incarnation": 9}, "spec": {"suspend": True}}).expect(
        200
    )
    assert both["status"]["incarnation"] == 3
    assert both["metadata"]["generation"] == 2


@pytest.mark.parametrize("document", [VALID, VALID_PRETRAIN, NEW_LLAMA, NEW_BERT], ids=range(4))
def test_the_server_fills_in_the_defaults_of_the_models(
    api_server: Client, namespace: str, document: dict[str, Any]
) -> None:
    kind = document["kind"]
    stored = api_server.create(PATHS[kind].format(namespace), document).expect(201)["spec"]
    model = KINDS[kind].spec
    for name, block in defaults(model).items():
        assert stored[name] == document["spec"].get(name, block), name
    assert model.model_validate(stored) == model.model_validate(document["spec"])


def test_environment_merges_by_name(api_server: Client, namespace: str) -> None:
    path = f"{JOBS.format(namespace)}/job"
    own = change("spec.pod", {"env": [{"name": "A", "value": "1"}]})
    other = {key: VALID[key] for key in ("apiVersion", "kind", "metadata")}
    other = {**copy.deepcopy(other), "spec": {"pod": {"env": [{"name": "B", "value": "2"}]}}}
    api_server.apply(path, own, manager="one").expect(200, 201)
    merged = api_server.apply(path, other, manager="two", force=False).expect(200)
    assert {one["name"] for one in merged["spec"]["pod"]["env"]} == {"A", "B"}


@pytest.mark.bad_input("B94")
def test_a_job_from_before_a_stricter_rule_can_still_be_updated(api_server: Client, namespace: str) -> None:
    crd = shipped_crd("finetunejobs")
    lenient = copy.deepcopy(crd)
    block = lenient["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    keep_last = block["checkpoint"]["properties"]["keepLast"]
    keep_last["minimum"] = 0
    del keep_last["x-kubernetes-validations"]
    path = f"{JOBS.format(namespace)}/job"
    old = change("spec.checkpoint.keepLast", 1)
    try:
        install(api_server, lenient)
        api_server.until(lambda: api_server.create(JOBS.format(namespace), old).code == 201)
    finally:
        install(api_server, crd)
    refused = change("metadata.name", "second", old)
    api_server.until(lambda: api_server.create(JOBS.format(namespace), refused, dry_run=True).code == 422)
    stored = api_server.merge(path, {"spec": {"suspend": True}}).expect(200)
    assert stored["spec"]["checkpoint"]["keepLast"] == 1
    assert api_server.merge(path, {"spec": {"checkpoint": {"keepLast": 0}}}).code == 422


@pytest.mark.parametrize(("path", "document"), shipped_jobs())
def test_examples_are_accepted(api_server: Client, path: str, document: dict[str, Any]) -> None:
    document = change("metadata.namespace", "default", document)
    api_server.create(PATHS[document["kind"]].format("default"), document, dry_run=True).expect(201)


@EACH_KIND
def test_the_crd_is_established_without_complaint(api_server: Client, kind: Kind) -> None:
    crd = api_server.get(f"{CRD_PATH}/{kind.plural}.windlass.dev").expect(200)
    conditions = {one["type"]: one["status"] for one in crd["status"]["conditions"]}
    assert conditions == {"NamesAccepted": "True", "Established": "True"}


def test_a_status_of_many_owned_fields_becomes_one_value(api_server: Client, namespace: str) -> None:
    """Jobs that ran before the upgrade have a status whose every field is owned by itself."""
    crd = shipped_crd("finetunejobs")
    crd["metadata"]["name"] = "oldjobs.old.windlass.dev"
    crd["spec"]["group"] = "old.windlass.dev"
    crd["spec"]["names"] = {"kind": "OldJob", "listKind": "OldJobList", "plural": "oldjobs"}
    before = copy.deepcopy(crd)
    del before["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"][
        "x-kubernetes-map-type"
    ]
    install(api_server, before)
    path = f"/apis/old.windlass.dev/v1alpha1/namespaces/{namespace}/oldjobs"
    api_server.create(path, VALID | {"apiVersion": "old.windlass.dev/v1alpha1", "kind": "OldJob"}).expect(201)
    here = f"{path}/{VALID['metadata']['name']}"

    body: dict[str, Any] = {
        "apiVersion": "old.windlass.dev/v1alpha1",
        "kind": "OldJob",
        "metadata": {"name": VALID["metadata"]["name"]},
    }
    status = {"observedGeneration": 1, "progress": {"step": 3, "loss": 1.5}, "runConfig": "a"}
    # Operators applied it once.
    written = api_server.apply(f"{here}/status", body | {"status": status}, manager="windlass-status").expect(
        200
    )
    [entry] = [one for one in written["metadata"]["managedFields"] if one["manager"] == "windlass-status"]
    assert set(entry["fieldsV1"]["f:status"]) == {"f:observedGeneration", "f:progress", "f:runConfig"}

    def put(step: int) -> int:
        body["metadata"] = {key: written["metadata"][key] for key in ("name", "uid")} | {
            "resourceVersion": api_server.get(here).expect(200)["metadata"]["resourceVersion"]
        }
        answer = api_server.request(
            "PUT",
            f"{here}/status",
            body | {"status": {"observedGeneration": 1, "progress": {"step": step}}},
            query={"fieldManager": "windlass-status"},
        )
        assert answer.code in {200, 409}, answer.message
        return answer.code

    assert put(4) == 200, "and then an operator put it while the schema was the old one"
    api_server.apply(f"{CRD_PATH}/{crd['metadata']['name']}", crd).expect(200)
    steps = itertools.count(5)

    def owns_one_value() -> bool:
        # Another step each time: a PUT that changes nothing leaves the owners as they are.
        put(next(steps))
        stored = api_server.get(here).expect(200)
        owners = [
            one["fieldsV1"]
            for one in stored["metadata"]["managedFields"]
            if one.get("subresource") == "status"
        ]
        return owners == [{"f:status": {}}]

    api_server.until(owns_one_value)
    now = api_server.get(here).expect(200)
    assert now["status"]["progress"]["step"] > 4 and set(now["status"]) == {
        "observedGeneration",
        "progress",
    }, "what is no longer written goes"
    assert now["spec"] == written["spec"], "a PUT of the status without a spec leaves the spec"
    api_server.delete(f"{CRD_PATH}/{crd['metadata']['name']}").expect(200)
