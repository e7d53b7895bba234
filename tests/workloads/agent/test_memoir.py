"""What a leader writes down, who may claim, and what is left when a volume does not take it."""

from __future__ import annotations

import asyncio
import errno
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from windlass.api.contract import BudgetUse, IncarnationCause, RankEvent, Verdict
from windlass.api.meta import FailureClass, Phase, Rung
from windlass.api.status import Output, Plan, TrackingStatus
from windlass.cli import kept_log
from windlass.core.checkpoints.choose import RESUME_FROM
from windlass_workloads.agent import events as ev
from windlass_workloads.agent import timeline
from windlass_workloads.agent.claims import TRIES, Claims
from windlass_workloads.agent.events import State
from windlass_workloads.agent.identity import Identity
from windlass_workloads.agent.memoir import FORWARD, Memoir
from windlass_workloads.checkpoint import incarnations
from windlass_workloads.checkpoint.recipe import recipe
from windlass_workloads.checkpoint.store import TIMELINE, RunStore
from workloads.agent.support import config
from workloads.checkpoint.support import commit, incarnation


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    store = RunStore(tmp_path / "run")
    store.probe()
    return store


@pytest.fixture
def memoir(store: RunStore) -> Iterator[Memoir]:
    made = Memoir(store)
    yield made
    made._writer.shutdown(wait=True)


def written(memoir: Memoir) -> None:
    """Everything asked for so far has been tried."""
    memoir._writer.submit(lambda: None).result(10)


def states(store: RunStore) -> list[Any]:
    return [row["state"] for row in store.read_lines(TIMELINE) if "state" in row]


# --- the timeline ------------------------------------------------------------------------------------------


def test_rows_wait_until_this_agent_owns_an_incarnation(store: RunStore, memoir: Memoir) -> None:
    memoir.read(None)
    memoir.note(ev.Mark(State.STARTING, at=100.0, incarnation=0))
    memoir.note(ev.Remember((("prepared", "toy"),)))
    written(memoir)
    assert store.read_lines(TIMELINE) == []
    memoir.lead(incarnation(1))
    memoir.note(ev.Mark(State.TRAINING, at=110.0, incarnation=1))
    written(memoir)
    assert states(store) == ["Starting", "Training"]
    assert store.read_lines(TIMELINE)[1]["prepared"] == "toy"
    memoir.lead(incarnation(2))
    written(memoir)
    assert states(store) == ["Starting", "Training"], "nothing twice"


def test_an_agent_that_never_leads_writes_nothing(store: RunStore, memoir: Memoir) -> None:
    store.append_line(TIMELINE, timeline.state_row(State.TRAINING, 100.0, 1, ""))
    before = store.read(TIMELINE)
    memoir.read(incarnation(1))
    memoir.note(ev.Mark(State.RECOVERING, at=200.0, incarnation=0))
    memoir.note(ev.Stalled(3.0))
    written(memoir)
    assert store.read(TIMELINE) == before


@pytest.mark.parametrize(
    ("last", "added"),
    [(State.TRAINING, ["Down"]), (State.RECOVERING, ["Down"]), (State.DOWN, [])],
)
def test_the_end_of_a_leader_without_a_word_is_written_by_the_next(
    store: RunStore, last: State, added: list[str]
) -> None:
    store.append_line(TIMELINE, timeline.state_row(last, 100.0, 1, "Pod" if last is State.DOWN else ""))
    store.write(timeline.ALIVE, timeline.alive(130.0, 4, 4))
    memoir = Memoir(store)
    memoir.read(incarnation(1))
    memoir.lead(incarnation(2))
    asyncio.run(memoir.close(10))
    assert states(store) == [str(last), *added]
    if added:
        assert store.read_lines(TIMELINE)[-1]["at"] == 130.0


def test_totals_follow_what_is_noted(store: RunStore, memoir: Memoir) -> None:
    memoir.read(None)
    for state, at in ((State.STARTING, 100.0), (State.TRAINING, 110.0)):
        memoir.note(ev.Mark(state, at=at, incarnation=1))
    memoir.note(ev.Stalled(2.5))
    totals = memoir.past.totals.at(130.0)
    assert (totals.starting, totals.training, totals.checkpoint_stall) == (10.0, 17.5, 2.5)


