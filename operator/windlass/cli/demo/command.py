"""`windlass demo`: cluster, chart, model, data, base score, training with two accidents, tuned score, numbers.

Called by `main` and `make demo`. Each step looks at what is there first, so that a second run is quick and
an interrupted one goes on. It must never invent a number: what is not measured is null in demo.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from windlass.cli import release
from windlass.cli.access import Access, connect
from windlass.cli.cluster import main as cluster_main
from windlass.cli.cluster.paths import Layout, default_directory, repository_root
from windlass.cli.demo import samples, scoring, summary, training, volumes
from windlass.cli.demo.console import say, step
from windlass.cli.demo.places import DATA_FOLDER, NAMESPACE, OWN_FOLDER, Places
from windlass.cli.errors import CliError
from windlass.cli.fetch import fetch

READY_SECONDS = 300.0
TICKET_TOKENS, OWN_TOKENS = 48, 256
OWN_SEQUENCE = 512


@dataclass(slots=True)
class Demo:
    """What the steps share."""

    options: argparse.Namespace
    places: Places
    layout: Layout
    began: float = field(default_factory=time.monotonic)
    seconds: dict[str, float] = field(default_factory=dict)

    def values(self) -> dict[str, Any]:
        """The cluster's chart values."""
        found: dict[str, Any] = yaml.safe_load(self.layout.values.read_text())
        return found


def parser() -> argparse.ArgumentParser:
    """The command's grammar."""
    made = argparse.ArgumentParser(prog="windlass demo", description="The whole product in one command.")
    made.add_argument("--data", type=Path, help="own JSON Lines file, chat or instruction form")
    made.add_argument("--model", type=Path, help="Hugging Face checkpoint to start from, instead of SmolLM2")
    made.add_argument("--steps", type=int, help="optimiser steps, instead of the example's")
    made.add_argument("--no-faults", action="store_true", help="kill no rank and delete no pod")
    return made


def provider(user: int) -> str:
    """Which cluster to bring up. kind has neither our images nor claims that two pods may write to."""
    return "embedded" if user == 0 else "auto"


def demo_command(arguments: Sequence[str]) -> int:
    """Run it; 0 when everything that it promises was seen."""
    options = parser().parse_args(arguments)
    demo = Demo(options, Places(repository_root()), Layout(default_directory()))
    with step("cluster", demo.seconds):
        if cluster_main(["up", "--provider", provider(os.geteuid())]) != 0:
            raise CliError("cluster: did not come up; see above")
    with step("chart", demo.seconds):
        done = release.install(demo.places.chart, kubeconfig=demo.layout.kubeconfig, values=demo.values())
        say(f"   {done} in {release.NAMESPACE}")
    access = connect(kubeconfig=str(demo.layout.kubeconfig), context=None, namespace=NAMESPACE)
    with step("model and data", demo.seconds):
        model, found = put_in_place(demo, access)
    with step("operator and MLflow", demo.seconds):
        wait_ready(access)
    setup_seconds = time.monotonic() - demo.began
    with step("score of the base model", demo.seconds):
        base = score(demo, model, found, shots=True)
        say(f"   {summary.accuracy_line('base, 3 shots', base)}")
    return run(demo, access, found, base=base, setup_seconds=setup_seconds)


