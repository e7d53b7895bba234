"""Quotas, crowded stores and strange names: what the primitives of a store do at their edges."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass_workloads.checkpoint import choose, incarnations
from windlass_workloads.checkpoint import manifest as manifests
from windlass_workloads.checkpoint.errors import (
    CheckpointUnusable,
    Fenced,
    SaveError,
    StoreUnusable,
    is_full,
)
from windlass_workloads.checkpoint.retention import purge, retain
from windlass_workloads.checkpoint.store import (
    TRASH,
    RunStore,
    checkpoint_name,
    parse_checkpoint_name,
    sync_directory,
)
from windlass_workloads.checkpoint.trash import discard, discarded_at, restore
from workloads.checkpoint.support import commit, incarnation, manifest_of, write_files

ROOT = Path(__file__).resolve().parents[3]


# --- a quota ------------------------------------------------------------------------------------------------

UNDER_QUOTA = """
import resource, signal, sys
from windlass_workloads.checkpoint.store import RunStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
store = RunStore(sys.argv[1])
store.write("small", b"x" * 4096)
store.append_line("rows.jsonl", {"a": 1})
for name, act in {
    "write": lambda: store.write("small", b"y" * 5000),
    "create": lambda: store.create("new", b"y" * 5000),
    "append": lambda: store.append_line("rows.jsonl", {"a": "y" * 5000}),
}.items():
    try:
        act()
    except OSError as error:
        print(name, error.errno)
