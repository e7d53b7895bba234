"""Which tokens are hidden, and what stands in their place; what the losses of pre-training are, by their formulas."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass_workloads.data.arrays import Split, open_split
from windlass_workloads.data.order import deal
from windlass_workloads.data.rows import Rows, all_but_first, write_rows
from windlass_workloads.train.objectives.batch import IGNORED, Batch
from windlass_workloads.train.objectives.masked import Masked, Vocabulary, hide, targets
from windlass_workloads.train.objectives.supervised import NextToken

settings.register_profile("windlass", deadline=None)
settings.load_profile("windlass")

WORDS = Vocabulary(size=1000, mask=4, special=(0, 1, 2, 3, 4))
FIVE = st.lists(st.integers(0, 12), min_size=1, max_size=60)
SHARES = st.sampled_from(["0.001", "0.15", "0.3", "0.5", "0.9"])


def row(size: int, seed: int = 0) -> Rows:
    """Tokens none of which is special."""
    return np.random.default_rng(seed).integers(5, 1000, size).astype(np.int32)


def counted(tokens: Rows, share: str) -> int:
    return int(targets(WORDS, share)(tokens[None])[0])


def hidden(tokens: Rows, share: str, **key: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    return hide(tokens, counted(tokens, share), WORDS, **{"seed": 17, "step": 1, "unit": 0, **key})


# --- how many, and which ---------------------------------------------------------------------------


@given(FIVE, SHARES, st.integers(0, 2**31), st.integers(0, 10**6), st.integers(0, 10**9))
def test_as_many_are_hidden_as_the_table_says_and_none_that_is_special(
    tokens: list[int], share: str, seed: int, step: int, unit: int
) -> None:
    found = np.asarray(tokens, dtype=np.int32)
    free = sum(token > 4 for token in tokens)
    count = counted(found, share)
    assert count == max(round(free * float(share)), min(free, 1))
    seen, said = hide(found, count, WORDS, seed=seed, step=step, unit=unit)
    places = said != IGNORED
    assert int(places.sum()) == count
    assert not np.isin(found[places], WORDS.special).any()
    assert (said[places] == found[places]).all()
    assert (seen[~places] == found[~places]).all()
    assert ((seen >= 0) & (seen < WORDS.size)).all()


@pytest.mark.parametrize(
    ("share", "counts"),
    [("0.0001", [1, 1, 1]), ("0.15", [1, 3, 150]), ("0.5", [1, 10, 500]), ("0.9", [2, 18, 900])],
)
def test_at_least_one_token_of_a_row_is_hidden_and_never_all_of_a_long_one(
    share: str, counts: list[int]
) -> None:
    assert [counted(row(size), share) for size in (2, 20, 1000)] == counts


def test_a_row_of_special_tokens_hides_none() -> None:
    tokens = np.asarray([1, 0, 2, 3, 4, 0, 2], dtype=np.int32)
    assert counted(tokens, "0.9") == 0
    seen, said = hidden(tokens, "0.9")
    assert seen.tolist() == tokens.tolist() and set(said.tolist()) == {IGNORED}


def test_of_the_hidden_8_in_10_become_the_mask_1_another_and_1_stays() -> None:
    tokens = row(200_000)
    seen, said = hidden(tokens, "0.5")
    places = said != IGNORED
    count = int(places.sum())
    assert count == 100_000
    masked = int((seen[places] == WORDS.mask).sum())
    stayed = int((seen[places] == tokens[places]).sum())
    # Bounds of five standard deviations; one in a thousand of the others is the mask or the token itself by chance.
    for found, share in ((masked, 0.8001), (stayed, 0.1001), (count - masked - stayed, 0.0998)):
        assert abs(found - count * share) < 5 * (count * share * (1 - share)) ** 0.5
    others = seen[places & (seen != tokens) & (seen != WORDS.mask)]
    assert len(np.unique(others)) > 990, "another token may be any"


def test_hiding_is_a_pure_function_of_seed_step_and_row() -> None:
    tokens = row(400)
    first = hidden(tokens, "0.15", seed=3, step=5, unit=7)
    np.random.seed(1)
    torch.manual_seed(1)
    again = hidden(tokens, "0.15", seed=3, step=5, unit=7)
    assert all((one == other).all() for one, other in zip(first, again, strict=True))
    for key in ({"seed": 4}, {"step": 6}, {"unit": 8}):
        other = hidden(tokens, "0.15", **{"seed": 3, "step": 5, "unit": 7, **key})
        assert ((first[1] != IGNORED) != (other[1] != IGNORED)).sum() > 60


def test_a_small_row_hides_what_it_has_always_hidden() -> None:
    # A change here would silently change what every resumed run learns: numpy does not promise its streams.
    seen, said = hidden(np.arange(100, 120, dtype=np.int32), "0.5")
    assert seen.tolist() == [
        4,
        101,
        102,
        103,
        4,
        45,
        106,
        107,
        108,
        109,
        110,
        111,
        112,
        4,
        114,
        4,
        4,
        4,
        11,
        4,
    ]
    assert np.flatnonzero(said != IGNORED).tolist() == [0, 4, 5, 8, 13, 15, 16, 17, 18, 19]


def test_over_the_steps_every_token_is_hidden_at_times() -> None:
    tokens = row(40)
    times = sum((hidden(tokens, "0.15", step=step)[1] != IGNORED).astype(int) for step in range(1, 400))
    assert times.min() > 25 and times.max() < 100


# --- batches ---------------------------------------------------------------------------------------


def split_of(root: Path, tokens: Rows, share: str | None) -> Split:
    root.mkdir(parents=True, exist_ok=True)
    (root / "tokens").write_bytes(tokens.tobytes())
    count = targets(WORDS, share) if share is not None else all_but_first
    write_rows(root / "split", [[root / "tokens"]], tokens.shape[1], count)
    return open_split(root / "split")


def test_a_batch_hides_what_each_of_its_rows_hides_alone(tmp_path: Path) -> None:
    tokens = np.stack([row(24, seed) for seed in range(6)])
    tokens[2, :20] = 3
    split, objective = split_of(tmp_path, tokens, "0.3"), Masked(WORDS, seed=9)
    assert split.unit_targets.tolist() == [7, 7, 1, 7, 7, 7]
    together = objective.collate(split, [4, 2, 0], step=3)
    for place, unit in enumerate([4, 2, 0]):
        seen, said = hide(tokens[unit], int(split.unit_targets[unit]), WORDS, seed=9, step=3, unit=unit)
        assert together.inputs["input_ids"][place].tolist() == seen.tolist()
        assert together.targets[place].tolist() == said.tolist()
    assert together.inputs["attention_mask"].all() and together.kept.tolist() == list(range(24))


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_hide_the_same_tokens_of_a_batch_whatever_is_dealt_to_them(tmp_path: Path, world: int) -> None:
    split = split_of(tmp_path, np.stack([row(24, seed) for seed in range(8)]), "0.3")
    objective, units = Masked(WORDS, seed=9), [5, 1, 7, 0, 3, 2, 6, 4]
    found: dict[tuple[int, ...], list[int]] = {}
    for hand in deal(units, [24] * 8, micro=2, world=world):
        for group in hand:
            batch = objective.collate(split, group, step=2)
            said = batch.targets.tolist()
            found |= {(unit,): said[place] for place, unit in enumerate(group)}
    alone = objective.collate(split, units, step=2).targets.tolist()
    assert found == {(unit,): alone[place] for place, unit in enumerate(units)}


class Model:
    """Logits that are given; remembers what it was asked for."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits
        self.asked: dict[str, Any] = {}

    def __call__(self, **asked: Any) -> Any:
        self.asked = asked
        kept = asked.get("logits_to_keep")
        return SimpleNamespace(logits=self.logits if kept is None else self.logits[:, kept])


