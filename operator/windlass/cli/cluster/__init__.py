"""The local cluster: kind where Docker is, else a real Kubernetes built and run by this package.

`windlass cluster ...`, `make cluster-up` and `python -m windlass.cli.cluster` end in `main`.
It must never need anything besides the standard library, pyyaml and cryptography.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command (`up`, `down`, `status`, `kubeconfig`) and return the exit status."""
    # Late: the supervisor and the provisioner import this package and need none of it.
    from windlass.cli.cluster.command import run_command

    return run_command(arguments)
