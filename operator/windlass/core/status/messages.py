"""Every sentence that users read in conditions and events.

Form: `what is wrong. hint: next step`. Facts of the case come in as arguments; nothing here decides
anything, and no text may hold a credential.
"""

from __future__ import annotations

from collections.abc import Sequence

from windlass.api.meta import Exclusion, FailureClass, Reason
from windlass.api.status import Failure, Progress, RecoveryRecord, SkippedData, SuspectNode
from windlass.core import kueue

EVENT_LIMIT = 1024
NAMES_SHOWN = 8


def hinted(text: str, hint: str) -> str:
    """A text with the next step for the reader."""
    return f"{text}. hint: {hint}" if hint else text


def clip(text: str) -> str:
    """The text of an event, cut where the API would refuse it."""
    return text if len(text) <= EVENT_LIMIT else text[: EVENT_LIMIT - 3] + "..."


def invalid_spec(error: str) -> str:
    """InvalidSpec. Each problem has its own hint already."""
    return error


def claim_not_found(claim: str) -> str:
    """ClaimNotFound."""
    return hinted(
        f"PersistentVolumeClaim {claim} does not exist in this namespace",
        f"create it, or correct the name (`kubectl get pvc`); the job starts by itself once {claim} is there",
    )


def claim_not_bound(claim: str, phase: str) -> str:
    """ClaimNotBound."""
    return hinted(
        f"PersistentVolumeClaim {claim} has no volume (phase {phase})",
        f"`kubectl describe pvc {claim}` shows what the provisioner said; the job goes on once it is bound",
    )


def access_mode(claim: str, modes: tuple[str, ...], nodes: int) -> str:
    """AccessModeNotShared."""
    return hinted(
        f"PersistentVolumeClaim {claim} cannot be mounted by {nodes} nodes (got {', '.join(modes)})",
        "use a claim with ReadWriteMany, or make the job anew with resources.nodes: 1",
    )


def object_conflict(kind: str, name: str) -> str:
    """ObjectConflict."""
    return hinted(
        f"{kind} {name} exists and does not belong to this run",
        f"rename the job, or delete {kind} {name} if nothing needs it",
    )


def secret_not_found(secret: str) -> str:
    """SecretNotFound."""
    return hinted(
        f"Secret {secret} does not exist in this namespace",
        f"create Secret {secret}; the pods go on by themselves once it is there",
    )


def secret_key_not_found(secret: str | None, key: str | None) -> str:
    """SecretKeyNotFound."""
    where = f"Secret {secret}" if secret else "the Secret"
    what = f"no key {key}" if key else "not the key that the spec names"
    return hinted(f"{where} has {what}", "add the key, or name the right one in secretRef.key")


def unschedulable(pod: str, scheduler: str) -> str:
    """Unschedulable."""
    return hinted(
        f"no node takes pod {pod}: {scheduler.rstrip('.')}",
        "lower resources.perNode, change pod.nodeSelector or pod.tolerations, or add nodes",
    )


def node_suspected(item: SuspectNode) -> str:
    """NodeSuspected."""
    how = "no pod of the run is placed there" if item.exclusion is Exclusion.REQUIRED else "the run avoids it"
    seen = f": {item.evidence[0].rstrip('.')}" if item.evidence else ""
    return hinted(
        f"node {item.name} is suspected ({item.reason}) and {how} until {item.until:%Y-%m-%dT%H:%M:%SZ}{seen}",
        f"look at the node (`kubectl describe node {item.name}`), and cordon it if other runs fail there too",
    )


def node_unhealthy(pod: str, node: str, taint: str) -> str:
    """Recovering, before a pod leaves a node whose devices are not sound."""
    return f"node {node} carries the taint {taint}: pod {pod} saves and goes on on another node"


def force_deleted(pods: Sequence[str]) -> str:
    """PodForceDeleted."""
    more = f" and {len(pods) - NAMES_SHOWN} more" if len(pods) > NAMES_SHOWN else ""
    return hinted(
        f"removed from the API by force, since they outlived their grace period on a dead node: "
        f"{', '.join(pods[:NAMES_SHOWN])}{more}",
        "what still runs there cannot commit checkpoints; end or repair the node before you trust its devices",
    )


def moved(pod: str, reason: str) -> str:
    """Why a pod was let go that is made anew on another node."""
    return f"pod {pod} leaves its node ({reason})"


