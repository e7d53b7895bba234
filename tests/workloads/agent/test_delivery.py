"""Reports over the real wire: one connection for many, trusted by name, and never a second too long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from windlass.api.contract import Orders, Report, RunIdentity
from windlass_workloads.agent import delivery
from windlass_workloads.agent.delivery import Courier, Undelivered
from windlass_workloads.agent.timeline import moment
from workloads.agent.operator_fake import FakeOperator
from workloads.agent.support import wait_for

RUN = RunIdentity(kind="FineTuneJob", namespace="team", name="toy", uid="uid-1")


def report(sequence: int = 1) -> Report:
    return Report(run=RUN, pod="p", pod_uid="u", attempt=1, ticket=1, sequence=sequence, sent_at=moment(0.0))


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[FakeOperator]:
    made = FakeOperator(tmp_path / "operator")
    yield made
    made.close()


@pytest.fixture
def courier_to() -> Iterator[Callable[..., Courier]]:
    made: list[Courier] = []

    def make(operator: FakeOperator, **fields: Any) -> Courier:
        files = {"token_file": operator.token, "ca_file": operator.ca} | fields
        made.append(Courier(operator.target, **files))
        return made[-1]

    yield make
    for each in made:
        each.close()


Made = Callable[..., Courier]


def sequences(operator: FakeOperator) -> list[int]:
    return [each.sequence for each in operator.reports]


# --- one connection ----------------------------------------------------------------------------


def test_many_reports_go_over_one_connection(operator: FakeOperator, courier_to: Made) -> None:
    courier = courier_to(operator)
    for number in range(1, 21):
        assert courier.deliver(report(number)) == Orders()
    assert sequences(operator) == list(range(1, 21))
    assert len(operator.connections) == 1


@pytest.mark.parametrize("text", ["über", "… 42%|███▌", "日本語", "\ufffd", "\U0001f4a5", "\x1b[31m"])
def test_a_report_in_any_script_arrives(operator: FakeOperator, courier_to: Made, text: str) -> None:
    """What ranks print becomes evidence, and evidence is in every report from then on."""
    courier_to(operator).deliver(report().model_copy(update={"save_error": text}))
    assert [each.save_error for each in operator.reports] == [text]


def test_the_token_is_read_anew_for_each_report(operator: FakeOperator, courier_to: Made) -> None:
    courier = courier_to(operator)
    for token in ("first", "second"):
        operator.token.write_text(f"{token}\n")
        courier.deliver(report())
    assert operator.bearers == ["Bearer first", "Bearer second"]
    assert len(operator.connections) == 1


@pytest.mark.fault("F22")
def test_a_connection_that_the_operator_ended_is_no_failure(operator: FakeOperator, courier_to: Made) -> None:
    """An operator that was replaced between two reports is heard by the second at once."""
    courier = courier_to(operator)
    courier.deliver(report(1))
    operator.hang_up()
    courier.deliver(report(2))
    assert sequences(operator) == [1, 2]
    assert len(operator.connections) == 2


@pytest.mark.fault("F22")
def test_an_operator_that_is_gone_is_undelivered_and_its_successor_heard(
    tmp_path: Path, operator: FakeOperator, courier_to: Made
) -> None:
    """The successor has a certificate of another authority, as after a new installation."""
    courier = courier_to(operator)
    courier.deliver(report(1))
    operator.close()
    with pytest.raises(Undelivered):
        courier.deliver(report(2))
    successor = FakeOperator(tmp_path / "successor", port=operator.port)
    try:
        with pytest.raises(Undelivered, match=r"(?i)certificate"):
            courier.deliver(report(3))
        operator.ca.write_bytes(successor.ca.read_bytes())
        courier.deliver(report(4))
        assert sequences(successor) == [4]
    finally:
        successor.close()


@pytest.mark.fault("F22")
def test_a_replica_that_does_not_lead_any_more_is_left_at_once(
    operator: FakeOperator, courier_to: Made
) -> None:
    """The same address leads to another replica by now."""
    courier = courier_to(operator)
    courier.deliver(report(1))
    operator.statuses = [503]
    assert courier.deliver(report(2)) == Orders()
    assert sequences(operator) == [1, 2, 2]
    assert len(operator.connections) == 2
    operator.statuses = [503, 503]
    with pytest.raises(Undelivered, match="status 503"):
        courier.deliver(report(3))
    assert sequences(operator) == [1, 2, 2, 3, 3], "over a new connection it is asked once only"


@pytest.mark.parametrize("status", [401, 403, 429, 500])
def test_a_refused_report_is_undelivered_and_ends_the_connection(
    operator: FakeOperator, courier_to: Made, status: int
) -> None:
    courier = courier_to(operator)
    courier.deliver(report())
    operator.status = status
    with pytest.raises(Undelivered, match=f"status {status}"):
        courier.deliver(report())
    assert len(operator.connections) == 1
    operator.status = 200
    courier.deliver(report())
    assert len(operator.connections) == 2


def test_a_server_that_ends_each_connection_is_asked_over_new_ones(
    operator: FakeOperator, courier_to: Made
) -> None:
    operator.headers = {"Connection": "close"}
    courier = courier_to(operator)
    for number in (1, 2, 3):
        courier.deliver(report(number))
    assert sequences(operator) == [1, 2, 3]
    assert len(operator.connections) == 3


def test_an_answer_that_is_not_read_to_its_end_ends_the_connection(
    operator: FakeOperator, courier_to: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left of it would be taken for the next answer."""
    monkeypatch.setattr(delivery, "ANSWER_BYTES", 10)
    courier = courier_to(operator)
    for _ in range(2):
        with pytest.raises(Undelivered, match="no order"):
            courier.deliver(report())
    assert len(operator.connections) == 2


