"""Files that are held fast: what decides a corpus's name, what a change does, and that one process makes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from windlass.api.meta import Reason
from windlass_workloads.corpus import inputs, stages
from windlass_workloads.corpus.inputs import Files, alone, called, discard
from windlass_workloads.corpus.read import Source
from windlass_workloads.corpus.stages import Recipe, make
from windlass_workloads.data.errors import StopRequested, WorkloadError
from windlass_workloads.data.read import Limits
from workloads.corpus.test_stages import bytes_of, index_of, texts_of
from workloads.corpus.texts import text, write_rows

FIELD = "spec.corpus.sources[0].uri"


def of(path: Path) -> Recipe:
    return Recipe((Source(path, FIELD),), piece_bytes=2000)


def name_of(path: Path) -> str:
    one = of(path)
    return Files.of(one.sources, one.to_wire()).name


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "in" / "a.jsonl", [text(60, seed) for seed in range(20)])


# --- names -----------------------------------------------------------------------------------------


def renamed(rows: Path) -> Path:
    return rows.rename(rows.with_name("b.jsonl"))


def retyped(rows: Path) -> Path:
    return rows.rename(rows.with_suffix(".txt"))


def longer(rows: Path) -> Path:
    rows.write_bytes(rows.read_bytes() + b'{"text": "more"}\n')
    return rows


@pytest.mark.parametrize("change", [renamed, retyped, longer])
def test_what_a_file_is_called_and_what_it_holds_decide_the_name(
    rows: Path, change: Callable[[Path], Path]
) -> None:
    before = name_of(rows)
    assert name_of(change(rows)) != before


def test_where_files_are_and_when_they_were_written_decide_nothing(tmp_path: Path, rows: Path) -> None:
    other = tmp_path / "elsewhere" / "a.jsonl"
    other.parent.mkdir()
    other.write_bytes(rows.read_bytes())
    os.utime(other, (1, 1))
    assert name_of(other) == name_of(rows)
    (tmp_path / "in" / "deep").mkdir()
    moved = rows.rename(tmp_path / "in" / "deep" / "a.jsonl")
    assert name_of(tmp_path / "in") != name_of(moved), "within a directory the way to it counts"
    assert called(moved, Source(tmp_path / "in", FIELD)) == "deep/a.jsonl"


def test_a_name_that_is_no_text_is_spelled(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / os.fsdecode(b"caf\xe9.txt")
    path.write_text("some words of a text")
    made = make(of(tmp_path / "in"), tmp_path / "out")
    assert texts_of(made) == ["some words of a text"] and index_of(made)["sources"][0]["name"] == "in"
    alone_made = make(of(path), tmp_path / "out")
    assert index_of(alone_made)["sources"][0]["name"] == "caf\\udce9.txt"


# --- changes ---------------------------------------------------------------------------------------


def appended(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b'{"text": "late"}\n')


def replaced(path: Path) -> None:
    other = path.with_name("new")
    other.write_bytes(path.read_bytes())
    at = path.stat().st_mtime_ns
    os.utime(other, ns=(at, at))
    other.replace(path)


@pytest.mark.parametrize(
    "change", [appended, replaced, Path.touch, Path.unlink], ids=lambda change: change.__name__
)
def test_a_file_that_changes_meanwhile_gives_no_corpus(
    tmp_path: Path, rows: Path, change: Callable[[Path], None]
) -> None:
    count = 0

    def check() -> None:
        nonlocal count
        count += 1
        # All five pieces are read by then.
        if count == 6:
            change(rows)

    with pytest.raises(WorkloadError) as raised:
        make(of(rows), tmp_path / "out", check=check)
    assert count >= 6 and raised.value.reason == Reason.DATA_UNREADABLE
    assert raised.value.message == f"{FIELD}: a.jsonl changed while it was read."
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert all(name.endswith(".lock") for name in left), left


def test_what_was_read_of_other_contents_does_not_count_when_the_old_ones_are_back(
    tmp_path: Path, rows: Path
) -> None:
    """A run digests one version, reads another and is stopped; then the first version is put back."""
    first, turns = rows.read_bytes(), 0

    def stop() -> None:
        nonlocal turns
        turns += 1
        if turns == 3:
            raise StopRequested

    real = Files.begin
    undisturbed = bytes_of(make(of(rows), tmp_path / "undisturbed"))

    def begin_late(self: Files, working: Path) -> None:
        real(self, working)
        rows.write_bytes(first.replace(b" ", b"-"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Files, "begin", begin_late)
        with pytest.raises(StopRequested):
            make(of(rows), tmp_path / "out", check=stop)
    rows.write_bytes(first)
    assert bytes_of(make(of(rows), tmp_path / "out")) == undisturbed


def test_a_corpus_that_was_removed_is_made_again(
    tmp_path: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where a kill had broken off the removal of the stages."""
    real = inputs.shutil.rmtree

    def broken_off(path: Path, **options: Any) -> None:
        if "stages" in path.name:
            (path / "files.json").unlink()
        else:
            real(path, **options)

    monkeypatch.setattr(inputs.shutil, "rmtree", broken_off)
    made = make(of(rows), tmp_path / "out")
    monkeypatch.setattr(inputs.shutil, "rmtree", real)
    before = bytes_of(made)
    real(made)
    assert bytes_of(make(of(rows), tmp_path / "out")) == before
    assert {path.name for path in (tmp_path / "out").iterdir()} == {made.name, f".{made.name}.lock"}


