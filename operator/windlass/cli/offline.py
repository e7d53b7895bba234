"""`windlass validate`, `plan` and `render`: what can be said of a manifest without a cluster.

Called by `main`. Validation gives the API server's verdict, the plan is the operator's first stage, and
render prints the very objects the operator would make. It must never need a cluster or torch.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from windlass.api.jobs import TrainingJobSpec
from windlass.api.kinds import KINDS
from windlass.api.meta import GROUP
from windlass.api.status import JobStatus, Plan
from windlass.api.validation import validate as problems_of
from windlass.cli.documents import Source, read
from windlass.cli.errors import CliError
from windlass.cli.outlook import claim_warnings, claims_of, outlook_rows, read_prices, step_seconds
from windlass.cli.sizes import size_rows, with_model
from windlass.core.observed import Job
from windlass.core.plan import arithmetic_plan
from windlass.core.render.gang import whole_gang
from windlass.core.settings import RenderSettings

PLACEHOLDER_UID = "00000000-0000-0000-0000-000000000000"
PLACEHOLDER_IMAGE = "windlass-workload"
REPORT_URL = "https://windlass-reports.windlass-system.svc:8443"


def validate_command(options: argparse.Namespace) -> int:
    """Print every problem; 0 when there is none, 1 otherwise."""
    sources = _ours(read(options.file))
    wrong = 0
    for source in sources:
        found = problems_of(source.document)
        wrong += bool(found)
        for problem in found:
            print(f"{source.place}: {problem}", file=sys.stderr)
        if not found:
            print(f"{source.place}: {_title(source.document)} is valid")
    return 1 if wrong else 0


def plan_command(options: argparse.Namespace) -> int:
    """Print world size, accumulation, steps, sizes and time where they are known, and warnings of each job."""
    sources = read(options.file)
    step = step_seconds(options.step_seconds) if options.step_seconds is not None else None
    prices = read_prices(Path(options.prices)) if options.prices is not None else None
    for source in _valid(sources):
        spec = spec_of(source.document)
        made = arithmetic_plan(spec, rows=options.rows)
        if options.model_config is not None:
            made = with_model(made, spec, Path(options.model_config))
        print(f"{_title(source.document)}")
        rows = [
            ("ranks", f"{made.world_size} ({spec.resources.nodes} nodes x {spec.resources.ranks_per_node})"),
            *_work(spec, made, options.rows),
            ("checkpoints", _checkpoints(spec, made.total_steps)),
        ]
        rows += outlook_rows(spec, made, step, prices)
        for name, value in [*rows, *size_rows(spec, made)]:
            print(f"  {name:<14} {value}")
        claims = claims_of(sources, source.document["metadata"].get("namespace"))
        for warning in [*made.warnings, *claim_warnings(spec, claims)]:
            print(f"  warning: {warning}")
    return 0


def render_command(options: argparse.Namespace) -> int:
    """Print all objects of the first attempt as YAML."""
    settings = RenderSettings(
        workload_image=options.image,
        workload_python=options.python,
        report_url=REPORT_URL,
        report_server_name=REPORT_URL.removeprefix("https://").rpartition(":")[0],
        ca_pem="(written by the operator)",
    )
    made: list[Any] = []
    for source in _valid(read(options.file)):
        job = as_job(source.document, namespace=options.namespace or "default")
        if job.spec is None:
            raise CliError(f"{source.place}: {job.spec_error}")
        made += whole_gang(job, job.spec, settings=settings)
    print(yaml.dump_all(made, sort_keys=False, explicit_start=True, Dumper=_Dumper), end="")
    return 0


class _Dumper(yaml.SafeDumper):
    """Without anchors: the same labels stand in many objects."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def as_job(document: dict[str, Any], *, namespace: str) -> Job:
    """The document as the operator would see it right after creation, with a placeholder UID."""
    metadata = document["metadata"]
    return Job(
        kind=document["kind"],
        namespace=metadata.get("namespace", namespace),
        name=metadata.get("name") or f"{metadata['generateName']}xxxxx",
        uid=PLACEHOLDER_UID,
        generation=1,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        status=JobStatus(),
        spec=spec_of(document),
    )


def spec_of(document: dict[str, Any]) -> TrainingJobSpec:
    """The spec of a document that is valid."""
    return KINDS[document["kind"]].spec.model_validate(document["spec"])


def _ours(sources: list[Source]) -> list[Source]:
    """Documents of our group; others in the same file are somebody else's."""
    ours = [
        source
        for source in sources
        if not isinstance(source.document, dict) or _could_be_ours(source.document)
    ]
    if not ours:
        kinds = sorted({str(source.document.get("kind")) for source in sources})
        raise CliError(
            f"-f: holds no job of Windlass (got {', '.join(kinds)}); allowed: {', '.join(KINDS)}", status=2
        )
    return ours


def _could_be_ours(document: dict[str, Any]) -> bool:
    version, kind = str(document.get("apiVersion", "")), str(document.get("kind", ""))
    return (
        not version
        or version.startswith(GROUP)
        or any(name.lower().removesuffix("job") in kind.lower() for name in KINDS)
    )


def _valid(sources: list[Source]) -> list[Source]:
    ours = _ours(sources)
    wrong = [f"{source.place}: {problem}" for source in ours for problem in problems_of(source.document)]
    if wrong:
        raise CliError("\n".join(wrong))
    return ours


def _title(document: dict[str, Any]) -> str:
    metadata = document["metadata"]
    return f"{document['kind']}/{metadata.get('name') or metadata.get('generateName')}"


def _work(spec: TrainingJobSpec, made: Plan, rows: int | None) -> list[tuple[str, str]]:
    """Lines about what a step is; for a command of the user's own, the command."""
    if spec.custom is not None:
        return [
            ("command", shlex.join(spec.custom.command)),
            ("steps", "known once the script tells (windlass_workloads.custom)"),
        ]
    return [
        ("rows per step", f"{spec.training.global_batch_size}"),
        ("accumulation", f"{made.accumulation} passes of {spec.training.micro_batch_size} rows per rank"),
        ("steps", str(made.total_steps) if made.total_steps is not None else _why_unknown(spec, rows)),
    ]


def _why_unknown(spec: TrainingJobSpec, rows: int | None) -> str:
    if spec.is_packed or rows:
        return "known after preflight (packing)"
    return "known after preflight; say --rows N to see them now"


def _checkpoints(spec: TrainingJobSpec, steps: int | None) -> str:
    count = f"{steps // spec.checkpoint.every_steps} in all, " if steps else ""
    mode = "while training goes on" if spec.checkpoint.asynchronous else "while training waits"
    return f"{count}one every {spec.checkpoint.every_steps} steps, written {mode}, {spec.checkpoint.keep_last} kept"