# --- time --------------------------------------------------------------------------------------


def test_a_report_that_hangs_is_given_up_and_not_sent_twice(operator: FakeOperator, courier_to: Made) -> None:
    courier = courier_to(operator)
    courier.deliver(report(1))
    kept = courier._kept
    assert kept is not None and kept.sock is not None and kept.sock.gettimeout() == delivery.TIMEOUT_SECONDS
    kept.sock.settimeout(0.3)
    operator.hangs.set()
    began = time.monotonic()
    with pytest.raises(Undelivered, match="timed out"):
        courier.deliver(report(2))
    assert time.monotonic() - began < delivery.TIMEOUT_SECONDS
    assert sequences(operator) == [1, 2]
    operator.hangs.clear()
    courier.deliver(report(3))
    assert len(operator.connections) == 2


def test_the_last_report_does_not_wait_for_one_that_hangs(operator: FakeOperator, courier_to: Made) -> None:
    courier = courier_to(operator)
    courier.deliver(report(1))
    operator.hangs.set()
    said: list[Orders] = []
    slow = threading.Thread(target=lambda: said.append(courier.deliver(report(2))))
    slow.start()
    wait_for("the report that hangs", lambda: sequences(operator) == [1, 2])
    last = threading.Thread(target=lambda: said.append(courier.deliver(report(3))))
    last.start()
    wait_for("the last report beside it", lambda: sequences(operator) == [1, 2, 3])
    operator.hangs.clear()
    slow.join(10)
    last.join(10)
    assert said == [Orders(), Orders()]
    courier.deliver(report(4))
    assert len(operator.connections) == 2, "the first is kept, the other one was for once"


def test_a_closed_courier_delivers_over_a_new_connection(operator: FakeOperator, courier_to: Made) -> None:
    courier = courier_to(operator)
    courier.deliver(report(1))
    courier.close()
    courier.close()
    courier.deliver(report(2))
    assert len(operator.connections) == 2


# --- trust, and what comes back ----------------------------------------------------------------


def test_a_server_with_another_name_or_authority_is_not_trusted(
    tmp_path: Path, operator: FakeOperator, courier_to: Made
) -> None:
    other = FakeOperator(tmp_path / "other", server_name="somebody.else")
    try:
        with pytest.raises(Undelivered, match=r"(?i)certificate|hostname"):
            courier_to(other).deliver(report())
        with pytest.raises(Undelivered, match=r"(?i)certificate"):
            courier_to(operator, ca_file=other.ca).deliver(report())
    finally:
        other.close()
    assert other.reports == [] and operator.reports == []


@pytest.mark.parametrize("missing", ["token_file", "ca_file"])
def test_a_file_that_is_missing_is_no_delivery(
    tmp_path: Path, operator: FakeOperator, courier_to: Made, missing: str
) -> None:
    with pytest.raises(Undelivered, match="No such file"):
        courier_to(operator, **{missing: tmp_path / "none"}).deliver(report())


def test_a_token_that_goes_missing_is_no_delivery_either(operator: FakeOperator, courier_to: Made) -> None:
    courier = courier_to(operator)
    courier.deliver(report())
    operator.token.unlink()
    with pytest.raises(Undelivered, match="No such file"):
        courier.deliver(report())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"action": "Dance"}',
        b'{"retryAfterSeconds": "soon"}',
        b"\xff",
        b"[" * 99_999,
    ],
    ids=lambda body: repr(body[:20]),
)
def test_an_answer_that_is_no_order_is_no_delivery(
    operator: FakeOperator, courier_to: Made, body: bytes
) -> None:
    operator.body = body
    with pytest.raises(Undelivered, match="the answer is no order"):
        courier_to(operator).deliver(report())


def test_orders_of_a_newer_operator_are_understood_as_far_as_they_are_known(
    operator: FakeOperator, courier_to: Made
) -> None:
    operator.body = b'{"version": 9, "action": "Stop", "reason": "x", "mood": "fine"}'
    orders = courier_to(operator).deliver(report())
    assert (orders.action, orders.reason) == ("Stop", "x")
