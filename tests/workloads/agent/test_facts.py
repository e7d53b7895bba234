"""The pure facts behind the gang: who is a member, what ranks did, and where a recovery's time went."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.api.contract import IncarnationCause, RankEvent
from windlass.api.meta import ExitCode, FailureClass, Phase, Rung
from windlass.api.status import FailedRank, Failure
from windlass.core.failure.classify import classify
from windlass_workloads.agent.clock import RankTimes, RecoveryClock
from windlass_workloads.agent.life import Life, pod_end
from windlass_workloads.agent.messages import Exited, Hello
from windlass_workloads.agent.roster import Member, Roster


def hello(index: int, ticket: int, *, ready: bool = True) -> Hello:
    return Hello(
        pod=f"toy-{index}-{ticket}",
        pod_uid=f"u-{index}-{ticket}",
        pod_ip="10.0.0.1",
        node=f"node-{index}",
        index=index,
        ticket=ticket,
        attempt=1,
        ready=ready,
    )


# --- members ------------------------------------------------------------------------------------------------


def full(size: int = 3) -> Roster:
    roster = Roster(size)
    for index in range(size):
        roster.add(hello(index, index + 1))
    return roster


def member(roster: Roster, index: int) -> Member:
    found = roster.get(index)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("index", "ticket", "outdated"),
    [(0, 1, False), (0, 0, True), (0, 9, False), (2, 3, False), (2, 2, True), (3, 9, True), (-1, 9, True)],
)
def test_who_has_no_place(index: int, ticket: int, outdated: bool) -> None:
    assert full().outdated(hello(index, ticket)) is outdated


def test_a_ticket_is_remembered_after_its_pod_is_gone() -> None:
    roster = full()
    roster.remove(member(roster, 1))
    assert roster.outdated(hello(1, 1))
    assert not roster.outdated(hello(1, 2)), "the same pod may come back"
    roster.add(hello(1, 7))
    roster.remove(member(roster, 1))
    assert roster.outdated(hello(1, 6))


@pytest.mark.parametrize("flaw", ["missing", "not ready", "busy", "leaving"])
def test_a_gang_is_complete_when_all_are_there_ready_idle_and_staying(flaw: str) -> None:
    roster = full()
    assert roster.complete and not roster.missing
    one = member(roster, 1)
    if flaw == "missing":
        roster.remove(one)
    elif flaw == "not ready":
        one.ready = False
    elif flaw == "busy":
        one.busy = 4
    else:
        one.leaving_at = 5.0
    assert not roster.complete
    assert roster.missing is (flaw == "missing")
    assert roster.busy == ([one] if flaw == "busy" else [])
    assert roster.leaving == ([one] if flaw == "leaving" else [])


def test_members_are_in_the_order_of_their_index() -> None:
    roster = Roster(4)
    for index in (2, 0, 3, 1):
        roster.add(hello(index, 9 - index))
    assert [each.hello.index for each in roster] == [0, 1, 2, 3]


def test_a_successor_waits_is_found_and_takes_the_place() -> None:
    roster = full(2)
    old = member(roster, 1)
    roster.hold(hello(1, 8, ready=False))
    waiting = roster.find(1, "u-1-8")
    assert waiting is not None and roster.waits(waiting) and not roster.waits(old)
    assert roster.find(1, "u-1-2") is old
    assert member(roster, 1) is old, "it is no member yet"
    waiting.ready = True
    roster.remove(old)
    assert member(roster, 1) is waiting and not roster.waits(waiting)
    assert roster.complete


def test_a_successor_that_goes_leaves_the_place_as_it_was() -> None:
    roster = full(2)
    old = member(roster, 1)
    roster.hold(hello(1, 8))
    waiting = roster.find(1, "u-1-8")
    assert waiting is not None
    roster.remove(waiting)
    assert member(roster, 1) is old
    assert roster.find(1, "u-1-8") is None
    assert roster.outdated(hello(1, 7)), "its ticket counts all the same"


def test_the_newest_of_two_successors_is_the_one() -> None:
    roster = full(2)
    roster.hold(hello(1, 8))
    roster.hold(hello(1, 9))
    assert roster.find(1, "u-1-8") is None
    roster.remove(member(roster, 1))
    assert member(roster, 1).hello.ticket == 9


@pytest.mark.parametrize(("index", "uid"), [(0, "u-1-2"), (1, "u-0-1"), (1, "other"), (7, "u-1-2")])
def test_who_is_not_this_very_pod_is_not_found(index: int, uid: str) -> None:
    assert full().find(index, uid) is None


# --- what ranks did ----------------------------------------------------------------------------------------


def life(world: int = 2, task: str = "train", **fields: Any) -> Life:
    return Life(**{"incarnation": 3, "task": task, "world": world, "resumed_step": 5, "step": 5, **fields})


def said(one: Life, kind: str, *, rank: int = 0, at: float = 10.0, **fields: Any) -> None:
    one.hear(RankEvent.model_validate({"type": kind, "at": at, "rank": rank, **fields}))


def ended(one: Life, rank: int, code: int = 0, **fields: Any) -> None:
    one.ended(Exited(**{"incarnation": 3, "rank": rank, "code": code, "at": 20.0, **fields}))


PLACES = {0: hello(0, 1), 1: hello(1, 2)}
CRASHED = Failure(reason="Crash", failure_class=FailureClass.CRASH, message="boom")


@pytest.mark.parametrize(
    ("exits", "words", "clean", "succeeded"),
    [
        ({0: 0, 1: 0}, "Done", True, True),
        ({0: 0, 1: 0}, None, True, False),
        ({0: 0}, "Done", False, False),
        ({0: 0, 1: 1}, "Done", False, False),
        ({}, "Done", False, False),
    ],
)
def test_success_needs_every_exit_and_the_word(
    exits: dict[int, int], words: str | None, clean: bool, succeeded: bool
) -> None:
    one = life()
    if words:
        said(one, words, step=40)
    for rank, code in exits.items():
        ended(one, rank, code)
    assert (one.clean, one.succeeded) == (clean, succeeded)


@pytest.mark.parametrize(("rank", "counts"), [(0, True), (1, False)])
def test_only_rank_0_can_say_that_training_is_done(rank: int, counts: bool) -> None:
    one = life()
    said(one, "Done", rank=rank, step=40)
    for each in (0, 1):
        ended(one, each)
    assert one.succeeded is counts


def test_preparing_is_done_when_its_name_is_told() -> None:
    one = life(world=1, task="prepare")
    ended(one, 0)
    assert not one.succeeded
    said(one, "Prepared", name="toy")
    assert one.succeeded and one.prepared == "toy"


@pytest.mark.parametrize(
    ("events", "step"),
    [
        ([], 5),
        ([("Step", 0, 6), ("Step", 0, 7)], 7),
        ([("Step", 1, 9)], 5),
        ([("Step", 0, 7), ("Step", 0, 6)], 7),
        ([("Step", 0, 3)], 5),
        ([("Step", 0, None)], 5),
        ([("Checkpoint", 0, 8)], 8),
        ([("Checkpoint", 0, 8), ("Step", 0, 7)], 8),
        ([("Checkpoint", 1, 8)], 5),
    ],
)
def test_the_step_is_the_highest_that_rank_0_vouches_for(
    events: list[tuple[str, int, int | None]], step: int
) -> None:
    one = life()
    for kind, rank, number in events:
        said(one, kind, rank=rank, step=number)
    assert one.step == step


def test_the_slowest_rank_decides_when_steps_began() -> None:
    one = life()
    said(one, "Forward", rank=0, at=11.0, step=6)
    assert one.forward_at is None
    said(one, "Forward", rank=1, at=13.0, step=6)
    said(one, "Forward", rank=0, at=99.0, step=6)
    assert one.forward_at == 13.0


def test_the_first_failed_is_told_with_its_place_and_words() -> None:
    one = life()
    said(one, "Failure", rank=1, at=12.0, failure=CRASHED)
    ended(one, 0, 137, signal=9, ordered=True)
    ended(one, 1, 10, tail=["boom"])
    judged = classify(one.ends(PLACES))
    assert judged.first_failed == FailedRank(rank=1, pod="toy-1-2", node="node-1")
    assert (judged.message, judged.exit_code) == ("boom", 10)


def test_a_failure_counts_from_its_words_not_from_its_end() -> None:
    # Rank 1 spoke first and took long to die; rank 0 fell over it at once.
    one = life()
    said(one, "Failure", rank=1, at=12.0, failure=CRASHED)
    ended(one, 0, 1, at=13.0, tail=["ValueError: other"])
    ended(one, 1, 10, at=30.0)
    assert classify(one.ends(PLACES)).first_failed.rank == 1


def test_the_first_words_of_a_rank_are_its_reason() -> None:
    one = life(world=1)
    said(one, "Failure", failure=CRASHED)
    said(one, "Failure", failure=CRASHED.model_copy(update={"message": "while cleaning up"}))
    ended(one, 0, 10)
    assert classify(one.ends(PLACES)).message == "boom"


@pytest.mark.parametrize(
    ("fields", "failure_class"),
    [
        ({"code": 137, "signal": 9, "oom": True}, FailureClass.OUT_OF_MEMORY),
        ({"code": 137, "signal": 9, "oom": False}, FailureClass.CRASH),
        ({"code": 139, "signal": 11, "oom": True}, FailureClass.CRASH),
        ({"code": int(ExitCode.OUT_OF_MEMORY)}, FailureClass.OUT_OF_MEMORY),
        ({"code": int(ExitCode.STORAGE)}, FailureClass.STORAGE),
        ({"code": int(ExitCode.CONFIGURATION)}, FailureClass.CONFIGURATION),
        ({"code": 1, "tail": ["OSError: [Errno 28] No space left on device"]}, FailureClass.STORAGE),
        ({"code": 1, "tail": ["ModuleNotFoundError: No module named 'x'"]}, FailureClass.CONFIGURATION),
    ],
)
@pytest.mark.fault("F38")
def test_an_end_is_judged_by_what_the_kernel_and_the_log_say(
    fields: dict[str, Any], failure_class: FailureClass
) -> None:
    one = life(world=1)
    ended(one, 0, **fields)
    assert classify(one.ends(PLACES)).failure_class is failure_class


def test_the_same_words_after_the_first_step_are_no_wrong_setting() -> None:
    one = life(world=1)
    said(one, "Forward", step=6)
    ended(one, 0, 1, tail=["FileNotFoundError: no such file or directory"])
    assert classify(one.ends(PLACES)).failure_class is FailureClass.CRASH


@pytest.mark.parametrize(
    ("exits", "said_in_words"),
    [
        ({0: {}, 1: {}}, "all ranks exited with 0, but none said Done"),
        (
            {0: {}, 1: {"code": 137, "signal": 9, "ordered": True}},
            "ranks [1] did not end after the others had",
        ),
        ({}, "ranks [0, 1] did not end after the others had"),
    ],
)
def test_there_is_always_a_reason(exits: dict[int, dict[str, Any]], said_in_words: str) -> None:
    one = life()
    for rank, fields in exits.items():
        ended(one, rank, **fields)
    ends = one.ends(PLACES)
    assert any(not end.stopped for end in ends)
    assert said_in_words in "\n".join(end.text for end in ends)


LOST_CONNECTION = ["RuntimeError: Connection closed by peer [10.0.0.2]:4242"]


@pytest.mark.parametrize(
    ("other", "first", "failure_class"),
    [
        ({"code": 1, "tail": LOST_CONNECTION}, 1, FailureClass.CRASH),
        ({"code": 1, "tail": ["ValueError: boom"]}, 0, FailureClass.CRASH),
        ({"code": 139, "signal": 11}, 0, FailureClass.CRASH),
        ({"code": 137, "signal": 9, "oom": True}, 0, FailureClass.OUT_OF_MEMORY),
    ],
    ids=[
        "it only lost its connection",
        "it has words of its own",
        "it was killed",
        "it was killed for memory",
    ],
)
def test_who_left_in_peace_is_blamed_by_followers_only(
    other: dict[str, Any], first: int, failure_class: FailureClass
) -> None:
    one = life()
    ended(one, 1, 0, at=11.0)
    ended(one, 0, at=12.0, **other)
    judged = classify(one.ends(PLACES))
    assert (judged.first_failed.rank, judged.failure_class) == (first, failure_class)


def test_a_lost_pod_is_blamed_before_who_left_in_peace() -> None:
    one = life()
    ended(one, 0, 0, at=11.0)
    one.lose(hello(1, 2), 15.0)
    assert classify(one.ends(PLACES)).whole_pod


def test_a_lost_pod_is_a_reason_of_its_own() -> None:
    one = life()
    one.lose(hello(1, 2), 15.0)
    ended(one, 0, 137, signal=9, ordered=True)
    judged = classify(one.ends(PLACES))
    assert (judged.first_failed.pod, judged.whole_pod) == ("toy-1-2", True)
    assert judged.failure_class is FailureClass.INFRASTRUCTURE


@pytest.mark.parametrize(("node", "told"), [("n", "n"), ("", None), (None, None)])
def test_a_pods_end_names_its_node_if_known(node: str | None, told: str | None) -> None:
    end = pod_end("p", node, 5.0)
    assert (end.pod, end.node, end.whole_pod, end.at) == ("p", told, True, 5.0)
    assert end.text == "pod p is gone"


# --- where the time went -----------------------------------------------------------------------------------

PARTS = ("detect", "stop", "decide", "place", "rendezvous", "load", "first_step")
MOMENTS = st.one_of(st.just(0.0), st.floats(90, 200))


@given(
    known=st.floats(95, 120),
    stopped=MOMENTS,
    claimed=MOMENTS,
    launched=MOMENTS,
    ends=st.floats(90, 220),
    load=st.dictionaries(st.integers(0, 3), st.floats(90, 200), max_size=3),
    train=st.dictionaries(st.integers(0, 3), st.floats(90, 200), max_size=3),
)
@settings(max_examples=100, deadline=None)
def test_no_clock_gives_a_negative_or_a_missing_second(
    known: float,
    stopped: float,
    claimed: float,
    launched: float,
    ends: float,
    load: dict[int, float],
    train: dict[int, float],
) -> None:
    cause = IncarnationCause(rung=Rung.IN_PLACE, failure_class=FailureClass.CRASH, from_step=9)
    watch = RecoveryClock(cause, fault_at=100.0, known_at=known, stopped_at=stopped)
    watch.claimed_at, watch.launched_at = claimed, launched
    row = watch.record(incarnation=2, resumed_step=4, times=RankTimes(load=load, train=train), ended_at=ends)
    seconds = row.seconds.model_dump()
    assert seconds["total"] == pytest.approx(max(0.0, ends - 100.0), abs=0.001)
    assert all(seconds[name] >= 0 for name in PARTS)
    assert sum(seconds[name] for name in PARTS) == pytest.approx(seconds["total"], abs=0.01)


@pytest.mark.parametrize("back_off", [0.0, 2.0, 30.0])
def test_a_pause_is_in_the_total_and_in_no_part(back_off: float) -> None:
    cause = IncarnationCause(rung=Rung.IN_PLACE, failure_class=FailureClass.CRASH, from_step=9)
    watch = RecoveryClock(cause, fault_at=100.0, known_at=100.5, stopped_at=101.0, back_off_seconds=back_off)
    watch.claimed_at, watch.launched_at = 101.5 + back_off, 102.0 + back_off
    row = watch.record(incarnation=2, resumed_step=9, times=RankTimes(), ended_at=103.0 + back_off)
    seconds = row.seconds.model_dump()
    assert seconds["total"] == 3.0 + back_off
    assert sum(seconds[name] for name in PARTS) == pytest.approx(3.0)
    assert seconds["decide"] == pytest.approx(0.5)


def test_first_entries_count_and_other_phases_do_not() -> None:
    times = RankTimes()
    for at in (1.0, 2.0):
        times.entered(0, Phase.LOAD, at)
        times.entered(0, Phase.TRAIN, at + 5)
        times.entered(0, Phase.SAVE, at)
        times.began(0, at + 9)
    assert (times.load, times.train, times.forward) == ({0: 1.0}, {0: 6.0}, {0: 10.0})


@pytest.mark.parametrize(("resumed", "from_step"), [(4, 9), (9, 9), (12, 12)])
def test_a_claim_raises_the_step_to_what_its_checkpoint_proves(resumed: int, from_step: int) -> None:
    cause = IncarnationCause(rung=Rung.IN_PLACE, failure_class=FailureClass.CRASH, from_step=9)
    watch = RecoveryClock(cause, fault_at=100.0, known_at=100.0)
    watch.claimed(101.0, resumed)
    row = watch.record(incarnation=2, resumed_step=resumed, times=RankTimes(), ended_at=110.0)
    assert (row.from_step, row.lost_steps) == (from_step, from_step - resumed)


def test_a_row_carries_the_cause_and_at_most_eight_lines() -> None:
    cause = IncarnationCause(
        rung=Rung.IN_PLACE,
        failure_class=FailureClass.CRASH,
        first_failed=FailedRank(rank=1, pod="p", node="n"),
        exit_code=10,
        signal=11,
        evidence=[str(number) for number in range(20)],
        from_step=9,
    )
    watch = RecoveryClock(cause, fault_at=100.0, known_at=100.0)
    watch.moved_to(Rung.RECREATE_POD)
    row = watch.record(incarnation=7, resumed_step=9, times=RankTimes(), ended_at=110.0)
    assert (row.incarnation, row.rung, row.exit_code, row.signal) == (7, Rung.RECREATE_POD, 10, 11)
    assert row.evidence == [str(number) for number in range(12, 20)]
    assert row.first_failed.pod == "p" and row.at.timestamp() == 100.0
