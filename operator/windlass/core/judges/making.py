"""What a gang is made of: its shared objects and its pods, as they are to be, and which of them are not so.

Used by the judges that make them.
"""

from __future__ import annotations

import dataclasses

from windlass.api.meta import Reason
from windlass.core import names
from windlass.core.decision import Event, Manifest
from windlass.core.facts import Facts, Slot
from windlass.core.render.pod import pod as render_pod
from windlass.core.status import messages


def missing_objects(facts: Facts) -> tuple[Manifest, ...]:
    """Shared objects that are not there or not as they should be. A configuration in use stays as it is."""
    present = {(item.kind, item.name): item for item in facts.seen.objects}
    missing = []
    for item in facts.shared:
        kind, metadata = item["kind"], item["metadata"]
        if item.get("immutable") and ("ConfigMap", facts.status.run_config) in present:
            continue
        found = present.get((kind, metadata["name"]))
        if found is None or found.digest != metadata["annotations"][names.ANNOTATION_DIGEST]:
            missing.append(item)
    return tuple(missing)


def drift(facts: Facts, applies: tuple[Manifest, ...]) -> tuple[Event, ...]:
    """One event for each object that is there and does not hold what was rendered, whatever its digest says."""
    edited = {
        (item.kind, item.name)
        for item in facts.seen.objects
        if item.owner_uid == facts.job.uid and item.digest is None
    }
    return tuple(
        Event(
            "Warning",
            Reason.DRIFT_CORRECTED,
            messages.drift_corrected(item["kind"], item["metadata"]["name"]),
        )
        for item in applies
        if (item["kind"], item["metadata"]["name"]) in edited
    )


def render_member(facts: Facts, slot: Slot) -> Manifest:
    """The pod of one place."""
    return render_pod(
        facts.job_now,
        facts.spec,
        slot.member,
        attempt=facts.status.gang.attempt,
        config_map=facts.status.run_config or "",
        settings=dataclasses.replace(facts.settings, workload_image=image_for(facts)),
    )


def image_for(facts: Facts) -> str:
    """The image of the gang's other pods, if one runs: agents of one gang are of one version, also after an upgrade."""
    pods = (slot.pod for slot in facts.slots)
    running = (pod.image for pod in pods if pod is not None and pod.is_running)
    return next((image for image in running if image), facts.settings.workload_image)
