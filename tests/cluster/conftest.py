"""The cluster that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.cluster.cluster_support import Cluster, free_range

from windlass.cli.cluster.paths import Layout


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A running cluster of its own, taken down at the end."""
    shared = Cluster(Layout(tmp_path_factory.mktemp("shared") / "cluster"), free_range())
    done = shared.up()
    assert done.returncode == 0, done.stderr
    yield shared
    shared.command("down")
