"""`make bench-data`: the corpus stage beside datatrove's local MinHash pipeline, on the same text.

The text has planted repetitions, so that what each of them finds can be counted. Both run as a user would start them,
in processes of their own: ours some times, the peer, which takes minutes, once, in an environment of its own built
from pinned versions. A larger text and a tenth of it tell what a second worker brings, whose start takes seconds, and
what memory does. That is the highest resident of the biggest process.
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
OURS: Final = ((2, "text"), (1, "text"), (2, "large"), (1, "large"), (1, "tenth"))
"""Workers and text of our runs."""
Json = dict[str, Any]


def arguments() -> argparse.Namespace:
    """Sizes."""
    parser = argparse.ArgumentParser(prog="bench-data", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=200, help="text for both, in millions of bytes")
    parser.add_argument("--large", type=int, default=1000, help="text for ours alone, in millions of bytes")
    parser.add_argument("--turns", type=int, default=1, help="runs of each of ours; medians count")
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
    ready = ENVIRONMENT / ".ready"
    if ready.exists() and ready.read_text() == PEER_PACKAGES.read_text():
        return
    tell("building the peer's environment")
    subprocess.run([UV, "venv", "--quiet", "--clear", "--python", sys.executable, ENVIRONMENT], check=True)
    install = [
        UV,
        "pip",
        "install",
        "--quiet",
        "--compile-bytecode",
        "--python",
        ENVIRONMENT / "bin" / "python",
    ]
    subprocess.run([*install, "--requirement", PEER_PACKAGES], check=True)
    ready.write_text(PEER_PACKAGES.read_text())


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
    with tempfile.TemporaryDirectory(prefix="windlass-bench-") as temporary:
        scratch = Path(temporary)
        texts = {"text": options.megabytes, "large": options.large, "tenth": options.large // 10}
        counts = {}
        for name, megabytes in texts.items():
            tell(f"writing {megabytes} MB of text")
            counts[name] = planted.write(scratch / name, megabytes * 1_000_000, SEED)
        alone = [("windlass", workers, name) for _ in range(options.turns) for workers, name in OURS]
        beside = [(name, 2, "text") for name in sides if name != "windlass"]
        runs: dict[str, list[Json]] = {}
        verdicts: dict[str, Json] = {}
        for side, workers, name in [*alone, *beside]:
            output = scratch / "out"
            figures, kept = sides[side](scratch / name, output, workers)
            runs.setdefault(f"{side}{workers} {name}", []).append(figures)
            tell(f"{side}, {workers} workers, {name}: {figures}")
            if name == "text" and side not in verdicts:
                verdicts[side] = judged(kept, options.megabytes * 1_000_000)
                tell(f"{side}: {verdicts[side]}")
            shutil.rmtree(output)
    figures = figures_of(runs, verdicts, {name: count["bytes"] for name, count in counts.items()})
    write("data", {"texts": counts, **figures, "goals": GOALS}, ("numpy", "pyarrow", "ray", "xxhash"))


def figures_of(runs: dict[str, list[Json]], verdicts: dict[str, Json], sizes: dict[str, int]) -> Json:
    """Medians, and the ratios that goals are about."""
    seconds = {name: statistics.median(row["seconds"] for row in rows) for name, rows in runs.items()}
    resident = {name: max(row["residentMegabytes"] for row in rows) for name, rows in runs.items()}
    measured: dict[str, float] = {
        "recall": verdicts["windlass"]["recall"],
        "precision": verdicts["windlass"]["precision"],
        "memoryTenfold": round(resident["windlass1 large"] / resident["windlass1 tenth"], 3),
        "speedOfTwoWorkers": round(seconds["windlass1 large"] / seconds["windlass2 large"], 2),
    }
    if "datatrove2 text" in seconds:
        measured["speedBesidePeer"] = round(seconds["datatrove2 text"] / seconds["windlass2 text"], 2)
    return {
        "medianSeconds": seconds,
        "megabytesPerSecond": {
            name: round(sizes[name.split()[1]] / 1e6 / value, 2) for name, value in seconds.items()
        },
        "residentMegabytes": resident,
        "found": verdicts,
        "runs": runs,
        "measured": measured,
    }


if __name__ == "__main__":
    main()
