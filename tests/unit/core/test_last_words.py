"""The end of a run, whoever gives up: one sentence, one place, one next step."""

from __future__ import annotations

import pytest

from windlass.api.contract import BudgetUse
from windlass.api.meta import FailureClass
from windlass.api.running import Budgets, Recovery
from windlass.core.failure.budget import Place, charge
from windlass.core.failure.classify import classify
from windlass.core.failure.evidence import End
from windlass.core.status import messages
from windlass_workloads.agent.failures import gave_up

ONCE = Recovery(budgets=Budgets(crash=0, infrastructure=0, out_of_memory=0, storage=0))
PLACE = Place(verified_step=20, at_step=40, seed="uid")
RANK = {"rank": 1, "pod": "triage-1-2", "node": "node-1"}
ENDS = [
    (End(at=1.0, exit_code=1, log_tail=("ValueError: boom",), **RANK), FailureClass.CRASH),
    (End(at=1.0, signal=9, oom_kills=1, **RANK), FailureClass.OUT_OF_MEMORY),
    (
        End(at=1.0, exit_code=1, log_tail=("OSError: [Errno 5] Input/output error",), **RANK),
        FailureClass.STORAGE,
    ),
    (End(at=1.0, exit_code=1, log_tail=("uncorrectable ECC error",), **RANK), FailureClass.INFRASTRUCTURE),
    (End(at=1.0, exit_code=11, log_tail=("no such column",), **RANK), FailureClass.CONFIGURATION),
]


@pytest.mark.parametrize(("end", "kind"), ENDS, ids=[kind for _, kind in ENDS])
def test_leader_that_gives_up_leaves_one_hint_and_names_the_rank(end: End, kind: FailureClass) -> None:
    judgement = classify([end])
    assert judgement.failure_class is kind
    use = BudgetUse(used={kind: 1}, since_step=20)
    cost = charge(use, judgement, ONCE, PLACE)
    assert cost.stop is not None
    last = gave_up(judgement, cost, 100.0)
    text = messages.failure(last)
    assert text.count(". hint: ") == 1
    before, hint = text.split(". hint: ")
    assert before.endswith("(rank 1, pod triage-1-2, node node-1)")
    assert hint and last.hint == hint
    assert last.failure_class is kind and last.reason == cost.stop


def test_same_failure_again_and_again_says_where_the_lines_are() -> None:
    judgement = classify([ENDS[0][0]])
    use = BudgetUse(since_step=20)
    for _ in range(3):
        cost = charge(use, judgement, Recovery(), PLACE)
        use = cost.use
    assert messages.failure(gave_up(judgement, cost, 0.0)) == (
        "the same failure came 3 times without a newer verified checkpoint: rank 1 ended with exit code 1 (rank 1, "
        "pod triage-1-2, node node-1). hint: status.lastFailure.evidence has the lines; if one batch triggers it, "
        "look at that data"
    )
