"""Build the Go programs of the cluster from pinned modules, once per content of their pins.

Called by `up`. Results lie in the user's cache under a hash of go.mod, go.sum, sources and Go version,
so that a second checkout finds them. It must never fetch anything that go.sum does not pin.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from windlass.cli.cluster import errors
from windlass.cli.cluster.commands import CommandFailed, run
from windlass.cli.cluster.console import say
from windlass.cli.cluster.paths import KUBERNETES_VERSION

MINIMUM_GO = (1, 25)
_MAJOR, _MINOR = KUBERNETES_VERSION.removeprefix("v").split(".")[:2]
_STAMPS = " ".join(
    f"-X {package}.git{key}={value}"
    for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    for key, value in (("Version", KUBERNETES_VERSION), ("Major", _MAJOR), ("Minor", _MINOR))
)


# What `-s` would take out of the programs anyway need not be compiled: an eighth of the time.
FASTER = ("-gcflags=all=-dwarf=false",)


@dataclass(frozen=True, slots=True)
class Module:
    """One Go module below `cluster/` and the programs built from it, with their packages."""

    name: str
    programs: dict[str, str]
    linker_flags: str


MODULES = (
    Module(
        "kubernetes",
        {
            name: f"k8s.io/kubernetes/cmd/{name}"
            for name in (
                "kube-apiserver",
                "kubectl",
                "kube-controller-manager",
                "kube-scheduler",
                "kubelet",
                "kube-proxy",
            )
        }
        | {"coredns": "./coredns"},
        f"-s -w {_STAMPS}",
    ),
    Module("pause", {"pause": "."}, "-s -w"),
)

# Plays nodes and pods for the operator's benchmark; no cluster that `up` starts has it.
SCALE_MODULES = (Module("kwok", {"kwok": "sigs.k8s.io/kwok/cmd/kwok"}, "-s -w"),)


def go_version() -> str:
    """The Go toolchain's version, as `go1.26.1`. Raises ClusterError when it is missing or too old."""
    if shutil.which("go") is None:
        raise errors.go_is_missing("no go on PATH")
    try:
        version = run(["go", "env", "GOVERSION"], environment=_environment()).strip()
    except CommandFailed as failed:
        raise errors.go_is_missing(str(failed)) from failed
    numbers = re.match(r"go(\d+)\.(\d+)", version)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < MINIMUM_GO:
        raise errors.go_is_missing(version)
    return version


def module_hash(sources: Path, module: Module, version: str) -> str:
    """What the built programs depend on, as 16 hex digits."""
    digest = hashlib.sha256(f"{version}\n{module.linker_flags}\n{sorted(module.programs)}\n".encode())
    for path in sorted(sources.rglob("*")):
        if path.name in ("go.mod", "go.sum") or path.suffix == ".go":
            digest.update(str(path.relative_to(sources)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def ensure(modules_directory: Path, cache: Path, modules: tuple[Module, ...] = MODULES) -> dict[str, Path]:
    """Every program's path, built where it is not in the cache yet. Raises ClusterError."""
    version = go_version()
    found: dict[str, Path] = {}
    missing: list[tuple[Module, Path]] = []
    for module in modules:
        target = cache / "bin" / module_hash(modules_directory / module.name, module, version)
        programs = {name: target / name for name in module.programs}
        found |= programs
        if not all(path.exists() for path in programs.values()):
            missing.append((module, target))
    for number, (module, target) in enumerate(missing, start=1):
        names = ", ".join(module.programs)
        say(f"building {names} (part {number} of {len(missing)}; all take about 10 minutes on 2 cores, once)")
        _build(modules_directory / module.name, module, target)
    return found


def _build(source: Path, module: Module, target: Path) -> None:
    """Build what is missing of a module in one go, so that one program compiles while another is linked."""
    target.mkdir(parents=True, exist_ok=True)
    with (target / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = {name: package for name, package in module.programs.items() if not (target / name).exists()}
        if not missing:
            return
        temporary = target / ".new"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        # Of one program the output's name is ours to choose, of several Go's: the package's last part.
        out = f"{temporary}/" if len(missing) > 1 else str(temporary / next(iter(missing)))
        done = subprocess.run(
            [
                *("go", "build", "-trimpath", "-mod=readonly", *FASTER, "-ldflags", module.linker_flags),
                *("-o", out, *missing.values()),
            ],
            cwd=source,
            env=_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise errors.build_failed(", ".join(missing), done.stdout[-1500:])
        for name in missing:
            os.replace(temporary / name, target / name)
        shutil.rmtree(temporary)


def _environment() -> dict[str, str]:
    # GOTOOLCHAIN=local: a newer toolchain must not be fetched behind the user's back.
    own = {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOTOOLCHAIN": "local", "GOWORK": "off"}
    # A compiler that collects garbage half as often is a twentieth faster, and its memory is back soon.
    return {"GOGC": "200", **os.environ, **own}
