"""`make bench-recovery`: seconds from a fault to the first new step, and what survives it.

Ranks and pods are lost in a gang of two pods on the embedded cluster (SmolLM2-135M, LoRA r 16, fp32), beside torchrun
on the same training in a pod of its own. On two cores only one of them can train at a time, so they take turns: a
block of kills of ours, the gang suspended, a block of kills of the peer, and so on. Leaving pods, damaged checkpoints
and the stall of saves need no cluster. Ranks are killed at a random moment, once a checkpoint newer than any before
the last kill is verified. Takes about 15 minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "operator"), str(ROOT / "workloads")]

from bench.record import spread, write  # noqa: E402
from bench.recovery import figures, gang, peer, run, tries, wide  # noqa: E402
from bench.recovery.ground import Ground, ground, tell  # noqa: E402

PARTS = ("in-place", "torchrun", "pod-delete", "stall", "sigterm", "fallback", "eight", "shrink")
ON_CLUSTER = ("in-place", "torchrun", "pod-delete")
STALL_SECONDS = 900
PAUSE_SECONDS = 2.0
SEED = 17
Tries = list[dict[str, Any]]


@dataclass
class Bench:
    """What was asked for and what was found so far."""

    options: argparse.Namespace
    rng: random.Random = field(default_factory=lambda: random.Random(SEED))
    figures: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def wants(self, part: str) -> bool:
        """Whether a part was asked for."""
        return self.options.only in (None, part)

    def attempt(self, part: str, work: Callable[[], None]) -> None:
        """Do a part; what goes wrong is written down and does not take the other parts with it."""
        tell(f"== {part}")
        began = time.monotonic()
        try:
            work()
        except Exception as error:  # whatever it was: the other parts' figures are worth having
            self.errors[part] = f"{type(error).__name__}: {error}"
            tell(traceback.format_exc())
        self.seconds[part] = round(time.monotonic() - began, 1)

    def pause(self) -> None:
        """A random moment, so that faults do not always meet the same line of the loop."""
        time.sleep(self.rng.uniform(0.0, PAUSE_SECONDS))


# --- on the cluster ---------------------------------------------------------------------------------


def on_cluster(bench: Bench) -> None:
    """Rank kills in turns with the peer, then pod deletes, all in one run."""
    with ground() as place:
        started = run.start(place)
        if bench.wants("in-place") or bench.wants("torchrun"):
            bench.attempt("kills", lambda: take_turns(bench, place, started))
        if bench.wants("pod-delete"):
            bench.attempt("podDelete", lambda: delete_pods(bench, started))
        started.delete()


def take_turns(bench: Bench, place: Ground, started: run.Run) -> None:
    """Blocks of kills: ours, then the peer's."""
    options = bench.options
    template = peer.template(place)
    ours: Tries = []
    peers: Tries = []
    counts = zip(
        figures.deal(options.in_place if bench.wants("in-place") else 0, options.blocks),
        figures.deal(options.torchrun if bench.wants("torchrun") else 0, options.blocks),
        strict=True,
    )
    for block, (mine, others) in enumerate(counts):
        kill_ours(bench, started, ours, mine)
        if ours:
            bench.figures["inPlace"] = figures.recoveries(ours)
        if not others:
            continue
        if mine:
            # The operator removes the configuration that pods of an attempt before this one mount.
            template = peer.template(place)
        started.suspend()
        with peer.running(place, template, f"torchrun-{block}") as torchrun:
            kill_peer(bench, torchrun, peers, others)
        bench.figures["torchrun"] = {
            **spread([row["seconds"] for row in peers]),
            "setting": peer.SETTING,
            "tries": peers,
        }
        if block == options.blocks - 1 and options.default_limit:
            bench.figures["torchrun"]["defaultSetting"] = try_default(bench, place, template)


def kill_ours(bench: Bench, started: run.Run, ours: Tries, count: int) -> None:
    """SIGKILL to the ranks in turn."""
    if count:
        started.resume()
    for _ in range(count):
        started.await_progress()
        bench.pause()
        ours.append(started.kill_rank(len(ours) % run.WORLD))
        tell(f"in place: {brief(ours[-1])}")


