"""Hybrid sharding: four ranks in two groups of two, each group with a whole copy of the model cut in two.

The same losses as DDP and FSDP, parts that are halves, copies that are equal to the last bit, checkpoints that hold
everything once and that any number of ranks reads.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint import FileSystemReader

from tests.workloads.train.support import SPEC, Job, Outcome, merge
from windlass.api.meta import ExitCode, Reason
from windlass_workloads.checkpoint import manifest as manifests
from windlass_workloads.checkpoint.store import RunStore
from windlass_workloads.data.order import Order

pytestmark = pytest.mark.workloads

LORA = {"type": "LoRA", "rank": 4, "dropout": "0.1"}
DDP = {"strategy": "DDP"}
FSDP = {"strategy": "FSDP"}
GROUPS = {"strategy": "FSDP", "shardGroupSize": 2}
CLIP = 0.5
TWENTY = {"maxSteps": 20, "globalBatchSize": 8, "learningRate": "2e-3", "gradientClip": str(CLIP)}
NO_SAVES = {"everySteps": 1000}
SAVED = {"training": {"maxSteps": 6, "learningRate": "2e-3"}, "checkpoint": {"everySteps": 3, "keepLast": 99}}
TOLERANCE = 1e-5
LIMIT = 600
"""Seconds that a start may take: four ranks, on a machine that may have two processors and other work."""


@dataclass(frozen=True)
class Ran:
    """A job whose first start is over."""

    job: Job
    run: Outcome
    held: list[dict[str, Any]]


def assert_close(left, right, relative=TOLERANCE):
    assert list(left) == list(right)
    worst = max(abs(left[step] - right[step]) / abs(right[step]) for step in right)
    assert worst <= relative, worst


def after(losses, step):
    return {each: loss for each, loss in losses.items() if each > step}


def start(job, volumes, world, *, function="shards", environment=None, **options):
    """A start in which ranks run what a module of tests says; by default it leaves for `held` what they held."""
    job.prepared or job.prepare()
    return job.start(
        world=world,
        limit=LIMIT,
        function=f"tests.workloads.train.{function}.train",
        environment={"VOLUMES": str(volumes), **(environment or {})},
        **options,
    )


def held(job, world):
    """What each rank held at the end of the last start."""
    folder = job.root / f"start-{job.starts}"
    return [json.loads((folder / f"shards-{rank}.json").read_text()) for rank in range(world)]


@pytest.fixture(scope="module")
def ran(fork_server, volumes, tmp_path_factory):
    """Gangs that several tests look at, each run when it is first asked for, by parallelism, ranks and changes."""
    found: dict[str, Ran] = {}

    def once(parallelism, world, **changes):
        key = json.dumps([parallelism, world, changes], sort_keys=True)
        if key not in found:
            spec = merge(SPEC, {**changes, "parallelism": parallelism})
            job = Job(fork_server, volumes, tmp_path_factory.mktemp("gang"), spec)
            run = start(job, volumes, world).ok()
            found[key] = Ran(job, run, held(job, world))
        return found[key]

    return once


@pytest.fixture
def grouped(ran):
    """20 steps of four ranks in two groups, with two micro-batches each and clipping."""
    return ran(GROUPS, 4, training=TWENTY, checkpoint=NO_SAVES)


# --- the same run -----------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["DDP", "FSDP"])
def test_losses_and_norms_are_those_of_the_other_strategies(ran, grouped, strategy):
    reference = ran({"strategy": strategy}, 4, training=TWENTY, checkpoint=NO_SAVES).run
    run = grouped.run
    assert run.losses()[20] < 0.8 * run.losses()[1]
    assert_close(run.losses(), reference.losses())
    assert_close(run.norms(), reference.norms())
    # The clip is not idle.
    assert max(run.norms().values()) > CLIP


def test_all_ranks_tell_the_same_losses_and_norms(grouped):
    for rank in (1, 2, 3):
        assert grouped.run.losses(rank) == grouped.run.losses()
        assert grouped.run.norms(rank) == grouped.run.norms()


@pytest.mark.parametrize(("batch", "micro"), [(7, 1), (8, 2)])
def test_any_batch_is_the_same_batch(make_job, batch, micro):
    """Also one that does not divide by the ranks; samples are of unequal length, and some are held out."""
    base = {"checkpoint": NO_SAVES, "data": {"validation": {"fraction": "0.2"}}}
    training = {"maxSteps": 3, "globalBatchSize": batch}
    alone = make_job(**base, training={**training, "microBatchSize": batch}).train().ok()
    job = make_job(**base, training={**training, "microBatchSize": micro}, parallelism=GROUPS)
    run = job.train(limit=LIMIT, world=4).ok()
    assert_close(run.losses(), alone.losses())
    (found,), (wanted,) = run.of("Validation"), alone.of("Validation")
    assert found.loss == pytest.approx(wanted.loss, rel=TOLERANCE)


def test_a_loss_that_is_no_number_in_one_group_is_applied_in_none(make_job, volumes):
    job = make_job(training={"maxSteps": 4}, checkpoint=NO_SAVES, parallelism=GROUPS)
    unit = Order(job.config().spec.training.seed, 40).batch(3, 4)[0]
    fault = {"FAULT": json.dumps({"kind": "nan", "rank": 3, "unit": unit})}
    run = start(job, volumes, 4, function="faulty", environment=fault, stop_peers=False)
    assert run.codes == [ExitCode.NUMERIC] * 4
    for rank in range(4):
        assert run.of("Failure", rank)[0].failure.reason == Reason.NON_FINITE
        assert list(run.losses(rank)) == [1, 2]
        assert not json.loads((job.root / f"start-{job.starts}" / f"seen-{rank}.json").read_text())["moved"]


# --- what each rank holds ---------------------------------------------------------------------------


def assert_halves(first, second):
    """Every tensor is cut in two along its first dimension, the larger half first."""
    assert first.keys() == second.keys()
    for name, part in first.items():
        whole = part["whole"]
        assert part["local"] == [-(-whole[0] // 2), *whole[1:]], name
        assert second[name]["local"] == [whole[0] // 2, *whole[1:]], name


def assert_two_equal_copies(ranks):
    """Ranks 0 and 1 hold the halves, ranks 2 and 3 the same bits once more."""
    for rank in ranks:
        assert (rank["mesh"], rank["names"]) == ([[0, 1], [2, 3]], ["replicate", "shard"])
        placed = {tuple(each["placed"]) for kind in ("weights", "moments") for each in rank[kind].values()}
        assert placed == {("R", "S(0)")}
    for kind in ("weights", "moments"):
        assert len(ranks[0][kind]) >= 2
        assert_halves(ranks[0][kind], ranks[1][kind])
        assert ranks[0][kind] == ranks[2][kind]
        assert ranks[1][kind] == ranks[3][kind]
        assert ranks[0][kind] != ranks[1][kind]


def test_a_group_holds_halves_and_the_groups_hold_equal_bits(grouped):
    assert_two_equal_copies(grouped.held)


def test_without_groups_all_ranks_split_it(ran):
    for rank in ran(FSDP, 4, training=TWENTY, checkpoint=NO_SAVES).held:
        assert rank["mesh"] == [0, 1, 2, 3]
        for name, part in rank["weights"].items():
            assert part["local"][0] <= -(-part["whole"][0] // 4), name


def test_a_group_of_all_ranks_is_as_no_groups(ran):
    changes = {"training": {"maxSteps": 2}, "checkpoint": NO_SAVES}
    one, none = ran(GROUPS, 2, **changes), ran(FSDP, 2, **changes)
    assert one.held == none.held
    assert one.run.losses() == none.run.losses()


# --- saves and loads --------------------------------------------------------------------------------


def test_a_killed_run_goes_on_as_if_nothing_had_happened(ran, make_job, volumes):
    whole = ran(GROUPS, 4, **SAVED)
    job = make_job(**SAVED, parallelism=GROUPS)
    killed = job.train(
        limit=LIMIT, world=4, actions=[{"type": "Step", "step": 5, "rank": 3, "signal": "SIGKILL"}]
    )
    assert killed.codes[3] == -9
    assert killed.saved == ["step-00000003.i2"]
    resumed = start(job, volumes, 4, resume=killed.saved[0]).ok()
    assert resumed.losses() == after(whole.run.losses(), 3)
    assert resumed.norms() == after(whole.run.norms(), 3)
    assert held(job, 4) == whole.held


def test_a_resumed_adapter_is_bitwise_the_same(make_job, volumes):
    """With dropout, so that each rank's generators count, and saves that are written meanwhile."""
    saves = {"checkpoint": {"everySteps": 2, "async": True}, "training": {"maxSteps": 4}}
    job = make_job(**saves, parallelism=GROUPS, adapter=LORA)
    whole = start(job, volumes, 4).ok()
    wanted = held(job, 4)
    assert_two_equal_copies(wanted)
    assert whole.saved == ["step-00000002.i2", "step-00000004.i2"]
    resumed = start(job, volumes, 4, resume=whole.saved[0]).ok()
    assert resumed.losses() == after(whole.losses(), 2)
    assert held(job, 4) == wanted


