"""The training tasks that pods run, with claims where a variable says: for agents as plain processes."""

from __future__ import annotations

import os
from pathlib import Path

from windlass.api.contract import RankContext
from windlass_workloads.agent.channel import RankChannel
from windlass_workloads.data.sources import Roots
from windlass_workloads.train import tasks

VOLUMES = "BENCH_VOLUMES"
preload = tasks.preload


def prepare(context: RankContext, channel: RankChannel) -> None:
    """tasks.prepare"""
    tasks.prepare(context, channel, Roots(Path(os.environ[VOLUMES])))


def train(context: RankContext, channel: RankChannel) -> None:
    """tasks.train"""
    tasks.train(context, channel, Roots(Path(os.environ[VOLUMES])))
