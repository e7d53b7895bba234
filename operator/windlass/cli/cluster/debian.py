"""Find etcd, containerd, runc, CNI plugins, iptables and nft: on PATH, or unpacked from Debian packages.

Called by `up`. Packages are downloaded by apt (which checks their signatures) and unpacked into the
user's cache. It must never install a package, start a service or write outside the cache.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from windlass.cli.cluster import errors
from windlass.cli.cluster.commands import CommandFailed, run
from windlass.cli.cluster.console import say

# program -> the Debian package that has it
PROGRAMS = {
    "etcd": "etcd-server",
    "containerd": "containerd",
    "containerd-shim-runc-v2": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "nft": "nftables",
    "ip": "iproute2",
}
PLUGINS = ("bridge", "host-local", "loopback", "portmap")
PLUGIN_PACKAGE = "containernetworking-plugins"
PLUGIN_DIRECTORIES = ("/usr/lib/cni", "/opt/cni/bin")
_SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_IPTABLES_NAMES = tuple(
    f"{family}{suffix}" for family in ("iptables", "ip6tables") for suffix in ("", "-save", "-restore")
)


@dataclass(frozen=True, slots=True)
class Programs:
    """Where the programs are and what the environment must hold to run them."""

    paths: dict[str, Path]
    plugins: Path
    search_path: str
    shared_libraries: str

    def environment(self) -> dict[str, str]:
        """Environment of every process of the cluster."""
        values = {"PATH": self.search_path, "HOME": str(Path.home())}
        if self.shared_libraries:
            values["LD_LIBRARY_PATH"] = self.shared_libraries
            values["XTABLES_LIBDIR"] = f"{self.shared_libraries.split(':')[0]}/xtables"
        return values


def ensure(cache: Path) -> Programs:
    """Find or unpack every program. Raises ClusterError naming what is missing and its package."""
    search = f"{os.environ.get('PATH', '')}:{_SEARCH}"
    missing = [name for name in PROGRAMS if shutil.which(name, path=search) is None]
    plugins = _plugin_directory([Path(item) for item in PLUGIN_DIRECTORIES])
    packages = sorted({PROGRAMS[name] for name in missing} | (set() if plugins else {PLUGIN_PACKAGE}))
    if not packages:
        return _programs(search, plugins or Path(PLUGIN_DIRECTORIES[0]), "")
    root = cache / "debian" / _key(packages)
    if not (root / "complete").exists():
        _unpack(packages, root, missing or list(PLUGINS))
    own = ":".join(str(root / item) for item in ("bin", "usr/sbin", "usr/bin", "sbin", "bin"))
    search = f"{own}:{search}"
    library = root / "usr" / "lib" / _multiarch()
    unpacked = _plugin_directory([root / "usr/lib/cni"])
    still = [name for name in PROGRAMS if shutil.which(name, path=search) is None]
    if still or (plugins or unpacked) is None:
        raise errors.programs_are_missing(still or list(PLUGINS), packages, f"not in the packages at {root}")
    return _programs(search, plugins or unpacked or root, f"{library}:{root / 'lib' / _multiarch()}")


def _programs(search: str, plugins: Path, shared_libraries: str) -> Programs:
    paths = {name: Path(shutil.which(name, path=search) or name) for name in PROGRAMS}
    return Programs(paths=paths, plugins=plugins, search_path=search, shared_libraries=shared_libraries)


def _plugin_directory(candidates: list[Path]) -> Path | None:
    for candidate in candidates:
        if all((candidate / plugin).exists() for plugin in PLUGINS):
            return candidate
    return None


def _multiarch() -> str:
    return f"{platform.machine()}-linux-gnu"


def _key(packages: list[str]) -> str:
    release = Path("/etc/os-release").read_text() if Path("/etc/os-release").exists() else ""
    text = "\n".join([platform.machine(), release, *packages])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _unpack(packages: list[str], root: Path, wanted: list[str]) -> None:
    for tool in ("apt-get", "dpkg"):
        if shutil.which(tool) is None:
            raise errors.programs_are_missing(wanted, packages, f"no {tool} on this machine")
    shutil.rmtree(root, ignore_errors=True)
    downloads = root / "downloads"
    downloads.mkdir(parents=True)
    say(f"downloading Debian packages: {' '.join(packages)}")
    try:
        closure = _closure(packages)
        run(["apt-get", "download", *closure], directory=str(downloads), timeout_seconds=600)
        for archive in sorted(downloads.glob("*.deb")):
            run(["dpkg", "-x", str(archive), str(root)])
    except CommandFailed as failed:
        raise errors.programs_are_missing(wanted, packages, str(failed)) from failed
    shutil.rmtree(downloads)
    # What Debian's update-alternatives would link at installation.
    (root / "bin").mkdir(exist_ok=True)
    for name in _IPTABLES_NAMES:
        if (root / "usr/sbin/xtables-nft-multi").exists() and not (root / "bin" / name).is_symlink():
            (root / "bin" / name).symlink_to("../usr/sbin/xtables-nft-multi")
    (root / "complete").touch()


def _closure(packages: list[str]) -> list[str]:
    """The packages and those they need that are not installed here."""
    simulate = ["apt-get", "-s", "install", "--no-install-recommends", *packages]
    try:
        output = run(simulate)
    except CommandFailed:
        say("refreshing the package lists (apt-get update)")
        run(["apt-get", "update"], timeout_seconds=600)
        output = run(simulate)
    return parse_simulation(output)


def parse_simulation(output: str) -> list[str]:
    """Package names of the `Inst` lines of `apt-get -s install`."""
    return [line.split()[1] for line in output.splitlines() if line.startswith("Inst ")]
