"""The cluster that the tests of this folder share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.cluster.cluster_support import ROOT, Cluster, claimed_range
from windlass.cli.cluster.paths import Layout


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running cluster of its own inside the checkout, as a user's is; taken down at the end."""
    shared = Cluster(Layout(ROOT / "build" / f"cluster-test-{os.getpid()}"), claimed_range())
    done = shared.up()
    assert done.returncode == 0, done.stderr
    yield shared
    shared.command("down")
