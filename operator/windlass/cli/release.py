"""Installs or upgrades Windlass' own chart, through Helm as a library.

Called by the demo. Values are the cluster's; the namespace is made when it is missing. It must never touch
a release of another name.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from windlass.api.meta import GROUP
from windlass.cli.errors import CliError

RELEASE = "windlass"
NAMESPACE = "windlass-system"
TIMEOUT_SECONDS = 300
ANNOTATION = f"{GROUP}/source"


def with_source(values: dict[str, Any], repository: Path) -> dict[str, Any]:
    """Values that restart the operator when its source changed, where it runs from the source tree.

    Elsewhere an image's name says what it holds; the host-root image is empty and never changes.
    """
    if not values.get("hostRoot", {}).get("enabled"):
        return values
    digest = hashlib.sha256((repository / "uv.lock").read_bytes())
    for path in sorted((repository / "operator").rglob("*.py")):
        digest.update(path.read_bytes())
    operator = values.get("operator", {})
    annotations = {**operator.get("podAnnotations", {}), ANNOTATION: digest.hexdigest()[:16]}
    return {**values, "operator": {**operator, "podAnnotations": annotations}}


def install(chart: Path, *, kubeconfig: Path, values: dict[str, Any]) -> str:
    """Install, or upgrade what is there; says which. Raises CliError."""
    try:
        import helm_python
    except ImportError as problem:
        raise CliError(
            "helm_python: is not installed. hint: `make setup`, or install charts/windlass with helm yourself",
            status=2,
        ) from problem
    values = with_source(values, chart.parents[1])
    try:
        with helm_python.Config(kubeconfig_path=kubeconfig, namespace=NAMESPACE) as helm:
            present = {release["name"] for release in helm.list(all_states=True) or []}
            if RELEASE in present:
                helm.upgrade(
                    str(chart),
                    RELEASE,
                    values,
                    namespace=NAMESPACE,
                    reset_values=True,
                    timeout=TIMEOUT_SECONDS,
                )
                return "upgraded"
            helm.install(
                str(chart),
                RELEASE,
                values,
                namespace=NAMESPACE,
                create_namespace=True,
                timeout=TIMEOUT_SECONDS,
            )
            return "installed"
    except helm_python.HelmError as problem:
        raise CliError(
            f"helm: {problem}. hint: windlass cluster status, kubectl -n {NAMESPACE} get all"
        ) from problem
