"""The cluster's storage provisioner: a process beside the control plane that carries out `provisioning.plan`.

Started by the supervisor. Watches only wake it; each round lists everything and acts on what is missing.
It must never remove a directory outside its volumes folder, and never follow a link there.
"""

from __future__ import annotations

import argparse
import os
import shutil
import threading
import time
from pathlib import Path

from windlass.cli.cluster.api import ApiError, Client, from_kubeconfig
from windlass.cli.cluster.provisioning import Action, CreateClaim, CreateVolume, DeleteVolume, plan

CLAIMS = "/api/v1/persistentvolumeclaims"
VOLUMES = "/api/v1/persistentvolumes"
NAMESPACES = "/api/v1/namespaces"
RESYNC_SECONDS = 15.0
RETRY_SECONDS = 1.0
WATCH_SECONDS = 300


def round_of(client: Client, root: Path) -> int:
    """List, plan and act once; the number of actions. Raises ApiError when a list fails."""
    actions = plan(
        claims=client.request("GET", CLAIMS)["items"],
        volumes=client.request("GET", VOLUMES)["items"],
        namespaces=client.request("GET", NAMESPACES)["items"],
        root=root,
    )
    for action in actions:
        try:
            carry_out(client, action, root)
        except ApiError as refused:
            # Somebody was faster, or the namespace is going: the next round sees it.
            if refused.status not in (403, 404, 409):
                raise
    return len(actions)


def carry_out(client: Client, action: Action, root: Path) -> None:
    """Do one action: directories first when making, directories first when removing. Raises ApiError."""
    match action:
        case CreateVolume(volume, directory):
            if directory is not None:
                make_directory(directory)
            client.request("POST", VOLUMES, body=volume)
            log("volume created", volume["metadata"]["name"])
        case CreateClaim(namespace, claim):
            client.request("POST", f"{NAMESPACES}/{namespace}/persistentvolumeclaims", body=claim)
            log("claim created", f"{namespace}/{claim['metadata']['name']}")
        case DeleteVolume(name, directory):
            if directory is not None:
                remove_directory(directory, root)
            client.request("DELETE", f"{VOLUMES}/{name}")
            log("volume deleted", name)


def make_directory(directory: Path) -> None:
    """A directory that a pod of any user can write."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o777)


def remove_directory(directory: Path, root: Path) -> None:
    """Remove a volume's directory, which must lie two levels below the root and be no link."""
    if directory.parent.parent != root or directory.is_symlink():
        log("directory left alone", str(directory))
        return
    shutil.rmtree(directory, ignore_errors=True)
    if directory.parent.is_dir() and not any(directory.parent.iterdir()):
        os.rmdir(directory.parent)


def log(message: str, subject: str) -> None:
    """One line for the provisioner's log."""
    print(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {message} {subject}", flush=True)


def _wake_on_events(client: Client, path: str, wake: threading.Event) -> None:
    while True:
        try:
            version = client.request("GET", f"{path}?limit=1")["metadata"]["resourceVersion"]
            for _event in client.watch(path, resource_version=version, seconds=WATCH_SECONDS):
                wake.set()
        except ApiError as problem:
            log("watch ended", str(problem))
            time.sleep(RETRY_SECONDS)
        wake.set()


def main() -> None:
    """Run until killed."""
    parser = argparse.ArgumentParser(prog="windlass-provisioner")
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--volumes", type=Path, required=True)
    arguments = parser.parse_args()
    client = from_kubeconfig(arguments.kubeconfig)
    wake = threading.Event()
    for path in (CLAIMS, VOLUMES, NAMESPACES):
        threading.Thread(target=_wake_on_events, args=(client, path, wake), daemon=True).start()
    while True:
        wake.clear()
        try:
            acted = round_of(client, arguments.volumes)
        except ApiError as problem:
            log("round failed", str(problem))
            acted = 0
            wake.wait(RETRY_SECONDS)
        # After acting, look again soon: what was waited for may be possible now.
        wake.wait(RETRY_SECONDS if acted else RESYNC_SECONDS)


if __name__ == "__main__":
    main()
