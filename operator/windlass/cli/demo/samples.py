"""The demo's data: the example's tickets, or a user's own JSON Lines, each as a training and a held-out file.

Called by the demo's command. Own rows in Instruction form are rewritten as Chat, so that training and
scoring read one form. A row that cannot be read is an error with its line; none is dropped in silence.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windlass.cli.errors import CliError

Row = dict[str, Any]
HELD_OUT_SHARE, HELD_OUT_MOST, HELD_OUT_LEAST, ROWS_LEAST = 0.2, 200, 10, 50
SEED = 11


@dataclass(frozen=True, slots=True)
class Samples:
    """The two files in Chat form."""

    train: Path
    held_out: Path


def tickets(example: Path, directory: Path) -> Samples:
    """The example's tickets, made by its own script."""
    command = [sys.executable, str(example / "make_tickets.py"), str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CliError(f"make_tickets.py: {done.stderr.strip()[-500:]}")
    return Samples(directory / "train.jsonl", directory / "held-out.jsonl")


def own(path: Path, directory: Path) -> Samples:
    """The user's rows, a fifth of them (at most 200) held out by a fixed seed. Raises CliError."""
    rows = read(path)
    if len(rows) < ROWS_LEAST:
        raise CliError(
            f"--data: too few rows (got {len(rows)} in {path}); allowed: {ROWS_LEAST} or more. "
            "hint: a score on fewer held-out rows says nothing"
        )
    random.Random(SEED).shuffle(rows)
    count = max(HELD_OUT_LEAST, min(HELD_OUT_MOST, int(len(rows) * HELD_OUT_SHARE)))
    directory.mkdir(parents=True, exist_ok=True)
    made = Samples(directory / "train.jsonl", directory / "held-out.jsonl")
    write(made.held_out, rows[:count])
    write(made.train, rows[count:])
    return made


def read(path: Path) -> list[Row]:
    """Rows of a file in Chat or Instruction form, as Chat. Raises CliError with the line."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        raise CliError(
            f"--data: cannot be read (got {path}: {problem}); allowed: a JSON Lines file"
        ) from problem
    return [_row(f"{path}:{number}", line) for number, line in enumerate(lines, 1) if line.strip()]


def _row(place: str, line: str) -> Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as problem:
        raise CliError(f"{place}: is not JSON ({problem.msg}). hint: one object per line") from problem
    for accepts, convert in FORMS:
        if accepts(row):
            return convert(row)
    raise CliError(
        f"{place}: is neither a chat nor an instruction (got {line[:80]}); allowed: "
        '{"messages": [{"role": ..., "content": ...}, ...]} ending with the assistant, or '
        '{"instruction": ..., "input": ..., "output": ...}'
    )


def _is_chat(row: Any) -> bool:
    messages = row.get("messages") if isinstance(row, dict) else None
    return (
        isinstance(messages, list)
        and len(messages) >= 2
        and all(isinstance(item, dict) and isinstance(item.get("content"), str) for item in messages)
        and messages[-1].get("role") == "assistant"
    )


def _is_instruction(row: Any) -> bool:
    return isinstance(row, dict) and all(isinstance(row.get(key), str) for key in ("instruction", "output"))


def _as_chat(row: Row) -> Row:
    question = "\n\n".join(part for part in (row["instruction"], row.get("input") or "") if part)
    return {
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": row["output"]}]
    }


FORMS: tuple[tuple[Callable[[Any], bool], Callable[[Row], Row]], ...] = (
    (_is_chat, lambda row: {"messages": row["messages"]}),
    (_is_instruction, _as_chat),
)


def write(path: Path, rows: list[Row]) -> None:
    """JSON Lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
