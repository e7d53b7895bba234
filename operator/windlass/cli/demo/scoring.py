"""Scores of a model on the held-out rows, kept by digest so that equal inputs are never scored twice.

Called by the demo's command. It runs the example's own score.py, which a reader can run as well.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from windlass.cli.demo.samples import Samples
from windlass.cli.errors import CliError

Score = dict[str, Any]
MODEL_FILES = ("*.safetensors", "*.json", "*.jinja")


def score(script: Path, model: Path, samples: Samples, *, keep: Path, shots: bool, limit: int) -> Score:
    """The score, from `keep` when the same was scored before. Raises CliError."""
    inputs = [script, *model_files(model), samples.held_out, *([samples.train] if shots else [])]
    kept = keep / f"{digest(inputs, extra=f'{shots}/{limit}')[:24]}.json"
    if not kept.exists():
        keep.mkdir(parents=True, exist_ok=True)
        temporary = kept.with_suffix(".new")
        run(script, model, samples, out=temporary, shots=shots, limit=limit)
        os.replace(temporary, kept)
    found: Score = json.loads(kept.read_text())
    return found


def model_files(model: Path) -> list[Path]:
    """The files that decide what a model says."""
    return sorted(path for pattern in MODEL_FILES for path in model.glob(pattern))


def digest(paths: Iterable[Path], *, extra: str) -> str:
    """sha256 over the contents, in order."""
    total = hashlib.sha256(extra.encode())
    for path in paths:
        with path.open("rb") as handle:
            total.update(path.name.encode() + hashlib.file_digest(handle, "sha256").digest())
    return total.hexdigest()


def run(script: Path, model: Path, samples: Samples, *, out: Path, shots: bool, limit: int) -> None:
    """Run the script in a process of its own, its progress in view. Raises CliError."""
    threads = len(os.sched_getaffinity(0))
    command = [sys.executable, str(script), str(model), str(samples.held_out), "--out", str(out)]
    command += ["--limit", str(limit), "--threads", str(threads)]
    command += ["--shots", str(samples.train)] if shots else []
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(threads),
        # Spinning threads would fight with the cluster for the same cores.
        "OMP_WAIT_POLICY": "PASSIVE",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        raise CliError(
            f"score.py: failed with status {done.returncode}. hint: run it yourself: {' '.join(command)}"
        )
