"""datatrove's local MinHash pipeline over JSONL files, for `make bench-data`: `peer.py INPUT OUTPUT WORKERS`.

Runs in an environment of its own (peer-requirements.txt). Its four stages have the defaults of its documentation: five
words, 14 buckets of 8 hashes. The last line printed is JSON with the documents that stay, which are in OUTPUT/kept.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.hashing import HashConfig


def stages(texts: Path, output: Path) -> list[tuple[str, int, list[Any]]]:
    """Name, tasks and steps of each stage. Signature and filter must see the same files in the same order."""
    config = MinhashConfig(
        n_grams=5, num_buckets=14, hashes_per_bucket=8, hash_config=HashConfig(precision=64)
    )
    files = len(list(texts.glob("*.jsonl")))
    signatures, buckets, clusters = (str(output / name) for name in ("signatures", "buckets", "clusters"))
    reader = JsonlReader(str(texts), glob_pattern="*.jsonl", add_file_path=False)
    writer = JsonlWriter(str(output / "kept"), compression=None)
    return [
        ("signature", files, [reader, MinhashDedupSignature(signatures, config=config)]),
        ("buckets", config.num_buckets, [MinhashDedupBuckets(signatures, buckets, config=config)]),
        ("cluster", 1, [MinhashDedupCluster(buckets, clusters, config=config)]),
        ("filter", files, [reader, MinhashDedupFilter(clusters), writer]),
    ]


def main() -> None:
    """Run all stages, one after another."""
    texts, output, workers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    seconds, kept = {}, 0
    for name, tasks, steps in stages(texts, output):
        began = time.perf_counter()
        logs = str(output / "logs" / name)
        stats = LocalPipelineExecutor(steps, tasks=tasks, workers=min(workers, tasks), logging_dir=logs).run()
        seconds[name] = round(time.perf_counter() - began, 2)
        if name == "filter":
            kept = int(stats.stats[-1]["total"].total)
    print(json.dumps({"documents_kept": kept, "seconds": seconds}), flush=True)


if __name__ == "__main__":  # its workers import this file once more
    main()
