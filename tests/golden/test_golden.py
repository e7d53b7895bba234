"""Pairs of NN-name.input.yaml and .output.yaml: a job and what was seen of it, and the decision.

Each input is a small world in the API's own form; each output is all that the operator would write.
They show in one page what a situation leads to. `pytest tests/golden --update` rewrites the outputs.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from unit.core.builders import SETTINGS
from windlass.api.contract import Report
from windlass.core.decision import Decision
from windlass.core.observed import ClaimView, Job, ObjectView, Observed, PodView
from windlass.core.reconcile import decide

HERE = Path(__file__).parent
INPUTS = sorted(HERE.glob("*.input.yaml"))


def decided(world: dict[str, Any]) -> Decision:
    job = Job.from_wire(world["job"])
    report = Report.model_validate(world["report"]) if "report" in world else None
    seen = Observed(
        pods=tuple(PodView.from_wire(body) for body in world.get("pods", ())),
        objects=tuple(ObjectView.from_wire(body["kind"], body) for body in world.get("objects", ())),
        claims=tuple(ClaimView.from_wire(body) for body in world.get("claims", ())),
        report=report,
        heard_at=report.sent_at if report is not None else None,
    )
    return decide(job, seen, datetime.fromisoformat(world["now"]), SETTINGS)


def written(decision: Decision) -> dict[str, Any]:
    """The decision as plain data, without what is empty."""
    everything = {
        "status": decision.status,
        "applies": [dict(item) for item in decision.applies],
        "creates": [dict(item) for item in decision.creates],
        "deletes": [f"{item.kind}/{item.name} ({item.uid})" for item in decision.deletes],
        "events": [f"{item.type} {item.reason}: {item.message}" for item in decision.events],
        "requeueAfterSeconds": decision.requeue_after_seconds,
        "orders": decision.orders.to_wire(),
        "confirmAbsent": list(decision.confirm_absent),
    }
    return {key: value for key, value in everything.items() if value not in (None, [], {})}


@pytest.mark.parametrize("path", INPUTS, ids=[path.name.removesuffix(".input.yaml") for path in INPUTS])
def test_situation_leads_to_the_decision_on_file(path: Path, update: bool) -> None:
    made = yaml.safe_dump(written(decided(yaml.safe_load(path.read_text()))), sort_keys=False, width=110)
    expected = path.with_name(path.name.replace(".input.", ".output."))
    if update:
        expected.write_text(made)
    assert yaml.safe_load(made) == yaml.safe_load(expected.read_text())


def test_every_output_has_its_input() -> None:
    outputs = {path.name.removesuffix(".output.yaml") for path in HERE.glob("*.output.yaml")}
    assert outputs == {path.name.removesuffix(".input.yaml") for path in INPUTS}
