"""The order in which the operator judges a run: the first judge that has something to say decides.

Read this to know what Windlass does. Each line is a function of the facts in `core.judges`; none of
them writes anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from windlass.core.facts import Facts, Outcome
from windlass.core.judges import elastic, gang, lifecycle, nodes, paused, queued, world

Judge = Callable[[Facts], Outcome | None]

TRAINING_CHAIN: Final[tuple[Judge, ...]] = (
    lifecycle.being_deleted,  # touch nothing; owner references clean up
    lifecycle.is_finished,  # ended stays ended; honour the TTL, nothing else
    lifecycle.verdict_reached,  # the leader said Succeeded or Failed: write it down
    lifecycle.spec_is_invalid,  # say which field, and stop
    lifecycle.is_suspended,  # save, leave, keep the checkpoints
    paused.is_paused,  # a guard stopped the run: wait for a change of the spec
    lifecycle.is_resumed,  # count the pause
    lifecycle.deadline_passed,  # waiting or working took too long
    queued.queue_is_closed,  # this operator is not set up for the queue
    world.claims_do_not_fit,  # a volume is missing or cannot be shared
    gang.has_no_gang,  # give out the first tickets
    gang.config_is_lost,  # settle under which configuration this attempt runs
    world.name_is_taken,  # an object we need is somebody else's
    gang.gang_wants_recreation,  # the leader asks for a whole new gang
    nodes.node_is_unhealthy,  # a device is not sound: save, and go on elsewhere
    gang.member_is_lost,  # charge the budget, give the place a new ticket
    gang.old_pods_are_in_the_way,  # two attempts never overlap
    nodes.exclusion_is_over,  # a node is free again: a waiting pod may use it
    elastic.gang_is_shrunk,  # it trains with fewer nodes: follow it, make the others
    elastic.leader_finds_no_room,  # nothing trains without a leader: free a follower's room
    queued.gang_is_not_whole,  # some pods never came to run: give the others' nodes back
    gang.gang_is_partial,  # quota admits only a part: give it back
    gang.is_backing_off,  # do not hammer a failing cause
    gang.gang_is_incomplete,  # make what is missing
    queued.gang_is_queued,  # not admitted yet: wait
    gang.gang_is_waiting,  # pods cannot start: say why
    gang.gang_is_running,  # follow the leader's reports
)
