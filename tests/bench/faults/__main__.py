"""`make bench-faults`: seeded random faults in one continuing run, with every promise checked after each.

A gang of two agents with real ranks (tiny Llama, DDP on gloo, fp32, one thread) trains without end, is disturbed, and
is compared at the end with the same training undisturbed. About 33 minutes on two quiet cores. Needs no cluster; the
faults of the store's volume need the right to mount.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "operator"), str(ROOT / "workloads")]

from bench.faults import chain_tasks, figures  # noqa: E402
from bench.faults.campaign import Campaign, deal, tell  # noqa: E402
from bench.faults.gang import CHAIN, EVERY, STEP_SECONDS, TRAIN, Gang, training, write_volumes  # noqa: E402
from bench.faults.kinds import KINDS, verdict_of  # noqa: E402
from bench.faults.volume import own_mounts  # noqa: E402
from bench.faults.witness import read_losses  # noqa: E402
from bench.record import write  # noqa: E402
from windlass.api.meta import ExitCode  # noqa: E402

TASKS = {
    "train": "tiny Llama of 20 thousand parameters, DDP on gloo, fp32, one thread per rank",
    "chain": "digests of digests, without torch",
}
REFERENCE_SECONDS = 1200.0
REFERENCE_EVERY = 500


def parser() -> argparse.ArgumentParser:
    """The grammar."""
    made = argparse.ArgumentParser(prog="bench-faults", description=__doc__)
    made.add_argument("--singles", type=int, default=250)
    made.add_argument("--doubles", type=int, default=24)
    made.add_argument("--seed", type=int, default=4)
    made.add_argument(
        "--task", choices=("train", "chain"), default="train", help="chain: steps without torch"
    )
    made.add_argument("--ranks", type=int, default=1, help="of each of the two pods")
    made.add_argument("--only", choices=list(KINDS), action="append", help="these kinds; may be repeated")
    made.add_argument(
        "--limit", type=float, default=3600.0, help="seconds after which no further fault is caused"
    )
    made.add_argument("--quick", action="store_true", help="only faults that need no new pod")
    made.add_argument("--name", default="faults", help="the result goes to build/bench/NAME.json")
    return made


def disturb(gang: Gang, options: argparse.Namespace) -> tuple[list[dict[str, Any]], list[str]]:
    """All faults, and how the run was ended; (rows, kinds that cannot be caused here)."""
    rng = random.Random(options.seed)
    wanted = [name for name in KINDS if not options.only or name in options.only]
    wanted = [name for name in wanted if KINDS[name].quick or not options.quick]
    possible = [name for name in wanted if KINDS[name].possible(gang)]
    campaign = Campaign(gang, rng, until=time.monotonic() + options.limit)
    campaign.singles(deal(possible, options.singles, rng))
    campaign.doubles(options.doubles)
    if campaign.stuck is not None:
        tell(campaign.stuck)
    return campaign.rows, [name for name in wanted if name not in possible]


def end(gang: Gang) -> dict[str, Any]:
    """Both pods are told to leave; nothing may be lost."""
    agents = gang.played.drain()
    gang.played.away(True)
    for agent in agents:
        agent.send(signal.SIGTERM)
    verdicts = [verdict_of(gang, agent) for agent in agents]
    kept = [each.step for each in gang.sound()][:1]
    good = all(each["code"] == ExitCode.PREEMPTED and each.get("lost") == 0 for each in verdicts)
    return {"verdicts": verdicts, "newestStep": kept, "ok": good and kept == [verdicts[0].get("step")]}


def undisturbed(root: Path, volumes: Path, options: argparse.Namespace, steps: int) -> dict[int, str]:
    """Losses of the same training up to a step, in full."""
    with training(root, volumes, ranks=options.ranks, pace=0.0, every=REFERENCE_EVERY, small=False) as gang:
        rows: list[dict[str, Any]] = []

        def look() -> bool:
            rows[:] = read_losses(gang.witness)
            time.sleep(0.5)
            return bool(rows) and rows[-1]["step"] >= steps

        gang.wait(f"{steps} undisturbed steps", look, REFERENCE_SECONDS)
    return {int(row["step"]): row["loss"] for row in rows}


def main() -> int:
    """Entry."""
    options = parser().parse_args()
    began, mounts = time.monotonic(), own_mounts()
    with tempfile.TemporaryDirectory(prefix="windlass-faults-") as scratch:
        root = Path(scratch)
        chained = options.task == "chain"
        volumes = root if chained else write_volumes(root)
        tasks = CHAIN if chained else TRAIN
        with training(root / "run", volumes, ranks=options.ranks, tasks=tasks, small=mounts) as gang:
            rows, left_out = disturb(gang, options)
            ending = end(gang) if not any("stuck" in row for row in rows) else {"ok": False}
            losses = read_losses(gang.witness)
        disturbed = time.monotonic() - began
        highest = max(int(row["step"]) for row in losses)
        tell(f"{len(rows)} faults in {disturbed:.0f} s; now the same {highest} steps undisturbed")
        reference = (
            chain_tasks.undisturbed(highest)
            if chained
            else undisturbed(root / "reference", volumes, options, highest)
        )
    singles = [row for row in rows if len(row["kinds"]) == 1]
    found = figures.figures(singles, [row for row in rows if len(row["kinds"]) == 2])
    found["lossCurve"] = figures.compare(losses, reference)
    found["end"] = ending
    found["reached"] = figures.reached(found)
    found["leftOut"] = {name: KINDS[name].what for name in left_out}
    found["setting"] = setting(options)
    found["seconds"] = {"disturbed": round(disturbed, 1), "total": round(time.monotonic() - began, 1)}
    found["rows"] = rows
    write(options.name, found, packages=("torch", "transformers"))
    bad = [goal for goal, answer in found["reached"].items() if answer is False]
    for goal in bad:
        tell(f"MISSED: {goal}")
    return 1 if bad or not ending["ok"] else 0


def setting(options: argparse.Namespace) -> dict[str, Any]:
    """How the figures were got."""
    return {
        "gang": f"two agents with {options.ranks} rank(s) each, as plain processes; the operator is played",
        "task": TASKS[options.task],
        "steps": f"paced by {STEP_SECONDS} s; asynchronous saves every {EVERY} steps",
        "seed": options.seed,
        "clock": "from just before the fault is caused to the slowest rank's entry into the forward of its first step",
        "kinds": {name: kind.what for name, kind in KINDS.items()},
    }


if __name__ == "__main__":
    sys.exit(main())
