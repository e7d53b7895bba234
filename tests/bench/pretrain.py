"""`make bench-pretrain`: tokens per second of our pre-training beside a plain FSDP2 loop, data wait, and order.

Same new model, rows, order, ranks, threads and fp32, both by FSDP2. Ours runs with meters, guards and asynchronous
saves on; the peer does none of it. Runs are interleaved and the median of their ratios counts, since the machine is
shared; the first two steps of each run are left out. Order: the rows of a mix that 1, 2, 4 and 8 ranks are dealt are
compared for many steps, and the losses of real runs on so many ranks for a few.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
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
from windlass_workloads.data.arrays import Index, open_split, read_index  # noqa: E402
from windlass_workloads.data.order import Order, Part, deal, shares  # noqa: E402
from windlass_workloads.train.assembly import order_of  # noqa: E402
from workloads.train.support import NEW_LLAMA, PRETRAINING, ForkServer, Job, free_port, merge  # noqa: E402

WARM_STEPS = 2
LENGTH = 256
SIZES = {"hiddenSize": 384, "layers": 8, "heads": 6, "keyValueHeads": 3}
ORDERED_STEPS = 20_000
WORLDS = (1, 2, 4, 8)
EXAMPLE = ROOT / "examples" / "03-pretrain"


def volumes(root: Path) -> Path:
    """The example's texts, as pods would see them."""
    subprocess.run([sys.executable, str(EXAMPLE / "make_texts.py"), str(root / "data")], check=True)
    return root


