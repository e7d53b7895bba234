"""Applies the example's job and follows it to its end.

Called by the demo's command. A job of an interrupted demo is followed on; a finished one is replaced, so
that the numbers are this run's. It must never follow for ever: a run without any change is given up.
"""

from __future__ import annotations

import time
from typing import Any, Final

from windlass.api.kinds import KINDS
from windlass.api.meta import GROUP, VERSION, ConditionType
from windlass.api.status import JobStatus
from windlass.cli import view
from windlass.cli.access import Access
from windlass.cli.demo.console import say
from windlass.cli.demo.faults import Saboteur
from windlass.cli.errors import CliError
from windlass.cli.status import drawer
from windlass.core.observed import parse_status

Manifest = dict[str, Any]
PLURAL: Final = KINDS["FineTuneJob"].plural
SILENCE_SECONDS = 600.0
GONE_SECONDS = 180.0
POLL_SECONDS = 0.5


def apply(access: Access, manifest: Manifest) -> bool:
    """Create the job; False when an unfinished one with the same spec is there and is followed on."""
    from kubernetes.client.exceptions import ApiException

    name = manifest["metadata"]["name"]
    try:
        present = access.custom.get_namespaced_custom_object(GROUP, VERSION, access.namespace, PLURAL, name)
    except ApiException as problem:
        if problem.status != 404:
            raise access.explain(problem, name) from problem
        present = None
    if present is not None:
        if same_run(present, manifest):
            say(f"   following the unfinished {name}")
            return False
        remove(access, name)
    try:
        access.custom.create_namespaced_custom_object(GROUP, VERSION, access.namespace, PLURAL, manifest)
    except ApiException as problem:
        raise CliError(f"{name}: was refused: {problem.body}") from problem
    return True


def same_run(present: Manifest, wanted: Manifest) -> bool:
    """Whether the job there is the wanted one, unfinished. Defaults that the server filled in do not matter."""
    unfinished = not view.is_finished(parse_status(present.get("status") or {}))
    return (
        unfinished
        and "deletionTimestamp" not in present["metadata"]
        and contains(present["spec"], wanted["spec"])
    )


def contains(whole: Any, part: Any) -> bool:
    """Whether everything in `part` stands in `whole`."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(
            key in whole and contains(whole[key], part[key]) for key in part
        )
    if isinstance(part, list):
        return isinstance(whole, list) and len(whole) == len(part) and all(map(contains, whole, part))
    return bool(whole == part)


def remove(access: Access, name: str) -> None:
    """Delete the job of an earlier demo and wait until it and its pods are gone."""
    from kubernetes.client.exceptions import ApiException

    say(f"   removing {name} of an earlier run (its checkpoints stay)")
    access.custom.delete_namespaced_custom_object(GROUP, VERSION, access.namespace, PLURAL, name)
    deadline = time.monotonic() + GONE_SECONDS
    while time.monotonic() < deadline:
        try:
            access.custom.get_namespaced_custom_object(GROUP, VERSION, access.namespace, PLURAL, name)
        except ApiException as problem:
            if problem.status == 404 and not access.pods(name):
                return
        time.sleep(POLL_SECONDS)
    raise CliError(
        f"{name}: is still being deleted after {GONE_SECONDS:.0f} s. hint: kubectl describe ftj {name}"
    )


def follow(access: Access, name: str, *, faults: bool) -> tuple[Manifest, list[float]]:
    """Show progress and do the accidents; the finished job and the losses seen. Raises CliError when it failed."""
    show, saboteur = drawer(), Saboteur(access, name)
    losses: list[float] = []
    seen, changed = "", time.monotonic()
    while True:
        job = access.job(name)
        status = parse_status(job.get("status") or {})
        if job["metadata"]["resourceVersion"] != seen:
            seen, changed = job["metadata"]["resourceVersion"], time.monotonic()
            show(job)
            remember(losses, status)
        if view.is_finished(status):
            break
        if faults:
            saboteur.look(job, status)
        if time.monotonic() - changed > SILENCE_SECONDS:
            raise CliError(
                f"{name}: nothing changed for {SILENCE_SECONDS:.0f} s. "
                f"hint: windlass status {name}, windlass logs {name}"
            )
        time.sleep(POLL_SECONDS)
    if not view.is_true(status, ConditionType.COMPLETE):
        raise CliError(f"{name}: did not complete\n{view.describe(job)}")
    return job, losses


def remember(losses: list[float], status: JobStatus) -> None:
    """Keep the loss of each reported step."""
    loss = status.progress.loss
    if loss is not None and (not losses or losses[-1] != loss):
        losses.append(loss)
