"""Namespace, claims, and files in them.

Called by the demo's command. On the embedded cluster a claim is a directory of this machine; elsewhere a
loader pod receives the files. It must never write into a claim that the demo did not make.
"""

from __future__ import annotations

import base64
import contextlib
import io
import os
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from windlass.cli.access import CONTAINER, Access
from windlass.cli.demo.places import CLAIMS
from windlass.cli.errors import CliError
from windlass.cli.fetch import local_volume

WAIT_SECONDS = 180.0
CHUNK_BYTES = 300_000
RECEIVE = """
import base64, sys, tarfile, tempfile
with tempfile.TemporaryFile(dir="/target") as archive:
    for line in sys.stdin:
        if line.strip() == ".":
            break
        archive.write(base64.b64decode(line))
    archive.seek(0)
    with tarfile.open(fileobj=archive) as tar:
        tar.extractall("/target")
print("received", flush=True)
"""


def prepare(access: Access) -> None:
    """Namespace with Pod Security `restricted`, and the claims."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    _create(access.core.create_namespace, {"metadata": {"name": access.namespace, "labels": labels}})
    for name, storage in CLAIMS.items():
        claim = {
            "metadata": {"name": name},
            "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": storage}}},
        }
        _create(
            lambda body: access.core.create_namespaced_persistent_volume_claim(access.namespace, body), claim
        )


def _create(create: Callable[[Any], Any], body: dict[str, Any]) -> None:
    from kubernetes.client.exceptions import ApiException

    try:
        create(body)
    except ApiException as problem:
        if problem.status != 409:
            raise CliError(
                f"{body['metadata']['name']}: cannot be made ({problem.status} {problem.reason})"
            ) from problem


def place(access: Access, source: Path, *, claim: str, folder: str, loader: dict[str, Any]) -> None:
    """Put a directory's content into a folder of a claim, unless it is there. `loader`: image, python, pullPolicy."""
    directory = wait_for_local(access, claim, embedded=loader["embedded"])
    if directory is not None:
        copy(source, directory / folder)
        return
    with loader_pod(access, claim, loader) as pod:
        send(access, pod, source, folder, python=loader["python"])


def wait_for_local(access: Access, claim: str, *, embedded: bool) -> Path | None:
    """The claim's directory on this machine once it is there; None on other clusters."""
    deadline = time.monotonic() + WAIT_SECONDS
    while embedded and time.monotonic() < deadline:
        found = local_volume(access, claim)
        if found is not None:
            return found
        time.sleep(0.2)
    if embedded:
        raise CliError(
            f"{claim}: its volume did not appear in {WAIT_SECONDS:.0f} s. hint: windlass cluster status"
        )
    return None


def copy(source: Path, target: Path) -> None:
    """Copy files whose size or content differs; readable by every user."""
    target.mkdir(parents=True, exist_ok=True)
    target.chmod(0o755)
    for path in sorted(source.rglob("*")):
        place_at = target / path.relative_to(source)
        if path.is_dir():
            place_at.mkdir(exist_ok=True)
        elif not _same(path, place_at):
            temporary = place_at.with_name(f".{place_at.name}.new")
            shutil.copyfile(path, temporary)
            temporary.chmod(0o644)
            os.replace(temporary, place_at)


def _same(left: Path, right: Path) -> bool:
    if not right.exists() or left.stat().st_size != right.stat().st_size:
        return False
    with left.open("rb") as one, right.open("rb") as other:
        while block := one.read(1 << 20):
            if block != other.read(1 << 20):
                return False
    return True


@contextlib.contextmanager
def loader_pod(access: Access, claim: str, loader: dict[str, Any]) -> Iterator[str]:
    """A pod that mounts the claim at /target and waits; its name. Gone at the end of the block."""
    name = f"loader-{claim}-{os.urandom(3).hex()}"
    access.core.create_namespaced_pod(access.namespace, loader_manifest(name, claim, loader))
    try:
        deadline = time.monotonic() + WAIT_SECONDS
        while access.core.read_namespaced_pod(name, access.namespace).status.phase != "Running":
            if time.monotonic() > deadline:
                raise CliError(
                    f"{name}: did not start in {WAIT_SECONDS:.0f} s. hint: kubectl describe pod {name}"
                )
            time.sleep(0.3)
        yield name
    finally:
        access.core.delete_namespaced_pod(name, access.namespace, grace_period_seconds=0)


def loader_manifest(name: str, claim: str, loader: dict[str, Any]) -> dict[str, Any]:
    """The loader pod; passes Pod Security `restricted`."""
    hosts = loader.get("mounts") or []
    claims = sorted({mount["claim"] for mount in hosts})
    mounts = [
        {"name": mount["claim"], "mountPath": mount["mountPath"], "readOnly": True}
        | ({"subPath": mount["subPath"]} if mount.get("subPath") else {})
        for mount in hosts
    ]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "activeDeadlineSeconds": 1800,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 1000,
                "fsGroup": 1000,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "volumes": [
                {"name": "target", "persistentVolumeClaim": {"claimName": claim}},
                *(
                    {"name": host, "persistentVolumeClaim": {"claimName": host, "readOnly": True}}
                    for host in claims
                ),
            ],
            "containers": [
                {
                    "name": CONTAINER,
                    "image": loader["image"],
                    "imagePullPolicy": loader["pullPolicy"],
                    "command": [loader["python"], "-c", "import time; time.sleep(1800)"],
                    "volumeMounts": [{"name": "target", "mountPath": "/target"}, *mounts],
                    "resources": {
                        "requests": {"cpu": "10m", "memory": "64Mi"},
                        "limits": {"memory": "512Mi"},
                    },
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }


def send(access: Access, pod: str, source: Path, folder: str, *, python: str) -> None:
    """Stream a directory into the loader pod. Raises CliError."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(source, folder)
    session = access.open_stream(pod, [python, "-c", RECEIVE], stdin=True)
    data = buffer.getbuffer()
    for start in range(0, len(data), CHUNK_BYTES):
        session.write_stdin(base64.b64encode(data[start : start + CHUNK_BYTES]).decode() + "\n")
    session.write_stdin(".\n")
    said = ""
    while session.is_open() and "received" not in said:
        session.update(timeout=5)
        said += session.read_stdout() if session.peek_stdout() else ""
        said += session.read_stderr() if session.peek_stderr() else ""
    session.close()
    if "received" not in said:
        raise CliError(
            f"{pod}: did not take the files ({said.strip()[-300:]}). hint: is the claim large enough?"
        )
