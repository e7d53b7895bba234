"""Preparing data: what is written, found again, held out, repeated, cut, and refused."""

from __future__ import annotations

import json

import pytest

from tests.tiny import write_data
from windlass.api.meta import Reason
from windlass.api.training import Data
from windlass_workloads.data import arrays
from windlass_workloads.data.errors import StopRequested, WorkloadError
from windlass_workloads.data.prepare import Preparation, prepare
from windlass_workloads.data.sources import Finder, Roots


@pytest.fixture
def work(tmp_path, tokenizer):
    write_data(tmp_path / "volumes" / "data" / "train.jsonl", count=60)

    def make(seed=17, check=lambda: None, source=None, **data):
        sources = [{"uri": "pvc://data/train.jsonl", **(source or {})}]
        return Preparation(
            data=Data.model_validate({"sources": sources, "sequenceLength": 64, **data}),
            seed=seed,
            tokenizer=tokenizer,
            tokenizer_digest="t",
            finder=Finder(Roots(tmp_path / "volumes", tmp_path), tmp_path / "cache"),
            directory=tmp_path / "prepared",
            check=check,
        )

    return make


def samples(work, index, split="train"):
    opened = arrays.open_split(work.directory / index.name / split)
    return [tuple(tokens.tolist()) for unit in range(len(opened)) for tokens, _ in opened.samples_of(unit)]


def test_the_second_call_finds_the_first_ones_work(work, monkeypatch):
    first = prepare(work())
    monkeypatch.setattr("windlass_workloads.data.prepare.make_sample", None)
    assert prepare(work()) == first
    assert first.train_samples == first.train_units == 60
    assert sorted(path.name for path in work().directory.iterdir()) == [first.name]


def test_the_same_input_gives_the_same_digest_and_another_input_another_name(work, tmp_path):
    first = prepare(work())
    again = work()
    (again.directory / first.name / arrays.INDEX).unlink()
    assert prepare(again) == first
    assert prepare(work(seed=18)).name != first.name
    assert prepare(work(packing=True)).name != first.name
    write_data(tmp_path / "volumes" / "data" / "train.jsonl", count=61)
    assert prepare(work()).digest != first.digest


@pytest.mark.parametrize("name", ["train/tokens.bin", "index.json"])
def test_a_directory_that_is_not_whole_is_made_again(work, name):
    first = prepare(work())
    path = work().directory / first.name / name
    path.write_bytes(path.read_bytes()[:-1])
    assert arrays.read_index(path.parents[1] if "/" in name else path.parent) is None
    assert prepare(work()) == first
    assert len(samples(work(), first)) == 60


def test_ranks_refuse_a_directory_that_is_not_whole(tmp_path):
    with pytest.raises(
        WorkloadError, match=r"prepared data gone is missing or incomplete in the checkpoint store\."
    ):
        arrays.open_prepared(tmp_path / "gone")


def test_validation_is_held_out_by_content(work, tmp_path):
    path = tmp_path / "volumes" / "data" / "train.jsonl"
    path.write_text(path.read_text() * 2)
    index = prepare(work(validation={"fraction": "0.3"}))
    train, held_out = samples(work(), index), samples(work(), index, "validation")
    assert len(train) + len(held_out) == 120
    assert 12 <= len(held_out) <= 60
    assert not set(train) & set(held_out)


def test_a_validation_file_is_read_like_the_first_source(work, tmp_path):
    write_data(tmp_path / "volumes" / "data" / "held.jsonl", count=7, seed=9)
    index = prepare(work(validation={"uri": "pvc://data/held.jsonl"}))
    assert (index.train_samples, index.validation_samples) == (60, 7)


@pytest.fixture
def mix(work, tmp_path):
    """Prepares two files of 60 rows each with these weights; what was taken of each, and the index."""
    write_data(tmp_path / "volumes" / "data" / "second.jsonl", count=60, seed=9)
    uris = ("pvc://data/train.jsonl", "pvc://data/second.jsonl")
    of_first = set(samples(work(), prepare(work())))

    def make(first, second, **more):
        sources = [{"uri": uri, "weight": weight} for uri, weight in zip(uris, (first, second), strict=True)]
        job = work(sources=sources, **more)
        index = prepare(job)
        rows = samples(job, index)
        return [row for row in rows if row in of_first], [row for row in rows if row not in of_first], index

    return make


@pytest.mark.parametrize("weights", [("1", "1"), ("0.25", "0.25"), ("7", "7")])
def test_equal_weights_take_every_row_once(mix, weights):
    first, second, index = mix(*weights)
    assert (len(first), len(second), index.warnings) == (60, 60, [])