def run(
    demo: Demo, access: Access, found: samples.Samples, *, base: dict[str, Any], setup_seconds: float
) -> int:
    """Train, score, write down."""
    wanted = manifest(demo)
    name = wanted["metadata"]["name"]
    with step("training", demo.seconds):
        training.apply(access, wanted)
        job, losses = training.follow(access, name, faults=not demo.options.no_faults)
    with step("score of the tuned model", demo.seconds):
        output = demo.places.work / "output"
        tuned = score(demo, output / fetch(access, name, output), found, shots=False)
    measured = summary.Measured(
        base=base,
        tuned=tuned,
        losses=losses,
        seconds=demo.seconds,
        setup_seconds=setup_seconds,
        faults=not demo.options.no_faults,
    )
    result = summary.document(job, measured) | {"totalSeconds": round(time.monotonic() - demo.began, 1)}
    write_result(demo.places.result, result)
    say(summary.table(result))
    say(f"numbers         {demo.places.result}")
    missing = summary.shortcomings(result, faults=not demo.options.no_faults and demo.options.data is None)
    if demo.options.data is None and missing:
        raise CliError("demo: " + "; ".join(missing))
    return 0


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Replace demo.json in one step."""
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(result, indent=2, default=str) + "\n")
    os.replace(temporary, path)


def put_in_place(demo: Demo, access: Access) -> tuple[Path, samples.Samples]:
    """Model and data on this machine and in the claims."""
    volumes.prepare(access)
    model = demo.options.model or fetch_model(demo.places.example)
    folder = OWN_FOLDER if demo.options.data else DATA_FOLDER
    directory = demo.places.work / folder
    if demo.options.data:
        found = samples.own(demo.options.data, directory)
    else:
        found = samples.tickets(demo.places.example, directory)
    loader = loader_of(demo)
    volumes.place(access, model, claim="models", folder=model.name, loader=loader)
    volumes.place(access, directory, claim="data", folder=folder, loader=loader)
    return model, found


def loader_of(demo: Demo) -> dict[str, Any]:
    """How a loader pod is started on this cluster."""
    values = demo.values()
    host = values.get("hostRoot") or {}
    return {
        "embedded": bool(host.get("enabled")),
        "image": values["workload"]["image"],
        "python": values["workload"]["python"],
        "pullPolicy": values["imagePullPolicy"],
        "mounts": host.get("workloadMounts") if host.get("enabled") else [],
    }


def fetch_model(example: Path) -> Path:
    """The example's model, from the cache or the package index. Raises CliError."""
    command = [sys.executable, str(example / "fetch_model.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CliError(f"fetch_model.py: {done.stderr.strip()[-800:]}")
    return Path(done.stdout.strip().splitlines()[-1])


def wait_ready(access: Access) -> None:
    """Wait until every Deployment of the release is available. Raises CliError."""
    from kubernetes import client

    apps = client.AppsV1Api(access.api)
    deadline = time.monotonic() + READY_SECONDS
    while True:
        listed = apps.list_namespaced_deployment(release.NAMESPACE).items
        waiting = [item.metadata.name for item in listed if not rolled_out(item)]
        if listed and not waiting:
            return
        if time.monotonic() > deadline:
            raise CliError(
                f"{', '.join(waiting)}: not ready in {READY_SECONDS:.0f} s. "
                f"hint: kubectl -n {release.NAMESPACE} describe pods"
            )
        time.sleep(0.5)


def rolled_out(deployment: Any) -> bool:
    """Whether every pod is there, ready, and of the newest kind."""
    wanted, status = deployment.spec.replicas, deployment.status
    seen = (status.observed_generation or 0) >= deployment.metadata.generation
    counts = (status.updated_replicas, status.ready_replicas, status.replicas)
    return seen and all((count or 0) == wanted for count in counts)


def score(demo: Demo, model: Path, found: samples.Samples, *, shots: bool) -> dict[str, Any]:
    """Exact match on the held-out rows."""
    limit = OWN_TOKENS if demo.options.data else TICKET_TOKENS
    script, keep = demo.places.example / "score.py", demo.places.work / "scores"
    return scoring.score(script, model, found, keep=keep, shots=shots, limit=limit)


def manifest(demo: Demo) -> dict[str, Any]:
    """The example's job, with what the options change."""
    made: dict[str, Any] = yaml.safe_load(demo.places.manifest.read_text())
    made["metadata"]["namespace"] = NAMESPACE
    spec = made["spec"]
    if demo.options.model:
        spec["model"]["uri"] = f"pvc://models/{demo.options.model.name}"
    if demo.options.data:
        made["metadata"]["name"] = "own-data"
        spec["data"]["sources"] = [{"uri": f"pvc://data/{OWN_FOLDER}/train.jsonl", "format": "Chat"}]
        spec["data"]["sequenceLength"] = OWN_SEQUENCE
        spec["tracking"]["mlflow"]["registerAs"] = "own-data"
    if demo.options.steps:
        spec["training"] = {**spec["training"], "maxSteps": demo.options.steps}
    return made
