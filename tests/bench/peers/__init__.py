"""Plain training loops that ours are measured beside, each a program of its own, and how they are run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]


def run(name: str, work: Path, *, port: int) -> dict[str, Any]:
    """What a peer says after its run on two ranks of one thread each: seconds and tokens of each step."""
    shared = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", f"tests.bench.peers.{name}", str(work)],
            cwd=ROOT,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    answers = [process.communicate() for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit(f"the peer {name} failed:\n{answers[0][1][-2000:]}")
    figures: dict[str, Any] = json.loads(answers[0][0].strip().splitlines()[-1])
    return figures