def test_nothing_to_discard_is_no_error(tmp_path: Path) -> None:
    discard(tmp_path / "none")
    (tmp_path / ".some").mkdir()
    discard(tmp_path / ".some")
    assert list(tmp_path.iterdir()) == []


# --- others at work --------------------------------------------------------------------------------


def test_one_process_at_a_time(tmp_path: Path) -> None:
    order: list[str] = []
    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with alone(tmp_path / "lock", lambda: None):
            inside.set()
            leave.wait(10)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait(10)

    def check() -> None:
        # Asked only by who has to wait.
        order.append("waits")
        leave.set()

    with alone(tmp_path / "lock", check):
        order.append("second")
    thread.join(10)
    assert order[0] == "waits" and order[-2:] == ["first", "second"]


def test_who_waits_may_be_stopped(tmp_path: Path) -> None:
    def stop() -> None:
        raise StopRequested

    with alone(tmp_path / "lock", lambda: None), pytest.raises(StopRequested), alone(tmp_path / "lock", stop):
        pass
    with alone(tmp_path / "lock", stop):
        pass


def test_a_killed_process_is_waited_for_no_longer(tmp_path: Path) -> None:
    program = (
        "import sys, os, signal; from pathlib import Path; from windlass_workloads.corpus.inputs import alone\n"
        f"with alone(Path({str(tmp_path / 'lock')!r}), lambda: None):\n"
        "    print('in', flush=True); signal.pause()\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "in\n"
        waited: list[int] = []

        def check() -> None:
            if not waited:
                process.send_signal(signal.SIGKILL)
            waited.append(1)

        with alone(tmp_path / "lock", check):
            assert waited


def test_two_that_make_the_same_make_it_once(
    tmp_path: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    ran: list[int] = []
    real = stages.Run.sign
    monkeypatch.setattr(stages.Run, "sign", lambda self, files: (ran.append(1), real(self, files))[1])
    threads = [
        threading.Thread(target=lambda: made.append(make(of(rows), tmp_path / "out"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(set(made)) == 1 and len(made) == 4 and ran == [1]


# --- hostile files ---------------------------------------------------------------------------------


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(WorkloadError) as raised:
        make(Recipe((Source(path, FIELD),), **options), path.parent / "out")
    return raised.value.message


def test_names_of_columns_that_are_no_text_spoil_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"\\ud800": 1}\n{"text": "good words"}\n["\\udfff"]\n')
    made = make(of(path), tmp_path / "out")
    assert texts_of(made) == ["good words"] and index_of(made)["dropped"] == {"NoText": 2}
    assert index_of(made)["shown"]["NoText"][0]["text"] == "got \\ud800"


@pytest.mark.parametrize("kind", ["dangling link", "pipe"])
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "in"
    write_rows(root / "a.jsonl", ["x"])
    if kind == "pipe":
        os.mkfifo(root / "b.jsonl")
    else:
        (root / "b.jsonl").symlink_to(root / "nowhere")
    assert "b.jsonl is neither a file nor a link to one" in refusal(root)


@pytest.mark.bad_input("B38")
@pytest.mark.parametrize(
    ("target", "said"), [("..", "leads out of in"), ("deep", "is a link to a directory")]
)
def test_a_link_to_a_directory_is_not_passed_over(tmp_path: Path, target: str, said: str) -> None:
    root = tmp_path / "in"
    write_rows(root / "deep" / "a.jsonl", ["x"])
    (root / "link").symlink_to(root / target)
    assert said in refusal(root)


@pytest.mark.bad_input("B39")
def test_a_parquet_file_that_expands_beyond_measure_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["x " * 50_000] * 400}), path)
    assert path.stat().st_size < 6000
    limits = Limits(row_bytes=1 << 20, expanded_bytes=1 << 40, ratio=100, ratio_floor_bytes=1 << 20)
    assert "a.parquet expands too far" in refusal(path, limits=limits)


@pytest.mark.parametrize("letters", ["x" * 101, "é" * 51, "😀" * 26])
def test_a_long_value_of_a_parquet_file_is_dropped(tmp_path: Path, letters: str) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["good", letters, letters[:25], "x" * 100]}), path)
    made = make(Recipe((Source(path, FIELD),), limits=Limits(row_bytes=100)), tmp_path / "out")
    assert texts_of(made) == ["good", letters[:25], "x" * 100]
    assert index_of(made)["dropped"] == {"LineTooLong": 1}


