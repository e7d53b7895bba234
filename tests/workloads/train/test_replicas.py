"""Ranks that must hold the same weights: nothing is sent between them at a start, and a difference is refused."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from windlass.api.meta import Reason
from windlass_workloads.train import runtime
from windlass_workloads.train.replicas import bits_of

pytestmark = pytest.mark.workloads


def volumes_per_rank(volumes: Path, root: Path) -> Path:
    """The same volumes twice; returns the path with the rank left open."""
    for rank in range(2):
        shutil.copytree(volumes, root / f"node-{rank}")
    return root / "node-{rank}"


def test_ranks_with_equal_files_on_different_nodes_train(make_job, tmp_path):
    job = make_job(training={"maxSteps": 2})
    job.volumes = volumes_per_rank(job.volumes, tmp_path)
    assert sorted(job.train(world=2).ok().losses()) == [1, 2]


def test_ranks_that_read_different_weights_are_told_which_and_do_not_start(make_job, tmp_path):
    job = make_job(training={"maxSteps": 2})
    job.volumes = volumes_per_rank(job.volumes, tmp_path)
    (weights,) = (tmp_path / "node-1" / "models" / "tiny").glob("*.safetensors")
    tensors = load_file(weights)
    changed = sorted(tensors)[0]
    tensors[changed].view(-1)[0] += 1e-6
    save_file(tensors, weights, metadata={"format": "pt"})
    outcome = job.train(world=2)
    assert set(outcome.codes) & {0} == set()
    failure = outcome.of("Failure")[0].failure
    assert failure.reason == Reason.CONFIGURATION
    assert "spec.model.uri: ranks read different weights (got 1 of" in failure.message
    assert "allowed the same files on every node" in failure.message
    assert failure.hint.startswith("give all pods the same claim")


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (torch.zeros(4), torch.int64),
        (torch.zeros(3), torch.int32),
        (torch.zeros(3, dtype=torch.bfloat16), torch.int16),
        (torch.zeros(3, dtype=torch.uint8), torch.uint8),
        (torch.zeros(2, 4).t(), torch.int64),
    ],
)
def test_bits_are_the_whole_memory_in_the_widest_integers(values, kind):
    bits = bits_of(values)
    assert bits.dtype == kind
    assert bits.numel() * bits.element_size() == values.numel() * values.element_size()


@pytest.mark.parametrize("place", [0, 1, 5, 6])
def test_one_flipped_bit_changes_the_sum(place):
    one = torch.arange(7, dtype=torch.float32)
    other = one.clone()
    other.view(torch.int32)[place] ^= 1 << 13
    assert bits_of(one).sum(dtype=torch.int64) != bits_of(other).sum(dtype=torch.int64)


def test_a_rank_that_is_early_goes_on_as_soon_as_the_first_listens():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    found: list[float] = []

    def wait() -> None:
        runtime.await_listener("127.0.0.1", port)
        found.append(time.monotonic())

    waiter = threading.Thread(target=wait)
    waiter.start()
    assert waiter.is_alive()
    with socket.create_server(("127.0.0.1", port)):
        began = time.monotonic()
        waiter.join(30)
    assert len(found) == 1
    assert found[0] - began < 5


def test_nobody_ever_listening_leaves_it_to_the_store_to_say_so():
    began = time.monotonic()
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        runtime.await_listener("127.0.0.1", held.getsockname()[1], patience=0.05)
    assert time.monotonic() - began < 30
