"""Runs real agents on loopback for tests and looks at what they leave behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from windlass.api.contract import Incarnation, ReportTarget, RunConfig, RunIdentity, Verdict
from windlass.api.finetune import FineTuneJobSpec
from windlass_workloads.checkpoint import choose, incarnations
from windlass_workloads.checkpoint.store import RunStore

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]


def spec(**changes: Any) -> FineTuneJobSpec:
    custom, steps = changes.pop("custom", None), changes.pop("steps", 40)
    work: dict[str, Any] = {
        "model": {"uri": "pvc://models/tiny"},
        "data": {"sources": [{"uri": "pvc://data/train.jsonl"}]},
        "training": {"globalBatchSize": 2, "maxSteps": steps},
    }
    plain: dict[str, Any] = {
        **(work if custom is None else {"custom": {"command": custom}}),
        "resume": {"from": changes.pop("resume", "Latest")},
        "resources": {
            "nodes": changes.pop("nodes", 1),
            "ranksPerNode": changes.pop("ranks", 2),
        },
        "checkpoint": {
            "store": "pvc://store",
            "everySteps": changes.pop("every", 5),
            "async": changes.pop("in_background", False),
        },
        "recovery": {
            "backOffSeconds": changes.pop("back_off", 0),
            "terminationGracePeriodSeconds": changes.pop("grace", 20),
            "budgets": changes.pop("budgets", {}),
            "ladder": changes.pop("ladder", ["InPlace", "RecreatePod", "Shrink", "RecreateGang"]),
            "elastic": changes.pop("elastic", None),
        },
        "guards": {"stall": changes.pop("stall", {}), **changes.pop("guards", {})},
    }
    assert changes == {}, changes
    return FineTuneJobSpec.model_validate(plain)


def config(store: Path, *, attempt: int = 1, report: ReportTarget | None = None, **changes: Any) -> RunConfig:
    return RunConfig(
        run=RunIdentity(kind="FineTuneJob", namespace="team", name="toy", uid="uid-1"),
        attempt=attempt,
        spec=spec(**changes),
        leader_host="127.0.0.1",
        store_path=str(store),
        report=report,
        tasks="toy_tasks",
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(what: str, condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s for: {what}"
        time.sleep(0.01)
    return found


@dataclass
class Agent:
    """One agent process with its termination message and log."""

    index: int
    ticket: int
    process: subprocess.Popen[bytes]
    directory: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    @property
    def verdict(self) -> Verdict:
        return Verdict.model_validate_json((self.directory / "termination-log").read_bytes())

    def children(self) -> list[int]:
        return children_of(self.pid)

    def ranks(self) -> list[int]:
        """Ranks lead their own session; the warm parent does not."""
        return [pid for pid in self.children() if session_of(pid) == pid]

    def warm(self) -> int:
        (found,) = [pid for pid in self.children() if session_of(pid) != pid]
        return found

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self, seconds: float = 30.0) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"agent {self.index} did not end; its log:\n{self.log}") from None


@dataclass
class Run:
    """A run: its store, its configuration and all agents ever started for it."""

    directory: Path
    config: RunConfig
    port: int = field(default_factory=free_port)
    agents: list[Agent] = field(default_factory=list)
    ticket: int = 0
    environment: dict[str, str] = field(default_factory=dict)
    arguments: list[str] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)

    @property
    def store(self) -> RunStore:
        return RunStore(self.config.store_path)

    def start(
        self, index: int = 0, *, ticket: int | None = None, uid: str | None = None, **more: Any
    ) -> Agent:
        self.ticket = self.ticket + 1 if ticket is None else ticket
        attempt = more.pop("attempt", self.config.attempt)
        directory = self.directory / f"agent-{index}-{self.ticket}-{len(self.agents)}"
        directory.mkdir(parents=True)
        run_config = directory / "run.json"
        run_config.write_text(
            self.config.model_copy(update={"attempt": attempt}).model_dump_json(by_alias=True)
        )
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT / "operator"), str(ROOT / "workloads"), str(HERE)]),
            "POD_NAME": f"toy-{index}-{self.ticket}",
            "POD_UID": uid or f"pod-{index}-{self.ticket}",
            "POD_IP": "127.0.0.1",
            "NODE_NAME": f"node-{index}",
            "WINDLASS_INDEX": str(index),
            "WINDLASS_TICKET": str(self.ticket),
            "WINDLASS_ATTEMPT": str(attempt),
            **self.environment,
        }
        arguments = ["--run-config", str(run_config), "--bind", "127.0.0.1", "--port", str(self.port)]
        arguments += ["--termination-log", str(directory / "termination-log")]
        # Toys import at once: what a real pod's imports hide would be waited for here.
        arguments += ["--quiet-seconds", "2", *self.arguments]
        arguments += more.pop("arguments", [])
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "windlass_workloads.agent", *arguments],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        agent = Agent(index=index, ticket=self.ticket, process=process, directory=directory)
        self.agents.append(agent)
        return agent

    def start_all(self) -> list[Agent]:
        return [self.start(index) for index in range(self.config.spec.resources.nodes)]

    def order(self, rank: object, step: int, what: str) -> None:
        self.store.root.mkdir(parents=True, exist_ok=True)
        self.store.write(f"fault-{rank}-{step}", what.encode())

    def newest(self) -> Incarnation | None:
        return incarnations.newest(self.store)

    def incarnation(self) -> int:
        newest = self.newest()
        return newest.incarnation if newest else 0

    def rows(self, name: str = "timeline.jsonl") -> list[dict[str, Any]]:
        return self.store.read_lines(name)

    def recoveries(self) -> list[dict[str, Any]]:
        return [row["recovery"] for row in self.rows() if "recovery" in row]

    def sign(self) -> dict[str, Any]:
        return json.loads(self.store.read("leader.json") or b"{}")

    def verified(self) -> list[int]:
        return [each.step for each in choose.candidates(self.store) if each.problem is None]

    def reach(self, incarnation: int, step: int = 1) -> None:
        """Waits until this incarnation has a checkpoint of at least this step."""
        wait_for(
            f"checkpoint of step {step} in incarnation {incarnation}",
            lambda: any(
                each.incarnation >= incarnation and each.step >= step and each.problem is None
                for each in choose.candidates(self.store)
            ),
        )

    def training(self, incarnation: int, ranks: int | None = None) -> None:
        """Waits until all ranks of this incarnation have begun their first step."""
        wanted = self.config.spec.resources.nodes * self.config.spec.resources.ranks_per_node
        wait_for(
            f"first step of incarnation {incarnation}",
            lambda: (
                len([r for r in self.rows("forward.jsonl") if r["incarnation"] == incarnation])
                >= (ranks or wanted)
            ),
        )

    def note_processes(self) -> None:
        for agent in self.agents:
            if agent.process.poll() is None:
                self.seen.update(agent.children())

    def close(self) -> None:
        self.note_processes()
        for agent in self.agents:
            if agent.process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(agent.pid, signal.SIGKILL)
            agent.process.wait()


def orphans(store: Path) -> list[int]:
    """Processes that still work for a run: ranks and warm parents carry its store in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (
                    str(store).encode() in (entry / "environ").read_bytes()
                    and state_of(int(entry.name)) != "Z"
                ):
                    found.append(int(entry.name))
    return found


def children_of(parent: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit()
            and (fields := stat_of(int(entry.name)))
            and fields[1] == str(parent)
            and fields[0] != "Z"
        ]
    return []


def stat_of(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def state_of(pid: int) -> str:
    fields = stat_of(pid)
    return fields[0] if fields else "gone"


def session_of(pid: int) -> int:
    fields = stat_of(pid)
    return int(fields[3]) if fields else -1


MakeRun = Callable[..., Run]
