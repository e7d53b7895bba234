"""What the operator makes of a job with a command of its own."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from unit.core.builders import SETTINGS, JobBuilder, a_job
from unit.core.pod_security import violations
from windlass.api.contract import RunConfig
from windlass.api.meta import FailureClass, Reason
from windlass.api.status import Failure
from windlass.core import names
from windlass.core.failure.classify import classify
from windlass.core.failure.evidence import End
from windlass.core.judges.lifecycle import default_output
from windlass.core.plan import arithmetic_plan
from windlass.core.render.gang import whole_gang
from windlass.core.status import messages

SHELL_WORDS = ["python", "/scripts/train.py", "; rm -rf $HOME", "`id`", "$(id)"]


def scripted(**custom: Any) -> JobBuilder:
    job = a_job()
    for name in ("model", "data", "training"):
        del job.body["spec"][name]
    return job.with_spec("custom", {"command": SHELL_WORDS, **custom})


def pods_of(job: JobBuilder) -> list[dict[str, Any]]:
    built = job.build()
    assert built.spec is not None, built.spec_error
    made = whole_gang(built, built.spec, settings=SETTINGS)
    return [dict(each) for each in made if each["kind"] == "Pod"]


def test_the_container_runs_the_agent_and_no_shell() -> None:
    (pod,) = pods_of(scripted())
    (container,) = pod["spec"]["containers"]
    assert container["command"] == ["/opt/venv/bin/python", "-m", "windlass_workloads.agent"]
    assert "args" not in container
    text = json.dumps(pod)
    assert not any(word in text for word in SHELL_WORDS[1:])


@pytest.mark.parametrize("image", [None, "registry.example/mine@sha256:1"])
def test_pods_stay_within_pod_security_restricted(image: str | None) -> None:
    custom = {"image": image} if image is not None else {}
    for pod in pods_of(scripted(**custom).with_nodes(2)):
        assert violations(pod) == []
        assert pod["spec"]["containers"][0]["image"] == image or SETTINGS.workload_image


def test_the_image_of_the_command_replaces_the_workload_image() -> None:
    (pod,) = pods_of(scripted(image="registry.example/mine:1"))
    assert pod["spec"]["containers"][0]["image"] == "registry.example/mine:1"
    (plain,) = pods_of(scripted())
    assert plain["spec"]["containers"][0]["image"] == SETTINGS.workload_image


def test_only_the_store_and_named_volumes_are_mounted() -> None:
    job = scripted().with_spec(
        "pod.volumes", [{"name": "scripts", "configMap": "own-script", "mountPath": "/scripts"}]
    )
    (pod,) = pods_of(job)
    sources = [each.get("persistentVolumeClaim", {}) for each in pod["spec"]["volumes"]]
    assert [each["claimName"] for each in sources if each] == ["checkpoints"]
    assert "/scripts" in [each["mountPath"] for each in pod["spec"]["containers"][0]["volumeMounts"]]
    spec = job.build().spec
    assert spec is not None
    assert names.read_claims(spec) == () and names.secret_keys(spec) == {}
    assert names.all_claims(spec) == ("checkpoints",)


def test_agents_get_the_command_word_for_word() -> None:
    built = scripted().build()
    assert built.spec is not None
    made = whole_gang(built, built.spec, settings=SETTINGS)
    (config,) = [each for each in made if each["kind"] == "ConfigMap" and "run.json" in each["data"]]
    read = RunConfig.model_validate_json(config["data"]["run.json"])
    assert read.spec.custom is not None and read.spec.custom.command == SHELL_WORDS


def test_the_plan_knows_ranks_and_no_steps() -> None:
    spec = scripted().with_nodes(2).with_spec("resources.accelerator", {"count": 2}).build().spec
    assert spec is not None
    plan = arithmetic_plan(spec)
    assert (plan.world_size, plan.total_steps, plan.accumulation) == (2, None, None)
    assert plan.warnings == ["resources.accelerator.count: not one per rank (got 2 for 1 ranks)"]


@pytest.mark.parametrize("scripts", [True, False])
def test_only_a_job_without_a_command_has_an_output_of_ours(scripts: bool) -> None:
    from windlass.core.facts import gather
    from windlass.core.observed import Observed

    job = (scripted() if scripts else a_job()).build()
    facts = gather(job, Observed(), job.created_at, SETTINGS)
    assert (default_output(facts) is None) == scripts


def end(**fields: Any) -> End:
    return replace(End(at=1.0, rank=0, pod="triage-0-1", exit_code=1), **fields)


CASES: list[tuple[End, FailureClass, str]] = [
    (end(exit_code=127), FailureClass.CONFIGURATION, "check custom.command"),
    (end(exit_code=126), FailureClass.CONFIGURATION, "check custom.command"),
    (end(rank=None, exit_code=127), FailureClass.CONFIGURATION, "check pod.image"),
    # Free of charge, this would go on for ever.
    (end(exit_code=14), FailureClass.CRASH, "whole log"),
    (end(exit_code=11), FailureClass.CONFIGURATION, "whole log"),
    (
        end(log_tail=("ModuleNotFoundError: No module named 'mine'",), before_first_step=True),
        FailureClass.CONFIGURATION,
        "whole log",
    ),
    (end(log_tail=("ModuleNotFoundError: No module named 'mine'",)), FailureClass.CRASH, "whole log"),
    (end(exit_code=None, signal=15), FailureClass.CRASH, "whole log"),
]


@pytest.mark.parametrize(("ended", "expected", "hint"), CASES, ids=[str(n) for n in range(len(CASES))])
def test_ends_of_a_script_are_judged_by_the_table(ended: End, expected: FailureClass, hint: str) -> None:
    judged = classify([ended])
    assert judged.failure_class is expected and hint in judged.hint


def test_what_the_starter_says_of_a_program_stands() -> None:
    told = Failure(
        reason=str(Reason.CONFIGURATION),
        failure_class=FailureClass.CONFIGURATION,
        message="spec.custom.command[0]: the program is not there (got 'trian')",
        hint="name a program of the image",
    )
    judged = classify([end(exit_code=127, failure=told)])
    assert (judged.message, judged.hint) == (told.message, told.hint)


def test_a_run_without_checkpoints_is_told_the_way_out() -> None:
    text = messages.degraded(Reason.NO_CHECKPOINTS, "the command tells of no checkpoint.")
    assert text.startswith("the command tells of no checkpoint. hint: open windlass_workloads.custom")