def written(job, name):
    """Places that a checkpoint's index holds, as (tensor, offsets), and bytes of each rank's file."""
    directory = RunStore(job.store).path(name)
    metadata = FileSystemReader(directory).read_metadata()
    places = [(index.fqn, tuple(index.offset or ())) for index in metadata.storage_data]
    return places, {path.name: path.stat().st_size for path in directory.glob("*.distcp")}


def test_a_checkpoint_holds_each_part_once(ran):
    found = {}
    for parallelism, world in ((GROUPS, 4), (FSDP, 2)):
        saved = ran(parallelism, world, **SAVED)
        manifest = manifests.read(RunStore(saved.job.store), saved.run.saved[0])
        assert (manifest.strategy, manifest.format, manifest.world_size) == ("FSDP", "DCP", world)
        places, sizes = written(saved.job, saved.run.saved[0])
        assert len(places) == len(set(places))
        assert len(sizes) == world
        state = sorted(place for place in places if not place[0].startswith("random."))
        found[world] = (state, sizes)
    # Four ranks write the parts that two did, about as much each, and two more ranks' generators.
    assert found[4][0] == found[2][0]
    total, half = sum(found[4][1].values()), sum(found[2][1].values())
    assert half < total < 1.1 * half
    assert max(found[4][1].values()) < 0.5 * total


