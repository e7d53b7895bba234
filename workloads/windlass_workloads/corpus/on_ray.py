"""Runs tasks by Ray Data: on this node, or on a cluster of Ray's own where RAY_ADDRESS names one.

Called by `tasks`. Each task is a row of a block of its own, so that workers take the next one when they are done with
one. Results are on the disk; Ray carries the tasks and their errors only.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from windlass.api.meta import FailureClass, Reason
from windlass_workloads.corpus.tasks import Task, perform
from windlass_workloads.data.errors import WorkloadError

STORE_BYTES: Final = 80 << 20
"""Memory that Ray shares between processes here, the least it takes; tasks are small."""
QUIET: Final = ("ray", "ray.data")


@contextmanager
def started(workers: int) -> Iterator[None]:
    """The cluster that RAY_ADDRESS names, else Ray on this node with so many processes, reachable from here only."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if os.environ.get("RAY_ADDRESS"):
        # Workers of a cluster: how many there are is its own affair.
        ray.init(**quiet)
    else:
        ray.init(
            address="local",
            num_cpus=workers,
            include_dashboard=False,
            object_store_memory=STORE_BYTES,
            _node_ip_address="127.0.0.1",
            **quiet,
        )
    try:
        yield
    finally:
        ray.shutdown()


def perform_on_ray(tasks: Sequence[Task], workers: int) -> Iterator[int]:
    """Run all, so many at a time; the number of each one that has run. The first error ends the rest."""
    import ray

    context = ray.data.DataContext.get_current()
    # Only now: Ray Data sets its own loggers up when it is first used.
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    rows = [{"number": number} for number in range(len(tasks))]
    known, pool = ray.put(list(tasks)), ray.data.TaskPoolStrategy(size=workers)
    data = ray.data.from_items(rows, override_num_blocks=len(rows))
    for row in data.map(run_one, fn_args=(known,), compute=pool, num_cpus=1).iter_rows():
        if row["problem"]:
            raise problem_of(row["problem"])
        yield int(row["number"])


def run_one(row: dict[str, Any], tasks: Any) -> dict[str, Any]:
    """One task, in a worker. What is wrong with the data or the disk travels as text: Ray would wrap the error."""
    import ray

    found: list[Task] = ray.get(tasks) if isinstance(tasks, ray.ObjectRef) else tasks
    try:
        perform(found[row["number"]])
    except (WorkloadError, OSError) as error:
        return row | {"problem": as_text(error)}
    return row | {"problem": ""}


def as_text(error: WorkloadError | OSError) -> str:
    """An error as JSON."""
    if isinstance(error, OSError):
        return json.dumps({"errno": error.errno, "message": error.strerror or str(error)})
    said = {name: getattr(error, name) for name in ("reason", "message", "hint", "evidence", "failure_class")}
    return json.dumps(said)


def problem_of(text: str) -> WorkloadError | OSError:
    """The error again."""
    said = json.loads(text)
    if "errno" in said:
        return OSError(said["errno"], said["message"])
    return WorkloadError(
        Reason(said["reason"]),
        said["message"],
        hint=said["hint"],
        evidence=tuple(said["evidence"]),
        failure_class=FailureClass(said["failure_class"]),
    )
