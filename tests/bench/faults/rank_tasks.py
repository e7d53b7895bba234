"""The training tasks that pods run, with claims where a variable says and a witness between a rank and its agent."""

from __future__ import annotations

import os
from pathlib import Path

from bench.faults.witness import Witness
from windlass.api.contract import RankContext
from windlass_workloads.agent.channel import RankChannel
from windlass_workloads.data.sources import Roots
from windlass_workloads.train import tasks

VOLUMES = "BENCH_VOLUMES"
preload = tasks.preload


def prepare(context: RankContext, channel: RankChannel) -> None:
    """tasks.prepare"""
    tasks.prepare(context, channel, roots())


def train(context: RankContext, channel: RankChannel) -> None:
    """tasks.train, witnessed"""
    tasks.train(context, Witness(context, channel), roots())


def roots() -> Roots:
    """Claims where a variable says."""
    return Roots(Path(os.environ[VOLUMES]))