def logits_of(rows: int, width: int, vocabulary: int, scale: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return scale * torch.randn(rows, width, vocabulary, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("weight", [1.0, 0.0])
def test_the_masked_loss_is_the_sum_over_the_hidden_tokens(tmp_path: Path, weight: float) -> None:
    split = split_of(tmp_path, np.stack([row(24, seed) for seed in range(3)]), "0.3")
    batch = Masked(WORDS, 1).collate(split, [0, 1, 2], step=1, weight=weight)
    logits = logits_of(3, 24, 1000)
    model = Model(logits)
    wanted = -sum(
        float(torch.log_softmax(logits[place, at].float(), -1)[target])
        for place in range(3)
        for at, target in enumerate(batch.targets[place].tolist())
        if target != IGNORED
    )
    assert float(Masked(WORDS, 1).loss_sum(model, batch)) == pytest.approx(weight * wanted, rel=1e-6)
    # Positions are counted by the model: RoBERTa begins behind its padding's.
    assert set(model.asked) == {"input_ids", "attention_mask"}


def test_a_batch_that_hides_nothing_has_a_loss_of_nothing_and_gradients(tmp_path: Path) -> None:
    split = split_of(tmp_path, np.full((2, 8), 3, dtype=np.int32), "0.3")
    batch = Masked(WORDS, 1).collate(split, [0, 1], step=1)
    logits = logits_of(2, 8, 1000).requires_grad_()
    loss = Masked(WORDS, 1).loss_sum(Model(logits), batch)
    loss.backward()
    assert float(loss.detach()) == 0.0 and logits.grad is not None and not logits.grad.any()


# --- z-loss ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("chooses", [True, False])
def test_the_z_loss_is_the_squared_logarithm_of_the_normaliser_and_only_guides_the_learning(
    tmp_path: Path, chooses: bool
) -> None:
    split = split_of(tmp_path, np.stack([row(12, seed) for seed in range(2)]), None)
    plain = NextToken(packed=False, chooses_logits=chooses)
    guided = NextToken(packed=False, chooses_logits=chooses, z_loss=0.01)
    batch, logits = plain.collate(split, [0, 1]), logits_of(2, 12, 1000)
    model = Model(logits)
    without = float(plain.loss_sum(model, batch))
    normalisers = [
        float(logits[place, at].float().exp().sum().log()) for place in range(2) for at in range(11)
    ]
    wanted = without + 0.01 * sum(value**2 for value in normalisers)
    assert float(guided.loss_sum(model, batch)) == pytest.approx(wanted, rel=1e-6)
    assert wanted > without + 1
    assert float(guided.loss_sum(model, batch, learning=False)) == without


def test_the_z_loss_is_over_the_learned_tokens_alone() -> None:
    said = torch.tensor([[5, IGNORED, 7], [IGNORED, IGNORED, 2]])
    tokens = torch.zeros(2, 3, dtype=torch.int64)
    batch, logits = Batch({"input_ids": tokens}, torch.arange(3), said, 1.0), logits_of(2, 3, 50)
    without = float(NextToken(packed=False, chooses_logits=True).loss_sum(Model(logits), batch))
    guided = float(NextToken(packed=False, chooses_logits=True, z_loss=0.5).loss_sum(Model(logits), batch))
    normalisers = [float(logits[place].float().exp().sum().log()) for place in ((0, 0), (0, 2), (1, 2))]
    assert guided == pytest.approx(without + 0.5 * sum(value**2 for value in normalisers), rel=1e-6)
