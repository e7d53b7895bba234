"""Make the demo's data: support tickets and the triage a person would give them.

`python make_tickets.py DIRECTORY` writes train.jsonl and held-out.jsonl in Chat format. The same seed gives
the same bytes. Training and held-out tickets share labels, and neither templates nor content words.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any

from vocabulary import HELD_OUT, TRAIN, Vocabulary

SYSTEM = "Triage the support ticket. Answer with JSON: category, priority, product."
CITIES = {"train": ("Lyon", "Porto", "Leeds", "Graz"), "held-out": ("Oslo", "Turin", "Bergen", "Ghent")}
MONTHS = {"train": ("January", "March", "May", "July"), "held-out": ("February", "April", "June", "August")}
TRAIN_COUNT, HELD_OUT_COUNT, SEED = 960, 240, 7

Row = dict[str, Any]


def ticket(vocabulary: Vocabulary, split: str, source: random.Random) -> Row:
    """One row: the ticket as the user's message, its triage as the assistant's."""
    category = source.choice(sorted(vocabulary.problems))
    priority = source.choice(sorted(vocabulary.priorities))
    product = source.choice(sorted(vocabulary.products))
    detail = source.choice(vocabulary.details).format(
        number=source.randrange(10_000, 99_999),
        code=f"{source.choice('ABCDEFGH')}{source.randrange(10, 99)}",
        city=source.choice(CITIES[split]),
        month=source.choice(MONTHS[split]),
    )
    text = source.choice(vocabulary.templates).format(
        greeting=source.choice(vocabulary.greetings),
        detail=detail,
        problem=source.choice(vocabulary.problems[category]).format(
            p=source.choice(vocabulary.products[product])
        ),
        priority=source.choice(vocabulary.priorities[priority]),
    )
    answer = json.dumps({"category": category, "priority": priority, "product": product})
    return {
        "messages": [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": text},
            {"role": "assistant", "content": answer},
        ]
    }


def tickets(vocabulary: Vocabulary, split: str, *, count: int, seed: int) -> list[Row]:
    """`count` different rows."""
    source = random.Random(f"{seed}/{split}")
    rows: dict[str, Row] = {}
    while len(rows) < count:
        row = ticket(vocabulary, split, source)
        rows.setdefault(row["messages"][1]["content"], row)
    return list(rows.values())


def write(path: Path, rows: list[Row]) -> None:
    """JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def main() -> int:
    """Entry."""
    parser = argparse.ArgumentParser(description="Write the support-ticket data of the example.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--train", type=int, default=TRAIN_COUNT, help="number of training tickets")
    parser.add_argument("--held-out", type=int, default=HELD_OUT_COUNT, help="number of held-out tickets")
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    write(options.directory / "train.jsonl", tickets(TRAIN, "train", count=options.train, seed=options.seed))
    held_out = tickets(HELD_OUT, "held-out", count=options.held_out, seed=options.seed)
    write(options.directory / "held-out.jsonl", held_out)
    print(f"{options.train} training and {options.held_out} held-out tickets in {options.directory}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
