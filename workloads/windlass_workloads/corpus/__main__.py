"""`python -m windlass_workloads.corpus FILE... --output DIRECTORY`: a corpus without a cluster.

Prints where the corpus is and what was kept. Exit status 2 with one line on standard error if a file
cannot be used, 1 if a disk or a right is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from windlass_workloads.corpus.read import Source
from windlass_workloads.corpus.rules import SETS
from windlass_workloads.corpus.stages import INDEX, THRESHOLD, Recipe, make
from windlass_workloads.data.errors import WorkloadError

SHOWN = ("digest", "read", "documents", "bytes", "dropped")


def share(text: str) -> float | None:
    """A threshold."""
    if text == "none":
        return None
    value = float(text)
    if not 0.3 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"is out of range (got {text}); allowed 0.3 to 1, or none")
    return value


def count(text: str) -> int:
    """A number of workers."""
    value = int(text)
    if not 1 <= value <= 256:
        raise argparse.ArgumentTypeError(f"is out of range (got {text}); allowed 1 to 256")
    return value


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="windlass-corpus", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("files", nargs="+", type=Path, help="files of documents, or directories of them")
    parser.add_argument("--output", type=Path, required=True, help="directory for corpora")
    parser.add_argument("--column", default="text", help="column with the text (default text)")
    parser.add_argument(
        "--rules", choices=tuple(SETS), default="None", help="rules that drop documents (default None)"
    )
    parser.add_argument(
        "--threshold",
        type=share,
        default=THRESHOLD,
        help=f"resemblance of near duplicates, or none ({THRESHOLD})",
    )
    parser.add_argument("--workers", type=count, default=1, help="processes at a time (default 1)")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> int:
    """Entry."""
    options = arguments(given)
    sources = tuple(Source(path, str(path), options.column) for path in options.files)
    try:
        made = make(
            Recipe(sources, options.rules, options.threshold), options.output, workers=options.workers
        )
    except WorkloadError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except OSError as error:
        sys.stderr.write(
            f"{error}. hint: what was made so far is kept, the same command goes on from there\n"
        )
        return 1
    index = json.loads((made / INDEX).read_text(encoding="utf-8"))
    json.dump({"directory": str(made)} | {name: index[name] for name in SHOWN}, sys.stdout, indent=1)
    sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
