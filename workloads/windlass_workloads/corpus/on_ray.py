"""Runs tasks by Ray: on this node, or on a cluster of Ray's own where RAY_ADDRESS names one.

Called by `tasks`. Workers take the next task when they are done with one, and Ray gives that of a worker that died to
another. Results are on the disk; Ray carries the tasks and their errors only.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Final

from windlass.api.meta import FailureClass, Reason
from windlass_workloads.corpus.tasks import Task, perform
from windlass_workloads.data.errors import WorkloadError

STORE_BYTES: Final = 80 << 20
"""Memory that Ray shares between processes here, the least it takes; tasks are small."""


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
    """Run all, so many at a time, those first that are first; the number of each one that has run.

    After the first error no other task begins; those that have begun end with Ray.
    """
    import ray

    begin = ray.remote(num_cpus=1)(run_one)
    waiting = iter(enumerate(tasks))
    running: dict[Any, int] = {}

    def fill() -> None:
        # One more than there are workers: the next task is there when one is done.
        for number, task in islice(waiting, workers + 1 - len(running)):
            running[begin.remote(task)] = number

    fill()
    while running:
        (done,), _ = ray.wait(list(running), num_returns=1)
        number, problem = running.pop(done), ray.get(done)
        if problem:
            raise problem_of(problem)
        fill()
        yield number


def run_one(task: Task) -> str:
    """One task, in a worker. What is wrong with the data or the disk travels as text: Ray would wrap the error."""
    try:
        perform(task)
    except (WorkloadError, OSError) as error:
        return as_text(error)
    return ""


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