store.append_line("rows.jsonl", {"a": 2}) if sys.argv[2] == "room" else None
"""


@pytest.mark.fault("F56")
def test_a_write_cut_short_by_a_quota_changes_nothing(tmp_path: Path) -> None:
    paths = os.pathsep.join(str(ROOT / name) for name in ("operator", "workloads"))
    done = subprocess.run(
        [sys.executable, "-c", UNDER_QUOTA, str(tmp_path), "full"],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == [
        word for name in ("write", "create", "append") for word in (name, str(errno.EFBIG))
    ]
    store = RunStore(tmp_path)
    assert store.read("small") == b"x" * 4096, "the old content stays whole"
    assert not store.exists("new")
    assert store.read_lines("rows.jsonl") == [{"a": 1}]
    assert sorted(os.listdir(tmp_path)) == ["rows.jsonl", "small"], "no temporary file is left"
    store.append_line("rows.jsonl", {"a": 2})
    assert store.read_lines("rows.jsonl") == [{"a": 1}, {"a": 2}], "the torn row hides no other"


# --- rows ---------------------------------------------------------------------------------------------------


@given(rows=st.lists(st.dictionaries(st.text(max_size=8), st.integers(), max_size=3), max_size=8))
@settings(max_examples=30, deadline=None)
def test_rows_come_back_in_order(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, int]]
) -> None:
    store = RunStore(tmp_path_factory.mktemp("rows"))
    for row in rows:
        store.append_line("rows.jsonl", row)
    assert store.read_lines("rows.jsonl") == rows


@pytest.mark.parametrize("cut", range(1, 24))
def test_a_file_torn_at_any_byte_loses_the_torn_row_only(tmp_path: Path, cut: int) -> None:
    store = RunStore(tmp_path)
    for number in (1, 2):
        store.append_line("rows.jsonl", {"number": number})
    data = store.read("rows.jsonl")
    store.path("rows.jsonl").write_bytes(data[:-cut])
    kept = 2 - (cut > 1) - (cut > 1 + len(data) // 2)
    found = store.read_lines("rows.jsonl")
    assert found[:kept] == [{"number": number} for number in range(1, kept + 1)]
    store.append_line("rows.jsonl", {"number": 3})
    assert store.read_lines("rows.jsonl")[-1] == {"number": 3}
    assert {"number": 1} in store.read_lines("rows.jsonl") or kept == 0


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b"",
        b"\n\n",
        b"[]\n",
        b'"text"\n',
        b"\xff\xfe\n",
        b"{\n",
        b"null\n",
        b"1\n{}x\n",
        b"\0" * 50,
    ],
)
def test_what_is_no_row_is_left_out(tmp_path: Path, content: bytes) -> None:
    store = RunStore(tmp_path)
    store.write("rows.jsonl", content)
    assert store.read_lines("rows.jsonl") == []
    store.append_line("rows.jsonl", {"a": 1})
    assert store.read_lines("rows.jsonl") == [{"a": 1}]


def test_rows_of_several_writers_do_not_mix(tmp_path: Path) -> None:
    store = RunStore(tmp_path)

    def write(base: int) -> None:
        for number in range(40):
            store.append_line("rows.jsonl", {"number": base + number, "text": "x" * 300})

    threads = [threading.Thread(target=write, args=(1000 * index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [row["number"] for row in store.read_lines("rows.jsonl")]
    assert sorted(found) == [1000 * index + number for index in range(4) for number in range(40)]


# --- exclusive create -----------------------------------------------------------------------------------------


def test_of_many_that_create_one_file_one_does_and_its_content_is_whole(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    barrier, won = threading.Barrier(8), []

    def race(number: int) -> None:
        barrier.wait()
        if store.create("prize", b"%d" % number * 1000):
            won.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = won
    assert store.read("prize") == b"%d" % winner * 1000
    assert sorted(os.listdir(tmp_path)) == ["prize"]


def test_a_link_that_was_made_although_the_answer_says_otherwise_counts_as_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A network file system repeats a request whose first answer was lost.
    link = os.link

    def twice(source: Any, target: Any) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", twice)
    assert RunStore(tmp_path).create("file", b"x")
    assert not RunStore(tmp_path).create("file", b"y")
    assert RunStore(tmp_path).read("file") == b"x"


@pytest.mark.parametrize("number", [errno.EPERM, errno.EROFS, errno.EMLINK, errno.ENOSPC, errno.EIO])
def test_a_link_that_fails_otherwise_is_an_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(OSError, match=os.strerror(number)):
        RunStore(tmp_path).create("file", b"x")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "raised"),
    [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EBADF, False), (errno.EIO, True)],
)
def test_directories_that_cannot_be_synced_are_left_as_they_are_but_a_bad_disk_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, raised: bool
) -> None:
    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    if raised:
        with pytest.raises(OSError, match="Input/output"):
            sync_directory(tmp_path)
    else:
        sync_directory(tmp_path)


# --- moving, removing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "target", "moved"),
    [
        ("file", "new", True),
        ("file", "folder/new", True),
        ("file", "other", False),
        ("gone", "new", False),
        ("full", "new", True),
        ("full", "empty", False),
        ("full", "other", False),
        ("file", "dangling", False),
    ],
)
def test_a_move_never_replaces_anything(tmp_path: Path, source: str, target: str, moved: bool) -> None:
    store = RunStore(tmp_path)
    for name in ("file", "other"):
        store.write(name, name.encode())
    (store.make("full") / "inside").write_bytes(b"x")
    store.make("empty")
    (tmp_path / "dangling").symlink_to("nowhere")
    assert store.move(source, target) is moved
    assert store.read("other") == b"other"
    if moved:
        assert not os.path.lexists(tmp_path / source) and os.path.lexists(tmp_path / target)


def test_removing_follows_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"x")
    store = RunStore(tmp_path / "run")
    (store.make("folder") / "link").symlink_to(outside)
    store.path("direct").symlink_to(outside)
    store.remove("folder")
    store.remove("direct")
    store.remove("gone")
    assert (outside / "precious").read_bytes() == b"x"
    assert store.names("") == []


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../b", "", ".", "a//b", "a\nb"])
@pytest.mark.parametrize(
    "operation", ["read", "write", "create", "exists", "move", "remove", "make", "append_line"]
)
def test_no_operation_leaves_the_store(tmp_path: Path, operation: str, path: str) -> None:
    store = RunStore(tmp_path / "run")
    more: dict[str, tuple[Any, ...]] = {
        "write": (b"x",),
        "create": (b"x",),
        "move": ("target",),
        "append_line": ({"a": 1},),
    }
    with pytest.raises(ValueError, match="path: leaves its directory or is not plain"):
        getattr(store, operation)(path, *more.get(operation, ()))
    assert sorted(os.listdir(tmp_path)) in ([], ["run"])


# --- names ------------------------------------------------------------------------------------------------------


@given(step=st.integers(0, 10**12 - 1), number=st.integers(1, 10**8 - 1))
@settings(max_examples=60, deadline=None)
def test_a_name_says_step_and_incarnation(step: int, number: int) -> None:
    assert parse_checkpoint_name(checkpoint_name(step, number)) == (step, number)


@given(text=st.text(max_size=30))
@settings(max_examples=60, deadline=None)
def test_what_a_name_says_is_what_would_be_named_so(text: str) -> None:
    key = parse_checkpoint_name(text)
    if key is not None:
        assert text.isascii() and text.startswith("step-")


@pytest.mark.parametrize(
    "name",
    [
        "step-00000010.i²",
        "step-0000001٣.i1",
        "step-00000010.i1\n",
        "STEP-00000010.i1",
        "step-00000010.i1.tmp",
    ],
)
def test_letters_that_look_alike_are_no_checkpoint(name: str) -> None:
    assert parse_checkpoint_name(name) is None


# --- the trash ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "since"),
    [("100~step-00000010.i1", 100), ("100~x~1", 100), ("x~y", None), ("", None), ("~", None), ("²~x", None)],
)
def test_an_entry_says_when_it_came(entry: str, since: int | None) -> None:
    assert discarded_at(entry) == since


def test_the_newest_of_several_comes_back(store: RunStore) -> None:
    for number, now in enumerate((9.0, 100.0, 20.0)):
        (store.make("step-00000010.i1") / "file").write_bytes(b"%d" % number)
        assert discard(store, "step-00000010.i1", now=now)
    assert restore(store, "step-00000010.i1")
    assert store.read("step-00000010.i1/file") == b"1", "by time, not by letters"


def test_strange_things_in_the_trash_disturb_nothing(store: RunStore) -> None:
    for entry in ("strange", "x~step-00000010.i1", "²~y", "5"):
        store.make(f"{TRASH}/{entry}")
    store.write(f"{TRASH}/7~file", b"x")
    assert not restore(store, "step-00000099.i1")
    removed = purge(store, incarnation=1, delay_seconds=0.0, clock=lambda: 1e9)
    assert removed == ["5", "7~file"]
    assert store.names(TRASH) == ["strange", "x~step-00000010.i1", "²~y"]


@pytest.mark.parametrize("kept", [1, 2, 5])
def test_retention_and_purge_never_take_what_counts(store: RunStore, kept: int) -> None:
    names = [commit(store, step, 1) for step in range(10, 80, 10)]
    retain(store, incarnation=1, keep_last=kept, clock=lambda: 100.0)
    purge(store, incarnation=1, clock=lambda: 100.0 + 601.0)
    assert store.list_checkpoints() == names[::-1][:kept]
    assert store.names(TRASH) == []
    assert choose.choose(store, incarnations.newest(store), "Latest").name == names[-1]


def test_a_purge_stops_where_a_takeover_happens(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        store.make(f"{TRASH}/{number}~step-0000001{number}.i1")
    remove = store.remove

    def remove_then_takeover(relative: str) -> None:
        remove(relative)
        incarnations.claim(RunStore(store.root), incarnation(2))

    monkeypatch.setattr(store, "remove", remove_then_takeover)
    with pytest.raises(Fenced):
        purge(store, incarnation=1, delay_seconds=0.0, clock=lambda: 1e9)
    assert len(store.names(TRASH)) == 3


# --- incarnations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b'{"incarnation": 2}', b'{"incarnation": "two"}', b"null"]
)
def test_an_incarnation_that_cannot_be_read_stops_everybody(store: RunStore, content: bytes) -> None:
    store.path("incarnations/00000002.json").write_bytes(content)
    for act in (
        lambda: incarnations.newest(store),
        lambda: retain(store, incarnation=1, keep_last=1),
        lambda: manifests.commit(store, "step-00000010.i1", manifest_of(store, 10, 1)),
    ):
        if not store.exists("step-00000010.i1"):
            write_files(store, 10, 1)
        with pytest.raises(StoreUnusable, match=r"incarnations/00000002\.json: not a readable incarnation"):
            act()


@pytest.mark.parametrize("names", [[], ["00000001.json"], ["notes.txt", "x.json", "٣.json", ".json"]])
def test_a_listing_that_lies_is_not_believed(
    store: RunStore, monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    for number in (2, 3, 4):
        assert incarnations.claim(store, incarnation(number))
    monkeypatch.setattr(store, "names", lambda folder: names)
    found = incarnations.newest(store)
    assert found is not None and found.incarnation == 4


def test_a_gap_cannot_hide_what_a_listing_shows(store: RunStore) -> None:
    assert incarnations.claim(store, incarnation(2))
    assert incarnations.claim(store, incarnation(3))
    store.remove("incarnations/00000002.json")
    found = incarnations.newest(store)
    assert found is not None and found.incarnation == 3


# --- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "x"), True),
        (OSError(errno.EDQUOT, "x"), True),
        (OSError(errno.EIO, "x"), False),
        (OSError("no number"), False),
        (RuntimeError("No space left on device"), False),
        (MemoryError(), False),
    ],
)
def test_whether_space_was_the_reason(error: BaseException, full: bool) -> None:
    assert is_full(error) is full
    outer = RuntimeError("wrapped")
    outer.__cause__ = error
    assert is_full(outer) is full
    context = ValueError("while handling")
    context.__context__ = outer
    assert is_full(context) is full


def test_errors_tell_what_they_know() -> None:
    fenced = Fenced(mine=3, newest=5, action="commit step-00000010.i3")
    assert (fenced.mine, fenced.newest) == (3, 5)
    assert str(fenced) == (
        "fenced: incarnation 3 may not commit step-00000010.i3, incarnation 5 has taken over"
    )
    unusable = CheckpointUnusable("n", "m", hint="h", evidence=[str(number) for number in range(20)])
    assert str(unusable) == "checkpoint n: m. hint: h"
    assert len(unusable.evidence) == 8
    assert SaveError("x").full is False and SaveError("x", full=True).full is True
