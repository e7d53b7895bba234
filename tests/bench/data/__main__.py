"""`make bench-data`: the corpus stage beside datatrove's local MinHash pipeline, on the same text.

The text has planted repetitions, so that what each of them finds can be counted. Both run as a user would start them,
in processes of their own: ours with one worker and with two in turns, the peer, which takes minutes, once with two, in
an environment of its own that is built from pinned versions. Memory is the highest resident of the biggest process.
Takes about 15 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "operator"), str(ROOT / "workloads")]

from bench.data import planted  # noqa: E402
from bench.record import write  # noqa: E402

PEER_PACKAGES: Final = Path(__file__).with_name("peer-requirements.txt")
PEER_PROGRAM: Final = Path(__file__).with_name("peer.py")
ENVIRONMENT: Final = ROOT / "build" / "env" / "datatrove"
UV: Final = ROOT / "build" / "tools" / "bin" / "uv"
SEED: Final = 17
GOALS: Final = {
    "recall": 0.98,
    "precision": 0.99,
    "speedBesidePeer": 1.0,
    "memoryTenfold": 1.2,
    "speedOfTwoWorkers": 1.7,
}
Json = dict[str, Any]


def arguments() -> argparse.Namespace:
    """Sizes."""
    parser = argparse.ArgumentParser(prog="bench-data", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=200, help="text, in millions of bytes")
    parser.add_argument("--turns", type=int, default=3, help="runs of each; medians count")
    parser.add_argument("--without-peer", action="store_true", help="measure ours alone")
    return parser.parse_args()


def tell(text: str) -> None:
    """Say what is going on."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


# --- running ---------------------------------------------------------------------------------------


def residents(parent: int) -> Iterable[int]:
    """Kilobytes that each process below one, and itself, holds now."""
    children: dict[int, list[int]] = {}
    sizes: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            sizes[int(path.name)] = int(fields[21]) * os.sysconf("SC_PAGESIZE") // 1024
            children.setdefault(int(fields[1]), []).append(int(path.name))
        except (OSError, IndexError):
            continue
    todo = [parent]
    while todo:
        one = todo.pop()
        yield sizes.get(one, 0)
        todo += children.get(one, [])


def measured(command: list[str], environment: dict[str, str] | None = None) -> tuple[Json, float, int]:
    """What a program prints last as JSON, its seconds, and the kilobytes of its biggest process."""
    highest, ended = 0, threading.Event()
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complained:
        began = time.monotonic()
        process = subprocess.Popen(
            command, stdout=said, stderr=complained, env=os.environ | (environment or {})
        )

        def watch() -> None:
            nonlocal highest
            while not ended.wait(0.2):
                highest = max(highest, *residents(process.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        code = process.wait()
        seconds = time.monotonic() - began
        ended.set()
        watcher.join()
        said.seek(0)
        complained.seek(0)
        assert code == 0, f"{command}: ended with {code}\n{complained.read()[-3000:]}"
        text = said.read().strip()
    begin = text.rfind("\n{") + 1 if not text.startswith("{") else 0
    return json.loads(text[begin:]), seconds, highest


def ours(texts: Path, output: Path, workers: int) -> tuple[Json, Iterable[str]]:
    """Our stage, as its command; the figures, and the texts that stay."""
    import pyarrow.parquet as pq

    command = [sys.executable, "-m", "windlass_workloads.corpus", str(texts), "--output", str(output)]
    paths = {"PYTHONPATH": f"{ROOT / 'operator'}:{ROOT / 'workloads'}"}
    said, seconds, highest = measured([*command, "--workers", str(workers)], paths)
    made = Path(said["directory"])

    def kept() -> Iterable[str]:
        for shard in json.loads((made / "corpus.json").read_text())["shards"]:
            yield from pq.read_table(made / shard["name"]).column("text").to_pylist()

    return row(said["documents"], seconds, highest), kept()


def peer(texts: Path, output: Path, workers: int) -> tuple[Json, Iterable[str]]:
    """datatrove's pipeline; the same."""
    command = [str(ENVIRONMENT / "bin" / "python"), str(PEER_PROGRAM), str(texts), str(output), str(workers)]
    said, seconds, highest = measured(command)

    def kept() -> Iterable[str]:
        for path in sorted((output / "kept").glob("*.jsonl")):
            with path.open(encoding="utf-8") as file:
                for line in file:
                    yield json.loads(line)["text"]

    return row(said["documents_kept"], seconds, highest), kept()


def row(documents: int, seconds: float, kilobytes: int) -> Json:
    """Figures of one run."""
    return {
        "documents": documents,
        "seconds": round(seconds, 2),
        "residentMegabytes": round(kilobytes / 1024, 1),
    }


def build_peer() -> None:
    """The peer's own environment, from pinned versions."""
    if (ENVIRONMENT / "bin" / "python").exists():
        return
    tell("building the peer's environment")
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, ENVIRONMENT], check=True)
    install = [UV, "pip", "install", "--quiet", "--python", ENVIRONMENT / "bin" / "python"]
    subprocess.run([*install, "--requirement", PEER_PACKAGES], check=True)