LOADS = [
    pytest.param(GROUPS, 4, GROUPS, 2, id="two-groups-as-one"),
    pytest.param(GROUPS, 4, FSDP, 4, id="groups-as-none"),
    pytest.param(GROUPS, 4, DDP, 2, id="groups-as-ddp"),
    pytest.param(FSDP, 2, GROUPS, 4, id="none-as-groups"),
    pytest.param(DDP, 2, GROUPS, 4, id="ddp-as-groups"),
]


@pytest.mark.fault("F60")
@pytest.mark.parametrize(("saved_by", "world", "loaded_by", "other"), LOADS)
def test_another_number_of_ranks_or_another_split_reads_it(ran, saved_by, world, loaded_by, other):
    reference = ran(DDP, 2, **SAVED).run.losses()
    saved = ran(saved_by, world, **SAVED)
    assert_close(saved.run.losses(), reference)
    before = saved.job.spec
    try:
        saved.job.spec = {**before, "parallelism": loaded_by}
        resumed = saved.job.start(limit=LIMIT, world=other, resume=saved.run.saved[0]).ok()
    finally:
        saved.job.spec = before
    assert_close(resumed.losses(), after(reference, 3))


@pytest.mark.fault("F60")
def test_four_ranks_go_on_as_two_and_as_four_again(ran, make_job):
    """As a gang of two nodes with two ranks each does that loses one for a while; each leaves with a save."""
    whole = ran(GROUPS, 4, **SAVED).run.losses()
    job = make_job(**SAVED, parallelism=GROUPS)
    first = job.train(
        limit=LIMIT, world=4, actions=[{"type": "Step", "step": 2, "rank": 2, "signal": "SIGTERM"}]
    ).ok()
    leave = [{"type": "Step", "step": 4, "rank": 1, "signal": "SIGTERM"}]
    second = job.start(limit=LIMIT, world=2, resume=first.saved[-1], actions=leave).ok()
    third = job.start(limit=LIMIT, world=4, resume=second.saved[-1]).ok()
    assert first.losses() and second.losses() and third.losses()
    assert_close({**first.losses(), **second.losses(), **third.losses()}, whole)


@pytest.mark.parametrize("adapter", [None, {"type": "LoRA", "rank": 4}], ids=["full", "lora"])
def test_the_export_is_that_of_one_rank(make_job, adapter):
    found = []
    for parallelism, world in ((DDP, 1), (GROUPS, 4)):
        job = make_job(
            training={"maxSteps": 2, "learningRate": "1e-3"},
            checkpoint={"everySteps": 1000, "export": "HuggingFace"},
            parallelism=parallelism,
            **({"adapter": adapter} if adapter else {}),
        )
        job.train(limit=LIMIT, world=world).ok()
        (weights,) = (job.store / "output").glob("*/*.safetensors")
        found.append(load_file(weights))
    alone, groups = found
    assert alone.keys() == groups.keys()
    for name, tensor in alone.items():
        assert tensor.shape == groups[name].shape
        assert float((tensor - groups[name]).abs().max()) < 1e-5, name


# --- what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(("world", "size"), [(3, 2), (1, 2)])
def test_ranks_that_do_not_divide_are_refused(make_job, world, size):
    job = make_job(parallelism={**FSDP, "shardGroupSize": size})
    run = job.train(limit=LIMIT, world=world, stop_peers=False)
    assert ExitCode.SUCCESS not in run.codes
    failure = run.of("Failure")[0].failure
    assert failure.reason == Reason.CONFIGURATION
    assert failure.message == (
        "spec.parallelism.shardGroupSize: does not divide the ranks into equal groups "
        f"(got {size} with {world} ranks); allowed a number that divides the ranks."
    )
    assert "divides ranksPerNode" in failure.hint
    assert run.losses() == {}


def test_groups_that_read_different_weights_are_told_so_on_every_rank(make_job, tmp_path):
    job = make_job(training={"maxSteps": 2}, parallelism=GROUPS)
    for each in range(4):
        shutil.copytree(job.volumes, tmp_path / f"node-{each}")
    job.volumes = tmp_path / "node-{rank}"
    (weights,) = (tmp_path / "node-3" / "models" / "tiny").glob("*.safetensors")
    tensors = load_file(weights)
    # Rank 3 holds the second half: only ranks 1 and 3 can see it.
    tensors[sorted(tensors)[0]].view(-1)[-1] += 1e-6
    save_file(tensors, weights, metadata={"format": "pt"})
    job.prepare()
    run = job.start(limit=LIMIT, world=4, stop_peers=False)
    assert ExitCode.SUCCESS not in run.codes
    for each in range(4):
        failure = run.of("Failure", each)[0].failure
        assert failure.reason == Reason.CONFIGURATION
        assert "spec.model.uri: ranks read different weights (got 1 of" in failure.message
        assert run.losses(each) == {}