def avoided_nodes_block(pod: str, nodes: tuple[str, ...], until: str, scheduler: str) -> str:
    """Unschedulable, while nodes are excluded for this run."""
    return hinted(
        f"no node takes pod {pod}, which may not be placed on {', '.join(nodes)} until {until} "
        f"(status.suspectNodes): {scheduler.rstrip('.')}",
        "add nodes, or wait: the pod is made anew without that exclusion then",
    )


def exclusion_over(pod: str, nodes: tuple[str, ...]) -> str:
    """Recovering, with a pod that no longer has to avoid nodes."""
    return (
        f"{', '.join(nodes)} {'is' if len(nodes) == 1 else 'are'} free of suspicion; pod {pod} is made anew"
    )


def image_unavailable(pod: str, image: str, detail: str) -> str:
    """ImageUnavailable."""
    return hinted(
        f"the image of pod {pod} cannot be pulled (got {image}): {detail.rstrip('.')}",
        "check pod.image and pod.imagePullSecrets, and that the node reaches the registry",
    )


def container_not_created(pod: str, detail: str) -> str:
    """A container that the kubelet cannot make, for reasons without a name of their own."""
    return hinted(
        f"the container of pod {pod} cannot be made: {detail.rstrip('.')}", f"`kubectl describe pod {pod}`"
    )


def quota_exceeded(name: str, detail: str) -> str:
    """QuotaExceeded."""
    return hinted(
        f"the namespace's quota refused {name}: {detail.rstrip('.')}",
        "`kubectl describe resourcequota` shows used and limit; raise it, or ask for less",
    )


def pod_security_denied(name: str, detail: str) -> str:
    """PodSecurityDenied."""
    return hinted(
        f"admission refused {name}: {detail.rstrip('.')}",
        "look for a webhook that changes pods, or a policy stricter than restricted",
    )


def refused(reason: Reason, kind: str, name: str, detail: str) -> str:
    """The text for an object that the API server refused."""
    if reason is Reason.QUOTA_EXCEEDED:
        return quota_exceeded(name, detail)
    if reason is Reason.POD_SECURITY_DENIED:
        return pod_security_denied(name, detail)
    if reason is Reason.OBJECT_CONFLICT:
        return object_conflict(kind, name)
    return hinted(f"the API server refused {kind} {name}: {detail.rstrip('.')}", "see the operator's log")


def quota_partial(made: int, wanted: int, seconds: float, detail: str) -> str:
    """QuotaExceeded, when a part of a gang was admitted and is given back."""
    return hinted(
        f"the namespace's quota admits {made} of {wanted} pods, which are given back; the next try waits "
        f"{seconds:.0f} s: {detail.rstrip('.')}",
        "`kubectl describe resourcequota` shows used and limit; raise it, or ask for less",
    )


def queued(queue: str, group: str | None) -> str:
    """Queued."""
    look = f"`kubectl describe workload {group}`" if group else "`kubectl get workloads`"
    return hinted(f"queue {queue} has not admitted the pods yet", f"{look} shows what Kueue waits for")


def gated(gates: Sequence[str]) -> str:
    """Queued, by gates that the job did not ask for."""
    return hinted(
        f"scheduling gates hold the pods back: {', '.join(gates)}",
        "whoever set a gate takes it away; look for a queue or policy of this namespace",
    )


def pod_gated(pod: str, gates: Sequence[str]) -> str:
    """WaitingForPods, with one pod at its gate."""
    return hinted(
        f"pod {pod} may not be given a node yet (scheduling gates: {', '.join(gates)})",
        f"`kubectl describe pod {pod}`",
    )


def queue_not_enabled(kind: str) -> str:
    """QueueUnavailable, since the operator was not installed for it."""
    return hinted(
        f"this operator is not set up for queues of kind {kind}; no pod is made",
        f"install the chart with operator.{kind.lower()}.enabled: true, or create the job without scheduling.queue",
    )


def queue_unnoticed(namespace: str) -> str:
    """QueueUnavailable, since nobody answers."""
    return hinted(
        f"Kueue takes no note of the pods in namespace {namespace}, which wait at their gate",
        "see that Kueue runs, that its pod integration is on, and that its managedJobsNamespaceSelector selects "
        "this namespace",
    )


def place_is_counted(pods: Sequence[str]) -> str:
    """Recovering, while the queue would delete a replacement as one pod too many."""
    shown = ", ".join(pods[:NAMES_SHOWN]) or "another pod"
    return f"the queue still counts {shown}; a replacement is made once that has ended"


def place_is_lost(pod: str) -> str:
    """Why a whole gang is made anew after the loss of one pod."""
    return f"the node of pod {pod} does not answer, and its queue takes no replacement for a pod that may still run"


