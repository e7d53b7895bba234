"""What the stacks of all ranks say about a stall: who did not come to where the others wait.

Pure; reads what faulthandler wrote into the ranks' logs. The evidence is taken in the order of its worth:
a process that cannot answer, a rank that others have got past, one that waits for nobody, one that waits
elsewhere than most, and last the one that was heard of least recently.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from windlass_workloads.agent.stalls import Late

THREAD: Final = re.compile(r"^(?:Current thread|Thread) 0x[0-9a-f]+ .*\(most recent call first\):$")
FRAME: Final = re.compile(r'^  File "(?P<file>[^"]*)", line (?P<line>\d+|\?\?\?) in (?P<name>.+)$')
MAIN: Final = ("run_rank", "_run_task")
"""Functions of `child` that the main thread of a rank is below."""
FOREIGN: Final = re.compile(r"site-packages|dist-packages|/lib/python3|^<")
COLLECTIVE: Final = re.compile(
    r"/torch/distributed/|/windlass_workloads/(train/runtime|checkpoint/group)\.py$"
)
"""On an accelerator a collective returns at once, and its result is waited for by who uses it."""
BACKWARD: Final = "_engine_run_backward"
"""Computes, and waits for the others' gradients; which of both cannot be told from Python."""
NEAR: Final = 6
"""Frames from the innermost among which a collective is looked for."""
SHOWN: Final = 3
PLACES: Final = 4
CLEARLY_SECONDS: Final = 1.0
STATES: Final = {"T": "stopped by a signal", "t": "stopped by a debugger", "D": "waiting in the kernel"}
NO_ANSWER: Final = "without an answer"


@dataclass(frozen=True, slots=True)
class Frame:
    """One call of a stack."""

    file: str
    line: str
    name: str

    def __str__(self) -> str:
        return f"{self.name} ({self.file.rpartition('/')[2]}:{self.line})"


@dataclass(frozen=True, slots=True)
class Stack:
    """What one rank answered. `frames` are the main thread's, innermost first; none without an answer.

    `state` is the process's, as in /proc/PID/stat: R, S, D, T, Z, or empty if it was gone.
    """

    rank: int
    state: str = ""
    frames: tuple[Frame, ...] = ()
    lines: tuple[str, ...] = ()

    @property
    def place(self) -> Frame | None:
        """The innermost call of code that is neither torch's nor the standard library's."""
        own = (frame for frame in self.frames if not FOREIGN.search(frame.file))
        return next(own, self.frames[0] if self.frames else None)

    @property
    def waits(self) -> bool:
        """Whether it is where ranks wait for each other, or may be."""
        near = self.frames[:NEAR]
        return any(COLLECTIVE.search(frame.file) or frame.name == BACKWARD for frame in near)


def read(rank: int, state: str, lines: Sequence[str]) -> Stack:
    """The stack in what a rank wrote after it was asked; other output in between is left out."""
    threads: list[list[Frame]] = []
    kept: list[str] = []
    for line in lines:
        found = FRAME.match(line)
        if THREAD.match(line):
            threads.append([])
        elif found is None or not threads:
            continue
        else:
            threads[-1].append(Frame(found["file"], found["line"], found["name"]))
        kept.append(line)
    # The main thread was there first, and faulthandler begins with the newest.
    main = next((one for one in threads if any(frame.name in MAIN for frame in one)), None)
    frames = main if main is not None else threads[-1] if threads else []
    return Stack(rank, state, tuple(frames), tuple(kept))


@dataclass(frozen=True, slots=True)
class Finding:
    """Who is to be looked at, and why; `ranks` is empty when nobody stands out.

    `calls` are the innermost of the first of them, `places` where all ranks are.
    """

    ranks: tuple[int, ...]
    why: str
    calls: tuple[str, ...]
    places: tuple[str, ...]

    @property
    def evidence(self) -> tuple[str, ...]:
        """The lines that show it, at most as many as a failure keeps."""
        return self.calls + self.places


def find(late: Late, stacks: Mapping[int, Stack]) -> Finding:
    """Judges one stall by what is known of progress and by the stacks of all ranks."""
    everyone = [stacks[rank] for rank in sorted(stacks)]
    silent = tuple(stack.rank for stack in everyone if not stack.frames)
    speaking = [stack for stack in everyone if stack.frames]
    if silent and speaking:
        what = " or ".join(sorted({STATES.get(stacks[rank].state, NO_ANSWER) for rank in silent}))
        return _finding(silent, f"the process of {named(silent)} is {what}", everyone)
    if late.behind:
        return _finding(late.behind, f"{named(late.behind)} did not get as far as the others", everyone)
    absent = tuple(stack.rank for stack in speaking if not stack.waits)
    if absent and len(absent) < len(speaking):
        return _finding(absent, f"{named(absent)} did not come to where the others wait", everyone)
    few = minority(speaking)
    if few:
        return _finding(few, f"{named(few)} came to another place than the others", everyone)
    if late.ahead_seconds > CLEARLY_SECONDS:
        return _finding((late.oldest,), f"rank {late.oldest} was heard of least recently", everyone)
    return _finding((), "no rank stands out", everyone)


def minority(stacks: Sequence[Stack]) -> tuple[int, ...]:
    """Ranks that are not at the place where most are; none without a majority."""
    places = Counter(stack.place for stack in stacks)
    ranked = places.most_common(2)
    if len(ranked) < 2 or ranked[0][1] == ranked[1][1]:
        return ()
    return tuple(stack.rank for stack in stacks if stack.place != ranked[0][0])


def named(ranks: Sequence[int]) -> str:
    """Ranks in words."""
    shown = ", ".join(str(rank) for rank in ranks[:8]) + (", …" if len(ranks) > 8 else "")
    return f"rank {shown}" if len(ranks) == 1 else f"ranks {shown}"


def _finding(ranks: tuple[int, ...], why: str, everyone: Sequence[Stack]) -> Finding:
    by_rank = {stack.rank: stack for stack in everyone}
    first = by_rank.get(ranks[0]) if ranks else None
    calls = [f"rank {first.rank} in {frame}" for frame in _telling(first)] if first is not None else []
    places: dict[str, list[int]] = {}
    for stack in everyone:
        places.setdefault(_where(stack), []).append(stack.rank)
    told = [f"{named(group)}: {where}" for where, group in list(places.items())[:PLACES]]
    return Finding(ranks, why, tuple(calls), tuple(told))


def _telling(stack: Stack) -> list[Frame]:
    """The innermost call, and those of own code above it."""
    own = [frame for frame in stack.frames if not FOREIGN.search(frame.file)]
    innermost = [frame for frame in stack.frames[:1] if frame not in own[:1]]
    return [*innermost, *own][:SHOWN]


def _where(stack: Stack) -> str:
    if not stack.frames:
        return f"no stack, the process is {STATES.get(stack.state, NO_ANSWER)}"
    return f"{'waits' if stack.waits else 'is'} in {stack.place}"
