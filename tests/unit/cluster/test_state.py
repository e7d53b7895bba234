"""The record of a cluster, what `down` removes by it, and what `status` says from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from windlass.cli.cluster import cgroups, command, down, errors, kind, sandbox, state, status, up
from windlass.cli.cluster.commands import CommandFailed, run
from windlass.cli.cluster.paths import Layout, cache_directory, default_directory, repository_root


def a_state(layout: Layout, **more: Any) -> state.State:
    return state.State("embedded", str(layout.directory), "/srv/repository", "198.18.0.0/15", **more)


def test_state_comes_back_as_written(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "cluster")
    written = a_state(layout, cgroups=["/sys/fs/cgroup/x"], sysctls={"net/a": "0"}, setup_seconds=1.5)
    state.write(layout, written)
    assert state.read(layout) == written


@pytest.mark.parametrize("text", ["", "{", '{"provider": "emb'])
def test_state_cut_short_counts_as_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(text)
    assert state.read(Layout(tmp_path)) is None


def test_fields_of_another_version_are_passed_over(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    state.write(layout, a_state(layout))
    document = json.loads(layout.state.read_text())
    layout.state.write_text(json.dumps({**document, "fromTheFuture": 1}))
    assert state.read(layout) == a_state(layout)


@pytest.mark.parametrize("asked", [None, "10.99.0.0/16"])
def test_up_of_a_running_cluster_need_not_repeat_its_range(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: str | None
) -> None:
    layout = Layout(tmp_path)
    running = state.State("embedded", str(tmp_path), "/srv/repository", "10.99.0.0/16", ready=True)
    state.write(layout, running)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(up, "supervisor_is_alive", lambda _: True)
    monkeypatch.setattr(up, "_answers", lambda _: True)
    assert up.up(layout, repository=tmp_path, network_range=asked) == running


def test_reused_pid_is_not_the_supervisor(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    ticks = state.start_ticks(os.getpid())
    assert ticks is not None
    alive = a_state(layout, supervisor_pid=os.getpid(), supervisor_start_ticks=ticks)
    reused = a_state(layout, supervisor_pid=os.getpid(), supervisor_start_ticks=ticks - 1)
    assert (state.supervisor_is_alive(alive), state.supervisor_is_alive(reused)) == (True, False)
    assert not state.supervisor_is_alive(a_state(layout))


def test_process_that_waits_to_be_reaped_is_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert state.start_ticks(child.pid) is None
    child.wait()


@pytest.mark.parametrize("name", ["state.json", "lock"])
def test_own_directory_is_accepted(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("")
    (tmp_path / "logs").mkdir()
    state.check_directory(Layout(tmp_path))


def test_empty_and_absent_directories_are_accepted(tmp_path: Path) -> None:
    state.check_directory(Layout(tmp_path))
    state.check_directory(Layout(tmp_path / "absent"))


def test_lock_is_free_again_after_an_error(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "cluster")
    with pytest.raises(KeyError), state.locked(layout):
        raise KeyError
    with state.locked(layout):
        assert layout.lock.read_text() == str(os.getpid())


def test_directories_differ_in_identity_and_keep_it(tmp_path: Path) -> None:
    one, two = Layout(tmp_path / "one"), Layout(tmp_path / "two")
    assert one.identity == Layout(tmp_path / "one").identity != two.identity


def test_all_files_lie_below_the_directory(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    paths = [*layout.owned(), *layout.overlays.values(), layout.plan, layout.processes, layout.lock]
    assert all(path.is_relative_to(tmp_path) and path != tmp_path for path in paths)
    for path in [*layout.overlays.values(), layout.plan, layout.processes]:
        assert any(path.is_relative_to(owned) for owned in layout.owned())


def test_places_follow_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WINDLASS_CLUSTER_DIRECTORY", str(tmp_path / "here"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_directory() == tmp_path / "here"
    assert cache_directory() == tmp_path / "cache" / "windlass"
    monkeypatch.delenv("WINDLASS_CLUSTER_DIRECTORY")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_directory() == repository_root() / "build" / "cluster"
    assert cache_directory() == Path.home() / ".cache" / "windlass"


def test_down_removes_what_up_makes_and_leaves_the_rest(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    for path in layout.owned():
        path.mkdir() if not path.suffix else path.write_text("x")
    (tmp_path / "notes.txt").write_text("mine")
    down.remove_files(layout)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    down.remove_files(layout)


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    layout, outside = Layout(tmp_path / "cluster"), tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    layout.directory.mkdir()
    layout.volumes.symlink_to(outside)
    down.remove_files(layout)
    assert (outside / "precious").exists() and not layout.volumes.is_symlink()


def test_supervisor_is_found_by_its_directory_alone(tmp_path: Path) -> None:
    waits = "import signal; signal.pause()"
    (tmp_path / "windlass" / "cli" / "cluster").mkdir(parents=True)
    (tmp_path / "windlass" / "cli" / "cluster" / "supervisor.py").write_text(waits)
    one, two = Layout(tmp_path / "one"), Layout(tmp_path / "two")
    command_line = [sys.executable, "-m", sandbox.SUPERVISOR, str(one.directory), "/srv/repository"]
    child = subprocess.Popen(command_line, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    try:
        # Between exec and its first instruction a process has no command line yet.
        deadline = time.monotonic() + 10
        while not (found := sandbox.find(one)) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (found, sandbox.find(two)) == ([child.pid], [])
    finally:
        child.kill()
        child.wait()


def test_mounts_below_are_found_by_path_and_not_by_prefix() -> None:
    text = (
        "a /srv/cluster/one tmpfs rw 0 0\nb /srv/cluster-two tmpfs rw 0 0\n"
        "c /srv/cluster/with\\040space tmpfs rw 0 0\nd / ext4 rw 0 0\n"
    )
    assert down.mounts_below(Path("/srv/cluster"), text) == ["/srv/cluster/one", "/srv/cluster/with space"]


CGROUP_MOUNTS = """tmpfs /sys/fs/cgroup tmpfs rw 0 0
cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0
cgroup /sys/fs/cgroup/systemd cgroup rw,name=systemd 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0
proc /proc proc rw 0 0
"""


def test_every_hierarchy_is_found() -> None:
    assert [path.name for path in cgroups.hierarchies(CGROUP_MOUNTS)] == ["cpu", "systemd", "unified"]


def test_groups_are_made_and_removed_with_what_is_below(tmp_path: Path) -> None:
    mounts = f"cgroup {tmp_path}/cpuset cgroup rw,cpuset 0 0\n"
    (tmp_path / "cpuset").mkdir()
    made = cgroups.create("windlass-x", mounts)
    assert made == [f"{tmp_path}/cpuset/windlass-x"]
    (Path(made[0]) / "kubepods" / "pod").mkdir(parents=True)
    (tmp_path / "cpuset" / "other").mkdir()
    cgroups.remove([*made, str(tmp_path / "absent")])
    assert [path.name for path in (tmp_path / "cpuset").iterdir()] == ["other"]


def test_group_that_stays_busy_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "group" / "busy").mkdir(parents=True)
    (tmp_path / "group" / "busy" / "file").write_text("")
    monkeypatch.setattr(cgroups, "REMOVE_SECONDS", 0.0)
    with pytest.raises(errors.ClusterError, match="still holds processes"):
        cgroups.remove([str(tmp_path / "group")])


def test_controllers_are_handed_down_in_the_second_version(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory")
    (tmp_path / "cgroup.subtree_control").write_text("")
    cgroups.create("windlass-x", f"cgroup2 {tmp_path} cgroup2 rw 0 0\n")
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+memory"


def test_new_cpuset_is_filled_from_its_parent(tmp_path: Path) -> None:
    (tmp_path / "windlass-x").mkdir()
    for name, value in (("cpuset.cpus", "0-1\n"), ("cpuset.mems", "0\n")):
        (tmp_path / name).write_text(value)
        (tmp_path / "windlass-x" / name).write_text("\n")
    cgroups.create("windlass-x", f"cgroup {tmp_path} cgroup rw,cpuset 0 0\n")
    assert (tmp_path / "windlass-x" / "cpuset.cpus").read_text() == "0-1\n"


def test_status_of_nothing_says_how_to_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run_command(["status", "--directory", str(tmp_path)]) == command.EXIT_NOT_RUNNING
    assert "start it with: python -m windlass.cli.cluster up" in capsys.readouterr().out


def test_status_counts_restarts_and_names_the_last_exit() -> None:
    document = {
        "running": True,
        "provider": "embedded",
        "directory": "/d",
        "server": "https://s",
        "kubeconfig": "/d/kubeconfig",
        "setupSeconds": 12.4,
        "processes": {
            "etcd": {"pid": 7, "starts": 1, "lastExit": ""},
            "kubelet": {"pid": 0, "starts": 3, "lastExit": "exit 1"},
        },
    }
    text = status.render(document)
    assert "etcd                     up\n" in text
    assert "kubelet                  down (exit 1), restarted 2 times" in text
    assert "set up in    12 s" in text


def test_status_as_json_has_the_setup_seconds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = Layout(tmp_path)
    state.write(layout, a_state(layout, setup_seconds=3.0, phases_seconds={"node": 2.0}))
    assert command.run_command(["status", "--json", "--directory", str(tmp_path)]) == command.EXIT_NOT_RUNNING
    document = json.loads(capsys.readouterr().out)
    assert (document["running"], document["setupSeconds"], document["phasesSeconds"]) == (
        False,
        3.0,
        {"node": 2.0},
    )


def test_kubeconfig_of_nothing_is_an_error_with_a_hint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.run_command(["kubeconfig", "--directory", str(tmp_path)]) == command.EXIT_FAILED
    assert "no cluster is running" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["sideways"], ["up", "--provider", "magic"], ["down", "--network", "x"]]
)
def test_unknown_words_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.run_command(arguments)
    assert caught.value.code == 2


def test_kind_needs_both_programs_and_an_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not kind.available()
    for name, body in (("kind", "exit 0"), ("docker", "exit 1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    assert not kind.available()
    (tmp_path / "docker").write_text("#!/bin/sh\nexit 0\n")
    assert kind.available()


@pytest.mark.parametrize(
    ("listed", "expected"), [("windlass\n", True), ("windlass-other\n", False), ("", False)]
)
def test_only_the_kind_cluster_of_our_name_counts(
    listed: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kind, "run", lambda arguments, **_options: listed)
    assert kind.is_up() is expected


@pytest.mark.parametrize(
    ("provider", "available", "chosen"),
    [
        ("auto", True, "kind"),
        ("auto", False, "embedded"),
        ("embedded", True, "embedded"),
        ("kind", False, "kind"),
    ],
)
def test_provider_follows_the_machine_unless_it_is_chosen(
    provider: str, available: bool, chosen: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(kind, "available", lambda: available)
    monkeypatch.setattr(kind, "up", lambda layout, repository: calls.append("kind"))
    monkeypatch.setattr(command, "up", lambda layout, **_options: calls.append("embedded"))
    assert command.run_command(["up", "--provider", provider, "--directory", str(tmp_path)]) == 0
    assert calls == [chosen]


def test_failed_program_shows_its_words_and_status() -> None:
    with pytest.raises(CommandFailed, match="status 3: no luck"):
        run([sys.executable, "-c", "import sys; sys.stderr.write('no luck'); sys.exit(3)"])
    with pytest.raises(CommandFailed, match="nonexistent"):
        run(["/nonexistent"])
    assert run([sys.executable, "-c", "print(input())"], text_input="in") == "in\n"


def test_network_of_an_existing_cluster_cannot_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout(tmp_path)
    state.write(layout, a_state(layout))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(errors.ClusterError, match=r"got 10\.4\.0\.0/16\); allowed 198\.18\.0\.0/15"):
        up.up(layout, repository=tmp_path, network_range="10.4.0.0/16")
