"""What an upgrade, a refused upgrade, and an uninstall with a new installation do to a job that trains.

Each test changes the release itself. The fixture `chart` puts it back as the session installed it, with a
leader and a tracking server, so that no other module notices.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import helm_python
import pytest
from kubernetes import client

from e2e.conftest import ROOT, Installation
from e2e.support import Jobs, eventually, tiny_job
from windlass.api.meta import GROUP
from windlass.cli import release
from windlass.cli.errors import CliError
from windlass_workloads.checkpoint.store import MANIFEST, parse_checkpoint_name

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]
CRD = f"finetunejobs.{GROUP}"
ADOPTED_SECONDS = 30.0
INTERVAL = 50
STEPS = 600


@dataclass(frozen=True)
class Life:
    """What a gang that trains keeps, whatever happens to the release."""

    containers: frozenset[tuple[str, str, str, int]]
    """Pod, its UID, start time of its container, and restarts of that."""
    gang: str
    incarnation: int
    run_config: str
    recoveries: int


def life_of(jobs: Jobs, name: str) -> Life:
    containers = set()
    for pod in jobs.pods(name):
        for row in pod.status.container_statuses:
            begun = row.state.running or row.state.terminated
            containers.add((pod.metadata.name, pod.metadata.uid, str(begun.started_at), row.restart_count))
    status = jobs.status(name)
    return Life(
        containers=frozenset(containers),
        gang=json.dumps(status["gang"], sort_keys=True),
        incarnation=status["incarnation"],
        run_config=status["runConfig"],
        recoveries=len(status.get("recoveries") or []),
    )


@dataclass(frozen=True)
class Chart:
    """The chart and the cluster that it is installed in."""

    installation: Installation
    kubeconfig: Path

    def install(self, **changes: Any) -> str:
        """Install or upgrade with the session's values; `changes` merge into its sections."""
        values = dict(self.installation.values)
        for key, value in changes.items():
            values[key] = {**values.get(key, {}), **value}
        return release.install(ROOT / "charts" / "windlass", kubeconfig=self.kubeconfig, values=values)

    def uninstall(self) -> None:
        with helm_python.Config(kubeconfig_path=self.kubeconfig, namespace=release.NAMESPACE) as helm:
            helm.uninstall(release.RELEASE, timeout=release.TIMEOUT_SECONDS)

    def revisions(self) -> list[int]:
        with helm_python.Config(kubeconfig_path=self.kubeconfig, namespace=release.NAMESPACE) as helm:
            return [row["revision"] for row in helm.list(all_states=True) if row["name"] == release.RELEASE]

    def all_pods(self, component: str) -> list[str]:
        """UIDs of a component's pods, of those that are leaving as well."""
        listed = client.CoreV1Api(self.installation.api).list_namespaced_pod(
            release.NAMESPACE, label_selector=f"app.kubernetes.io/component={component}"
        )
        return sorted(pod.metadata.uid for pod in listed.items)

    def leader(self) -> str | None:
        """The present pod that holds the Lease, if one does."""
        lease = client.CoordinationV1Api(self.installation.api).read_namespaced_lease(
            f"{release.RELEASE}-operator", release.NAMESPACE
        )
        names = [pod.metadata.name for pod in self.installation.operator_pods()]
        return next((name for name in names if name in (lease.spec.holder_identity or "")), None)

    def tracks(self) -> bool:
        deployment = client.AppsV1Api(self.installation.api).read_namespaced_deployment_status(
            f"{release.RELEASE}-mlflow", release.NAMESPACE
        )
        present = deployment.status
        return present.observed_generation == deployment.metadata.generation and present.ready_replicas == 1

    def await_rest(self) -> None:
        eventually(self.installation.settled, "two operators of this release ready", 300)
        eventually(
            lambda: len(self.all_pods("operator")) == 2, "no operator of an earlier rollout is left", 120
        )
        eventually(self.leader, "one of them leads", 60)

    def kept(self) -> dict[str, str]:
        """UIDs of what an uninstall must leave, by kind."""
        core = client.CoreV1Api(self.installation.api)
        definitions = client.ApiextensionsV1Api(self.installation.api)
        return {
            "definition": definitions.read_custom_resource_definition(CRD).metadata.uid,
            "tracking data": core.read_namespaced_persistent_volume_claim(
                f"{release.RELEASE}-mlflow", release.NAMESPACE
            ).metadata.uid,
        }


