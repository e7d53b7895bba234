"""Which programs are built or unpacked, from what, and when the cache is used."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from windlass.cli.cluster import addons, binaries, debian
from windlass.cli.cluster.paths import KUBERNETES_VERSION, repository_root

MODULES = repository_root() / "cluster"


@pytest.fixture
def fake_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `go` that writes the wanted files as Go names them, and records its arguments and settings."""
    log = tmp_path / "calls"
    folder = tmp_path / "path"
    folder.mkdir()
    script = (
        '#!/bin/sh\n[ "$1" = env ] && echo go1.26.8 && exit 0\n'
        f'echo "$CGO_ENABLED $GOTOOLCHAIN $GOFLAGS $*" >> {log}\n'
        'while [ "$1" != -o ]; do shift; done\n'
        'out="$2"; shift 2\n'
        'case "$out" in */) for package; do echo built > "$out$(basename "$package")"; done ;; '
        '*) echo built > "$out" ;; esac\n'
    )
    (folder / "go").write_text(script)
    (folder / "go").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return log


def test_everything_is_built_once_and_then_found(fake_go: Path, tmp_path: Path) -> None:
    built = binaries.ensure(MODULES, tmp_path / "cache")
    names = {
        "kube-apiserver",
        "kubectl",
        "kube-controller-manager",
        "kube-scheduler",
        "kubelet",
        "kube-proxy",
    }
    assert set(built) == names | {"coredns", "pause"}
    assert all(path.read_text() == "built\n" for path in built.values())
    lines = fake_go.read_text().splitlines()
    assert len(lines) == len(binaries.MODULES), "programs of one module are built together"
    assert binaries.ensure(MODULES, tmp_path / "cache") == built
    assert fake_go.read_text().splitlines() == lines


def test_played_nodes_are_built_for_who_asks_and_for_no_cluster(fake_go: Path, tmp_path: Path) -> None:
    assert "kwok" not in binaries.ensure(MODULES, tmp_path / "cache")
    built = binaries.ensure(MODULES, tmp_path / "cache", binaries.SCALE_MODULES)
    assert {name: path.read_text() for name, path in built.items()} == {"kwok": "built\n"}
    assert fake_go.read_text().splitlines()[-1].endswith("sigs.k8s.io/kwok/cmd/kwok")


def test_builds_are_static_pinned_and_stamped(fake_go: Path, tmp_path: Path) -> None:
    binaries.ensure(MODULES, tmp_path / "cache")
    for line in fake_go.read_text().splitlines():
        assert line.startswith("0 local -buildvcs=false build -trimpath -mod=readonly")
    (api_server,) = [line for line in fake_go.read_text().splitlines() if "kube-apiserver" in line]
    assert f"-X k8s.io/component-base/version.gitVersion={KUBERNETES_VERSION}" in api_server


def test_interrupted_build_is_not_taken_for_a_program(fake_go: Path, tmp_path: Path) -> None:
    first = binaries.ensure(MODULES, tmp_path / "cache")
    left = first["kubelet"].parent / ".new"
    left.mkdir()
    first["kubelet"].rename(left / "kubelet")
    again = binaries.ensure(MODULES, tmp_path / "cache")
    assert again["kubelet"].read_text() == "built\n"
    assert not left.exists()
    only = fake_go.read_text().splitlines()[-1]
    assert only.endswith("k8s.io/kubernetes/cmd/kubelet"), "what is there already is not built again"


@pytest.mark.parametrize(
    ("name", "changes"),
    [("go.mod", True), ("go.sum", True), ("main.go", True), ("part/main.go", True), ("README.md", False)],
)
def test_place_in_the_cache_follows_the_pins(name: str, changes: bool, tmp_path: Path) -> None:
    module = binaries.MODULES[-1]
    (tmp_path / "part").mkdir()
    for file in ("go.mod", "go.sum", "main.go", "part/main.go"):
        (tmp_path / file).write_text("one")
    before = binaries.module_hash(tmp_path, module, "go1.26.8")
    (tmp_path / name).write_text("two")
    assert (binaries.module_hash(tmp_path, module, "go1.26.8") != before) is changes
    assert binaries.module_hash(tmp_path, module, "go1.27.0") != before


@pytest.mark.parametrize(
    "module", (*binaries.MODULES, *binaries.SCALE_MODULES), ids=lambda module: module.name
)
def test_each_program_is_a_pinned_tool_of_its_module(module: binaries.Module) -> None:
    text = (MODULES / module.name / "go.mod").read_text()
    for package in module.programs.values():
        if package.startswith("."):
            assert (MODULES / module.name / package / "main.go").is_file()
        else:
            assert re.search(rf"^(tool|\t)\s*{re.escape(package)}$", text, re.MULTILINE), package
    if module.name != "pause":
        assert (MODULES / module.name / "go.sum").stat().st_size > 10_000


