"""A small world for the operator: an API server in memory and the gang that its pods would be.

Kept as plain as possible; it models what the decisions depend on: resource versions, 409s, owner
garbage collection, grace periods, tickets, incarnations, checkpoints, reports and orders.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from perturb.kueue import Kueue, is_gated, is_held
from windlass.api import meta
from windlass.api.contract import Orders, Report, RunIdentity, Timeline, Verdict
from windlass.api.meta import ExitCode, FailureClass, Phase, Rung
from windlass.api.status import CheckpointRecord, Failure, Progress, RecoveryRecord, ResumePoint
from windlass_workloads.agent.verdict import encode, with_report

START = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
TICK = timedelta(seconds=4)
Body = dict[str, Any]


def stamp(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


class ConflictError(Exception):
    """409: it exists, or it is not what the caller read."""


class QuotaError(Exception):
    """403: the namespace's quota admits no further pod."""


class Api:
    """Objects by kind and name in one namespace."""

    def __init__(self) -> None:
        self.quota: int | None = None
        self.kueue: Kueue = Kueue()
        self.objects: dict[tuple[str, str], Body] = {}
        self.version = 0
        self.now = START
        self.pickles: dict[tuple[int, str], bytes] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without the cache of bytes: it goes by the identity of bodies, which a copy does not share."""
        return self.__dict__ | {"pickles": {}}

    def touch(self, body: Body) -> None:
        self.version += 1
        body["metadata"]["resourceVersion"] = str(self.version)

    def put(self, body: Body) -> Body:
        """Create without asking, as a user or a controller of the cluster would."""
        body = body | {"metadata": dict(body["metadata"])}
        body["metadata"].setdefault("uid", f"uid-{self.version}")
        body["metadata"].setdefault("creationTimestamp", stamp(self.now))
        self.touch(body)
        self.objects[body["kind"], body["metadata"]["name"]] = body
        return body

    def of_kind(self, kind: str) -> list[Body]:
        return [body for (each, _), body in self.objects.items() if each == kind]

    def snapshot(self) -> dict[tuple[str, str], Body]:
        return {key: pickle.loads(self.frozen(body)) for key, body in self.objects.items()}

    def frozen(self, body: Body) -> bytes:
        """A body as bytes, made once per version of it."""
        key = id(body), body["metadata"]["resourceVersion"]
        if key not in self.pickles:
            self.pickles[key] = pickle.dumps(body)
        return self.pickles[key]

    # --- what the operator calls ---

    def write_status(self, name: str, status: Body, version: str) -> None:
        job = self.objects.get(("FineTuneJob", name))
        if job is None or job["metadata"]["resourceVersion"] != version:
            raise ConflictError(name)
        job["status"] = status
        self.touch(job)

    def apply(self, body: Body) -> None:
        key = body["kind"], body["metadata"]["name"]
        found = self.objects.get(key)
        if found is None:
            self.put(dict(body))
            return
        assert not found.get("immutable") or found["data"] == body["data"], f"{key} is immutable"
        merged = found | body
        merged["metadata"] = found["metadata"] | body["metadata"]
        self.objects[key] = merged
        self.touch(merged)

    def create(self, body: Body) -> None:
        if (body["kind"], body["metadata"]["name"]) in self.objects:
            raise ConflictError(body["metadata"]["name"])
        if self.quota is not None and len(self.of_kind("Pod")) >= self.quota:
            raise QuotaError(f"exceeded quota: small, used: pods={self.quota}, limited: pods={self.quota}")
        owner = body["metadata"]["ownerReferences"][0]["uid"]
        made = dict(body) | {"status": {"phase": "Pending"}}
        self.kueue.admission(made)
        made = self.put(made)
        if all(job["metadata"]["uid"] != owner for job in self.of_kind("FineTuneJob")):
            self.remove(made)

    def delete(self, kind: str, name: str, uid: str, *, force: bool = False) -> None:
        body = self.objects.get((kind, name))
        if body is None or (uid and body["metadata"]["uid"] != uid):
            return
        if kind == "Workload" or (kind == "Pod" and is_held(body)):
            self.mark(body)
            return
        if kind == "Pod" and not force and body["status"]["phase"] in ("Pending", "Running"):
            if "deletionTimestamp" not in body["metadata"]:
                body["metadata"]["deletionTimestamp"] = stamp(self.now + timedelta(seconds=10))
                self.touch(body)
            return
        self.remove(body)

    def mark(self, body: Body) -> None:
        """Deleted, and kept by its finalizer until its keeper lets it go."""
        if "deletionTimestamp" not in body["metadata"]:
            body["metadata"]["deletionTimestamp"] = stamp(self.now + timedelta(seconds=10))
            self.touch(body)

    def remove(self, body: Body) -> None:
        """Take an object away, and with it what it owns."""
        self.objects.pop((body["kind"], body["metadata"]["name"]), None)
        self.version += 1
        uid = body["metadata"]["uid"]
        for other in list(self.objects.values()):
            if any(owner["uid"] == uid for owner in other["metadata"].get("ownerReferences", ())):
                if is_held(other):
                    self.mark(other)
                else:
                    self.remove(other)


@dataclass
class Store:
    """What the agents keep in the checkpoint store."""

    incarnation: int = 0
    owner_uid: str = ""
    owner_ticket: int = 0
    active: frozenset[str] = frozenset()
    step: int = 0
    checkpoints: list[tuple[int, int]] = field(default_factory=list)
    recoveries: list[RecoveryRecord] = field(default_factory=list)


class Gang:
    """The pods' side: a kubelet, agents and ranks, moved on by `tick`."""

    def __init__(self, api: Api, *, steps: int = 60) -> None:
        self.api = api
        self.steps = steps
        self.store = Store()
        self.sequence = 0
        self.wanted = False
        self.stands = False
        self.verdict_to_give: Failure | None = None
        self.pause_to_give: Failure | None = None
        self.dead_nodes: set[str] = set()
        self.nodes: tuple[str, ...] = ()
        """The only nodes there are, each with room for one pod; none means a node for every pod."""
        self.report: Report | None = None
        self.trained_by: list[tuple[int, str]] = []

    def state(self) -> tuple[Any, ...]:
        """Everything that decides what the gang will do."""
        return (
            self.steps,
            self.store,
            self.wanted,
            self.stands,
            self.verdict_to_give,
            self.pause_to_give,
            self.dead_nodes,
            self.nodes,
            self.report,
            self.trained_by,
            self.api.kueue.state(),
        )

    # --- kubelet ---

    def tick(self) -> None:
        self.report = None
        self.api.kueue.tick(self.api)
        for pod in self.api.of_kind("Pod"):
            self.keep(pod)
        self.lead()

    def keep(self, pod: Body) -> None:
        if pod["spec"].get("nodeName") in self.dead_nodes:
            return
        if "deletionTimestamp" in pod["metadata"]:
            if pod["status"]["phase"] == "Running":
                self.end(pod, ExitCode.PREEMPTED, Verdict(result="Preempted", step=self.store.step))
            elif not is_held(pod):
                self.api.remove(pod)
        elif pod["status"]["phase"] == "Pending" and not is_gated(pod):
            node = self.place(pod)
            since = {"lastTransitionTime": stamp(self.api.now)}
            if node is None:
                refused = {"status": "False", "reason": "Unschedulable", "message": "no node fits"}
                waits = [{"type": "PodScheduled", **refused}]
                if pod["status"].get("conditions") != waits:
                    pod["status"] = {"phase": "Pending", "conditions": waits}
                    self.api.touch(pod)
                return
            pod["spec"]["nodeName"] = node
            pod["status"] = {
                "phase": "Running",
                "podIP": "10.0.0.1",
                "conditions": [{"type": "PodScheduled", "status": "True", **since}],
                "containerStatuses": [{"state": {"running": {"startedAt": stamp(self.api.now)}}}],
            }
            self.api.touch(pod)

    def place(self, pod: Body) -> str | None:
        """The scheduler: the first free node that the pod does not have to avoid, a disliked one last."""
        if not self.nodes:
            return f"node-of-{pod['metadata']['name']}"
        rules = pod["spec"].get("affinity", {}).get("nodeAffinity", {})
        required = rules.get("requiredDuringSchedulingIgnoredDuringExecution", {"nodeSelectorTerms": []})
        terms = required["nodeSelectorTerms"]
        closed = {field["values"][0] for term in terms for field in term["matchFields"]}
        preferred = rules.get("preferredDuringSchedulingIgnoredDuringExecution", ())
        disliked = {rule["preference"]["matchFields"][0]["values"][0] for rule in preferred}
        busy = {
            other["spec"].get("nodeName")
            for other in self.api.of_kind("Pod")
            if other["status"]["phase"] in ("Pending", "Running")
        }
        free = [node for node in self.nodes if node not in closed | busy | self.dead_nodes]
        return min(free, key=lambda node: node in disliked, default=None)

    def end(self, pod: Body, code: int, verdict: Verdict | None = None, **terminated: Any) -> None:
        message = encode(self.last_word(pod, verdict)).decode() if verdict is not None else ""
        state = {"exitCode": int(code), "finishedAt": stamp(self.api.now), "message": message, **terminated}
        pod["status"]["phase"] = "Succeeded" if code == 0 else "Failed"
        pod["status"]["containerStatuses"] = [{"state": {"terminated": state}}]
        self.api.touch(pod)

    # --- agents ---

    def last_word(self, pod: Body, verdict: Verdict) -> Verdict:
        """What an agent leaves in its pod: a leader its account beside the verdict."""
        leads = pod["metadata"]["uid"] == self.store.owner_uid and verdict.result != "Fenced"
        return with_report(verdict, self.account(pod, None)) if leads and self.store.incarnation else verdict

    def running(self) -> list[Body]:
        return [
            pod
            for pod in self.api.of_kind("Pod")
            if pod["status"]["phase"] == "Running"
            and "deletionTimestamp" not in pod["metadata"]
            and pod["spec"].get("nodeName") not in self.dead_nodes
        ]

    def leader(self) -> Body | None:
        leaders = [pod for pod in self.running() if label(pod, meta.LABEL_INDEX) == 0]
        return max(leaders, key=lambda pod: label(pod, meta.LABEL_TICKET), default=None)

    def members(self, leader: Body) -> dict[int, Body]:
        """The newest running pod of each index, of the leader's attempt."""
        found: dict[int, Body] = {}
        for pod in sorted(self.running(), key=lambda each: label(each, meta.LABEL_TICKET)):
            if label(pod, meta.LABEL_ATTEMPT) == label(leader, meta.LABEL_ATTEMPT):
                found[label(pod, meta.LABEL_INDEX)] = pod
        return found

    def lead(self) -> None:
        leader = self.leader()
        if leader is None:
            return
        uid, ticket, store = leader["metadata"]["uid"], label(leader, meta.LABEL_TICKET), self.store
        if uid != store.owner_uid:
            if ticket <= store.owner_ticket:
                self.end(leader, ExitCode.FENCED, Verdict(result="Fenced"))
                return
            store.owner_uid, store.owner_ticket = uid, ticket
        members = self.members(leader)
        job = self.api.of_kind("FineTuneJob")
        nodes = job[0]["spec"]["resources"]["nodes"] if job else 0
        if len(members) < nodes:
            self.say(leader, Phase.RENDEZVOUS)
            return
        active = frozenset(pod["metadata"]["uid"] for pod in members.values())
        if active != store.active:
            store.active = active
            self.begin(Rung.RECREATE_POD)
            self.say(leader, Phase.LOAD)
            return
        self.train(leader, members)

    def begin(self, rung: Rung) -> None:
        """A new incarnation from the newest checkpoint."""
        store = self.store
        store.incarnation += 1
        before, store.step = store.step, max((step for step, _ in store.checkpoints), default=0)
        if store.incarnation > 1:
            store.recoveries.append(
                RecoveryRecord(
                    incarnation=store.incarnation,
                    rung=rung,
                    failure_class=FailureClass.INFRASTRUCTURE,
                    from_step=before,
                    resumed_step=store.step,
                    lost_steps=before - store.step,
                )
            )

    def train(self, leader: Body, members: dict[int, Body]) -> None:
        store = self.store
        if self.verdict_to_give is not None:
            verdict = Verdict(result="Failed", step=store.step, failure=self.verdict_to_give)
            self.say(leader, Phase.TRAIN, verdict)
            self.end_all(members, ExitCode.CONFIGURATION, verdict)
            return
        if self.stands:
            self.say(leader, Phase.TRAIN)
            return
        if self.pause_to_give is not None:
            verdict = Verdict(result="Paused", step=store.step, failure=self.pause_to_give)
            self.pause_to_give = None
            self.say(leader, Phase.TRAIN, verdict)
            self.end_all(members, ExitCode.PREEMPTED, verdict)
            return
        store.step += 10
        self.trained_by.append((store.incarnation, leader["metadata"]["uid"]))
        if store.step % 20 == 0:
            store.checkpoints.append((store.step, store.incarnation))
        if store.step < self.steps:
            self.say(leader, Phase.TRAIN)
            return
        verdict = Verdict(result="Succeeded", step=store.step, incarnation=store.incarnation)
        self.say(leader, Phase.EXPORT, verdict)
        self.end_all(members, ExitCode.SUCCESS, verdict)

    def end_all(self, members: dict[int, Body], code: int, verdict: Verdict) -> None:
        for pod in members.values():
            self.end(pod, code, verdict)

    def obey(self, orders: Orders) -> None:
        """What the agents do when the operator's answer is not Continue."""
        leader = self.leader()
        if orders.action == "Continue" or leader is None:
            return
        store = self.store
        if (
            orders.action == "SaveAndExit"
            and store.active
            and (store.step, store.incarnation) not in store.checkpoints
        ):
            store.checkpoints.append((store.step, store.incarnation))
        verdict = Verdict(result="Preempted", step=store.step, incarnation=store.incarnation)
        self.end_all(self.members(leader), ExitCode.PREEMPTED, verdict)

    def say(self, leader: Body, phase: Phase, verdict: Verdict | None = None) -> None:
        self.report = self.account(leader, phase, verdict)

    def account(self, leader: Body, phase: Phase | None, verdict: Verdict | None = None) -> Report:
        store, metadata = self.store, leader["metadata"]
        self.sequence += 1
        ledger = [
            CheckpointRecord(step=step, incarnation=made, name=f"step-{step:08d}.i{made}", digest=f"d{step}")
            for step, made in reversed(store.checkpoints)
        ]
        return Report(
            run=RunIdentity(kind="FineTuneJob", namespace="team", name="triage", uid="job-uid"),
            pod=metadata["name"],
            pod_uid=metadata["uid"],
            attempt=label(leader, meta.LABEL_ATTEMPT),
            ticket=label(leader, meta.LABEL_TICKET),
            sequence=self.sequence,
            sent_at=self.api.now,
            incarnation=store.incarnation,
            phase=phase,
            progress=Progress(step=store.step, total_steps=self.steps),
            checkpoints=ledger[:20],
            resume=ResumePoint(),
            recoveries=store.recoveries[-10:],
            restarts=max(store.incarnation - 1, 0),
            wanted="RecreateGang" if self.wanted and label(leader, meta.LABEL_ATTEMPT) == 1 else "Nothing",
            timeline=Timeline(started_at=START + timedelta(seconds=6), until=self.api.now, training=1.0),
            stall="no step was finished for more than 300 s" if self.stands else None,
            verdict=verdict,
        )


def label(pod: Body, key: str) -> int:
    return int(pod["metadata"]["labels"][key])
