"""What the end-to-end tests share: a thin view of the cluster, job manifests, and waiting by condition.

Everything goes through the API server, as a user's tools would. Waiting polls a condition until a
deadline and fails with what was seen last; nothing sleeps for a fixed time and hopes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from kubernetes import client
from kubernetes.client.exceptions import ApiException

from windlass.api.meta import API_VERSION, GROUP, LABEL_RUN, VERSION

Found = TypeVar("Found")
Manifest = dict[str, Any]


def eventually(look: Callable[[], Found | None], what: str, seconds: float = 120.0) -> Found:
    """Return the first value of `look` that is neither None nor False, or fail after `seconds`."""
    deadline = time.monotonic() + seconds
    last: object = None
    while time.monotonic() < deadline:
        last = look()
        if last is not None and last is not False:
            return last  # type: ignore[return-value]
        time.sleep(0.2)
    raise AssertionError(f"{what}: not seen within {seconds:.0f} s (last: {last!r})")


@dataclass
class Jobs:
    """Jobs of one kind in one namespace, and what belongs to them."""

    api: client.ApiClient
    namespace: str
    volumes: Path
    plural: str = "finetunejobs"

    @property
    def custom(self) -> client.CustomObjectsApi:
        return client.CustomObjectsApi(self.api)

    @property
    def core(self) -> client.CoreV1Api:
        return client.CoreV1Api(self.api)

    def create(self, manifest: Manifest) -> Manifest:
        return self.custom.create_namespaced_custom_object(
            GROUP, VERSION, self.namespace, self.plural, manifest
        )

    def get(self, name: str) -> Manifest | None:
        try:
            return self.custom.get_namespaced_custom_object(GROUP, VERSION, self.namespace, self.plural, name)
        except ApiException as error:
            if error.status == 404:
                return None
            raise

    def listed(self) -> list[Manifest]:
        found = self.custom.list_namespaced_custom_object(GROUP, VERSION, self.namespace, self.plural)
        items: list[Manifest] = found["items"]
        return items

    def status(self, name: str) -> Manifest:
        return (self.get(name) or {}).get("status") or {}

    def patch(self, name: str, spec: Manifest) -> None:
        self.custom.patch_namespaced_custom_object(
            GROUP, VERSION, self.namespace, self.plural, name, {"spec": spec}
        )

    def delete(self, name: str) -> None:
        self.custom.delete_namespaced_custom_object(GROUP, VERSION, self.namespace, self.plural, name)

    def pods(self, name: str) -> list[Any]:
        return self.core.list_namespaced_pod(self.namespace, label_selector=f"{LABEL_RUN}={name}").items

    def pod_at(self, name: str, index: int) -> Any | None:
        alive = [
            pod
            for pod in self.pods(name)
            if pod.metadata.labels.get(f"{GROUP}/index") == str(index)
            and pod.metadata.deletion_timestamp is None
            and pod.status.phase == "Running"
        ]
        return alive[0] if alive else None

    def ended(self, pod: Any) -> datetime | None:
        """When the only container of this pod ended, None while it has not."""
        seen = self.core.read_namespaced_pod(pod.metadata.name, self.namespace)
        states = [each.state.terminated for each in seen.status.container_statuses or []]
        return states[0].finished_at if states and states[0] is not None else None

    def condition(self, name: str, kind: str) -> Manifest | None:
        rows = [row for row in self.status(name).get("conditions", []) if row["type"] == kind]
        return rows[0] if rows else None

    def condition_is(self, name: str, kind: str, value: str = "True") -> bool:
        row = self.condition(name, kind)
        return row is not None and row["status"] == value

    def step(self, name: str) -> int:
        return int((self.status(name).get("progress") or {}).get("step", 0))

    def await_step(self, name: str, step: int, seconds: float = 420.0) -> int:
        def reached() -> int | None:
            self.fail_early(name)
            return self.step(name) if self.step(name) >= step else None

        return eventually(reached, f"{name} at step {step}", seconds)

    def await_condition(self, name: str, kind: str, value: str = "True", seconds: float = 600.0) -> Manifest:
        def reached() -> Manifest | None:
            if kind != "Failed":
                self.fail_early(name)
            return self.status(name) if self.condition_is(name, kind, value) else None

        return eventually(reached, f"{name} {kind}={value}", seconds)

    def fail_early(self, name: str) -> None:
        if self.condition_is(name, "Failed"):
            raise AssertionError(
                f"{name} failed: {json.dumps(self.status(name).get('lastFailure'), indent=1)}"
            )

    def events(self, name: str) -> list[tuple[str, str]]:
        # The older kind of event: the newer model refuses the kubelet's, which have no eventTime.
        listed = self.core.list_namespaced_event(self.namespace).items
        return [(row.reason or "", row.message or "") for row in listed if row.involved_object.name == name]


def tiny_job(name: str, **changes: Any) -> Manifest:
    """A two-pod fine-tune of the tiny model, long enough to be disturbed; `changes` merge into the spec."""
    spec: Manifest = {
        "model": {"uri": "pvc://models/tiny"},
        "data": {"sources": [{"uri": "pvc://data/train.jsonl", "format": "Chat"}], "sequenceLength": 64},
        "training": {"globalBatchSize": 4, "maxSteps": 300, "learningRate": "1e-3", "precision": "FP32"},
        "resources": {"nodes": 2, "perNode": {"cpu": "100m", "memory": "3Gi"}},
        "checkpoint": {"store": "pvc://checkpoints", "everySteps": 50, "keepLast": 2},
        "recovery": {"backOffSeconds": 1, "terminationGracePeriodSeconds": 30},
    }
    for key, value in changes.items():
        spec[key] = {**spec.get(key, {}), **value} if isinstance(value, dict) else value
    return {"apiVersion": API_VERSION, "kind": "FineTuneJob", "metadata": {"name": name}, "spec": spec}
