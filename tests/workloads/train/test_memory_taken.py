"""What ranks really take, beside the plan: the benchmark with a model of four million parameters.

So small a model's peak has parts that no plan knows (buffers of gloo, pages of libraries used for the first time),
hence the wide tolerance; `make bench-plan` has the narrow one, with a larger model.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
TOLERANCE = "0.35"
CASES = ("DDP full", "DDP LoRA", "FSDP full", "DDP full, activation checkpointing")


def test_predicted_memory_is_near_what_ranks_took() -> None:
    run = subprocess.run(
        [
            *(sys.executable, "-m", "tests.bench.plan", "--sizes", "tiny", "--tokens", "512"),
            *("--goal", TOLERANCE, "--only", *CASES),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=800,
        env={**os.environ, "PYTHONPATH": "operator:workloads:tests"},
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    result = json.loads((ROOT / "build" / "bench" / "plan-tiny.json").read_text())
    assert (result["within"], result["of"]) == (len(CASES), len(CASES))
    rows = {row["name"]: row for row in result["cases"]}
    less = rows["DDP full, activation checkpointing"]
    assert less["measured"] < rows["DDP full"]["measured"]
    assert rows["FSDP full"]["copyPredicted"] < rows["DDP full"]["copyPredicted"]
    assert all(row["rank"]["parameters"] <= 5_000_000 for row in rows.values())