GANG_NOT_STARTED_HINT = "look at the pods that did not run; scheduling.gangStartSeconds is the limit"


def gang_not_started(running: int, wanted: int, seconds: int, why: str) -> str:
    """What a gang that did not become whole failed by."""
    last = f": {why.rstrip('.')}" if why else ""
    return f"{running} of {wanted} {plural(wanted, 'pod')} ran within scheduling.gangStartSeconds ({seconds}){last}"


def gang_given_back(what: str, pause: float, hint: str) -> str:
    """GangNotStarted."""
    return hinted(f"{what}; all pods are given back, and the next try waits {pause:.0f} s", hint)


def drift_corrected(kind: str, name: str) -> str:
    """DriftCorrected."""
    return hinted(
        f"{kind} {name} was changed by somebody and is put back",
        "change the job instead; what the run needs is rendered from it",
    )


def accepted(nodes: int, ranks: int) -> str:
    """Accepted."""
    return f"{nodes} {plural(nodes, 'pod')} with {ranks} {plural(ranks, 'rank')} in all will be made"


def plural(count: int, noun: str) -> str:
    """The noun in the number that the count needs."""
    return noun if count == 1 else noun + "s"


def starting(made: int, wanted: int) -> str:
    """Starting."""
    return f"{made} of {wanted} {plural(wanted, 'pod')} made"


def waiting_for_pods(running: int, wanted: int) -> str:
    """WaitingForPods."""
    return f"{running} of {wanted} {plural(wanted, 'pod')} running"


def shrunk(nodes: int, wanted: int, why: str) -> str:
    """NodesMissing."""
    return hinted(
        f"training on {nodes} of {wanted} {plural(wanted, 'node')}; {why.partition('. hint: ')[0].rstrip('.')}",
        "the others are taken back when they come; global batch and order of samples are unchanged",
    )


def agents_starting(pods: int) -> str:
    """Starting, with all pods up."""
    return f"{pods} {plural(pods, 'pod')} running, agents are loading their libraries"


def old_attempt(attempt: int) -> str:
    """Recovering, while pods of an earlier attempt end. How many are left would be a write for each."""
    return f"attempt {attempt} waits for the pods of an earlier one to end"


def queue_keeps(pods: Sequence[str]) -> str:
    """QueueUnavailable, since pods that have ended are not let go."""
    shown = ", ".join(pods[:NAMES_SHOWN])
    return hinted(
        f"Kueue does not let go of {shown}, which {'has' if len(pods) == 1 else 'have'} ended, and whose "
        f"{plural(len(pods), 'place')} the next attempt needs",
        f"see that Kueue runs; where it was removed, take its finalizer {kueue.FINALIZER} from these pods",
    )


def at_work(reason: Reason, progress: Progress, incarnation: int) -> str:
    """Training, Preparing, Exporting and Recovering. Holds no number that moves: each would be a write."""
    if reason is Reason.TRAINING:
        total = f" of {progress.total_steps} steps" if progress.total_steps else ""
        return f"training{total} in incarnation {incarnation}; status.progress has the step"
    if reason is Reason.PREPARING:
        return "the first agent reads, tokenises and packs the data"
    if reason is Reason.EXPORTING:
        return "all steps are done, the result is being written"
    if reason is Reason.RECOVERING:
        return f"incarnation {incarnation} is loading its checkpoint"
    return "ranks are starting"


def member_lost(why: str, replacement: str) -> str:
    """Recovering, after a pod was lost."""
    return f"{why}; {replacement} takes its place"


def gang_recreated(attempt: int, why: str) -> str:
    """Recovering, with a whole new gang."""
    return f"attempt {attempt} replaces every pod ({why})"


def backing_off(seconds: float, why: str) -> str:
    """BackingOff."""
    return f"the next try waits {seconds:.0f} s ({why})"


def suspending() -> str:
    """Suspending."""
    return "the ranks save and leave"


def suspended(step: int, begun: bool = True) -> str:
    """Suspended; `begun` says whether there have ever been pods."""
    if not begun:
        return "no pods were made"
    return f"no pods; the run goes on from step {step} when spec.suspend is false"


def resumed(*, paused: bool = False) -> str:
    """Resumed."""
    return "the spec was changed" if paused else "spec.suspend is false again"


def completed(steps: int, uri: str | None) -> str:
    """Completed."""
    where = f"; the result is at {uri}" if uri else ""
    return f"{steps} steps done{where}"


