"""The peer of the recovery benchmark: the same LoRA training under torchrun, which spawns its ranks anew.

Run by `torchrun --standalone --max-restarts N` inside a pod of the same limits as the gang's. It saves
adapter and optimiser every few steps (rank 0, renamed into place) and loads the newest at start. Before
each first forward it appends {rank, step, at} to forward.jsonl, the same hook that Windlass writes.
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


def newest(store: Path) -> Path | None:
    """The newest saved state, or None."""
    return max(store.glob("step-*.pt"), default=None)


def save(store: Path, step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Trained parameters and optimiser of this step, appearing at once or not at all."""
    trained = {name: value for name, value in model.state_dict().items() if "lora_" in name}
    target = store / f"step-{step:08d}.pt"
    temporary = target.with_suffix(".partial")
    torch.save({"step": step, "model": trained, "optimizer": optimizer.state_dict()}, temporary)
    temporary.rename(target)


def note(store: Path, rank: int, step: int) -> None:
    """Say that this rank enters its first forward."""
    with (store / "forward.jsonl").open("a") as out:
        out.write(json.dumps({"rank": rank, "step": step, "at": time.time(), "pid": os.getpid()}) + "\n")


def main(path: str) -> None:
    """Train until killed for good or `steps` are done."""
    work = json.loads(Path(path).read_text())
    store = Path(work["store"])
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(work["threads"])
    torch.manual_seed(work["seed"])
    dist.init_process_group("gloo")
    base = AutoModelForCausalLM.from_pretrained(
        work["model"], dtype=torch.float32, attn_implementation="sdpa"
    )
    lora = LoraConfig(
        r=work["rank"], lora_alpha=2 * work["rank"], target_modules="all-linear", task_type="CAUSAL_LM"
    )
    model = get_peft_model(base, lora)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=work["learningRate"], weight_decay=0.0)
    first = 0
    state = newest(store)
    if state is not None:
        loaded = torch.load(state, weights_only=True)
        model.load_state_dict(loaded["model"], strict=False)
        optimizer.load_state_dict(loaded["optimizer"])
        first = int(loaded["step"])
    wrapped = DistributedDataParallel(model)
    length, share = work["sequenceLength"], work["globalBatchSize"] // world
    for step in range(first, work["steps"]):
        generator = torch.Generator().manual_seed(step * world + rank)
        ids = torch.randint(0, 1000, (share, length), generator=generator)
        if step == first:
            note(store, rank, step + 1)
        wrapped(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if rank == 0 and (step + 1) % work["everySteps"] == 0:
            save(store, step + 1, model, optimizer)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