@pytest.mark.parametrize(("weights", "thinned"), [(("1", "0.5"), 1), (("3", "6"), 0), (("1000", "500"), 1)])
def test_a_source_of_half_the_weight_gives_half_its_rows(mix, weights, thinned):
    *sides, index = mix(*weights)
    assert len(sides[1 - thinned]) == 60
    assert 18 <= len(sides[thinned]) <= 42
    assert index.warnings == [
        f"spec.data.sources[{thinned}].weight: {60 - len(sides[thinned])} of 60 rows are left out of each pass "
        f"(weight {weights[thinned]} beside {weights[1 - thinned]})"
    ]


def test_which_rows_stay_follows_from_the_seed(mix):
    chosen = {seed: mix("1", "0.5", seed=seed)[1] for seed in (17, 18)}
    assert chosen[17] != chosen[18]
    assert mix("2", "1", seed=17)[1] == chosen[17]


def test_a_single_source_is_whole_whatever_its_weight(work):
    assert prepare(work(source={"weight": "0.5"})).train_samples == 60


def test_held_out_rows_are_not_thinned(mix):
    *_, whole = mix("1", "1", validation={"fraction": "0.3"})
    *_, thinned = mix("1", "0.5", validation={"fraction": "0.3"})
    assert thinned.validation_samples == whole.validation_samples
    left_out = whole.train_samples - thinned.train_samples
    assert thinned.warnings[0].startswith(f"spec.data.sources[1].weight: {left_out} of ")


def test_packs_hold_all_samples_within_the_length(work):
    plain, packed = prepare(work()), prepare(work(packing=True))
    split = arrays.open_split(work().directory / packed.name / "train")
    assert packed.train_units < plain.train_units / 2
    assert max(split.unit_lengths) <= 64
    assert sorted(samples(work(), packed)) == sorted(samples(work(), plain))
    assert packed.train_samples == 60


def test_long_samples_are_cut_and_those_left_without_a_target_dropped(work, tmp_path):
    long = "my router broke " * 30
    chats = [("my router broke", "router"), (long, "router"), ("my router broke", long)]
    rows = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}
        for asked, answer in chats
    ]
    path = tmp_path / "volumes" / "data" / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    index = prepare(work(sequenceLength=24))
    assert (index.train_samples, index.dropped_samples) == (2, 1)
    assert max(len(tokens) for tokens in samples(work(), index)) <= 24
    assert index.warnings == [
        "spec.data.sequenceLength: 2 samples were cut to 24 tokens",
        "spec.data: 1 samples were dropped, nothing to learn was left in them",
    ]


def test_all_tokens_count_when_the_loss_is_on_all(work):
    completion, everything = prepare(work()), prepare(work(lossOn="All"))
    targets = [
        int(arrays.open_split(work().directory / index.name / "train").unit_targets.sum())
        for index in (completion, everything)
    ]
    assert targets[1] == everything.train_tokens - 60
    assert targets[0] < targets[1] / 2


def test_a_bad_row_is_told_with_its_place_and_nothing_is_left_behind(work, tmp_path):
    path = tmp_path / "volumes" / "data" / "train.jsonl"
    with path.open("a") as file:
        file.write(json.dumps({"messages": [{"role": "user", "content": "x"}]}) + "\n")
    with pytest.raises(WorkloadError) as caught:
        prepare(work())
    assert caught.value.reason == Reason.DATA_UNREADABLE
    assert caught.value.evidence == (
        "train.jsonl:61: messages has no assistant turn, so there is nothing to learn",
    )
    assert list(work().directory.iterdir()) == []


def test_no_sample_at_all_is_refused(work, tmp_path):
    (tmp_path / "volumes" / "data" / "train.jsonl").write_text("\n")
    with pytest.raises(WorkloadError) as caught:
        prepare(work())
    assert str(caught.value) == (
        "spec.data.sources: no sample to train on (got 0; 0 samples had nothing to learn within sequenceLength 64); "
        "allowed at least 1. hint: check the files' contents, the weights and data.sequenceLength."
    )


def test_an_empty_validation_split_is_refused(work):
    with pytest.raises(WorkloadError) as caught:
        prepare(work(validation={"fraction": "0.000001"}))
    assert caught.value.reason == Reason.DATA_EMPTY
    assert caught.value.message == (
        "spec.data.validation: no sample to validate on (got 0 of 60); allowed at least 1."
    )


def test_a_stop_leaves_nothing_behind(work):
    def stop():
        raise StopRequested

    with pytest.raises(StopRequested):
        prepare(work(check=stop))
    assert list(work().directory.iterdir()) == []