def test_kubernetes_and_its_parts_have_matching_versions() -> None:
    text = (MODULES / "kubernetes" / "go.mod").read_text()
    assert re.search(rf"k8s\.io/kubernetes {re.escape(KUBERNETES_VERSION)}\b", text)
    replaced = dict(re.findall(r"\t(k8s\.io/[\w-]+) => k8s\.io/[\w-]+ (v[\d.]+)", text))
    assert len(replaced) >= 25
    assert set(replaced.values()) == {KUBERNETES_VERSION.replace("v1.", "v0.")}


def test_dns_server_knows_every_plugin_of_its_configuration_and_no_other() -> None:
    source = (MODULES / "kubernetes" / "coredns" / "main.go").read_text()
    built = set(re.findall(r'_ "github.com/coredns/coredns/plugin/(\w+)"', source))
    ordered = re.search(r"Directives = \[\]string\{(.*)\}", source)
    assert ordered is not None and set(re.findall(r'"(\w+)"', ordered[1])) == built
    used = {
        line.split()[0]
        for forwarders in ([], ["192.0.2.1"])
        for line in addons.corefile(forwarders).splitlines()
        if re.match(r" {4}\w", line)
    }
    assert used == built


def test_simulated_installation_lists_what_is_missing() -> None:
    output = (
        "NOTE: This is only a simulation!\nReading package lists...\n"
        "Inst libnftnl11 (1.2.4-2 Debian:12.15/oldstable [amd64])\n"
        "Inst runc (1.1.5 Debian:12, Debian-Security:12 [amd64])\nConf runc (1.1.5)\n"
    )
    assert debian.parse_simulation(output) == ["libnftnl11", "runc"]


def programs_in(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)


def test_programs_of_the_machine_are_used_where_all_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs_in(tmp_path / "bin", list(debian.PROGRAMS))
    programs_in(tmp_path / "cni", list(debian.PLUGINS))
    monkeypatch.setattr(debian, "_SEARCH", str(tmp_path / "bin"))
    monkeypatch.setattr(debian, "PLUGIN_DIRECTORIES", (str(tmp_path / "cni"),))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    found = debian.ensure(tmp_path / "cache")
    assert {path.parent for path in found.paths.values()} == {tmp_path / "bin"}
    assert found.plugins == tmp_path / "cni"
    assert "LD_LIBRARY_PATH" not in found.environment()
    assert not (tmp_path / "cache").exists()


def test_missing_programs_are_unpacked_once_with_their_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked: list[list[str]] = []

    def unpack(packages: list[str], root: Path, wanted: list[str]) -> None:
        unpacked.append(packages)
        programs_in(root / "usr/sbin", ["nft", "iptables"])
        (root / "complete").touch()

    programs_in(tmp_path / "bin", [name for name in debian.PROGRAMS if name not in ("nft", "iptables")])
    programs_in(tmp_path / "cni", list(debian.PLUGINS))
    monkeypatch.setattr(debian, "_unpack", unpack)
    monkeypatch.setattr(debian, "_SEARCH", str(tmp_path / "bin"))
    monkeypatch.setattr(debian, "PLUGIN_DIRECTORIES", (str(tmp_path / "cni"),))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    found = debian.ensure(tmp_path / "cache")
    debian.ensure(tmp_path / "cache")
    assert unpacked == [["iptables", "nftables"]]
    environment = found.environment()
    assert shutil.which("nft", path=environment["PATH"]) == str(found.paths["nft"])
    assert environment["LD_LIBRARY_PATH"].startswith(str(tmp_path / "cache"))
    assert environment["XTABLES_LIBDIR"] == environment["LD_LIBRARY_PATH"].split(":")[0] + "/xtables"


def test_packages_are_unpacked_and_linked_as_their_installation_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools, root = tmp_path / "tools", tmp_path / "root"
    tools.mkdir()
    (tools / "apt-get").write_text(
        '#!/bin/sh\n[ "$1" = -s ] && echo "Inst iptables (1.8.9 Debian)" && exit 0\ntouch "$2_1_amd64.deb"\n'
    )
    (tools / "dpkg").write_text(
        '#!/bin/sh\nmkdir -p "$3/usr/sbin"; echo x > "$3/usr/sbin/xtables-nft-multi"\n'
    )
    for tool in tools.iterdir():
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    debian._unpack(["iptables"], root, ["iptables"])
    links = sorted(path.name for path in (root / "bin").iterdir())
    assert links == sorted(debian._IPTABLES_NAMES)
    assert (root / "bin/iptables-save").read_text() == "x\n"
    assert (root / "complete").exists() and not (root / "downloads").exists()
