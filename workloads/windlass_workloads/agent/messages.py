"""What the agents of one gang say to each other, one JSON line per message.

Up: a follower (or the leader's own pod) tells what happened to its ranks. Down: the leader tells what
to do. Both ends come from one image, so the forms may change with it; nothing here is stored.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from windlass.api.base import StatusModel
from windlass.api.contract import RankContext, RankEvent, Verdict


class Hello(StatusModel):
    """Who joins. A follower says hello only when none of its ranks is left."""

    pod: str
    pod_uid: str
    pod_ip: str
    node: str
    index: int
    ticket: int
    attempt: int
    ready: bool = False


class Ready(StatusModel):
    """The warm parent can fork ranks, or cannot any more."""

    type: Literal["Ready"] = "Ready"
    ready: bool


class Said(StatusModel):
    """A rank's event."""

    type: Literal["Said"] = "Said"
    incarnation: int
    event: RankEvent


class Exited(StatusModel):
    """A rank's end. `ordered`: by a signal of its agent. `tail` is the end of its log."""

    type: Literal["Exited"] = "Exited"
    incarnation: int
    rank: int
    code: int = 0
    signal: int | None = None
    oom: bool = False
    ordered: bool = False
    at: float
    tail: list[str] = Field(default_factory=list)


class Idle(StatusModel):
    """No rank of this incarnation is left in the pod."""

    type: Literal["Idle"] = "Idle"
    incarnation: int


class Stacks(StatusModel):
    """Where a rank is: what it wrote when asked, and its process's state as in /proc/PID/stat.

    Without lines it did not answer: it is stopped, hangs in the kernel, or is not ours to ask.
    """

    type: Literal["Stacks"] = "Stacks"
    incarnation: int
    rank: int
    state: str = ""
    lines: list[str] = Field(default_factory=list)


class Leaving(StatusModel):
    """The pod was asked to end (SIGTERM); it stays until the leader lets it go or its limit passes."""

    type: Literal["Leaving"] = "Leaving"
    at: float


class Broken(StatusModel):
    """The warm parent does not come up."""

    type: Literal["Broken"] = "Broken"
    at: float
    tail: list[str] = Field(default_factory=list)


class Beat(StatusModel):
    """I am here. Sent both ways."""

    type: Literal["Beat"] = "Beat"


class Start(StatusModel):
    """Start these ranks."""

    type: Literal["Start"] = "Start"
    incarnation: int
    contexts: list[RankContext]


class Stop(StatusModel):
    """End the ranks: Kill at once, or Save first (they exit by themselves)."""

    type: Literal["Stop"] = "Stop"
    incarnation: int
    mode: Literal["Kill", "Save"]


class Dump(StatusModel):
    """Have the ranks write their stacks, and send them as Stacks."""

    type: Literal["Dump"] = "Dump"
    incarnation: int


class Finish(StatusModel):
    """Write this verdict and exit."""

    type: Literal["Finish"] = "Finish"
    verdict: Verdict


Upward = Ready | Said | Exited | Idle | Stacks | Leaving | Broken | Beat
Downward = Start | Stop | Dump | Finish | Beat

UPWARD: TypeAdapter[Upward] = TypeAdapter(Annotated[Upward, Field(discriminator="type")])
DOWNWARD: TypeAdapter[Downward] = TypeAdapter(Annotated[Downward, Field(discriminator="type")])
