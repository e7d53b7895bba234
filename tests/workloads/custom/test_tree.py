"""A state of any shape goes into a checkpoint and comes back as it was, or is refused by its place."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass_workloads.checkpoint.flat import INDEX, join
from windlass_workloads.custom.tree import TreeState, pack, shape_of, unpack

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.uint8)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return (
            isinstance(other, torch.Tensor)
            and one.dtype == other.dtype
            and one.shape == other.shape
            and one.untyped_storage().nbytes() >= 0
            and bool(torch.equal(one, other))
        )
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and list(one) == list(other)
            and all(same(one[key], other[key]) for key in one)
        )
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and bool(one == other)


def there_and_back(tree: Any) -> Any:
    """As a save and a load do it, without the files."""
    return unpack(join(pack(tree)))


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    dtype = draw(st.sampled_from(DTYPES))
    values = torch.arange(torch.Size(shape).numel()).reshape(shape)
    return (values + draw(st.integers(0, 5))).to(dtype)


PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5), tensors()
)
KEYS = st.one_of(st.text(max_size=4), st.integers(-3, 300))
TREES = st.recursive(
    PLAIN,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(TREES)
def test_any_state_comes_back_as_it_was(tree: Any) -> None:
    assert same(tree, there_and_back(tree))


@pytest.mark.parametrize(
    "tree",
    [
        {},
        [],
        (),
        None,
        {"tensor": "0"},
        {"dict": [["a", 1]], "list": [], "tuple": {}},
        {1: "one", "1": "text"},
        {"lr": float("inf"), "big": 2**80, "betas": (0.9, 0.999), "foreach": None, "flag": True},
        {"a.b": torch.ones(1), "a": {"b": torch.zeros(1)}},
    ],
    ids=str,
)
def test_forms_that_could_be_mistaken_for_others(tree: Any) -> None:
    assert same(tree, there_and_back(tree))


def test_no_number_stays_none() -> None:
    (back,) = there_and_back([float("nan")])
    assert back != back


def test_a_real_optimizer_and_model_go_on_from_what_comes_back() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    back = there_and_back({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    other = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))
    fresh = torch.optim.AdamW(other.parameters(), lr=0.5)
    other.load_state_dict(back["model"])
    fresh.load_state_dict(back["optimizer"])
    for one, two in ((model, optimizer), (other, fresh)):
        two.zero_grad()
        one(torch.ones(2, 3)).sum().backward()
        two.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_tied_weights_and_views_come_back_with_their_own_numbers() -> None:
    base = torch.arange(12.0).reshape(3, 4)
    square = torch.arange(4.0).reshape(2, 2)
    tree = {
        "whole": base,
        "tied": base,
        "row": base[1],
        "column": base[:, 1],
        "square": square,
        "turned": square.T,
    }
    back = there_and_back(tree)
    assert same(tree, back)
    back["tied"].add_(1)
    assert torch.equal(back["whole"], base), "what was shared is not shared any more"


def test_what_has_a_gradient_is_kept_without_it() -> None:
    back = there_and_back({"w": torch.nn.Parameter(torch.ones(2))})
    assert not back["w"].requires_grad


def test_dictionaries_keep_their_order_and_lose_their_kind() -> None:
    back = there_and_back(OrderedDict([("b", 1), ("a", 2)]))
    assert type(back) is dict and list(back) == ["b", "a"]


class Odd:
    """Of no use in a checkpoint."""


REFUSED: list[tuple[Any, str]] = [
    ({"a": {"b": [1, Odd()]}}, r"^state\.a\.b\[1\]: cannot be saved \(got Odd\)"),
    ({"a": numpy.zeros(2)}, r"^state\.a: cannot be saved \(got ndarray\).* torch\.from_numpy"),
    ({"a": numpy.int64(3)}, r"^state\.a: .*\.item\(\)"),
    ({"a": b"bytes"}, r"got bytes"),
    ({"a": {1, 2}}, r"got set"),
    ({"a": len}, r"got builtin_function_or_method"),
    ({"a": 1j}, r"got complex"),
    ({("x", 1): 2}, r"^state: a key cannot be saved \(got \('x', 1\) of type tuple\)"),
    ({True: 2}, r"a key cannot be saved \(got True"),
    ({None: 2}, r"a key cannot be saved \(got None"),
    ({"s": torch.ones(2, 2).to_sparse()}, r"^state\.s: .*sparse.*to_dense"),
    ({"m": torch.ones(2, device="meta")}, r"on meta"),
]


@pytest.mark.parametrize(("tree", "text"), REFUSED, ids=[str(n) for n in range(len(REFUSED))])
def test_what_could_not_come_back_is_refused_by_its_place(tree: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text) as caught:
        pack(tree)
    assert "allowed" in str(caught.value) and "hint: " in str(caught.value)


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ({"w": torch.ones(2)}, {"w": torch.zeros(2)}, True),
        ({"w": torch.ones(2)}, {"w": torch.ones(3)}, False),
        ({"w": torch.ones(2)}, {"v": torch.ones(2)}, False),
        ({"w": torch.ones(2)}, {"w": torch.ones(2).double()}, False),
        ({"rank": 0}, {"rank": 1}, False),
        ({"a": (1,)}, {"a": [1]}, False),
    ],
)
def test_the_form_is_all_but_the_numbers_in_tensors(one: Any, other: Any, equal: bool) -> None:
    assert (shape_of(pack(one)) == shape_of(pack(other))) == equal


def test_nothing_is_ever_unpickled() -> None:
    packed = join(pack({"a": [1, "x"], "w": torch.ones(1)}))
    assert isinstance(packed["plain"], str) and isinstance(packed[INDEX], str)
    assert json.loads(packed["plain"])["dict"][0][0] == "a"


def test_a_checkpoint_of_another_form_is_refused() -> None:
    state = TreeState()
    for call in (state.by_name, lambda: state.load_state_dict({})):
        with pytest.raises(ValueError, match=r"not saved by windlass_workloads\.custom"):
            call()


def test_an_index_that_does_not_fit_is_an_error_and_no_other_tensor() -> None:
    packed = join(pack({"w": torch.ones(4)}))
    packed[INDEX] = packed[INDEX].replace("[4]", "[5]")
    with pytest.raises(ValueError, match="index of the checkpoint"):
        unpack(packed)
