"""Curated fields of the rendered pods: what people need, and nothing that breaks a run or its isolation.

`running` re-exports the blocks. Names that the operator sets itself and paths that it mounts are
refused here, so that an override can never change what an agent is told.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from windlass.api.base import Model
from windlass.api.meta import GROUP
from windlass.api.rules import Computed, Hint, KeysAndValues, ListMap, Rule, matches, quote
from windlass.api.training import Name

ShortText = Annotated[str, Field(min_length=1, max_length=253)]

RESERVED_ENV = (
    r"^(LD_.*|PYTHON.*|NVIDIA_.*|CUDA_VISIBLE_DEVICES|RANK|WORLD_SIZE|LOCAL_.*|MASTER_.*|PET_.*|WINDLASS_.*|POD_.*"
    r"|NODE_NAME|HOME)$"
)
CREDENTIAL = r"^(hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|AKIA[A-Z0-9]{12,})"
RESERVED_PATH = (
    r"^/(windlass|etc/windlass|usr|var/run|run|tmp|proc|sys|dev|bin|sbin|lib|lib64)(/|$)|^/(etc|var)?$"
)
ODD_SEGMENT = r"/(\.|\.\.)?(/|$)"


class EnvVar(Model):
    """A plain environment variable of the training process. Credentials belong into a secretRef."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=f"!self.value.matches({quote(CREDENTIAL)})",
            holds=lambda value, _: not matches(CREDENTIAL, value["value"]),
            wrong="value looks like a credential",
            got="{self.name}=***",
            allowed="plain settings",
            hint="put it into a Secret of this namespace and name that in a secretRef",
            path="value",
            forbidden=True,
        ),
    )

    name: Annotated[
        str,
        Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", min_length=1, max_length=128),
        Hint("write it as a shell would", allowed="letters, digits and _, not beginning with a digit"),
        Rule(
            cel=f"!self.matches({quote(RESERVED_ENV)})",
            holds=lambda value, _: not matches(RESERVED_ENV, value),
            wrong="is a reserved name, set by the operator",
            got="{self}",
            allowed=(
                "names other than LD_*, PYTHON*, NVIDIA_*, CUDA_VISIBLE_DEVICES, RANK, WORLD_SIZE, LOCAL_*, "
                "MASTER_*, PET_*, WINDLASS_*, POD_*, NODE_NAME, HOME"
            ),
            hint="remove it; ranks, devices and paths are set for you",
        ),
    ]
    """Name of the variable. Example: TOKENIZERS_PARALLELISM."""
    value: Annotated[str, Field(max_length=1024)] = ""
    """Its value, passed on as it is; no shell reads it. Example: "false"."""


class Toleration(Model):
    """As in a pod, but never for every taint: `key` is required."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.operator != 'Exists' || !has(self.value)",
            holds=lambda value, _: value["operator"] != "Exists" or "value" not in value,
            wrong="Exists takes no value",
            got="{self.value}",
            allowed="value with operator Equal",
            hint="remove value, or set operator: Equal",
            path="value",
        ),
        Rule(
            cel="!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            holds=lambda value, _: "tolerationSeconds" not in value or value.get("effect") == "NoExecute",
            wrong="tolerationSeconds is for the effect NoExecute",
            got="{self.tolerationSeconds} with effect {self.effect}",
            allowed="tolerationSeconds with effect NoExecute",
            hint="set effect: NoExecute, or remove tolerationSeconds",
            path="tolerationSeconds",
        ),
    )

    key: ShortText
    """Key of the taint; every taint at once cannot be tolerated. Example: nvidia.com/gpu."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """Exists for any value of the key, Equal for this value. Example: Exists."""
    value: Annotated[str, Field(max_length=253)] | None = None
    """Value of the taint, with Equal. Example: present."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint; every effect if left out. Example: NoSchedule."""
    toleration_seconds: Annotated[int, Field(ge=0, le=86_400), Hint("300 is usual")] | None = None
    """How long a pod stays after a NoExecute taint appeared; for ever if left out. Unit: seconds.
    Example: 300."""


def _one_source(value: Any, _: Any) -> bool:
    named = sum(kind in value for kind in ("claim", "secret", "configMap"))
    return named + bool(value.get("emptyDir", False)) == 1


