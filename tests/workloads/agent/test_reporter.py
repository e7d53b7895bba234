"""Reports go out at their pace, an operator that is away costs nothing, and what they tell is what ranks said."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from windlass.api.contract import AcceptedCheckpoint, Orders, RankEvent, Report, ReportTarget, RunIdentity
from windlass.api.meta import Phase
from windlass.api.status import CheckpointRecord, Output, Plan, TrackingStatus
from windlass_workloads.agent import reports, view
from windlass_workloads.agent.delivery import Courier, Undelivered
from windlass_workloads.agent.identity import Identity
from windlass_workloads.agent.messages import Leaving, Ready
from windlass_workloads.agent.reports import Reporter
from windlass_workloads.agent.timeline import Totals, moment
from windlass_workloads.agent.view import LEDGER_ROWS, RECOVERY_ROWS, View, build_report, phase_of, shown
from workloads.agent.world import World
from workloads.checkpoint.support import incarnation

TARGET = ReportTarget(url="https://operator", server_name="s")
RUN = RunIdentity(kind="FineTuneJob", namespace="team", name="toy", uid="uid-1")


class Wire:
    """Stands for the network: answers, refuses or breaks, as told; remembers what came."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: list[Orders | Exception] = []
        self.default: Orders | Exception = Orders()
        self.sent: list[tuple[float, Report]] = []
        self.arrived = asyncio.Event()
        self.loop = asyncio.get_running_loop()
        monkeypatch.setattr(reports, "LEAST_INTERVAL_SECONDS", 0.005)
        monkeypatch.setattr(Courier, "deliver", lambda _, report: self.deliver(report))

    def deliver(self, report: Report) -> Orders:
        self.sent.append((time.monotonic(), report))
        self.loop.call_soon_threadsafe(self.arrived.set)
        answer = self.answers.pop(0) if self.answers else self.default
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def reports(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.sent) < count:
                await self.arrived.wait()
                self.arrived.clear()


def courier() -> Courier:
    return Courier(TARGET, token_file=Path("/token"), ca_file=Path("/ca"))


def reporter(
    orders: list[Orders], build: Callable[[], Report] | None = None, interval_seconds: float = 0.05
) -> Reporter:
    numbers = iter(range(1, 10_000))

    def plain() -> Report:
        return Report(
            run=RUN, pod="p", pod_uid="u", attempt=1, ticket=1, sequence=next(numbers), sent_at=moment(0.0)
        )

    return Reporter(courier(), build or plain, orders.append, interval_seconds=interval_seconds)


async def running(made: Reporter) -> asyncio.Task[None]:
    return asyncio.get_running_loop().create_task(made.run())


async def ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# --- the pace ----------------------------------------------------------------------------------------------


async def test_reports_go_out_in_order_at_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    wire, orders = Wire(monkeypatch), []
    task = await running(reporter(orders))
    await wire.reports(4)
    await ended(task)
    assert [report.sequence for _, report in wire.sent][:4] == [1, 2, 3, 4]
    gaps = [later - earlier for (earlier, _), (later, _) in zip(wire.sent, wire.sent[1:], strict=False)]
    assert min(gaps) >= 0.045
    assert len(orders) >= 3


async def test_a_poke_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire(monkeypatch)
    made = reporter([], interval_seconds=600.0)
    task = await running(made)
    await wire.reports(1)
    for number in (2, 3, 4):
        made.poke()
        await wire.reports(number)
    await ended(task)
    assert len(wire.sent) == 4


