"""A whole corpus: what stays, what is said of the rest, and that no kill and no number of workers changes a byte."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from windlass.api.meta import Reason
from windlass_workloads.corpus import stages
from windlass_workloads.corpus.inputs import Files
from windlass_workloads.corpus.read import Source
from windlass_workloads.corpus.stages import INDEX, Recipe, link_or_copy, make
from windlass_workloads.data.errors import StopRequested, WorkloadError
from windlass_workloads.data.read import Complaints, Limits, read_rows
from workloads.corpus.texts import jaccard, near, text, write_rows

COUNT = 40


def sources(root: Path) -> tuple[Source, ...]:
    """Two sources with everything in them that is dropped: damage, repetitions, nothing at all."""
    found = (
        Source(root / "one.jsonl", "spec.corpus.sources[0].uri"),
        Source(root / "two.jsonl.gz", "spec.corpus.sources[1].uri"),
    )
    if all(source.path.exists() for source in found):
        # Written again they would be other files, and what was made of them would not count.
        return found
    chance = random.Random(3)
    fresh = [text(chance.randint(60, 200), 100 + number) for number in range(COUNT)]
    one = write_rows(root / "one.jsonl", [*fresh[:20], fresh[3], f"  {fresh[4]}\r\n", near(fresh[5], 1)])
    with one.open("ab") as file:
        file.write(b'{"text": "\xff"}\nnot json\n{"body": "x"}\n{"text": " \\n"}\n')
    other = [*fresh[20:], fresh[7], near(fresh[8], 2), near(fresh[9], 40), "...", "..."]
    raw = "".join(json.dumps({"text": one}) + "\n" for one in other)
    (root / "two.jsonl.gz").write_bytes(gzip.compress(raw.encode(), mtime=0))
    return found


def recipe(root: Path, **options: Any) -> Recipe:
    return Recipe(sources(root), **{"piece_bytes": 6000, **options})


def index_of(made: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((made / INDEX).read_text())
    return found


def texts_of(made: Path) -> list[str]:
    return [
        row
        for shard in index_of(made)["shards"]
        for row in pq.read_table(made / shard["name"]).column("text").to_pylist()
    ]


def name_of(recipe: Recipe) -> str:
    return Files.of(recipe.sources, recipe.to_wire()).name


def left_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def bytes_of(made: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(made.iterdir())}


# --- what it holds ---------------------------------------------------------------------------------


def test_every_document_is_there_once_in_its_order(tmp_path: Path) -> None:
    made = make(recipe(tmp_path / "in"), tmp_path / "out")
    chance = random.Random(3)
    fresh = [text(chance.randint(60, 200), 100 + number) for number in range(COUNT)]
    assert texts_of(made) == [*fresh, near(fresh[9], 40), "..."]
    assert index_of(made)["dropped"] == {
        "Empty": 1,
        "ExactDuplicate": 4,
        "NearDuplicate": 2,
        "NoText": 1,
        "NotJSON": 1,
        "NotUTF8": 1,
    }


def test_counts_add_up(tmp_path: Path) -> None:
    made = make(recipe(tmp_path / "in"), tmp_path / "out")
    index = index_of(made)
    for row in (index, *index["sources"]):
        assert row["read"] == row["documents"] + sum(row["dropped"].values())
    assert [row["name"] for row in index["sources"]] == ["one.jsonl", "two.jsonl.gz"]
    assert index["documents"] == len(texts_of(made)) == sum(shard["documents"] for shard in index["shards"])
    assert index["bytes"] == sum(len(one.encode()) for one in texts_of(made))
    assert sum(index["dropped"].values()) == sum(sum(row["dropped"].values()) for row in index["sources"])


def test_each_shard_is_what_the_index_says(tmp_path: Path) -> None:
    made = make(recipe(tmp_path / "in"), tmp_path / "out")
    shards = index_of(made)["shards"]
    assert [shard["name"] for shard in shards] == [f"{number:06d}.parquet" for number in range(len(shards))]
    for shard in shards:
        raw = (made / shard["name"]).read_bytes()
        assert hashlib.sha256(raw).hexdigest() == shard["sha256"]
    found = [
        source
        for shard in shards
        for source in pq.read_table(made / shard["name"]).column("source").to_pylist()
    ]
    assert found == sorted(found) and set(found) == {0, 1}


def test_a_fine_tuning_job_can_read_its_shards(tmp_path: Path) -> None:
    made = make(recipe(tmp_path / "in"), tmp_path / "out")
    rows = list(read_rows(made / "000000.parquet", field="x", complaints=Complaints("x", "y")))
    assert [row.values["text"] for row in rows] == texts_of(made)[: len(rows)]


def test_without_a_threshold_only_what_is_equal_goes(tmp_path: Path) -> None:
    made = make(recipe(tmp_path / "in", threshold=None), tmp_path / "out")
    dropped = index_of(made)["dropped"]
    assert dropped["ExactDuplicate"] == 4 and "NearDuplicate" not in dropped


@pytest.mark.parametrize("threshold", [0.3, 0.85, 0.92, 0.95, 0.999])
def test_the_threshold_decides(tmp_path: Path, threshold: float) -> None:
    made = make(recipe(tmp_path / "in", threshold=threshold), tmp_path / "out")
    chance = random.Random(3)
    fresh = [text(chance.randint(60, 200), 100 + number) for number in range(COUNT)]
    likes = [jaccard(fresh[one], near(fresh[one], changed)) for one, changed in ((5, 1), (8, 2), (9, 40))]
    assert index_of(made)["dropped"].get("NearDuplicate", 0) == sum(like >= threshold for like in likes)


def test_rules_drop_what_they_name(tmp_path: Path) -> None:
    good = "\n".join(
        f"The miller and the baker have walked to river {number} of the valley." for number in range(9)
    )
    path = write_rows(
        tmp_path / "a.jsonl", [good, "too short to keep", "zz " * 80, good.replace("river", "hill")]
    )
    made = make(Recipe((Source(path, "x"),), rules="Gopher"), tmp_path / "out")
    assert index_of(made)["dropped"] == {"TooFewWords": 1, "WordLength": 1}
    assert texts_of(made) == [good, good.replace("river", "hill")]
    assert "documents of fewer than 50 words" in (made / "datasheet.html").read_text()


def test_rules_that_leave_nothing_are_named_in_the_hint(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", ["too short"] * 3)
    with pytest.raises(WorkloadError) as raised:
        make(Recipe((Source(path, "x"),), rules="Gopher"), tmp_path / "out")
    assert "(got TooFewWords 3, for example a.jsonl@0: too short)" in raised.value.message
    assert "choose rules None" in raised.value.hint


@pytest.mark.parametrize("piece_bytes", [500, 3000, 1 << 20])
def test_pieces_change_the_files_and_not_the_documents(tmp_path: Path, piece_bytes: int) -> None:
    one = make(recipe(tmp_path / "in"), tmp_path / "one")
    other = make(recipe(tmp_path / "in", piece_bytes=piece_bytes), tmp_path / "other")
    assert texts_of(one) == texts_of(other) and index_of(one)["dropped"] == index_of(other)["dropped"]


# --- once ------------------------------------------------------------------------------------------


def test_the_same_corpus_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(recipe(tmp_path / "in"), tmp_path / "out")
    monkeypatch.setattr(stages, "Run", None)
    assert make(recipe(tmp_path / "in"), tmp_path / "out") == made
    assert left_in(tmp_path / "out") == {made.name, f".{made.name}.lock"}, "stages are cleared away"


@pytest.mark.parametrize(
    "change",
    [
        {"rules": "Gopher"},
        {"threshold": 0.9},
        {"threshold": None},
        {"piece_bytes": 7000},
        {"limits": Limits(row_bytes=5000)},
    ],
    ids=str,
)
def test_another_recipe_is_another_corpus(tmp_path: Path, change: dict[str, Any]) -> None:
    assert name_of(recipe(tmp_path, **change)) != name_of(recipe(tmp_path))


def test_other_contents_are_another_corpus_and_other_places_are_not(tmp_path: Path) -> None:
    one, other = recipe(tmp_path / "a"), recipe(tmp_path / "b")
    assert name_of(one) == name_of(other)
    write_rows(tmp_path / "b" / "one.jsonl", ["x"])
    assert name_of(one) != name_of(other)


# --- kills -----------------------------------------------------------------------------------------

DRIVER = """
import os, signal, sys
sys.path[:0] = {path!r}
from pathlib import Path
from windlass_workloads.corpus import tasks
from workloads.corpus.test_stages import recipe
from windlass_workloads.corpus.stages import make
left = {after}
write, put = tasks.write_json, tasks.put
def die(*arguments):
    global left
    left -= 1
    if left == 0 and {where!r} == "within":
        os.kill(os.getpid(), signal.SIGKILL)
    {name}(*arguments)
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
tasks.{patched} = die
make(recipe(Path({root!r}) / "in"), Path({root!r}) / "out")
"""


def run_until_killed(root: Path, after: int, where: str) -> int:
    """Make the corpus in a process that kills itself; how it ended."""
    patched, name = ("write_json", "write") if where == "within" else ("put", "put")
    source = DRIVER.format(
        path=sys.path, after=after, where=where, name=name, patched=patched, root=str(root)
    )
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


@pytest.mark.parametrize("where", ["within", "after"])
def test_a_kill_in_any_task_changes_no_byte(tmp_path: Path, where: str) -> None:
    """Within: before the task's report is written. After: when its directory has just appeared."""
    undisturbed = bytes_of(make(recipe(tmp_path / "in"), tmp_path / "undisturbed"))
    out, turns = tmp_path / "out", 0
    while run_until_killed(tmp_path, after=2, where=where) != 0:
        turns += 1
        # A corpus that has appeared is whole: the kill may have come right after.
        for made in (path for path in out.iterdir() if not path.name.startswith(".")):
            assert bytes_of(made) == undisturbed
        assert turns < 40
    [made] = (path for path in out.iterdir() if not path.name.startswith("."))
    assert bytes_of(made) == undisturbed and left_in(out) == {made.name, f".{made.name}.lock"}
    assert turns >= 5, "each stage was broken off"


