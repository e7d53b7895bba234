"""Laying tensors end to end: nothing is lost, ties stay ties, what does not fit is named."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass_workloads.checkpoint import flat
from windlass_workloads.checkpoint.staging import Staging
from windlass_workloads.checkpoint.state import ReplicatedState, TorchState, is_plain, settle

DTYPES = (torch.float32, torch.bfloat16, torch.int64)


class Stored:
    """What torch's metadata says of one tensor."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.size = tensor.shape
        self.properties = type("Properties", (), {"dtype": tensor.dtype})


def tensor_of(seed: int, shape: list[int], dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1000, 1000, shape, generator=generator).to(dtype)


SHAPES = st.lists(st.integers(0, 4), max_size=3)
TENSORS = st.dictionaries(
    st.sampled_from(
        [("model", "a"), ("model", "b.c"), ("optimizer", "a", "exp_avg"), ("optimizer", "a", "step")]
    ),
    st.builds(tensor_of, st.integers(0, 99), SHAPES, st.sampled_from(DTYPES)),
    min_size=1,
)


@settings(max_examples=60, deadline=None)
@given(TENSORS)
def test_every_tensor_is_found_again(named: dict[flat.Path, torch.Tensor]) -> None:
    state = flat.join(flat.lay_out(named))
    found = flat.views(state)
    assert found.keys() == named.keys()
    for path, tensor in named.items():
        assert found[path].dtype == tensor.dtype
        assert torch.equal(found[path], tensor)


@settings(max_examples=30, deadline=None)
@given(TENSORS)
def test_staging_copies_the_same_bytes_and_keeps_its_buffers(named: dict[flat.Path, torch.Tensor]) -> None:
    staging = Staging()
    first = staging.copy(flat.lay_out(named))
    joined = flat.join(flat.lay_out(named))
    places = {}
    for group, tensor in first[flat.FLAT].items():
        assert torch.equal(tensor, joined[flat.FLAT][group])
        places[group] = tensor.data_ptr()
    for tensor in named.values():
        tensor.add_(1)
    second = staging.copy(flat.lay_out(named))
    assert {group: tensor.data_ptr() for group, tensor in second[flat.FLAT].items()} == places
    for path, tensor in named.items():
        assert torch.equal(flat.views(second)[path], tensor)


def test_kinds_and_dtypes_make_the_groups() -> None:
    weight, step = torch.ones(2, 3), torch.tensor(5.0)
    named = {
        ("model", "w"): weight,
        ("model", "h"): weight.bfloat16(),
        ("optimizer", "w", "exp_avg"): weight * 2,
        ("optimizer", "w", "step"): step,
    }
    groups = flat.lay_out(named)[flat.FLAT]
    sizes = {name: group.size for name, group in groups.items()}
    assert sizes == {"model.float32": 6, "model.bfloat16": 6, "exp_avg.float32": 6, "step.float32": 1}


def test_tied_weights_are_kept_once() -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    state = flat.join(flat.lay_out({("model", "embed"): weight, ("model", "head"): weight}))
    assert state[flat.FLAT]["model.float32"].numel() == 6
    found = flat.views(state)
    assert found["model", "head"].data_ptr() == found["model", "embed"].data_ptr()
    transposed = flat.lay_out({("model", "embed"): weight, ("model", "head"): weight.t()})
    assert transposed[flat.FLAT]["model.float32"].size == 12, (
        "the same memory in another shape is something else"
    )


def test_parts_of_one_memory_do_not_count_as_tied() -> None:
    whole = torch.arange(8.0)
    named = {("model", "a"): whole[:4], ("model", "b"): whole[4:]}
    found = flat.views(flat.join(flat.lay_out(named)))
    assert found["model", "b"].tolist() == [4, 5, 6, 7]


def test_buffers_follow_the_metadata() -> None:
    state = flat.join(flat.lay_out({("model", "a"): torch.ones(3), ("model", "b"): torch.ones(2).long()}))
    stored: dict[str, Any] = {f"state.flat.{name}": Stored(each) for name, each in state[flat.FLAT].items()}
    assert not flat.is_flat(stored)
    stored |= {"state.index": object(), "random.rank-00000.torch": Stored(torch.ones(9))}
    assert flat.is_flat(stored)
    made = flat.buffers(stored)
    assert {name: (each.numel(), each.dtype) for name, each in made[flat.FLAT].items()} == {
        "model.float32": (3, torch.float32),
        "model.int64": (2, torch.int64),
    }


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ([["model", "x"], "model.float32", 3, [2]], r"x is not in it \(got model.float32 at 3\)"),
        ([["model", "x"], "model.float32", -1, [2]], r"x is not in it \(got model.float32 at -1\)"),
        ([["model", "x"], "model.float64", 0, [2]], r"x is not in it \(got model.float64 at 0\)"),
    ],
)
def test_an_index_that_points_outside_is_refused(row: list[Any], says: str) -> None:
    state = {flat.FLAT: {"model.float32": torch.ones(4)}, flat.INDEX: json.dumps([row])}
    with pytest.raises(ValueError, match=says):
        flat.views(state)


