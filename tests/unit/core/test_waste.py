"""Accelerator seconds that bought nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass.api.status import GoodputSeconds
from windlass.core.waste import devices, wasted_accelerator_seconds

SECONDS = st.floats(0, 1e6)
WASTED = {"recovering", "reworked", "back_off"}


@pytest.mark.parametrize(
    ("nodes", "per_node", "wasted"), [(1, 0, 0.0), (4, 0, 0.0), (1, 1, 6.0), (2, 8, 96.0)]
)
def test_devices_times_seconds(nodes: int, per_node: int, wasted: float) -> None:
    parts = GoodputSeconds(recovering=1, reworked=2, back_off=3, training=1000, queued=50, suspended=9)
    assert wasted_accelerator_seconds(nodes, per_node, parts) == wasted


@given(st.sampled_from(sorted(GoodputSeconds.model_fields)), SECONDS)
def test_only_lost_time_counts(part: str, seconds: float) -> None:
    found = wasted_accelerator_seconds(2, 4, GoodputSeconds(**{part: seconds}))
    assert found == (8 * seconds if part in WASTED else 0.0)


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ({"resources": {"nodes": 4, "accelerator": {"count": 8}}}, (4, 8)),
        ({"resources": {"nodes": 4}}, (4, 0)),
        ({"resources": {"accelerator": {"count": 2}}}, (1, 2)),
        ({"resources": {"nodes": "four", "accelerator": {"count": 8}}}, (1, 0)),
        ({"resources": {"nodes": 4, "accelerator": [8]}}, (4, 0)),
        ({"resources": None}, (1, 0)),
        ({}, (1, 0)),
        (None, (1, 0)),
    ],
)
def test_devices_are_read_from_any_spec(spec: Any, found: tuple[int, int]) -> None:
    assert devices({"spec": spec}) == found


def test_a_job_without_a_spec_counts_as_one_pod() -> None:
    assert devices({}) == (1, 0)
