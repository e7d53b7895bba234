"""The operator's settings: one frozen object, read once from the environment that the chart renders.

`main` calls `from_environment`; nothing else in the operator reads `os.environ`. Every field says what it
is for and its unit. It must never hold a secret: keys and certificates are files, read where they are used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from windlass.core.cost import PriceList, price
from windlass.core.settings import HostRootMount

PULL_POLICIES: Final = ("Always", "IfNotPresent", "Never")
SWITCH: Final = ("true", "false")
LOG_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")


class SettingsError(Exception):
    """A setting that is missing or wrong; the text names the variable, the value, what is allowed and what to do."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All that the operator can be told from outside."""

    namespace: str
    """WINDLASS_NAMESPACE: the operator's own namespace (downward API)."""
    pod_name: str
    """POD_NAME: this pod's name; identity in the Lease (downward API)."""
    pod_uid: str
    """POD_UID: this pod's UID; the other half of the identity (downward API)."""
    pod_ip: str
    """POD_IP: this pod's address, written into the report EndpointSlice by the leader (downward API)."""
    workload_image: str
    """WINDLASS_WORKLOAD_IMAGE: image of training pods whose spec names none."""
    watch_namespaces: tuple[str, ...] = ()
    """WINDLASS_WATCH_NAMESPACES: comma-separated; empty means all namespaces."""
    workload_python: str = "python3"
    """WINDLASS_WORKLOAD_PYTHON: interpreter inside the workload image."""
    image_pull_policy: str = "IfNotPresent"
    """WINDLASS_IMAGE_PULL_POLICY: pull policy of training pods."""
    host_root: tuple[HostRootMount, ...] = ()
    """WINDLASS_HOST_ROOT: JSON list of {claim, mountPath, subPath?} mounted read-only; for local clusters."""
    tls_directory: Path | None = None
    """WINDLASS_TLS_DIRECTORY: tls.crt, tls.key and ca.crt of the report server; empty turns reports off."""
    report_service: str = "windlass-reports"
    """WINDLASS_REPORT_SERVICE: the selector-less Service whose EndpointSlice the leader writes."""
    report_port: int = 8443
    """WINDLASS_REPORT_PORT: TCP port of the report server, 0 picks a free one (tests)."""
    health_port: int = 8081
    """WINDLASS_HEALTH_PORT: TCP port of /healthz, /readyz and /metrics, 0 picks a free one (tests)."""
    lease_name: str = "windlass-operator"
    """WINDLASS_LEASE_NAME: the Lease that makes one replica the leader."""
    watch_nodes: bool = False
    """WINDLASS_WATCH_NODES: true watches nodes, for which the operator needs the right to read them."""
    kueue: bool = False
    """WINDLASS_KUEUE: true allows queues of kind Kueue, for which the operator needs the right to delete Workloads."""
    health_taints: tuple[str, ...] = ()
    """WINDLASS_HEALTH_TAINTS: comma-separated keys of taints about devices that are not sound; * at the end."""
    prices: PriceList | None = None
    """WINDLASS_PRICES: JSON {currency, perHour: {resource: decimal}}; empty means that no cost is told."""
    log_level: str = "INFO"
    """WINDLASS_LOG_LEVEL: least severe level that is logged."""

    @property
    def identity(self) -> str:
        """Holder of the Lease: unique to this life of the pod."""
        return f"{self.pod_name}_{self.pod_uid}"

    @property
    def report_host(self) -> str:
        """DNS name of the report Service; the serving certificate must carry it."""
        return f"{self.report_service}.{self.namespace}.svc"

    @property
    def slice_name(self) -> str:
        """Name of the EndpointSlice that the leader writes."""
        return f"{self.report_service}-leader"


