"""Kueue as a run's pods meet it: its webhook, and its controller for plain pods, alone and in groups.

Written after Kueue's own rules (keps/976-plain-pods, pkg/controller/jobs/pod of v0.19): a finalizer until the end is
noted, one Workload for a group, quota for a whole group or none, deletion of pods one too many, replacements that take
over a place, groups that are finished once no pod of theirs lives.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perturb.world import Api

Body = dict[str, Any]
QUEUE = "kueue.x-k8s.io/queue-name"
GROUP = "kueue.x-k8s.io/pod-group-name"
COUNT = "kueue.x-k8s.io/pod-group-total-count"
RETRIABLE = "kueue.x-k8s.io/retriable-in-group"
ROLE = "kueue.x-k8s.io/role-hash"
MANAGED = "kueue.x-k8s.io/managed"
GATE = {"name": "kueue.x-k8s.io/admission"}


def is_queued(pod: Body) -> bool:
    return QUEUE in (pod["metadata"].get("labels") or {})


def is_ended(pod: Body) -> bool:
    return pod["status"]["phase"] in ("Succeeded", "Failed")


def is_leaving(pod: Body) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def is_gated(pod: Body) -> bool:
    return GATE in pod["spec"].get("schedulingGates", [])


def is_held(pod: Body) -> bool:
    return MANAGED in pod["metadata"].get("finalizers", ())


def is_active(pod: Body) -> bool:
    """`isPodRunnableOrSucceeded`."""
    never_runs = is_leaving(pod) and not pod["spec"].get("nodeName")
    return not never_runs and pod["status"]["phase"] != "Failed"


@dataclass
class Kueue:
    """The webhook is there wherever this is; `open` says whether there is quota for a Workload that waits."""

    here: bool = True
    open: bool = False
    # Names of Workloads that were admitted, are finished, and are to be evicted.
    admitted: set[str] = field(default_factory=set)
    finished: set[str] = field(default_factory=set)
    evicting: set[str] = field(default_factory=set)
    # Pods that were one too many: none of them should ever have been made.
    excess: list[str] = field(default_factory=list)

    def state(self) -> tuple[Any, ...]:
        return self.here, self.open, self.admitted, self.finished, self.evicting, self.excess

    def admission(self, pod: Body) -> None:
        """The mutating webhook."""
        if not self.here or not is_queued(pod):
            return
        pod["metadata"] = pod["metadata"] | {"finalizers": [MANAGED]}
        gates = pod["spec"].get("schedulingGates", [])
        pod["spec"] = pod["spec"] | {"schedulingGates": [*gates, *([] if GATE in gates else [GATE])]}

    def tick(self, api: Api) -> None:
        groups: dict[str, list[Body]] = {}
        for pod in api.of_kind("Pod"):
            if is_queued(pod) and self.here:
                groups.setdefault(pod["metadata"]["labels"].get(GROUP, ""), []).append(pod)
        for pod in groups.pop("", []):
            self.keep_single(api, pod)
        for name, pods in groups.items():
            self.keep(api, name, pods)
        for workload in api.of_kind("Workload"):
            if workload["metadata"]["name"] not in groups:
                api.remove(workload)

    def keep_single(self, api: Api, pod: Body) -> None:
        """A plain pod has its own Workload, which is over with it."""
        if is_ended(pod) or is_leaving(pod):
            self.let_go(api, pod)
        elif is_gated(pod) and self.open:
            self.ungate(api, pod)

    def keep(self, api: Api, name: str, pods: list[Body]) -> None:
        workload = api.objects.get(("Workload", name))
        total = {int(pod["metadata"]["annotations"][COUNT]) for pod in pods}
        assert len(total) == 1 and {pod["metadata"]["annotations"][ROLE] for pod in pods} == {"member"}
        if workload is None:
            self.compose(api, name, pods, total.pop())
            return
        if is_leaving(workload):
            self.end(api, name, pods)
            return
        if name in self.finished or self.is_finished(pods, total.copy().pop()):
            self.finished.add(name)
            for pod in pods:
                self.let_go(api, pod)
            return
        if name in self.evicting:
            self.evict(api, name, pods)
            return
        self.balance(api, pods, total.pop())
        if self.open:
            self.admitted.add(name)
        if name in self.admitted:
            for pod in pods:
                if is_gated(pod) and not is_leaving(pod):
                    self.ungate(api, pod)

    def compose(self, api: Api, name: str, pods: list[Body], total: int) -> None:
        for pod in pods:
            if not is_active(pod):
                self.let_go(api, pod)
        if name not in self.finished and sum(map(is_active, pods)) >= total:
            api.put({"kind": "Workload", "metadata": {"name": name}})

    def is_finished(self, pods: list[Body], total: int) -> bool:
        if sum(pod["status"]["phase"] == "Succeeded" for pod in pods) == total:
            return True
        never_again = any(pod["metadata"]["annotations"].get(RETRIABLE) == "false" for pod in pods)
        return never_again and all(map(is_ended, pods))

    def balance(self, api: Api, pods: list[Body], total: int) -> None:
        """Pods one too many go, the youngest at their gates first; replaced pods are let go."""
        active = sorted(
            filter(is_active, pods), key=lambda pod: (is_gated(pod), pod["metadata"]["creationTimestamp"])
        )
        for pod in active[total:]:
            self.excess.append(pod["metadata"]["name"])
            self.let_go(api, pod)
            self.delete(api, pod)
        inactive = [pod for pod in pods if not is_active(pod)]
        for pod in inactive[: max(len(inactive) + len(active) - total, 0)]:
            self.let_go(api, pod)

    def evict(self, api: Api, name: str, pods: list[Body]) -> None:
        """`Stop`: a condition that says why, then a delete of each pod that has been let through."""
        for pod in pods:
            if not is_leaving(pod) and not is_ended(pod) and not is_gated(pod):
                why = {"type": "TerminationTarget", "status": "True", "reason": "WorkloadEvicted"}
                pod["status"]["conditions"] = [*pod["status"].get("conditions", ()), why]
                self.delete(api, pod)
        if all(pod["status"]["phase"] != "Running" for pod in pods):
            self.evicting.discard(name)
            self.admitted.discard(name)

    def end(self, api: Api, name: str, pods: list[Body]) -> None:
        """Somebody deleted the Workload: all pods go with it."""
        for pod in pods:
            if not is_leaving(pod):
                self.delete(api, pod)
            self.let_go(api, pod)
        self.admitted.discard(name)
        api.remove(api.objects["Workload", name])

    def delete(self, api: Api, pod: Body) -> None:
        pod["metadata"]["deletionTimestamp"] = (
            (api.now + timedelta(seconds=10)).isoformat().replace("+00:00", "Z")
        )
        api.touch(pod)

    def let_go(self, api: Api, pod: Body) -> None:
        if not is_held(pod):
            return
        pod["metadata"].pop("finalizers")
        api.touch(pod)
        if is_leaving(pod) and pod["status"]["phase"] != "Running":
            api.remove(pod)

    def ungate(self, api: Api, pod: Body) -> None:
        pod["spec"].pop("schedulingGates")
        api.touch(pod)
