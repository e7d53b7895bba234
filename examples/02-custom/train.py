"""Trains a small network with DDP; the lines with `run` make it survive the loss of ranks, pods and nodes.

Runs as the command of finetunejob.yaml. The data are made up from the number of the batch, as a real script would read
that batch from its files.
"""

import argparse

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import windlass_workloads.custom as windlass

ROWS = 32


def batch(number: int, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs of shape [ROWS, 8] and targets of shape [ROWS, 1]: this rank's part of a batch."""
    generator = torch.Generator().manual_seed(number * 1000 + rank)
    inputs = torch.randn(ROWS, 8, generator=generator)
    return inputs, inputs.square().sum(dim=1, keepdim=True).sqrt()


def main() -> None:
    """Trains to the end, or until the run is asked to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps
    dist.init_process_group("gloo")
    torch.manual_seed(17)
    net = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1))
    model = DistributedDataParallel(net)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    with windlass.open(total_steps=steps) as run:
        state = run.load()
        if state is not None:
            net.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
        for step in range(run.resumed_step + 1, steps + 1):
            inputs, targets = batch(run.batch(step), dist.get_rank())
            loss = torch.nn.functional.mse_loss(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.report(step, loss=loss.item())
            stop = run.should_stop()
            if stop or run.due(step):
                run.save(step, {"model": net.state_dict(), "optimizer": optimizer.state_dict()})
            if stop:
                break
            if step % 10 == 0 and dist.get_rank() == 0:
                print(f"step {step} loss {loss.item():.6f}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