# --- judging ---------------------------------------------------------------------------------------


def judged(kept: Iterable[str], size: int) -> Json:
    """How many planted repetitions are gone, and how many of those that are gone had been planted."""
    left: dict[int, int] = {}
    for text in kept:
        left[hash(text)] = left.get(hash(text), 0) + 1
    found = dict.fromkeys(planted.SHARES, 0)
    total = dict.fromkeys(planted.SHARES, 0)
    for one in planted.documents(size, SEED):
        total[one.kind] += 1
        # The first document of a text takes the copy that is left; further ones find none.
        if left.get(hash(one.text), 0):
            left[hash(one.text)] -= 1
        else:
            found[one.kind] += 1
    repeated = found["exact"] + found["near"]
    gone = repeated + found["new"] + found["decoy"]
    return {
        "recall": round(repeated / (total["exact"] + total["near"]), 5),
        "recallOfNear": round(found["near"] / total["near"], 5),
        "precision": round(repeated / gone, 5),
        "newDropped": found["new"],
        "decoysDropped": found["decoy"],
    }


# --- the whole -------------------------------------------------------------------------------------

Side = Callable[[Path, Path, int], tuple[Json, Iterable[str]]]


def main() -> None:
    """Entry of `make bench-data`."""
    options = arguments()
    sides: dict[str, Side] = {"windlass": ours}
    if not options.without_peer:
        build_peer()
        sides["datatrove"] = peer
    size = options.megabytes * 1_000_000
    with tempfile.TemporaryDirectory(prefix="windlass-bench-") as temporary:
        scratch = Path(temporary)
        tell(f"writing {options.megabytes} MB of text, and a tenth of it")
        counts = planted.write(scratch / "whole", size, SEED)
        planted.write(scratch / "tenth", size // 10, SEED)
        runs: dict[str, list[Json]] = {}
        verdicts: dict[str, Json] = {}
        plan = [
            (name, workers)
            for _ in range(options.turns)
            for name, workers in (("windlass", 2), ("windlass", 1))
        ]
        for name, workers in [*plan, *((name, 2) for name in sides if name != "windlass")]:
            output = scratch / f"{name}-out"
            figures, kept = sides[name](scratch / "whole", output, workers)
            runs.setdefault(f"{name}{workers}", []).append(figures)
            tell(f"{name}, {workers} workers: {figures}")
            if name not in verdicts:
                verdicts[name] = judged(kept, size)
                tell(f"{name}: {verdicts[name]}")
            shutil.rmtree(output)
        small, _ = ours(scratch / "tenth", scratch / "small-out", 1)
    document = figures_of(runs, verdicts, small, size)
    write("data", {"text": counts, **document, "goals": GOALS}, ("numpy", "pyarrow", "ray", "xxhash"))


def figures_of(runs: dict[str, list[Json]], verdicts: dict[str, Json], small: Json, size: int) -> Json:
    """Medians, ratios and whether goals were reached."""
    seconds = {name: statistics.median(row["seconds"] for row in rows) for name, rows in runs.items()}
    resident = {name: max(row["residentMegabytes"] for row in rows) for name, rows in runs.items()}
    reached: dict[str, float] = {
        "recall": verdicts["windlass"]["recall"],
        "precision": verdicts["windlass"]["precision"],
        "memoryTenfold": round(resident["windlass1"] / small["residentMegabytes"], 3),
        "speedOfTwoWorkers": round(seconds["windlass1"] / seconds["windlass2"], 2),
    }
    if "datatrove2" in seconds:
        reached["speedBesidePeer"] = round(seconds["datatrove2"] / seconds["windlass2"], 2)
    return {
        "medianSeconds": seconds,
        "megabytesPerSecond": {name: round(size / 1e6 / value, 2) for name, value in seconds.items()},
        "documentsPerSecond": {
            name: round(runs[name][0]["documents"] / value) for name, value in seconds.items()
        },
        "residentMegabytes": resident | {"windlass1 on a tenth": small["residentMegabytes"]},
        "found": verdicts,
        "runs": runs,
        "measured": reached,
    }


if __name__ == "__main__":
    main()
