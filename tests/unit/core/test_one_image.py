"""Pods of one gang cannot run different versions: one image and one configuration, also for late replacements."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings

from unit.core.builders import SETTINGS, JobBuilder, a_job, a_pod, an_ended_pod, judge
from unit.core.test_render_any import INSTALLATIONS, jobs, pods_in, rendered
from windlass.core.observed import PodView
from windlass.core.settings import RenderSettings


def images_of(pods: list[dict[str, Any]]) -> set[str]:
    """All images of all containers."""
    kinds = ("containers", "initContainers", "ephemeralContainers")
    return {container["image"] for pod in pods for kind in kinds for container in pod["spec"].get(kind, ())}


def configurations_of(pods: list[dict[str, Any]]) -> set[str]:
    """Names of the run configurations that pods mount."""
    volumes = [volume for pod in pods for volume in pod["spec"]["volumes"]]
    return {
        each["configMap"]["name"]
        for each in volumes
        if "-config-" in each.get("configMap", {}).get("name", "")
    }


@pytest.mark.fault("F47")
@settings(max_examples=80, deadline=None)
@given(jobs(), INSTALLATIONS)
def test_all_pods_of_a_gang_have_one_image_and_one_configuration(
    job: JobBuilder, installation: RenderSettings
) -> None:
    pods = pods_in(rendered(job, installation))
    assert len(pods) == job.body["spec"]["resources"]["nodes"]
    assert len(images_of(pods)) == 1
    assert images_of(pods) == {job.body["spec"]["pod"].get("image") or installation.workload_image}
    assert len(configurations_of(pods)) == 1


@pytest.mark.fault("F47")
def test_a_replacement_mounts_the_configuration_of_the_pods_that_live() -> None:
    job = a_job().on_attempt(1, 1, 2)
    lost = an_ended_pod(1, 2, exit_code=137, signal=9)
    job = job.after(judge(job, pods=(a_pod(0, 1), lost)))
    made = [dict(item) for item in judge(job, pods=(a_pod(0, 1),)).creates]
    assert [pod["metadata"]["name"] for pod in made] == ["triage-1-3"]
    assert configurations_of(made) == {"triage-config-00000000"}
    assert images_of(made) == {SETTINGS.workload_image}


OLD, NEW = "registry.example/workloads@sha256:0", "registry.example/workloads@sha256:1"
UPGRADED = replace(SETTINGS, workload_image=NEW)


def image_of_replacement(job: JobBuilder, *living: PodView) -> str:
    """What a newer operator gives the pod that takes the place of the second one."""
    lost = an_ended_pod(1, 2, exit_code=137, signal=9)
    job = job.after(judge(job, settings=UPGRADED, pods=(*living, lost)))
    (made,) = judge(job, settings=UPGRADED, pods=living).creates
    (image,) = images_of([dict(made)])
    return image


@pytest.mark.fault("F10")
@pytest.mark.fault("F47")
def test_a_newer_operator_gives_a_live_gang_no_pod_of_another_version() -> None:
    job = a_job().on_attempt(1, 1, 2)
    assert image_of_replacement(job, a_pod(0, 1, image=OLD)) == OLD


@pytest.mark.parametrize(
    "living",
    [
        a_pod(0, 1, image=None),
        a_pod(0, 1, image=OLD, phase="Pending", started_at=None),
    ],
    ids=["unknown", "never started"],
)
def test_only_a_pod_that_runs_says_which_version_its_gang_is(living: PodView) -> None:
    assert image_of_replacement(a_job().on_attempt(1, 1, 2), living) == NEW


def test_a_gang_without_a_living_pod_and_a_new_attempt_get_the_new_version() -> None:
    job = a_job().on_attempt(1, 1, 2).with_unmade_pods()
    made = [dict(item) for item in judge(job, settings=UPGRADED).creates]
    assert images_of(made) == {NEW}
    old = a_pod(0, 1, image=OLD)
    job = a_job().on_attempt(2, 3, 4).with_unmade_pods()
    made = [dict(item) for item in judge(job, settings=UPGRADED, pods=(replace(old, attempt=1),)).creates]
    assert images_of(made) <= {NEW}


def test_an_image_of_the_job_itself_is_never_replaced_by_what_runs() -> None:
    own = "registry.example/own@sha256:1"
    job = a_job().with_spec("pod", {"image": own}).on_attempt(1, 1, 2)
    assert image_of_replacement(job, a_pod(0, 1, image=OLD)) == own