async def test_many_pokes_at_once_make_one_report(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire(monkeypatch)
    made = reporter([], interval_seconds=600.0)
    task = await running(made)
    await wire.reports(1)
    for _ in range(50):
        made.poke()
    await wire.reports(2)
    assert not made._poked.is_set()
    await ended(task)
    assert len(wire.sent) == 2


async def test_an_operator_that_asks_for_patience_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire(monkeypatch)
    wire.answers = [Orders(retry_after_seconds=0.3)]
    task = await running(reporter([]))
    await wire.reports(2)
    await ended(task)
    assert wire.sent[1][0] - wire.sent[0][0] >= 0.29


@pytest.mark.fault("F22")
async def test_pauses_grow_while_nobody_answers_and_shrink_at_the_first_answer(
    monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    caplog.set_level("INFO")
    wire, orders = Wire(monkeypatch), []
    wire.answers = [Undelivered("refused")] * 4
    task = await running(reporter(orders, interval_seconds=0.02))
    await wire.reports(6)
    await ended(task)
    gaps = [later - earlier for (earlier, _), (later, _) in zip(wire.sent, wire.sent[1:], strict=False)]
    for gap, least in zip(gaps, (0.04, 0.08, 0.16, 0.32), strict=False):
        assert gap >= least * 0.95
    assert orders, "orders are taken again"
    told = [record.message for record in caplog.records]
    assert told.count("the operator does not answer") == 1, "one line for an outage"
    assert told.count("the operator answers again") == 1


async def test_pauses_do_not_grow_beyond_their_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire(monkeypatch)
    monkeypatch.setattr(reports, "LONGEST_PAUSE_SECONDS", 0.03)
    wire.default = Undelivered("away")
    task = await running(reporter([], interval_seconds=0.02))
    await wire.reports(8)
    await ended(task)
    assert wire.sent[7][0] - wire.sent[0][0] < 5


@pytest.mark.parametrize("where", ["building", "sending", "obeying"])
async def test_a_report_that_breaks_ends_neither_the_reporter_nor_the_run(
    monkeypatch: pytest.MonkeyPatch, caplog: Any, where: str
) -> None:
    wire = Wire(monkeypatch)
    monkeypatch.setattr(reports, "LONGEST_PAUSE_SECONDS", 0.01)
    broken, orders, obeyed = [True, True], [], asyncio.Event()

    def build() -> Report:
        if where == "building" and broken and broken.pop():
            raise ValueError("no report")
        return Report(run=RUN, pod="p", pod_uid="u", attempt=1, ticket=1, sequence=1, sent_at=moment(0.0))

    def obey(order: Orders) -> None:
        if where == "obeying" and broken and broken.pop():
            raise KeyError("no such order")
        orders.append(order)
        obeyed.set()

    if where == "sending":
        wire.answers = [RuntimeError("no wire"), RuntimeError("no wire")]
    made = Reporter(courier(), build, obey, interval_seconds=0.05)
    task = await running(made)
    await asyncio.wait_for(obeyed.wait(), 10)
    await ended(task)
    assert sum(record.message == "report failed" for record in caplog.records) == 2


# --- the last report ---------------------------------------------------------------------------------------


async def test_a_farewell_is_tried_until_it_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire(monkeypatch)
    monkeypatch.setattr(reports, "FAREWELL_PAUSE_SECONDS", 0.01)
    wire.answers = [Undelivered("restarting"), Undelivered("restarting")]
    await reporter([]).farewell(10.0)
    assert len(wire.sent) == 3


async def test_a_farewell_that_nobody_takes_ends_with_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire(monkeypatch)
    monkeypatch.setattr(reports, "FAREWELL_PAUSE_SECONDS", 0.01)
    wire.default = Undelivered("gone")
    began = time.monotonic()
    await reporter([]).farewell(0.2)
    assert 0.15 < time.monotonic() - began < 3
    assert len(wire.sent) > 2


async def test_a_farewell_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    gate = threading.Event()
    monkeypatch.setattr(Courier, "deliver", lambda *_: gate.wait(20) and Orders())
    began = time.monotonic()
    await reporter([]).farewell(0.1)
    took = time.monotonic() - began
    gate.set()
    assert took < 3


async def test_a_farewell_that_cannot_be_made_does_not_take_the_verdict_with_it(
    monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    wire = Wire(monkeypatch)

    def build() -> Report:
        raise ValueError("no report")

    await reporter([], build).farewell(0.5)
    assert wire.sent == []
    assert any(record.message == "report failed" for record in caplog.records)


# --- what is told ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "told"),
    [(None, None), (0.0, 0.0), (1.23456789, 1.2346), (123456.789, 123460.0), (1e-9, 1e-9), (-2.000004, -2.0)],
)
def test_figures_have_five_digits(value: float | None, told: float | None) -> None:
    assert shown(value) == told


def record(step: int, **fields: Any) -> CheckpointRecord:
    return CheckpointRecord(step=step, incarnation=1, name=f"step-{step:08d}.i1", digest="d", **fields)


def say(seen: View, kind: str, *, rank: int = 0, **fields: Any) -> None:
    seen.hear(RankEvent.model_validate({"type": kind, "at": 5.0, "rank": rank, **fields}))


def test_the_ledger_is_newest_first_without_doubles_and_of_limited_length() -> None:
    seen = View()
    for step in range(1, 40):
        say(seen, "Checkpoint", step=step, checkpoint=record(step))
    say(seen, "Checkpoint", step=30, checkpoint=record(30, validation_loss=0.5))
    assert len(seen.checkpoints) == LEDGER_ROWS
    assert seen.checkpoints[0].validation_loss == 0.5
    assert [row.step for row in seen.checkpoints[:3]] == [30, 39, 38]
    assert len({row.name for row in seen.checkpoints}) == LEDGER_ROWS


@pytest.mark.parametrize("kind", ["Step", "Phase", "Validation", "Checkpoint", "Tracking", "Output"])
def test_only_rank_0_speaks_for_all(kind: str) -> None:
    fields: dict[str, dict[str, Any]] = {
        "Step": {"step": 9, "loss": 1.0},
        "Phase": {"phase": Phase.EXPORT},
        "Validation": {"step": 9, "loss": 1.0},
        "Checkpoint": {"step": 9, "checkpoint": record(9)},
        "Tracking": {"tracking": TrackingStatus(run_id="r"), "message": "m"},
        "Output": {"output": Output(uri="pvc://x")},
    }
    seen, other = View(), View()
    say(seen, kind, rank=1, **fields[kind])
    assert seen == other
    say(seen, kind, rank=0, **fields[kind])
    assert seen != other


@pytest.mark.parametrize("rank", [0, 1, 7])
def test_a_save_that_failed_is_told_whoever_says_so(rank: int) -> None:
    seen = View()
    say(seen, "SaveFailed", rank=rank, step=5, message="full")
    assert seen.save_error == "full"
    say(seen, "Step", step=6)
    assert seen.save_error == "full"
    say(seen, "Checkpoint", step=7, checkpoint=record(7))
    assert seen.save_error is None


def test_tracking_that_is_well_again_takes_its_error_back() -> None:
    seen = View()
    say(seen, "Tracking", tracking=TrackingStatus(run_id="r"), message="away")
    assert seen.tracking_error == "away"
    say(seen, "Tracking", tracking=None, message="still away")
    assert (seen.tracking.run_id, seen.tracking_error) == ("r", "still away")
    say(seen, "Tracking", tracking=TrackingStatus(run_id="r"))
    assert seen.tracking_error is None


def test_the_time_left_follows_the_pace_smoothly_and_is_forgotten_at_a_restart() -> None:
    seen = View()
    say(seen, "Plan", plan=Plan(total_steps=100))
    say(seen, "Step", step=50, seconds=1.0)
    assert seen.progress.eta_seconds == 50.0
    say(seen, "Step", step=51, seconds=11.0)
    assert seen.progress.eta_seconds == pytest.approx(49 * 3.0)
    resumed = AcceptedCheckpoint(name="step-00000040.i1", step=40, incarnation=1, digest="d")
    seen.restarted(incarnation(2, accepted=[resumed], resume=resumed.name))
    assert (seen.progress.step, seen.progress.eta_seconds, seen.phase) == (40, None, None)
    say(seen, "Step", step=41, seconds=2.0)
    assert seen.progress.eta_seconds == pytest.approx(59 * 2.0)


@pytest.mark.parametrize(
    ("fields", "rate", "eta"),
    [
        ({"tokens": 100, "seconds": 0.5}, 200.0, 4.5),
        ({"tokens": 100}, None, None),
        ({"seconds": 0.5}, None, 4.5),
        ({"tokens": 100, "seconds": 0.0}, None, None),
        ({}, None, None),
    ],
)
def test_figures_that_are_missing_are_not_made_up(
    fields: dict[str, Any], rate: float | None, eta: float | None
) -> None:
    seen = View()
    say(seen, "Plan", plan=Plan(total_steps=10))
    say(seen, "Step", step=1, **fields)
    assert (seen.progress.tokens_per_second, seen.progress.eta_seconds) == (rate, eta)


def test_steps_beyond_the_plan_have_no_time_left() -> None:
    seen = View()
    say(seen, "Plan", plan=Plan(total_steps=10))
    say(seen, "Step", step=12, seconds=1.0)
    assert seen.progress.eta_seconds == 0.0


def test_later_plans_add_to_earlier_ones() -> None:
    seen = View()
    say(seen, "Plan", plan=Plan(total_steps=10, train_samples=7, warnings=["a", "b"]))
    say(seen, "Plan", plan=Plan(total_steps=12, precision="BF16", warnings=["b", "c"]))
    plan = seen.plan
    assert (plan.total_steps, plan.train_samples, str(plan.precision)) == (12, 7, "BF16")
    assert plan.warnings == ["a", "b", "c"]
    assert seen.progress.total_steps == 12
    for number in range(60):
        say(seen, "Plan", plan=Plan(warnings=[f"w{number}"]))
    assert len(seen.plan.warnings) == 32


# --- the whole report --------------------------------------------------------------------------------------

ME = Identity(pod="toy-0-1", pod_uid="pod-0-1", pod_ip="", node="", index=0, ticket=1, attempt=1)


def report_of(world: World, seen: View | None = None) -> Report:
    return build_report(world.config, ME, world.gang, seen or View(), totals=Totals(), sequence=7)


def test_a_report_is_whole_at_any_stage() -> None:
    world = World(nodes=2)
    assert report_of(world).incarnation == 0
    world.open()
    world.join(0)
    assert report_of(world).phase is Phase.PREPARE
    world.prepare()
    world.join(1, ready=False)
    gathered = report_of(world)
    assert (gathered.phase, [member.ready for member in gathered.members]) == (Phase.IMPORTS, [True, False])
    world.hear(world.uid(1), Ready(ready=True))
    assert report_of(world).phase is Phase.RENDEZVOUS
    seen = View()
    say(seen, "Phase", phase=Phase.TRAIN)
    assert report_of(world, seen).phase is Phase.TRAIN
    world.hear(world.uid(1), Leaving(at=world.now))
    assert report_of(world, seen).phase is Phase.SAVE
    for index in (0, 1):
        world.exit(world.uid(index), index, code=0)
    again = report_of(world, seen)
    assert (again.phase, again.incarnation, again.verdict) == (Phase.IMPORTS, 2, None)
    world.lose(0)
    assert phase_of(world.gang, seen) is Phase.IMPORTS


def test_a_report_of_the_end_carries_the_verdict_and_no_phase() -> None:
    world = World(nodes=1).train()
    world.say(world.uid(0), 0, type="Done", step=9)
    world.exit(world.uid(0), 0, code=0)
    told = report_of(world)
    assert (told.verdict.result, told.phase) == ("Succeeded", None)
    assert told.progress.phase is None


def test_a_report_names_where_the_run_went_on() -> None:
    world = World(nodes=1).train()
    assert report_of(world).resume.step == 0
    world.steps[0] = 12
    world.checkpoint(world.uid(0), 0)
    world.exit(world.uid(0), 0, code=139, signal=11)
    world.begin_steps()
    told = report_of(world)
    assert (told.resume.step, told.resume.name, told.resume.incarnation) == (12, "step-00000012.i1", 1)
    assert (told.restarts, told.lost_steps, len(told.recoveries)) == (1, 0, 1)
    assert told.failure.signal == 11
    assert told.sequence == 7 and told.sent_at <= datetime.now(UTC)


def test_a_long_history_is_cut_to_what_status_holds_but_counted_in_full() -> None:
    world = World(nodes=1, changes={"budgets": {"crash": 1000}}).train()
    uid = world.uid(0)
    for number in range(RECOVERY_ROWS + 5):
        world.steps[0] = 10 * (number + 1)
        world.step(uid, 0)
        world.checkpoint(uid, 0)
        world.step(uid, 0)
        world.exit(uid, 0, code=139, signal=11)
        world.begin_steps()
    seen = View(checkpoints=[record(step) for step in range(LEDGER_ROWS, 0, -1)])
    told = report_of(world, seen)
    assert (len(told.recoveries), told.restarts) == (RECOVERY_ROWS, RECOVERY_ROWS + 5)
    assert told.lost_steps == RECOVERY_ROWS + 5
    assert len(told.checkpoints) == world.config.spec.checkpoint.keep_last
    assert told.recoveries[-1].incarnation == told.incarnation


@pytest.mark.parametrize(("wants", "wanted"), [(True, "RecreateGang"), (False, "Nothing")])
def test_what_the_gang_wants_is_told(wants: bool, wanted: str) -> None:
    world = World(nodes=1).train()
    world.gang.wants_gang = wants
    assert report_of(world).wanted == wanted


def test_no_report_of_a_gang_breaks_its_own_limits() -> None:
    assert view.LEDGER_ROWS <= 20 and view.RECOVERY_ROWS <= 10
