"""From the texts of a corpus to tokens: one task for each of its shards.

Run after `stages.make`, by a preparation that needs rows of tokens. Texts follow each other, each with the
end-of-text token behind it, or with the tokenizer's own frame where rows are for a masked model. Which texts are held
out follows from the text alone, so that equal ones would stay together.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from windlass.api.meta import FailureClass, Reason
from windlass_workloads.corpus.stages import INDEX
from windlass_workloads.corpus.tasks import Json
from windlass_workloads.data.errors import WorkloadError
from windlass_workloads.data.prepare import file_digest, fraction_of

TRAIN: Final = "train.bin"
HELD_OUT: Final = "held-out.bin"
BATCH_TEXTS: Final = 256


@dataclass(frozen=True)
class Tokenise:
    """The task of one shard. `fraction` of its texts is held out; with `framed` the tokenizer adds its own tokens."""

    directory: Path
    shard: Path
    source: int
    sha256: str
    tokenizer: Path
    fraction: str
    framed: bool

    def run(self, directory: Path) -> Json:
        """Write the tokens as int32, one text after the other; how many there are."""
        require_whole(self.shard, self.sha256)
        tokenizer, fraction = load(self.tokenizer), Decimal(self.fraction)
        counts = {"texts": 0, "train": 0, "heldOut": 0}
        with (directory / TRAIN).open("wb") as train, (directory / HELD_OUT).open("wb") as held_out:
            for texts in batches(self.shard):
                # A text that spells a special token is a text: it could else end itself, or hide a word.
                made = tokenizer(
                    texts,
                    add_special_tokens=self.framed,
                    split_special_tokens=True,
                    return_attention_mask=False,
                    verbose=False,
                )
                for text, ids in zip(texts, made["input_ids"], strict=True):
                    if not self.framed:
                        ids.append(tokenizer.eos_token_id)
                    held = bool(fraction) and fraction_of(b"held out " + text.encode()) < fraction
                    name, file = ("heldOut", held_out) if held else ("train", train)
                    counts[name] += write(file, ids)
                    counts["texts"] += 1
        return counts | {"source": self.source}


def require_whole(shard: Path, sha256: str) -> None:
    """DataUnreadable if a shard is not what was written: a corpus may be years old, and others have its volume."""
    found = file_digest(shard)
    if found != sha256:
        raise WorkloadError(
            Reason.DATA_UNREADABLE,
            f"spec.corpus: {shard.parent.name}/{shard.name} of the shared corpus has changed (got sha256 {found}); "
            f"allowed {sha256}.",
            hint=f"remove the directory {shard.parent.name} from corpora.windlass of the store; it is made again then.",
            failure_class=FailureClass.STORAGE,
        )


def write(file: BinaryIO, ids: list[int]) -> int:
    """Append tokens; how many."""
    file.write(np.asarray(ids, dtype=np.int32).tobytes())
    return len(ids)


def batches(shard: Path) -> Iterator[list[str]]:
    """Texts of a shard, so many at a time and never more than a row group, which bounds their bytes."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(shard) as file:
        for group in range(file.metadata.num_row_groups):
            for batch in file.iter_batches(BATCH_TEXTS, [group], ["text"], use_threads=False):
                yield batch.column(0).to_pylist()


@cache
def load(directory: Path) -> Any:
    """The tokenizer of a directory, once for each process."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(
        directory, local_files_only=True, trust_remote_code=False, use_fast=True
    )


def tasks_of(corpus: Path, working: Path, *, tokenizer: Path, fraction: str, framed: bool) -> list[Tokenise]:
    """A task for each shard of a corpus, in order; sources come one after another."""
    shards = json.loads((corpus / INDEX).read_text(encoding="utf-8"))["shards"]
    return [
        Tokenise(
            working / f"tokens-{number:06d}",
            corpus / shard["name"],
            shard["source"],
            shard["sha256"],
            tokenizer,
            fraction,
            framed,
        )
        for number, shard in enumerate(shards)
    ]
