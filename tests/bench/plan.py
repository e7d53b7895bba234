"""`make bench-plan`: predicted memory of a rank beside what real ranks took.

Each configuration forks its ranks from a warm parent, as an agent does, and takes steps through the strategies of
training. Measured is the highest resident memory above that of a rank whose kernels have been used once, so that
interpreter and libraries do not count. A checkpoint's copy is measured apart, as the plan gives it.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "operator"), str(ROOT / "workloads")]
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

from bench.record import write  # noqa: E402
from windlass.api.finetune import FineTuneJobSpec  # noqa: E402
from windlass.core.planning.memory import rank_memory, workload_of  # noqa: E402
from windlass.core.planning.shape import widths  # noqa: E402
from windlass_workloads.checkpoint.staging import Staging  # noqa: E402
from windlass_workloads.train.assembly import make_strategy  # noqa: E402
from windlass_workloads.train.build import build  # noqa: E402
from windlass_workloads.train.model import LocalModel  # noqa: E402
from windlass_workloads.train.objectives.batch import Batch  # noqa: E402
from windlass_workloads.train.objectives.supervised import NextToken, isolating_mask  # noqa: E402
from windlass_workloads.train.precision import hardware_of_cpu, processor_flags  # noqa: E402
from windlass_workloads.train.strategies.base import Setting  # noqa: E402
from windlass_workloads.train.strategies.deepspeed import load_library  # noqa: E402

# From the second step on stage 3 keeps weights gathered; freed blocks go on filling the C library's heap after that.
STEPS = 4
GOAL = 0.20
RANKS = 2
LORA = {"adapter": {"type": "LoRA", "rank": 16}}
IA3 = {"adapter": {"type": "IA3"}}
FSDP = {"parallelism": {"strategy": "FSDP"}}
AGAIN = {"training": {"activationCheckpointing": True}}
HALF = {"training": {"precision": "BF16"}}


def zero(stage: int) -> dict[str, Any]:
    """DeepSpeed's strategy of a stage."""
    return {"parallelism": {"strategy": "DeepSpeed", "zeroStage": stage}}


@dataclass(frozen=True, slots=True)
class Case:
    """One configuration: what the spec says, and the micro-batch."""

    name: str
    spec: tuple[dict[str, Any], ...] = ()
    rows: int = 2
    tokens: int = 144
    accumulation: int = 1
    packed: bool = False
    ranks: int = RANKS


CASES = (
    Case("DDP full"),
    Case("DDP LoRA", (LORA,)),
    Case("FSDP full", (FSDP,)),
    Case("DDP full, activation checkpointing", (AGAIN,)),
    Case("DDP full, bf16", (HALF,)),
    Case("FSDP full, accumulation 2", (FSDP,), accumulation=2),
    Case("FSDP LoRA", (FSDP, LORA)),
    Case("FSDP full, bf16", (FSDP, HALF)),
    Case("one rank, full", ranks=1),
    Case("DDP LoRA, bf16", (LORA, HALF)),
    Case("DDP IA3", (IA3,)),
    Case("DDP full, long rows", rows=1, tokens=576),
    Case("DDP full, packed", packed=True),
    Case("ZeRO-2 full", (zero(2),)),
    Case("ZeRO-3 full", (zero(3),)),
    Case("ZeRO-3 LoRA", (zero(3), LORA)),
    Case("ZeRO-1 full", (zero(1),)),
    Case("ZeRO-2 full, bf16", (zero(2), HALF)),
)
SIZES = {
    "small": {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1024, "vocab_size": 32_000},
    "tiny": {"hidden_size": 192, "num_hidden_layers": 4, "intermediate_size": 512, "vocab_size": 12_000},
}


def spec_of(case: Case) -> FineTuneJobSpec:
    """The case as a job would say it."""
    training: dict[str, Any] = {
        "globalBatchSize": case.rows * case.ranks * case.accumulation,
        "microBatchSize": case.rows,
        "maxSteps": STEPS,
        "precision": "FP32",
    }
    blocks: dict[str, Any] = {}
    for block in case.spec:
        training |= block.get("training", {})
        blocks |= {name: value for name, value in block.items() if name != "training"}
    return FineTuneJobSpec.model_validate(
        {
            "model": {"uri": "pvc://models/small"},
            "data": {"sources": [{"uri": "pvc://data/x.jsonl"}], "sequenceLength": case.tokens},
            "checkpoint": {"store": "pvc://checkpoints"},
            "resources": {"ranksPerNode": case.ranks},
            "training": training,
            **blocks,
        }
    )


