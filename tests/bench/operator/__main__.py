"""`make bench-operator`: how the operator bears many jobs, on a real control plane with played nodes.

Two parts, each on an API server of its own. Running jobs: so many gangs of eight pods are made from a backlog beside a
bare client that makes the same pods, their played leaders report changes, gangs are made anew all at once, and the
leading operator is killed. Finished jobs: a new operator looks at all of them and then rests. Pods are scheduled by
the real scheduler and run on kwok's nodes; agents do not run in them, so reports are made up, but sent with tokens
of real pods to the real report server. The sizes of the goals are --jobs 1000 --finished 10000.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "operator")]

from bench.operator import figures, finished, plane, running  # noqa: E402
from bench.record import write  # noqa: E402

PARTS = {"running": running.measure, "finished": finished.measure}
PLAYED = [
    "reports: made up, sent over HTTPS with bound tokens of the pods",
    "kubelets and nodes: kwok",
    "etcd does not sync to disk",
    "the scheduler, the controllers and kwok are administrators, without their default limits on requests",
    "the API server collects its garbage seldom (GOGC=400), as do the programs beside it",
]


def arguments() -> argparse.Namespace:
    """Sizes and parts."""
    parser = argparse.ArgumentParser(prog="bench-operator", description=__doc__)
    parser.add_argument("--jobs", type=int, default=300, help="running jobs")
    parser.add_argument("--nodes", type=int, default=8, help="pods of each job")
    parser.add_argument(
        "--namespaces",
        type=int,
        default=10,
        help="namespaces of running jobs: in one, the cluster's controllers compare each pod with every job's Service",
    )
    parser.add_argument("--finished", type=int, default=10_000, help="finished jobs")
    parser.add_argument("--storm", type=int, default=100, help="gangs that restart at once")
    parser.add_argument("--lost", type=int, default=20, help="gangs that lose pods as the leader dies")
    parser.add_argument("--changes-per-second", type=float, default=50.0)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long changes are reported")
    parser.add_argument("--rest", type=float, default=60.0, help="how long the operator is watched at rest")
    parser.add_argument("--at-once", type=int, default=32, help="requests at once of the bare client")
    parser.add_argument("--only", choices=tuple(PARTS), help="one part; writes operator-PART.json")
    parser.add_argument("--only-start", action="store_true", help="of running jobs only their start")
    parser.add_argument("--keep", type=Path, help="leave logs here")
    parser.add_argument(
        "--profile", type=int, metavar="SECONDS", help="profile the API server in each start; needs --keep"
    )
    return parser.parse_args()


def goals(found: dict[str, Any], options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Every goal that this run has a figure for."""
    run, ended = found.get("running", {}), found.get("finished", {})
    measured: dict[str, float | None] = {
        "firstPassSeconds": ended.get("firstPassSeconds"),
        "writesAtRest": ended.get("restWrites"),
    }
    if "start" in run:
        measured["podsRatio"] = figures.ratio(
            run["start"]["seconds"], [row["seconds"] for row in run["bare"]]
        )
        measured["residentMegabytes"] = max(one["highest"] for one in run["residentMegabytes"].values())
    if "changes" in run:
        measured["statusP99Seconds"] = run["changes"]["latencySeconds"]["p99"] or float("inf")
        measured["writesPerChange"] = run["changes"]["writesPerChange"]
        measured["stormSeconds"] = run["storm"]["seconds"]
        measured["takeoverSeconds"] = run["death"]["nextDecisionSeconds"]
        measured["duplicates"] = run["death"]["duplicates"]
    sizes = {"jobs": options.jobs, "finished": options.finished, "storm": options.storm}
    return figures.verdicts(measured, sizes)


def main() -> None:
    """Entry of `make bench-operator`."""
    options = arguments()
    if options.profile and not options.keep:
        sys.exit(
            "bench-operator: --profile writes beside the logs (got no --keep). hint: add --keep DIRECTORY"
        )
    options.storm, options.lost = min(options.storm, options.jobs), min(options.lost, options.jobs)
    began, load = time.monotonic(), os.getloadavg()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="windlass-bench-") as temporary:
        scratch = options.keep or Path(temporary)
        for name, part in PARTS.items():
            if options.only in (None, name):
                (scratch / name).mkdir(parents=True)
                found[name] = asyncio.run(part(options, scratch / name))
    document = {
        **found,
        "goals": goals(found, options),
        "sizes": {
            "jobs": options.jobs,
            "podsPerJob": options.nodes,
            "namespaces": options.namespaces,
            "finished": options.finished,
        },
        "played": PLAYED,
        "programs": plane.versions(),
        "loadAverageBefore": load,
        "loadAverageAfter": os.getloadavg(),
        "seconds": round(time.monotonic() - began),
    }
    write(
        f"operator-{options.only}" if options.only else "operator", document, ("kopf", "aiohttp", "pydantic")
    )


if __name__ == "__main__":
    main()