@pytest.mark.parametrize(
    ("saved", "live", "says"),
    [
        ({"a": [2], "b": [2]}, {"a": [2]}, "b: is in the checkpoint and not in the model"),
        ({"a": [2]}, {"a": [2], "b": [2]}, "b: is in the model and not in the checkpoint"),
        ({"a": [2]}, {"a": [3]}, r"a: has shape \[2\] in the checkpoint and \[3\] in the model"),
    ],
)
def test_what_differs_is_named(saved: dict[str, list[int]], live: dict[str, list[int]], says: str) -> None:
    def tensors(shapes: dict[str, list[int]]) -> dict[flat.Path, torch.Tensor]:
        return {("model", name): torch.ones(shape) for name, shape in shapes.items()}

    with pytest.raises(ValueError, match=says):
        flat.require_same(tensors(saved), tensors(live))
    flat.require_same(tensors(live), tensors(live))


def test_a_whole_tensor_of_another_shape_is_not_put() -> None:
    with pytest.raises(ValueError, match=r"shape \[4\] in the checkpoint and \[2, 2\] in the model"):
        flat.put(torch.ones(4), torch.zeros(2, 2))


def trained(steps: int, *, frozen: bool) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    model.register_buffer("seen", torch.zeros(2))
    if frozen:
        model[0].requires_grad_(False)
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=0.1)
    for _ in range(steps):
        model(torch.ones(1, 3)).sum().backward()
        model.seen += 1
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def state_of(steps: int, *, frozen: bool, kind: type[TorchState] = ReplicatedState) -> TorchState:
    model, optimizer = trained(steps, frozen=frozen)
    counters = {"step": steps}
    return kind(
        strategy="DDP",
        model=model,
        optimizer=optimizer,
        scheduler=None,
        counters=counters,
        trainable_only=frozen,
    )


@pytest.mark.parametrize("kind", [ReplicatedState, TorchState], ids=["DDP", "by name"])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("before", [0, 2], ids=["fresh", "stepped"])
def test_a_loaded_state_equals_the_saved_one(kind: type[TorchState], frozen: bool, before: int) -> None:
    saved = state_of(3, frozen=frozen)
    saved.optimizer.param_groups[0]["lr"] = 0.025
    fresh = state_of(before, frozen=frozen, kind=kind)
    fresh.load_flat(flat.join(saved.state_dict()))
    assert fresh.counters == {"step": 3}
    assert fresh.optimizer.param_groups[0]["lr"] == 0.025
    assert fresh.optimizer.param_groups[0]["betas"] == (0.9, 0.999)
    for name, weight in saved.model.state_dict().items():
        if not frozen or not name.startswith("0."):
            assert torch.equal(fresh.model.state_dict()[name], weight), name
    for mine, theirs in zip(fresh.optimizer.state.values(), saved.optimizer.state.values(), strict=True):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_only_what_is_trained_is_kept_with_an_adapter() -> None:
    paths = flat.views(flat.join(state_of(1, frozen=True).state_dict())).keys()
    assert {path[1] for path in paths} == {"1.weight", "1.bias", "seen"}


@pytest.mark.parametrize("kind", [ReplicatedState, TorchState], ids=["DDP", "by name"])
def test_a_frozen_weight_with_two_names_is_kept_under_neither(kind: type[TorchState]) -> None:
    model = torch.nn.ModuleDict(
        {"embed": torch.nn.Linear(3, 3, bias=False), "adapter": torch.nn.Linear(3, 3)}
    )
    model["head"] = torch.nn.Linear(3, 3, bias=False)
    model["head"].weight = model["embed"].weight
    model["embed"].weight.requires_grad_(False)
    optimizer = torch.optim.AdamW(model["adapter"].parameters(), lr=0.1)
    model["adapter"](torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = kind(
        strategy="DDP", model=model, optimizer=optimizer, scheduler=None, counters={}, trainable_only=True
    )
    made = state.state_dict()
    names = set(made["model"]) if "model" in made else {path[1] for path in flat.views(flat.join(made))}
    assert names == {"adapter.weight", "adapter.bias"}


def test_a_loaded_state_shares_no_memory_with_what_it_was_loaded_from() -> None:
    state = flat.join(state_of(1, frozen=False).state_dict())
    fresh = state_of(0, frozen=False)
    fresh.load_flat(state)
    for buffer in state[flat.FLAT].values():
        buffer.zero_()
    assert any(weight.abs().sum() > 0 for weight in fresh.model.parameters())
    assert all(entry["exp_avg"].abs().sum() > 0 for entry in fresh.optimizer.state.values())


@pytest.mark.parametrize(
    ("value", "plain"),
    [(1, True), (0.1, True), (None, True), ((0.9, 0.99), True), (torch.ones(1), False), ({}, False)],
)
def test_settings_that_json_keeps_exactly(value: Any, plain: bool) -> None:
    assert is_plain(value) is plain


def test_groups_get_their_settings_back_in_their_own_types() -> None:
    groups = [{"lr": 1.0, "betas": (0.1, 0.2), "params": ["kept"]}]
    settle(groups, [{"lr": 0.1 + 0.2, "betas": [0.9, 0.95]}])
    assert groups == [{"lr": 0.1 + 0.2, "betas": (0.9, 0.95), "params": ["kept"]}]
    with pytest.raises(ValueError, match=r"shorter|longer"):
        settle(groups, [])