@pytest.fixture
def chart(installation: Installation, kubeconfig: Path) -> Iterator[Chart]:
    made = Chart(installation, kubeconfig)
    yield made
    made.install()
    made.await_rest()
    eventually(made.tracks, "the tracking server is ready", 300)


def trains(jobs: Jobs, name: str, steps: int) -> Life:
    """Start a job and wait until its pods are known and it has saved."""
    jobs.create(tiny_job(name, training={"maxSteps": steps}))
    jobs.await_step(name, INTERVAL + 10)
    life = life_of(jobs, name)
    assert len(life.containers) == 2 and life.incarnation == 1
    return life


def saved_step(jobs: Jobs, name: str, uid: str) -> int:
    """Step of the newest checkpoint in the volume: what training did, whether anybody was told or not."""
    root = jobs.volumes / "checkpoints" / jobs.namespace / name / uid
    found = [parse_checkpoint_name(path.parent.name) for path in root.glob(f"*/{MANIFEST}")]
    return max((key[0] for key in found if key is not None), default=0)


def test_an_upgrade_touches_no_training_pod(jobs: Jobs, chart: Chart) -> None:
    """The operator's pods are replaced, and pods made from now on would be rendered differently."""
    before = trains(jobs, "upgraded", STEPS)
    operators = chart.all_pods("operator")
    python = f"{chart.installation.values['workload']['python']}3"
    annotations = {"podAnnotations": {"windlass.dev/test": "upgrade"}}
    assert chart.install(operator=annotations, workload={"python": python}) == "upgraded"
    assert jobs.step("upgraded") < STEPS, "it ended before the upgrade began"
    chart.await_rest()
    eventually(
        lambda: not set(operators) & set(chart.all_pods("operator")), "the old operators are gone", 120
    )
    status = jobs.await_condition("upgraded", "Complete", seconds=1200)
    assert life_of(jobs, "upgraded") == before
    assert status["progress"]["step"] == STEPS
    assert (status["incarnation"], status["goodput"]["lostSteps"]) == (1, 0)


def test_a_refused_value_changes_nothing(chart: Chart) -> None:
    before = chart.revisions(), chart.all_pods("operator")
    with pytest.raises(CliError, match="operatr"):
        chart.install(operatr={"replicas": 1})
    assert (chart.revisions(), chart.all_pods("operator")) == before


def test_training_goes_on_through_an_uninstall_and_is_adopted(jobs: Jobs, chart: Chart) -> None:
    before = trains(jobs, "orphaned", 100_000)
    uid = jobs.get("orphaned")["metadata"]["uid"]
    kept = chart.kept()
    chart.uninstall()
    eventually(lambda: not chart.all_pods("operator"), "the operators are gone", 120)
    assert chart.revisions() == []
    assert chart.kept() == kept
    job = jobs.get("orphaned")
    assert job["metadata"]["uid"] == uid and "deletionTimestamp" not in job["metadata"]
    told, saved = jobs.step("orphaned"), saved_step(jobs, "orphaned", uid)
    eventually(lambda: saved_step(jobs, "orphaned", uid) >= saved + 2 * INTERVAL, "checkpoints go on", 120)
    assert jobs.step("orphaned") == told, "nobody is there who could write status"

    assert chart.install() == "installed"
    jobs.await_step("orphaned", saved + 2 * INTERVAL, ADOPTED_SECONDS)
    assert life_of(jobs, "orphaned") == before
    assert chart.kept() == kept

    # Adopted means obeyed: the new operator's order to save and leave reaches the old pods.
    jobs.patch("orphaned", {"suspend": True})
    status = jobs.await_condition("orphaned", "Suspended", seconds=120)
    assert status["checkpoints"][0]["step"] >= saved + 2 * INTERVAL
    eventually(lambda: not jobs.pods("orphaned"), "the old pods are gone", 60)
