"""The run's configuration as its pods read it, and the operator's CA beside it.

The configuration is immutable and named by its hash; it is rendered once per attempt and its name kept
in status. The CA may change while pods live, hence a ConfigMap of its own.
"""

from __future__ import annotations

from windlass.api import meta
from windlass.api.contract import ReportTarget, RunConfig, RunIdentity
from windlass.api.jobs import TrainingJobSpec
from windlass.core import names
from windlass.core.decision import Manifest
from windlass.core.observed import Job
from windlass.core.render.objects import canonical, digest, wrap
from windlass.core.settings import RenderSettings


def run_config(job: Job, spec: TrainingJobSpec, *, attempt: int, settings: RenderSettings) -> RunConfig:
    """All that the agents of one attempt need to know."""
    report = None
    if settings.report_url is not None:
        report = ReportTarget(
            url=settings.report_url,
            server_name=settings.report_server_name,
            interval_seconds=settings.report_interval_seconds,
        )
    return RunConfig(
        run=RunIdentity(kind=job.kind, namespace=job.namespace, name=job.name, uid=job.uid),
        attempt=attempt,
        # Suspending comes by orders; keeping it out leaves the hash alone when it is switched.
        spec=spec.model_copy(update={"suspend": False}),
        leader_host=names.leader_host(job.name, job.namespace),
        store_path=names.store_path(spec, namespace=job.namespace, name=job.name, uid=job.uid),
        report=report,
    )


def run_config_map(job: Job, config: RunConfig) -> Manifest:
    """The immutable ConfigMap of one attempt."""
    body = {"immutable": True, "data": {meta.RUN_CONFIG_FILE: canonical(config.to_wire())}}
    return wrap(job, api_version="v1", kind="ConfigMap", name=run_config_name(job, config), body=body)


def run_config_name(job: Job, config: RunConfig) -> str:
    """The name that status keeps."""
    return names.config_name(job.name, digest(config.to_wire()))


def ca_config_map(job: Job, settings: RenderSettings) -> Manifest:
    """The ConfigMap with the CA that agents check the operator's certificate against."""
    body = {"data": {meta.CA_FILE: settings.ca_pem}}
    return wrap(job, api_version="v1", kind="ConfigMap", name=names.ca_name(job.name), body=body)
