"""Every sentence that users read, word for word, and the form that all of them share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.api.meta import Exclusion, FailureClass, Reason, SuspectReason
from windlass.api.status import FailedRank, Failure, Progress, RecoveryRecord, SkippedData, SuspectNode
from windlass.core.status import messages

KIND = FailureClass
AT_40 = Progress(step=40, total_steps=100)


def failed(message: str = "boom", hint: str = "", **place: object) -> Failure:
    return Failure(
        reason="Crash",
        failure_class=KIND.CRASH,
        message=message,
        hint=hint,
        first_failed=FailedRank(**place),  # type: ignore[arg-type]
    )


def a_suspect(exclusion: Exclusion, *evidence: str) -> SuspectNode:
    return SuspectNode(
        name="node-1",
        reason=SuspectReason.DEVICE_ERROR,
        failure_class=KIND.INFRASTRUCTURE,
        exclusion=exclusion,
        since=datetime(2026, 11, 23, 12, tzinfo=UTC),
        until=datetime(2026, 11, 23, 13, tzinfo=UTC),
        evidence=list(evidence),
    )


LOOK = ". hint: look at the node (`kubectl describe node node-1`), and cordon it if other runs fail there too"

# What a judge says, and what the user then reads.
HINTED: list[tuple[str, str]] = [
    (
        messages.queued("team-a", "triage-11111111-1"),
        "queue team-a has not admitted the pods yet. hint: `kubectl describe workload triage-11111111-1` shows what "
        "Kueue waits for",
    ),
    (
        messages.queued("team-a", None),
        "queue team-a has not admitted the pods yet. hint: `kubectl get workloads` shows what Kueue waits for",
    ),
    (
        messages.gated(["a/b", "c/d"]),
        "scheduling gates hold the pods back: a/b, c/d. hint: whoever set a gate takes it away; look for a queue or "
        "policy of this namespace",
    ),
    (
        messages.pod_gated("triage-1-3", ("a/b",)),
        "pod triage-1-3 may not be given a node yet (scheduling gates: a/b). hint: `kubectl describe pod triage-1-3`",
    ),
    (
        messages.queue_not_enabled("Kueue"),
        "this operator is not set up for queues of kind Kueue; no pod is made. hint: install the chart with "
        "operator.kueue.enabled: true, or create the job without scheduling.queue",
    ),
    (
        messages.queue_unnoticed("team"),
        "Kueue takes no note of the pods in namespace team, which wait at their gate. hint: see that Kueue runs, that "
        "its pod integration is on, and that its managedJobsNamespaceSelector selects this namespace",
    ),
    (
        messages.gang_given_back("1 of 2 pods ran", 9.6, messages.GANG_NOT_STARTED_HINT),
        "1 of 2 pods ran; all pods are given back, and the next try waits 10 s. hint: look at the pods that did not "
        "run; scheduling.gangStartSeconds is the limit",
    ),
    (
        messages.claim_not_found("checkpoints"),
        "PersistentVolumeClaim checkpoints does not exist in this namespace. hint: create it, or correct the name "
        "(`kubectl get pvc`); the job starts by itself once checkpoints is there",
    ),
    (
        messages.claim_not_bound("data", "Lost"),
        "PersistentVolumeClaim data has no volume (phase Lost). hint: `kubectl describe pvc data` shows what the "
        "provisioner said; the job goes on once it is bound",
    ),
    (
        messages.access_mode("checkpoints", ("ReadWriteOnce", "ReadOnlyMany"), 3),
        "PersistentVolumeClaim checkpoints cannot be mounted by 3 nodes (got ReadWriteOnce, ReadOnlyMany). hint: use "
        "a claim with ReadWriteMany, or make the job anew with resources.nodes: 1",
    ),
    (
        messages.object_conflict("Service", "triage"),
        "Service triage exists and does not belong to this run. hint: rename the job, or delete Service triage if "
        "nothing needs it",
    ),
    (
        messages.secret_not_found("hub"),
        "Secret hub does not exist in this namespace. hint: create Secret hub; the pods go on by themselves once it "
        "is there",
    ),
    (
        messages.secret_key_not_found("hub", "token"),
        "Secret hub has no key token. hint: add the key, or name the right one in secretRef.key",
    ),
    (
        messages.secret_key_not_found(None, "token"),
        "the Secret has no key token. hint: add the key, or name the right one in secretRef.key",
    ),
    (
        messages.secret_key_not_found("hub", None),
        "Secret hub has not the key that the spec names. hint: add the key, or name the right one in secretRef.key",
    ),
    (
        messages.unschedulable("triage-0-1", "0/3 nodes are available: 3 Insufficient memory."),
        "no node takes pod triage-0-1: 0/3 nodes are available: 3 Insufficient memory. hint: lower "
        "resources.perNode, change pod.nodeSelector or pod.tolerations, or add nodes",
    ),
    (
        messages.shrunk(3, 4, messages.unschedulable("triage-3-5", "0/3 nodes are available.")),
        "training on 3 of 4 nodes; no node takes pod triage-3-5: 0/3 nodes are available. hint: the others are "
        "taken back when they come; global batch and order of samples are unchanged",
    ),
    (
        messages.node_suspected(a_suspect(Exclusion.REQUIRED, "Xid 79.", "more")),
        "node node-1 is suspected (DeviceError) and no pod of the run is placed there until 2026-11-23T13:00:00Z: "
        "Xid 79" + LOOK,
    ),
    (
        messages.node_suspected(a_suspect(Exclusion.PREFERRED)),
        "node node-1 is suspected (DeviceError) and the run avoids it until 2026-11-23T13:00:00Z" + LOOK,
    ),
    (
        messages.force_deleted(["triage-1-2"]),
        "removed from the API by force, since they outlived their grace period on a dead node: triage-1-2. hint: what "
        "still runs there cannot commit checkpoints; end or repair the node before you trust its devices",
    ),
    (
        messages.force_deleted([f"p{number}" for number in range(10)]),
        "removed from the API by force, since they outlived their grace period on a dead node: p0, p1, p2, p3, p4, "
        "p5, p6, p7 and 2 more. hint: what still runs there cannot commit checkpoints; end or repair the node before "
        "you trust its devices",
    ),
    (
        messages.avoided_nodes_block(
            "triage-1-3", ("node-1", "node-2"), "2026-11-23T13:00:00Z", "0/2 nodes."
        ),
        "no node takes pod triage-1-3, which may not be placed on node-1, node-2 until 2026-11-23T13:00:00Z "
        "(status.suspectNodes): 0/2 nodes. hint: add nodes, or wait: the pod is made anew without that exclusion then",
    ),
    (
        messages.image_unavailable("triage-0-1", "registry.example/x:1", "not found."),
        "the image of pod triage-0-1 cannot be pulled (got registry.example/x:1): not found. hint: check pod.image "
        "and pod.imagePullSecrets, and that the node reaches the registry",
    ),
    (
        messages.container_not_created("triage-0-1", "no such runtime."),
        "the container of pod triage-0-1 cannot be made: no such runtime. hint: `kubectl describe pod triage-0-1`",
    ),
    (
        messages.pod_security_denied("triage-0-1", "hostPath volumes."),
        "admission refused triage-0-1: hostPath volumes. hint: look for a webhook that changes pods, or a policy "
        "stricter than restricted",
    ),
    (
        messages.refused(Reason.INFRASTRUCTURE, "Pod", "triage-0-1", "who knows."),
        "the API server refused Pod triage-0-1: who knows. hint: see the operator's log",
    ),
    (
        messages.refused(Reason.OBJECT_CONFLICT, "Pod", "triage-0-1", "ignored"),
        "Pod triage-0-1 exists and does not belong to this run. hint: rename the job, or delete Pod triage-0-1 if "
        "nothing needs it",
    ),
    (
        messages.refused(Reason.POD_SECURITY_DENIED, "Pod", "triage-0-1", "x"),
        "admission refused triage-0-1: x. hint: look for a webhook that changes pods, or a policy stricter than "
        "restricted",
    ),
    (
        messages.budget_exhausted(
            KIND.OUT_OF_MEMORY, 2, "rank 1 was killed for memory by signal 9.", count=3
        ),
        "3 failures of class OutOfMemory without a newer verified checkpoint (budget 2); last: rank 1 was killed for "
        "memory by signal 9. hint: cure the cause that status.lastFailure names; a new job goes on from this "
        "one's checkpoints by resume.from",
    ),
    (
        messages.budget_exhausted(KIND.INFRASTRUCTURE, 10, "node lost", count=11, within_seconds=86_400),
        "11 failures of class Infrastructure without a newer verified checkpoint (budget 10 in 86400 s); last: node "
        "lost. hint: cure the cause that status.lastFailure names; a new job goes on from this one's "
        "checkpoints by resume.from",
    ),
    (
        messages.deadline_exceeded(3600),
        "the run took longer than activeDeadlineSeconds (3600). hint: checkpoints stay; a new job with a longer "
        "deadline goes on from them by resume.from",
    ),
    (
        messages.start_deadline_exceeded(600, "Unschedulable: no node takes pod triage-0-1."),
        "the pods were not all running within startDeadlineSeconds (600); last: Unschedulable: no node takes pod "
        "triage-0-1. hint: cure what it waited for and create a new job",
    ),
    (
        messages.reports_missing(60.0),
        "the leader has not reported for more than 60 s. hint: training does not need the operator; if the pods run, "
        "look at the network between them and it",
    ),
    (
        messages.degraded(Reason.TRACKING_UNREACHABLE, "connection refused."),
        "connection refused. hint: training goes on, metrics are kept; check tracking.mlflow.uri",
    ),
    (
        messages.degraded(Reason.SAVE_FAILED, "fsync failed"),
        "fsync failed. hint: training goes on with the last good checkpoint; look at the store's volume",
    ),
    (
        messages.degraded(Reason.STORAGE_FULL, "[Errno 28] No space left on device"),
        "[Errno 28] No space left on device. hint: the last good checkpoint stays; enlarge the claim or lower "
        "checkpoint.keepLast",
    ),
    (
        messages.degraded(
            Reason.STALL_SUSPECTED, "no step was finished for more than 300 s, the last was 40"
        ),
        "no step was finished for more than 300 s, the last was 40. hint: nothing is restarted: `windlass logs NAME "
        "--rank N` has each rank's stacks; set guards.stall.limitSeconds with action Restart to have such runs "
        "restarted",
    ),
    (
        messages.degraded(Reason.STRAGGLER_DETECTED, "rank 1 takes 2.2 times as long as the others"),
        "rank 1 takes 2.2 times as long as the others. hint: training goes on at the pace of the slowest rank; look at "
        "that node's other work, clocks and temperature",
    ),
    (
        messages.quota_partial(2, 8, 160.0, "exceeded quota: small, used: pods=2, limited: pods=2."),
        "the namespace's quota admits 2 of 8 pods, which are given back; the next try waits 160 s: exceeded quota: "
        "small, used: pods=2, limited: pods=2. hint: `kubectl describe resourcequota` shows used and limit; raise it, "
        "or ask for less",
    ),
    (
        messages.drift_corrected("Service", "triage"),
        "Service triage was changed by somebody and is put back. hint: change the job instead; what the run needs is "
        "rendered from it",
    ),
    (
        messages.no_rung("pod triage-0-1 went away."),
        "pod triage-0-1 went away; recovery.ladder has no rung for that. hint: add RecreateGang to recovery.ladder",
    ),
    (
        messages.no_progress(3, "rank 0 ended with exit code 1."),
        "the same failure came 3 times without a newer verified checkpoint: rank 0 ended with exit code 1. hint: "
        "status.lastFailure.evidence has the lines; if one batch triggers it, look at that data",
    ),
    (
        messages.failure(failed("no such file.", "check the claim", rank=1, pod="triage-1-2", node="n2")),
        "no such file (rank 1, pod triage-1-2, node n2). hint: check the claim",
    ),
]

PLAIN: list[tuple[str, str]] = [
    (
        messages.place_is_counted(["triage-1-2"]),
        "the queue still counts triage-1-2; a replacement is made once that has ended",
    ),
    (
        messages.place_is_counted([]),
        "the queue still counts another pod; a replacement is made once that has ended",
    ),
    (
        messages.place_is_lost("triage-1-2"),
        "the node of pod triage-1-2 does not answer, and its queue takes no replacement for a pod that may still run",
    ),
    (
        messages.gang_not_started(1, 2, 60, "no room."),
        "1 of 2 pods ran within scheduling.gangStartSeconds (60): no room",
    ),
    (
        messages.gang_not_started(0, 1, 60, ""),
        "0 of 1 pod ran within scheduling.gangStartSeconds (60)",
    ),
    (messages.invalid_spec("spec.a: b"), "spec.a: b"),
    (messages.accepted(1, 1), "1 pod with 1 rank in all will be made"),
    (messages.accepted(1, 8), "1 pod with 8 ranks in all will be made"),
    (messages.accepted(2, 16), "2 pods with 16 ranks in all will be made"),
    (messages.starting(0, 1), "0 of 1 pod made"),
    (messages.starting(1, 4), "1 of 4 pods made"),
    (messages.waiting_for_pods(3, 4), "3 of 4 pods running"),
    (messages.agents_starting(1), "1 pod running, agents are loading their libraries"),
    (messages.old_attempt(2), "attempt 2 waits for the pods of an earlier one to end"),
    (
        messages.queue_keeps(["a-0-1"]),
        "Kueue does not let go of a-0-1, which has ended, and whose place the next attempt needs. hint: see that Kueue "
        "runs; where it was removed, take its finalizer kueue.x-k8s.io/managed from these pods",
    ),
    (
        messages.queue_keeps(["a-0-1", "a-1-2"]),
        "Kueue does not let go of a-0-1, a-1-2, which have ended, and whose places the next attempt needs. hint: see "
        "that Kueue runs; where it was removed, take its finalizer kueue.x-k8s.io/managed from these pods",
    ),
    (
        messages.at_work(Reason.TRAINING, AT_40, 2),
        "training of 100 steps in incarnation 2; status.progress has the step",
    ),
    (
        messages.at_work(Reason.TRAINING, Progress(step=3), 1),
        "training in incarnation 1; status.progress has the step",
    ),
    (
        messages.at_work(Reason.PREPARING, AT_40, 1),
        "the first agent reads, tokenises and packs the data",
    ),
    (messages.at_work(Reason.EXPORTING, AT_40, 1), "all steps are done, the result is being written"),
    (messages.at_work(Reason.RECOVERING, AT_40, 4), "incarnation 4 is loading its checkpoint"),
    (messages.at_work(Reason.STARTING, AT_40, 1), "ranks are starting"),
    (
        messages.member_lost("pod triage-1-2 went away", "triage-1-3"),
        "pod triage-1-2 went away; triage-1-3 takes its place",
    ),
    (
        messages.exclusion_over("triage-1-3", ("node-1",)),
        "node-1 is free of suspicion; pod triage-1-3 is made anew",
    ),
    (
        messages.exclusion_over("triage-1-3", ("node-1", "node-2")),
        "node-1, node-2 are free of suspicion; pod triage-1-3 is made anew",
    ),
    (
        messages.node_unhealthy("triage-1-2", "node-1", "AggregatedNodeHealth"),
        "node node-1 carries the taint AggregatedNodeHealth: pod triage-1-2 saves and goes on on another node",
    ),
    (messages.moved("triage-1-2", "DeviceError"), "pod triage-1-2 leaves its node (DeviceError)"),
    (messages.gang_recreated(2, "node lost"), "attempt 2 replaces every pod (node lost)"),
    (messages.backing_off(10.4, "boom"), "the next try waits 10 s (boom)"),
    (messages.suspending(), "the ranks save and leave"),
    (messages.suspended(0, begun=False), "no pods were made"),
    (messages.suspended(0), "no pods; the run goes on from step 0 when spec.suspend is false"),
    (messages.suspended(40), "no pods; the run goes on from step 40 when spec.suspend is false"),
    (messages.resumed(), "spec.suspend is false again"),
    (messages.completed(100, "pvc://c/out"), "100 steps done; the result is at pvc://c/out"),
    (messages.completed(100, None), "100 steps done"),
    (messages.failure(failed("boom")), "boom"),
    (messages.failure(failed("boom", rank=0)), "boom (rank 0)"),
    (messages.failure(failed("boom", pod="p")), "boom (pod p)"),
    (messages.failure(failed("", node="n")), "the run failed with Crash (node n)"),
    (messages.precision_chosen("BF16", "the GPU is fast at it"), "BF16: the GPU is fast at it"),
    (messages.precision_chosen("FP32", None), "FP32"),
    (
        messages.recovered(
            RecoveryRecord(
                incarnation=2, rung="InPlace", failure_class="Crash", resumed_step=40, lost_steps=1
            )
        ),
        "InPlace after Crash: went on from step 40, 1 step lost",
    ),
    (
        messages.recovered(
            RecoveryRecord(incarnation=2, rung="RecreateGang", failure_class="Infrastructure", lost_steps=7)
        ),
        "RecreateGang after Infrastructure: went on from step 0, 7 steps lost",
    ),
    (
        messages.recovered(
            RecoveryRecord(
                incarnation=2,
                rung="InPlace",
                failure_class="Numeric",
                resumed_step=40,
                lost_steps=3,
                evidence=["step 44: loss nan", "samples of step 44: 3, 1"],
                skipped=SkippedData(first=172, last=175, steps=1),
            )
        ),
        "InPlace after Numeric: went on from step 40, 3 steps lost; data of 1 step skipped: samples 172 to 175 of "
        "the training order (step 44: loss nan)",
    ),
    (messages.resumed(paused=True), "the spec was changed"),
    (
        messages.skipped(SkippedData(first=0, last=31, steps=2)),
        "data of 2 steps skipped: samples 0 to 31 of the training order",
    ),
    (messages.checkpoint_committed("step-00000040.i1", 40), "step-00000040.i1 is verified at step 40"),
    (messages.hinted("a", ""), "a"),
    (messages.hinted("a", "b"), "a. hint: b"),
]


@pytest.mark.parametrize(("said", "wanted"), [*HINTED, *PLAIN], ids=lambda text: text[:40])
def test_sentence_is_word_for_word(said: str, wanted: str) -> None:
    assert said == wanted


@pytest.mark.parametrize("text", [said for said, _ in HINTED], ids=lambda text: text[:40])
def test_whoever_has_to_act_gets_one_next_step(text: str) -> None:
    problem, _, hint = text.partition(". hint: ")
    assert hint and ". hint: " not in hint
    assert not problem.endswith((".", " ", ":")) and ".." not in text
    assert not hint.endswith(".")


@pytest.mark.parametrize("text", [said for said, _ in [*HINTED, *PLAIN]], ids=lambda text: text[:40])
def test_sentence_fits_into_an_event_and_one_line(text: str) -> None:
    assert len(text) <= messages.EVENT_LIMIT
    assert "\n" not in text and "  " not in text and "None" not in text


def test_every_sentence_of_the_module_is_in_the_tables() -> None:
    source = inspect.getsource(inspect.getmodule(test_sentence_is_word_for_word))  # type: ignore[arg-type]
    texts: list[Callable[..., object]] = [
        value
        for _, value in inspect.getmembers(messages, inspect.isfunction)
        if value.__module__ == messages.__name__
    ]
    unsaid = [each.__name__ for each in texts if f"messages.{each.__name__}(" not in source]
    assert unsaid == []


@pytest.mark.parametrize(("count", "wanted"), [(0, "pods"), (1, "pod"), (2, "pods"), (4096, "pods")], ids=str)
def test_noun_agrees_with_its_count(count: int, wanted: str) -> None:
    assert messages.plural(count, "pod") == wanted


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=60), st.integers(1, 60))
def test_clipped_text_is_short_and_begins_as_before(part: str, times: int) -> None:
    text = part * times
    cut = messages.clip(text)
    assert len(cut) <= 1024
    assert cut == text if len(text) <= 1024 else text.startswith(cut[:-3]) and cut.endswith("...")


def test_clip_uses_the_apis_limit_of_a_note() -> None:
    assert messages.clip("x" * 1024) == "x" * 1024
    assert messages.clip("x" * 1025) == "x" * 1021 + "..."


def test_quota_refusal_names_object_and_the_servers_own_numbers() -> None:
    said = "exceeded quota: small, requested: pods=1, used: pods=2, limited: pods=2"
    text = messages.quota_exceeded("triage-2-3", said)
    assert text.startswith("the namespace's quota refused triage-2-3: exceeded quota: small")
    assert "used: pods=2, limited: pods=2" in text
    assert text == messages.refused(Reason.QUOTA_EXCEEDED, "Pod", "triage-2-3", said)


@settings(max_examples=40, deadline=None)
@given(
    st.text("abc. ", max_size=30),
    st.none() | st.integers(0, 99),
    st.none() | st.just("triage-0-1"),
    st.none() | st.just("node-1"),
)
def test_end_of_a_run_always_names_what_is_known(
    message: str, rank: int | None, pod: str | None, node: str | None
) -> None:
    text = messages.failure(failed(message, "do this", rank=rank, pod=pod, node=node))
    for name, value in (("rank", rank), ("pod", pod), ("node", node)):
        assert (f"{name} {value}" in text) or value is None
    assert text.endswith(". hint: do this")
