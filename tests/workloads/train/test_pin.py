"""A run works on one base model for ever, whatever its name means by now."""

from __future__ import annotations

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from tests.workloads.train.hub import Hub
from windlass.api.meta import ExitCode, Reason
from windlass_workloads.checkpoint import manifest as manifests
from windlass_workloads.checkpoint.store import MODEL, RunStore
from windlass_workloads.data import remote
from windlass_workloads.data.sources import Request
from windlass_workloads.train.fingerprint import fingerprint

pytestmark = pytest.mark.workloads
LORA = {"type": "LoRA", "rank": 4}


@pytest.fixture
def hub():
    running = Hub()
    yield running
    running.close()


@pytest.fixture
def retrained(volumes, tmp_path):
    """The tiny model with one other tensor, as upstream's next commit."""
    directory = tmp_path / "retrained"
    shutil.copytree(volumes / "models" / "tiny", directory)
    change_one_tensor(directory)
    return directory


def change_one_tensor(directory):
    weights = load_file(directory / "model.safetensors")
    weights["model.layers.1.self_attn.q_proj.weight"] += 0.25
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def prepare(job, hub):
    said = job.start("prepare", environment={"HF_ENDPOINT": hub.uri}).ok()
    job.prepared = said.of("Prepared")[0].name


def test_a_push_to_the_hub_does_not_reach_a_run_that_has_begun(make_job, hub, volumes, retrained):
    expected = make_job(adapter=LORA).train(world=2).ok().losses()
    job = make_job(adapter=LORA, model={"uri": "hf://org/tiny"})
    first = hub.push(volumes / "models" / "tiny")
    prepare(job, hub)
    assert json.loads((job.store / MODEL).read_text())["revision"] == first
    assert hub.push(retrained) != first
    hub.requests.clear()
    there = {"HF_ENDPOINT": hub.uri}
    killed = job.start(
        world=2, environment=there, actions=[{"type": "Step", "step": 5, "rank": 0, "signal": "SIGKILL"}]
    )
    # Another prepare, such as a new leader's that lost the first one's answer, keeps to what was settled.
    prepare(job, hub)
    resumed = job.start(world=2, resume=killed.saved[0], environment=there).ok()
    assert {**killed.losses(), **resumed.losses()} == expected
    assert hub.requests == []
    saved = manifests.read(RunStore(job.store), resumed.saved[-1])
    assert saved.model_digest == fingerprint(volumes / "models" / "tiny")


def test_a_run_recovers_while_the_hub_is_away(make_job, hub, volumes):
    job = make_job(model={"uri": "hf://org/tiny"})
    hub.push(volumes / "models" / "tiny")
    prepare(job, hub)
    away = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    assert job.start(environment=away).ok().losses()


@pytest.mark.parametrize("damage", ["gone", "other", "forgotten"])
def test_ranks_refuse_a_copy_that_is_not_the_one_of_prepare(make_job, hub, volumes, retrained, damage):
    job = make_job(model={"uri": "hf://org/tiny"})
    hub.push(volumes / "models" / "tiny")
    prepare(job, hub)
    directory = job.store / json.loads((job.store / MODEL).read_text())["directory"]
    if damage == "forgotten":
        (job.store / MODEL).unlink()
    else:
        shutil.rmtree(directory)
    if damage == "other":
        shutil.copytree(retrained, directory)
    refused = job.start(environment={"HF_ENDPOINT": hub.uri})
    assert refused.codes == [ExitCode.CONFIGURATION]
    failure = refused.of("Failure")[0].failure
    assert failure.reason == Reason.MODEL_NOT_FOUND
    assert (
        "the run's copy of its model in the checkpoint store is gone (got hf://org/tiny)" in failure.message
    )


def test_a_base_that_changed_on_its_claim_is_refused_on_resume(make_job, tmp_path, volumes, retrained):
    job = make_job(adapter=LORA)
    job.volumes = tmp_path / "volumes"
    shutil.copytree(volumes, job.volumes)
    job.train().ok()
    shutil.copytree(retrained, job.volumes / "models" / "tiny", dirs_exist_ok=True)
    refused = job.start(resume="step-00000003.i2")
    assert refused.codes == [ExitCode.CONFIGURATION]
    message = refused.of("Failure")[0].failure.message
    assert message == (
        f"spec.model.uri: differs from the checkpoint at step 3 (got {fingerprint(retrained)}); "
        f"allowed {fingerprint(volumes / 'models' / 'tiny')}."
    )


def test_fingerprints_tell_any_changed_tensor_and_nothing_else(volumes, tmp_path):
    whole = fingerprint(volumes / "models" / "tiny")
    copy = tmp_path / "copy"
    shutil.copytree(volumes / "models" / "tiny", copy)
    (copy / "README.md").write_text("x")
    assert fingerprint(copy) == whole
    weights = load_file(copy / "model.safetensors")
    seen = {whole}
    for name in weights:
        changed = {**weights, name: weights[name] + 1}
        save_file(changed, copy / "model.safetensors", metadata={"format": "pt"})
        seen.add(fingerprint(copy))
    assert len(seen) == len(weights) + 1


class Registry:
    """A client of a registry whose alias points to version 7."""

    def get_model_version_by_alias(self, name, alias):
        assert (name, alias) == ("triage", "candidate")
        return type("Version", (), {"version": 7})


@pytest.mark.parametrize(
    ("uri", "exact"),
    [
        ("models:/triage@candidate", "models:/triage/7"),
        ("models:/triage/3", "models:/triage/3"),
        ("runs:/0a/model", "runs:/0a/model"),
    ],
)
def test_an_alias_is_settled_as_its_version(uri, exact):
    assert remote.version_uri(Registry(), uri) == exact


def test_a_registry_download_holds_nothing_of_an_older_try(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")

    def download(artifact_uri, dst_path):
        assert artifact_uri == "models:/triage/7"
        (tmp_path / "cache" / "models__triage_7" / "config.json").write_text("{}")
        return dst_path

    monkeypatch.setattr(mlflow, "MlflowClient", Registry)
    monkeypatch.setattr(mlflow, "set_tracking_uri", lambda uri: None)
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", download)
    rest = tmp_path / "cache" / "models__triage_7" / "part"
    rest.mkdir(parents=True)
    (rest / "config.json").write_text("{}")
    request = Request("mlflow://models:/triage@candidate", "spec.model.uri", "model")
    place = remote.Registry("http://127.0.0.1:9", tmp_path / "cache", None)
    found = remote.find_in_registry(request, "models:/triage@candidate", place)
    assert (found.path, found.revision) == (rest.parent, "models:/triage/7")
    assert not rest.exists()
