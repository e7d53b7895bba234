"""Writes crds/*.yaml and docs/reference/*.md from the models: `python -m windlass.api.crdgen [--check]`.

`make crds` writes; `--check`, which `make check` runs, compares and fails on drift. Output is a pure
function of the models' source.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from windlass.api import meta
from windlass.api.kinds import KINDS, Kind
from windlass.api.nodes import read
from windlass.api.reference import page
from windlass.api.schema import Schema, of_node
from windlass.api.status import JobStatus

ROOT: Final = Path(__file__).resolve().parents[3]
HEADER: Final = "# Generated from operator/windlass/api by `make crds`. Do not edit.\n"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of `kubectl get`; a wide one is shown with `-o wide` only."""

    name: str
    type: str
    path: str
    description: str
    wide: bool = False

    def to_kubernetes(self) -> dict[str, Any]:
        """This column as an entry of additionalPrinterColumns."""
        column: dict[str, Any] = {
            "name": self.name,
            "type": self.type,
            "jsonPath": self.path,
            "description": self.description,
        }
        return column | {"priority": 1} if self.wide else column


def _ready(field: str) -> str:
    return f'.status.conditions[?(@.type=="{meta.ConditionType.READY}")].{field}'


JOB_COLUMNS: Final = (
    Column(
        "Ready", "string", _ready("status"), "Whether the job completed; False with Reason says why not yet."
    ),
    Column("Reason", "string", _ready("reason"), "What the job is doing or what stops it."),
    Column("Step", "integer", ".status.progress.step", "Optimiser steps finished."),
    Column("Loss", "number", ".status.progress.loss", "Training loss of the last reported step."),
    Column("Restarts", "integer", ".status.counters.restarts", "Recoveries since creation."),
    Column(
        "Goodput", "number", ".status.goodput.ratio", "Share of the time since admission spent on new steps."
    ),
    Column("Tokens/s", "number", ".status.progress.tokensPerSecond", "Trained tokens per second.", wide=True),
    Column("MFU", "number", ".status.progress.mfu", "Model FLOPs utilisation, 0 to 1.", wide=True),
    Column("Checkpoint", "string", ".status.checkpoints[0].name", "Newest verified checkpoint.", wide=True),
    Column("Cost", "string", ".status.cost.total", "Cost so far, by the operator's price list.", wide=True),
    Column("Model", "string", ".spec.model.uri", "Model that the job started from.", wide=True),
    Column("Age", "date", ".metadata.creationTimestamp", "Time since creation."),
)

PRETRAIN_COLUMNS: Final = (
    *JOB_COLUMNS[:3],
    Column(
        "Tokens", "integer", ".status.progress.tokens", "Tokens trained on, those of lost steps not counted."
    ),
    JOB_COLUMNS[3],
    Column("Tokens/s", "number", ".status.progress.tokensPerSecond", "Trained tokens per second."),
    Column("MFU", "number", ".status.progress.mfu", "Model FLOPs utilisation, 0 to 1."),
    *JOB_COLUMNS[4:6],
    *JOB_COLUMNS[8:],
)
COLUMNS: Final = {"FineTuneJob": JOB_COLUMNS, "PretrainJob": PRETRAIN_COLUMNS}
"""By kind."""


def schema(kind: Kind) -> Schema:
    """The whole object's structural schema."""
    return {
        "type": "object",
        "description": kind.text,
        "required": ["spec"],
        "x-kubernetes-validations": [rule.to_kubernetes() for rule in kind.rules],
        "properties": {
            "apiVersion": {
                "type": "string",
                "description": f"Version of this API. Example: {meta.API_VERSION}.",
            },
            "kind": {"type": "string", "description": f"Kind of this object: {kind.name}."},
            # The longest name the server takes: rules about it need a bound for their cost.
            "metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 253}}},
            "spec": of_node(read(kind.spec), "", spec=True),
            # One writer, always the whole of it: as one value it is compared and owned as such, and the server keeps
            # little about who owns which field, which it reads and writes with each status.
            "status": {
                **of_node(read(JobStatus), "", spec=False),
                "x-kubernetes-map-type": "atomic",
            },
        },
    }


def custom_resource_definition(kind: Kind) -> dict[str, Any]:
    """The CustomResourceDefinition of one kind, ready to be applied."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{meta.GROUP}"},
        "spec": {
            "group": meta.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind.name,
                "listKind": f"{kind.name}List",
                "plural": kind.plural,
                "singular": kind.name.lower(),
                "shortNames": [kind.short],
                "categories": [meta.CATEGORY],
            },
            "versions": [
                {
                    "name": meta.VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [column.to_kubernetes() for column in COLUMNS[kind.name]],
                    "schema": {"openAPIV3Schema": schema(kind)},
                }
            ],
        },
    }


class _Plain(yaml.SafeDumper):
    """Writes equal objects twice rather than once with an anchor."""

    def ignore_aliases(self, data: Any) -> bool:
        """Never use an anchor."""
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    # YAML 1.2, which Kubernetes reads, takes 2e-5 for a number; PyYAML, by 1.1, would leave it without quotes.
    numeric = value[:1].isdigit() or value[:1] in ("+", "-")
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style='"' if value and numeric else None)


_Plain.add_representer(str, _text)


def outputs() -> dict[str, str]:
    """Every generated file: path below the repository's root, and text."""
    found: dict[str, str] = {}
    for kind in KINDS.values():
        crd = yaml.dump(
            custom_resource_definition(kind),
            Dumper=_Plain,
            sort_keys=False,
            width=110,
            allow_unicode=True,
        )
        found[f"crds/{kind.plural}.{meta.GROUP}.yaml"] = HEADER + crd
        reference = page(kind.name, kind.text, schema(kind))
        found[f"docs/reference/{kind.name.lower()}.md"] = reference
    return found


def stale(root: Path) -> list[str]:
    """The generated files below `root` that are not what the models say."""
    return [
        path
        for path, text in outputs().items()
        if not (root / path).is_file() or (root / path).read_text(encoding="utf-8") != text
    ]


def write(root: Path) -> list[str]:
    """Write what is stale below `root`; return the paths written."""
    found = stale(root)
    texts = outputs()
    for path in found:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(texts[path], encoding="utf-8")
    return found


def main(arguments: list[str], root: Path = ROOT) -> int:
    """Entry: write, or with --check compare; 1 means drift, 2 a wrong call."""
    if arguments not in ([], ["--check"]):
        sys.stderr.write(
            f"crdgen: unknown arguments (got {' '.join(arguments)}); allowed: --check or nothing\n"
        )
        return 2
    if not arguments:
        sys.stdout.writelines(f"wrote {path}\n" for path in write(root))
        return 0
    found = stale(root)
    sys.stderr.writelines(f"{path}: differs from the models. hint: run `make crds`\n" for path in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
