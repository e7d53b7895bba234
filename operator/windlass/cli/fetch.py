"""`windlass fetch NAME`: copy a job's output out of its store and check every file's digest.

Called by `main` and `chat`. On the local cluster the volume is a directory of this machine; elsewhere a
short-lived pod with the job's own volumes streams it. It must never keep a file whose digest is wrong.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import json
import os
import shutil
import tarfile
import tempfile
import time
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from windlass.api.kinds import KINDS
from windlass.api.meta import STORE_MOUNT
from windlass.api.uris import split_claim_uri
from windlass.cli.access import CONTAINER, Access, bare
from windlass.cli.cluster.paths import Layout, default_directory
from windlass.cli.errors import CliError

DIGESTS = "digests.json"
POD_SECONDS = 180.0
OPERATOR = "app.kubernetes.io/name=windlass,app.kubernetes.io/component=operator"
KEPT_FIELDS = (
    "volumes",
    "securityContext",
    "automountServiceAccountToken",
    "imagePullSecrets",
    "nodeSelector",
)
STREAM = """
import base64, sys, tarfile
class Text:
    def __init__(self): self.rest = b""
    def write(self, data):
        data = self.rest + data
        whole = len(data) - len(data) % 57000
        if whole: sys.stdout.write(base64.b64encode(data[:whole]).decode() + "\\n")
        self.rest = data[whole:]
        return len(data)
    def close(self):
        sys.stdout.write(base64.b64encode(self.rest).decode() + "\\n."); sys.stdout.flush()
out = Text()
with tarfile.open(fileobj=out, mode="w|") as tar:
    for name in sys.argv[2:]: tar.add(sys.argv[1] + "/" + name, name)
out.close()
"""


def fetch_command(options: argparse.Namespace, access: Access) -> int:
    """Copy and say where to."""
    target = Path(options.to or bare(options.name))
    part = fetch(access, options.name, target)
    print(f"{target / part}: fetched, every digest is right")
    return 0


def fetch(access: Access, name: str, target: Path) -> str:
    """Copy the output below `target`; return the name of the part to load (merged, adapter or model)."""
    uri = output_uri(access.job(name))
    claim, path = split_claim_uri(uri)
    directory, part = str(PurePosixPath(path).parent), PurePosixPath(path).name
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        local = local_volume(access, claim)
        if local is not None and (local / directory).is_dir():
            copy_local(local / directory, part, Path(scratch))
        else:
            with ReaderPod(access, name, claim) as (pod, python):
                receive(
                    access,
                    pod,
                    [python, "-c", STREAM, f"{STORE_MOUNT}/{directory}", part, DIGESTS],
                    Path(scratch),
                )
        check(Path(scratch), part)
        if (target / part).exists():
            shutil.rmtree(target / part)
        target.mkdir(parents=True, exist_ok=True)
        (Path(scratch) / part).rename(target / part)
    return part


def output_uri(job: dict[str, Any]) -> str:
    """Where the output is. Raises CliError."""
    name = job["metadata"]["name"]
    output = (job.get("status") or {}).get("output") or {}
    if not output.get("uri"):
        place = f"{KINDS[job['kind']].short}/{name}"
        raise CliError(
            f"{name}: has no output yet. hint: wait with `kubectl wait --for=condition=Ready {place}`; "
            "checkpoint.export must be HuggingFace"
        )
    return str(output["uri"])


def local_volume(access: Access, claim: str) -> Path | None:
    """The claim's directory on this machine, when the cluster is the local embedded one."""
    layout = Layout(default_directory())
    try:
        server = json.loads(layout.state.read_text()).get("server")
    except (OSError, ValueError):
        return None
    directory = layout.volumes / access.namespace / claim
    return directory if server == access.api.configuration.host and directory.is_dir() else None


def copy_local(directory: Path, part: str, target: Path) -> None:
    """Copy from a volume on this machine."""
    shutil.copytree(directory / part, target / part)
    shutil.copy(directory / DIGESTS, target / DIGESTS)


def check(directory: Path, part: str) -> None:
    """Compare every file of the part with the recorded digest. Raises CliError."""
    files: dict[str, Any] = json.loads((directory / DIGESTS).read_text())["files"]
    for name, facts in files.items():
        if not name.startswith(f"{part}/"):
            continue
        with (directory / name).open("rb") as handle:
            found = hashlib.file_digest(handle, "sha256").hexdigest()
        if found.removeprefix("sha256:") != str(facts["sha256"]).removeprefix("sha256:"):
            raise CliError(f"{name}: was damaged on the way (got sha256 {found}). hint: fetch again")


