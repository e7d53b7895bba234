"""Write texts that every machine with Python has: the standard library's sources and its docstrings.

`python make_texts.py DIRECTORY` makes `sources/` and `docstrings/`, JSON Lines with a text per row, and
`held-out/` with both kinds of modules that are in neither. Every twentieth docstring stands in its file
twice, and every twentieth once more with another first word: what a corpus stage has to find. Files are
read, never imported. The same Python gives the same bytes.
"""

from __future__ import annotations

import ast
import json
import sys
import sysconfig
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

LEFT_OUT = {
    "test",
    "tests",
    "idle_test",
    "site-packages",
    "dist-packages",
    "lib2to3",
    "turtledemo",
    "__pycache__",
}
HELD_OUT_EVERY = 8
DOUBLED_EVERY = 20
SHORTEST = 60
"""Letters; a shorter docstring says nothing."""


def modules(library: Path) -> Iterator[tuple[str, str]]:
    """Name and source of each module, by name."""
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).with_suffix("").parts
        if LEFT_OUT.isdisjoint(parts):
            yield ".".join(parts), path.read_text(encoding="utf-8", errors="replace")


def docstrings(source: str) -> Iterator[str]:
    """The docstrings of a module, of its classes and of its functions; none where it does not parse."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text and len(text) >= SHORTEST:
                yield text


def doubled(texts: list[str]) -> list[str]:
    """The texts with repetitions: some exactly, some with another first word."""
    again = [text for place, text in enumerate(texts) if place % DOUBLED_EVERY == 0]
    near = [f"Again {text}" for place, text in enumerate(texts) if place % DOUBLED_EVERY == 10]
    return [*texts, *again, *near]


def write(path: Path, texts: list[str]) -> None:
    """A file of rows, if there are any."""
    if texts:
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = (json.dumps({"text": text}, ensure_ascii=False) for text in texts)
        path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def main(directory: Path) -> None:
    """Write everything, and say how much."""
    sources: dict[str, list[str]] = defaultdict(list)
    documents: dict[str, list[str]] = defaultdict(list)
    held: dict[str, list[str]] = {"sources": [], "docstrings": []}
    for place, (name, source) in enumerate(modules(Path(sysconfig.get_path("stdlib")))):
        found = list(docstrings(source))
        if place % HELD_OUT_EVERY == 0:
            held["sources"].append(source)
            held["docstrings"] += found
            continue
        # One file for each first letter: pieces of a size that a stage can do one after another.
        letter = name.lstrip("_")[0].lower()
        sources[letter].append(source)
        documents[letter] += found
    for letter in sources:
        write(directory / "sources" / f"{letter}.jsonl", sources[letter])
        write(directory / "docstrings" / f"{letter}.jsonl", doubled(documents[letter]))
    for name, texts in held.items():
        write(directory / "held-out" / f"{name}.jsonl", texts)
    counts = {name: sum(map(len, held[name])) for name in held}
    print(json.dumps({"directory": str(directory), "files": 2 * len(sources), "heldOutLetters": counts}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
