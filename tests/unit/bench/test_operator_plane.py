"""The benchmark's control plane as data: who is started with what, and which nodes count."""

from __future__ import annotations

import json
import os
import re
import ssl
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.operator import __main__ as bench
from bench.operator import plane
from bench.operator.audit import Audit
from bench.operator.running import per_job
from contract.server import ROOT, Client
from unit.bench.test_operator_figures import SIZES


@pytest.fixture
def rig(tmp_path: Path) -> plane.Plane:
    return plane.Plane(
        Client("https://127.0.0.1:7", ssl.create_default_context()), tmp_path, Audit(tmp_path / "a")
    )


PROGRAMS = {name: Path("/x") / name for name in ("kube-scheduler", "kube-controller-manager", "kwok")}


def test_each_program_finds_the_api_server_and_files_that_are_there(rig: plane.Plane) -> None:
    config = plane.kubeconfig(rig)
    made = plane.commands(PROGRAMS, rig, config)
    assert [Path(command[0]).name for command in made] == list(PROGRAMS)
    cluster = json.loads(config.read_text())["clusters"][0]["cluster"]
    assert cluster["server"] == "https://127.0.0.1:7"
    for command in made[1:]:
        assert f"--kubeconfig={config}" in command
    scheduling = yaml.safe_load((rig.directory / "scheduler.yaml").read_text())
    assert scheduling["clientConnection"]["kubeconfig"] == str(config)
    for command in made:
        for name in re.findall(r"--config=(\S+)", " ".join(command)):
            assert Path(name).exists()


def test_programs_of_a_machine_that_runs_others_take_ports_of_their_own(rig: plane.Plane) -> None:
    made = plane.commands(PROGRAMS, rig, plane.kubeconfig(rig))
    ports = [flag for command in made for flag in command if flag.startswith("--secure-port=")]
    assert len(ports) == len(set(ports)) == 2
    assert sum("--bind-address=127.0.0.1" in command for command in made) == 2
    assert "--server-address=" in made[2], "kwok serves nobody"


def test_a_late_heartbeat_of_a_played_node_takes_no_pods_away(rig: plane.Plane) -> None:
    controllers = plane.commands(PROGRAMS, rig, plane.kubeconfig(rig))[1]
    assert "--node-monitor-grace-period=600s" in controllers


def test_nodes_have_room_for_their_pods() -> None:
    status = plane.node("played-0")["status"]
    assert status["capacity"] == status["allocatable"]
    assert int(status["capacity"]["pods"]) == plane.PODS_PER_NODE
    assert plane.node("played-0")["metadata"]["annotations"] == {"kwok.x-k8s.io/node": "fake"}


class Answers:
    """An API server that knows some nodes."""

    def __init__(self, *conditions: list[dict[str, str]]) -> None:
        self._items = [{"status": {"conditions": one}} for one in conditions] + [{"status": {}}]

    def get(self, path: str) -> Any:
        assert path == "/api/v1/nodes"
        return self

    def expect(self, *_: int) -> dict[str, Any]:
        return {"items": self._items}


def test_only_nodes_that_say_so_are_ready() -> None:
    ready, not_ready = {"type": "Ready", "status": "True"}, {"type": "Ready", "status": "Unknown"}
    assert plane.ready_nodes(Answers([ready], [not_ready], [{"type": "DiskPressure", "status": "True"}])) == 1  # type: ignore[arg-type]


def test_the_record_names_the_pinned_versions() -> None:
    found = plane.versions()
    assert set(found) == {"kubernetes", "kwok"}
    assert f"sigs.k8s.io/kwok {found['kwok']}" in (ROOT / "cluster" / "kwok" / "go.mod").read_text()


# --- the record ----------------------------------------------------------------------------------------


def options() -> Any:
    return type("Options", (), SIZES)()


RUNNING = {
    "bare": [{"seconds": 10.0}, {"seconds": 14.0}],
    "start": {"seconds": 18.0},
    "residentMegabytes": {"one": {"highest": 120.0}, "two": {"highest": 90.0}},
    "changes": {"latencySeconds": {"p99": 0.5}, "writesPerChange": 2.0},
    "storm": {"seconds": 12.0},
    "death": {"nextDecisionSeconds": 17.1, "duplicates": 0},
}


def test_every_goal_has_its_figure_in_a_whole_run() -> None:
    found = {"running": RUNNING, "finished": {"firstPassSeconds": 20.0, "restWrites": 0}}
    rows = bench.goals(found, options())
    assert {name: row["measured"] for name, row in rows.items()} == {
        "podsRatio": 1.5,
        "statusP99Seconds": 0.5,
        "residentMegabytes": 120.0,
        "writesPerChange": 2.0,
        "writesAtRest": 0,
        "firstPassSeconds": 20.0,
        "takeoverSeconds": 17.1,
        "duplicates": 0,
        "stormSeconds": 12.0,
    }
    assert all(row["within"] and row["fullSize"] for row in rows.values())


def test_a_run_of_the_start_alone_judges_nothing_else() -> None:
    only = {name: RUNNING[name] for name in ("bare", "start", "residentMegabytes")}
    assert set(bench.goals({"running": only}, options())) == {"podsRatio", "residentMegabytes"}


def test_changes_that_never_showed_do_not_pass() -> None:
    running = RUNNING | {"changes": {"latencySeconds": {"p99": None}, "writesPerChange": 2.0}}
    assert not bench.goals({"running": running}, options())["statusP99Seconds"]["within"]


def test_writes_are_told_for_each_job() -> None:
    assert per_job([], 4) == {"all": 0.0}


def test_processor_time_is_of_ones_own_children(tmp_path: Path) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    rows = {
        10: ("etcd", 7, 2, 1),
        11: ("kube (odd) name", 7, 4, 0),
        12: ("etcd", 7, 1, 0),
        13: ("etcd", 8, 9, 9),
    }
    for process, (name, parent, user, system) in rows.items():
        (tmp_path / str(process)).mkdir()
        rest = ["S", parent, *[0] * 9, user * ticks, system * ticks, 0]
        (tmp_path / str(process) / "stat").write_text(f"{process} ({name}) {' '.join(map(str, rest))}")
    (tmp_path / "14").mkdir()
    assert plane.cpu_seconds(7, tmp_path) == {"etcd": 4.0, "kube (odd) name": 4.0}
