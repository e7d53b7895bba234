"""The peer: the same training under torchrun in a pod of its own, killed in the same way.

Its pod is made from one of the gang's: same image, mounts and security context; one pod with two ranks and the sum of
the gang's requests and limits, since `torchrun --standalone` is for one node.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.recovery.figures import peer_began
from bench.recovery.ground import Ground, new_directory, seldom
from bench.recovery.run import CHANGES, NAME, WORLD
from e2e.support import eventually
from windlass.api.meta import STORE_MOUNT, VOLUME_ROOT
from windlass.api.uris import split_claim_uri

WORKING = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""Without it, restarted ranks share their agent's store and gloo does not connect again."""
SCRIPT = Path(__file__).parents[1] / "peers" / "elastic.py"
RESTARTS = 1000
START_SECONDS, RECOVERY_SECONDS = 300.0, 240.0
KEPT = ("volumes", "securityContext", "automountServiceAccountToken", "enableServiceLinks", "restartPolicy")
SETTING: dict[str, Any] = {
    "command": f"torchrun --standalone --nproc-per-node {WORLD} --max-restarts {RESTARTS}",
    "environment": WORKING,
    "pod": "one pod with two ranks and the requests and limits of the gang's two pods together, otherwise the same",
    "training": "tests/bench/peers/elastic.py: same model, adapter, precision, threads, batch and saves",
}


@dataclass(frozen=True, slots=True)
class Peer:
    """One pod with torchrun."""

    ground: Ground
    pod: str
    store: Path

    def starts(self) -> list[dict[str, Any]]:
        """The first forwards that its ranks wrote down; a torn last line is left for later."""
        with contextlib.suppress(FileNotFoundError):
            lines = (self.store / "forward.jsonl").read_text().split("\n")[:-1]
            return [json.loads(line) for line in lines]
        return []

    def await_began(self, after: float, seconds: float) -> tuple[int, float]:
        """(step, time) at which both ranks began after a moment."""

        @seldom
        def check() -> None:
            phase = self.ground.jobs.core.read_namespaced_pod(
                self.pod, self.ground.access.namespace
            ).status.phase
            if phase in ("Failed", "Succeeded"):
                lines = list(self.ground.access.log_lines(self.pod, follow=False))
                raise AssertionError(f"{self.pod} ended:\n" + "\n".join(lines[-30:]))

        def look() -> tuple[int, float] | None:
            check()
            return peer_began(self.starts(), after=after, world=WORLD)

        return eventually(look, "both ranks of the peer train", seconds)

    def await_progress(self) -> None:
        """Wait for a save that is newer than what the ranks began with."""
        began = max(row["step"] for row in self.starts())

        def look() -> bool:
            saved = max(
                (int(path.stem.removeprefix("step-")) for path in self.store.glob("step-*.pt")), default=0
            )
            return saved >= began

        eventually(look, "a newer save of the peer", RECOVERY_SECONDS)

    def kill_rank(self, rank: int, limit: float = RECOVERY_SECONDS) -> dict[str, Any]:
        """SIGKILL to one rank from inside the pod."""
        process = [row["pid"] for row in self.starts() if row["rank"] == rank][-1]
        before = self.failures()
        killed_at = self.ground.kill(self.pod, str(process))
        step, began_at = self.await_began(killed_at, limit)
        seconds = round(began_at - killed_at, 4)
        restarts = self.failures() - before
        return {"rank": rank, "seconds": seconds, "restarts": restarts, "resumedStep": step - 1}

    def failures(self) -> int:
        """How often torchrun has said that a rank failed: more than once per kill when a restart failed too."""
        lines = self.ground.access.log_lines(self.pod, follow=False)
        return sum("failed (exitcode:" in line for line in lines)


def template(ground: Ground) -> dict[str, Any]:
    """A running pod of the gang, as plain data."""
    pod = ground.jobs.pod_at(NAME, 1)
    if pod is None:
        raise AssertionError(f"{NAME}: no running pod to make the peer's from")
    made: dict[str, Any] = ground.access.api.sanitize_for_serialization(pod)
    return made


def manifest(gang: dict[str, Any], name: str, directory: str, environment: dict[str, str]) -> dict[str, Any]:
    """The peer's pod."""
    container = gang["spec"]["containers"][0]
    arguments = ["--standalone", "--nproc-per-node", str(WORLD), "--max-restarts", str(RESTARTS)]
    script = [f"{directory}/elastic.py", f"{directory}/work.json"]
    own = {"HOME": "/tmp", "OMP_NUM_THREADS": "1", **environment}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            **{key: gang["spec"][key] for key in KEPT if key in gang["spec"]},
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    **{
                        key: container[key] for key in ("name", "image", "imagePullPolicy", "securityContext")
                    },
                    "command": [container["command"][0], "-m", "torch.distributed.run", *arguments, *script],
                    "env": [{"name": key, "value": value} for key, value in own.items()],
                    "resources": doubled(container["resources"]),
                    "volumeMounts": container["volumeMounts"],
                }
            ],
        },
    }


def doubled(resources: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Requests and limits of two pods in one."""
    return {
        kind: {name: twice(text) for name, text in amounts.items()} for kind, amounts in resources.items()
    }


def twice(quantity: str) -> str:
    """Twice a Kubernetes quantity."""
    digits = quantity.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    return f"{int(digits) * 2}{quantity[len(digits) :]}"


def work(ground: Ground, directory: str) -> dict[str, Any]:
    """What the peer trains: the gang's model, adapter, batch and saves."""
    spec = ground.manifest(NAME, CHANGES)["spec"]
    claim, path = split_claim_uri(spec["model"]["uri"])
    return {
        "store": directory,
        "model": f"{VOLUME_ROOT}/{claim}/{path}",
        "threads": 1,
        "seed": spec["training"]["seed"],
        "rank": spec["adapter"]["rank"],
        "learningRate": float(spec["training"]["learningRate"]),
        "sequenceLength": spec["data"]["sequenceLength"],
        "globalBatchSize": spec["training"]["globalBatchSize"],
        "steps": spec["training"]["maxSteps"],
        "everySteps": spec["checkpoint"]["everySteps"],
    }


@contextlib.contextmanager
def running(
    ground: Ground, gang: dict[str, Any], name: str, environment: dict[str, str] | None = None
) -> Iterator[Peer]:
    """The peer in a new pod, training; the pod goes at the end."""
    claim, _ = split_claim_uri(ground.manifest(NAME, CHANGES)["spec"]["checkpoint"]["store"])
    store = new_directory(ground.jobs.volumes / claim / name)
    inside = f"{STORE_MOUNT}/{name}"
    shutil.copyfile(SCRIPT, store / "elastic.py")
    (store / "work.json").write_text(json.dumps(work(ground, inside)))
    core, namespace = ground.jobs.core, ground.access.namespace
    settings = WORKING if environment is None else environment
    core.create_namespaced_pod(namespace, manifest(gang, name, inside, settings))
    peer = Peer(ground, name, store)
    try:
        peer.await_began(0.0, START_SECONDS)
        yield peer
    finally:
        core.delete_namespaced_pod(name, namespace, grace_period_seconds=0)
        eventually(lambda: gone(core, name, namespace), "the peer's pod is gone", RECOVERY_SECONDS)


def gone(core: Any, name: str, namespace: str) -> bool:
    """Whether the pod is no longer there."""
    return name not in {pod.metadata.name for pod in core.list_namespaced_pod(namespace).items}