def test_the_same_is_read_back_that_was_noted(store: RunStore, memoir: Memoir) -> None:
    memoir.read(None)
    memoir.lead(incarnation(1))
    for state, at in ((State.STARTING, 100.0), (State.LOADING, 104.0), (State.TRAINING, 110.0)):
        memoir.note(ev.Mark(state, at=at, incarnation=1))
    memoir.note(ev.Stalled(2.5))
    memoir.note(ev.Mark(State.DOWN, at=150.0, incarnation=1, left="Pod"))
    written(memoir)
    past = timeline.read_past(store.read_lines(TIMELINE), store.read(timeline.ALIVE))
    assert past.totals.at(160.0) == memoir.past.totals.at(160.0)
    assert past.memory.left == "Pod"


FACTS: list[tuple[str, dict[str, Any], Callable[[timeline.Past], Any], Any]] = [
    ("Plan", {"plan": Plan(total_steps=9)}, lambda past: past.memory.plan, Plan(total_steps=9)),
    ("Output", {"output": Output(uri="pvc://x")}, lambda past: past.output, Output(uri="pvc://x")),
    (
        "Tracking",
        {"tracking": TrackingStatus(run_id="r")},
        lambda past: past.tracking,
        TrackingStatus(run_id="r"),
    ),
]


@pytest.mark.parametrize(("kind", "fields", "read", "wanted"), FACTS, ids=[kind for kind, *_ in FACTS])
def test_what_ranks_say_once_outlives_their_leader(
    store: RunStore, memoir: Memoir, kind: str, fields: dict[str, Any], read: Any, wanted: Any
) -> None:
    memoir.read(None)
    memoir.lead(incarnation(1))
    memoir.hear(RankEvent.model_validate({"type": kind, "at": 5.0, **fields}), 1)
    written(memoir)
    assert read(timeline.read_past(store.read_lines(TIMELINE), None)) == wanted


def test_entries_into_the_first_step_are_kept_by_incarnation_and_rank(
    store: RunStore, memoir: Memoir
) -> None:
    memoir.lead(incarnation(3))
    for rank in (1, 0):
        memoir.hear(RankEvent(type="Forward", at=5.0 + rank, rank=rank, step=8), 3)
    memoir.hear(RankEvent(type="Phase", at=9.0, phase=Phase.TRAIN), 3)
    written(memoir)
    assert store.read_lines(FORWARD) == [
        {"incarnation": 3, "rank": 1, "step": 8, "at": 6.0},
        {"incarnation": 3, "rank": 0, "step": 8, "at": 5.0},
    ]


def test_a_finished_run_and_a_charge_are_remembered(store: RunStore, memoir: Memoir) -> None:
    memoir.lead(incarnation(1))
    done = Verdict(result="Succeeded", step=9, incarnation=1)
    budgets = BudgetUse(used={FailureClass.CRASH: 2}, signature="s", signature_count=1)
    memoir.note(ev.Remember((("finished", done.to_wire()),)))
    charged = ev.Charged(incarnation=1, budgets=budgets)
    memoir.note(ev.Remember((("charged", charged.to_wire()),)))
    written(memoir)
    memory = timeline.read_past(store.read_lines(TIMELINE), None).memory
    assert memory.finished == done
    assert memory.charged == charged


def test_the_log_of_who_failed_first_is_kept_beside_its_incarnation(store: RunStore, memoir: Memoir) -> None:
    memoir.note(ev.KeepLog(incarnation=7, rank=3, lines=("one", "zwölf")))
    written(memoir)
    assert store.read("logs/incarnation-00000007-rank-3.log").decode() == "one\nzwölf\n"
    # Where `windlass logs --failed` looks for it.
    assert kept_log.read_local(store.root / kept_log.FOLDER) == [kept_log.Kept(7, 3, ("one", "zwölf"))]


def test_stacks_are_kept_beside_the_log_of_the_same_rank(store: RunStore, memoir: Memoir) -> None:
    memoir.note(ev.KeepLog(incarnation=7, rank=3, lines=("Thread 0x1",), what="stacks"))
    memoir.note(ev.KeepLog(incarnation=7, rank=3, lines=("one",)))
    written(memoir)
    assert store.read("logs/incarnation-00000007-rank-3.stacks.log").decode() == "Thread 0x1\n"
    assert store.read("logs/incarnation-00000007-rank-3.log").decode() == "one\n"


