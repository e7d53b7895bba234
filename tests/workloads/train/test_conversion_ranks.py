"""Real ranks of DeepSpeed whose checkpoint is damaged, or whose conversion is killed in the middle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.workloads.train.support import Job, Outcome, merge
from windlass.api.meta import ExitCode, FailureClass, Reason
from windlass_workloads.checkpoint.store import RunStore
from windlass_workloads.checkpoint.universal import copy_of
from workloads.agent.support import wait_for

pytestmark = pytest.mark.workloads

PATIENT = {"limit": 600}
CHANGES: dict[str, Any] = {
    "training": {"globalBatchSize": 2, "maxSteps": 4},
    "checkpoint": {"everySteps": 1},
    "parallelism": {"strategy": "DeepSpeed", "zeroStage": 2},
}


@pytest.fixture(scope="module")
def saved(fork_server, volumes, tmp_path_factory) -> tuple[Job, dict[int, float], list[str]]:
    """A run of two ranks that ended after four steps, with a checkpoint of each; losses by step."""
    from tests.workloads.train.support import SPEC

    job = Job(fork_server, volumes, tmp_path_factory.mktemp("two"), merge(SPEC, CHANGES))
    outcome = job.train(world=2, **PATIENT).ok()
    return job, outcome.losses(), outcome.saved


def failure(outcome: Outcome) -> Any:
    (event,) = outcome.of("Failure")
    return event.failure


def remains(job: Job, name: str) -> list[str]:
    return sorted(each.name for each in (job.store / name).iterdir() if "universal" in each.name)


@pytest.mark.fault("F60")
@pytest.mark.parametrize("how", ["killed", "orphaned"])
def test_a_conversion_killed_in_the_middle_is_made_anew(saved, how: str) -> None:
    job, losses, names = saved
    name = names[1 if how == "killed" else 2]
    step = int(name.split("-")[1].split(".")[0])
    environment = {"FAULT": how, "VOLUMES": str(job.volumes)}
    dead = job.start(
        world=1,
        resume=name,
        function="tests.workloads.train.converting.train",
        environment=environment,
        **PATIENT,
    )
    assert dead.codes == [ExitCode.OUT_OF_MEMORY if how == "killed" else -9]
    assert not RunStore(job.store).exists(copy_of(name))
    (left,) = remains(job, name)
    assert left.startswith(".tmp-universal.i")
    converter = int((job.store / name / "converter.pid").read_text())
    wait_for("it to end with its rank", lambda: not Path(f"/proc/{converter}/exe").exists())
    if how == "killed":
        told = failure(dead)
        assert (told.reason, told.failure_class) == (Reason.OUT_OF_MEMORY, FailureClass.OUT_OF_MEMORY)
        assert f"converting {name}" in told.message
    again = job.start(world=1, resume=name, **PATIENT).ok()
    assert remains(job, name) == ["universal"]
    for each, loss in again.losses().items():
        assert loss == pytest.approx(losses[each], rel=1e-5)
    assert min(again.losses()) == step + 1


@pytest.mark.fault("F55")
def test_a_damaged_piece_is_refused_by_its_digest_and_the_one_before_is_converted(saved) -> None:
    job, losses, names = saved
    newest, before = names[3], names[0]
    (piece, *_) = sorted((job.store / newest / "deepspeed").glob("*optim_states.pt"))
    data = bytearray(piece.read_bytes())
    data[len(data) // 2] ^= 1
    piece.write_bytes(data)
    refused = job.start(world=1, resume=newest, **PATIENT)
    assert refused.codes == [ExitCode.STORAGE]
    told = failure(refused)
    assert (told.reason, told.failure_class) == (Reason.CHECKPOINT_UNUSABLE, FailureClass.STORAGE)
    assert f"deepspeed/{piece.name}: has digest" in "\n".join([told.message, *told.evidence])
    assert remains(job, newest) == []
    went_on = job.start(world=1, resume=before, **PATIENT).ok()
    assert sorted(went_on.losses()) == [2, 3, 4]
    for step, loss in went_on.losses().items():
        assert loss == pytest.approx(losses[step], rel=1e-5)
