"""The Argo CD health script, run by a real Lua on statuses as the operator writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lupa import LuaRuntime

SCRIPT = (Path(__file__).resolve().parents[2] / "argocd" / "health.lua").read_text()


def health(job: dict[str, Any]) -> tuple[str, str]:
    lua = LuaRuntime(register_eval=False)
    # Argo CD runs scripts without the standard libraries; only these two are always there.
    check = lua.eval(f"function(obj) local os, io, string, table, require = nil\n{SCRIPT}\nend")
    found = check(lua.table_from(job, recursive=True))
    return found["status"], found["message"]


def job(*conditions: tuple[str, str, str], generation: int = 1, observed: int | None = 1) -> dict[str, Any]:
    rows = [
        {"type": kind, "status": value, "reason": reason, "message": "why"}
        for kind, value, reason in conditions
    ]
    status: dict[str, Any] = {"conditions": rows}
    if observed is not None:
        status["observedGeneration"] = observed
    return {"metadata": {"generation": generation}, "status": status}


CASES = [
    (job(("Failed", "True", "BudgetExhausted"), ("Ready", "False", "BudgetExhausted")), "Degraded"),
    (job(("Stalled", "True", "ClaimNotFound"), ("Reconciling", "True", "Accepted")), "Degraded"),
    (job(("Complete", "True", "Completed"), ("Ready", "True", "Completed")), "Healthy"),
    (job(("Suspended", "True", "Suspended"), ("Ready", "False", "Suspended")), "Suspended"),
    (job(("Reconciling", "True", "WaitingForPods"), ("Ready", "False", "WaitingForPods")), "Progressing"),
    (job(("Running", "True", "Training"), ("Ready", "False", "Training")), "Progressing"),
    (
        job(("TrackingDegraded", "True", "TrackingUnreachable"), ("Running", "True", "Training")),
        "Progressing",
    ),
    (job(("Complete", "True", "Completed"), generation=2), "Progressing"),
    (job(("Failed", "False", "AsExpected"), ("Complete", "True", "Completed"), observed=None), "Healthy"),
    (job(), "Progressing"),
    ({"metadata": {"generation": 1}}, "Progressing"),
]


@pytest.mark.parametrize(("document", "expected"), CASES, ids=range(len(CASES)))
def test_health_of_a_job(document: dict[str, Any], expected: str) -> None:
    assert health(document)[0] == expected


def test_message_carries_reason_and_text() -> None:
    assert health(job(("Failed", "True", "OutOfMemory")))[1] == "OutOfMemory: why"


def test_a_condition_without_reason_does_not_break_the_script() -> None:
    document = {
        "metadata": {"generation": 1},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }
    assert health(document) == ("Healthy", ": ")
