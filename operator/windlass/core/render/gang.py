"""All objects of a run besides its pods, in the order in which they are applied.

The chain applies what is missing or differs by digest; `windlass render` prints them all.
"""

from __future__ import annotations

from windlass.api.jobs import TrainingJobSpec
from windlass.core.decision import Manifest
from windlass.core.gang import first_gang
from windlass.core.observed import Job
from windlass.core.render.network import network_policy
from windlass.core.render.pod import pod
from windlass.core.render.run_config import ca_config_map, run_config, run_config_map, run_config_name
from windlass.core.render.service import service
from windlass.core.settings import RenderSettings


def shared_objects(
    job: Job, spec: TrainingJobSpec, *, attempt: int, settings: RenderSettings
) -> tuple[Manifest, ...]:
    """Configuration, CA, Service and NetworkPolicy of one attempt."""
    made = [run_config_map(job, run_config(job, spec, attempt=attempt, settings=settings))]
    if settings.report_url is not None:
        made.append(ca_config_map(job, settings))
    return (*made, service(job), network_policy(job))


def whole_gang(job: Job, spec: TrainingJobSpec, *, settings: RenderSettings) -> tuple[Manifest, ...]:
    """Everything of a first attempt, as `windlass render` shows it."""
    gang = first_gang(spec)
    config_map = run_config_name(job, run_config(job, spec, attempt=gang.attempt, settings=settings))
    pods = (
        pod(job, spec, member, attempt=gang.attempt, config_map=config_map, settings=settings)
        for member in gang.members
    )
    return (*shared_objects(job, spec, attempt=gang.attempt, settings=settings), *pods)
