"""TRL's SFTTrainer on the same samples in the same order, as the second peer of the training benchmark.

Run as `python -m tests.bench.peers.reference WORK.json`, one process per rank with torch's variables set.
Rank 0 prints one JSON line: seconds and non-pad tokens of every step.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer


class Clock(TrainerCallback):
    """Seconds of each optimiser step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.began = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self.began)


class Sequential(SFTTrainer):
    """The trainer without shuffling, so that every system sees the same batches."""

    def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)


def main(path: str) -> None:
    """Train `steps` steps."""
    work = json.loads(Path(path).read_text())
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(work["threads"])
    clock = Clock()
    share = work["globalBatchSize"] // world
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Sequential(
            model=AutoModelForCausalLM.from_pretrained(
                work["model"], dtype=torch.float32, attn_implementation="sdpa"
            ),
            processing_class=AutoTokenizer.from_pretrained(work["model"]),
            args=SFTConfig(
                output_dir=scratch,
                max_steps=work["steps"],
                per_device_train_batch_size=work["microBatchSize"],
                gradient_accumulation_steps=share // work["microBatchSize"],
                learning_rate=work["learningRate"],
                lr_scheduler_type="constant",
                weight_decay=0.0,
                max_grad_norm=1.0,
                use_cpu=True,
                ddp_backend="gloo",
                bf16=False,
                fp16=False,
                activation_checkpointing=False,
                gradient_checkpointing=False,
                report_to=[],
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                max_length=None,
                dataset_kwargs={"skip_prepare_dataset": True},
                seed=work["seed"],
            ),
            train_dataset=Dataset.from_list(
                [{"input_ids": row["ids"], "labels": row["labels"]} for row in work["samples"]]
            ),
            peft_config=LoraConfig(
                r=work["rank"],
                lora_alpha=2 * work["rank"],
                target_modules="all-linear",
                task_type="CAUSAL_LM",
            ),
            callbacks=[clock],
        )
        trainer.train()
    if rank == 0:
        size = work["globalBatchSize"]
        rows = work["samples"]
        tokens = [
            sum(len(row["ids"]) for row in rows[step * size : (step + 1) * size])
            for step in range(work["steps"])
        ]
        print(json.dumps({"seconds": clock.seconds, "tokens": tokens}))


if __name__ == "__main__":
    main(sys.argv[1])
