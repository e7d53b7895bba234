"""Every sentence that users read in conditions and events.

Form: `what is wrong. hint: next step`. Facts of the case come in as arguments; nothing here decides
anything, and no text may hold a credential.
"""

from __future__ import annotations

from windlass.api.meta import FailureClass, Reason
from windlass.api.status import Failure, Progress

EVENT_LIMIT = 1024


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
        "use a claim with ReadWriteMany, or set resources.nodes: 1",
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


def old_attempt(attempt: int, left: int) -> str:
    """Recovering, while pods of an earlier attempt end."""
    return f"attempt {attempt} waits for {left} {plural(left, 'pod')} of an earlier one to end"


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


def resumed() -> str:
    """Resumed."""
    return "spec.suspend is false again"


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


def budget_exhausted(failure_class: FailureClass, budget: int, last: str) -> str:
    """BudgetExhausted."""
    return hinted(
        f"{budget + 1} failures of class {failure_class} without a newer verified checkpoint"
        f" (budget {budget}); last: {last.rstrip('.')}",
        "cure the cause that status.lastFailure names and create a new job, or raise recovery.budgets",
    )


def deadline_exceeded(seconds: int, waiting_for: str = "") -> str:
    """DeadlineExceeded; `waiting_for` is what kept a run from starting."""
    last = f"; last: {waiting_for.rstrip('.')}" if waiting_for else ""
    return hinted(
        f"the run took longer than activeDeadlineSeconds ({seconds}){last}",
        "checkpoints stay; give a new job a longer deadline",
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
    """TrackingDegraded and CheckpointDegraded."""
    hints = {
        Reason.TRACKING_UNREACHABLE: "training goes on, metrics are kept; check tracking.mlflow.uri",
        Reason.SAVE_FAILED: "training goes on with the last good checkpoint; look at the store's volume",
        Reason.STORAGE_FULL: "the last good checkpoint stays; enlarge the claim or lower checkpoint.keepLast",
    }
    return hinted(error.rstrip("."), hints[reason])


def recovered(rung: str, failure_class: str, step: int, lost: int) -> str:
    """Recovered."""
    return f"{rung} after {failure_class}: went on from step {step}, {lost} {plural(lost, 'step')} lost"


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