class PodVolume(Model):
    """An extra read-only volume: exactly one of claim, secret, configMap; or a scratch directory."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=(
                "[has(self.claim), has(self.secret), has(self.configMap), "
                "has(self.emptyDir) && self.emptyDir].filter(one, one).size() == 1"
            ),
            holds=_one_source,
            wrong="exactly one source must be set",
            got="claim={self.claim}, secret={self.secret}, configMap={self.configMap}",
            allowed="one of claim, secret, configMap, or emptyDir: true",
            hint="keep one of them and write a second volume for another",
        ),
    )

    name: Name
    """Name of the volume within the pod. Example: corpora."""
    mount_path: Annotated[
        str,
        Field(pattern=r"^/[A-Za-z0-9._/-]+$", min_length=2, max_length=1024),
        Hint("write for example /data/extra", allowed="an absolute path of letters, digits and . _ / -"),
        Rule(
            cel=f"!self.matches({quote(RESERVED_PATH)}) && !self.matches({quote(ODD_SEGMENT)})",
            holds=lambda value, _: not matches(RESERVED_PATH, value) and not matches(ODD_SEGMENT, value),
            wrong="is reserved, or is not a plain path",
            got="{self}",
            allowed=(
                "a path outside /windlass, /etc/windlass, /usr, /var/run, /run, /tmp, /proc, /sys, /dev, "
                "/bin, /sbin, /lib, without '.', '..', '//' or '/' at the end"
            ),
            hint="mount it elsewhere, for example at /data/extra",
        ),
    ]
    """Directory in the container. Example: /data/corpora."""
    claim: Name | None = None
    """PersistentVolumeClaim of the job's namespace, read-only. Example: corpora."""
    secret: Name | None = None
    """Secret of the job's namespace, as files. Example: proxy-certificates."""
    config_map: Name | None = None
    """ConfigMap of the job's namespace, as files. Example: prompts."""
    empty_dir: bool | None = None
    """true for an empty writable directory that goes with the pod. Example: true."""


OWN_PREFIX = Rule(
    cel=f"self.all(key, !key.startsWith('{GROUP}/'))",
    holds=lambda value, _: not any(key.startswith(f"{GROUP}/") for key in value),
    wrong=f"keys with the prefix {GROUP}/ are the operator's",
    got="{own}",
    allowed="keys with another prefix, or none",
    hint="use your own prefix, for example example.com/team",
    computed={
        "own": Computed(
            f"self.filter(key, key.startsWith('{GROUP}/'))[0]",
            lambda value: next(key for key in value if key.startswith(f"{GROUP}/")),
        )
    },
)


def _one_per_path(value: Any, _: Any) -> bool:
    paths = [one["mountPath"] for one in value]
    return len(set(paths)) == len(paths)


Image = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:@-]*$", min_length=1, max_length=512),
    Hint(
        "name an image built from the workload image, best by digest",
        allowed="registry/name:tag or registry/name@sha256:digest",
    ),
]


class PodOverrides(Model):
    """Curated fields of the rendered pods."""

    image: Image | None = None
    """Image with the workload and its libraries; the operator's own choice if left out.
    Example: registry.example.com/windlass-workload:0.1.0."""
    image_pull_secrets: Annotated[list[Name], Field(max_length=8)] = []
    """Secrets of the job's namespace for pulling the image. Example: [registry-login]."""
    service_account_name: Name | None = None
    """ServiceAccount of the pods; they get no API token of it. The namespace's default if left out.
    Example: trainer."""
    node_selector: Annotated[dict[str, str], Field(max_length=32), KeysAndValues(value_length=63)] = {}
    """Labels that a node must have. Example: {pool: gpu}."""
    tolerations: Annotated[list[Toleration], Field(max_length=16)] = []
    """Taints that the pods tolerate. Example: [{key: nvidia.com/gpu, operator: Exists}]."""
    labels: Annotated[dict[str, str], Field(max_length=32), KeysAndValues(value_length=63), OWN_PREFIX] = {}
    """Labels of the pods besides the operator's. Example: {team: support}."""
    annotations: Annotated[
        dict[str, str],
        Field(max_length=32),
        KeysAndValues(value_length=1024, label_values=False),
        OWN_PREFIX,
    ] = {}
    """Annotations of the pods. Example: {example.com/owner: support}."""
    env: Annotated[list[EnvVar], Field(max_length=64), ListMap("name")] = []
    """Environment variables of the ranks. Example: [{name: TOKENIZERS_PARALLELISM, value: "false"}]."""
    volumes: Annotated[
        list[PodVolume],
        Field(max_length=16),
        ListMap("name"),
        Rule(
            cel="self.all(one, self.exists_one(other, other.mountPath == one.mountPath))",
            holds=_one_per_path,
            wrong="two volumes have the same mountPath",
            got="{path}",
            allowed="one volume per path",
            hint="give each volume its own mountPath",
            computed={
                "path": Computed(
                    "self.filter(one, !self.exists_one(other, other.mountPath == one.mountPath))"
                    ".map(one, one.mountPath)[0]",
                    lambda value: next(
                        one["mountPath"]
                        for one in value
                        if [other["mountPath"] for other in value].count(one["mountPath"]) > 1
                    ),
                )
            },
        ),
    ] = []
    """Extra volumes, read-only but for emptyDir.
    Example: [{name: corpora, claim: corpora, mountPath: /data}]."""
