"""Pairs of NN-name.input.yaml and .output.yaml: a job and what was seen of it, and the decision.

Each input is a small world in the API's own form; each output is all that the operator would write.
They show in one page what a situation leads to. `pytest tests/golden --update` rewrites the outputs.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from unit.core.builders import SETTINGS
from windlass.api.contract import Report
from windlass.api.meta import FailureClass, Reason, Rung
from windlass.core.chains import TRAINING_CHAIN
from windlass.core.decision import Decision
from windlass.core.facts import gather
from windlass.core.observed import ClaimView, Job, NodeView, ObjectView, Observed, PodView, Refusal
from windlass.core.reconcile import decide
from windlass.core.settings import RenderSettings

WATCHING = replace(SETTINGS, health_taints=("AggregatedNodeHealth",), kueue=True)
HERE = Path(__file__).parent
# Told by a verdict (each like the others, see 16 and 22 to 25), by another condition, or by events only.
AGENTS_OWN = {
    *(Reason.CRASH, Reason.OUT_OF_MEMORY, Reason.PREEMPTED, Reason.STALL, Reason.STORAGE),
    *(Reason.DATA_NOT_FOUND, Reason.DATA_UNREADABLE, Reason.DATA_EMPTY, Reason.MODEL_NOT_FOUND),
    *(Reason.MODEL_FORMAT_UNSAFE, Reason.SEQUENCE_TOO_LONG, Reason.PRECISION_UNSUPPORTED),
    *(Reason.CHECKPOINT_UNUSABLE, Reason.TRACKING_UNREACHABLE, Reason.SAVE_FAILED, Reason.NO_CHECKPOINTS),
    *(Reason.NODES_MISSING, Reason.STALL_SUSPECTED, Reason.STRAGGLER_DETECTED),
    *(Reason.NODE_SUSPECTED, Reason.POD_FORCE_DELETED, Reason.LOSS_SPIKE),
    *(Reason.DRIFT_CORRECTED, Reason.RECOVERED, Reason.CHECKPOINT_COMMITTED),
}
INPUTS = sorted(HERE.glob("*.input.yaml"))


def load(path: Path) -> Any:
    return yaml.load(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def seen_in(world: dict[str, Any]) -> tuple[Job, Observed, datetime]:
    job = Job.from_wire(world["job"])
    report = Report.model_validate(world["report"]) if "report" in world else None
    seen = Observed(
        pods=tuple(PodView.from_wire(body) for body in world.get("pods", ())),
        objects=tuple(ObjectView.from_wire(body["kind"], body) for body in world.get("objects", ())),
        claims=tuple(ClaimView.from_wire(body) for body in world.get("claims", ())),
        report=report,
        heard_at=report.sent_at if report is not None else None,
        refusals=tuple(refusal(item) for item in world.get("refusals", ())),
        nodes=tuple(NodeView.from_wire(body) for body in world.get("nodes", ())),
        listening_since=datetime.fromisoformat(world["listening"]) if "listening" in world else None,
    )
    return job, seen, datetime.fromisoformat(world["now"])


def decided(world: dict[str, Any]) -> Decision:
    return decide(*seen_in(world), settings_of(world))


def settings_of(world: dict[str, Any]) -> RenderSettings:
    return replace(WATCHING, kueue=world.get("kueue", True))


def refusal(item: dict[str, Any]) -> Refusal:
    return Refusal(**item | {"reason": Reason(item["reason"]), "at": datetime.fromisoformat(item["at"])})


def written(decision: Decision) -> dict[str, Any]:
    """The decision as plain data, without what is empty."""
    everything = {
        "status": decision.status,
        "applies": [dict(item) for item in decision.applies],
        "creates": [dict(item) for item in decision.creates],
        "deletes": [
            f"{item.kind}/{item.name} ({item.uid}){' by force' if item.force else ''}"
            for item in decision.deletes
        ],
        "events": [f"{item.type} {item.reason}: {item.message}" for item in decision.events],
        "requeueAfterSeconds": decision.requeue_after_seconds,
        "orders": decision.orders.to_wire(),
        "confirmAbsent": list(decision.confirm_absent),
        "annotates": [{item.name: dict(item.annotations)} for item in decision.annotates],
    }
    return {key: value for key, value in everything.items() if value not in (None, [], {})}


@pytest.mark.parametrize("path", INPUTS, ids=[path.name.removesuffix(".input.yaml") for path in INPUTS])
def test_situation_leads_to_the_decision_on_file(path: Path, update: bool) -> None:
    made = json.loads(json.dumps(written(decided(load(path)))))
    expected = path.with_name(path.name.replace(".input.", ".output."))
    if update:
        expected.write_text(yaml.safe_dump(made, sort_keys=False, width=110))
    assert made == load(expected)


def test_every_output_has_its_input() -> None:
    outputs = {path.name.removesuffix(".output.yaml") for path in HERE.glob("*.output.yaml")}
    assert outputs == {path.name.removesuffix(".input.yaml") for path in INPUTS}


def outputs() -> list[dict[str, Any]]:
    return [load(path) for path in sorted(HERE.glob("*.output.yaml"))]


def test_pairs_are_numbered_without_a_gap() -> None:
    assert [int(path.name[:2]) for path in INPUTS] == list(range(1, len(INPUTS) + 1))


def test_every_judge_speaks_in_some_pair() -> None:
    speaking = set()
    for path in INPUTS:
        world = load(path)
        facts = gather(*seen_in(world), settings_of(world))
        speaking.add(next(judge.__name__ for judge in TRAINING_CHAIN if judge(facts) is not None))
    assert speaking == {judge.__name__ for judge in TRAINING_CHAIN}


def test_every_class_and_rung_is_shown() -> None:
    rows = [row for each in outputs() for row in (each.get("status") or {}).get("recoveries", ())]
    ends = [(each.get("status") or {}).get("lastFailure") for each in outputs()]
    assert {row["class"] for row in rows} | {end["class"] for end in ends if end} == set(FailureClass)
    assert {row["rung"] for row in rows} == set(Rung)


def test_every_state_that_the_operator_can_write_is_shown() -> None:
    """Reasons of Ready but for those that only an agent's own failure can name."""
    shown = {
        item["reason"]
        for each in outputs()
        for item in (each.get("status") or {}).get("conditions", ())
        if item["type"] == "Ready"
    }
    states = set(Reason) - AGENTS_OWN - {Reason.AS_EXPECTED}
    assert states - shown == set()
