"""What is known of one incarnation's ranks: their progress, their words and how they ended.

Pure; owned by `gang`. `ends` is everything that may have been the failure, for windlass.core.failure.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from windlass.api.contract import RankEvent
from windlass.api.meta import ExitCode
from windlass.api.status import Failure
from windlass.core.failure.evidence import End
from windlass_workloads.agent.clock import RankTimes
from windlass_workloads.agent.messages import Exited, Hello


@dataclass(slots=True)
class Life:
    """Facts of one incarnation since its ranks were started."""

    incarnation: int
    task: str
    world: int
    """Number of ranks that were started."""
    resumed_step: int
    step: int
    """Last step that rank 0 finished; rows of steps may be dropped, those of checkpoints never are."""
    crew: tuple[int, ...] = ()
    """Indices of the pods that they were started in, in the order of ranks."""
    times: RankTimes = field(default_factory=RankTimes)
    exits: dict[int, Exited] = field(default_factory=dict)
    done_step: int | None = None
    saved_step: int | None = None
    prepared: str | None = None
    first_exit_at: float | None = None
    started_at: float = 0.0
    spoken: bool = False
    """Whether any rank has said anything."""
    failed_step: int | None = None
    """The step that a guard refused to apply."""
    lost: list[End] = field(default_factory=list)
    _said: dict[int, tuple[float, Failure]] = field(default_factory=dict)

    def hear(self, event: RankEvent) -> None:
        """Takes in what a rank says."""
        rank, self.spoken = event.rank, True
        if event.type == "Phase" and event.phase is not None:
            self.times.entered(rank, event.phase, event.at)
        elif event.type == "Forward":
            self.times.began(rank, event.at)
        elif event.type in ("Step", "Checkpoint") and rank == 0 and event.step is not None:
            self.step = max(self.step, event.step)
        elif event.type == "Failure" and event.failure is not None:
            self._said.setdefault(rank, (event.at, event.failure))
            self.failed_step = event.step if event.step is not None else self.failed_step
        elif event.type == "Prepared":
            self.prepared = event.name
        elif event.type == "Saved" and event.step is not None:
            self.saved_step = event.step
        elif event.type == "Done" and rank == 0:
            self.done_step = event.step if event.step is not None else self.step

    def ended(self, exited: Exited) -> None:
        """A rank has ended."""
        self.exits[exited.rank] = exited
        if self.first_exit_at is None:
            self.first_exit_at = exited.at

    def lose(self, hello: Hello, at: float) -> None:
        """A pod is gone with its ranks."""
        self.lost.append(pod_end(hello.pod, hello.node, at))

    @property
    def clean(self) -> bool:
        """Whether every rank has exited with 0."""
        return len(self.exits) == self.world and all(each.code == 0 for each in self.exits.values())

    @property
    def succeeded(self) -> bool:
        """Whether the task is done: every rank says so by its exit, and rank 0 in words."""
        return self.clean and (self.done_step if self.task == "train" else self.prepared) is not None

    @property
    def forward_at(self) -> float | None:
        """When the slowest rank began its first step; None until all have."""
        times = self.times.forward
        return max(times.values()) if len(times) >= self.world else None

    def ends(self, places: dict[int, Hello]) -> list[End]:
        """How all ranks and pods ended, with what is known of each; at least one."""
        found, quiet = list(self.lost), list[End]()
        for rank, exited in self.exits.items():
            said_at, said = self._said.get(rank, (exited.at, None))
            place = places.get(rank)
            # Who left in peace may still be why others lost their connection; alone it is no failure.
            in_peace = exited.code == ExitCode.SUCCESS and said is None
            (quiet if in_peace else found).append(
                End(
                    at=min(said_at, exited.at),
                    rank=rank,
                    pod=place.pod if place else None,
                    node=place.node if place else None,
                    exit_code=exited.code if exited.signal is None else None,
                    signal=exited.signal,
                    log_tail=tuple(exited.tail),
                    failure=said,
                    oom_kills=int(exited.oom),
                    stopped=exited.ordered,
                    before_first_step=not self.times.forward,
                )
            )
        if not any(not end.stopped for end in found):
            return [*found, End(at=self.first_exit_at or 0.0, log_tail=(self._silence(),))]
        return [*found, *quiet]

    def _silence(self) -> str:
        if self.clean:
            what = "Done" if self.task == "train" else "Prepared"
            return f"error: all ranks exited with 0, but none said {what}"
        open_ranks = sorted(set(range(self.world)) - {r for r, e in self.exits.items() if not e.ordered})
        return f"error: ranks {open_ranks} did not end after the others had"


def pod_end(pod: str, node: str | None, at: float) -> End:
    """The end of a whole pod that nothing more is known of."""
    return End(at=at, pod=pod, node=node or None, whole_pod=True, log_tail=(f"pod {pod} is gone",))
