"""What the plan says of DeepSpeed's memory rests on settings that no spec reaches: they are as the plan has them.

Read from the installed library's text: importing it takes longer than all else here.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from unit.core.builders import SPEC
from windlass.api.finetune import FineTuneJobSpec
from windlass.core.planning.memory import BUCKET, LIVE
from windlass_workloads.train.strategies.deepspeed import settings_of


def config_text() -> str:
    found = importlib.util.find_spec("deepspeed")
    assert found is not None and found.origin is not None
    return (Path(found.origin).parent / "runtime" / "zero" / "config.py").read_text()


@pytest.mark.parametrize(
    ("name", "elements"),
    [("reduce_bucket_size", BUCKET), ("max_live_parameters", LIVE), ("max_reuse_distance", LIVE)],
)
def test_deepspeeds_own_limits_are_those_of_the_plan(name: str, elements: int) -> None:
    found = re.search(rf"^    {name}: int = Field\(pp_int\(([0-9e]+)\)", config_text(), re.MULTILINE)
    assert found is not None, f"{name}: look for its default in deepspeed/runtime/zero/config.py"
    assert int(float(found[1])) == elements


@pytest.mark.parametrize("name", ["contiguous_gradients", "reduce_scatter"])
def test_gradients_go_through_the_bucket_and_are_scattered(name: str) -> None:
    assert re.search(rf"^    {name}: bool = True$", config_text(), re.MULTILINE)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_spec_sets_the_stage_and_no_limit(stage: int) -> None:
    parallelism = {"strategy": "DeepSpeed", "zeroStage": stage}
    spec = FineTuneJobSpec.model_validate(SPEC | {"parallelism": parallelism})
    setting = SimpleNamespace(spec=spec, accumulation=1, precision="FP32")
    assert settings_of(setting)["zero_optimization"] == {"stage": stage}  # type: ignore[arg-type]
