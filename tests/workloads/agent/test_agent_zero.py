"""Real agents and real ranks of DeepSpeed that go on as one and are two again, each time by a conversion."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.tiny import write_data, write_model
from windlass.api.finetune import FineTuneJobSpec
from windlass_workloads.checkpoint.universal import copy_of
from workloads.agent import zero_tasks
from workloads.agent.support import MakeRun, Run, wait_for
from workloads.agent.test_agent_elastic import worlds

pytestmark = pytest.mark.workloads

IMPORTS = 600.0
"""Seconds for torch and deepspeed to come in, also on a machine that has other things to do."""


def resumed_by_copy(run: Run) -> bool:
    """Whether what the newest incarnation goes on from has been converted; retention keeps that one."""
    newest = run.newest()
    return newest is not None and newest.resume is not None and run.store.exists(copy_of(newest.resume))


@pytest.mark.fault("F23")
@pytest.mark.timeout(2400)
def test_two_ranks_of_deepspeed_go_on_as_one_and_are_two_again(make_run: MakeRun, tmp_path: Path) -> None:
    write_model(tmp_path / "volumes" / "models" / "tiny")
    write_data(tmp_path / "volumes" / "data" / "train.jsonl", count=40)
    run = make_run(
        nodes=2,
        ranks=1,
        every=5,
        grace=60,
        elastic={"minNodes": 1, "waitSeconds": 0},
        environment={
            "VOLUMES": str(tmp_path / "volumes"),
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        },
    )
    wire = zero_tasks.parallelism(run.config.spec.to_wire(), stage=2)
    spec = FineTuneJobSpec.model_validate(wire)
    run.config = run.config.model_copy(update={"tasks": "zero_tasks", "spec": spec})
    leader, second = run.start_all()
    wait_for("both to train", lambda: worlds(run)[-1:] == [2], IMPORTS)
    wait_for("a checkpoint of both", lambda: run.verified(), IMPORTS)
    second.send(signal.SIGKILL)
    wait_for("one of them to train", lambda: worlds(run)[-1:] == [1] and run.incarnation() == 2, IMPORTS)
    assert resumed_by_copy(run)
    run.start(1)
    wait_for("both to train again", lambda: worlds(run)[-1:] == [2] and run.incarnation() == 3, IMPORTS)
    assert resumed_by_copy(run)
    wait_for("the row of that", lambda: len(run.recoveries()) == 2, IMPORTS)
    leader.send(signal.SIGTERM)
    leader.wait(120)
    assert leader.verdict.result == "Preempted", leader.log
    shrunk, whole = run.recoveries()
    assert (shrunk["rung"], shrunk["class"]) == ("Shrink", "Infrastructure")
    assert (whole["rung"], whole["class"], whole["lostSteps"]) == ("RecreatePod", "Preempted", 0)
    assert shrunk["seconds"]["load"] > 0 and whole["seconds"]["load"] > 0