def failure(found: Failure) -> str:
    """The message of a run's end: what failed where, and what to do."""
    place = [
        f"rank {found.first_failed.rank}" if found.first_failed.rank is not None else "",
        f"pod {found.first_failed.pod}" if found.first_failed.pod else "",
        f"node {found.first_failed.node}" if found.first_failed.node else "",
    ]
    where = ", ".join(part for part in place if part)
    text = found.message.rstrip(".") or f"the run failed with {found.reason}"
    return hinted(f"{text} ({where})" if where else text, found.hint)


def budget_exhausted(
    failure_class: FailureClass, budget: int, last: str, *, count: int, within_seconds: int = 0
) -> str:
    """BudgetExhausted."""
    window = f" in {within_seconds} s" if within_seconds else ""
    return hinted(
        f"{count} failures of class {failure_class} without a newer verified checkpoint"
        f" (budget {budget}{window}); last: {last.rstrip('.')}",
        "cure the cause that status.lastFailure names; a new job goes on from this one's checkpoints by resume.from",
    )


def deadline_exceeded(seconds: int, waiting_for: str = "") -> str:
    """DeadlineExceeded; `waiting_for` is what kept a run from starting."""
    last = f"; last: {waiting_for.rstrip('.')}" if waiting_for else ""
    return hinted(
        f"the run took longer than activeDeadlineSeconds ({seconds}){last}",
        "checkpoints stay; a new job with a longer deadline goes on from them by resume.from",
    )


def start_deadline_exceeded(seconds: int, waiting_for: str) -> str:
    """StartDeadlineExceeded."""
    return hinted(
        f"the pods were not all running within startDeadlineSeconds ({seconds}); "
        f"last: {waiting_for.rstrip('.')}",
        "cure what it waited for and create a new job",
    )


def reports_missing(seconds: float) -> str:
    """ReportsMissing."""
    return hinted(
        f"the leader has not reported for more than {seconds:.0f} s",
        "training does not need the operator; if the pods run, look at the network between them and it",
    )


def precision_chosen(precision: str, why: str | None) -> str:
    """PrecisionChosen."""
    return f"{precision}: {why}" if why else precision


def degraded(reason: Reason, error: str) -> str:
    """TrackingDegraded, CheckpointDegraded, LossDegraded and ProgressDegraded."""
    hints = {
        Reason.TRACKING_UNREACHABLE: "training goes on, metrics are kept; check tracking.mlflow.uri",
        Reason.SAVE_FAILED: "training goes on with the last good checkpoint; look at the store's volume",
        Reason.NO_CHECKPOINTS: "open windlass_workloads.custom in the script, and call load and save",
        Reason.LOSS_SPIKE: "training goes on; guards.lossSpike.action: Rollback would go back and past the data",
        Reason.STORAGE_FULL: "the last good checkpoint stays; enlarge the claim or lower checkpoint.keepLast",
        Reason.STALL_SUSPECTED: "nothing is restarted: `windlass logs NAME --rank N` has each rank's stacks; set "
        "guards.stall.limitSeconds with action Restart to have such runs restarted",
        Reason.STRAGGLER_DETECTED: "training goes on at the pace of the slowest rank; look at that node's other "
        "work, clocks and temperature",
    }
    return hinted(error.rstrip("."), hints[reason])


def recovered(row: RecoveryRecord) -> str:
    """Recovered."""
    text = (
        f"{row.rung} after {row.failure_class}: went on from step {row.resumed_step}, "
        f"{row.lost_steps} {plural(row.lost_steps, 'step')} lost"
    )
    return f"{text}; {skipped(row.skipped)} ({row.evidence[0]})" if row.skipped and row.evidence else text


def skipped(data: SkippedData) -> str:
    """Which training data a guard left out."""
    return (
        f"data of {data.steps} {plural(data.steps, 'step')} skipped: samples {data.first} to {data.last} "
        "of the training order"
    )


def checkpoint_committed(name: str, step: int) -> str:
    """CheckpointCommitted."""
    return f"{name} is verified at step {step}"


def no_rung(last: str) -> str:
    """The end because the user allows nothing that could help."""
    return hinted(
        f"{last.rstrip('.')}; recovery.ladder has no rung for that", "add RecreateGang to recovery.ladder"
    )


def no_progress(times: int, last: str) -> str:
    """NoProgress."""
    return hinted(
        f"the same failure came {times} times without a newer verified checkpoint: {last.rstrip('.')}",
        "status.lastFailure.evidence has the lines; if one batch triggers it, look at that data",
    )
