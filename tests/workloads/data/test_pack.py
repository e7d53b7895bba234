"""Packing: everything once, nothing too long, few packs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass_workloads.data.pack import pack


@given(st.lists(st.integers(1, 64), max_size=120))
def test_every_sample_is_in_one_pack_that_holds_it(lengths):
    packs = pack(lengths, 64)
    assert sorted(sample for group in packs for sample in group) == list(range(len(lengths)))
    assert all(sum(lengths[sample] for sample in group) <= 64 for group in packs)


@given(st.lists(st.integers(1, 64), min_size=1, max_size=120))
def test_at_most_one_pack_is_less_than_half_full(lengths):
    fill = sorted(sum(lengths[sample] for sample in group) for group in pack(lengths, 64))
    assert all(full > 32 for full in fill[1:])


def test_the_same_lengths_give_the_same_packs():
    lengths = [40, 10, 30, 24, 24, 64, 1]
    assert pack(lengths, 64) == pack(list(lengths), 64) == [[5], [0, 3], [2, 4, 1], [6]]


@pytest.mark.parametrize("length", [0, 65])
def test_a_length_that_no_pack_holds_is_an_error(length):
    with pytest.raises(
        ValueError, match=rf"lengths\[1\]: does not fit a pack \(got {length}\); allowed 1\.\.64\."
    ):
        pack([3, length], 64)