def test_work_that_was_done_before_a_kill_is_not_done_again(tmp_path: Path) -> None:
    assert run_until_killed(tmp_path, after=3, where="after") == -signal.SIGKILL
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob(".*.stages/sign-*")}
    assert len(before) == 3
    assert run_until_killed(tmp_path, after=4, where="after") == -signal.SIGKILL
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob(".*.stages/*-*")}
    assert len(after) == 7 and all(after[path] == at for path, at in before.items())


@pytest.mark.parametrize("after", [1, 2, 5, 9])
def test_a_stop_that_is_asked_for_loses_no_task(tmp_path: Path, after: int) -> None:
    undisturbed = bytes_of(make(recipe(tmp_path / "in"), tmp_path / "undisturbed"))
    count = 0

    def check() -> None:
        nonlocal count
        count += 1
        if count == after:
            raise StopRequested

    with pytest.raises(StopRequested):
        make(recipe(tmp_path / "in"), tmp_path / "out", check=check)
    made = make(recipe(tmp_path / "in"), tmp_path / "out")
    assert bytes_of(made) == undisturbed


def test_two_workers_make_the_same_bytes(tmp_path: Path) -> None:
    one = make(recipe(tmp_path / "in"), tmp_path / "one", workers=1)
    two = make(recipe(tmp_path / "in"), tmp_path / "two", workers=2)
    assert bytes_of(one) == bytes_of(two)


