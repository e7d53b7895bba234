"""Preparing data may stop anywhere: nothing half made ever counts, and the next try makes the same."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import write_data
from windlass.api.meta import FailureClass, Reason
from windlass.api.training import Data
from windlass_workloads.data import arrays
from windlass_workloads.data.errors import StopRequested, WorkloadError
from windlass_workloads.data.prepare import Preparation, fraction_of, prepare
from windlass_workloads.data.sources import Finder, Roots
from workloads.checkpoint.faulty import Disk, Killed

ROWS = 12


class Letters:
    """A tokenizer of letters: quick, and without a library."""

    eos_token = "\n"
    eos_token_id = 0

    def __call__(self, text: str, **options: Any) -> dict[str, Any]:
        found: dict[str, Any] = {"input_ids": [ord(letter) for letter in text]}
        if options.get("return_offsets_mapping"):
            found["offset_mapping"] = [(place, place + 1) for place in range(len(text))]
        return found

    def apply_chat_template(self, conversation: Any, **options: Any) -> str:
        text = "".join(f"{each['role']}:{each['content']}\n" for each in conversation)
        return text + "assistant:" * bool(options.get("add_generation_prompt"))


def work(root: Path, **changes: Any) -> Preparation:
    volume = root / "volumes" / "data"
    if not volume.exists():
        write_data(volume / "train.jsonl", count=ROWS)
    plain: dict[str, Any] = {
        "data": Data.model_validate(
            {
                "sources": [{"uri": "pvc://data/train.jsonl"}],
                "sequenceLength": 256,
                **changes.pop("settings", {}),
            }
        ),
        "seed": 17,
        "tokenizer": Letters(),
        "tokenizer_digest": "letters",
        "finder": Finder(Roots(root / "volumes", root), root / "cache"),
        "directory": root / "prepared",
    }
    return Preparation(**{**plain, **changes})


def names(root: Path) -> list[str]:
    folder = root / "prepared"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def whole(root: Path) -> list[str]:
    return [name for name in names(root) if arrays.read_index(root / "prepared" / name) is not None]


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> arrays.Index:
    return prepare(work(tmp_path_factory.mktemp("wanted")))


# --- crashes ------------------------------------------------------------------------------------------------------


def operations(root: Path) -> int:
    prepared = work(root)
    with Disk(root / "prepared") as disk:
        prepare(prepared)
    return disk.count


@pytest.mark.fault("F53")
def test_a_kill_at_any_operation_leaves_nothing_that_counts_or_the_whole(
    tmp_path: Path, wanted: arrays.Index
) -> None:
    total = operations(tmp_path / "all")
    assert total > 30
    for number in range(1, total + 1):
        root = tmp_path / f"killed-{number}"
        mine = work(root)
        with Disk(root / "prepared", die_at=number), pytest.raises(Killed):
            prepare(mine)
        assert whole(root) in ([], [wanted.name], [name for name in names(root) if name.startswith(".")])
        if whole(root) == [wanted.name]:
            assert arrays.digest_of(root / "prepared" / wanted.name)[0] == wanted.digest
        assert prepare(work(root)) == wanted
        assert arrays.digest_of(root / "prepared" / wanted.name)[0] == wanted.digest


@pytest.mark.fault("F56")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_at_any_operation_is_told_and_leaves_nothing_that_counts(
    tmp_path: Path, wanted: arrays.Index, number: int
) -> None:
    total = operations(tmp_path / "all")
    for position in range(1, total + 1):
        root = tmp_path / f"failed-{position}"
        mine = work(root)
        with Disk(root / "prepared", fail_at=position, number=number):
            try:
                found = prepare(mine)
            except OSError as error:
                assert error.errno == number
            else:
                assert found == wanted
        assert set(whole(root)) <= {wanted.name}
        assert prepare(work(root)) == wanted


def test_what_a_killed_process_left_half_made_does_not_fill_the_volume(
    tmp_path: Path, wanted: arrays.Index
) -> None:
    for process in (7, 99_999_999):
        left = tmp_path / "prepared" / f".{wanted.name}.{process}" / "train"
        left.mkdir(parents=True)
        (left / "tokens.bin").write_bytes(b"x" * 1000)
    assert prepare(work(tmp_path)) == wanted
    assert names(tmp_path) == [wanted.name]


def test_two_that_prepare_at_once_end_with_one(tmp_path: Path, wanted: arrays.Index) -> None:
    # The other one, of a zombie's rank, is done first: this one finds its work there when it wants to publish.
    root = tmp_path
    prepare(work(root))
    final = root / "prepared" / wanted.name
    again = root / "prepared" / ".again"
    final.rename(root / "prepared" / "kept")
    rename = Path.rename

    def overtaken(self: Path, target: Path) -> Path:
        if self == again:
            rename(root / "prepared" / "kept", final)
        return rename(self, target)

    again.mkdir()
    (again / "x").write_bytes(b"x")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", overtaken)
        arrays.publish(again, final)
    assert names(root) == [wanted.name]
    assert arrays.read_index(final) == wanted


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_stop_leaves_nothing_and_is_heard_soon(tmp_path: Path, after: int) -> None:
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) > after:
            raise StopRequested

    write_data(tmp_path / "volumes" / "data" / "train.jsonl", count=300)
    with pytest.raises(StopRequested):
        prepare(work(tmp_path, check=check))
    assert names(tmp_path) == []
    assert len(calls) == after + 1


# --- what is not whole ---------------------------------------------------------------------------------------------

BREAKS: list[tuple[str, Callable[[Path], Any]]] = [
    ("no marker", lambda folder: (folder / arrays.INDEX).unlink()),
    ("an empty marker", lambda folder: (folder / arrays.INDEX).write_text("")),
    ("a marker cut off", lambda folder: (folder / arrays.INDEX).write_text('{"name": "x"')),
    ("a marker of words", lambda folder: (folder / arrays.INDEX).write_text('"x"')),
    ("a marker of a list", lambda folder: (folder / arrays.INDEX).write_text("[1]")),
    ("a marker without fields", lambda folder: (folder / arrays.INDEX).write_text("{}")),
    ("a field more", lambda folder: change(folder, mood="fine")),
    ("another format", lambda folder: change(folder, format=arrays.FORMAT + 1)),
    ("a file missing", lambda folder: (folder / "train" / "offsets.bin").unlink()),
    ("a file shorter", lambda folder: (folder / "train" / "tokens.bin").write_bytes(b"1234")),
    ("a file empty", lambda folder: (folder / "train" / "learned.bin").write_bytes(b"")),
    ("a folder for a file", lambda folder: swap(folder / "train" / "members.bin")),
]


def change(folder: Path, **fields: Any) -> None:
    path = folder / arrays.INDEX
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def swap(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [row[1] for row in BREAKS], ids=[row[0] for row in BREAKS])
def test_what_is_not_whole_does_not_count_and_is_made_again(
    tmp_path: Path, wanted: arrays.Index, damage: Callable[[Path], Any]
) -> None:
    prepare(work(tmp_path))
    folder = tmp_path / "prepared" / wanted.name
    damage(folder)
    assert arrays.read_index(folder) is None
    with pytest.raises(WorkloadError) as caught:
        arrays.open_prepared(folder)
    assert (caught.value.reason, caught.value.failure_class) == (Reason.DATA_NOT_FOUND, FailureClass.STORAGE)
    assert prepare(work(tmp_path)) == wanted
    assert arrays.open_prepared(folder) == wanted


# --- the name is a digest of everything ----------------------------------------------------------------------------

CHANGES: list[tuple[str, dict[str, Any], bool]] = [
    ("nothing", {}, True),
    ("the directory's own settings", {"check": lambda: None}, True),
    ("the seed", {"seed": 18}, False),
    ("the tokenizer", {"tokenizer_digest": "other"}, False),
    ("the length", {"settings": {"sequenceLength": 128}}, False),
    ("packing", {"settings": {"packing": True}}, False),
    ("the loss", {"settings": {"lossOn": "All"}}, False),
    ("validation", {"settings": {"validation": {"fraction": "0.5"}}}, False),
    ("a weight", {"settings": {"sources": [{"uri": "pvc://data/train.jsonl", "weight": "2"}]}}, False),
]


@pytest.mark.parametrize(("changes", "same"), [row[1:] for row in CHANGES], ids=[row[0] for row in CHANGES])
def test_the_name_changes_with_whatever_the_arrays_depend_on(
    tmp_path: Path, wanted: arrays.Index, changes: dict[str, Any], same: bool
) -> None:
    index = prepare(work(tmp_path, **changes))
    assert (index.name == wanted.name) is same
    assert (index.digest == wanted.digest) or not same


def test_the_name_follows_the_contents_and_not_the_files_age(tmp_path: Path, wanted: arrays.Index) -> None:
    mine = work(tmp_path)
    path = tmp_path / "volumes" / "data" / "train.jsonl"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    assert prepare(mine).name == wanted.name
    path.write_bytes(content + b'{"messages": [{"role": "assistant", "content": "more"}]}\n')
    again = prepare(work(tmp_path))
    assert again.name != wanted.name and again.train_samples == wanted.train_samples + 1


# --- what is in the arrays --------------------------------------------------------------------------------------------


def test_arrays_hold_what_the_rows_said(tmp_path: Path, wanted: arrays.Index) -> None:
    mine = work(tmp_path)
    prepare(mine)
    split = arrays.open_split(tmp_path / "prepared" / wanted.name / "train")
    lines = (tmp_path / "volumes" / "data" / "train.jsonl").read_text().splitlines()
    texts = []
    for unit in range(len(split)):
        ((tokens, learned),) = split.samples_of(unit)
        texts.append("".join(chr(token) for token in tokens))
        spoken = "".join(chr(token) for token, wanted in zip(tokens, learned, strict=True) if wanted)
        answer = json.loads(lines[unit])["messages"][1]["content"]
        assert spoken == f"{answer}\n"
    assert len(texts) == ROWS
    assert texts[0] == Letters().apply_chat_template(json.loads(lines[0])["messages"])
    assert [int(length) for length in split.unit_lengths] == [len(text) for text in texts]
    assert int(split.unit_targets.sum()) == sum(
        len(json.loads(line)["messages"][1]["content"]) + 1 for line in lines
    )


def test_no_chance_is_left_to_chance() -> None:
    shares = [float(fraction_of(b"%d" % number)) for number in range(2000)]
    assert all(0 <= share < 1 for share in shares)
    assert 0.45 < sum(shares) / len(shares) < 0.55
    assert fraction_of(b"x") == fraction_of(b"x") != fraction_of(b"y")