class ReaderPod(contextlib.AbstractContextManager[tuple[str, str]]):
    """A pod with the job's own volumes that only waits; gone at the end of the block."""

    def __init__(self, access: Access, name: str, claim: str) -> None:
        self._access, self._name, self._claim = access, name, claim
        self._pod = f"{bare(name)}-fetch-{os.urandom(3).hex()}"

    def __enter__(self) -> tuple[str, str]:
        manifest = reader_manifest(self._model(), self._pod)
        self._access.core.create_namespaced_pod(self._access.namespace, manifest)
        deadline = time.monotonic() + POD_SECONDS
        while time.monotonic() < deadline:
            phase = self._access.core.read_namespaced_pod(self._pod, self._access.namespace).status.phase
            if phase == "Running":
                return self._pod, manifest["spec"]["containers"][0]["command"][0]
            time.sleep(0.5)
        self.__exit__()
        raise CliError(
            f"{self._pod}: did not start in {POD_SECONDS:.0f} s. hint: kubectl describe pod, quota or image?"
        )

    def __exit__(self, *_: object) -> None:
        self._access.core.delete_namespaced_pod(self._pod, self._access.namespace, grace_period_seconds=0)

    def _model(self) -> dict[str, Any]:
        pods = self._access.pods(self._name)
        if not pods:
            return without_pods(self._access, self._claim)
        found: dict[str, Any] = self._access.api.sanitize_for_serialization(pods[0])
        return found


def without_pods(access: Access, claim: str) -> dict[str, Any]:
    """What a pod of the run would look like, from the operator's own settings. Raises CliError."""
    from kubernetes import client

    try:
        listed = client.AppsV1Api(access.api).list_deployment_for_all_namespaces(label_selector=OPERATOR)
        container = listed.items[0].spec.template.spec.containers[0]
    except Exception as problem:  # no right to look, or nothing there: the way out is the same
        raise CliError(
            "fetch: none of the job's pods is left and the operator's settings cannot be read. "
            "hint: mount the claim of status.output.uri in a pod of your own"
        ) from problem
    settings = {item.name: item.value or "" for item in container.env}
    mounts = json.loads(settings.get("WINDLASS_HOST_ROOT") or "[]")
    store = {"name": "store", "mountPath": STORE_MOUNT}
    claims = {"store": claim} | {mount["claim"]: mount["claim"] for mount in mounts}
    return {
        "metadata": {},
        "spec": {
            "volumes": [
                {"name": name, "persistentVolumeClaim": {"claimName": found}}
                for name, found in claims.items()
            ],
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 1000,
                "fsGroup": 1000,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "image": settings["WINDLASS_WORKLOAD_IMAGE"],
                    "imagePullPolicy": settings.get("WINDLASS_IMAGE_PULL_POLICY") or "IfNotPresent",
                    "command": [settings.get("WINDLASS_WORKLOAD_PYTHON") or "python3"],
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [store, *(host_mount(mount) for mount in mounts)],
                }
            ],
        },
    }


def host_mount(mount: dict[str, str]) -> dict[str, str]:
    """A host-root mount as a volumeMount."""
    made = {"name": mount["claim"], "mountPath": mount["mountPath"]}
    return made | ({"subPath": mount["subPath"]} if mount.get("subPath") else {})


def reader_manifest(model: dict[str, Any], name: str) -> dict[str, Any]:
    """A pod like `model` that mounts the same volumes, runs nothing and belongs to no run."""
    container = model["spec"]["containers"][0]
    mounts = [mount for mount in container["volumeMounts"] if "serviceaccount" not in mount["mountPath"]]
    kept = {key: model["spec"][key] for key in KEPT_FIELDS if key in model["spec"]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "ownerReferences": model["metadata"].get("ownerReferences", [])},
        "spec": {
            **kept,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "activeDeadlineSeconds": 3600,
            "containers": [
                {
                    "name": CONTAINER,
                    "image": container["image"],
                    "imagePullPolicy": container["imagePullPolicy"],
                    "command": [container["command"][0], "-c", "import time; time.sleep(3600)"],
                    "securityContext": container["securityContext"],
                    "resources": {
                        "requests": {"cpu": "10m", "memory": "64Mi"},
                        "limits": {"memory": "512Mi"},
                    },
                    "volumeMounts": [{**mount, "readOnly": True} for mount in mounts],
                }
            ],
        },
    }


def receive(access: Access, pod: str, command: list[str], target: Path) -> None:
    """Run the streaming program in the pod and unpack what it sends. Raises CliError."""
    session = access.open_stream(pod, command)
    complaints, rest, ended = "", "", False
    with tempfile.TemporaryFile(dir=target) as archive:
        while session.is_open():
            session.update(timeout=5)
            complaints += session.read_stderr() if session.peek_stderr() else ""
            *lines, rest = (rest + (session.read_stdout() if session.peek_stdout() else "")).split("\n")
            for line in lines:
                archive.write(base64.b64decode(line))
            ended = ended or rest == "."
        if not ended:
            raise CliError(f"{pod}: the copy ended early ({complaints.strip()[-300:]}). hint: fetch again")
        archive.seek(0)
        unpack(archive, target)


def unpack(archive: BinaryIO, target: Path) -> None:
    """Unpack files and directories. Raises CliError for a name that leads outside, or anything else."""
    with tarfile.open(fileobj=archive) as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts or not (member.isfile() or member.isdir()):
                raise CliError(
                    f"{member.name}: has no place in an output (got a link, or a name that leads outside)"
                )
            if member.isdir():
                (target / path).mkdir(parents=True, exist_ok=True)
                continue
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            source = tar.extractfile(member)
            with (target / path).open("wb") as out:
                if source is not None:
                    shutil.copyfileobj(source, out)