ODD_ROWS: list[tuple[str, dict[str, Any]]] = [
    ("a state of another version", {"at": 5.0, "state": "Dreaming"}),
    ("a plan of another form", {"at": 5.0, "plan": "many steps"}),
    ("a recovery of another form", {"at": 5.0, "recovery": {"rung": "Prayer"}}),
    ("a charge of another form", {"at": 5.0, "charged": {"incarnation": "x"}}),
    ("something unheard of", {"at": 5.0, "weather": "fine"}),
    ("no time", {"weather": "fine"}),
]


@pytest.mark.parametrize("row", [row for _, row in ODD_ROWS], ids=[name for name, _ in ODD_ROWS])
def test_rows_that_do_not_fit_are_left_out_and_the_rest_counts(row: dict[str, Any]) -> None:
    rows = [
        timeline.state_row(State.STARTING, 0.0, 1, ""),
        row,
        timeline.state_row(State.TRAINING, 9.0, 1, ""),
    ]
    past = timeline.read_past(rows, None)
    assert past.totals.at(10.0).training == 0.0 or past.totals.at(10.0).starting == 9.0
    assert (past.memory.plan, past.memory.recoveries, past.memory.charged) == (None, (), None)


def test_a_torn_last_row_hides_no_other(store: RunStore, memoir: Memoir) -> None:
    memoir.lead(incarnation(1))
    for state, at in ((State.STARTING, 100.0), (State.TRAINING, 110.0)):
        memoir.note(ev.Mark(state, at=at, incarnation=1))
    written(memoir)
    with store.path(TIMELINE).open("ab") as file:
        file.write(b'{"at": 120, "state": "Recov')
    assert timeline.read_past(store.read_lines(TIMELINE), None).totals.state is State.DOWN
    assert states(store) == ["Starting", "Training"]


def test_a_row_after_a_torn_one_is_read(store: RunStore, memoir: Memoir) -> None:
    # The next leader appends behind what a crash left half written.
    with store.path(TIMELINE).open("ab") as file:
        file.write(b'{"at": 120, "state": "Recov')
    memoir.lead(incarnation(2))
    memoir.note(ev.Mark(State.TRAINING, at=130.0, incarnation=2))
    memoir.note(ev.Mark(State.DOWN, at=140.0, incarnation=2))
    written(memoir)
    assert states(store) == ["Training", "Down"]


# --- signs of life -----------------------------------------------------------------------------------------


def test_a_sign_replaces_the_one_before(store: RunStore, memoir: Memoir) -> None:
    for step in (1, 2, 3):
        memoir.sign(step, step + 1)
        written(memoir)
    past = timeline.read_past([timeline.state_row(State.TRAINING, 1.0, 1, "")], store.read(timeline.ALIVE))
    assert (past.memory.step, past.memory.highest_step) == (3, 4)
    assert past.memory.last_at == pytest.approx(time.time(), abs=60)
    assert [name for name in store.root.iterdir() if name.name.startswith(".tmp")] == []


def test_signs_do_not_pile_up_behind_a_slow_volume_but_the_last_one_waits(
    store: RunStore, memoir: Memoir, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, signs = threading.Event(), []

    def slow(data: bytes) -> None:
        gate.wait(10)
        signs.append(data)

    monkeypatch.setattr(memoir, "_write_sign", slow)
    for step in range(20):
        memoir.sign(step, step)
    memoir.sign(99, 99, last=True)
    gate.set()
    written(memoir)
    assert [b'"step": 0' in signs[0], b'"step": 99' in signs[-1], len(signs)] == [True, True, 2]


# --- a volume that fails -----------------------------------------------------------------------------------


@pytest.mark.fault("F56")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.ESTALE, errno.EACCES])
def test_a_volume_that_takes_nothing_stops_no_leader(
    store: RunStore, memoir: Memoir, monkeypatch: pytest.MonkeyPatch, number: int, caplog: Any
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, "refused")

    for name in ("append_line", "write"):
        monkeypatch.setattr(store, name, refuse)
    monkeypatch.setattr(memoir, "_write_sign", refuse)
    monkeypatch.setattr(memoir, "_clear", refuse)
    memoir.lead(incarnation(1))
    memoir.note(ev.Mark(State.TRAINING, at=1.0, incarnation=1))
    memoir.note(ev.KeepLog(1, 0, ("x",)))
    memoir.sign(1, 1)
    memoir.retain(1, 2)
    written(memoir)
    assert sum("record not written" in record.message for record in caplog.records) == 4
    monkeypatch.undo()
    memoir.note(ev.Mark(State.DOWN, at=2.0, incarnation=1))
    written(memoir)
    assert states(store) == ["Down"], "it goes on when the volume does"


