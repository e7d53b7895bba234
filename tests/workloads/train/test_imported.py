"""What a restart does not pay for: the warm parent has imported what ranks need, and nobody imports a compiler."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.workloads.train.support import REPOSITORY

pytestmark = pytest.mark.workloads
COMPILER = "torch._inductor.compile_fx"
MOST = 150
"""Modules that a rank may import by itself: those of few lines, that hang on what the job asks for."""


@pytest.mark.parametrize(
    "zero", [None, 1, 2, 3], ids=lambda stage: "FSDP" if stage is None else f"ZeRO-{stage}"
)
def test_a_rank_imports_next_to_nothing_and_never_a_compiler(make_job, volumes, zero) -> None:
    parallelism = {"strategy": "FSDP"} if zero is None else {"strategy": "DeepSpeed", "zeroStage": zero}
    job = make_job(parallelism=parallelism)
    job.prepare()
    run = job.start(
        world=2,
        function="tests.workloads.train.imported.train",
        environment={"VOLUMES": str(volumes)},
    ).ok()
    assert max(run.losses()) == 6
    for rank in (0, 1):
        found = json.loads((job.root / f"start-{job.starts}" / f"imported-{rank}.json").read_text())
        assert COMPILER not in found["modules"]
        assert len(found["modules"]) <= MOST, found["modules"]
        assert found["names"], "patterns for weights' names are compiled before the fork"


def test_deepspeed_is_loaded_without_a_compiler_and_torch_keeps_its_own() -> None:
    code = (
        "import sys, torch; real = torch.compile\n"
        "from windlass_workloads.train.strategies.deepspeed import load_library\n"
        "load_library(); import os\n"
        f"print({COMPILER!r} in sys.modules, torch.compile is real, len(os.listdir('/proc/self/task')))\n"
        "from deepspeed.runtime.zero.muon import original_muon as muon\n"
        "update = torch.eye(4); print(muon.zeropower_via_newtonschulz5(update, steps=1).shape == (4, 4))\n"
    )
    paths = ":".join(str(REPOSITORY / name) for name in ("operator", "workloads"))
    environment = {
        "PYTHONPATH": paths,
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PATH": "/usr/bin:/bin",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.stdout.splitlines()[-2:] == ["False True 1", "True"], done.stdout + done.stderr
