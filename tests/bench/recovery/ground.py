"""Where gangs run in the benchmark: the embedded cluster, the chart, a namespace with the demo's model and data.

Claims are directories of this machine, so stores of runs are read where they lie, and every clock is the kernel's one.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.support import Jobs
from windlass.cli import release
from windlass.cli.access import Access, connect
from windlass.cli.cluster import main as cluster_main
from windlass.cli.cluster.paths import Layout, default_directory, repository_root
from windlass.cli.demo import command
from windlass.cli.demo.places import Places

CHECK_SECONDS = 3.0
KILL = """
import os, signal, sys, time
for entry in filter(str.isdigit, os.listdir("/proc")):
    try:
        name = open(f"/proc/{entry}/comm").read().strip()
    except OSError:
        continue
    if sys.argv[1] in (entry, name):
        at = time.time()
        os.kill(int(entry), signal.SIGKILL)
        print("killed", repr(at))
        break
"""


@dataclass(frozen=True, slots=True)
class Ground:
    """The cluster and one namespace of it."""

    access: Access
    jobs: Jobs
    demo: command.Demo

    @property
    def python(self) -> str:
        """The interpreter of workload pods."""
        return str(self.demo.values()["workload"]["python"])

    def kill(self, pod: str, process: str) -> float:
        """SIGKILL to a process of a pod, by id or name; the time just before, by the killer's own clock."""
        said = self.access.run_in(pod, [self.python, "-S", "-c", KILL, process])
        if "killed" not in said:
            raise AssertionError(f"no process {process} in {pod}: {said.strip()[-300:]}")
        return float(said.split("killed", 1)[1].split()[0])

    def manifest(self, name: str, changes: dict[str, Any]) -> dict[str, Any]:
        """The example's job (two pods of one rank) with blocks of its spec changed; None removes one."""
        made = command.manifest(self.demo)
        made["metadata"] = {"name": name, "namespace": self.access.namespace}
        for key, value in changes.items():
            if value is None:
                made["spec"].pop(key, None)
            else:
                made["spec"][key] = {**made["spec"].get(key, {}), **value}
        return made


@contextlib.contextmanager
def ground() -> Iterator[Ground]:
    """Brings up what is missing. The namespace goes at the end, the cluster stays as it was found."""
    layout, places = Layout(default_directory()), Places(repository_root())
    ran_before = layout.kubeconfig.exists()
    if not ran_before and cluster_main(["up"]) != 0:
        raise SystemExit("bench-recovery: the local cluster did not come up; see above")
    demo = command.Demo(argparse.Namespace(data=None, model=None, steps=None), places, layout)
    release.install(places.chart, kubeconfig=layout.kubeconfig, values=demo.values())
    namespace = f"bench-{os.urandom(4).hex()}"
    access = connect(kubeconfig=str(layout.kubeconfig), context=None, namespace=namespace)
    if not demo.values()["hostRoot"]["enabled"]:
        raise SystemExit("bench-recovery: reads stores as files. hint: use the embedded cluster, not kind")
    try:
        command.put_in_place(demo, access)
        command.wait_ready(access)
        yield Ground(access, Jobs(access.api, namespace, layout.volumes / namespace), demo)
    finally:
        access.core.delete_namespace(namespace)
        if not ran_before:
            cluster_main(["down"])


def tell(text: str) -> None:
    """One line of progress, at once."""
    print(text, file=sys.stderr, flush=True)


def new_directory(path: Path) -> Path:
    """A directory on a volume that pods may write to, whoever they are."""
    path.mkdir(parents=True)
    path.chmod(0o777)
    return path


def seldom(check: Callable[[], None]) -> Callable[[], None]:
    """The check, done at most every few seconds: asking the API server all the time would disturb what is timed."""
    last = time.monotonic()

    def checked() -> None:
        nonlocal last
        if time.monotonic() - last >= CHECK_SECONDS:
            check()
            last = time.monotonic()

    return checked
