"""The plain FSDP2 loop that our pre-training is measured against: fully_shard, AdamW, no meters, no saves, no resume.

Run as `python -m tests.bench.peers.fsdp WORK.json`, one process per rank with torch's standard variables set. Rows
come from a file of tokens that is mapped into memory. Rank 0 prints one JSON line: seconds and tokens of every step.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM


def main(path: str) -> None:
    """Train `steps` steps on the rows in the given order."""
    work = json.loads(Path(path).read_text())
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(work["threads"])
    dist.init_process_group("gloo")
    model = AutoModelForCausalLM.from_pretrained(
        work["model"], dtype=torch.float32, attn_implementation="sdpa"
    )
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=work["learningRate"], weight_decay=0.0, fused=True)
    tokens = np.memmap(work["tokens"], dtype=np.int32, mode="r").reshape(-1, work["length"])
    share, micro = work["globalBatchSize"] // world, work["microBatchSize"]
    targets = work["globalBatchSize"] * (work["length"] - 1)
    times = []
    for rows in work["rows"]:
        began = time.perf_counter()
        mine = rows[rank * share : (rank + 1) * share]
        for start in range(0, share, micro):
            model.set_requires_gradient_sync(start + micro >= share)
            batch = torch.from_numpy(tokens[mine[start : start + micro]].astype(np.int64))
            logits = model(input_ids=batch, use_cache=False).logits[:, :-1]
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1).float(), batch[:, 1:].flatten(), reduction="sum"
            )
            (loss * world / targets).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - began)
    if rank == 0:
        per_step = work["globalBatchSize"] * work["length"]
        print(json.dumps({"seconds": times, "tokens": [per_step] * len(times)}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
