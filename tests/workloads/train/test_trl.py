"""Our losses against TRL's SFTTrainer: same model, same samples, same order, same optimiser."""

from __future__ import annotations

import pytest

from windlass_workloads.data import arrays
from windlass_workloads.data.order import Order

pytestmark = pytest.mark.workloads


def train_with_trl(context, directory):
    """Runs in a forked rank; writes the losses of 20 steps as JSON. `context.prepared` names our own data."""
    import json
    from pathlib import Path

    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    store = Path(context.config.store_path)
    split = arrays.open_split(store / "prepared" / context.prepared / "train")
    training = context.config.spec.training
    order = Order(training.seed, len(split))
    rows = []
    for step in range(1, training.max_steps + 1):
        for unit in order.batch(step, training.global_batch_size):
            ((tokens, learned),) = split.samples_of(unit)
            labels = [int(token) if kept else -100 for token, kept in zip(tokens, learned, strict=True)]
            rows.append({"input_ids": tokens.tolist(), "labels": labels})
    model_directory = json.loads((directory / "model.json").read_text())
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(model_directory),
        processing_class=AutoTokenizer.from_pretrained(model_directory),
        train_dataset=Dataset.from_list(rows),
        args=SFTConfig(
            output_dir=str(directory / "trl"),
            max_steps=training.max_steps,
            per_device_train_batch_size=training.global_batch_size,
            learning_rate=float(training.learning_rate),
            lr_scheduler_type="cosine",
            train_sampling_strategy="sequential",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            activation_checkpointing=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            max_grad_norm=float(training.gradient_clip),
        ),
    )
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    (directory / "losses.json").write_text(json.dumps(losses))


def test_twenty_steps_equal_those_of_trl(make_job, volumes):
    import json

    job = make_job(training={"maxSteps": 20, "learningRate": "2e-3"}, checkpoint={"everySteps": 1000})
    ours = job.train().ok().losses()
    directory = job.root / f"start-{job.starts + 1}"
    directory.mkdir()
    (directory / "model.json").write_text(json.dumps(str(volumes / "models" / "tiny")))
    job.start(function="tests.workloads.train.test_trl.train_with_trl", limit=280).ok()
    theirs = json.loads((directory / "losses.json").read_text())
    assert len(theirs) == 20
    worst = max(abs(loss - ours[step]) / ours[step] for step, loss in enumerate(theirs, start=1))
    assert worst <= 1e-4, worst