@pytest.mark.parametrize("column", ["text", "other"])
def test_damaged_letters_in_a_nested_column_are_no_traceback(tmp_path: Path, column: str) -> None:
    path = tmp_path / "a.parquet"
    raw = pa.array([b"good", b"\xff\xfe"], pa.binary())
    words = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    pq.write_table(pa.table({column: pa.ListArray.from_arrays([0, 1, 2], words)}), path)
    assert "no document of a.parquet can be used (got NoText 2" in refusal(path)


def test_a_dictionary_of_bytes_that_are_no_letters_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    raw = pa.array([b"good", b"\xff\xfe"], pa.binary())
    words = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    pq.write_table(pa.table({"text": pa.DictionaryArray.from_arrays([0, 1, 0], words)}), path)
    assert "a.parquet cannot be read to its end" in refusal(path)


def test_a_long_line_is_read_once_whatever_the_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from windlass_workloads.corpus import read

    path = write_rows(tmp_path / "a.jsonl", ["before"])
    with path.open("ab") as file:
        file.write(b'{"text": "' + b"x" * 1_000_000 + b'"}\n{"text": "after"}\n')
    monkeypatch.setattr(read, "BLOCK", 4096)
    total = 0
    real = read.Meter.add

    def add(self: Any, size: int) -> None:
        nonlocal total
        total += size
        real(self, size)

    monkeypatch.setattr(read.Meter, "add", add)
    limits = Limits(row_bytes=2000)
    made = make(Recipe((Source(path, FIELD),), piece_bytes=5000, limits=limits), tmp_path / "out")
    assert texts_of(made) == ["before", "after"] and index_of(made)["dropped"] == {"LineTooLong": 1}
    assert total < 4 * path.stat().st_size


def test_a_disk_that_is_full_is_told_on_one_line(tmp_path: Path, rows: Path) -> None:
    program = (
        "import errno, sys\nfrom windlass_workloads.corpus import __main__ as command\n"
        "def full(*_, **__): raise OSError(errno.ENOSPC, 'No space left on device')\n"
        "command.make = full\nsys.exit(command.main(sys.argv[1:]))\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program, str(rows), "--output", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "No space left on device. hint: what was made so far is kept" in done.stderr