def kill_peer(bench: Bench, torchrun: peer.Peer, peers: Tries, count: int) -> None:
    """The same for torchrun."""
    for _ in range(count):
        torchrun.await_progress()
        bench.pause()
        peers.append(torchrun.kill_rank(len(peers) % run.WORLD))
        tell(f"torchrun: {brief(peers[-1])}")


def try_default(bench: Bench, place: Ground, template: dict[str, Any]) -> dict[str, Any]:
    """Once without the peer's working setting; it is given up after a limit."""
    limit = float(bench.options.default_limit)
    with peer.running(place, template, "torchrun-default", environment={}) as torchrun:
        torchrun.await_progress()
        try:
            row = torchrun.kill_rank(1, limit)
        except AssertionError:
            return {"environment": {}, "recovered": False, "limitSeconds": limit}
    return {"environment": {}, "recovered": True, "limitSeconds": limit, "seconds": row["seconds"]}


def delete_pods(bench: Bench, started: run.Run) -> None:
    """Deletes of the two pods in turn, the follower's first."""
    rows: Tries = []
    started.resume()
    for number in range(bench.options.pod_delete):
        started.await_progress()
        bench.pause()
        rows.append(started.delete_pod((number + 1) % run.WORLD))
        tell(f"pod delete: {brief(rows[-1])}")
        bench.figures["podDelete"] = figures.deletions(rows)


def brief(row: dict[str, Any]) -> str:
    """One try for the reader who waits."""
    return json.dumps({key: value for key, value in row.items() if not isinstance(value, dict)})


# --- without it -------------------------------------------------------------------------------------


def with_gang(
    bench: Bench,
    part: str,
    one: Callable[[gang.Gang, int], dict[str, Any]],
    count: int,
    changes: dict[str, Any] | None = None,
) -> Tries:
    """Tries in one run of a tiny gang, the one of two unless the spec is changed."""
    rows: Tries = []
    with (
        tempfile.TemporaryDirectory(prefix="windlass-bench-") as scratch,
        gang.training(Path(scratch), changes) as tiny,
    ):
        for number in range(count):
            rows.append(one(tiny, number))
            tell(f"{part}: {brief(rows[-1])}")
    return rows


def sigterm(bench: Bench) -> None:
    """Agents told to leave, the follower's and the leader's in turn."""
    rows = with_gang(
        bench,
        "sigterm",
        lambda tiny, number: tries.leave(tiny, (number + 1) % gang.WORLD, bench.rng),
        bench.options.sigterm,
    )
    bench.figures["sigterm"] = {**figures.leavings(rows), "setting": {**tries.LEAVING, **tries.GANG}}


def fallback(bench: Bench) -> None:
    """Damaged newest checkpoints, the seven kinds in turn."""
    rows = with_gang(
        bench,
        "fallback",
        lambda tiny, number: tries.fall_back(tiny, number, bench.rng),
        bench.options.fallback,
    )
    bench.figures["fallback"] = {**figures.fallbacks(rows), "setting": {**tries.FALLING_BACK, **tries.GANG}}


def eight(bench: Bench) -> None:
    """Rank kills in a gang of eight ranks in four pods."""
    rows = with_gang(bench, "eight", wide.kill_rank, bench.options.eight, wide.EIGHT)
    bench.figures["gangOfEight"] = {**figures.recoveries(rows), "setting": wide.EIGHT_SETTING}


def shrink(bench: Bench) -> None:
    """Pods that go from a gang of four that may shrink to three, and come back."""
    rows = with_gang(bench, "shrink", wide.lose_agent, bench.options.shrink, wide.FOUR)
    bench.figures["shrink"] = {
        **figures.recoveries(rows),
        "ok": sum(row["ok"] for row in rows),
        "grow": spread([row["growSeconds"] for row in rows]),
        "growLostSteps": sum(row["growLostSteps"] for row in rows),
        "setting": wide.FOUR_SETTING,
    }


