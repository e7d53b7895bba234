"""The local cluster with Windlass installed from its chart, once per session; a namespace per test module.

The cluster is brought up if it does not run, and left as it was found.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.stream import stream

import tiny
from e2e.support import Jobs, eventually
from windlass.api.kinds import KINDS
from windlass.cli import release

ROOT = Path(__file__).resolve().parents[2]
DIRECTORY = ROOT / "build" / "cluster"
SYSTEM = release.NAMESPACE

PRICES = {"currency": "EUR", "perHour": {"cpu": "3600"}}
"""One euro for each second of a core."""

RANKS = """
import os, sys
wanted = f"windlass-rank-{sys.argv[1]}"
for entry in os.listdir("/proc"):
    if entry.isdigit():
        try:
            name = open(f"/proc/{entry}/comm").read().strip()
        except OSError:
            continue
        if name == wanted[:15]:
            os.kill(int(entry), int(sys.argv[2]))
            print("killed", entry)
"""


@dataclass
class Installation:
    """Windlass as installed from the chart."""

    api: client.ApiClient
    namespace: str
    values: dict[str, Any]

    def operator_pods(self) -> list[Any]:
        listed = client.CoreV1Api(self.api).list_namespaced_pod(
            self.namespace, label_selector="app.kubernetes.io/component=operator"
        )
        return [pod for pod in listed.items if pod.metadata.deletion_timestamp is None]

    def settled(self) -> bool:
        """The rollout is over: two pods, both of the present template, both ready."""
        status = client.AppsV1Api(self.api).read_namespaced_deployment_status(
            f"{release.RELEASE}-operator", self.namespace
        )
        present = status.status
        return (
            present.observed_generation == status.metadata.generation
            and present.updated_replicas == present.ready_replicas == present.replicas == 2
            and len(self.operator_pods()) == 2
        )

    def scale(self, replicas: int) -> None:
        """So many operators; those that are too many go at once."""
        name = f"{release.RELEASE}-operator"
        apps = client.AppsV1Api(self.api)
        apps.patch_namespaced_deployment_scale(name, self.namespace, {"spec": {"replicas": replicas}})
        core = client.CoreV1Api(self.api)

        def reached() -> bool:
            present = self.operator_pods()
            for pod in present if not replicas else []:
                with gone_is_fine():
                    core.delete_namespaced_pod(pod.metadata.name, self.namespace, grace_period_seconds=0)
            return len(present) == self.ready_operators() == replicas

        eventually(reached, f"{replicas} operators", 120)

    def ready_operators(self) -> int:
        return sum(
            all(status.ready for status in pod.status.container_statuses or [])
            for pod in self.operator_pods()
            if pod.status.phase == "Running" and pod.status.container_statuses
        )


@contextlib.contextmanager
def gone_is_fine() -> Iterator[None]:
    """What is to be deleted may go by itself first."""
    try:
        yield
    except ApiException as error:
        if error.status != 404:
            raise


def cluster_command(*arguments: str) -> int:
    return subprocess.run(
        [sys.executable, "-m", "windlass.cli.cluster", *arguments], cwd=ROOT, check=False
    ).returncode


@pytest.fixture(scope="session")
def kubeconfig() -> Iterator[Path]:
    path = DIRECTORY / "kubeconfig"
    ran_before = path.exists()
    assert cluster_command("up", "--provider", "embedded") == 0, (
        "the local cluster did not come up; see build/cluster/logs"
    )
    yield path
    if not ran_before:
        cluster_command("down")


@pytest.fixture(scope="session")
def api(kubeconfig: Path) -> Iterator[client.ApiClient]:
    made = config.new_client_from_config(str(kubeconfig))
    yield made
    made.close()


@pytest.fixture(scope="session")
def installation(kubeconfig: Path, api: client.ApiClient) -> Installation:
    values = yaml.safe_load((DIRECTORY / "values.yaml").read_text()) | {"prices": PRICES}
    release.install(ROOT / "charts" / "windlass", kubeconfig=kubeconfig, values=values)
    made = Installation(api, SYSTEM, values)
    eventually(made.settled, "two operators of this release ready", 300)
    return made


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_model(tmp_path_factory.mktemp("tiny") / "tiny")


def claim(api: client.ApiClient, namespace: str, name: str) -> None:
    client.CoreV1Api(api).create_namespaced_persistent_volume_claim(
        namespace,
        {
            "metadata": {"name": name},
            "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
        },
    )


@pytest.fixture(scope="module")
def jobs(api: client.ApiClient, installation: Installation, tiny_model: Path) -> Iterator[Jobs]:
    namespace = f"e2e-{uuid.uuid4().hex[:8]}"
    core = client.CoreV1Api(api)
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    core.create_namespace({"metadata": {"name": namespace, "labels": labels}})
    volumes = DIRECTORY / "volumes" / namespace
    for name in ("models", "data", "checkpoints"):
        claim(api, namespace, name)
        eventually(lambda name=name: (volumes / name).is_dir(), f"volume of claim {name}", 60)
    shutil.copytree(tiny_model, volumes / "models" / "tiny")
    tiny.write_data(volumes / "data" / "train.jsonl")
    yield Jobs(api, namespace, volumes)
    core.delete_namespace(namespace)


@pytest.fixture(autouse=True)
def tidy(request: pytest.FixtureRequest) -> Iterator[None]:
    """Delete the jobs that a test left, so that the machine's two cores belong to the next one."""
    yield
    if "jobs" not in request.fixturenames:
        return
    jobs: Jobs = request.getfixturevalue("jobs")
    every = [replace(jobs, plural=kind.plural) for kind in KINDS.values()]
    found = [(one, item["metadata"]["name"]) for one in every for item in one.listed()]
    for one, name in found:
        with gone_is_fine():
            one.delete(name)
        for pod in jobs.pods(name):
            with gone_is_fine():
                jobs.core.delete_namespaced_pod(pod.metadata.name, jobs.namespace, grace_period_seconds=0)
        eventually(lambda name=name: not jobs.pods(name), f"pods of {name} gone", 60)


@pytest.fixture
def kill_rank(jobs: Jobs, installation: Installation) -> Callable[..., None]:
    """Send a signal to one rank, from inside its pod."""

    def kill(name: str, rank: int, number: int = 9, ranks_per_node: int = 1) -> None:
        pod = jobs.pod_at(name, rank // ranks_per_node)
        assert pod is not None
        python = installation.values["workload"]["python"]
        said = stream(
            client.CoreV1Api(client.ApiClient(jobs.api.configuration)).connect_get_namespaced_pod_exec,
            pod.metadata.name,
            jobs.namespace,
            container="agent",
            command=[python, "-S", "-c", RANKS, str(rank), str(number)],
            stderr=True,
            stdout=True,
            _request_timeout=60,
        )
        assert "killed" in said, f"no process of rank {rank} in {pod.metadata.name}: {said}"

    return kill


def describe(document: object) -> str:
    """JSON for assertion messages."""
    return json.dumps(document, indent=1, default=str)
