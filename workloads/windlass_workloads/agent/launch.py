"""What each rank of an incarnation is told.

Pure; called by `gang`. The leader fills in the port, the agent of each pod the threads.
"""

from __future__ import annotations

from typing import Literal

from windlass.api.contract import Incarnation, RankContext, RunConfig


def rank_contexts(
    config: RunConfig,
    record: Incarnation,
    task: Literal["prepare", "train"],
    *,
    prepared: str | None,
    highest_step: int,
) -> dict[int, list[RankContext]]:
    """Contexts by pod index. `prepare` is one rank in the leader's pod."""
    if task == "prepare":
        return {0: [RankContext(task="prepare", config=config, incarnation=record.incarnation)]}
    nodes, per_node = config.spec.resources.nodes, config.spec.resources.ranks_per_node
    return {
        index: [
            RankContext(
                task="train",
                config=config,
                incarnation=record.incarnation,
                rank=index * per_node + local,
                world_size=nodes * per_node,
                local_rank=local,
                local_world_size=per_node,
                resume=record.resume,
                prepared=prepared,
                highest_step=highest_step,
                skipped_windows=record.skipped_windows,
            )
            for local in range(per_node)
        ]
        for index in range(nodes)
    }
