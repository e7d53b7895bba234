"""What loading the universal form sets right after DeepSpeed, with an engine that does what DeepSpeed's does."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from windlass_workloads.checkpoint.deepspeed import TAG, DeepSpeedState

OWN = ({"lr": 0.1, "weight_decay": 0.5}, {"lr": 0.1, "weight_decay": 0.0})


class Model(torch.nn.Module):
    """One weight, a buffer that belongs to the state and one that does not."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))
        self.register_buffer("seen", torch.full((2,), value))
        self.register_buffer("table", torch.full((2,), value), persistent=False)


class Engine:
    """Stage 3's way to load: the first group's settings for all, and one counter of steps for all."""

    def __init__(self, model: torch.nn.Module, error: Exception | None = None) -> None:
        self.module = model
        self.error = error
        self._config = SimpleNamespace(load_universal_checkpoint=False)
        self.parts = [torch.nn.Parameter(torch.zeros(2)) for _ in OWN]
        self.inner = torch.optim.AdamW(
            [{"params": [part], **own} for part, own in zip(self.parts, OWN, strict=True)]
        )
        self.optimizer = SimpleNamespace(param_groups=self.inner.param_groups, optimizer=self.inner)
        self.loaded: list[tuple[str, str, bool]] = []

    def zero_optimization_stage(self) -> int:
        return 3

    def load_checkpoint(self, directory: str, *, tag: str, load_module_strict: bool) -> tuple[str, Any]:
        self.loaded.append((directory, tag, self._config.load_universal_checkpoint))
        if self.error is not None:
            raise self.error
        step = torch.tensor(7.0)
        for group, part in zip(self.inner.param_groups, self.parts, strict=True):
            self.inner.state[part] = {"step": step, "exp_avg": torch.ones(2)}
            group.update({"lr": 9.0, "weight_decay": 0.5}, params=[])
        return directory, {"counters": {"step": 7, "tokens": 70}}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A copy with the model files of two ranks, of which the first is read."""
    (tmp_path / TAG).mkdir()
    for rank, value in ((0, 3.0), (1, 4.0)):
        name = f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt"
        torch.save({"module": {"seen": torch.full((2,), value)}}, tmp_path / TAG / name)
    return tmp_path


def state_of(engine: Engine) -> DeepSpeedState:
    return DeepSpeedState(engine=engine, counters={"step": 0, "tokens": 0})


def test_each_group_keeps_its_own_settings(saved: Path) -> None:
    engine = Engine(Model(0.0))
    state_of(engine).load_universal(saved)
    settings = [
        {key: group[key] for key in own} for group, own in zip(engine.inner.param_groups, OWN, strict=True)
    ]
    assert settings == list(OWN)
    assert [group["params"] for group in engine.inner.param_groups] == [[], []]


def test_each_group_counts_its_own_steps(saved: Path) -> None:
    engine = Engine(Model(0.0))
    state_of(engine).load_universal(saved)
    first, second = (entries["step"] for entries in engine.inner.state.values())
    first += 1
    assert (float(first), float(second)) == (8.0, 7.0)


def test_buffers_of_the_state_come_from_the_model_file(saved: Path) -> None:
    model = Model(0.0)
    state_of(Engine(model)).load_universal(saved)
    assert model.seen.tolist() == [3.0, 3.0]
    assert model.table.tolist() == [0.0, 0.0]


def test_a_model_without_such_buffers_reads_no_model_file(tmp_path: Path) -> None:
    state_of(Engine(torch.nn.Linear(2, 2))).load_universal(tmp_path)


def test_counters_are_taken_over(saved: Path) -> None:
    state = state_of(Engine(Model(0.0)))
    state.load_universal(saved)
    assert state.counters == {"step": 7, "tokens": 70}


def test_the_engine_reads_the_universal_form_for_this_load_only(saved: Path) -> None:
    engine = Engine(Model(0.0))
    state = state_of(engine)
    state.load_universal(saved)
    state.load_directory(saved)
    assert engine.loaded == [(str(saved), TAG, True), (str(saved), TAG, False)]


def test_also_when_the_load_fails(saved: Path) -> None:
    engine = Engine(Model(0.0), AssertionError("Steps [1, 2] are not equal"))
    with pytest.raises(AssertionError):
        state_of(engine).load_universal(saved)
    assert engine._config.load_universal_checkpoint is False
