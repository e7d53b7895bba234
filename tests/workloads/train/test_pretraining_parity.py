"""PretrainJob's losses: those of transformers' Trainer, whoever shares the work, and however often it begins.

New models throughout: a Llama that learns each next token, and a Bert that learns what was hidden from it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.workloads.train.support import NEW_BERT, NEW_LLAMA, PRETRAINING, ForkServer, Job, merge
from windlass_workloads.data import arrays
from windlass_workloads.data.order import Order

pytestmark = pytest.mark.workloads

Make = Callable[..., Job]
NEW: dict[str, dict[str, Any]] = {"CausalLM": NEW_LLAMA, "MaskedLM": NEW_BERT}
NO_SAVES = {"everySteps": 1000, "export": "None"}
SHARES = {
    "corpus": {
        "sources": [
            {"uri": "pvc://texts/a.jsonl", "share": "0.75"},
            {"uri": "pvc://texts/b", "share": "0.25"},
        ]
    }
}
FIT = {"maxSteps": 20, "learningRate": "5e-3", "optimizer": {"weightDecay": "0.1"}}
TRAINING = {
    "CausalLM": {**FIT, "scheduler": {"type": "Cosine", "warmup": "2"}},
    "MaskedLM": {**FIT, "scheduler": {"type": "Linear", "warmup": "0"}, "seed": 5},
}


def furthest(left: dict[int, float], right: dict[int, float]) -> float:
    """The largest difference, in parts of the value."""
    assert list(left) == list(right) and right
    return max(abs(left[step] - right[step]) / abs(right[step]) for step in right)


# --- transformers' Trainer -------------------------------------------------------------------------


def train_with_transformers(context: Any, directory: Path) -> None:
    """Runs in a forked rank: Trainer on our first weights and rows, in our order; its losses as JSON."""
    import torch
    from torch.utils.data import Dataset
    from transformers import Trainer, TrainingArguments

    from windlass_workloads.train.model import auto_class
    from windlass_workloads.train.objectives.masked import Vocabulary, hide

    spec, store = context.config.spec, Path(context.config.store_path)
    training = spec.training
    split = arrays.open_split(store / "prepared" / context.prepared / "train")
    index = arrays.open_prepared(store / "prepared" / context.prepared)
    order = Order(training.seed, len(split))
    rows = []
    for step in range(1, training.max_steps + 1):
        for unit in order.batch(step, training.global_batch_size):
            ((tokens, _),) = split.samples_of(unit)
            seen = labels = torch.from_numpy(tokens.astype("int64"))
            if spec.objective == "MaskedLM":
                words, count = Vocabulary.from_wire(index.vocabulary), int(split.unit_targets[unit])
                row = hide(tokens, count, words, seed=training.seed, step=step, unit=unit)
                seen, labels = map(torch.from_numpy, row)
            rows.append({"input_ids": seen, "labels": labels})

    class Rows(Dataset[Any]):
        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, place: int) -> Any:
            return rows[place]

    losses = []

    class Exact(Trainer):
        """Its log rounds losses."""

        def training_step(self, *arguments: Any, **named: Any) -> Any:
            loss = super().training_step(*arguments, **named)
            losses.append(float(loss))
            return loss

    Exact(
        model=auto_class(spec.objective).from_pretrained(store / "initial"),
        train_dataset=Rows(),
        args=TrainingArguments(
            output_dir=str(directory / "trainer"),
            max_steps=training.max_steps,
            per_device_train_batch_size=training.global_batch_size,
            learning_rate=float(training.learning_rate),
            lr_scheduler_type=training.scheduler.type.lower(),
            warmup_steps=int(training.scheduler.warmup),
            weight_decay=float(training.optimizer.weight_decay),
            max_grad_norm=float(training.gradient_clip),
            train_sampling_strategy="sequential",
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
        ),
    ).train()
    (directory / "losses.json").write_text(json.dumps(losses))


@pytest.mark.parametrize("objective", NEW)
def test_twenty_steps_of_pretraining_equal_those_of_the_transformers_trainer(
    make_pretraining: Make, objective: str
) -> None:
    job = make_pretraining(**NEW[objective], training=TRAINING[objective], checkpoint=NO_SAVES)
    ours = job.train().ok().losses()
    directory = job.root / f"start-{job.starts + 1}"
    job.start(function=f"{__name__}.train_with_transformers", limit=280).ok()
    theirs = dict(enumerate(json.loads((directory / "losses.json").read_text()), start=1))
    assert len(theirs) == 20 and ours[20] < ours[1] - 0.3
    worst = furthest(ours, theirs)
    print(f"{objective}: largest relative difference {worst:.2e}")
    assert worst <= 1e-4, worst


# --- ranks and strategies --------------------------------------------------------------------------

SHARED_OUT: dict[str, tuple[int, dict[str, Any]]] = {
    "DDP of 2": (2, {"strategy": "DDP"}),
    "DDP of 4": (4, {"strategy": "DDP"}),
    "FSDP of 2": (2, {"strategy": "FSDP"}),
    "FSDP in groups": (4, {"strategy": "FSDP", "shardGroupSize": 2}),
    "ZeRO-1": (2, {"strategy": "DeepSpeed", "zeroStage": 1}),
    "ZeRO-2": (2, {"strategy": "DeepSpeed", "zeroStage": 2}),
    "ZeRO-3": (2, {"strategy": "DeepSpeed", "zeroStage": 3}),
}


@pytest.fixture(scope="module")
def alone(
    fork_server: ForkServer, volumes: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Job, dict[int, float]]]:
    """A job by objective, and the losses of one rank that takes each batch in one go. Tests give it other ranks."""
    made: dict[str, tuple[Job, dict[int, float]]] = {}

    def of(objective: str) -> tuple[Job, dict[int, float]]:
        if objective not in made:
            training = {"maxSteps": 6, "microBatchSize": 4}
            spec = merge(
                PRETRAINING, {**NEW[objective], **SHARES, "training": training, "checkpoint": NO_SAVES}
            )
            job = Job(fork_server, volumes, tmp_path_factory.mktemp(objective), spec, kind="PretrainJob")
            made[objective] = (job, job.train().ok().losses())
        return made[objective]

    return of


@pytest.mark.parametrize("name", SHARED_OUT)
@pytest.mark.parametrize("objective", NEW)
def test_ranks_and_strategies_learn_a_mix_with_the_losses_of_one_rank(
    alone: Callable[[str], tuple[Job, dict[int, float]]], objective: str, name: str
) -> None:
    job, wanted = alone(objective)
    world, parallelism = SHARED_OUT[name]
    job.spec = {**merge(job.spec, {"training": {"microBatchSize": 1}}), "parallelism": parallelism}
    worst = furthest(job.start(world=world, limit=300).ok().losses(), wanted)
    print(f"{objective} {name}: {worst:.2e}")
    assert worst <= 1e-5, worst


# --- beginning again -------------------------------------------------------------------------------


@pytest.mark.fault("F60")
@pytest.mark.parametrize("objective", NEW)
@pytest.mark.parametrize("changes", [{}, SHARES], ids=["passes", "shares"])
def test_a_killed_pretraining_goes_on_bit_for_bit(
    make_pretraining: Make, objective: str, changes: dict[str, Any]
) -> None:
    strategy = {"strategy": "FSDP" if changes else "DDP"}
    job = make_pretraining(
        **merge(NEW[objective], changes), parallelism=strategy, checkpoint={"export": "None"}
    )
    whole = job.train(world=2).ok()
    assert whole.saved == ["step-00000003.i2", "step-00000006.i2"]
    killed = job.start(
        world=2,
        resume="step-00000003.i2",
        actions=[{"rank": 1, "type": "Step", "step": 5, "signal": "SIGKILL"}],
    )
    assert killed.codes[1] == -9
    resumed = job.start(world=2, resume="step-00000003.i2").ok()
    wanted = {step: loss for step, loss in whole.losses().items() if step > 3}
    assert resumed.losses() == wanted
    assert resumed.norms() == {step: norm for step, norm in whole.norms().items() if step > 3}
    fewer = job.start(world=1, resume="step-00000003.i2").ok()
    assert furthest(fewer.losses(), wanted) <= 1e-5


# --- z-loss and validation -------------------------------------------------------------------------


def test_the_z_loss_is_in_what_is_learned_and_not_in_what_is_validated(make_pretraining: Make) -> None:
    settings = {
        **NEW_LLAMA,
        "corpus": {"heldOut": {"fraction": "0.2"}},
        "training": {"maxSteps": 1, "learningRate": "1e-12", "validateEverySteps": 1},
        "checkpoint": NO_SAVES,
    }
    plain = make_pretraining(**settings).train().ok()
    guided = make_pretraining(**merge(settings, {"training": {"zLoss": "0.01"}})).train().ok()
    # Logits of a new model are near zero: the normaliser is about the vocabulary's size.
    share = guided.losses()[1] - plain.losses()[1]
    assert share == pytest.approx(0.01 * math.log(384) ** 2, rel=0.02)
    assert guided.of("Validation")[0].loss == pytest.approx(plain.of("Validation")[0].loss, rel=1e-6)


# --- what comes out --------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["CausalLM", "MaskedLM", "continued"])
def test_the_model_that_comes_out_loads_and_knows_a_text(make_pretraining: Make, start: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    job = make_pretraining(**NEW.get(start, {}), checkpoint={"everySteps": 1000})
    run = job.train().ok()
    assert run.of("Output")[0].output.uri == "pvc://store/team/job/uid-1/output/model"
    output = job.store / "output" / "model"
    tokenizer = AutoTokenizer.from_pretrained(output)
    masked = start == "MaskedLM"
    model = (AutoModelForMaskedLM if masked else AutoModelForCausalLM).from_pretrained(output)
    made = tokenizer("my router broke number 12", return_tensors="pt")
    with torch.no_grad():
        loss = float(model(**made, labels=made["input_ids"]).loss)
    assert 0 < loss < math.log(model.config.vocab_size)
    # Only who was taught to talk has a template for it; the model that is trained further here has its own.
    assert bool(tokenizer.chat_template) is (start == "continued")
    if not masked:
        with torch.no_grad():
            assert (
                model.generate(**made, max_new_tokens=3, do_sample=False).shape[1]
                > made["input_ids"].shape[1]
            )


def digests(directory: Path) -> dict[str, str]:
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("objective", NEW)
def test_a_new_tokenizer_and_first_weights_are_the_same_to_the_bit_whoever_makes_them(
    make_pretraining: Make, objective: str
) -> None:
    one, other, seeded = (
        make_pretraining(**NEW[objective]),
        make_pretraining(**NEW[objective]),
        make_pretraining(**NEW[objective], training={"seed": 18}),
    )
    for job in (one, other, seeded):
        job.prepare()
    found = digests(one.store / "initial")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(found)
    assert digests(other.store / "initial") == found
    assert one.prepared == other.prepared == seeded.prepared
    different = {name for name, digest in digests(seeded.store / "initial").items() if digest != found[name]}
    assert different == {"model.safetensors"}