def test_closing_waits_for_the_last_row_but_not_for_ever(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    append = store.append_line
    monkeypatch.setattr(store, "append_line", lambda *a: (gate.wait(10), append(*a)))
    slow = Memoir(store)
    slow.lead(incarnation(1))
    slow.note(ev.Mark(State.DOWN, at=2.0, incarnation=1))
    began = time.monotonic()
    asyncio.run(slow.close(0.1))
    assert time.monotonic() - began < 5
    gate.set()
    slow._writer.shutdown(wait=True)
    monkeypatch.undo()
    quick = Memoir(store)
    quick.lead(incarnation(1))
    quick.note(ev.Mark(State.DOWN, at=3.0, incarnation=1))
    asyncio.run(quick.close(10))
    assert store.read_lines(TIMELINE)[-1]["at"] == 3.0


def test_retention_runs_one_at_a_time_and_behind_the_fence(
    store: RunStore, memoir: Memoir, caplog: Any
) -> None:
    assert incarnations.claim(store, incarnation(1))
    names = [commit(store, step, 1) for step in (10, 20, 30)]
    memoir.lead(incarnation(1))
    memoir.retain(1, 2)
    written(memoir)
    assert store.list_checkpoints() == [names[2], names[1]]
    commit(store, 40, 1)
    assert incarnations.claim(store, incarnation(2))
    memoir.retain(1, 1)
    written(memoir)
    assert len(store.list_checkpoints()) == 3, "a replaced leader deletes nothing"
    assert any("fenced" in str(vars(record).get("reason", "")) for record in caplog.records)


# --- claims ------------------------------------------------------------------------------------------------


def claims(store: RunStore, *, ticket: int = 2, attempt: int = 1, uid: str = "me", **changes: Any) -> Claims:
    me = Identity(
        pod=f"toy-0-{ticket}", pod_uid=uid, pod_ip="", node="", index=0, ticket=ticket, attempt=attempt
    )
    return Claims(store=store, config=config(store.root, attempt=attempt, **changes), me=me)


def wish(**fields: Any) -> ev.Claim:
    return ev.Claim(**{"cause": None, "budgets": BudgetUse(), "prepared": None, **fields})


CAUSE = IncarnationCause(rung=Rung.IN_PLACE, failure_class=FailureClass.CRASH, from_step=12)


def test_the_first_claim_makes_number_one(store: RunStore) -> None:
    result = claims(store).claim(wish(), 0)
    assert isinstance(result, ev.Claimed)
    record = result.record
    assert (record.incarnation, record.owner_pod_uid, record.ticket, record.attempt) == (1, "me", 2, 1)
    assert (record.accepted, record.resume, record.cause) == ([], None, None)
    assert record.details == {RESUME_FROM: "Latest"} | recipe(claims(store).config.spec)
    assert set(record.details) == {RESUME_FROM, "adapter", "training.optimizer"}
    assert incarnations.newest(store) == record


def test_a_claim_carries_everything_a_later_leader_needs(store: RunStore) -> None:
    assert incarnations.claim(store, incarnation(1, poisoned=["step-00000005.i1"]))
    names = [commit(store, step, 1) for step in (10, 20)]
    budgets = BudgetUse(used={FailureClass.CRASH: 1}, signature="s", signature_count=1)
    asked = wish(cause=CAUSE, budgets=budgets, prepared="toy", poisoned=(names[1],), details=(("a", 1),))
    result = claims(store).claim(asked, 0)
    assert isinstance(result, ev.Claimed)
    record = incarnations.newest(store)
    assert record == result.record
    assert (record.cause, record.budgets, record.prepared) == (CAUSE, budgets, "toy")
    assert record.poisoned == ["step-00000005.i1", "step-00000020.i1"]
    assert (record.resume, [each.name for each in record.accepted]) == (names[0], [names[0]])
    assert record.details == {RESUME_FROM: "Latest", "a": 1} | recipe(claims(store).config.spec)


@pytest.mark.parametrize(
    ("newest", "mine", "owned", "granted"),
    [
        # owner, ticket, attempt of the newest; uid, ticket, attempt of mine; what I made last
        (("me", 2, 1), ("me", 2, 1), 5, True),
        (("me", 2, 1), ("me", 2, 1), 0, True),
        # its own claim was made, and only the answer was lost
        (("me", 2, 1), ("me", 2, 1), 4, True),
        (("other", 1, 1), ("me", 2, 1), 0, True),
        (("other", 1, 1), ("me", 2, 1), 4, False),
        (("other", 2, 1), ("me", 2, 1), 0, False),
        (("other", 3, 1), ("me", 2, 1), 0, False),
        (("other", 9, 1), ("me", 2, 2), 0, True),
        (("other", 1, 2), ("me", 9, 1), 0, False),
        (("me", 2, 2), ("me", 2, 1), 0, False),
    ],
)
@pytest.mark.fault("F62")
def test_who_may_take_over(
    store: RunStore, newest: tuple[str, int, int], mine: tuple[str, int, int], owned: int, granted: bool
) -> None:
    for number in range(1, 6):
        owner, ticket, attempt = newest
        record = incarnation(number, owner_pod_uid=owner, ticket=ticket, attempt=attempt)
        assert incarnations.claim(store, record)
    uid, ticket, attempt = mine
    result = claims(store, uid=uid, ticket=ticket, attempt=attempt).claim(wish(), owned)
    assert isinstance(result, ev.Claimed if granted else ev.Refused)
    assert incarnations.newest(store).incarnation == (6 if granted else 5)


def test_a_race_is_lost_to_a_higher_ticket_and_run_again_against_a_lower_one(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = store.create

    def rival(ticket: int) -> None:
        def first(relative: str, data: bytes, *, mode: int = 0o640) -> bool:
            monkeypatch.setattr(store, "create", create)
            number = int(relative.rpartition("/")[2].split(".")[0])
            assert incarnations.claim(store, incarnation(number, owner_pod_uid="rival", ticket=ticket))
            return create(relative, data, mode=mode)

        monkeypatch.setattr(store, "create", first)

    rival(ticket=1)
    result = claims(store).claim(wish(), 0)
    assert isinstance(result, ev.Claimed) and result.record.incarnation == 2
    rival(ticket=9)
    assert isinstance(claims(store).claim(wish(), 2), ev.Refused)
    assert incarnations.newest(store).owner_pod_uid == "rival"


def test_a_race_that_is_always_lost_ends(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[str] = []
    monkeypatch.setattr(incarnations, "claim", lambda *_: bool(tries.append("x")))
    assert isinstance(claims(store).claim(wish(), 0), ev.Refused)
    assert len(tries) == TRIES


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EROFS, errno.ESTALE])
@pytest.mark.parametrize("operation", ["create", "names", "read"])
def test_a_store_that_fails_is_a_storage_problem(
    store: RunStore, monkeypatch: pytest.MonkeyPatch, operation: str, number: int
) -> None:
    assert incarnations.claim(store, incarnation(1))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, "the volume is not well")

    monkeypatch.setattr(store, operation, refuse)
    result = claims(store).claim(wish(), 0)
    assert isinstance(result, ev.Unclaimable)
    assert result.storage and "the volume is not well" in result.message


