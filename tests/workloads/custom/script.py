"""A script of a user's own for the tests: two ranks that train a few weights, and the faults that it is told to make.

FAULT is `<rank>:<step>:<what>`, and happens once in the life of a run. LOSSES is the file of rank 0's losses.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

import windlass_workloads.custom as windlass

STEPS = int(os.environ.get("STEPS", "20"))
HERE = Path(os.environ["SCRIPT_HOME"])


def due_fault(step: int) -> str:
    """What is to happen to this rank at the beginning of this step."""
    rank, at, what = os.environ.get("FAULT", "-1:0:").split(":", 2)
    mark = HERE / f"fault-{rank}-{at}"
    if int(rank) != dist.get_rank() or int(at) != step or mark.exists():
        return ""
    mark.touch()
    return what


def suffer(what: str, loss: torch.Tensor) -> torch.Tensor:
    """The loss, or no return at all."""
    if what.startswith("signal"):
        os.kill(os.getpid(), int(what.split()[1]))
        time.sleep(60)
    elif what.startswith("exit"):
        sys.exit(int(what.split()[1]))
    elif what.startswith("raise"):
        raise RuntimeError(what.removeprefix("raise "))
    elif what == "damage":
        damage_newest()
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "nan":
        return loss * float("nan")
    elif what == "high":
        return loss + 1e6
    return loss


def damage_newest() -> None:
    """Flips one bit in the largest file of the newest checkpoint, once it is committed."""
    store = HERE / "store"
    while not (found := sorted(store.glob("step-*/manifest.json"))):
        time.sleep(0.01)
    largest = max(found[-1].parent.glob("*.distcp"), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)


def main() -> None:
    dist.init_process_group("gloo")
    torch.manual_seed(3)
    net = torch.nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.05)
    (HERE / f"environment-{dist.get_rank()}").write_text("\n".join(f"{k}={v}" for k, v in os.environ.items()))
    with windlass.open(total_steps=STEPS) as run:
        state = run.load()
        if state is not None:
            net.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
        with (HERE / "losses").open("a", buffering=1) as out:
            for step in range(run.resumed_step + 1, STEPS + 1):
                stop = take_step(run, step, net, optimizer, out)
                if stop or run.due(step):
                    run.save(step, {"model": net.state_dict(), "optimizer": optimizer.state_dict()})
                if stop:
                    break
    dist.destroy_process_group()


def take_step(run, step, net, optimizer, out) -> bool:  # type: ignore[no-untyped-def]
    what = due_fault(step)
    number = run.batch(step)
    inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(number * 10 + dist.get_rank()))
    # What is drawn here must be drawn again after a resume.
    loss = (net(inputs) - torch.rand(4)).square().mean()
    loss = suffer(what, loss)
    optimizer.zero_grad()
    loss.backward()
    for each in net.parameters():
        dist.all_reduce(each.grad)
    optimizer.step()
    run.report(step, loss=loss.item(), tokens=16)
    if dist.get_rank() == 0:
        out.write(f"{step} {number} {loss.item().hex()}\n")
    time.sleep(float(os.environ.get("STEP_SECONDS", "0")))
    return run.should_stop()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    main()