# --- bad sources -----------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("spoil", "reason", "said"),
    [
        (
            lambda root: cut(root / "two.jsonl.gz"),
            Reason.DATA_UNREADABLE,
            "sources[1].uri: two.jsonl.gz cannot be read",
        ),
        (
            lambda root: (root / "one.jsonl").unlink(),
            Reason.DATA_NOT_FOUND,
            "sources[0].uri: one.jsonl does not exist",
        ),
        (
            lambda root: (root / "one.jsonl").write_text(""),
            Reason.DATA_EMPTY,
            "sources[0].uri: no document of one.jsonl can be used (got no row)",
        ),
        (
            lambda root: write_rows(root / "one.jsonl", ["a", "b"], "body"),
            Reason.DATA_EMPTY,
            "(got NoText 2, for example one.jsonl@0: got body); allowed at least 1",
        ),
        (
            lambda root: (root / "one.jsonl").write_bytes(b"\x00\xff" * 50),
            Reason.DATA_EMPTY,
            "(got NotUTF8 1, for example one.jsonl@0",
        ),
    ],
    ids=["cut off", "missing", "empty", "column", "no text"],
)
def test_a_bad_source_is_refused_before_anything_counts(
    tmp_path: Path, spoil: Callable[[Path], None], reason: Reason, said: str
) -> None:
    good = recipe(tmp_path / "in")
    spoil(tmp_path / "in")
    with pytest.raises(WorkloadError) as raised:
        make(good, tmp_path / "out")
    assert raised.value.reason == reason and said in raised.value.message
    assert not [path for path in (tmp_path / "out").glob("*") if not path.name.startswith(".")]


