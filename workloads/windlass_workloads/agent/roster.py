"""Which agents are in the gang: who is ready, whose ranks run, who is leaving.

Pure; owned by `gang`. A pod made later (higher ticket) takes the place of an older one of the same
index; an older one never comes back. While the older one leaves and saves, its successor waits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from windlass_workloads.agent.messages import Hello


@dataclass(slots=True)
class Member:
    """One agent that is connected."""

    hello: Hello
    ready: bool
    busy: int = 0
    """Incarnation whose ranks may still run there; 0 when none."""
    leaving_at: float | None = None


class Roster:
    """Members by index, at most one each."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._members: dict[int, Member] = {}
        self._tickets: dict[int, int] = {}
        self._successors: dict[int, Member] = {}

    def __iter__(self) -> Iterator[Member]:
        return iter([self._members[index] for index in sorted(self._members)])

    def get(self, index: int) -> Member | None:
        """The member of this index."""
        return self._members.get(index)

    def find(self, index: int, pod_uid: str) -> Member | None:
        """The member of this index if it is this very pod."""
        for member in (self._members.get(index), self._successors.get(index)):
            if member is not None and member.hello.pod_uid == pod_uid:
                return member
        return None

    def waits(self, member: Member) -> bool:
        """Whether this member is a successor whose place is not free yet."""
        return self._successors.get(member.hello.index) is member

    def outdated(self, hello: Hello) -> bool:
        """Whether a pod made later has had this index already, or the index is not the gang's."""
        return not 0 <= hello.index < self._size or hello.ticket < self._tickets.get(hello.index, 0)

    def add(self, hello: Hello) -> Member:
        """Adds a member; the caller has removed an older one of the same index."""
        member = self._admit(hello)
        self._members[hello.index] = member
        return member

    def hold(self, hello: Hello) -> None:
        """Keeps a successor until the member of its index, which is leaving, has been removed."""
        self._successors[hello.index] = self._admit(hello)

    def _admit(self, hello: Hello) -> Member:
        self._tickets[hello.index] = max(hello.ticket, self._tickets.get(hello.index, 0))
        return Member(hello=hello, ready=hello.ready)

    def remove(self, member: Member) -> None:
        """Takes a member out; a successor that waited takes its place."""
        index = member.hello.index
        successor = self._successors.pop(index, None)
        if successor is member:
            return
        self._members.pop(index, None)
        if successor is not None:
            self._members[index] = successor

    @property
    def complete(self) -> bool:
        """Whether every index is there, ready, idle and staying."""
        return len(self._members) == self._size and all(
            member.ready and not member.busy and member.leaving_at is None for member in self
        )

    @property
    def missing(self) -> bool:
        """Whether an index has no member."""
        return len(self._members) < self._size

    @property
    def busy(self) -> list[Member]:
        """Members whose ranks may still run."""
        return [member for member in self if member.busy]

    @property
    def leaving(self) -> list[Member]:
        """Members that were asked to end."""
        return [member for member in self if member.leaving_at is not None]
