"""What a user reads when the cluster cannot start: each names the thing, what was found and the next step."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from windlass.cli.cluster import binaries, debian, errors, network, sandbox, state, up
from windlass.cli.cluster.commands import CommandFailed
from windlass.cli.cluster.paths import Layout

FORM = re.compile(r"^[\w -]+: .+ \(got .+\); allowed .+\. hint: .+$", re.DOTALL)
MODULES = Path(__file__).resolve().parents[3] / "cluster"


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (errors.not_root(1000), ["needs root", "uid 1000", "sudo", "kind"]),
        (errors.go_is_missing("no go on PATH"), ["Go toolchain", "no go on PATH", "1.25", "go.dev/dl"]),
        (errors.build_failed("kubelet", "out of disk"), ["binary kubelet", "out of disk", "GOPROXY"]),
        (
            errors.programs_are_missing(["runc"], ["runc"], "no apt-get"),
            ["runc not found", "no apt-get", "install runc"],
        ),
        (
            errors.network_in_use("198.18.0.0/15", "route 198.18.3.0/24 of link tun0"),
            ["198.18.0.0/15 is in use", "tun0", "--network"],
        ),
        (errors.network_is_unusable("10.0.0.0/30", 20, "198.18.0.0/15"), ["10.0.0.0/30", "/20 or wider"]),
        (errors.network_differs("10.0.0.0/15", "198.18.0.0/15"), ["10.0.0.0/15", "198.18.0.0/15", "`down`"]),
        (
            errors.other_cluster_is_up("198.18.0.0/15", "/srv/one"),
            ["another cluster", "/srv/one", "down --directory /srv/one"],
        ),
        (errors.directory_is_foreign("/srv/data"), ["/srv/data", "not a cluster's", "--directory"]),
        (errors.directory_is_busy("/srv/one", "41"), ["/srv/one held by process 41", "wait"]),
        (errors.kernel_refuses("new namespaces", "EPERM"), ["new namespaces", "EPERM", "virtual machine"]),
        (errors.not_ready("node", 180.0, "kubelet exit 1"), ["node", "180 s", "kubelet exit 1", "logs"]),
        (errors.not_running("/srv/one"), ["no cluster is running", "/srv/one", "up"]),
    ],
    ids=lambda value: value.subject if isinstance(value, errors.ClusterError) else "",
)
def test_error_names_what_is_wrong_and_the_next_step(error: errors.ClusterError, parts: list[str]) -> None:
    text = str(error)
    assert FORM.match(text), text
    assert [part for part in parts if part not in text] == []


def test_every_error_of_the_module_is_in_the_table_above() -> None:
    source = Path(__file__).read_text()
    made = re.findall(r"^def (\w+)", Path(errors.__file__).read_text(), re.MULTILINE)
    assert [name for name in made if f"errors.{name}(" not in source] == []


def test_up_refuses_an_ordinary_user_before_it_touches_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(errors.ClusterError, match="needs root"):
        up.up(Layout(tmp_path / "cluster"), repository=tmp_path, network_range=network.DEFAULT_NETWORK)
    assert not (tmp_path / "cluster").exists()


def test_a_machine_without_go_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(errors.ClusterError, match="no go on PATH"):
        binaries.ensure(MODULES, tmp_path)


@pytest.mark.parametrize("printed", ["go1.19.4", "devel"])
def test_an_old_go_is_told_so(printed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go = tmp_path / "go"
    go.write_text(f"#!/bin/sh\necho {printed}\n")
    go.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(errors.ClusterError, match=rf"got {printed}.*1\.25 or newer"):
        binaries.go_version()


def test_a_go_that_fails_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go = tmp_path / "go"
    go.write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    go.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(errors.ClusterError, match="status 3: broken"):
        binaries.go_version()


def test_a_failed_build_shows_the_compiler_s_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = tmp_path / "go"
    go.write_text(
        '#!/bin/sh\n[ "$1" = env ] && echo go1.25.1 && exit 0\necho main.go:3: syntax error\nexit 1\n'
    )
    go.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(errors.ClusterError, match=r"binary kube-apiserver.*main\.go:3: syntax error"):
        binaries.ensure(MODULES, tmp_path / "cache")


def test_a_machine_without_apt_is_told_which_packages_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debian, "_SEARCH", str(tmp_path))
    monkeypatch.setattr(debian, "PLUGIN_DIRECTORIES", (str(tmp_path / "none"),))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(errors.ClusterError) as caught:
        debian.ensure(tmp_path / "cache")
    text = str(caught.value)
    assert "no apt-get on this machine" in text
    for word in ("etcd", "containerd", "runc", "nft", "etcd-server", "containernetworking-plugins"):
        assert word in text


def test_an_unreachable_archive_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("apt-get", "dpkg"):
        (tmp_path / name).write_text("#!/bin/sh\necho cannot resolve archive >&2\nexit 100\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(debian, "_SEARCH", str(tmp_path))
    monkeypatch.setattr(debian, "PLUGIN_DIRECTORIES", (str(tmp_path / "none"),))
    monkeypatch.setenv("PATH", f"{tmp_path}")
    (tmp_path / "sh").symlink_to("/bin/sh")
    with pytest.raises(errors.ClusterError, match=r"cannot resolve archive.*repair `apt-get update`"):
        debian.ensure(tmp_path / "cache")


def test_a_package_that_lacks_its_program_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "_SEARCH", str(tmp_path))
    monkeypatch.setattr(debian, "PLUGIN_DIRECTORIES", (str(tmp_path / "none"),))
    monkeypatch.setattr(debian, "_unpack", lambda packages, root, wanted: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(errors.ClusterError, match="not in the packages at"):
        debian.ensure(tmp_path / "cache")


def test_a_directory_with_foreign_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(errors.ClusterError, match="files that are not a cluster's"):
        state.check_directory(Layout(tmp_path))
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_a_file_in_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.ClusterError, match="files that are not a cluster's"):
        state.check_directory(Layout(tmp_path / "file"))


def test_a_directory_that_another_command_holds_is_refused(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "cluster")
    with (
        state.locked(layout),
        pytest.raises(errors.ClusterError, match=f"held by process {os.getpid()}"),
        state.locked(layout),
    ):
        raise AssertionError("the second command got the lock")


def test_a_kernel_without_namespaces_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(arguments: list[str], **_options: object) -> str:
        raise CommandFailed(f"{arguments[0]}: Operation not permitted")

    monkeypatch.setattr(sandbox, "run", refuse)
    with pytest.raises(errors.ClusterError, match=r"namespaces \(got unshare: Operation not permitted"):
        sandbox.check_permitted()


def test_what_does_not_come_up_in_time_shows_the_processes(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.processes.write_text('{"kubelet": {"lastExit": "exit 1"}}')
    with pytest.raises(errors.ClusterError, match=r"node: not ready after 0 s .*exit 1"):
        up._wait("node", 0.0, lambda: False, layout=layout)
    layout.processes.unlink()
    with pytest.raises(errors.ClusterError, match="no process was started"):
        up._wait("node", 0.0, lambda: False, layout=layout)