def make_job(server: ForkServer, where: Path, root: Path, options: argparse.Namespace, **changes: Any) -> Job:
    """The same job for every run of ours, each in a store of its own."""
    spec = merge(
        merge(PRETRAINING, NEW_LLAMA),
        {
            "architecture": SIZES,
            "tokenizer": {"train": {"vocabularySize": 8192}},
            "corpus": {"sources": [{"uri": "pvc://data/docstrings"}], "sequenceLength": LENGTH},
            "training": {
                "globalBatchSize": options.batch,
                "microBatchSize": options.micro,
                "maxSteps": options.steps,
                "learningRate": "1e-3",
                "scheduler": {"type": "Constant"},
            },
            "parallelism": {"strategy": "FSDP"},
            "checkpoint": {"everySteps": options.steps // 2, "async": True, "export": "None"},
        },
    )
    return Job(server, where, root, merge(spec, changes), kind="PretrainJob")


def rate(seconds: list[float], tokens: int) -> float:
    """Tokens per second after the first steps, all of so many tokens."""
    return tokens * len(seconds[WARM_STEPS:]) / sum(seconds[WARM_STEPS:])


def run_ours(job: Job, tokens: int) -> tuple[float, float]:
    """One run of ours on two ranks: its rate, and the share of its time that it waited for data.

    The time of a step is the distance of its end from the one before: whatever stands between steps counts.
    """
    outcome = job.start(world=2, limit=1200).ok()
    events = outcome.of("Step")
    seconds = [0.0] + [after.at - before.at for before, after in pairwise(events)]
    assert outcome.saved, "a run without a save measures something else"
    waited = sum(event.data_wait_seconds for event in events[WARM_STEPS:])
    return rate(seconds, tokens), waited / sum(seconds[WARM_STEPS:])


def run_peer(work: Path, tokens: int) -> float:
    """One run of the peer on two ranks."""
    return rate(peers.run("fsdp", work, port=free_port())["seconds"], tokens)


def index_of(job: Job) -> Index:
    """What was prepared."""
    found = read_index(job.store / "prepared" / str(job.prepared))
    assert found is not None
    return found


def peer_work(job: Job, options: argparse.Namespace, path: Path) -> None:
    """The same first weights and the same rows in the same order, for the peer."""
    directory = job.store / "prepared" / str(job.prepared) / "train"
    order = order_of(job.config().spec, index_of(job), ())
    split = open_split(directory)
    assert len(split) * LENGTH == len(split.tokens)
    shape = {"threads": 1, "learningRate": 1e-3, "length": LENGTH, "tokens": str(directory / "tokens.bin")}
    batch = {"globalBatchSize": options.batch, "microBatchSize": options.micro}
    rows = [order.batch(step, options.batch) for step in range(1, options.steps + 1)]
    path.write_text(json.dumps({**shape, **batch, "model": str(job.store / "initial"), "rows": rows}))


def speed(server: ForkServer, where: Path, root: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All runs, interleaved."""
    rates: dict[str, list[float]] = {"windlass": [], "fsdp2": []}
    waits = []
    tokens = options.batch * LENGTH
    for run in range(options.runs):
        job = make_job(server, where, root / f"run-{run}", options)
        job.root.mkdir()
        job.prepare()
        work = root / f"work-{run}.json"
        peer_work(job, options, work)
        # In turns who goes first: what the machine does meanwhile is nobody's merit.
        if run % 2:
            rates["fsdp2"].append(run_peer(work, tokens))
        ours, waited = run_ours(job, tokens)
        if not run % 2:
            rates["fsdp2"].append(run_peer(work, tokens))
        rates["windlass"].append(ours)
        waits.append(waited)
        print({name: round(values[-1], 1) for name, values in rates.items()}, round(waited, 5), flush=True)
    return {
        "tokensPerSecond": {name: spread(values) for name, values in rates.items()},
        "ratioToFsdp2": statistics.median(a / b for a, b in zip(*rates.values(), strict=True)),
        "dataWaitShare": spread(waits),
    }


def order_proof() -> dict[str, Any]:
    """The rows of each step, whatever the number of ranks, and that they are dealt once each."""
    sizes, batch, micro = (7_001, 503, 60_013), 64, 4
    firsts = (0, sizes[0], sizes[0] + sizes[1])
    parts = tuple(Part(*row) for row in zip(firsts, sizes, shares(["0.5", "0.2", "0.3"]), strict=True))
    order = Order(17, sum(sizes), parts=parts)
    chance = random.Random(17)
    digests = {}
    for world in WORLDS:
        digest = hashlib.sha256()
        # Each world is asked for the steps in an order of its own: nothing may depend on what came before.
        steps = list(range(1, ORDERED_STEPS + 1))
        chance.shuffle(steps)
        found = {}
        for step in steps:
            units = order.batch(step, batch)
            dealt = deal(units, [1] * batch, micro=micro, world=world)
            # Turn by turn over the ranks is the order of the batch, whoever takes which part.
            found[step] = [unit for turn in range(len(dealt[0])) for rank in dealt for unit in rank[turn]]
        for step in range(1, ORDERED_STEPS + 1):
            digest.update(json.dumps(found[step]).encode())
        digests[str(world)] = digest.hexdigest()
    return {
        "steps": ORDERED_STEPS,
        "rowsPerStep": batch,
        "digests": digests,
        "equal": len({*digests.values()}) == 1,
    }


def losses_by_world(
    server: ForkServer, where: Path, root: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """Losses of real runs of a small model on 1, 2, 4 and 8 ranks: the largest relative difference from one rank's."""
    found: dict[int, dict[int, float]] = {}
    for world in WORLDS:
        small = {
            "architecture": {"hiddenSize": 64, "layers": 2, "heads": 4, "keyValueHeads": 2},
            "corpus": {
                "sources": [
                    {"uri": "pvc://data/docstrings", "share": "0.7"},
                    {"uri": "pvc://data/held-out", "share": "0.3"},
                ],
                "sequenceLength": 64,
            },
            "training": {"globalBatchSize": 16, "microBatchSize": 2, "maxSteps": 20},
        }
        job = make_job(server, where, root / f"world-{world}", options, **small)
        job.root.mkdir()
        job.prepare()
        found[world] = job.start(world=world, limit=600).ok().losses()
    most = {
        str(world): max(abs(losses[step] - one) / one for step, one in found[1].items())
        for world, losses in found.items()
    }
    return {"steps": len(found[1]), "largestRelativeDifference": most}


def main() -> None:
    """Entry of `make bench-pretrain`."""
    parser = argparse.ArgumentParser(prog="bench-pretrain", description=__doc__)
    parser.add_argument("--runs", type=int, default=6, help="interleaved runs of each system")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--micro", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="windlass-bench-") as scratch:
        root = Path(scratch)
        where, server = volumes(root / "volumes"), ForkServer()
        try:
            figures = speed(server, where, root, options)
            figures["order"] = order_proof()
            figures["losses"] = losses_by_world(server, where, root, options)
        finally:
            server.close()
    figures["goals"] = {"ratioToFsdp2": 0.97, "dataWaitShare": 0.02, "order": "equal", "losses": 1e-5}
    figures["setting"] = {
        "model": {**SIZES, "vocabulary": 8192},
        "precision": "FP32",
        "strategy": "FSDP",
        "ranks": 2,
        "threadsPerRank": 1,
        "globalBatchSize": options.batch,
        "microBatchSize": options.micro,
        "sequenceLength": LENGTH,
        "steps": options.steps,
        "stepsLeftOut": WARM_STEPS,
        "saves": "one in the middle of each run, asynchronous (ours only)",
    }
    write("pretrain", figures, packages=("torch", "transformers"))


if __name__ == "__main__":
    main()
