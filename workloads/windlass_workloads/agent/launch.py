"""What each rank of an incarnation is told.

Pure; called by `gang`. The leader fills in the port, the agent of each pod the threads.
"""

from __future__ import annotations

from collections.abc import Sequence

from windlass.api.contract import Incarnation, RankContext, RunConfig


def prepare_context(config: RunConfig, record: Incarnation) -> list[RankContext]:
    """The one rank in the leader's pod that prepares the data."""
    return [RankContext(task="prepare", config=config, incarnation=record.incarnation)]


def rank_contexts(
    config: RunConfig,
    record: Incarnation,
    crew: Sequence[int],
    *,
    prepared: str | None,
    highest_step: int,
) -> dict[int, list[RankContext]]:
    """Contexts by pod index, for pods of these indices; ranks are numbered without gaps, whoever is away."""
    per_node = config.spec.resources.ranks_per_node
    return {
        index: [
            RankContext(
                task="train",
                config=config,
                incarnation=record.incarnation,
                rank=place * per_node + local,
                world_size=len(crew) * per_node,
                local_rank=local,
                local_world_size=per_node,
                resume=record.resume,
                prepared=prepared,
                highest_step=highest_step,
            )
            for local in range(per_node)
        ]
        for place, index in enumerate(crew)
    }