def write_model(directory: Path, sizes: dict[str, int]) -> LocalModel:
    """A Llama with random weights, in fp32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        **sizes,
        num_attention_heads=6,
        num_key_value_heads=3,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    return LocalModel(
        "pvc://models/small", directory, json.loads((directory / "config.json").read_text()), ""
    )


# --- in a rank ------------------------------------------------------------------------------------


def resident() -> tuple[int, int]:
    """Bytes of resident memory now, and the highest since `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("VmRSS", "VmHWM"))}
    return int(found["VmRSS"]) * 1024, int(found["VmHWM"]) * 1024


def forget_peak() -> None:
    """Lets the kernel begin anew with the highest resident memory."""
    Path("/proc/self/clear_refs").write_text("5")


def use_kernels() -> None:
    """Takes a step of a model of a few weights, so that libraries and buffers of the process are there."""
    model = torch.nn.Linear(8, 8)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    model(torch.ones(2, 8)).sum().backward()
    optimizer.step()
    dist.all_reduce(torch.ones(4))


def batch_of(case: Case, vocabulary: int, generator: torch.Generator) -> Batch:
    """Rows of full length in which every token is learned."""
    tokens = torch.randint(vocabulary, (case.rows, case.tokens), generator=generator)
    places = torch.arange(case.tokens)
    inputs = {"input_ids": tokens, "position_ids": places.expand(case.rows, case.tokens)}
    if case.packed:
        inputs["attention_mask"] = isolating_mask((places // (case.tokens // 4)).expand(case.rows, -1))
    return Batch(inputs, places, tokens, 1.0)


def rank_of(case: Case, local: LocalModel, rank: int, port: int) -> dict[str, Any]:
    """What one rank took, in bytes above its start: peaks by phase, and the copy of a save."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(case.ranks))
    store = dist.TCPStore("127.0.0.1", port, case.ranks, rank == 0)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=case.ranks)
    use_kernels()
    gc.collect()
    forget_peak()
    start, _ = resident()
    peaks: dict[str, int] = {}

    def note(name: str) -> None:
        peaks[name] = resident()[1] - start
        forget_peak()

    spec = spec_of(case)
    built = build(local, spec, spec.training.precision)
    model, objective = built.model, NextToken(case.packed, built.chooses_logits)
    parameters, trained = built.parameters
    note("load")
    setting = Setting(spec, torch.device("cpu"), case.ranks, spec.training.precision, case.accumulation)
    strategy = make_strategy(model, setting)
    note("strategy")
    generator = torch.Generator().manual_seed(rank)
    for step in range(STEPS):
        for place in range(case.accumulation):
            last = place == case.accumulation - 1
            batch = batch_of(case, local.config["vocab_size"], generator)
            with strategy.micro_batch(last=last):
                loss = objective.loss_sum(strategy.forward, batch) / 1000
                strategy.backward(loss, last=last)
        strategy.step(1e-4)
        note(f"step {step + 1}")
    return {"peaks": peaks, "parameters": parameters, "trained": trained} | copied(strategy)


def copied(strategy: Any) -> dict[str, Any]:
    """Bytes that the copy of a save takes; DeepSpeed's save makes none here."""
    state = strategy.saved_state({})
    if state.format == "DeepSpeed":
        return {"copy": 0}
    before, _ = resident()
    staging = Staging()
    kept = staging.copy(state.state_dict())
    taken = resident()[0] - before
    return {"copy": taken if kept else 0}


# --- around them ----------------------------------------------------------------------------------


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def forked(act: Callable[[], dict[str, Any]], answer: Path) -> int:
    """A child that writes what `act` returns, and ends."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        answer.write_text(json.dumps(act()))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def measure(case: Case, local: LocalModel, directory: Path) -> dict[str, Any]:
    """The case with what its hungriest rank took. Raises RuntimeError when a rank failed."""
    port = free_port()
    answers = [directory / f"rank-{rank}.json" for rank in range(case.ranks)]
    children = [
        forked(lambda rank=rank: rank_of(case, local, rank, port), answers[rank])  # type: ignore[misc]
        for rank in range(case.ranks)
    ]
    if any(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children):
        raise RuntimeError(f"{case.name}: a rank failed")
    ranks = [json.loads(answer.read_text()) for answer in answers]
    return compare(case, local.config, max(ranks, key=lambda each: max(each["peaks"].values())))


def compare(case: Case, config: dict[str, Any], rank: dict[str, Any]) -> dict[str, Any]:
    """Prediction and measurement of one case."""
    spec = spec_of(case)
    shape = widths(config, parameters=rank["parameters"], trained=rank["trained"])
    assert shape is not None
    load = workload_of(spec, half=spec.training.precision == "BF16")
    found = rank_memory(shape, load)
    measured = max(peak for name, peak in rank["peaks"].items() if name.startswith("step"))
    return {
        "name": case.name,
        "predicted": found.total,
        "measured": measured,
        "error": round(found.total / measured - 1, 4),
        "copyPredicted": found.checkpoint_copy,
        "copyMeasured": rank["copy"],
        "parts": asdict(found),
        "rank": rank,
    }


def line_of(row: dict[str, Any]) -> str:
    """One case as a line."""
    return (
        f"{row['name']:<36} predicted {row['predicted'] / 1e6:7.1f} MB  measured {row['measured'] / 1e6:7.1f} MB  "
        f"{row['error']:+6.1%}  copy {row['copyPredicted'] / 1e6:6.1f} / {row['copyMeasured'] / 1e6:6.1f} MB"
    )


def measure_all(cases: list[Case], sizes: dict[str, int]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The cases one after another, and the model's configuration. What is imported once, is imported here."""
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        local = write_model(Path(directory), sizes)
        if any(case.name.startswith("ZeRO") for case in cases):
            load_library()
        for case in cases:
            try:
                rows.append(measure(case, local, Path(directory)))
            except RuntimeError as error:
                print(f"failed: {error}", file=sys.stderr, flush=True)
                continue
            print(line_of(rows[-1]), json.dumps(rows[-1]["rank"]), flush=True)
        return rows, local.config


def compare_again(result: dict[str, Any], cases: list[Case]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What was measured, beside the formulas of today."""
    ranks = {row["name"]: row["rank"] for row in result["cases"]}
    rows = [compare(case, result["model"], ranks[case.name]) for case in cases if case.name in ranks]
    for row in rows:
        print(line_of(row))
    return rows, result["model"]


def main() -> int:
    """Measures all cases, or with --again compares what was measured with the formulas of today."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="names of cases")
    parser.add_argument("--sizes", choices=SIZES, default="small", help="size of the model")
    parser.add_argument("--tokens", type=int, help="tokens of each row")
    parser.add_argument(
        "--goal", type=float, default=GOAL, help="largest share by which a prediction may be off"
    )
    parser.add_argument("--again", type=Path, help="a result whose measurements are compared anew")
    options = parser.parse_args()
    # Where bf16 is emulated a step of these takes minutes, which says nothing about memory.
    fast = hardware_of_cpu(processor_flags()).fast_bf16
    known = [case for case in CASES if fast or not case.name.endswith("bf16")]
    cases = [case for case in known if not options.only or case.name in options.only]
    if options.tokens:
        cases = [replace(case, tokens=options.tokens) for case in cases]
    if options.again:
        rows, model = compare_again(json.loads(options.again.read_text()), cases)
        cases = [case for case in cases if case.name in {row["name"] for row in rows}]
    else:
        rows, model = measure_all(cases, SIZES[options.sizes])
    within = [row for row in rows if abs(row["error"]) <= options.goal]
    figures = {"goal": options.goal, "within": len(within), "of": len(cases), "model": model, "cases": rows}
    write("plan" if options.sizes == "small" else f"plan-{options.sizes}", figures)
    return 0 if len(within) == len(cases) else 1


if __name__ == "__main__":
    sys.exit(main())
