"""The shipped example of a script of one's own: its job is valid, and its script goes on from where it was killed."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from windlass.api.finetune import FineTuneJobSpec
from windlass.api.validation import validate
from workloads.agent.support import MakeRun, wait_for
from workloads.custom.conftest import PATIENCE

pytestmark = [pytest.mark.workloads, pytest.mark.timeout(3600)]

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "02-custom"
JOB: dict[str, Any] = yaml.safe_load((EXAMPLE / "finetunejob.yaml").read_text())
STEP = re.compile(r"^\[rank 0\] (step \d+ loss \S+)$", re.MULTILINE)


def command(steps: int) -> list[str]:
    """The example's own command, with the script where it is here."""
    program, script, flag, _ = JOB["spec"]["custom"]["command"]
    return [program, script.replace("/scripts", str(EXAMPLE)), flag, str(steps)]


def test_its_job_is_valid_and_mounts_what_its_page_makes() -> None:
    assert validate(JOB) == []
    spec = FineTuneJobSpec.model_validate(JOB["spec"])
    assert spec.custom is not None
    (volume,) = spec.pod.volumes
    assert spec.custom.command[1] == f"{volume.mount_path}/train.py" and (EXAMPLE / "train.py").exists()
    page = (EXAMPLE / "README.md").read_text()
    assert f"kubectl create configmap {volume.config_map} --from-file=train.py" in page


def test_the_script_stays_as_short_as_it_is_meant_to_be() -> None:
    lines = (EXAMPLE / "train.py").read_text().splitlines()
    assert len(lines) <= 70
    ours = [line for line in lines if "run." in line or "windlass" in line.split('"')[0]]
    assert len(ours) <= 10, ours


def test_it_survives_a_killed_rank_with_the_same_losses(make_run: MakeRun) -> None:
    steps = 400
    run = make_run(custom=command(steps), every=20, in_background=True)
    agent = run.start()
    wait_for("a checkpoint", lambda: [step for step in run.verified() if step >= 20], PATIENCE)
    os.kill(sorted(agent.ranks())[-1], signal.SIGKILL)
    assert agent.wait(PATIENCE) == 0, agent.log
    assert (agent.verdict.result, agent.verdict.step, agent.verdict.incarnation) == ("Succeeded", steps, 2)
    (row,) = run.recoveries()
    assert row["rung"] == "InPlace" and row["resumedStep"] >= 20
    told = STEP.findall(agent.log)
    # Steps that were done twice have said the same loss twice.
    assert len(set(told)) == steps // 10 <= len(told)
