"""The plain PyTorch loop that our training is measured against: DDP, AdamW, no meters, no saves, no resume.

Run as `python -m tests.bench.peers.raw WORK.json`, one process per rank with torch's standard variables set.
Rank 0 prints one JSON line: seconds and non-pad tokens of every step.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModelForCausalLM


def batch_of(rows: list[dict[str, list[int]]], pad: int) -> dict[str, torch.Tensor]:
    """Right-padded tensors of shape (samples, longest)."""
    longest = max(len(row["ids"]) for row in rows)
    fill = [longest - len(row["ids"]) for row in rows]
    return {
        "input_ids": torch.tensor([row["ids"] + [pad] * n for row, n in zip(rows, fill, strict=True)]),
        "labels": torch.tensor([row["labels"] + [-100] * n for row, n in zip(rows, fill, strict=True)]),
        "attention_mask": torch.tensor(
            [[1] * len(row["ids"]) + [0] * n for row, n in zip(rows, fill, strict=True)]
        ),
    }


def main(path: str) -> None:
    """Train `steps` steps on the samples in the given order."""
    work = json.loads(Path(path).read_text())
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(work["threads"])
    torch.manual_seed(work["seed"])
    dist.init_process_group("gloo")
    model = AutoModelForCausalLM.from_pretrained(
        work["model"], dtype=torch.float32, attn_implementation="sdpa"
    )
    lora = LoraConfig(
        r=work["rank"], lora_alpha=2 * work["rank"], target_modules="all-linear", task_type="CAUSAL_LM"
    )
    model = DistributedDataParallel(get_peft_model(model, lora))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=work["learningRate"], weight_decay=0.0)
    share, micro = work["globalBatchSize"] // world, work["microBatchSize"]
    times, tokens = [], []
    for step in range(work["steps"]):
        began = time.perf_counter()
        first = step * work["globalBatchSize"]
        rows = work["samples"][first : first + work["globalBatchSize"]]
        mine = rows[rank * share : (rank + 1) * share]
        total = sum(sum(label != -100 for label in row["labels"][1:]) for row in rows)
        for start in range(0, share, micro):
            model.require_backward_grad_sync = start + micro >= share
            batch = batch_of(mine[start : start + micro], work["pad"])
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[
                :, :-1
            ]
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1).float(),
                batch["labels"][:, 1:].flatten(),
                ignore_index=-100,
                reduction="sum",
            )
            (loss * world / total).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - began)
        tokens.append(sum(len(row["ids"]) for row in rows))
    if rank == 0:
        print(json.dumps({"seconds": times, "tokens": tokens}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
