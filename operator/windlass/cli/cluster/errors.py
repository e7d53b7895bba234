"""What a user reads when the local cluster cannot start.

Raised by every module of this package, printed by `main`. Each names what is wrong, what was found,
what would be right and the next step. Nothing here touches the machine.
"""

from __future__ import annotations


class ClusterError(Exception):
    """A condition of the machine or the arguments that the user can change."""

    def __init__(self, subject: str, problem: str, *, got: str, allowed: str, hint: str) -> None:
        self.subject = subject
        self.hint = hint
        super().__init__(f"{subject}: {problem} (got {got}); allowed {allowed}. hint: {hint}")


def not_root(user_id: int) -> ClusterError:
    """The embedded cluster makes namespaces, mounts and links, which only root may."""
    return ClusterError(
        "user",
        "the embedded cluster needs root",
        got=f"uid {user_id}",
        allowed="uid 0",
        hint="run it with sudo, or install Docker and kind, which need no root",
    )


def go_is_missing(found: str) -> ClusterError:
    """The Kubernetes binaries are built on this machine from pinned sources."""
    return ClusterError(
        "go",
        "the Go toolchain is missing or too old",
        got=found,
        allowed="go 1.25 or newer on PATH",
        hint="install it from https://go.dev/dl and put its bin folder on PATH",
    )


def build_failed(name: str, log_tail: str) -> ClusterError:
    """A Go build ended with an error; its last lines are the evidence."""
    return ClusterError(
        f"binary {name}",
        "the build failed",
        got=log_tail.strip() or "no output",
        allowed="a build that ends with status 0",
        hint="check that the Go module proxy (go env GOPROXY) is reachable, then run the command again",
    )


def programs_are_missing(programs: list[str], packages: list[str], reason: str) -> ClusterError:
    """Programs that are neither on PATH nor obtainable as Debian packages."""
    return ClusterError(
        "programs",
        f"{', '.join(programs)} not found and not obtainable as Debian packages",
        got=reason,
        allowed="these programs on PATH, or a reachable Debian archive",
        hint=f"install {' '.join(packages)} with this machine's package manager, or repair `apt-get update`",
    )


def network_in_use(network: str, owner: str) -> ClusterError:
    """A route of this machine already leads into the cluster's address range."""
    return ClusterError(
        "--network",
        f"{network} is in use on this machine",
        got=owner,
        allowed="a range that no route of this machine touches",
        hint="choose another range, for example --network 10.196.0.0/15",
    )


def network_is_unusable(text: str, longest_prefix: int, example: str) -> ClusterError:
    """The address range of the command line is no range or too small for pods and Services."""
    return ClusterError(
        "--network",
        "not a usable address range",
        got=text,
        allowed=f"an IPv4 range of /{longest_prefix} or wider, such as {example}",
        hint="leave the option away to use the default",
    )


def network_differs(wanted: str, recorded: str) -> ClusterError:
    """Certificates and objects of an existing cluster carry the addresses it was made with."""
    return ClusterError(
        "--network",
        "this cluster was made with another address range",
        got=wanted,
        allowed=recorded,
        hint=f"leave it as it is with --network {recorded}, or run `down` first",
    )


def other_cluster_is_up(network: str, directory: str) -> ClusterError:
    """A cluster of another directory runs here with the same addresses."""
    return ClusterError(
        "--network",
        f"{network} belongs to another cluster that runs here",
        got=directory,
        allowed="one cluster per address range",
        hint=f"use that one, end it with `down --directory {directory}`, or choose another range",
    )


def directory_is_foreign(directory: str) -> ClusterError:
    """A non-empty directory without our state file is never written to nor removed."""
    return ClusterError(
        "directory",
        "the directory holds files that are not a cluster's",
        got=directory,
        allowed="an empty directory, a new one, or one that `up` made",
        hint="choose another with --directory",
    )


def directory_is_busy(directory: str, holder: str) -> ClusterError:
    """Another `up` or `down` works on the same directory now."""
    return ClusterError(
        "directory",
        "another command is changing this cluster",
        got=f"{directory} held by process {holder}",
        allowed="one `up` or `down` at a time",
        hint="wait until it ends, then run the command again",
    )


def kernel_refuses(action: str, detail: str) -> ClusterError:
    """The machine (often a container without privileges) does not permit a needed call."""
    return ClusterError(
        "kernel",
        f"this machine does not permit {action}",
        got=detail.strip() or "no detail",
        allowed="a machine or virtual machine with full root",
        hint="run on a virtual machine, in a privileged container, or with Docker and kind",
    )


def not_ready(what: str, waited_seconds: float, evidence: str) -> ClusterError:
    """A part of the cluster did not come up in time; the log's end says why."""
    return ClusterError(
        what,
        f"not ready after {waited_seconds:.0f} s",
        got=evidence.strip() or "no evidence",
        allowed="ready within the limit",
        hint="read the logs folder of the cluster's directory, then run `down` and `up` again",
    )


def not_running(directory: str) -> ClusterError:
    """A command that needs a running cluster found none."""
    return ClusterError(
        "cluster",
        "no cluster is running",
        got=directory,
        allowed="a directory of a running cluster",
        hint="start it with: python -m windlass.cli.cluster up",
    )
