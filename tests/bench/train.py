"""`make bench-train`: tokens per second of our loop beside a plain PyTorch loop and TRL's SFTTrainer.

Same model (SmolLM2-135M-Instruct, LoRA r 16), samples, order, ranks, threads and fp32. Ours runs with meters and
asynchronous saves on; the peers do neither. Runs are interleaved and the median of their ratios counts, since the
machine is shared. A token is one that is not padding; the first two steps of each run are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "operator"), str(ROOT / "workloads")]

from bench import peers  # noqa: E402
from bench.record import spread, write  # noqa: E402
from windlass_workloads.data.arrays import open_split  # noqa: E402
from windlass_workloads.data.order import Order  # noqa: E402
from workloads.train.support import SPEC, ForkServer, Job, free_port, merge  # noqa: E402

WARM_STEPS = 2
EXAMPLE = ROOT / "examples" / "01-finetune"


def volumes(root: Path) -> Path:
    """Claims of models and data, as pods would see them."""
    model = subprocess.run(
        [sys.executable, str(EXAMPLE / "fetch_model.py")], capture_output=True, text=True, check=True
    ).stdout.strip()
    (root / "models").mkdir(parents=True)
    (root / "models" / "smol").mkdir()
    for path in Path(model).iterdir():
        os.link(path, root / "models" / "smol" / path.name) if same_disk(path, root) else copy(path, root)
    subprocess.run(
        [sys.executable, str(EXAMPLE / "make_tickets.py"), str(root / "data"), "--train", "200"], check=True
    )
    return root


def same_disk(path: Path, root: Path) -> bool:
    """Whether a hard link is possible."""
    return path.stat().st_dev == root.stat().st_dev


def copy(path: Path, root: Path) -> None:
    """Copies one file of the model."""
    (root / "models" / "smol" / path.name).write_bytes(path.read_bytes())


def make_job(server: ForkServer, where: Path, root: Path, options: argparse.Namespace) -> Job:
    """The same job for every run of ours, each in a store of its own."""
    spec = merge(
        SPEC,
        {
            "model": {"uri": "pvc://models/smol"},
            "data": {"sources": [{"uri": "pvc://data/train.jsonl", "format": "Chat"}], "sequenceLength": 256},
            "adapter": {"type": "LoRA", "rank": 16, "alpha": 32, "targetModules": ["all-linear"]},
            "training": {
                "globalBatchSize": options.batch,
                "microBatchSize": options.micro,
                "maxSteps": options.steps,
                "learningRate": "1e-3",
                "scheduler": {"type": "Constant"},
            },
            "checkpoint": {"everySteps": 3, "async": True},
        },
    )
    return Job(server, where, root, spec)


def samples_of(job: Job, options: argparse.Namespace) -> list[dict[str, list[int]]]:
    """The samples in the order in which our loop takes them."""
    split = open_split(job.store / "prepared" / str(job.prepared) / "train")
    order = Order(job.config().spec.training.seed, len(split))
    rows = []
    for step in range(options.steps):
        for unit in order.batch(step + 1, options.batch):
            ((tokens, learned),) = split.samples_of(unit)
            ids = [int(token) for token in tokens]
            labels = [token if use else -100 for token, use in zip(ids, learned, strict=True)]
            rows.append({"ids": ids, "labels": labels})
    return rows


def rate(seconds: list[float], tokens: list[int]) -> float:
    """Tokens per second after the first steps."""
    return sum(tokens[WARM_STEPS:]) / sum(seconds[WARM_STEPS:])


def run_ours(job: Job, tokens: list[int]) -> float:
    """One run of ours on two ranks; the time of a step is the distance of its end from the one before."""
    outcome = job.start(world=2, limit=1200).ok()
    ends = [event.at for event in outcome.of("Step")]
    seconds = [0.0] + [after - before for before, after in pairwise(ends)]
    assert outcome.saved, "a run without a save measures something else"
    return rate(seconds, tokens)


def run_peer(name: str, work: Path) -> float:
    """One run of a peer on two ranks."""
    figures = peers.run(name, work, port=free_port())
    return rate(figures["seconds"], figures["tokens"])


def measure(options: argparse.Namespace, root: Path) -> dict[str, Any]:
    """All runs, interleaved."""
    where = volumes(root / "volumes")
    server = ForkServer()
    rates: dict[str, list[float]] = {"windlass": [], "raw": [], "trl": []}
    try:
        first = make_job(server, where, root / "prepare", options)
        first.root.mkdir()
        first.prepare()
        samples = samples_of(first, options)
        size = options.batch
        tokens = [
            sum(len(row["ids"]) for row in samples[step * size : (step + 1) * size])
            for step in range(options.steps)
        ]
        work = root / "work.json"
        shape = {"threads": 1, "seed": 17, "rank": 16, "learningRate": 1e-3, "pad": 2, "steps": options.steps}
        batch = {"globalBatchSize": size, "microBatchSize": options.micro}
        model = {"model": str(where / "models" / "smol"), "samples": samples}
        work.write_text(json.dumps({**shape, **batch, **model}))
        for run in range(options.runs):
            job = make_job(server, where, root / f"run-{run}", options)
            job.root.mkdir()
            job.prepare()
            rates["windlass"].append(run_ours(job, tokens))
            rates["raw"].append(run_peer("raw", work))
            rates["trl"].append(run_peer("reference", work))
            print({name: round(values[-1], 1) for name, values in rates.items()}, flush=True)
    finally:
        server.close()
    return {
        "tokensPerSecond": {name: spread(values) for name, values in rates.items()},
        "ratioToRaw": statistics.median(a / b for a, b in zip(rates["windlass"], rates["raw"], strict=True)),
        "ratioToTrl": statistics.median(a / b for a, b in zip(rates["windlass"], rates["trl"], strict=True)),
        "goals": {"ratioToRaw": 0.95, "ratioToTrl": 1.0},
        "setting": {
            "model": "SmolLM2-135M-Instruct",
            "adapter": "LoRA r 16 all-linear",
            "precision": "FP32",
            "ranks": 2,
            "threadsPerRank": 1,
            "globalBatchSize": options.batch,
            "microBatchSize": options.micro,
            "steps": options.steps,
            "stepsLeftOut": WARM_STEPS,
            "saves": "every 3 steps, asynchronous (ours only)",
        },
    }


def main() -> None:
    """Entry of `make bench-train`."""
    parser = argparse.ArgumentParser(prog="bench-train", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="interleaved runs of each system")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--micro", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="windlass-bench-") as scratch:
        figures = measure(options, Path(scratch))
    write("train", figures, packages=("torch", "transformers", "peft", "trl"))


if __name__ == "__main__":
    main()