def from_environment(environment: Mapping[str, str]) -> Settings:
    """Read and check all settings; SettingsError for the first that is wrong."""
    tls = environment.get("WINDLASS_TLS_DIRECTORY", "")
    defaults = Settings("", "", "", "", "")
    return Settings(
        namespace=required(environment, "WINDLASS_NAMESPACE"),
        pod_name=required(environment, "POD_NAME"),
        pod_uid=required(environment, "POD_UID"),
        pod_ip=required(environment, "POD_IP"),
        workload_image=required(environment, "WINDLASS_WORKLOAD_IMAGE"),
        watch_namespaces=names(environment.get("WINDLASS_WATCH_NAMESPACES", "")),
        workload_python=environment.get("WINDLASS_WORKLOAD_PYTHON") or defaults.workload_python,
        image_pull_policy=one_of(
            environment, "WINDLASS_IMAGE_PULL_POLICY", PULL_POLICIES, default="IfNotPresent"
        ),
        host_root=host_root(environment.get("WINDLASS_HOST_ROOT", "")),
        tls_directory=Path(tls) if tls else None,
        report_service=environment.get("WINDLASS_REPORT_SERVICE") or defaults.report_service,
        report_port=port(environment, "WINDLASS_REPORT_PORT", defaults.report_port),
        health_port=port(environment, "WINDLASS_HEALTH_PORT", defaults.health_port),
        lease_name=environment.get("WINDLASS_LEASE_NAME") or defaults.lease_name,
        watch_nodes=one_of(environment, "WINDLASS_WATCH_NODES", SWITCH, default="false") == "true",
        kueue=one_of(environment, "WINDLASS_KUEUE", SWITCH, default="false") == "true",
        health_taints=names(environment.get("WINDLASS_HEALTH_TAINTS", "")),
        prices=price_list(environment.get("WINDLASS_PRICES", "")),
        log_level=one_of(environment, "WINDLASS_LOG_LEVEL", LOG_LEVELS, default=defaults.log_level),
    )


def required(environment: Mapping[str, str], name: str) -> str:
    """A variable that must be set."""
    value = environment.get(name, "")
    if not value:
        raise SettingsError(
            f"environment.{name}: is not set (got ''); allowed: any non-empty text. hint: install the operator "
            "with its Helm chart, which sets it"
        )
    return value


def one_of(environment: Mapping[str, str], name: str, allowed: tuple[str, ...], *, default: str) -> str:
    """A variable with a closed set of values."""
    value = environment.get(name) or default
    if value not in allowed:
        raise SettingsError(
            f"environment.{name}: is not a known value (got {value!r}); allowed: {', '.join(allowed)}. "
            "hint: correct the chart's values"
        )
    return value


def port(environment: Mapping[str, str], name: str, default: int) -> int:
    """A TCP port."""
    text = environment.get(name) or str(default)
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise SettingsError(
            f"environment.{name}: is not a port (got {text!r}); allowed: 0 to 65535. hint: correct the chart's values"
        )
    return int(text)


def names(text: str) -> tuple[str, ...]:
    """A comma-separated list without empty parts."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def host_root(text: str) -> tuple[HostRootMount, ...]:
    """The mounts of WINDLASS_HOST_ROOT."""
    if not text.strip():
        return ()
    try:
        return tuple(mount(entry) for entry in json.loads(text))
    except (ValueError, TypeError, KeyError) as error:
        raise SettingsError(
            f"environment.WINDLASS_HOST_ROOT: is not a list of mounts (got {text[:200]!r}: {error}); allowed: "
            'JSON like [{"claim": "usr", "mountPath": "/usr"}]. hint: correct hostRoot in the chart\'s values'
        ) from error


def mount(entry: dict[str, Any]) -> HostRootMount:
    """One mount; KeyError when a field is missing."""
    return HostRootMount(claim=entry["claim"], mount_path=entry["mountPath"], sub_path=entry.get("subPath"))


def price_list(text: str) -> PriceList | None:
    """The prices of WINDLASS_PRICES; None where there are none."""
    if not text.strip():
        return None
    try:
        document = json.loads(text)
        prices = {str(name): price(value) for name, value in document["perHour"].items()}
        currency = str(document["currency"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SettingsError(
            f"environment.WINDLASS_PRICES: is not a price list (got {text[:200]!r}: {error}); allowed: "
            'JSON like {"currency": "EUR", "perHour": {"cpu": "0.03", "memoryGiB": "0.004"}} with decimals as '
            "strings. hint: correct prices in the chart's values"
        ) from error
    return PriceList(currency, prices) if prices else None
