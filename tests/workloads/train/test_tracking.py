"""A run that is killed and resumed, on a real MLflow server: one run, one model, true states, no secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workloads.tracking.server import shared
from tests.workloads.train.support import NEW_BERT, merge
from windlass.api.contract import RankContext
from windlass.api.status import Plan
from windlass_workloads.tracking.client import Client
from windlass_workloads.tracking.facts import parameters_of

pytestmark = [pytest.mark.workloads, pytest.mark.timeout(600)]
CANARY = "canary-7f3a91"
EXPORT = {"export": "HuggingFace", "everySteps": 2}


@pytest.fixture
def server():
    running = shared()
    running.up()
    return running


@pytest.fixture
def secrets(tmp_path):
    (tmp_path / "secrets" / "mlflow").mkdir(parents=True)
    (tmp_path / "secrets" / "mlflow" / "token").write_text(f"{CANARY}-token\n")
    return tmp_path / "secrets"


def tracking(server, name, **more):
    return {"mlflow": {"uri": server.uri, "experiment": name, "secretRef": {"name": "mlflow"}, **more}}


def run_of(server, outcome):
    run_id = outcome.of("Tracking")[-1].tracking.run_id
    return Client(server.uri).call("GET", "runs/get", {"run_id": run_id})["run"]


def named(rows):
    return {row["key"]: row["value"] for row in rows}


@pytest.mark.parametrize(("merged", "flavor"), [(True, "transformers"), (False, "artifacts")])
def test_a_killed_and_resumed_job_is_one_run_with_one_model(make_job, server, secrets, merged, flavor):
    name = f"bot-{flavor}"
    job = make_job(
        adapter={"type": "LoRA", "rank": 4},
        checkpoint={**EXPORT, "mergeAdapter": merged},
        tracking=tracking(server, name, registerAs=name, alias="candidate"),
        pod={"env": [{"name": "HARMLESS", "value": f"{CANARY}-env"}]},
    )
    job.secrets = secrets
    first = job.train(actions=[{"type": "Step", "step": 5, "signal": "SIGKILL"}])
    assert first.codes == [-9]
    second = job.start(resume="step-00000004.i2", limit=280).ok()
    output = second.of("Output")[0].output
    assert (output.registered_model, output.model_version) == (name, "1"), second.of("Tracking")

    run = run_of(server, second)
    client = Client(server.uri)
    found = client.call("POST", "runs/search", {"experiment_ids": [client.experiment(name)]})["runs"]
    assert [each["info"]["run_id"] for each in found] == [run["info"]["run_id"]]
    assert run["info"]["status"] == "FINISHED"
    body = {"run_id": run["info"]["run_id"], "metric_key": "loss"}
    history = client.call("GET", "metrics/get-history", body)["metrics"]
    assert [metric.get("step") for metric in history] == [1, 2, 3, 4, 5, 6]
    tags = named(run["data"]["tags"])
    assert tags["windlass.resumed_steps"] == "4"
    assert tags["windlass.model_flavor"] == flavor
    assert tags["windlass.output_digest"] == output.digest
    assert tags["windlass.checkpoint_digest"] == second.of("Checkpoint")[-1].checkpoint.digest
    assert tags["windlass.data_digest"] == second.of("Plan")[0].plan.data_digest
    params = named(run["data"]["params"])
    assert (params["seed"], params["adapter_rank"], params["strategy"]) == ("17", "4", "DDP")
    version = client.call("GET", "registered-models/alias", {"name": name, "alias": "candidate"})
    assert version["model_version"]["version"] == "1"
    files = [path for path in server.root.rglob("*") if path.is_file()]
    assert any(path.name == "loss.png" for path in files)
    weights = "adapter_model.safetensors" if flavor == "artifacts" else "model.safetensors"
    assert any(path.name == weights for path in files)
    everything = [*files, *job.store.rglob("*.json*"), *job.root.rglob("*.log"), *job.root.rglob("events-*")]
    leaks = [path for path in everything if path.is_file() and CANARY.encode() in Path(path).read_bytes()]
    assert leaks == []


def test_a_stopped_run_is_killed_and_a_failed_one_failed(make_job, server, secrets):
    job = make_job(tracking=tracking(server, "states"), checkpoint={"everySteps": 2})
    job.secrets = secrets
    stopped = job.train(actions=[{"type": "Step", "step": 4, "signal": "SIGTERM"}]).ok()
    assert run_of(server, stopped)["info"]["status"] == "KILLED"
    other = make_job(
        tracking=tracking(server, "states"), training={"learningRate": "1e30", "gradientClip": "0"}
    )
    other.secrets = secrets
    failed = other.train()
    assert failed.codes == [18]


def test_training_is_the_same_without_the_server(make_job, secrets):
    plain = make_job(checkpoint=EXPORT).train().ok()
    job = make_job(
        checkpoint=EXPORT,
        tracking={"mlflow": {"uri": "http://127.0.0.1:9", "registerAs": "x", "experiment": "e"}},
    )
    run = job.train().ok()
    assert run.losses() == plain.losses()
    assert run.of("Output")[0].output.model_version is None
    told = run.of("Tracking")
    assert told[0].message.startswith("http://127.0.0.1:9 does not answer (")
    assert told[-1].tracking.run_id is None


@pytest.mark.parametrize(("size", "told"), [(2, "2"), (None, None)])
def test_groups_of_ranks_are_recorded_where_there_are_any(make_job, size, told):
    job = make_job(parallelism={"strategy": "FSDP", **({"shardGroupSize": size} if size else {})})
    context = RankContext(task="train", config=job.config(), incarnation=1, rank=0, world_size=4)
    parameters = parameters_of(context, Plan())
    assert (parameters["strategy"], parameters.get("shard_group_size")) == ("FSDP", told)


def test_a_pretrained_masked_model_is_registered_with_what_it_was_trained_on(
    make_pretraining, server, secrets
):
    name = "masked"
    more = {"tracking": tracking(server, name, registerAs=name), "checkpoint": {"everySteps": 6}}
    job = make_pretraining(**merge(NEW_BERT, more))
    job.secrets = secrets
    outcome = job.train(limit=280).ok()
    assert outcome.of("Output")[0].output.registered_model == name, outcome.of("Tracking")
    run = run_of(server, outcome)
    assert named(run["data"]["tags"])["windlass.model_flavor"] == "transformers"
    params = named(run["data"]["params"])
    assert (params["model"], params["objective"], params["duplicates"]) == ("new Bert", "MaskedLM", "Near")
    own = [path for path in server.root.rglob("*") if path.is_file() and run["info"]["run_id"] in path.parts]
    assert {"datasheet.html", "corpus.json"} <= {path.name for path in own if path.parent.name == "datasheet"}
    (described,) = [path for path in server.root.rglob("MLmodel") if "fill-mask" in path.read_text()]
    assert "text-generation" not in described.read_text()
