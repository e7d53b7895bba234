"""Failures of class Numeric: how far back, past which data, when the run stops, and that it never goes on for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass.api.contract import AcceptedCheckpoint, BudgetUse, Rollback
from windlass.api.guards import Guards
from windlass.api.meta import ExitCode, FailureClass, Reason, Rung
from windlass.api.running import Budgets, Recovery
from windlass.api.status import Failure, SkippedData
from windlass.core.failure.budget import Place, budget_of, charge
from windlass.core.failure.classify import classify
from windlass.core.failure.evidence import End
from windlass.core.failure.numeric import advice, detour, rollback_of, stops_with
from windlass.core.skipped_windows import position

NUMERIC = FailureClass.NUMERIC


def failure(reason: Reason | str = Reason.NON_FINITE) -> Failure:
    return Failure(
        reason=reason, failure_class=NUMERIC, message="step 45: loss nan", evidence=["step 45: loss nan"]
    )


def guards(**blocks: object) -> Guards:
    return Guards.model_validate(blocks)


def checkpoints(*steps: int) -> tuple[AcceptedCheckpoint, ...]:
    """Accepted checkpoints, newest first."""
    return tuple(
        AcceptedCheckpoint(name=f"step-{step:08d}.i1", step=step, incarnation=1, digest="d") for step in steps
    )


ROLLBACKS = [
    # name, reason, guards, failures charged, checkpoints back, steps skipped
    ("default", Reason.NON_FINITE, {}, 1, (1, 1)),
    ("again", Reason.NON_FINITE, {}, 2, (2, 1)),
    ("third", Reason.NON_FINITE, {}, 3, (3, 1)),
    ("as told", Reason.NON_FINITE, {"nonFinite": {"checkpoints": 3, "skipSteps": 7}}, 1, (3, 7)),
    ("same data", Reason.NON_FINITE, {"nonFinite": {"skipSteps": 0}}, 1, (1, 0)),
    ("spike", Reason.LOSS_SPIKE, {"lossSpike": {"action": "Rollback"}}, 1, (2, 10)),
    ("spike again", Reason.LOSS_SPIKE, {"lossSpike": {"action": "Rollback"}}, 2, (3, 10)),
    (
        "whole spike",
        Reason.LOSS_SPIKE,
        {"lossSpike": {"action": "Rollback", "skipSteps": 1, "patience": 4}},
        1,
        (2, 4),
    ),
    ("spike, same data", Reason.LOSS_SPIKE, {"lossSpike": {"action": "Rollback", "skipSteps": 0}}, 1, (2, 0)),
    ("pause", Reason.NON_FINITE, {"nonFinite": {"action": "Pause"}}, 1, None),
    ("fail", Reason.NON_FINITE, {"nonFinite": {"action": "Fail"}}, 1, None),
    ("notify", Reason.LOSS_SPIKE, {}, 1, None),
    ("another failure", Reason.CRASH, {}, 1, None),
]


@pytest.mark.parametrize(
    ("reason", "blocks", "charged", "wanted"), [row[1:] for row in ROLLBACKS], ids=[r[0] for r in ROLLBACKS]
)
def test_a_guard_says_how_far_to_go_back(reason, blocks, charged, wanted):
    found = rollback_of(failure(reason), guards(**blocks), BudgetUse(used={NUMERIC: charged}), 45)
    assert found == (Rollback(checkpoints=wanted[0], step=45, skip_steps=wanted[1]) if wanted else None)


STOPS = [
    (Reason.NON_FINITE, {}, None),
    (Reason.NON_FINITE, {"nonFinite": {"action": "Pause"}}, "Paused"),
    (Reason.NON_FINITE, {"nonFinite": {"action": "Fail"}}, "Failed"),
    (Reason.NON_FINITE, {"lossSpike": {"action": "Pause"}}, None),
    (Reason.LOSS_SPIKE, {}, None),
    (Reason.LOSS_SPIKE, {"lossSpike": {"action": "Rollback"}}, None),
    (Reason.LOSS_SPIKE, {"lossSpike": {"action": "Pause"}}, "Paused"),
    (Reason.LOSS_SPIKE, {"lossSpike": {"action": "Fail"}}, "Failed"),
    (Reason.CRASH, {"nonFinite": {"action": "Fail"}}, None),
]


@pytest.mark.parametrize(("reason", "blocks", "wanted"), STOPS, ids=str)
def test_a_guard_stops_the_run_only_where_it_is_told_to(reason, blocks, wanted):
    assert stops_with(failure(reason), guards(**blocks)) == wanted


@pytest.mark.parametrize(
    ("reason", "field"), [(Reason.NON_FINITE, "guards.nonFinite"), (Reason.LOSS_SPIKE, "guards.lossSpike")]
)
@pytest.mark.parametrize(
    ("action", "said"), [("Pause", "once its spec changes"), ("Fail", "create a new job")]
)
def test_advice_names_the_field_to_change(reason, field, action, said):
    blocks = {"nonFinite": {"action": action}, "lossSpike": {"action": action}}
    text = advice(failure(reason), guards(**blocks))
    assert field in text
    assert said in text


WAYS = [
    # name, wish, steps of checkpoints, windows before, step resumed, windows after, skipped
    ("newest", (1, 45, 1), (40, 20), [], 40, ((176, 180),), (176, 179, 1)),
    ("two back", (2, 45, 1), (40, 20), [], 20, ((176, 180),), (176, 179, 1)),
    ("more than there are", (9, 45, 1), (40, 20), [], 20, ((176, 180),), (176, 179, 1)),
    ("none", (1, 3, 1), (), [], 0, ((8, 12),), (8, 11, 1)),
    ("many steps", (1, 45, 50), (40, 20), [], 40, ((160, 180),), (160, 179, 5)),
    ("many steps, two back", (2, 45, 10), (40, 20), [], 20, ((140, 180),), (140, 179, 10)),
    ("same data", (1, 45, 0), (40,), [], 40, (), None),
    ("window before", (1, 45, 1), (40,), [(0, 8)], 40, ((0, 8), (184, 188)), (184, 187, 1)),
    ("window just before", (1, 45, 1), (40,), [(176, 180)], 40, ((176, 184),), (180, 183, 1)),
    (
        "window of another start stays",
        (2, 45, 1),
        (40, 20),
        [(164, 168)],
        20,
        ((164, 168), (180, 184)),
        (180, 183, 1),
    ),
    ("a step of the checkpoint", (1, 40, 1), (40,), [], 40, (), None),
]


@pytest.mark.parametrize(
    ("wish", "steps", "windows", "resumed", "after", "skipped"),
    [row[1:] for row in WAYS],
    ids=[row[0] for row in WAYS],
)
def test_a_detour_keeps_older_checkpoints_and_leaves_out_the_data(
    wish, steps, windows, resumed, after, skipped
):
    back, step, skip = wish
    way = detour(Rollback(checkpoints=back, step=step, skip_steps=skip), checkpoints(*steps), windows, 4)
    assert (way.accepted[0].step if way.accepted else 0) == resumed
    assert [each.step for each in way.accepted] == [each for each in steps if each <= resumed]
    assert way.windows == after
    wanted = SkippedData(first=skipped[0], last=skipped[1], steps=skipped[2]) if skipped else None
    assert way.skipped == wanted


@given(
    back=st.integers(1, 5),
    ahead=st.integers(1, 9),
    skip=st.integers(0, 20),
    steps=st.lists(st.integers(1, 60), min_size=1, max_size=5, unique=True),
    windows=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 220)), max_size=3),
    batch=st.integers(1, 8),
)
def test_whatever_a_detour_leaves_out_the_checkpoint_stays_true(back, ahead, skip, steps, windows, batch):
    accepted = checkpoints(*sorted(steps, reverse=True))
    wish = Rollback(checkpoints=back, step=max(steps) + ahead, skip_steps=skip)
    way = detour(wish, accepted, windows, batch)
    assert way.accepted[0] in accepted
    assert accepted[-len(way.accepted) :] == way.accepted
    trained = range(way.accepted[0].step * batch)
    assert [position(count, way.windows) for count in trained] == [
        position(count, windows) for count in trained
    ]
    assert (way.skipped is None) == (skip == 0)


def judged(text: str = "step 45: loss nan, gradient no number on 2 rank(s)"):
    told = failure().model_copy(update={"message": text, "evidence": [text]})
    return classify(
        [End(at=1.0, rank=rank, exit_code=int(ExitCode.NUMERIC), failure=told) for rank in (0, 1)]
    )


def test_the_class_is_what_ranks_say_and_has_an_exit_code_and_words_of_its_own():
    assert (judged().failure_class, judged().reason, judged().first_failed.rank) == (
        NUMERIC,
        Reason.NON_FINITE,
        0,
    )
    silent = classify([End(at=1.0, rank=0, exit_code=int(ExitCode.NUMERIC))])
    assert (silent.failure_class, silent.reason) == (NUMERIC, Reason.NON_FINITE)


WORDS = [
    ("AssertionError: loss is nan", True),
    ("step 12: loss nan, gradient norm 3.1", True),
    ("grad_norm: inf", True),
    ("RuntimeError: non-finite gradient in layer 3", True),
    ("ValueError: NaN loss at step 7", True),
    ("loss: -inf", True),
    ("KeyError: 'nano'", False),
    ("loss 2.31", False),
    ("info: loss information follows", False),
    ("gradient norm 1.0, infinity fabric up", False),
]


@pytest.mark.parametrize(("line", "numeric"), WORDS, ids=[row[0] for row in WORDS])
def test_a_script_s_own_words_for_it_are_known(line, numeric):
    found = classify([End(at=1.0, rank=0, exit_code=1, log_tail=(line,))])
    assert (found.failure_class is NUMERIC) == numeric


def test_rollbacks_without_progress_come_to_an_end():
    recovery, use, rungs = Recovery(), BudgetUse(), []
    for step in (45, 47, 52, 49, 45):
        cost = charge(use, judged(), recovery, Place(verified_step=40, at_step=step, seed="s"))
        use = cost.use
        if cost.stop is not None:
            break
        rungs.append(cost.rung)
    assert rungs == [Rung.IN_PLACE, Rung.IN_PLACE]
    assert cost.stop == Reason.NO_PROGRESS


def test_a_checkpoint_that_was_reached_before_the_rollback_is_no_progress():
    use = charge(BudgetUse(), judged(), Recovery(), Place(verified_step=40, at_step=45, seed="s")).use
    again = charge(use, judged(), Recovery(), Place(verified_step=40, at_step=46, seed="s")).use
    assert again.used == {NUMERIC: 2}
    further = charge(again, judged(), Recovery(), Place(verified_step=60, at_step=61, seed="s")).use
    assert further.used == {NUMERIC: 1}


@pytest.mark.parametrize("budget", [0, 1, 2])
def test_the_budget_is_the_spec_s(budget):
    budgets = Budgets(numeric=budget)
    assert budget_of(NUMERIC, budgets) == budget
    use, recovery = BudgetUse(), Recovery(budgets=budgets)
    for count in range(budget + 1):
        cost = charge(use, judged(), recovery, Place(verified_step=40, at_step=45 + count, seed="s"))
        use = cost.use
        assert (cost.stop is None) == (count < budget)
    assert cost.stop == Reason.BUDGET_EXHAUSTED
