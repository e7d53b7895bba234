"""The fault benchmark would notice a broken promise: each check beside what it must let pass."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.faults import promises
from bench.faults.gang import EVERY, Gang
from bench.faults.kinds import KINDS
from bench.faults.promises import Before
from bench.faults.witness import LOSSES
from windlass.api.contract import AcceptedCheckpoint, BudgetUse
from windlass.api.meta import ExitCode
from windlass_workloads.checkpoint import incarnations
from windlass_workloads.checkpoint.store import RunStore
from workloads.checkpoint.support import commit, incarnation

SECONDS = {"detect": 0.1, "stop": 0.1, "decide": 0.1, "total": 0.3}
KILLED, DAMAGED, OUTAGE = (
    KINDS[name] for name in ("rank-killed", "checkpoint-damaged", "disk-outage-rank-killed")
)
FULL, LEAVES = KINDS["disk-full"], KINDS["follower-leaves"]


@dataclass
class Played:
    """A gang of which only the store and the witness exist."""

    root: Path
    damaged: set[str] = field(default_factory=set)
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def store(self) -> RunStore:
        return RunStore(self.root / "store")

    @property
    def witness(self) -> Path:
        return self.root

    @property
    def run(self) -> Any:
        return SimpleNamespace(rows=lambda: self.rows)

    problems_of = Gang.problems_of

    def newest(self) -> Any:
        return incarnations.newest(self.store)

    def begin(self, resume: str | None, *accepted: str, **fields: Any) -> int:
        number = (self.newest().incarnation if self.newest() else 0) + 1
        taken = [
            AcceptedCheckpoint(name=name, step=promises.key_of(name)[0], digest="d", incarnation=1)
            for name in accepted
        ]
        assert incarnations.claim(self.store, incarnation(number, resume=resume, accepted=taken, **fields))
        return number

    def losses(self, *steps: tuple[int, int]) -> None:
        rows = [json.dumps({"incarnation": number, "step": step, "loss": "0x1p+0"}) for number, step in steps]
        (self.root / LOSSES).write_text("\n".join([*rows, ""]))


@pytest.fixture
def gang(tmp_path: Path) -> Played:
    made = Played(tmp_path)
    made.begin(None)
    made.names = [commit(made.store, step, 1) for step in (10, 20)]  # type: ignore[attr-defined]
    return made


def before(**changes: Any) -> Before:
    sound = ("step-00000020.i1", "step-00000010.i1")
    return Before(**{"incarnation": 1, "step": 25, "sound": sound, "recoveries": 0, "at": 0.0, **changes})


# --- what incarnations begin from ---------------------------------------------------------------------------


def test_the_newest_verified_checkpoint_is_what_is_wanted(gang: Played) -> None:
    old, new = gang.names
    gang.begin(new, new, old)
    assert promises.resumed(gang, before()) == []


def test_an_older_one_means_that_a_verified_one_is_lost(gang: Played) -> None:
    old, new = gang.names
    gang.begin(old, new, old)
    assert [text.partition(":")[0] for text in promises.resumed(gang, before())] == ["lost"]


def test_a_fresh_start_means_that_all_are_lost(gang: Played) -> None:
    gang.begin(None)
    assert promises.resumed(gang, before())[0].startswith("lost: incarnation 2 resumed from None")


def test_a_damaged_one_may_be_tried_but_not_trained_from(gang: Played) -> None:
    old, new = gang.names
    gang.damaged.add(new)
    gang.begin(new, new, old)
    assert [text[:2] for text in promises.resumed(gang, before())] == ["P4"]
    gang.begin(old, new, old)
    assert promises.resumed(gang, before()) == []


def test_one_that_is_not_sound_is_noticed_whoever_spoilt_it(gang: Played) -> None:
    old, new = gang.names
    gang.begin(new, new, old)
    path = gang.store.path(f"{new}/weights.bin")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert ["not sound" in text for text in promises.resumed(gang, before())] == [True]


def test_one_that_was_not_accepted_is_the_work_of_somebody_replaced(gang: Played) -> None:
    old, new = gang.names
    gang.begin(new, old)
    assert ["does not accept" in text for text in promises.resumed(gang, before())] == [True]


def test_one_that_retention_takes_away_while_it_is_read_is_neither_sound_nor_spoilt(
    gang: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any, **__: Any) -> list[str]:
        raise FileNotFoundError

    assert gang.problems_of(gang.names[0]) == []
    monkeypatch.setattr("bench.recovery.gang.manifests.verify", gone)
    assert gang.problems_of(gang.names[0]) is None


# --- steps, accounts, budgets -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("done", "kinds", "broken"),
    [
        (20 + 2 * EVERY + 1, [KILLED], False),
        (20 + 2 * EVERY + 2, [KILLED], True),
        (20 + 3 * EVERY + 1, [DAMAGED], False),
        (20 + 3 * EVERY + 2, [DAMAGED], True),
        (20 + 9 * EVERY, [OUTAGE], False),
    ],
)
def test_steps_lost_are_counted_from_what_was_done(
    gang: Played, done: int, kinds: list[Any], broken: bool
) -> None:
    old, new = gang.names
    gang.losses(*((1, step) for step in range(1, done + 1)))
    gang.begin(new, new, old)
    assert bool(promises.lost_steps(gang, before(), kinds)) is broken


@pytest.mark.parametrize(("beyond", "broken"), [(0, False), (1, True)])
def test_a_damaged_checkpoint_costs_what_lay_between_it_and_the_one_before(
    gang: Played, beyond: int, broken: bool
) -> None:
    """A save that failed in between leaves a gap of two intervals."""
    old, new = gang.names
    gang.damaged.add(f"step-{20 + 2 * EVERY + 2:08d}.i1")
    gang.losses(*((1, step) for step in range(1, 20 + 4 * EVERY + 3 + 1 + beyond)))
    gang.begin(new, new, old)
    assert bool(promises.lost_steps(gang, before(), [DAMAGED])) is broken
    assert promises.lost_steps(gang, before(), [KILLED]) != [], "only who damages may lose that much"


def test_steps_of_the_new_incarnation_are_not_lost(gang: Played) -> None:
    old, new = gang.names
    gang.begin(new, new, old)
    gang.losses((1, 21), (2, 900))
    assert promises.lost_steps(gang, before(), [KILLED]) == []
    assert promises.lost_steps(gang, before(incarnation=2), [KILLED]) == []


@pytest.mark.parametrize(
    ("rows", "kinds", "texts"),
    [
        ([{"class": "Crash", "seconds": SECONDS, "evidence": []}], [KILLED], []),
        ([], [KILLED], ["no row tells"]),
        ([], [FULL], []),
        ([{"class": "Storage", "seconds": SECONDS, "evidence": []}], [KILLED], ["class Storage"]),
        (
            [{"class": "Crash", "seconds": SECONDS | {"stop": 0.9}, "evidence": []}],
            [KILLED],
            ["do not add up"],
        ),
        (
            [{"class": "Crash", "seconds": SECONDS | {"stop": -0.1}, "evidence": []}],
            [KILLED],
            ["do not add up"],
        ),
    ],
)
def test_rows_are_there_fit_and_add_up(
    gang: Played, rows: list[dict[str, Any]], kinds: list[Any], texts: list[str]
) -> None:
    found = promises.accounts(gang, rows, kinds)
    assert len(found) == len(texts) and all(part in text for part, text in zip(texts, found, strict=True))


@pytest.mark.parametrize(
    ("use", "kinds", "broken"),
    [
        (BudgetUse(used={"Crash": 1}, since_step=20), [KILLED], False),
        (BudgetUse(used={"Crash": 2}, since_step=20), [KILLED], True),
        (BudgetUse(used={"Crash": 1}, since_step=20), [LEAVES], True),
        (BudgetUse(used={"Crash": 4}, since_step=10), [LEAVES], False),
        (BudgetUse(used={"Crash": 1, "Storage": 2}, since_step=20), [DAMAGED], False),
        (BudgetUse(used={"Crash": 2}, since_step=20), [KILLED, KILLED], False),
    ],
)
def test_no_more_is_charged_than_failed_since_the_last_progress(
    gang: Played, use: BudgetUse, kinds: list[Any], broken: bool
) -> None:
    old, new = gang.names
    gang.begin(new, new, old, budgets=use)
    assert bool(promises.budgets(gang, before(), kinds)) is broken


@pytest.mark.parametrize(
    ("verdict", "count"),
    [
        ({"code": int(ExitCode.PREEMPTED), "lost": 0, "step": 7}, 0),
        ({"code": int(ExitCode.PREEMPTED), "lost": 2, "step": 7}, 1),
        ({"code": int(ExitCode.CRASH), "lost": 0}, 1),
        ({"code": -9}, 1),
        ({"code": -15, "begun": True}, 1),
        ({"code": -15, "begun": False}, 0),
    ],
)
def test_pods_that_are_asked_to_leave_lose_nothing(verdict: dict[str, Any], count: int) -> None:
    assert len(promises.leaving({"leaving": [verdict]})) == count
    assert promises.leaving({}) == []


@pytest.mark.parametrize(
    ("lost", "beside_leader", "alone"),
    [
        (0, 0, 0),
        (1, 1, 0),
        (2 * EVERY + 1, 1, 0),
        (2 * EVERY + 2, 1, 1),
        (5589, 1, 1),
        (-1, 1, 1),
        (None, 1, 1),
    ],
)
def test_a_pod_whose_leader_dies_may_lose_an_interval(
    lost: int | None, beside_leader: int, alone: int
) -> None:
    verdict = {"code": int(ExitCode.PREEMPTED)} | ({} if lost is None else {"lost": lost})
    facts = {"leaving": [verdict]}
    assert len(promises.leaving(facts)) == beside_leader
    assert len(promises.leaving(facts, without_leader=True)) == alone


def test_the_faults_after_which_nobody_leads_are_ones_of_the_benchmark() -> None:
    assert set(promises.LEADER_DIES) <= set(KINDS)
