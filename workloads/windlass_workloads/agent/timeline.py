"""What the seconds of a run went into, and what later leaders must know, as rows of timeline.jsonl.

The leader appends a row when the state changes and rewrites `leader.json` every second, so that the
time without a leader can be told. Rows are never changed; totals are computed from them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from windlass.api.base import StatusModel
from windlass.api.contract import Timeline, Verdict
from windlass.api.status import Output, Plan, RecoveryRecord, TrackingStatus
from windlass_workloads.agent.events import Charged, Memory, State

Kind = TypeVar("Kind", bound=StatusModel)

ALIVE: Final = "leader.json"

FIELDS: Final = {
    State.STARTING: "starting",
    State.LOADING: "loading",
    State.TRAINING: "training",
    State.VALIDATING: "validating",
    State.REWORKED: "reworked",
    State.RECOVERING: "recovering",
    State.BACK_OFF: "back_off",
    State.FINISHING: "finishing",
    State.DOWN: "down",
}


@dataclass(slots=True)
class Totals:
    """Seconds by state, folded from rows in order."""

    started_at: float | None = None
    state: State = State.STARTING
    since: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)

    def change(self, state: State, at: float) -> None:
        """The state from `at` on; time never runs backwards."""
        if self.started_at is None:
            self.started_at = self.since = at
        at = max(at, self.since)
        self._add(FIELDS[self.state], at - self.since)
        self.state, self.since = state, at

    def stall(self, seconds: float) -> None:
        """Part of the present state's time went into a checkpoint."""
        self._add("checkpoint_stall", seconds)
        self._add(FIELDS[self.state], -seconds)

    def at(self, now: float) -> Timeline | None:
        """The totals until `now`; None before the first row."""
        if self.started_at is None:
            return None
        until = max(now, self.since)
        seconds = dict(self.seconds)
        name = FIELDS[self.state]
        seconds[name] = seconds.get(name, 0.0) + until - self.since
        parts = {name: round(max(0.0, value), 3) for name, value in seconds.items()}
        return Timeline.model_validate(
            {"started_at": moment(self.started_at), "until": moment(until), **parts}
        )

    def _add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds


@dataclass(frozen=True, slots=True)
class Past:
    """All that the rows and the last sign of life say."""

    totals: Totals
    memory: Memory
    output: Output | None = None
    tracking: TrackingStatus | None = None
    lost_steps: int = 0
    restarts: int = 0


def state_row(state: State, at: float, incarnation: int, left: str) -> dict[str, object]:
    """A change of state. `left` says how a leader went, in its last row."""
    row: dict[str, object] = {"at": round(at, 4), "state": str(state), "incarnation": incarnation}
    return row | {"left": left} if left else row


def stall_row(seconds: float, at: float) -> dict[str, object]:
    """Seconds of the present state that went into a checkpoint."""
    return {"at": round(at, 4), "stall": round(seconds, 4)}


def alive(at: float, step: int, highest_step: int, *, last: bool = False) -> bytes:
    """The content of leader.json. `last` says that this leader writes nothing more."""
    sign = {"at": round(at, 3), "step": step, "highestStep": highest_step}
    return json.dumps(sign | {"last": True} if last else sign).encode()


def is_last(sign: bytes | None) -> bool:
    """Whether this sign of life says that its leader has come to its end."""
    return _sign(sign).get("last") is True


def read_past(rows: Sequence[Mapping[str, Any]], last_sign: bytes | None) -> Past:
    """Folds the rows. A leader that went without a word is counted as gone since its last sign."""
    totals, left = Totals(), ""
    for row in rows:
        left = _fold(totals, row, left)
    sign = _sign(last_sign)
    last_at = sign.get("at")
    if totals.started_at is not None and totals.state is not State.DOWN:
        last_at = max(totals.since, last_at if last_at is not None else totals.since)
        totals.change(State.DOWN, last_at)
    facts = _facts(rows)
    recoveries = _models(RecoveryRecord, (row["recovery"] for row in rows if "recovery" in row))
    memory = Memory(
        last_at=totals.since if totals.started_at is not None else None,
        left="Whole" if left == "Whole" else "Pod" if left == "Pod" else "",
        step=int(sign.get("step", 0)),
        highest_step=int(sign.get("highestStep", 0)),
        prepared=facts.get("prepared"),
        plan=_model(Plan, facts.get("plan")),
        finished=_model(Verdict, facts.get("finished")),
        charged=_model(Charged, facts.get("charged")),
        recoveries=tuple(recoveries),
    )
    return Past(
        totals=totals,
        memory=memory,
        output=_model(Output, facts.get("output")),
        tracking=_model(TrackingStatus, facts.get("tracking")),
        lost_steps=sum(each.lost_steps for each in recoveries),
        restarts=len(recoveries),
    )


def moment(at: float) -> datetime:
    """Unix seconds as a time in UTC."""
    return datetime.fromtimestamp(at, UTC)


def _fold(totals: Totals, row: Mapping[str, Any], left: str) -> str:
    if "stall" in row:
        totals.stall(float(row["stall"]))
    if "state" not in row or row["state"] not in set(State):
        return left
    totals.change(State(row["state"]), float(row["at"]))
    return str(row.get("left", ""))


def _facts(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The last word on each subject."""
    facts: dict[str, Any] = {}
    for row in rows:
        facts.update(row)
    return facts


def _sign(data: bytes | None) -> dict[str, Any]:
    try:
        sign = json.loads(data or b"{}")
    except ValueError:
        return {}
    return sign if isinstance(sign, dict) else {}


def _model(model: type[Kind], data: object) -> Kind | None:
    """The model in a row; rows of another version that do not fit are left out."""
    if data is None:
        return None
    try:
        return model.model_validate(data)
    except ValidationError:
        return None


def _models(model: type[Kind], rows: Iterable[object]) -> list[Kind]:
    return [found for row in rows if (found := _model(model, row)) is not None]