def test_an_unreadable_incarnation_is_a_storage_problem(store: RunStore) -> None:
    store.write("incarnations/00000001.json", b'{"incarnation": 1')
    result = claims(store).claim(wish(), 0)
    assert isinstance(result, ev.Unclaimable) and result.storage
    assert "incarnations/00000001.json" in result.message


@pytest.mark.parametrize(
    ("resume", "resumed", "problem"),
    [("Latest", 20, None), ("None", None, None), ("10", 10, None), ("15", None, "spec.resume.from")],
)
def test_the_wish_of_the_spec_is_honoured_once(
    store: RunStore, resume: str, resumed: int | None, problem: str | None
) -> None:
    assert incarnations.claim(store, incarnation(1))
    for step in (10, 20):
        commit(store, step, 1)
    mine = claims(store, resume=resume)
    result = mine.claim(wish(), 0)
    if problem is not None:
        assert isinstance(result, ev.Unclaimable) and not result.storage
        assert problem in result.message
        assert incarnations.newest(store).incarnation == 1
        return
    assert isinstance(result, ev.Claimed)
    wanted = None if resumed is None else f"step-{resumed:08d}.i1"
    assert result.record.resume == wanted
    name = commit(store, 12, 2)
    again = mine.claim(wish(), 2)
    assert isinstance(again, ev.Claimed)
    assert again.record.resume == (wanted if resumed == 20 else name), "what it made since then counts"
