"""Saves and loads with real ranks: exact resume, change of world size, faults in the middle of a save."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from windlass.api.contract import Incarnation
from windlass_workloads.checkpoint import choose, incarnations
from windlass_workloads.checkpoint import manifest as manifests
from windlass_workloads.checkpoint.store import MANIFEST, RunStore
from workloads.checkpoint.conftest import Gang
from workloads.checkpoint.support import RUN_UID, incarnation

pytestmark = pytest.mark.workloads

STRATEGIES = ("DDP", "FSDP", "ZeRO-1", "ZeRO-2", "ZeRO-3")
AT_THREE = "step-00000003.i1"


def events_of(answer: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [event for event in answer["events"] if event["type"] == kind]


def verified(store: RunStore, name: str) -> bool:
    manifest = manifests.read(store, name)
    return manifests.verify(store.path(name), manifest, deep=True) == []


def claim_next(store: RunStore) -> Incarnation:
    newest = incarnations.newest(store)
    choice = choose.choose(store, newest, "Latest")
    number = 1 if newest is None else newest.incarnation + 1
    record = incarnation(number, accepted=list(choice.accepted), resume=choice.name)
    assert incarnations.claim(store, record)
    return record


@pytest.mark.parametrize("frozen", [False, True], ids=["full", "adapter"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_resume_is_bitwise_equal_to_never_having_stopped(
    gang: Gang, store: RunStore, strategy: str, frozen: bool
) -> None:
    whole = gang(root=store.root, strategy=strategy, frozen=frozen, total=6, save_at=[3])
    assert verified(store, AT_THREE)
    resumed = gang(
        root=store.root, strategy=strategy, frozen=frozen, total=6, resume=AT_THREE, seed=7 if frozen else 99
    )
    for before, after in zip(whole, resumed, strict=True):
        assert after["losses"] == before["losses"][3:]
        assert after["digest"] == before["digest"]


def test_one_rank_without_a_process_group_resumes_exactly(gang: Gang, store: RunStore) -> None:
    (whole,) = gang(root=store.root, strategy="DDP", world=1, total=5, save_at=[3])
    (resumed,) = gang(root=store.root, strategy="DDP", world=1, total=5, resume=AT_THREE, seed=99)
    assert (resumed["losses"], resumed["digest"]) == (whole["losses"][3:], whole["digest"])


def test_the_manifest_and_the_event_say_what_was_saved(gang: Gang, store: RunStore) -> None:
    first, second = gang(root=store.root, strategy="FSDP", total=4, save_at=[3], block_at=[3])
    manifest = manifests.read(store, AT_THREE)
    assert (manifest.strategy, manifest.format, manifest.world_size) == ("FSDP", "DCP", 2)
    assert (manifest.run_uid, manifest.global_batch_size, manifest.seed) == (RUN_UID, 4, 17)
    assert {entry.path for entry in manifest.files} == {
        ".metadata",
        "__0_0.distcp",
        "__1_0.distcp",
        "rank-0.files.json",
        "rank-1.files.json",
    }
    (event,) = events_of(first, "Checkpoint")
    assert event["checkpoint"]["digest"] == manifest.files_digest
    assert event["checkpoint"]["bytes"] == manifests.total_bytes(manifest)
    assert event["message"] == "blocking"
    assert event["stallSeconds"] == event["writeSeconds"] > 0
    assert second["events"] == []
    assert first["result"] == second["result"] == [3, None]


def test_parents_form_a_chain_across_incarnations(gang: Gang, store: RunStore) -> None:
    gang(root=store.root, strategy="DDP", total=4, save_at=[3, 4])
    record = claim_next(store)
    gang(root=store.root, strategy="DDP", total=5, save_at=[5], resume=record.resume, incarnation=2)
    parents = [manifests.read(store, name).parent for name in store.list_checkpoints()]
    assert parents == ["step-00000004.i1", AT_THREE, None]


def test_asynchronous_and_blocking_saves_hold_the_same(gang: Gang, tmp_path: Path) -> None:
    results = []
    for asynchronous in (True, False):
        store = RunStore(tmp_path / str(asynchronous))
        args = {"root": store.root, "strategy": "FSDP", "asynchronous": asynchronous}
        whole = gang(**args, total=6, save_at=[3])
        resumed = gang(**args, total=6, resume=AT_THREE, seed=99)
        sizes = {entry.path: entry.size for entry in manifests.read(store, AT_THREE).files}
        results.append(([each["digest"] for each in resumed], [each["digest"] for each in whole], sizes))
    assert results[0][0] == results[0][1] == results[1][0] == results[1][1]
    assert set(results[0][2]) == set(results[1][2])


@pytest.mark.parametrize("strategy", ["DDP", "FSDP"])
def test_the_number_of_ranks_may_change_and_change_back(gang: Gang, store: RunStore, strategy: str) -> None:
    args: dict[str, Any] = {"root": store.root, "strategy": strategy, "dropout": 0.0}
    whole = gang(**args, total=9)
    gang(**args, total=3, save_at=[3])
    (alone,) = gang(**args, world=1, total=6, save_at=[6], resume=AT_THREE, seed=99)
    again = gang(**args, total=9, resume="step-00000006.i1", seed=98)
    stitched = alone["losses"] + again[0]["losses"]
    assert stitched == pytest.approx(whole[0]["losses"][3:], rel=1e-5)


def test_generators_of_new_ranks_are_derived_the_same_way_every_time(gang: Gang, store: RunStore) -> None:
    gang(root=store.root, strategy="FSDP", world=1, total=3, save_at=[3])
    runs = [gang(root=store.root, strategy="FSDP", total=5, resume=AT_THREE, seed=seed) for seed in (5, 6)]
    assert runs[0][1]["losses"] == runs[1][1]["losses"]
    assert [each["digest"] for each in runs[0]] == [each["digest"] for each in runs[1]]


@pytest.mark.fault("F60")
def test_deepspeed_says_that_it_cannot_load_what_was_not_converted(gang: Gang, store: RunStore) -> None:
    gang(root=store.root, strategy="ZeRO-2", total=3, save_at=[3])
    (answer,) = gang(root=store.root, strategy="ZeRO-2", world=1, total=4, resume=AT_THREE)
    assert answer["unusable"] == (
        f"checkpoint {AT_THREE}: spec.resources: DeepSpeed saved it with 2 ranks, and it has no universal copy for "
        "another number (got 1); allowed 2. hint: a restart makes the copy; look at the failure of the one that did "
        "not"
    )


@pytest.mark.parametrize(
    ("saved", "loaded", "text"),
    [
        (
            "FSDP",
            "ZeRO-1",
            "spec.parallelism.strategy: it was saved by FSDP (got DeepSpeed-1); allowed a strategy of",
        ),
        (
            "ZeRO-1",
            "DDP",
            "spec.parallelism.strategy: it was saved by DeepSpeed-1 (got DDP); allowed a strategy of",
        ),
        (
            "ZeRO-1",
            "ZeRO-3",
            "spec.parallelism.zeroStage: it was saved by DeepSpeed-1 (got DeepSpeed-3); allowed",
        ),
    ],
)
def test_a_strategy_that_cannot_read_it_is_told_so(
    gang: Gang, store: RunStore, saved: str, loaded: str, text: str
) -> None:
    gang(root=store.root, strategy=saved, total=3, save_at=[3])
    for answer in gang(root=store.root, strategy=loaded, total=4, resume=AT_THREE):
        assert text in answer["unusable"]


def test_ddp_and_fsdp_read_each_others_checkpoints(gang: Gang, store: RunStore) -> None:
    whole = gang(root=store.root, strategy="DDP", dropout=0.0, total=6, save_at=[3])
    after = gang(root=store.root, strategy="FSDP", dropout=0.0, total=6, resume=AT_THREE, seed=99)
    assert after[0]["losses"] == pytest.approx(whole[0]["losses"][3:], rel=1e-5)


def test_what_ddp_once_saved_by_name_is_still_read(gang: Gang, store: RunStore) -> None:
    whole = gang(root=store.root, strategy="DDP", by_name=True, total=6, save_at=[3])
    after = gang(root=store.root, strategy="DDP", total=6, resume=AT_THREE, seed=99)
    for before, resumed in zip(whole, after, strict=True):
        assert resumed["losses"] == before["losses"][3:]
        assert resumed["digest"] == before["digest"]


def test_fsdp_reads_ddp_and_ddp_reads_that_again(gang: Gang, store: RunStore) -> None:
    whole = gang(root=store.root, strategy="DDP", dropout=0.0, frozen=True, total=9, save_at=[3])
    middle = gang(
        root=store.root, strategy="FSDP", dropout=0.0, frozen=True, total=6, resume=AT_THREE, save_at=[6]
    )
    last = gang(root=store.root, strategy="DDP", dropout=0.0, frozen=True, total=9, resume="step-00000006.i1")
    losses = whole[0]["losses"][:3] + middle[0]["losses"] + last[0]["losses"]
    assert losses == pytest.approx(whole[0]["losses"], rel=1e-5)


def test_a_model_of_another_shape_is_evidence_not_a_crash(gang: Gang, store: RunStore) -> None:
    gang(root=store.root, strategy="DDP", total=3, save_at=[3], frozen=True)
    for answer in gang(root=store.root, strategy="DDP", total=4, resume=AT_THREE):
        assert "it does not fit the model or could not be read" in answer["unusable"]
        assert any("embed" in line for line in answer["evidence"])


@pytest.mark.parametrize("strategy", ["FSDP", "ZeRO-1"])
def test_a_flipped_bit_stops_every_rank_with_the_same_evidence(
    gang: Gang, store: RunStore, strategy: str
) -> None:
    gang(root=store.root, strategy=strategy, total=3, save_at=[3])
    manifest = manifests.read(store, AT_THREE)
    victim = max(manifest.files, key=lambda entry: entry.size)
    path = store.path(AT_THREE) / victim.path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    answers = gang(root=store.root, strategy=strategy, total=4, resume=AT_THREE)
    assert answers[0] == answers[1]
    assert answers[0]["unusable"] == (
        f"checkpoint {AT_THREE}: its content is damaged. hint: the run falls back to the next verified "
        "checkpoint by itself; check the volume for errors"
    )
    assert answers[0]["evidence"] == [
        f"{victim.path}: has digest {manifests.hash_file(path)}, expected {victim.xxh3}"
    ]


def test_a_checkpoint_of_another_run_is_refused(gang: Gang, store: RunStore) -> None:
    gang(root=store.root, strategy="DDP", world=1, total=3, save_at=[3])
    manifest = manifests.read(store, AT_THREE).model_copy(update={"run_uid": "other"})
    store.write(f"{AT_THREE}/{MANIFEST}", manifests.encode(manifest))
    (answer,) = gang(root=store.root, strategy="DDP", world=1, total=4, resume=AT_THREE)
    assert answer["evidence"] == ["the manifest is of another run (got uid other)"]


@pytest.mark.fault("F53")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_killed_in_the_middle_of_a_save_leaves_nothing_that_counts(
    gang: Gang, store: RunStore, rank: int
) -> None:
    fault = {"rank": rank, "steps": [5], "after": 500, "kind": "kill"}
    answers = gang(root=store.root, strategy="FSDP", total=8, save_at=[3, 5], wait=True, fault=fault)
    assert answers[rank] == {"signal": 9}
    assert (store.path("step-00000005.i1") / f"__{rank}_0.distcp").exists()
    record = claim_next(store)
    assert record.resume == AT_THREE
    whole = gang(root=store.root, strategy="FSDP", total=6, resume=AT_THREE, incarnation=2, save_at=[5])
    assert [event["checkpoint"]["name"] for event in events_of(whole[0], "Checkpoint")] == [
        "step-00000005.i2"
    ]


@pytest.mark.fault("F56")
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_full_volume_fails_the_save_and_training_goes_on(
    gang: Gang, store: RunStore, rank: int, asynchronous: bool
) -> None:
    fault = {"rank": rank, "steps": [5], "after": 500, "kind": "full"}
    answers = gang(
        root=store.root,
        strategy="FSDP",
        total=8,
        save_at=[3, 5, 7],
        wait=True,
        fault=fault,
        asynchronous=asynchronous,
    )
    (event,) = events_of(answers[0], "SaveFailed")
    assert event["step"] == 5
    assert event["message"] == (
        f"rank {rank}: spec.checkpoint.store: the volume is full (got ENOSPC writing step-00000005.i1); "
        "allowed any size that holds keepLast + 1 checkpoints. hint: enlarge the claim or lower "
        "spec.checkpoint.keepLast; training goes on and the last committed checkpoint is kept."
    )
    assert answers[0]["problems"]["5"] == answers[1]["problems"]["5"] == event["message"]
    assert answers[0]["problems"]["7"] is None
    assert store.list_checkpoints() == ["step-00000007.i1", AT_THREE]
    assert [name.split("~")[1] for name in store.names("trash")] == ["step-00000005.i1"]
    assert all(verified(store, name) for name in store.list_checkpoints())


def test_a_takeover_stops_every_rank_at_its_next_save(gang: Gang, store: RunStore) -> None:
    answers = gang(root=store.root, strategy="DDP", total=9, save_at=[3, 6], takeover_at=4, wait=True)
    text = "fenced: incarnation 1 may not commit step 6, incarnation 2 has taken over"
    assert [answer["fenced"] for answer in answers] == [text, text]
    assert store.list_checkpoints() == [AT_THREE]


def test_saving_a_step_twice_keeps_the_first(gang: Gang, store: RunStore) -> None:
    gang(root=store.root, strategy="DDP", total=3, save_at=[3])
    before = manifests.read(store, AT_THREE)
    answers = gang(root=store.root, strategy="DDP", total=3, save_at=[3], seed=99)
    assert manifests.read(store, AT_THREE) == before
    assert events_of(answers[0], "Checkpoint")[0]["checkpoint"]["digest"] == before.files_digest
