"""How an agent begins and ends: what it is started with, how it counts memory kills, and its last word."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.api import meta
from windlass.api.contract import AcceptedCheckpoint, BudgetUse, Incarnation, Verdict
from windlass.api.meta import ExitCode, FailureClass, Reason
from windlass.api.status import FailedRank, Failure
from windlass.core.failure.budget import Charge
from windlass.core.failure.classify import classify
from windlass.core.failure.evidence import End
from windlass_workloads.agent import failures, oom, verdict
from windlass_workloads.agent.__main__ import LineFormatter, _unstartable
from windlass_workloads.agent.identity import (
    Limits,
    StartError,
    available_processors,
    identity_from,
    load_run_config,
    options_from,
    rank_threads,
)
from windlass_workloads.agent.launch import prepare_context, rank_contexts
from workloads.agent.support import config

POD = {
    "POD_NAME": "toy-0-1",
    "POD_UID": "u",
    "POD_IP": "10.0.0.1",
    "WINDLASS_INDEX": "0",
    "WINDLASS_TICKET": "1",
    "WINDLASS_ATTEMPT": "1",
}

# --- what a pod is started with ------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["-1", "1.0", " 1", "1 ", "0x1", "one", "²", "٣", "1e3", "+1"])
@pytest.mark.parametrize("name", ["WINDLASS_INDEX", "WINDLASS_TICKET", "WINDLASS_ATTEMPT"])
def test_a_number_is_written_in_plain_digits(name: str, value: str) -> None:
    with pytest.raises(StartError) as caught:
        identity_from({**POD, name: value})
    assert str(caught.value) == (
        f"env.{name}: is no number (got {value!r}); allowed 0 or more. hint: pods of a run are made by the "
        "operator, which sets it."
    )


@pytest.mark.parametrize("value", ["0", "7", "007", "4294967296"])
def test_plain_digits_are_a_number(value: str) -> None:
    assert identity_from({**POD, "WINDLASS_TICKET": value}).ticket == int(value)


def test_the_node_is_the_only_thing_that_may_be_unknown() -> None:
    assert identity_from(POD).node == ""
    assert identity_from({**POD, "NODE_NAME": "n"}).node == "n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, r"cannot be read \(got No such file or directory\)"),
        (b"", r"\(root\): Invalid JSON"),
        (b"{", r"\(root\): Invalid JSON"),
        (b"[]", r"\(root\): Input should be an object"),
        (b"{}", r"run: Field required"),
        (b"\xff", r"\(root\): Invalid JSON"),
    ],
)
def test_a_configuration_that_is_none_says_what_is_wrong(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    path = tmp_path / "run.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StartError, match=rf"^run\.json: {said}.*allowed .*hint: "):
        load_run_config(path)


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        (("attempt",), "two", "attempt: "),
        (("spec", "resources", "nodes"), 0, "spec.resources.nodes: "),
        (("spec", "surprise"), 1, "spec.surprise: "),
        (("run", "kind"), "Job", "run.kind: "),
        (("version",), "x", "version: "),
    ],
)
def test_a_field_that_does_not_fit_is_named_with_its_path(
    tmp_path: Path, where: tuple[str, ...], value: object, said: str
) -> None:
    wire = json.loads(config(tmp_path).model_dump_json(by_alias=True))
    inner = wire
    for name in where[:-1]:
        inner = inner[name]
    inner[where[-1]] = value
    (tmp_path / "run.json").write_text(json.dumps(wire))
    with pytest.raises(StartError) as caught:
        load_run_config(tmp_path / "run.json")
    assert str(caught.value).startswith(f"run.json: {said}")
    assert repr(str(value))[1:-1] in str(caught.value)


def test_a_long_wrong_value_is_shortened(tmp_path: Path) -> None:
    wire = json.loads(config(tmp_path).model_dump_json(by_alias=True))
    wire["attempt"] = "x" * 10_000
    (tmp_path / "run.json").write_text(json.dumps(wire))
    with pytest.raises(StartError) as caught:
        load_run_config(tmp_path / "run.json")
    assert len(str(caught.value)) < 400


def test_options_of_tests_and_benchmarks() -> None:
    words = (
        "--run-config /a/run.json --bind 127.0.0.1 --port 7 --termination-log /t --ca-file /c --token-file /k"
    )
    limits = "--heartbeat-seconds 0.5 --silence-seconds 2 --stop-seconds 3"
    given = options_from(f"{words} {limits}".split())
    assert (str(given.run_config), given.bind, given.port) == ("/a/run.json", "127.0.0.1", 7)
    assert (str(given.termination_log), str(given.ca_file), str(given.token_file)) == ("/t", "/c", "/k")
    assert given.limits == Limits(heartbeat_seconds=0.5, silence_seconds=2.0, stop_seconds=3.0)
    assert options_from([]).limits == Limits()
    assert options_from([]).port == meta.AGENT_PORT
    assert options_from([]).bind == ""


@pytest.mark.parametrize("arguments", [["--port", "many"], ["--unknown"], ["extra"], ["--stop-seconds"]])
def test_unknown_options_end_at_once(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options_from(arguments)
    assert "windlass-agent" in capsys.readouterr().err


@given(
    milli=st.integers(1, 64_000), available=st.integers(1, 64), ranks=st.integers(1, 8), plain=st.booleans()
)
@settings(max_examples=60, deadline=None)
def test_threads_are_never_more_than_asked_for_or_there(
    milli: int, available: int, ranks: int, plain: bool
) -> None:
    cpu = str(max(1, milli // 1000)) if plain else f"{milli}m"
    run = config(Path("/nowhere"), ranks=ranks)
    wire = json.loads(run.model_dump_json(by_alias=True))
    wire["spec"]["resources"]["perNode"]["cpu"] = cpu
    threads = rank_threads(type(run).model_validate(wire), available)
    asked = float(cpu[:-1]) / 1000 if cpu.endswith("m") else float(cpu)
    assert 1 <= threads <= available
    assert threads == 1 or threads * ranks <= min(available, asked + 1)
    assert available_processors() >= 1


# --- memory kills --------------------------------------------------------------------------------------------

EVENTS = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 1\n"
CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n"


@pytest.mark.fault("F38")
@pytest.mark.parametrize(
    ("membership", "files", "kills"),
    [
        ("0::/pod/c\n", {"pod/c/memory.events": EVENTS}, 2),
        ("0::/pod/c\n", {"memory.events": EVENTS}, 2),
        ("0::/\n", {"memory.events": EVENTS}, 2),
        ("", {"memory.events": EVENTS}, 2),
        ("nonsense\n", {"memory.events": EVENTS}, 2),
        ("9:memory:/pod/c\n", {"memory/pod/c/memory.oom_control": CONTROL}, 5),
        ("9:cpu,memory:/pod/c\n", {"memory/pod/c/memory.oom_control": CONTROL}, 5),
        ("9:memory:/pod/c\n", {"memory/memory.oom_control": CONTROL}, 5),
        ("0::/a:b\n", {"a:b/memory.events": EVENTS}, 2),
        ("0::/pod/c\n", {"pod/c/memory.events": "oom 7\n", "memory.events": EVENTS}, 2),
        ("0::/pod/c\n", {"pod/c/memory.events": "oom_kill many\n"}, 0),
        ("0::/pod/c\n", {"pod/c/memory.events": "oom_kill 0\n", "memory.events": EVENTS}, 0),
        ("0::/pod/c\n", {"pod/c/memory.events": "oom_group_kill 4\n"}, 0),
        ("0::/pod/c\n", {}, 0),
    ],
)
def test_the_kernels_counter_is_found_where_each_version_keeps_it(
    tmp_path: Path, membership: str, files: dict[str, str], kills: int
) -> None:
    (tmp_path / "self").write_text(membership)
    for name, text in files.items():
        path = tmp_path / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert oom.count(tmp_path / "fs", tmp_path / "self") == kills


def test_a_counter_that_cannot_be_read_counts_nothing(tmp_path: Path) -> None:
    assert oom.count(tmp_path / "none", tmp_path / "neither") == 0
    (tmp_path / "memory.events").mkdir()
    assert oom.count(tmp_path, tmp_path / "neither") == 0


@pytest.mark.parametrize(("version2", "whole"), [(True, True), (False, False)])
def test_whether_the_kernel_takes_the_whole_container(tmp_path: Path, version2: bool, whole: bool) -> None:
    if version2:
        (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    assert oom.kills_whole_container(tmp_path) is whole


# --- the last word -------------------------------------------------------------------------------------------


def failed(**fields: Any) -> Verdict:
    plain: dict[str, Any] = {"reason": "Crash", "failure_class": FailureClass.CRASH}
    return Verdict(result="Failed", step=7, failure=Failure(**{**plain, **fields}))


def read_back(data: bytes) -> Verdict:
    assert len(data) <= verdict.MAXIMUM_BYTES
    return Verdict.model_validate_json(data)


NASTY = {
    "letters": "m" * 9000,
    "umlauts": "ü" * 9000,
    "four bytes": "\N{OX}" * 9000,
    "zero bytes": "\0" * 9000,
    "colours": "\x1b[31mred\x1b[0m" * 900,
    "quotes": '"\\' * 4500,
    "newlines": "\n" * 9000,
}


@pytest.mark.parametrize("name", list(NASTY))
@pytest.mark.parametrize("where", ["message", "hint", "both", "evidence", "all"])
def test_a_last_word_always_fits_and_can_be_read(name: str, where: str) -> None:
    text = NASTY[name]
    fields: dict[str, Any] = {}
    if where in ("message", "both", "all"):
        fields["message"] = text
    if where in ("hint", "both", "all"):
        fields["hint"] = text
    if where in ("evidence", "all"):
        fields["evidence"] = [text] * 8
    found = read_back(verdict.encode(failed(**fields)))
    assert (found.result, found.step, found.failure.reason) == ("Failed", 7, "Crash")
    assert text.startswith(found.failure.message) or not found.failure.message
    if where == "message":
        assert len(found.failure.message) >= 100, "as much as there is room for"


def test_short_words_stay_as_they_are() -> None:
    whole = failed(
        message="m" * 300,
        hint="h" * 300,
        evidence=["e" * 200] * 8,
        first_failed=FailedRank(rank=3, pod="p", node="n"),
        exit_code=139,
        signal=11,
        at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    assert read_back(verdict.encode(whole)) == whole


def test_evidence_goes_first_and_the_newest_of_it_last() -> None:
    lines = [f"{number} " + "e" * 600 for number in range(8)]
    found = read_back(verdict.encode(failed(message="m" * 300, hint="h" * 300, evidence=lines)))
    assert found.failure.message == "m" * 300 and found.failure.hint == "h" * 300
    assert found.failure.evidence == lines[-len(found.failure.evidence) :]
    assert 1 <= len(found.failure.evidence) < 8


@given(
    message=st.text(max_size=3000),
    hint=st.text(max_size=3000),
    evidence=st.lists(st.text(max_size=1500), max_size=8),
)
@settings(max_examples=60, deadline=None)
def test_any_last_word_can_be_read(message: str, hint: str, evidence: list[str]) -> None:
    plain = [each.encode(errors="replace").decode() for each in (message, hint, *evidence)]
    found = read_back(verdict.encode(failed(message=plain[0], hint=plain[1], evidence=plain[2:])))
    assert plain[0].startswith(found.failure.message)


def test_every_class_of_failure_has_an_exit_code_that_is_no_success() -> None:
    for failure_class in FailureClass:
        code = verdict.exit_code(failed(failure_class=failure_class))
        assert code not in (ExitCode.SUCCESS, ExitCode.FENCED)


@pytest.mark.parametrize("result", ["Succeeded", "Preempted", "Fenced"])
def test_other_ends_have_their_code_whatever_failure_they_carry(result: str) -> None:
    carried = failed().failure
    plain, loaded = (Verdict(result=result, failure=each) for each in (None, carried))
    assert verdict.exit_code(plain) == verdict.exit_code(loaded)
    assert (verdict.exit_code(plain) == 0) is (result == "Succeeded")


@pytest.mark.parametrize("obstacle", ["absent folder", "a folder", "read-only"])
def test_a_last_word_that_cannot_be_written_changes_nothing(tmp_path: Path, obstacle: str) -> None:
    path = tmp_path / "termination-log"
    if obstacle == "absent folder":
        path = tmp_path / "absent" / "termination-log"
    elif obstacle == "a folder":
        path.mkdir()
    else:
        path = Path("/proc/version")
    verdict.write(path, failed())
    verdict.write(tmp_path / "other", failed())
    assert read_back((tmp_path / "other").read_bytes()) == failed()


# --- failures in the words of a reader ---------------------------------------------------------------------


def test_giving_up_keeps_the_evidence_and_says_why_now() -> None:
    judgement = classify([End(at=5.0, rank=3, pod="p", signal=11, log_tail=("error: boom",))])
    cost = Charge(BudgetUse(), stop=Reason.BUDGET_EXHAUSTED, message="the budget is used up")
    failure = failures.gave_up(judgement, cost, 1000.0)
    assert (failure.reason, failure.message) == ("BudgetExhausted", "the budget is used up")
    assert (failure.first_failed.rank, failure.signal) == (3, 11)
    assert "error: boom" in failure.evidence
    assert failure.at == datetime.fromtimestamp(1000.0, UTC)
    silent = failures.gave_up(judgement, Charge(BudgetUse(), stop="Odd"), 1000.0)
    assert (silent.reason, silent.message) == ("Odd", judgement.message)


@pytest.mark.parametrize(("given", "reason"), [("Suspended", "Suspended"), ("", "DeadlineExceeded")])
def test_an_order_to_stop_has_the_operators_reason(given: str, reason: str) -> None:
    failure = failures.stopped_by_order(given)
    assert (failure.reason, failure.failure_class) == (reason, FailureClass.PREEMPTED)
    assert failure.message and failure.hint


@pytest.mark.parametrize(
    ("storage", "reason", "failure_class"),
    [(True, "Storage", FailureClass.STORAGE), (False, "Configuration", FailureClass.CONFIGURATION)],
)
@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("spec.x: wrong (got 1). hint: write 2", "spec.x: wrong (got 1).", "write 2"),
        ("no hint here", "no hint here", ""),
        ("", "", ""),
        ("a hint: b hint: c", "a", "b hint: c"),
    ],
)
def test_what_cannot_be_claimed_is_told_with_its_hint(
    storage: bool, reason: str, failure_class: FailureClass, text: str, message: str, hint: str
) -> None:
    failure = failures.unclaimable(text, storage)
    assert (failure.reason, failure.failure_class) == (reason, failure_class)
    assert (failure.message, failure.hint) == (message, hint)


def test_a_pod_that_cannot_start_says_so_like_any_other_failure() -> None:
    made = _unstartable("env.POD_UID: is missing (got nothing); allowed a text. hint: ask the operator.")
    assert verdict.exit_code(made) is ExitCode.CONFIGURATION
    assert made.failure.hint == "ask the operator."
    assert made.failure.message.endswith("allowed a text.")


# --- log lines -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extra", "line"),
    [
        ({}, "[agent] info hello"),
        ({"step": 3}, "[agent] info hello step=3"),
        ({"pod": 'a "b"'}, '[agent] info hello pod="a \\"b\\""'),
        ({"many": [1, 2], "none": None}, "[agent] info hello many=[1, 2] none=null"),
        ({"path": Path("/x")}, '[agent] info hello path="/x"'),
        ({"text": "two\nlines"}, '[agent] info hello text="two\\nlines"'),
    ],
)
def test_one_line_for_each_record(extra: dict[str, Any], line: str) -> None:
    import logging

    record = logging.LogRecord("windlass", logging.INFO, __file__, 1, "hello", (), None)
    vars(record).update(extra)
    assert LineFormatter().format(record) == line


def test_an_exception_follows_its_line() -> None:
    import logging
    import sys

    try:
        raise ValueError("boom")
    except ValueError:
        record = logging.LogRecord("windlass", logging.ERROR, __file__, 1, "broken", (), sys.exc_info())
    text = LineFormatter().format(record)
    assert text.startswith("[agent] error broken\nTraceback") and text.endswith("ValueError: boom")


# --- what each rank is told ---------------------------------------------------------------------------------


def record_of(**fields: Any) -> Incarnation:
    plain: dict[str, Any] = {
        "incarnation": 4,
        "attempt": 1,
        "ticket": 1,
        "owner_pod_uid": "u",
        "owner_pod": "p",
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
    }
    return Incarnation(**{**plain, **fields})


@pytest.mark.parametrize(("nodes", "ranks"), [(1, 1), (1, 4), (3, 1), (2, 3), (4, 2)])
def test_ranks_are_numbered_once_over_all_pods(tmp_path: Path, nodes: int, ranks: int) -> None:
    accepted = AcceptedCheckpoint(name="step-00000005.i3", step=5, incarnation=3, digest="d")
    record = record_of(accepted=[accepted], resume=accepted.name)
    run = config(tmp_path, nodes=nodes, ranks=ranks)
    made = rank_contexts(run, record, range(nodes), prepared="toy", highest_step=9)
    assert sorted(made) == list(range(nodes))
    contexts = [context for index in sorted(made) for context in made[index]]
    assert [context.rank for context in contexts] == list(range(nodes * ranks))
    for index, mine in made.items():
        assert [context.local_rank for context in mine] == list(range(ranks))
        assert {context.rank // ranks for context in mine} == {index}
    assert {
        (each.world_size, each.local_world_size, each.incarnation, each.resume, each.prepared)
        for each in contexts
    } == {(nodes * ranks, ranks, 4, "step-00000005.i3", "toy")}
    assert {each.highest_step for each in contexts} == {9}


def test_preparing_is_one_rank_of_the_leader_with_nothing_to_resume(tmp_path: Path) -> None:
    (context,) = prepare_context(config(tmp_path, nodes=3, ranks=4), record_of())
    assert (context.task, context.rank, context.world_size, context.resume) == ("prepare", 0, 1, None)
