"""Between ranks and their agent: nothing blocks training, the last words arrive, and every ending is told once."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.api.contract import RankEvent
from windlass.api.meta import FailureClass, Phase
from windlass.api.status import CheckpointRecord, Failure, Output, Plan, TrackingStatus
from windlass_workloads.agent import channel as channels
from windlass_workloads.agent.channel import RankChannel
from windlass_workloads.agent.pumps import KEPT_CHARACTERS, KEPT_LINES, LinePump, LogPump


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for descriptor in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(descriptor)


def events_of(data: bytes) -> list[RankEvent]:
    return [RankEvent.model_validate_json(line) for line in data.splitlines()]


def read_all(reader: int) -> bytes:
    data = b""
    while part := os.read(reader, 1 << 20):
        data += part
    return data


# --- a rank's words ----------------------------------------------------------------------------------------

RECORD = CheckpointRecord(step=5, incarnation=2, name="step-00000005.i2", digest="d")
FAILURE = Failure(reason="Crash", failure_class=FailureClass.CRASH, message="boom\nwith a second line")
WORDS: list[tuple[str, Any, dict[str, Any]]] = [
    ("Phase", lambda c: c.phase(Phase.LOAD), {"phase": Phase.LOAD}),
    ("Forward", lambda c: c.forward(6), {"step": 6}),
    ("Step", lambda c: c.step(RankEvent(type="Step", at=1.0, step=6, loss=0.5)), {"step": 6, "loss": 0.5}),
    ("Validation", lambda c: c.validation(6, 0.75), {"step": 6, "loss": 0.75}),
    (
        "Checkpoint",
        lambda c: c.checkpoint(RECORD, stall_seconds=0.1, write_seconds=0.2),
        {"step": 5, "checkpoint": RECORD, "stall_seconds": 0.1, "write_seconds": 0.2},
    ),
    ("SaveFailed", lambda c: c.save_failed(5, "full"), {"step": 5, "message": "full"}),
    ("Plan", lambda c: c.plan(Plan(total_steps=9)), {"plan": Plan(total_steps=9)}),
    ("Prepared", lambda c: c.prepared("p"), {"name": "p"}),
    (
        "Tracking",
        lambda c: c.tracking(TrackingStatus(run_id="r"), "slow"),
        {"tracking": TrackingStatus(run_id="r"), "message": "slow"},
    ),
    ("Output", lambda c: c.output(Output(uri="pvc://x")), {"output": Output(uri="pvc://x")}),
    (
        "LossSpike",
        lambda c: c.send(RankEvent(type="LossSpike", at=1.0, rank=3, step=6, loss=9.0, message="far above")),
        {"step": 6, "loss": 9.0, "message": "far above"},
    ),
    ("Failure", lambda c: c.failure(FAILURE), {"failure": FAILURE}),
    ("Saved", lambda c: c.saved(5), {"step": 5}),
    ("Done", lambda c: c.done(9), {"step": 9}),
]


@pytest.mark.parametrize(("kind", "say", "fields"), WORDS, ids=[kind for kind, *_ in WORDS])
def test_each_word_arrives_as_one_line_with_its_rank(
    pipe: tuple[int, int], kind: str, say: Any, fields: dict[str, Any]
) -> None:
    reader, writer = pipe
    channel = RankChannel(writer, 3)
    before = time.time()
    say(channel)
    channel.close()
    (event,) = events_of(read_all(reader))
    assert (event.type, event.rank) == (kind, 3)
    assert {name: getattr(event, name) for name in fields} == fields
    assert event.at == 1.0 or before <= event.at <= time.time()


def test_all_words_of_the_contract_can_be_said() -> None:
    assert {kind for kind, *_ in WORDS} == set(RankEvent.model_fields["type"].annotation.__args__)


def small(writer: int) -> None:
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)


def test_lines_stay_whole_through_a_pipe_that_is_often_full(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "PIPE_BYTES", 4096)
    reader, writer = pipe
    channel = RankChannel(writer, 0)
    received = bytearray()
    os.set_blocking(reader, False)
    for step in range(400):
        channel.step(RankEvent(type="Step", at=0.0, step=step, message="x" * (step % 97)))
        if step % 7 == 0:
            with contextlib.suppress(BlockingIOError):
                received += os.read(reader, 1 + step * 13 % 3000)
    stop = threading.Event()

    def drain() -> None:
        while not stop.is_set():
            try:
                part = os.read(reader, 1 << 16)
            except BlockingIOError:
                time.sleep(0.001)
                continue
            if not part:
                return
            received.extend(part)

    thread = threading.Thread(target=drain)
    thread.start()
    channel.close(10.0)
    thread.join(10)
    stop.set()
    assert [event.step for event in events_of(bytes(received))] == list(range(400))


@pytest.mark.parametrize("kept", [1, 5, 20])
def test_of_too_many_lines_steps_go_first_and_the_oldest_before_the_newer(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    monkeypatch.setattr(channels, "KEPT_LINES", kept)
    monkeypatch.setattr(channels, "PIPE_BYTES", 4096)
    reader, writer = pipe
    channel = RankChannel(writer, 0)
    filler = "x" * 3000
    for number in range(4):
        channel.save_failed(number, filler)
    for number in range(100, 130):
        channel.step(RankEvent(type="Step", at=0.0, step=number))
    channel.done(999)
    data = b""
    while b'"Done"' not in data:
        data += os.read(reader, 1 << 16)
        channel._write_waiting()
    events = events_of(data)
    assert events[-1].step == 999, "the last word is never the one that goes"
    steps = [event.step for event in events if event.type == "Step"]
    assert len(steps) <= kept and steps == sorted(steps)
    assert not steps or steps[-1] == 129, "of the steps the newest stay"
    channel.close(0.0)


def test_words_of_many_threads_do_not_mix(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    channel = RankChannel(writer, 1)
    data = bytearray()
    collector = threading.Thread(target=lambda: data.extend(read_all(reader)))
    collector.start()

    def talk(base: int) -> None:
        for number in range(50):
            channel.saved(base + number)

    threads = [threading.Thread(target=talk, args=(1000 * index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    channel.close()
    collector.join()
    steps = [event.step for event in events_of(bytes(data))]
    assert sorted(steps) == [1000 * index + number for index in range(6) for number in range(50)]
    for index in range(6):
        mine = [step for step in steps if step // 1000 == index]
        assert mine == sorted(mine)


def test_closing_waits_for_a_slow_agent_only_so_long(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "PIPE_BYTES", 4096)
    _, writer = pipe
    channel = RankChannel(writer, 0)
    for number in range(20):
        channel.save_failed(number, "x" * 1000)
    began = time.monotonic()
    channel.close(0.1)
    assert 0.09 <= time.monotonic() - began < 3.0
    channel.done(1)
    with pytest.raises(OSError):
        os.fstat(writer)


@pytest.mark.parametrize("when", ["before the first word", "between two", "while lines wait"])
def test_an_agent_that_dies_never_disturbs_training(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    monkeypatch.setattr(channels, "PIPE_BYTES", 4096)
    reader, writer = pipe
    channel = RankChannel(writer, 0)
    if when == "between two":
        channel.saved(1)
    elif when == "while lines wait":
        for number in range(20):
            channel.save_failed(number, "x" * 1000)
    os.close(reader)
    for _ in range(3):
        channel.done(2)
    channel.close(1.0)
    channel.done(3)


# --- lines out of a pipe -----------------------------------------------------------------------------------


async def settled(pump: LinePump) -> None:
    await asyncio.wait_for(asyncio.shield(pump.ended), 5)


@given(
    lines=st.lists(st.binary(max_size=60).filter(lambda line: b"\n" not in line), max_size=12),
    cuts=st.lists(st.integers(1, 40), max_size=8),
    closed=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_lines_are_the_same_however_the_bytes_come(lines: list[bytes], cuts: list[int], closed: bool) -> None:
    async def run() -> list[bytes]:
        reader, writer = os.pipe()
        found: list[bytes] = []
        pump = LinePump(reader, found.append)
        data = b"".join(line + b"\n" for line in lines) + (b"" if closed else b"rest")
        for cut in cuts:
            os.write(writer, data[:cut])
            data = data[cut:]
            await asyncio.sleep(0)
        os.write(writer, data)
        os.close(writer)
        await settled(pump)
        return found

    assert asyncio.run(run()) == [*lines, *([] if closed else [b"rest"])]


async def test_the_end_of_a_log_is_kept_while_an_orphan_holds_the_pipe_and_nobody_had_time_to_read(
    pipe: tuple[int, int],
) -> None:
    reader, writer = pipe
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 1 << 20)
    found: list[bytes] = []
    pump = LinePump(reader, found.append)
    wanted = [b"%06d %s" % (number, b"x" * 90) for number in range(8000)]
    os.write(writer, b"\n".join(wanted) + b"\nlast words")
    await pump.drain(0.0)
    assert len(found) == 8001
    assert found[-1] == b"last words"


async def test_an_orphan_that_never_stops_writing_ends_with_the_limit() -> None:
    reader, writer = os.pipe()
    child = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
        [sys.executable, "-c", "import sys\nwhile True: sys.stdout.write('x' * 99 + '\\n')"],
        stdout=writer,
        stderr=subprocess.DEVNULL,
    )
    os.close(writer)
    found: list[bytes] = []
    try:
        pump = LinePump(reader, found.append)
        await asyncio.wait_for(pump.drain(0.1), 10)
        assert pump.ended.done()
        with pytest.raises(OSError):
            os.fstat(reader)
    finally:
        child.kill()
        child.wait()


async def test_draining_twice_is_no_error_and_tells_the_rest_once(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    found: list[bytes] = []
    pump = LinePump(reader, found.append)
    os.write(writer, b"rest")
    await pump.drain(0.05)
    await pump.drain(0.05)
    assert found == [b"rest"]


async def test_a_line_without_end_is_cut_and_fills_no_memory(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("windlass_workloads.agent.pumps.LINE_BYTES", 1000)
    reader, writer = pipe
    found: list[bytes] = []
    pump = LinePump(reader, found.append)
    for number in range(50):
        os.write(writer, b"%03d" % number + b"y" * 997)
        await asyncio.sleep(0)
    os.write(writer, b"the end\nnext\n")
    os.close(writer)
    await settled(pump)
    assert len(found[0]) <= 1000 + (1 << 16)
    assert found[0].endswith(b"the end") and found[1] == b"next"


async def test_logs_are_printed_with_their_rank_and_the_last_lines_kept(
    pipe: tuple[int, int], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    reader, writer = pipe
    log = LogPump(reader, "rank 7")
    os.write(writer, b"plain\n\xff\xfe not text\n" + b"z" * (KEPT_CHARACTERS + 50) + b"\n\x1b[31mred\n")
    os.close(writer)
    await log.drain(5)
    tail = log.tail()
    assert tail[0] == "plain" and tail[1].endswith(" not text") and tail[3] == "\x1b[31mred"
    assert len(tail[2]) == KEPT_CHARACTERS
    printed = capfdbinary.readouterr().out.splitlines()
    assert [line[:9] for line in printed] == [b"[rank 7] "] * 4
    assert printed[1] == b"[rank 7] \xff\xfe not text", "what is printed is as it was"
    assert len(printed[2]) == 9 + KEPT_CHARACTERS + 50


BAR = b"".join(b"\r%d%%|####" % number for number in range(1000))


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (b"\r  0%|    \r 57%|####", " 57%|####"),
        (b"\r  0%|    \r 57%|####\r", " 57%|####"),
        (
            b"".join(b"\r%d%%|####" % n for n in range(1000)) + b"\rFatal Python error: Bus error",
            "Fatal Python error: Bus error",
        ),
        (b"plain\r", "plain"),
        (b"\r\r\r", ""),
    ],
    ids=["bar", "bar with an end", "long bar and last words", "windows", "nothing"],
)
async def test_of_a_line_that_is_written_over_the_end_is_kept(
    pipe: tuple[int, int], capfdbinary: pytest.CaptureFixture[bytes], written: bytes, kept: str
) -> None:
    reader, writer = pipe
    log = LogPump(reader, "rank 0")
    os.write(writer, written + b"\n")
    os.close(writer)
    await log.drain(5)
    assert log.tail() == [kept]
    assert capfdbinary.readouterr().out == b"[rank 0] " + written + b"\n", "what is printed is as it was"


async def test_a_long_log_keeps_its_end(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    log = LogPump(reader, "rank 0")
    os.write(writer, b"".join(b"line %d\n" % number for number in range(KEPT_LINES + 30)))
    os.close(writer)
    await log.drain(5)
    assert log.tail()[0] == "line 30" and log.tail()[-1] == f"line {KEPT_LINES + 29}"
    assert log.tail(2) == [f"line {KEPT_LINES + 28}", f"line {KEPT_LINES + 29}"]