def stall(bench: Bench) -> None:
    """The stall of an asynchronous save as a share of a blocking one, on much state."""
    folders = [str(ROOT / folder) for folder in ("operator", "workloads", "tests")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "workloads.checkpoint.stall", str(bench.options.megabytes)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=STALL_SECONDS, check=False
    )
    if done.returncode != 0:
        raise AssertionError(f"stall: {done.stderr[-2000:]}")
    found = json.loads(done.stdout)
    bench.figures["asyncStallRatio"] = round(found.pop("ratio"), 4)
    bench.figures["asyncSave"] = {
        **found,
        "setting": "two gloo ranks, FSDP; median of the saves after the first",
    }


# --- all --------------------------------------------------------------------------------------------


def setting() -> dict[str, Any]:
    """What the parts on the cluster have in common."""
    return {
        "model": "SmolLM2-135M-Instruct",
        "adapter": "LoRA r 16 all-linear",
        "precision": "FP32",
        "gang": "two pods with one rank each on the embedded cluster, operators and tracking server running",
        "job": run.CHANGES,
        "threadsPerRank": 1,
        "recovery": "the example's: budgets and ladder are the defaults",
        "clock": "from the time just before kill(2) in the process that kills (before the DELETE call for pods) to the "
        "slowest rank's entry into the forward of the step after the resumed one, all on one kernel's clock",
        "turns": "ours is suspended while the peer trains and the other way round; ranks are killed in turn",
        "moment": f"0 to {PAUSE_SECONDS:.0f} s (uniform, seed {SEED}) after a newer checkpoint is verified",
    }


def parser() -> argparse.ArgumentParser:
    """The grammar."""
    made = argparse.ArgumentParser(prog="bench-recovery", description=__doc__)
    made.add_argument("--only", choices=PARTS, help="one part; the result goes to recovery-PART.json")
    made.add_argument("--in-place", type=int, default=21, help="rank kills of ours")
    made.add_argument("--torchrun", type=int, default=6, help="rank kills of the peer")
    made.add_argument("--blocks", type=int, default=3, help="turns that ours and the peer take")
    made.add_argument(
        "--default-limit", type=int, default=60, help="seconds for torchrun's default; 0 leaves it out"
    )
    made.add_argument("--pod-delete", type=int, default=6)
    made.add_argument("--megabytes", type=int, default=1050, help="state of the stall's part")
    made.add_argument("--sigterm", type=int, default=20)
    made.add_argument("--fallback", type=int, default=21, help="three of each of seven kinds of damage")
    made.add_argument("--eight", type=int, default=20, help="rank kills in the gang of eight")
    made.add_argument("--shrink", type=int, default=6, help="pods that go from the gang of four")
    return made


def main() -> int:
    """Entry: all parts, or one."""
    bench = Bench(parser().parse_args())
    began = time.monotonic()
    if any(bench.wants(part) for part in ON_CLUSTER):
        bench.attempt("cluster", lambda: on_cluster(bench))
    parts = (
        ("stall", stall),
        ("sigterm", sigterm),
        ("fallback", fallback),
        ("eight", eight),
        ("shrink", shrink),
    )
    for part, work in parts:
        if bench.wants(part):
            bench.attempt(part, lambda work=work: work(bench))  # type: ignore[misc]
    found = bench.figures
    found["ratio"] = figures.ratio(found)
    found["goals"] = figures.GOALS
    found["reached"] = figures.reached(found)
    found["setting"] = setting()
    found["seconds"] = {**bench.seconds, "total": round(time.monotonic() - began, 1)}
    found["errors"] = bench.errors
    only = bench.options.only
    write(
        "recovery" if only is None else f"recovery-{only}", found, packages=("torch", "transformers", "peft")
    )
    for goal, answer in found["reached"].items():
        tell(f"{goal}: {'not measured' if answer is None else 'reached' if answer else 'MISSED'}")
    return 1 if bench.errors else 0


if __name__ == "__main__":
    sys.exit(main())
