"""What is made of the stacks of all ranks: reading them, and naming who the others wait for."""

from __future__ import annotations

import faulthandler
import tempfile
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass_workloads.agent.stacks import Frame, Stack, find, minority, named, read
from windlass_workloads.agent.stalls import STEPS, Late, Limit

SITE = "/usr/lib/python3/site-packages"
ALL_REDUCE = Frame(f"{SITE}/torch/distributed/distributed_c10d.py", "2799", "all_reduce")
WRAPPER = Frame(f"{SITE}/torch/distributed/c10d_logger.py", "81", "wrapper")
BACKWARD = Frame(f"{SITE}/torch/autograd/graph.py", "824", "_engine_run_backward")
SUM = Frame("/app/train/runtime.py", "62", "sum_over_ranks")
STEP = Frame("/app/train/loop.py", "152", "take_step")
OURS = Frame("/app/windlass_workloads/train/runtime.py", "62", "sum_over_ranks")
SAVING = Frame("/app/windlass_workloads/checkpoint/group.py", "34", "gather")
READ = Frame("/app/data/arrays.py", "40", "rows")
SLEEP = Frame("/usr/lib/python3.11/socket.py", "706", "readinto")


def stack(rank: int, *frames: Frame, state: str = "S") -> Stack:
    return Stack(rank, state, frames)


def late(*behind: int, oldest: int = 0, ahead: float = 0.0) -> Late:
    return Late(STEPS, Limit(20.0, known=True), 21.0, 1000.0, 12, behind, oldest, ahead)


def waiting(rank: int) -> Stack:
    return stack(rank, ALL_REDUCE, WRAPPER, SUM, STEP)


def backward(rank: int) -> Stack:
    return stack(rank, BACKWARD, STEP)


def reading(rank: int) -> Stack:
    return stack(rank, SLEEP, READ, STEP)


def silent(rank: int, state: str) -> Stack:
    return stack(rank, state=state)


# --- reading ------------------------------------------------------------------------------------------------

DUMP = """\
step 12 is done
Thread 0x00007f1 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 320 in wait
  File "/app/tracking/recorder.py", line 90 in _run

Current thread 0x00007f2 (most recent call first):
  File "/app/train/runtime.py", line 62 in sum_over_ranks
a line of another thread
  File "/app/agent/child.py", line 140 in _run_task
  File "/app/agent/child.py", line 66 in run_rank
Thread 0x00007f3 (most recent call first):
  File "<frozen importlib._bootstrap>", line ??? in _load
""".splitlines()


def test_the_main_thread_is_the_one_below_the_rank_s_own_beginning() -> None:
    found = read(3, "S", DUMP)
    assert (found.rank, found.state) == (3, "S")
    assert [frame.name for frame in found.frames] == ["sum_over_ranks", "_run_task", "run_rank"]
    assert found.place == SUM


def test_other_output_between_the_lines_is_left_out_of_what_is_kept() -> None:
    kept = read(0, "S", DUMP).lines
    assert len(kept) == len(DUMP) - 3
    assert not any("another thread" in line or "is done" in line for line in kept)


def test_without_a_known_beginning_the_oldest_thread_is_the_main_one() -> None:
    lines = [*DUMP[1:4], "Thread 0x1 (most recent call first):", '  File "/a/script.py", line 3 in <module>']
    assert read(0, "S", lines).frames == (Frame("/a/script.py", "3", "<module>"),)


@pytest.mark.parametrize("lines", [[], ["nothing of the kind"], DUMP[2:4]], ids=["none", "other", "no head"])
def test_what_is_no_stack_is_no_answer(lines: list[str]) -> None:
    found = read(1, "T", lines)
    assert (found.frames, found.lines, found.place) == ((), (), None)


def test_a_real_dump_of_this_interpreter_is_read() -> None:
    released = threading.Event()
    other = threading.Thread(target=released.wait, daemon=True)
    other.start()
    with tempfile.TemporaryFile("w+") as out:
        faulthandler.dump_traceback(out, all_threads=True)
        out.seek(0)
        lines = out.read().splitlines()
    released.set()
    other.join()
    found = read(0, "R", lines)
    names = [frame.name for frame in found.frames]
    assert "test_a_real_dump_of_this_interpreter_is_read" in names
    assert found.lines == tuple(line for line in lines if line)


@given(st.lists(st.one_of(st.sampled_from(DUMP), st.text(max_size=30)), max_size=40))
def test_any_lines_can_be_read(lines: list[str]) -> None:
    found = read(0, "S", lines)
    assert set(found.lines) <= set(lines)
    assert len(found.frames) <= len(found.lines)


