"""`windlass plan --step-seconds`, `--prices`: how long the steps of a run will take, and what its pods will cost.

Called by `offline`. A spec has no speed: without measured seconds it says so, and must never guess them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Final

import yaml

from windlass.api.jobs import TrainingJobSpec
from windlass.api.status import Plan
from windlass.cli.documents import Source
from windlass.cli.errors import CliError
from windlass.cli.view import duration
from windlass.core import names
from windlass.core.cost import HOUR, PriceList, pod_rate, price, shown
from windlass.core.judges.world import fits_nodes
from windlass.core.render.pod import requested
from windlass.core.status import messages

BAND: Final = re.compile(r"^(?P<low>\d+(\.\d+)?)(-(?P<high>\d+(\.\d+)?))?$")
CLAIM: Final = "PersistentVolumeClaim"
NOT_KNOWN: Final = (
    "not known before steps are measured; status.progress has etaLowSeconds and etaHighSeconds after seven. "
    "Say --step-seconds 1.2-1.5 to see it now"
)


@dataclass(frozen=True, slots=True)
class StepSeconds:
    """What one step takes, measured elsewhere, from and to."""

    low: Decimal
    high: Decimal


def step_seconds(text: str) -> StepSeconds:
    """The option `--step-seconds`: one number or from-to. CliError for anything else."""
    found = BAND.match(text)
    low = Decimal(found["low"]) if found else Decimal(0)
    high = Decimal(found["high"] or found["low"]) if found else Decimal(0)
    if low <= 0 or high < low:
        raise CliError(
            f"--step-seconds: is not a time or a band of times (got {text}); allowed: seconds above 0 like 1.3, or "
            "1.2-1.5 with the larger one last. hint: take them from a run of the same spec on the same nodes"
        )
    return StepSeconds(low, high)


def read_prices(path: Path) -> PriceList:
    """The option `--prices`: a file with currency and perHour, or chart values that have them under `prices`."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        block = document.get("prices", document)
        per_hour = {str(name): price(value) for name, value in block["perHour"].items()}
        return PriceList(str(block["currency"]), per_hour)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        detail = " ".join(str(error).split())[:200]
        raise CliError(
            f"--prices: is not a price list (got {path}: {type(error).__name__}: {detail}); allowed: YAML like "
            'prices: {currency: EUR, perHour: {cpu: "0.03"}} with decimals in quotes. hint: use the values of the chart'
        ) from error


def outlook_rows(
    spec: TrainingJobSpec, plan: Plan, step: StepSeconds | None, prices: PriceList | None
) -> list[tuple[str, str]]:
    """Lines of the plan about time and money, each with what it leaves out."""
    rows = [("duration", time_text(plan.total_steps, step))]
    if prices is not None:
        rows.append(("cost", cost_text(spec, plan.total_steps, step, prices)))
    return rows


def time_text(steps: int | None, step: StepSeconds | None) -> str:
    """From when to when the steps will have been taken."""
    if step is None:
        return NOT_KNOWN
    if steps is None:
        return "not known while the steps are not"
    low, high = float(step.low * steps), float(step.high * steps)
    band = duration(low) if low == high else f"{duration(low)} to {duration(high)}"
    return f"{band} for the steps; starting, saves, validation and failures come on top"


def cost_text(spec: TrainingJobSpec, steps: int | None, step: StepSeconds | None, prices: PriceList) -> str:
    """What the pods cost while the steps are taken, or as long as that is not known, in an hour."""
    rate = spec.resources.nodes * pod_rate(requested(spec), prices.per_hour)
    hourly = f"{shown(rate)} {prices.currency} per hour"
    if step is None or steps is None:
        return f"{hourly}; in all not known while the duration is not"
    low, high = (shown(rate * each * steps / HOUR) for each in (step.low, step.high))
    band = low if low == high else f"{low} to {high}"
    return f"{band} {prices.currency} for the steps, at {hourly}"


def claim_warnings(spec: TrainingJobSpec, claims: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Claims among the manifests that not all nodes can mount, which would stop the job before its first pod."""
    nodes, store = spec.resources.nodes, names.store_claim(spec)
    return [
        messages.access_mode(name, claims[name], nodes)
        for name in names.all_claims(spec)
        if name in claims and not fits_nodes(claims[name], nodes, is_store=name == store)
    ]


def claims_of(sources: Iterable[Source], namespace: str | None) -> dict[str, tuple[str, ...]]:
    """Access modes of the claims that stand beside a job, by name. `namespace`: where the job's claims are."""
    return dict(_claims(sources, namespace))


def _claims(sources: Iterable[Source], namespace: str | None) -> Iterator[tuple[str, tuple[str, ...]]]:
    for source in sources:
        document = source.document
        if not isinstance(document, dict) or document.get("kind") != CLAIM:
            continue
        metadata, spec = document.get("metadata"), document.get("spec")
        modes = spec.get("accessModes") if isinstance(spec, dict) else None
        if not isinstance(metadata, dict) or not isinstance(modes, list):
            continue
        if metadata.get("namespace") == namespace:
            yield str(metadata.get("name")), tuple(str(mode) for mode in modes)
