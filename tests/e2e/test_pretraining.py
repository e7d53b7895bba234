"""The example of pre-training on the local cluster, as a user runs it: a model from nothing, and one trained further.

One run of each is left alone, one is killed while its texts are prepared, while they are tokenised and while it
trains: what comes out is the same, byte for byte, and knows more of texts that it never saw.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from kubernetes import client
from kubernetes.stream import stream

from e2e.conftest import ROOT, Installation
from e2e.support import Jobs, Manifest, eventually
from windlass.api.meta import STORE_MOUNT

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]
EXAMPLE = ROOT / "examples" / "03-pretrain"

KILL_WHEN = """
import glob, os, sys, time
pattern, deadline = sys.argv[1], time.monotonic() + 240
while not glob.glob(pattern):
    if time.monotonic() > deadline:
        sys.exit("nothing at " + pattern)
    time.sleep(0.005)
for entry in os.listdir("/proc"):
    if entry.isdigit():
        try:
            name = open(f"/proc/{entry}/comm").read().strip()
        except OSError:
            continue
        if name == "windlass-data":
            os.kill(int(entry), 9)
            print("killed at", glob.glob(pattern))
"""


def script(name: str) -> ModuleType:
    """A program of the example, as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="module")
def runs(jobs: Jobs) -> Iterator[Jobs]:
    """PretrainJobs, with the example's texts on the claim `data`."""
    script("make_texts").main(jobs.volumes / "data")
    yield replace(jobs, plural="pretrainjobs")


def manifest(file: str, name: str, **changes: Any) -> Manifest:
    """One of the example's jobs under another name, with blocks of its spec changed."""
    found: Manifest = yaml.safe_load((EXAMPLE / file).read_text())
    found["metadata"]["name"] = name
    for key, value in changes.items():
        found["spec"][key] = {**found["spec"].get(key, {}), **value}
    return found


def further(name: str, model: Manifest) -> Manifest:
    """The job that trains a model further, with a store of its own: it shall not find the other's corpus."""
    return manifest("further.yaml", name, model=model, checkpoint={"store": f"pvc://checkpoints/{name}"})


def output(runs: Jobs, name: str) -> Path:
    """The directory of a job's model."""
    uri = runs.status(name)["output"]["uri"]
    return runs.volumes / uri.removeprefix("pvc://")


def corpus_of(runs: Jobs, store: str) -> dict[str, Any]:
    """The index of the only corpus in a store."""
    (index,) = (runs.volumes / store / "corpora.windlass").glob("*/corpus.json")
    found: dict[str, Any] = json.loads(index.read_text())
    return found


def kill_when(runs: Jobs, installation: Installation, name: str, pattern: str) -> str:
    """Kill the preparing process as soon as something is there; from inside of the pod, where the wait is short."""
    pod = eventually(lambda: runs.pod_at(name, 0), f"the first pod of {name} runs")
    return str(
        stream(
            client.CoreV1Api(client.ApiClient(runs.api.configuration)).connect_get_namespaced_pod_exec,
            pod.metadata.name,
            runs.namespace,
            container="agent",
            command=[installation.values["workload"]["python"], "-S", "-c", KILL_WHEN, pattern],
            stderr=True,
            stdout=True,
            _request_timeout=300,
        )
    )


def test_a_model_from_nothing_and_one_that_is_trained_further_through_three_kills(
    runs: Jobs, installation: Installation, kill_rank: Any
) -> None:
    # --- a model from nothing, on a mix --------------------------------------------------------
    runs.create(manifest("pretrainjob.yaml", "from-nothing"))
    status = runs.await_condition("from-nothing", "Complete")
    steps = -(-400_000 // (16 * 128))
    assert status["progress"]["step"] == status["plan"]["totalSteps"] == steps
    assert status["progress"]["tokens"] == steps * 16 * 128
    assert status["progress"]["validationLoss"] < 6.6
    dropped = corpus_of(runs, "checkpoints")["dropped"]
    assert dropped["ExactDuplicate"] >= 200 and dropped["NearDuplicate"] >= 150, "they were planted"
    start = {"uri": status["output"]["uri"]}

    # --- trained further, by a run that is left alone ------------------------------------------
    runs.create(further("alone", start))
    alone = runs.await_condition("alone", "Complete")
    assert "recoveries" not in alone or not alone["recoveries"]

    # --- and by one that is killed in each stage -----------------------------------------------
    made = runs.create(further("killed", start))
    uid, store = made["metadata"]["uid"], f"{STORE_MOUNT}/killed"
    corpora, prepared = f"{store}/corpora.windlass", f"{store}/{runs.namespace}/killed/{uid}/prepared"
    local = runs.volumes / "checkpoints" / "killed" / "corpora.windlass"
    said = kill_when(runs, installation, "killed", f"{corpora}/.*.stages/sign-000003")
    assert "killed at" in said, said
    assert not list(local.glob("*/corpus.json")), "the texts were being prepared"
    said = kill_when(runs, installation, "killed", f"{prepared}/.*.stages/tokens-000003")
    assert "killed at" in said, said
    assert list(local.glob("*/corpus.json")) and not list(
        runs.volumes.glob(f"checkpoints/killed/*/killed/{uid}/prepared/*/index.json")
    ), "the texts were being tokenised"
    runs.await_step("killed", 40)
    kill_rank("killed", 1)
    killed = runs.await_condition("killed", "Complete")
    rows = killed["recoveries"]
    assert [row["firstFailed"]["rank"] for row in rows] == [0, 0, 1], rows
    assert all(row["signal"] == 9 and row["rung"] == "InPlace" for row in rows)
    assert [row["lostSteps"] > 0 for row in rows] == [False, False, True]

    # --- what came out is the same --------------------------------------------------------------
    assert killed["plan"]["dataDigest"] == alone["plan"]["dataDigest"]
    assert corpus_of(runs, "checkpoints/killed")["digest"] == corpus_of(runs, "checkpoints/alone")["digest"]
    assert killed["output"]["digest"] == alone["output"]["digest"]
    assert killed["progress"]["tokens"] == alone["progress"]["tokens"] == 120 * 16 * 128

    # --- and knows more of modules that it never saw, and less of what it is not shown any more ----
    compare = script("compare")
    held_out = runs.volumes / "data" / "held-out"
    before, after = output(runs, "from-nothing"), output(runs, "killed")
    gained = compare.compare(before, after, compare.read_texts(held_out / "sources.jsonl", 40))
    assert gained["low"] > 0 and gained["perplexityAfter"] < gained["perplexityBefore"], gained
    lost = compare.compare(before, after, compare.read_texts(held_out / "docstrings.jsonl", 60))
    assert lost["bitsPerByteSaved"] < gained["bitsPerByteSaved"], (gained, lost)
    print(json.dumps({"gained": gained, "lost": lost}))
