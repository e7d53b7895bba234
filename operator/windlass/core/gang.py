"""Arithmetic of gangs: members, tickets and attempts.

The judges that start, repair or replace a gang use it. Tickets only ever grow; that is what lets a
replacement of the leader take over and keeps the replaced one out.
"""

from __future__ import annotations

from collections.abc import Collection

from windlass.api.jobs import TrainingJobSpec
from windlass.api.status import Gang, Member


def next_attempt(gang: Gang, nodes: int) -> Gang:
    """A new generation of pods: attempt + 1 and a new ticket for every index."""
    members = [Member(index=index, ticket=gang.last_ticket + 1 + index) for index in range(nodes)]
    return Gang(attempt=gang.attempt + 1, last_ticket=gang.last_ticket + nodes, members=members)


def first_gang(spec: TrainingJobSpec) -> Gang:
    """The gang of a run that has never had one."""
    return next_attempt(Gang(), spec.resources.nodes)


def replace_members(gang: Gang, lost: Collection[int]) -> Gang:
    """The same attempt with new tickets for the lost indices, in the order of their index."""
    ticket = gang.last_ticket
    members = []
    for member in gang.members:
        if member.index in lost:
            ticket += 1
            members.append(Member(index=member.index, ticket=ticket))
        else:
            members.append(member)
    return gang.model_copy(update={"last_ticket": ticket, "members": members})


def is_same_member(member: Member, *, index: int, ticket: int) -> bool:
    """Whether index and ticket are those of the member."""
    return (member.index, member.ticket) == (index, ticket)
