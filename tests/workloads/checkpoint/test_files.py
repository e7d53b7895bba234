"""Files are hashed while they are written, and say why they could not be."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import IO

import pytest
import torch

from windlass_workloads.checkpoint import manifest as manifests
from windlass_workloads.checkpoint.files import HashingFileSystem, hash_written
from windlass_workloads.checkpoint.staging import Staging


def test_the_entry_is_that_of_the_file(tmp_path: Path) -> None:
    files = HashingFileSystem(tmp_path)
    with files.create_stream(tmp_path / "a.tmp", "wb") as stream:
        torch.save(torch.arange(1000.0), stream)
        assert stream.tell() > 4000
        assert stream.writable()
    files.rename(tmp_path / "a.tmp", tmp_path / "a")
    assert files.entries == {"a": manifests.entry_of(tmp_path, "a")}
    assert torch.equal(torch.load(tmp_path / "a", weights_only=True), torch.arange(1000.0))


@pytest.mark.fault("F56")
@pytest.mark.parametrize("size", [10, 1_000_000], ids=["on flush", "on write"])
def test_a_full_device_is_remembered_and_leaves_no_entry(tmp_path: Path, size: int) -> None:
    def full(path: Path, mode: str) -> IO[bytes]:
        return Path("/dev/full").open(mode)

    files = HashingFileSystem(tmp_path, full)
    with pytest.raises(OSError, match="No space left"), files.create_stream(tmp_path / "a", "wb") as stream:
        stream.write(bytes(size))
    assert files.entries == {}
    assert files.error is not None
    assert files.error.errno == errno.ENOSPC


def test_only_own_files_of_an_engine_are_hashed(tmp_path: Path) -> None:
    for path in ("tag/one", "tag/two", "three"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(path.encode())
    entries = hash_written(tmp_path, lambda path: path != "tag/two")
    assert entries == [manifests.entry_of(tmp_path, "tag/one"), manifests.entry_of(tmp_path, "three")]


def test_a_staged_copy_is_independent_and_its_buffers_are_kept() -> None:
    staging = Staging()
    live = {"model": {"w": torch.ones(3)}, "steps": [torch.zeros(2), 5], "text": "x"}
    first = staging.copy(live)
    live["model"]["w"].fill_(9)  # type: ignore[index]
    assert first["model"]["w"].tolist() == [1, 1, 1]
    assert (first["steps"][1], first["text"]) == (5, "x")
    second = staging.copy(live)
    assert second["model"]["w"].data_ptr() == first["model"]["w"].data_ptr()
    assert second["model"]["w"].tolist() == [9, 9, 9]
    grown = staging.copy({"model": {"w": torch.ones(5)}})
    assert grown["model"]["w"].shape == (5,)
