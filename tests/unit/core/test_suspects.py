"""The list of nodes that a run avoids: bounded, ended by the clock, and never stricter than the evidence."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unit.core.builders import NOW, SETTINGS, a_job, at
from windlass.api.contract import Suspicion
from windlass.api.meta import Exclusion, FailureClass, SuspectReason
from windlass.api.status import JobStatus, Member, SuspectNode
from windlass.core.render.pod import affinity, pod
from windlass.core.suspects import LIMIT, current, excluded, suspected, until_expiry

STRICT, SOFT = Exclusion.REQUIRED, Exclusion.PREFERRED
LOST, DEVICE = SuspectReason.NODE_LOST, SuspectReason.DEVICE_ERROR


def a_suspicion(
    exclusion: Exclusion = SOFT, reason: SuspectReason = LOST, evidence: tuple[str, ...] = ("it broke",)
) -> Suspicion:
    return Suspicion(
        reason=reason,
        exclusion=exclusion,
        failure_class=FailureClass.INFRASTRUCTURE,
        evidence=list(evidence),
    )


def a_suspect(
    name: str = "node-1", exclusion: Exclusion = SOFT, *, since: float = 0, until: float = 600
) -> SuspectNode:
    return SuspectNode(
        name=name,
        reason=LOST if exclusion is SOFT else DEVICE,
        failure_class=FailureClass.INFRASTRUCTURE,
        exclusion=exclusion,
        since=at(since),
        until=at(until),
        evidence=["before"],
    )


def add(suspects: list[SuspectNode], name: str, found: Suspicion, now: datetime = NOW) -> list[SuspectNode]:
    return suspected(suspects, name, found, now=now, seconds=3600)


def test_a_new_suspect_has_everything_that_was_found() -> None:
    (made,) = add([], "node-1", a_suspicion(STRICT, DEVICE, ("Xid 79",)))
    assert made == SuspectNode(
        name="node-1",
        reason=DEVICE,
        failure_class=FailureClass.INFRASTRUCTURE,
        exclusion=STRICT,
        since=NOW,
        until=NOW + timedelta(hours=1),
        count=1,
        evidence=["Xid 79"],
    )


# (how it was avoided, how it is suspected now: how it is avoided then, for what, and with whose evidence)
AGAIN = [
    (
        SOFT,
        a_suspicion(SOFT, SuspectReason.REPEATED_FAILURES),
        SOFT,
        SuspectReason.REPEATED_FAILURES,
        "it broke",
    ),
    (SOFT, a_suspicion(STRICT, DEVICE), STRICT, DEVICE, "it broke"),
    (STRICT, a_suspicion(SOFT, LOST), STRICT, DEVICE, "before"),
    (STRICT, a_suspicion(STRICT, SuspectReason.HEALTH_TAINT), STRICT, SuspectReason.HEALTH_TAINT, "it broke"),
]


@pytest.mark.parametrize(("before", "found", "exclusion", "reason", "evidence"), AGAIN)
def test_suspecting_again_lasts_longer_and_is_never_less_strict(
    before: Exclusion, found: Suspicion, exclusion: Exclusion, reason: SuspectReason, evidence: str
) -> None:
    (made,) = add([a_suspect(exclusion=before)], "node-1", found)
    assert (made.exclusion, made.reason, made.evidence) == (exclusion, reason, [evidence])
    assert (made.since, made.until, made.count) == (at(0), NOW + timedelta(hours=1), 2)


def test_the_one_suspected_longest_makes_room_a_merely_avoided_one_first() -> None:
    full = [a_suspect(f"node-{n:02d}", STRICT if n == 0 else SOFT, since=n) for n in range(LIMIT)]
    names = [item.name for item in add(full, "node-99", a_suspicion())]
    assert names == ["node-00", *(f"node-{n:02d}" for n in range(2, LIMIT)), "node-99"]


def test_a_full_list_of_excluded_nodes_still_takes_a_new_one() -> None:
    full = [a_suspect(f"node-{n:02d}", STRICT, since=n) for n in range(LIMIT)]
    made = add(full, "node-99", a_suspicion())
    assert len(made) == LIMIT
    assert {"node-99", "node-15"} <= {item.name for item in made}
    assert "node-00" not in {item.name for item in made}


@pytest.mark.parametrize(
    ("now", "left", "wait"),
    [
        (0, ["a", "b"], 100.0),
        (99.5, ["a", "b"], 0.5),
        (100, ["b"], 100.0),
        (150, ["b"], 50.0),
        (200, [], None),
    ],
)
def test_suspicion_ends_by_the_clock(now: float, left: list[str], wait: float | None) -> None:
    suspects = current([a_suspect("a", until=100), a_suspect("b", until=200)], at(now))
    assert [item.name for item in suspects] == left
    assert until_expiry(suspects, at(now)) == wait


# --- histories -------------------------------------------------------------------------------------

FOUND = st.builds(
    a_suspicion,
    st.sampled_from(list(Exclusion)),
    st.sampled_from(list(SuspectReason)),
    st.sampled_from([(), ("line",), ("a", "b", "c", "d")]),
)
STEPS = st.lists(st.tuples(st.integers(0, 40), FOUND, st.integers(0, 900)), min_size=1, max_size=60)


@settings(max_examples=150, deadline=None)
@given(STEPS, st.integers(60, 7200))
def test_no_history_makes_the_list_long_or_everlasting(
    steps: list[tuple[int, Suspicion, int]], seconds: int
) -> None:
    suspects: list[SuspectNode] = []
    now = NOW
    for number, found, passed in steps:
        now += timedelta(seconds=passed)
        suspects = current(suspects, now)
        before = {item.name: item for item in suspects}
        name = f"node-{number}"
        suspects = suspected(suspects, name, found, now=now, seconds=seconds)
        after = {item.name: item for item in suspects}
        assert len(after) == len(suspects) <= LIMIT
        assert after.keys() <= before.keys() | {name}
        assert suspects == sorted(suspects, key=lambda item: (item.since, item.name))
        assert all(now < item.until <= now + timedelta(seconds=seconds) for item in suspects)
        assert all(
            item.exclusion is after[key].exclusion
            for key, item in before.items()
            if key in after and key != name
        )
        strict = found.exclusion is STRICT or (name in before and before[name].exclusion is STRICT)
        assert after[name].exclusion is (STRICT if strict else SOFT)
        assert JobStatus(suspect_nodes=suspects).suspect_nodes == suspects
    assert current(suspects, now + timedelta(seconds=seconds)) == []


@settings(max_examples=100, deadline=None)
@given(STEPS)
def test_no_soft_rule_ever_forbids_a_node(steps: list[tuple[int, Suspicion, int]]) -> None:
    """Whatever is suspected, only nodes with evidence against the node itself are closed to the run."""
    suspects: list[SuspectNode] = []
    for number, found, _ in steps:
        suspects = add(suspects, f"node-{number}", found)
    rules = affinity(suspects).get("affinity", {}).get("nodeAffinity", {})
    forbidden = {
        field["values"][0]
        for term in rules.get("requiredDuringSchedulingIgnoredDuringExecution", {}).get(
            "nodeSelectorTerms", ()
        )
        for field in term["matchFields"]
    }
    disliked = {
        rule["preference"]["matchFields"][0]["values"][0]
        for rule in rules.get("preferredDuringSchedulingIgnoredDuringExecution", ())
    }
    assert forbidden == set(excluded(suspects, STRICT))
    assert disliked == set(excluded(suspects, SOFT))
    assert not forbidden & disliked


def test_no_suspects_leave_the_pod_as_it_was() -> None:
    assert affinity([]) == {}


@pytest.mark.parametrize(
    ("suspects", "avoids"),
    [
        ([], None),
        ([a_suspect("node-1")], None),
        ([a_suspect("node-2", STRICT), a_suspect("node-1", STRICT), a_suspect("node-3")], "node-1,node-2"),
    ],
    ids=["none", "avoided", "excluded"],
)
def test_pod_says_which_nodes_it_was_kept_off(suspects: list[SuspectNode], avoids: str | None) -> None:
    job = a_job().on_attempt(1, 1, 2, suspect_nodes=suspects).build()
    assert job.spec is not None
    made = pod(job, job.spec, Member(index=1, ticket=2), attempt=1, config_map="c", settings=SETTINGS)
    assert made["metadata"]["annotations"].get("windlass.dev/avoids-nodes") == avoids
    assert ("affinity" in made["spec"]) is bool(suspects)
