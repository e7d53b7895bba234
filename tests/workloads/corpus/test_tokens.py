"""From texts to tokens: the tokenizer's own, one text after the other, and some of them held out by what they say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from windlass_workloads.corpus import tokens
from windlass_workloads.corpus.stages import INDEX
from windlass_workloads.corpus.tasks import REPORT, perform, perform_all, report_of
from windlass_workloads.corpus.tokens import HELD_OUT, TRAIN, Tokenise, batches, tasks_of
from windlass_workloads.data.errors import WorkloadError
from windlass_workloads.data.prepare import file_digest
from workloads.corpus.texts import text

COUNT = 90
TEXTS = [
    *(text(5 + number % 40, number) for number in range(COUNT - 3)),
    "[SEP] in between",
    "ÄÖ 你好 🙂",
    "a",
]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Directories of a tokenizer with an end of text, and of one that frames what it reads."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    found = {}
    for framed in (False, True):
        made: Any = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=["<end>", "[CLS]", "[SEP]", "[MASK]"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        made.train_from_iterator(TEXTS, trainer)
        if framed:
            made.post_processor = processors.TemplateProcessing(
                single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
            )
            # As tokenizers of sentence models come: what would cut texts must not.
            made.enable_truncation(16)
            made.enable_padding(length=16)
        names = {"mask_token": "[MASK]", "pad_token": "[MASK]"} if framed else {"eos_token": "<end>"}
        directory = tmp_path_factory.mktemp("tokenizer")
        PreTrainedTokenizerFast(tokenizer_object=made, **names).save_pretrained(directory)
        found[framed] = directory
    return found


def write_corpus(directory: Path, shards: list[list[str]], group: int = 7) -> Path:
    """A corpus as the last stage leaves it; each shard is of a source of its own."""
    directory.mkdir(parents=True)
    named = []
    for number, texts in enumerate(shards):
        name = f"{number:06d}.parquet"
        pq.write_table(
            pa.table({"text": pa.array(texts, pa.string())}), directory / name, row_group_size=group
        )
        named.append({"name": name, "source": number, "sha256": file_digest(directory / name)})
    (directory / INDEX).write_text(json.dumps({"shards": named}))
    return directory


def tasks(root: Path, shards: list[list[str]], tokenizer: Path, **changes: Any) -> list[Tokenise]:
    corpus = root / "corpus" if (root / "corpus").exists() else write_corpus(root / "corpus", shards)
    return tasks_of(
        corpus, root / "working", **{"tokenizer": tokenizer, "fraction": "0", "framed": False, **changes}
    )


def ids_of(made: list[Tokenise], name: str) -> list[int]:
    return [int(token) for task in made for token in np.fromfile(task.directory / name, dtype=np.int32)]


def each_by_itself(tokenizer: Path, texts: list[str], *, framed: bool) -> list[list[int]]:
    from tokenizers import Tokenizer

    plain = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    plain.no_truncation()
    plain.no_padding()
    plain.encode_special_tokens = True
    ends = [] if framed else [plain.token_to_id("<end>")]
    return [plain.encode(one, add_special_tokens=framed).ids + ends for one in texts]


@pytest.mark.parametrize("framed", [False, True])
@pytest.mark.parametrize("at_a_time", [1, 16, 256])
def test_tokens_are_the_tokenizers_own_text_after_text(
    tmp_path: Path,
    tokenizers: dict[bool, Path],
    monkeypatch: pytest.MonkeyPatch,
    framed: bool,
    at_a_time: int,
) -> None:
    monkeypatch.setattr(tokens, "BATCH_TEXTS", at_a_time)
    made = tasks(tmp_path, [TEXTS[:50], TEXTS[50:]], tokenizers[framed], framed=framed)
    perform_all(made, 1)
    wanted = each_by_itself(tokenizers[framed], TEXTS, framed=framed)
    assert ids_of(made, TRAIN) == [token for ids in wanted for token in ids]
    assert ids_of(made, HELD_OUT) == []
    if framed:
        assert all(ids[0] == 1 and ids[-1] == 2 for ids in wanted)
    for task, texts in zip(made, (wanted[:50], wanted[50:]), strict=True):
        assert report_of(task) == {
            "texts": len(texts),
            "train": sum(map(len, texts)),
            "heldOut": 0,
            "source": task.source,
        }
    assert [task.source for task in made] == [0, 1]


def held_out(
    root: Path, shards: list[list[str]], tokenizer: Path, fraction: str, workers: int = 1
) -> set[str]:
    """The texts that are held out; everything else is there to train on."""
    made = tasks(root, shards, tokenizer, fraction=fraction)
    if workers > 1:
        from windlass_workloads.corpus.tasks import crew

        with crew(workers):
            perform_all(made, workers)
    else:
        perform_all(made, 1)
    every = {
        tuple(ids): one
        for one, ids in zip(TEXTS, each_by_itself(tokenizer, TEXTS, framed=False), strict=True)
    }
    end = each_by_itself(tokenizer, [""], framed=False)[0][0]
    found: dict[str, list[str]] = {}
    for name in (TRAIN, HELD_OUT):
        ids: list[int] = []
        found[name] = []
        for token in ids_of(made, name):
            ids.append(token)
            if token == end:
                found[name].append(every[tuple(ids)])
                ids = []
        assert not ids
    wanted = [one for texts in shards for one in texts]
    assert sorted(found[TRAIN] + found[HELD_OUT]) == sorted(wanted)
    return set(found[HELD_OUT])


def test_which_texts_are_held_out_follows_from_each_text_alone(
    tmp_path: Path, tokenizers: dict[bool, Path]
) -> None:
    plain, few = tokenizers[False], TEXTS[:COUNT:3]
    whole = held_out(tmp_path / "whole", [TEXTS], plain, "0.3")
    assert 10 <= len(whole) <= 45
    assert held_out(tmp_path / "turned", [TEXTS[::-1]], plain, "0.3") == whole
    assert held_out(tmp_path / "shards", [TEXTS[:9], TEXTS[9:40], TEXTS[40:]], plain, "0.3") == whole
    assert held_out(tmp_path / "few", [few], plain, "0.3") == whole & set(few)
    less = held_out(tmp_path / "less", [TEXTS], plain, "0.1")
    assert less < whole and less


def test_workers_change_nothing(tmp_path: Path, tokenizers: dict[bool, Path]) -> None:
    shards = [TEXTS[:30], TEXTS[30:60], TEXTS[60:]]
    one = held_out(tmp_path / "one", shards, tokenizers[False], "0.3")
    assert held_out(tmp_path / "two", shards, tokenizers[False], "0.3", workers=2) == one
    made = {
        path.relative_to(tmp_path / "one"): path.read_bytes() for path in tmp_path.glob("one/working/*/*")
    }
    assert len(made) == 9
    assert {
        path.relative_to(tmp_path / "two"): path.read_bytes() for path in tmp_path.glob("two/working/*/*")
    } == made


def test_a_text_that_spells_a_special_token_is_a_text(tmp_path: Path, tokenizers: dict[bool, Path]) -> None:
    """It would else end itself in the middle, and hide what follows from what stands before."""
    text = "one <end> two"
    made = tasks(tmp_path, [[text]], tokenizers[False])
    perform_all(made, 1)
    ids, end = ids_of(made, TRAIN), tokens.load(tokenizers[False]).eos_token_id
    assert ids.count(end) == 1 and ids[-1] == end
    assert tokens.load(tokenizers[False]).decode(ids[:-1]) == text


def test_a_shard_that_is_not_what_was_written_is_refused(
    tmp_path: Path, tokenizers: dict[bool, Path]
) -> None:
    made = tasks(tmp_path, [["a text"], ["another text"]], tokenizers[False])
    pq.write_table(pa.table({"text": ["a lie"]}), made[1].shard)
    with pytest.raises(
        WorkloadError, match=r"corpus/000001.parquet of the shared corpus has changed"
    ) as refused:
        perform_all(made, 1)
    assert "it is made again then" in refused.value.hint
    assert not made[1].directory.exists()


def test_a_shard_without_texts_makes_files_without_tokens(
    tmp_path: Path, tokenizers: dict[bool, Path]
) -> None:
    made = tasks(tmp_path, [[], ["a text"]], tokenizers[False])
    perform_all(made, 1)
    assert [(task.directory / TRAIN).stat().st_size > 0 for task in made] == [False, True]
    assert report_of(made[0]) == {"texts": 0, "train": 0, "heldOut": 0, "source": 0}


def test_texts_of_two_row_groups_are_never_in_memory_together(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", [TEXTS], group=40)
    found = list(batches(corpus / "000000.parquet"))
    assert [len(texts) for texts in found] == [40, 40, COUNT - 80]
    assert [one for texts in found for one in texts] == TEXTS


DRIVER = """
import os, signal, sys
sys.path[:0] = {path!r}
from pathlib import Path
from windlass_workloads.corpus import tokens
from windlass_workloads.corpus.tasks import perform_all
left, write = {after}, tokens.write
def die(file, ids):
    global left
    left -= 1
    if left == 0:
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return write(file, ids)
tokens.write = die
root = Path({root!r})
perform_all(tokens.tasks_of(root / "corpus", root / "working", tokenizer=Path({tokenizer!r}), fraction="0.3",
            framed=False), 1)
"""


def test_a_task_that_is_killed_leaves_nothing_that_counts(
    tmp_path: Path, tokenizers: dict[bool, Path]
) -> None:
    shards = [TEXTS[:30], TEXTS[30:]]
    made = tasks(tmp_path, shards, tokenizers[False], fraction="0.3")
    source = DRIVER.format(path=sys.path, root=str(tmp_path), tokenizer=str(tokenizers[False]), after=45)
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (made[0].directory / REPORT).exists() and not made[1].directory.exists()
    assert len(list((tmp_path / "working").iterdir())) == 2, (
        "what the killed one wrote has no name that counts"
    )
    before = os.stat(made[0].directory / TRAIN).st_mtime_ns
    perform_all(made, 1)
    assert os.stat(made[0].directory / TRAIN).st_mtime_ns == before, "what was done is not done again"
    assert sorted(path.name for path in (tmp_path / "working").iterdir()) == [
        "tokens-000000",
        "tokens-000001",
    ]
    again = tasks(tmp_path / "whole", shards, tokenizers[False], fraction="0.3")
    for task in again:
        perform(task)
    for name in (TRAIN, HELD_OUT):
        assert ids_of(made, name) == ids_of(again, name)
