"""Memory of one operator that knows thousands of live jobs with everything that belongs to them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
JOBS = 5000
PROGRAM = """
import gc, json, sys
from pathlib import Path

from unit.core.builders import SETTINGS, a_job
from windlass.core.render.gang import whole_gang
from windlass.shell import operator
from windlass.shell.cache import slim_child, slim_job, slim_pod
from windlass.shell.observe import Caches


def resident():
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split("kB")[0]) / 1024


def arrive(body, number):
    # As from the server: every text is new, and so are the writer's notes.
    body = json.loads(json.dumps(body))
    metadata = body["metadata"]
    metadata |= {"name": f"{metadata['name']}-{number}", "namespace": f"team-{number % 50}"}
    metadata |= {"uid": f"{body['kind']}-{metadata['name']}", "resourceVersion": str(number + 1)}
    metadata |= {"creationTimestamp": "2026-11-23T12:00:00Z"}
    metadata["managedFields"] = [{"manager": "windlass", "fieldsV1": {f"f:{n}": {} for n in range(60)}}]
    for owner in metadata.get("ownerReferences", ()):
        owner["uid"] = f"FineTuneJob-triage-{number}"
    return body


job = a_job().on_attempt(1, 1, 2)
built = job.build()
children = [dict(item) for item in whole_gang(built, built.spec, settings=SETTINGS)]
times = {"startTime": "2026-11-23T12:00:00Z", "podIP": "10.0.0.1", "phase": "Running"}
states = [{"name": "agent", "state": {"running": {"startedAt": "2026-11-23T12:00:00Z"}}, "imageID": "x" * 90}]
row = {"incarnation": 1, "rung": "InPlace", "class": "Crash", "evidence": ["line " * 12] * 8}
row |= {"seconds": {name: 0.5 for name in ("detect", "stop", "decide", "place", "load", "total")}}
status = {**job.body.get("status", {}), "recoveries": [row] * 5}
status["checkpoints"] = [{"step": n, "name": f"step-{n:08d}.i1", "digest": "d" * 64} for n in range(10)]
caches, before = Caches(), resident()
for number in range(int(sys.argv[1])):
    caches.jobs.upsert(slim_job(arrive({**job.body, "kind": "FineTuneJob", "status": status}, number)))
    for body in children:
        if body["kind"] == "Pod":
            caches.pods.upsert(slim_pod(arrive({**body, "status": {**times, "containerStatuses": states}}, number)))
        else:
            caches.of(body["kind"]).upsert(slim_child(arrive(body, number)))
gc.collect()
counts = {"jobs": len(caches.jobs), "pods": len(caches.pods)}
counts |= {kind: len(cache) for kind, cache in caches.children.items()}
assert len(caches.pods.find("FineTuneJob-triage-7")) == 2
print(json.dumps({"before": before, "after": resident(), **counts}))
"""


@pytest.mark.fault("F9")
def test_five_thousand_live_jobs_take_less_than_three_quarters_of_the_containers_memory() -> None:
    folders = [str(ROOT / name) for name in ("operator", "workloads", "tests")]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(JOBS)],
        env={"PYTHONPATH": ":".join(folders)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert (found["jobs"], found["pods"], found["Service"]) == (JOBS, 2 * JOBS, JOBS)
    values = yaml.safe_load((ROOT / "charts" / "windlass" / "values.yaml").read_text())
    limit = values["operator"]["resources"]["limits"]["memory"]
    assert limit == "512Mi"
    assert found["after"] <= 0.75 * 512, f"{found['before']:.0f} MiB were there before any job"