@pytest.mark.parametrize("linked", [True, False])
def test_shards_are_linked_or_copied(tmp_path: Path, linked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("no links here")

    (tmp_path / "a").write_text("x")
    if not linked:
        monkeypatch.setattr(Path, "hardlink_to", refuse)
    link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "x"
    assert os.path.samefile(tmp_path / "a", tmp_path / "b") is linked


# --- the page --------------------------------------------------------------------------------------


def test_the_datasheet_names_reasons_and_shows_examples(tmp_path: Path) -> None:
    made = make(recipe(tmp_path / "in"), tmp_path / "out")
    page = (made / "datasheet.html").read_text()
    for reason in index_of(made)["dropped"]:
        assert f"<td>{reason}</td>" in page
    assert "<td>one.jsonl</td>" in page and index_of(made)["digest"] in page
    [near_one, *_] = index_of(made)["shown"]["NearDuplicate"]
    assert near_one["place"].startswith("one.jsonl@") and near_one["repeats"].startswith("one.jsonl@")
    assert near_one["text"][:20] == near_one["repeatedText"][:20] and "repeats one.jsonl@" in page


def test_a_text_from_the_data_cannot_become_part_of_the_page(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script> & <b>"
    path = write_rows(tmp_path / "in" / "<i>.jsonl", [evil * 20, evil * 20, text(50, 1)])
    with path.open("a") as file:
        file.write(evil + "\n")
    made = make(Recipe((Source(path, "x"),)), tmp_path / "out")
    page = (made / "datasheet.html").read_text()
    assert (
        "<script" not in page and "<i>" not in page and "&lt;script&gt;" in page and "&lt;i&gt;.jsonl" in page
    )


def test_at_most_five_examples_of_a_kind_are_shown(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [text(50, 1)] * 30)
    with path.open("a") as file:
        file.write("no json\n" * 30)
    made = make(Recipe((Source(path, "x"),), piece_bytes=4000), tmp_path / "out")
    shown = index_of(made)["shown"]
    assert {reason: len(rows) for reason, rows in shown.items()} == {"ExactDuplicate": 5, "NotJSON": 5}


# --- the command -----------------------------------------------------------------------------------


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    line = [sys.executable, "-m", "windlass_workloads.corpus", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False, env=environment)


def test_the_command_says_where_the_corpus_is(tmp_path: Path) -> None:
    files = [source.path for source in sources(tmp_path / "in")]
    done = command(*files, "--output", tmp_path / "out", "--threshold", "0.9")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert Path(said["directory"]).parent == tmp_path / "out"
    assert said["digest"] == index_of(Path(said["directory"]))["digest"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.jsonl"], "none.jsonl: none.jsonl does not exist. hint: check the path; nothing was written."),
        (["none.jsonl", "--threshold", "0.1"], "is out of range (got 0.1); allowed 0.3 to 1, or none"),
        (["none.jsonl", "--workers", "0"], "is out of range (got 0); allowed 1 to 256"),
        (["none.jsonl", "--rules", "C4"], "invalid choice: 'C4'"),
        ([], "the following arguments are required: files"),
    ],
)
def test_the_command_names_a_mistake(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = command(*arguments, "--output", tmp_path)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
