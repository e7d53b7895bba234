"""The agent's small parts, one by one."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from windlass.api.contract import IncarnationCause, RankContext, RankEvent, Verdict
from windlass.api.meta import ExitCode, FailureClass, Phase, Rung
from windlass.api.status import Failure, Plan
from windlass_workloads.agent import oom, timeline, verdict
from windlass_workloads.agent.channel import RankChannel
from windlass_workloads.agent.child import environment_of
from windlass_workloads.agent.clock import RankTimes, RecoveryClock
from windlass_workloads.agent.events import State
from windlass_workloads.agent.identity import (
    StartError,
    identity_from,
    load_run_config,
    options_from,
    rank_threads,
)
from windlass_workloads.agent.messages import Hello
from windlass_workloads.agent.pumps import LinePump
from windlass_workloads.agent.reaper import Ending, Reaper
from windlass_workloads.agent.view import View
from windlass_workloads.agent.wire import Link, Refusal, gang_key, greet_follower, greet_leader, make_gang_key
from windlass_workloads.checkpoint.store import RunStore
from workloads.agent.support import ROOT, config

POD = {
    "POD_NAME": "toy-0-1",
    "POD_UID": "u",
    "POD_IP": "10.0.0.1",
    "WINDLASS_INDEX": "0",
    "WINDLASS_TICKET": "1",
    "WINDLASS_ATTEMPT": "1",
}


# --- identity ----------------------------------------------------------------------------------


def test_identity_comes_from_the_environment() -> None:
    me = identity_from({**POD, "NODE_NAME": "n"})
    assert (me.pod, me.pod_uid, me.pod_ip, me.node, me.index, me.ticket) == (
        "toy-0-1",
        "u",
        "10.0.0.1",
        "n",
        0,
        1,
    )


@pytest.mark.parametrize("name", list(POD))
def test_missing_variable_is_named(name: str) -> None:
    with pytest.raises(StartError, match=rf"^env\.{name}: is missing \(got nothing\); allowed .* hint: "):
        identity_from({**POD, name: ""})


def test_variable_that_is_no_number_is_named_with_its_value() -> None:
    with pytest.raises(StartError, match=r"^env\.WINDLASS_TICKET: is no number \(got 'x'\)"):
        identity_from({**POD, "WINDLASS_TICKET": "x"})


def test_run_configuration_of_another_version_says_which_field(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    wire = json.loads(config(tmp_path).model_dump_json(by_alias=True))
    path.write_text(json.dumps({**wire, "surprise": 1}))
    with pytest.raises(StartError, match=r"^run\.json: surprise: .*hint: the workload image"):
        load_run_config(path)
    path.write_text(json.dumps(wire))
    assert load_run_config(path) == config(tmp_path)


@pytest.mark.parametrize(
    ("cpu", "available", "ranks", "threads"),
    [("1", 8, 1, 1), ("4", 8, 2, 2), ("4", 2, 1, 2), ("500m", 8, 1, 1), ("1500m", 8, 1, 2), ("2", 8, 4, 1)],
)
def test_threads_follow_the_request_and_the_node(
    tmp_path: Path, cpu: str, available: int, ranks: int, threads: int
) -> None:
    plain = config(tmp_path, ranks=ranks)
    wire = json.loads(plain.model_dump_json(by_alias=True))
    wire["spec"]["resources"]["perNode"]["cpu"] = cpu
    assert rank_threads(type(plain).model_validate(wire), available) == threads


def test_defaults_are_the_mounts_of_a_rendered_pod() -> None:
    options = options_from([])
    assert str(options.run_config) == "/etc/windlass/run/run.json"
    assert str(options.token_file) == "/var/run/secrets/windlass/token"
    assert options.port == 29400


# --- channel -----------------------------------------------------------------------------------


def read_lines(descriptor: int) -> list[RankEvent]:
    data = b""
    while part := os.read(descriptor, 1 << 16):
        data += part
    return [RankEvent.model_validate_json(line) for line in data.splitlines()]


def test_events_arrive_in_order_with_their_rank() -> None:
    reader, writer = os.pipe()
    channel = RankChannel(writer, 3)
    channel.phase(Phase.LOAD)
    channel.forward(7)
    channel.plan(Plan(total_steps=9))
    channel.saved(8)
    channel.done(9)
    channel.close()
    events = read_lines(reader)
    assert [event.type for event in events] == ["Phase", "Forward", "Plan", "Saved", "Done"]
    assert {event.rank for event in events} == {3}
    os.close(reader)


def test_agent_that_does_not_read_never_blocks_and_loses_steps_first() -> None:
    reader, writer = os.pipe()
    channel = RankChannel(writer, 0)
    began = time.monotonic()
    for step in range(30_000):
        channel.step(RankEvent(type="Step", at=0.0, step=step, message="x" * 100))
        if step == 20_000:
            channel.saved(step)
    assert time.monotonic() - began < 20
    received: list[RankEvent] = []
    os.set_blocking(reader, False)
    rest = b""
    for _ in range(10_000):
        channel.forward(1)
        try:
            rest += os.read(reader, 1 << 20)
        except BlockingIOError:
            break
        lines = rest.split(b"\n")
        rest = lines.pop()
        received += [RankEvent.model_validate_json(line) for line in lines]
        if any(event.type == "Saved" for event in received):
            break
    assert any(event.type == "Saved" for event in received)
    channel.close(0.0)
    os.close(reader)


def test_agent_that_is_gone_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    channel = RankChannel(writer, 0)
    channel.done(1)
    channel.done(2)
    channel.close()
    RankChannel(None, 0).done(1)


def test_save_is_requested_by_the_signal_handler_only() -> None:
    channel = RankChannel(None, 0)
    assert not channel.save_requested
    channel.request_save()
    assert channel.save_requested


# --- verdict -----------------------------------------------------------------------------------


def failure(**fields: object) -> Failure:
    return Failure.model_validate({"reason": "Crash", "class": "Crash", **fields})


@pytest.mark.parametrize(
    ("result", "reason", "failure_class", "code"),
    [
        ("Succeeded", None, None, ExitCode.SUCCESS),
        ("Preempted", None, None, ExitCode.PREEMPTED),
        ("Fenced", None, None, ExitCode.FENCED),
        ("Failed", "Crash", "Crash", ExitCode.CRASH),
        ("Failed", "DataNotFound", "Configuration", ExitCode.CONFIGURATION),
        ("Failed", "OutOfMemory", "OutOfMemory", ExitCode.OUT_OF_MEMORY),
        ("Failed", "StorageFull", "Storage", ExitCode.STORAGE),
        ("Failed", "BudgetExhausted", "OutOfMemory", ExitCode.BUDGET),
        ("Failed", "NoProgress", "Crash", ExitCode.BUDGET),
        ("Failed", None, None, ExitCode.INTERNAL),
    ],
)
def test_exit_code_goes_with_the_verdict(
    result: str, reason: str | None, failure_class: str | None, code: ExitCode
) -> None:
    told = failure(**{"reason": reason, "class": failure_class}) if reason else None
    assert verdict.exit_code(Verdict.model_validate({"result": result, "failure": told})) is code


@pytest.mark.parametrize("size", [10, 700, 5000])
def test_termination_message_fits_and_stays_readable(tmp_path: Path, size: int) -> None:
    told = failure(message="m" * size, hint="h" * size, evidence=["ü" * size] * 8)
    path = tmp_path / "termination-log"
    verdict.write(path, Verdict(result="Failed", step=3, failure=told))
    data = path.read_bytes()
    assert len(data) <= 4096
    read = Verdict.model_validate_json(data)
    assert (read.step, read.failure.reason) == (3, "Crash")
    assert read.failure.message.startswith("m" * min(size, 400))


def test_unwritable_termination_log_is_no_error(tmp_path: Path) -> None:
    verdict.write(tmp_path / "absent" / "termination-log", Verdict(result="Succeeded"))


# --- memory kills ------------------------------------------------------------------------------


@pytest.mark.fault("F38")
@pytest.mark.parametrize(
    ("files", "kills"),
    [
        ({"memory.events": "low 0\noom 3\noom_kill 2\n"}, 2),
        ({"memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n"}, 5),
        ({"a/b/memory.events": "oom_kill 4\n", "memory.events": "oom_kill 9\n"}, 4),
        ({"memory/c/memory.oom_control": "oom_kill 7\n"}, 7),
        ({"memory.events": "nonsense"}, 0),
        ({}, 0),
    ],
)
def test_memory_kills_are_read_from_either_version(tmp_path: Path, files: dict[str, str], kills: int) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("0::/a/b\n5:memory:/c\n4:cpu,cpuacct:/d\n")
    for name, text in files.items():
        path = tmp_path / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert oom.count(tmp_path / "fs", membership) == kills


def test_version_2_is_told_by_its_controllers(tmp_path: Path) -> None:
    assert not oom.kills_whole_container(tmp_path)
    (tmp_path / "cgroup.controllers").write_text("memory")
    assert oom.kills_whole_container(tmp_path)


# --- timeline ----------------------------------------------------------------------------------


def rows(*states: tuple[float, State], left: str = "") -> list[dict[str, object]]:
    return [timeline.state_row(state, at, 1, left) for at, state in states]


def test_totals_are_the_seconds_between_rows_and_sum_to_wall_time() -> None:
    history = rows((0, State.STARTING), (4, State.LOADING), (5, State.TRAINING), (15, State.RECOVERING))
    history += [
        timeline.stall_row(2.0, 15.0),
        *rows((18, State.BACK_OFF), (19, State.REWORKED), (22, State.TRAINING)),
    ]
    history += rows((30, State.FINISHING), (33, State.DOWN), left="Whole")
    past = timeline.read_past(history, timeline.alive(33.0, 40, 40))
    totals = past.totals.at(35.0)
    assert (totals.starting, totals.loading, totals.training) == (4, 1, 18)
    assert (totals.back_off, totals.reworked, totals.finishing, totals.down) == (1, 3, 3, 2)
    assert (totals.checkpoint_stall, totals.recovering) == (2, 1)
    assert past.memory.left == "Whole"


def test_leader_that_went_without_a_word_is_down_since_its_last_sign_of_life() -> None:
    past = timeline.read_past(rows((0, State.STARTING), (5, State.TRAINING)), timeline.alive(60.0, 55, 58))
    past.totals.change(State.RECOVERING, 100.0)
    totals = past.totals.at(110.0)
    assert (totals.training, totals.down, totals.recovering) == (55, 40, 10)
    memory = past.memory
    assert (memory.left, memory.last_at, memory.step, memory.highest_step) == ("", 60.0, 55, 58)


@pytest.mark.parametrize("sign", [None, b"", b"{torn", b"[1]"])
def test_torn_sign_of_life_counts_from_the_last_row(sign: bytes | None) -> None:
    past = timeline.read_past(rows((0, State.STARTING), (5, State.TRAINING)), sign)
    assert past.memory.last_at == 5.0


def test_facts_for_later_leaders_are_the_last_ones_told() -> None:
    history = [
        *rows((0, State.STARTING)),
        {"at": 1, "prepared": "old", "plan": {"totalSteps": 5}},
        {"at": 2, "prepared": "new"},
        {"at": 3, "finished": {"result": "Nonsense"}},
        {"at": 4, "state": "Unheard"},
    ]
    memory = timeline.read_past(history, None).memory
    assert (memory.prepared, memory.plan.total_steps, memory.finished) == ("new", 5, None)


def test_empty_store_has_no_past() -> None:
    past = timeline.read_past([], None)
    assert past.totals.at(1.0) is None and past.memory.last_at is None


# --- recovery seconds --------------------------------------------------------------------------


def clock(**times: float) -> RecoveryClock:
    cause = IncarnationCause(rung=Rung.IN_PLACE, failure_class=FailureClass.CRASH, from_step=9)
    return RecoveryClock(cause=cause, fault_at=100.0, known_at=100.5, **times)


def test_seconds_of_a_recovery_are_told_apart_by_the_slowest_rank() -> None:
    times = RankTimes(load={0: 106.0, 1: 107.0}, train={0: 109.0, 1: 108.0}, forward={0: 109.5, 1: 110.0})
    watch = clock(stopped_at=101.0, back_off_seconds=2.0, claimed_at=103.5, launched_at=105.0)
    row = watch.record(incarnation=2, resumed_step=5, times=times, ended_at=110.0)
    seconds = row.seconds
    assert (seconds.detect, seconds.stop, seconds.decide, seconds.place) == (0.5, 0.5, 0.5, 1.5)
    assert (seconds.rendezvous, seconds.load, seconds.first_step, seconds.total) == (2, 2, 1, 10)
    assert row.lost_steps == 4


@pytest.mark.parametrize(
    ("known", "phase"),
    [
        ({}, "stop"),
        ({"stopped_at": 101.0}, "decide"),
        ({"stopped_at": 101.0, "claimed_at": 102.0}, "place"),
        ({"stopped_at": 101.0, "claimed_at": 102.0, "launched_at": 103.0}, "first_step"),
    ],
)
def test_recovery_cut_short_spent_its_time_in_the_phase_it_was_in(
    known: dict[str, float], phase: str
) -> None:
    row = clock(**known).record(incarnation=2, resumed_step=9, times=RankTimes(), ended_at=150.0)
    values = row.seconds.model_dump()
    total = values.pop("total")
    assert max(values, key=lambda name: values[name]) == phase
    assert sum(values.values()) == pytest.approx(total) == 50.0


# --- view --------------------------------------------------------------------------------------


def test_progress_is_rank_0s_and_the_plan_grows() -> None:
    view = View()
    view.hear(RankEvent(type="Plan", at=0, plan=Plan(total_steps=100, warnings=["a"])))
    view.hear(RankEvent(type="Plan", at=0, plan=Plan(train_samples=7, warnings=["b"])))
    view.hear(RankEvent(type="Step", at=1, rank=1, step=99, loss=9.0))
    view.hear(RankEvent(type="Step", at=1, step=10, loss=2.0, tokens=50, seconds=0.5))
    view.hear(RankEvent(type="Validation", at=1, step=10, loss=3.0))
    progress = view.progress
    assert (progress.step, progress.total_steps, progress.loss) == (10, 100, 2.0)
    assert (progress.tokens_per_second, progress.eta_seconds, progress.validation_loss) == (100.0, 45.0, 3.0)
    assert (view.plan.train_samples, view.plan.warnings) == (7, ["a", "b"])


def test_failed_save_is_told_until_one_succeeds() -> None:
    view = View()
    view.hear(RankEvent(type="SaveFailed", at=0, rank=1, step=5, message="disk full"))
    assert view.save_error == "disk full"
    record = {"step": 6, "incarnation": 1, "name": "step-00000006.i1", "digest": "d"}
    view.hear(RankEvent.model_validate({"type": "Checkpoint", "at": 0, "checkpoint": record}))
    assert view.save_error is None and view.checkpoints[0].step == 6


# --- ranks' surroundings -----------------------------------------------------------------------


def test_rank_variables_are_the_standard_ones(tmp_path: Path) -> None:
    context = RankContext(
        task="train",
        config=config(tmp_path),
        incarnation=2,
        rank=3,
        world_size=4,
        local_rank=1,
        local_world_size=2,
        master_address="10.0.0.1",
        master_port=1234,
        threads=2,
    )
    found = environment_of(context)
    assert {
        name: found[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK")
    } == {
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "1",
    }
    assert (found["PET_NNODES"], found["MASTER_PORT"], found["OMP_NUM_THREADS"]) == ("2", "1234", "2")


async def test_reaper_remembers_who_ended_before_being_claimed() -> None:
    reaper = Reaper()
    child = os.fork()
    if child == 0:
        os._exit(7)
    # Not by reap(): that would take the children of other tests as well.
    reaper.settle(child, Ending.of(os.waitpid(child, 0)[1]))  # noqa: ASYNC222 - it has ended
    reaper.reap = lambda: None  # type: ignore[method-assign]
    ending = await asyncio.wait_for(reaper.claim(child), 1)
    assert (ending.code, ending.signal) == (7, None)


def test_ending_by_a_signal_has_the_shells_code() -> None:
    assert (Ending.of(9).code, Ending.of(9).signal) == (137, 9)


async def test_end_of_a_log_without_newline_is_kept_even_while_an_orphan_holds_the_pipe() -> None:
    reader, writer = os.pipe()
    lines: list[bytes] = []
    pump = LinePump(reader, lines.append)
    os.write(writer, b"one\ntwo")
    await pump.drain(0.1)
    os.close(writer)
    assert lines == [b"one", b"two"]


# --- the wire ----------------------------------------------------------------------------------


async def greet(
    tmp_path: Path, *, leader_attempt: int, attempt: int, key: bytes | None = None
) -> tuple[object, object]:
    """Both sides of a greeting; each result is a value or the Refusal."""
    good = make_gang_key(RunStore(tmp_path))
    met: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link(reader, writer)
        try:
            met.set_result(await greet_follower(link, good, leader_attempt))
        except Refusal as refusal:
            met.set_result(refusal)
        link.close()

    server = await asyncio.start_server(lead, "127.0.0.1", 0)
    link = Link(*await asyncio.open_connection(*server.sockets[0].getsockname()))
    hello = Hello(pod="p", pod_uid="u", pod_ip="10.0.0.2", node="n", index=1, ticket=2, attempt=attempt)
    mine: object = None
    try:
        await greet_leader(link, key or good, hello)
    except Refusal as refusal:
        mine = refusal
    link.close()
    theirs = await asyncio.wait_for(met, 5)
    server.close()
    return theirs, mine


async def test_agents_of_one_gang_prove_themselves_to_each_other(tmp_path: Path) -> None:
    theirs, mine = await greet(tmp_path, leader_attempt=2, attempt=2)
    assert isinstance(theirs, Hello) and theirs.pod_uid == "u"
    assert mine is None
    assert (tmp_path / "gang.key").stat().st_mode & 0o777 == 0o600
    assert make_gang_key(RunStore(tmp_path)) == gang_key(RunStore(tmp_path))


async def test_wrong_key_is_refused_before_anything_is_said(tmp_path: Path) -> None:
    theirs, mine = await greet(tmp_path, leader_attempt=2, attempt=2, key=b"x" * 32)
    assert isinstance(theirs, Refusal) and str(theirs) == "wrong key"
    assert isinstance(mine, Refusal)


async def test_follower_does_not_obey_a_leader_of_an_older_attempt(tmp_path: Path) -> None:
    _, mine = await greet(tmp_path, leader_attempt=1, attempt=2)
    assert isinstance(mine, Refusal) and "older attempt" in str(mine)


# --- what the agent weighs ---------------------------------------------------------------------


WEIGHT = """
import json, resource, sys
import windlass_workloads.agent.__main__
used = resource.getrusage(resource.RUSAGE_SELF)
heavy = [name for name in ("torch", "transformers", "numpy", "mlflow") if name in sys.modules]
resident = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmRSS"))
print(json.dumps([heavy, int(resident) / 1024, used.ru_utime + used.ru_stime]))
"""


def test_agent_imports_no_torch_and_stays_light(tmp_path: Path) -> None:
    """At most 40 MB; 0.3 s on a core of its own, and the best of some tries for when it has none."""
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT / 'operator'}:{ROOT / 'workloads'}",
        # Compiled once, as in an image: the first try pays for it.
        "PYTHONPYCACHEPREFIX": str(tmp_path),
        "PYTHONDONTWRITEBYTECODE": "",
    }
    tries = [
        json.loads(subprocess.check_output([sys.executable, "-c", WEIGHT], env=environment)) for _ in range(5)
    ]
    assert all(heavy == [] for heavy, _, _ in tries)
    assert min(megabytes for _, megabytes, _ in tries) <= 40
    assert min(seconds for _, _, seconds in tries) <= 0.5
