"""The store's operations are atomic, durable, exclusive, and stay inside their root."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from windlass_workloads.checkpoint.errors import StoreUnusable, full_text, is_full
from windlass_workloads.checkpoint.store import (
    RunStore,
    check_relative,
    checkpoint_name,
    parse_checkpoint_name,
)


def test_checkpoint_names_sort_by_step_and_incarnation(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    for step, number in ((120, 3), (20, 1), (120, 12), (1_000_000_000, 2)):
        store.make(checkpoint_name(step, number))
    store.make("prepared")
    store.make("step-12.i1")
    (tmp_path / ".tmp-left").write_bytes(b"")
    assert [parse_checkpoint_name(name) for name in store.list_checkpoints()] == [
        (1_000_000_000, 2),
        (120, 12),
        (120, 3),
        (20, 1),
    ]


@pytest.mark.parametrize(
    "name", ["step-120.i3", "step-00000120.e3", "step-00000120.i3/", "xstep-00000120.i3", ""]
)
def test_other_names_are_not_checkpoints(name: str) -> None:
    assert parse_checkpoint_name(name) is None


@pytest.mark.parametrize(
    "path", ["../x", "a/../../x", "/etc/passwd", "", ".", "a//b", "./a", "a\\b", "a\nb", "a/", "a\0"]
)
def test_paths_out_of_the_store_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(
        ValueError, match=r"path: leaves its directory or is not plain \(got .*\); allowed a relative"
    ):
        check_relative(path)
    with pytest.raises(ValueError, match="allowed a relative path"):
        RunStore(tmp_path).write(path, b"")


def test_create_makes_a_file_once(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    assert store.create("gang.key", b"first", mode=0o600)
    assert not store.create("gang.key", b"second")
    assert store.read("gang.key") == b"first"
    assert (tmp_path / "gang.key").stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["gang.key"]


def test_create_counts_a_link_that_the_server_repeated_as_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def twice(source: Path, target: Path) -> None:
        link(source, target)
        raise FileExistsError(errno.EEXIST, "exists")

    monkeypatch.setattr(os, "link", twice)
    assert RunStore(tmp_path).create("file", b"mine")


def test_only_one_of_many_racing_creators_wins(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    barrier = threading.Barrier(8)
    won: list[int] = []

    def race(number: int) -> None:
        barrier.wait()
        if store.create("incarnations/00000001.json", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.read("incarnations/00000001.json") == str(won[0]).encode()


def test_write_replaces_as_a_whole_and_a_failed_one_leaves_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RunStore(tmp_path)
    store.write("file", b"old")
    store.write("file", b"new")
    assert store.read("file") == b"new"

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="no space"):
        store.write("file", b"newer")
    assert store.read("file") == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_move_says_whether_it_happened(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.make("a")
    (store.make("b") / "x").write_bytes(b"")
    assert store.move("a", "trash/a")
    assert not store.move("a", "trash/a2")
    store.make("a")
    assert not store.move("a", "b")
    assert not store.move("missing", "there")


def test_remove_takes_directories_files_and_nothing(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    (store.make("d/e") / "x").write_bytes(b"")
    store.write("f", b"")
    for path in ("d", "f", "gone"):
        store.remove(path)
        assert not store.exists(path)


def test_remove_of_a_link_keeps_its_target(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "store")
    outside = tmp_path / "outside"
    outside.mkdir()
    store.make("d")
    (store.root / "link").symlink_to(outside)
    assert not store.exists("link")
    store.remove("link")
    assert outside.is_dir()


def test_lines_survive_a_torn_end(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.append_line("logs/timeline.jsonl", {"a": 1})
    store.append_line("logs/timeline.jsonl", {"a": 2})
    with (tmp_path / "logs/timeline.jsonl").open("ab") as out:
        out.write(b'[1]\n{"a": 3')
    assert store.read_lines("logs/timeline.jsonl") == [{"a": 1}, {"a": 2}]
    assert store.read_lines("missing.jsonl") == []


def test_probe_makes_the_layout_and_leaves_nothing_behind(tmp_path: Path) -> None:
    RunStore(tmp_path / "run").probe()
    assert sorted(os.listdir(tmp_path / "run")) == ["incarnations", "trash"]


def test_probe_refuses_a_store_without_exclusive_create(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", os.replace)
    with pytest.raises(StoreUnusable) as caught:
        RunStore(tmp_path).probe()
    assert str(caught.value) == (
        "spec.checkpoint.store: the store does not honour exclusive create (got created twice: True); "
        "allowed a file system where making an existing file fails. hint: use another storage class."
    )


def test_probe_refuses_a_store_that_cannot_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StoreUnusable) as caught:
        RunStore(tmp_path).probe()
    assert str(caught.value) == (
        "spec.checkpoint.store: the store cannot be used (got [Errno 1] Operation not permitted); allowed a "
        "writable file system with hard links. hint: check the claim's access mode, free space and the pod's "
        "fsGroup."
    )
    assert sorted(os.listdir(tmp_path)) == ["incarnations", "trash"]


def test_a_full_volume_is_recognised_through_causes() -> None:
    try:
        try:
            raise OSError(errno.EDQUOT, "quota")
        except OSError as error:
            raise RuntimeError("write failed") from error
    except RuntimeError as error:
        assert is_full(error)
    assert not is_full(OSError(errno.EIO, "bad disk"))
    assert full_text("step-00000004.i1").startswith(
        "spec.checkpoint.store: the volume is full (got ENOSPC writing step-00000004.i1); allowed any size"
    )