# --- places -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "place", "waits"),
    [
        (waiting(0), SUM, True),
        (backward(0), STEP, True),
        (reading(0), READ, False),
        (stack(0, READ, STEP), READ, False),
        (stack(0, SLEEP), SLEEP, False),
        (stack(0, *[READ] * 6, ALL_REDUCE), READ, False),
        (stack(0, OURS, STEP), OURS, True),
        (stack(0, SAVING, STEP), SAVING, True),
        (silent(0, "T"), None, False),
    ],
    ids=[
        "collective",
        "backward",
        "library",
        "own",
        "nothing own",
        "far below a collective",
        "result",
        "save",
        "no stack",
    ],
)
def test_where_a_rank_is_and_whether_it_waits(one: Stack, place: Frame | None, waits: bool) -> None:
    assert (one.place, one.waits) == (place, waits)


@pytest.mark.parametrize(
    ("ranks", "text"),
    [((3,), "rank 3"), ((0, 2), "ranks 0, 2"), (tuple(range(9)), "ranks 0, 1, 2, 3, 4, 5, 6, 7, …")],
)
def test_ranks_in_words(ranks: tuple[int, ...], text: str) -> None:
    assert named(ranks) == text


# --- suspects -----------------------------------------------------------------------------------------------

CASES = [
    (
        "a stopped process cannot answer",
        late(),
        [waiting(0), silent(1, "T"), backward(2)],
        (1,),
        "the process of rank 1 is stopped by a signal",
    ),
    (
        "one that hangs in the kernel cannot either",
        late(),
        [silent(0, "D"), waiting(1)],
        (0,),
        "the process of rank 0 is waiting in the kernel",
    ),
    (
        "no answer without a known reason",
        late(2),
        [waiting(0), silent(1, "S"), waiting(2)],
        (1,),
        "the process of rank 1 is without an answer",
    ),
    (
        "others have got past it",
        late(2),
        [waiting(0), waiting(1), reading(2)],
        (2,),
        "rank 2 did not get as far as the others",
    ),
    (
        "it waits for nobody",
        late(),
        [waiting(0), reading(1), backward(2)],
        (1,),
        "rank 1 did not come to where the others wait",
    ),
    (
        "two of three wait for nobody",
        late(),
        [waiting(0), reading(1), reading(2)],
        (1, 2),
        "ranks 1, 2 did not come to where the others wait",
    ),
    (
        "it waits elsewhere",
        late(),
        [waiting(0), backward(1), waiting(2)],
        (1,),
        "rank 1 came to another place than the others",
    ),
    ("two wait at two places", late(), [waiting(0), backward(1)], (), "no rank stands out"),
    ("all wait at one place", late(), [waiting(0), waiting(1)], (), "no rank stands out"),
    (
        "all wait at one place, one for longer",
        late(oldest=1, ahead=1.5),
        [waiting(0), waiting(1)],
        (1,),
        "rank 1 was heard of least recently",
    ),
    ("no rank answers", late(), [silent(0, "S"), silent(1, "S")], (), "no rank stands out"),
    (
        "no rank answers, and one is behind",
        late(1),
        [silent(0, "S"), silent(1, "S")],
        (1,),
        "rank 1 did not get as far as the others",
    ),
    ("one rank alone", late(), [reading(0)], (), "no rank stands out"),
]


@pytest.mark.fault("F41")
@pytest.mark.parametrize(
    ("what", "stall", "stacks", "ranks", "why"), CASES, ids=[case[0].replace(" ", "-") for case in CASES]
)
def test_who_is_named(what: str, stall: Late, stacks: list[Stack], ranks: tuple[int, ...], why: str) -> None:
    found = find(stall, {one.rank: one for one in stacks})
    assert (found.ranks, found.why) == (ranks, why)


def test_the_evidence_is_the_suspect_s_stack_and_where_all_are() -> None:
    everyone = {one.rank: one for one in [waiting(0), reading(1), waiting(2), silent(3, "S")]}
    del everyone[3]
    assert find(late(), everyone).evidence == (
        "rank 1 in readinto (socket.py:706)",
        "rank 1 in rows (arrays.py:40)",
        "rank 1 in take_step (loop.py:152)",
        "ranks 0, 2: waits in sum_over_ranks (runtime.py:62)",
        "rank 1: is in rows (arrays.py:40)",
    )


def test_a_process_without_a_stack_is_told_with_its_state() -> None:
    evidence = find(late(), {0: waiting(0), 1: silent(1, "T"), 2: silent(2, "")}).evidence
    assert "rank 1: no stack, the process is stopped by a signal" in evidence
    assert "rank 2: no stack, the process is without an answer" in evidence


@given(
    st.lists(
        st.sampled_from([waiting, backward, reading, lambda r: silent(r, "T")]), min_size=1, max_size=40
    ),
    st.integers(0, 39),
)
def test_evidence_fits_and_suspects_are_ranks_of_the_gang(makers: list, behind: int) -> None:
    everyone = {rank: make(rank) for rank, make in enumerate(makers)}
    found = find(late(behind % len(makers)), everyone)
    assert set(found.ranks) <= set(everyone)
    assert len(found.evidence) <= 7
    assert found.why


def test_no_majority_names_nobody() -> None:
    assert minority([waiting(0), waiting(1), backward(2), backward(3)]) == ()
    assert minority([]) == ()
