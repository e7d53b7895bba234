"""Judges about what the spec needs of its namespace: claims, names, and pods that cannot start.

None of these ends a run: each says what is missing, and the run goes on by itself once it is there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from windlass.api.meta import Reason
from windlass.core import names
from windlass.core.facts import Facts, Outcome
from windlass.core.observed import PodView
from windlass.core.status import conditions, messages

SHARED_MODES = ("ReadWriteMany", "ReadOnlyMany")
IMAGE_REASONS = (
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ErrImageInspect",
    "RegistryUnavailable",
    "SignatureValidationFailed",
)
SECRET_MISSING = re.compile(r'secrets? "?(?P<secret>[a-z0-9][a-z0-9.-]*)"? not found', re.IGNORECASE)
KEY_MISSING = re.compile(
    r"(couldn't find key (?P<key>\S+) in secret (\S+/)?(?P<secret>\S+))"
    r"|(references non-existent secret key: (?P<key2>\S+))",
    re.IGNORECASE,
)
Trouble = tuple[Reason, str]


def claims_do_not_fit(facts: Facts) -> Outcome | None:
    """A claim is missing, or cannot be mounted by all nodes. Only asked while pods are to be made.

    A claim without a volume is no obstacle: many get theirs only when a pod asks for it.
    """
    if facts.slots and all(slot.pod is not None for slot in facts.slots):
        return None
    found = claim_trouble(facts)
    if found is None:
        return None
    return Outcome(facts.state(conditions.stalled(*found)))


def claim_trouble(facts: Facts) -> Trouble | None:
    """What is wrong with the first claim that does not fit."""
    present = {claim.name: claim for claim in facts.seen.claims}
    nodes = facts.spec.resources.nodes
    store = names.store_claim(facts.spec)
    wanted = (*names.all_claims(facts.spec), *(mount.claim for mount in facts.settings.host_root))
    for name in names.unique(wanted):
        claim = present.get(name)
        if claim is None or claim.deleting:
            return Reason.CLAIM_NOT_FOUND, messages.claim_not_found(name)
        if not fits_nodes(claim.access_modes, nodes, is_store=name == store):
            return Reason.ACCESS_MODE, messages.access_mode(name, claim.access_modes, nodes)
    return None


def fits_nodes(modes: tuple[str, ...], nodes: int, *, is_store: bool) -> bool:
    """Whether a claim can be mounted by pods on as many nodes; into the store all of them write."""
    shareable = ("ReadWriteMany",) if is_store else SHARED_MODES
    return nodes == 1 or any(mode in shareable for mode in modes)


def name_is_taken(facts: Facts) -> Outcome | None:
    """An object that we need by name belongs to somebody else: touch nothing."""
    wanted = {(item["kind"], item["metadata"]["name"]) for item in facts.shared}
    for item in facts.seen.objects:
        if (item.kind, item.name) in wanted and item.owner_uid != facts.job.uid:
            text = messages.object_conflict(item.kind, item.name)
            return Outcome(facts.state(conditions.stalled(Reason.OBJECT_CONFLICT, text)))
    return None


def waiting_trouble(facts: Facts) -> Trouble | None:
    """Why pods that exist do not run, if there is a cause that somebody has to cure."""
    waiting = [slot.pod for slot in facts.slots if slot.pod is not None and not slot.pod.is_running]
    for look in (image_trouble, secret_trouble, mount_trouble, placing_trouble, gate_trouble):
        for pod in waiting:
            found = look(facts, pod)
            if found is not None:
                return found
    return None


def image_trouble(facts: Facts, pod: PodView) -> Trouble | None:
    """The image cannot be pulled."""
    if pod.waiting_reason not in IMAGE_REASONS:
        return None
    image = facts.spec.image or facts.settings.workload_image
    text = messages.image_unavailable(pod.name, image, pod.waiting_message or pod.waiting_reason or "")
    return Reason.IMAGE_UNAVAILABLE, text


def secret_trouble(_facts: Facts, pod: PodView) -> Trouble | None:
    """A Secret or a key of one is missing; only the kubelet's words tell, we cannot read Secrets."""
    for text in said(pod):
        key = KEY_MISSING.search(text)
        if key is not None:
            name = key.group("key") or key.group("key2")
            return Reason.SECRET_KEY_NOT_FOUND, messages.secret_key_not_found(key.group("secret"), name)
        secret = SECRET_MISSING.search(text)
        if secret is not None:
            return Reason.SECRET_NOT_FOUND, messages.secret_not_found(secret.group("secret"))
    return None


def mount_trouble(_facts: Facts, pod: PodView) -> Trouble | None:
    """The kubelet cannot make the container for a reason that has no name of its own."""
    if pod.waiting_reason in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
        return Reason.WAITING_FOR_PODS, messages.container_not_created(pod.name, pod.waiting_message or "")
    if pod.warning is not None:
        return Reason.WAITING_FOR_PODS, messages.container_not_created(pod.name, pod.warning)
    return None


def placing_trouble(facts: Facts, pod: PodView) -> Trouble | None:
    """No node takes the pod, or its claim gets no volume, which the scheduler reports alike."""
    if pod.unschedulable is None:
        return None
    needed = names.all_claims(facts.spec)
    for claim in facts.seen.claims:
        if claim.name in needed and claim.phase != "Bound" and "olume" in pod.unschedulable:
            return Reason.CLAIM_NOT_BOUND, messages.claim_not_bound(claim.name, claim.phase)
    excluded = [item for item in facts.status.suspect_nodes if item.name in pod.avoids]
    if excluded:
        until = f"{min(item.until for item in excluded):%Y-%m-%dT%H:%M:%SZ}"
        names_of = tuple(item.name for item in excluded)
        text = messages.avoided_nodes_block(pod.name, names_of, until, pod.unschedulable)
        return Reason.UNSCHEDULABLE, text
    return Reason.UNSCHEDULABLE, messages.unschedulable(pod.name, pod.unschedulable)


def gate_trouble(_facts: Facts, pod: PodView) -> Trouble | None:
    """One pod of a gang is held back while others are not: a replacement that the queue has yet to let through."""
    if not pod.is_gated:
        return None
    return Reason.WAITING_FOR_PODS, messages.pod_gated(pod.name, pod.gates)


def said(pod: PodView) -> Iterable[str]:
    """Whatever the kubelet said about a pod that does not start."""
    return [text for text in (pod.waiting_message, pod.warning, pod.message) if text]
