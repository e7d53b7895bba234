"""The judgement of failures, measured on failures that were really caused (`tests/causes`) and on published words.

Each fault of one's own code is judged twice: with the failure that our ranks name, and as a script leaves it that
knows nothing of Windlass, with its log and exit code 1 alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from windlass.api.status import Failure
from windlass.core.failure.classify import classify, first_failed, is_follower
from windlass.core.failure.evidence import End

CAUSES = Path(__file__).resolve().parents[2] / "causes"
RIGHT_SHARE = 0.95
LEAST = 60


class Case(NamedTuple):
    """One set of ends with its right judgement. `first` is the rank at fault, None where nobody is."""

    name: str
    label: str
    first: int | None
    ends: tuple[End, ...]
    caused: bool


def end_of(row: dict[str, Any], *, early: bool) -> End:
    told = row.get("failure")
    return End(
        at=100.0 + row["at"],
        rank=row.get("rank"),
        pod=f"triage-{row.get('rank', 0)}-1",
        exit_code=row.get("exitCode"),
        signal=row.get("signal"),
        log_tail=tuple(row["log"]),
        failure=Failure.model_validate(told) if told is not None else None,
        oom_kills=row.get("oomKills", 0),
        stopped=row.get("stopped", False),
        before_first_step=early,
        whole_pod=row.get("wholePod", False),
        container_reason=row.get("containerReason"),
        pod_reason=row.get("podReason"),
        disruption=row.get("disruption"),
    )


def bare(end: End) -> End:
    """The same end of a script that cannot name its failure."""
    return end if end.failure is None else replace(end, failure=None, exit_code=1)


def read(document: dict[str, Any]) -> Iterator[Case]:
    label = document["label"]
    ends = tuple(end_of(row, early=document.get("early", False)) for row in document["ends"])
    caused = document.get("caused", False)
    yield Case(document["name"], label["class"], label["firstFailed"], ends, caused)
    if any(end.failure is not None for end in ends):
        yield Case(
            f"{document['name']}, bare", label["class"], label["firstFailed"], tuple(map(bare, ends)), caused
        )


DOCUMENTS = [
    *(yaml.safe_load(path.read_text()) for path in sorted((CAUSES / "cases").glob("*.yaml"))),
    *yaml.safe_load((CAUSES / "published.yaml").read_text()),
]
CASES = [case for document in DOCUMENTS for case in read(document)]
# Known to be judged wrongly, with the reason; counted as wrong in the share.
WRONG: dict[str, str] = {
    "truncated-mapping": "a bus error is taken for a full /dev/shm, which it is far more often",
    "torn-torch-file": "of an archive that was cut torch says no more than 'Invalid argument'",
    "torn-torch-file, bare": "the same",
}


def test_there_is_enough_to_measure_on() -> None:
    names = {document["name"] for document in DOCUMENTS}
    assert len(names) == len(DOCUMENTS)
    assert sum(document.get("caused", False) for document in DOCUMENTS) >= LEAST
    assert len({document["label"]["class"] for document in DOCUMENTS}) == 7


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_class_is_right(case: Case) -> None:
    judged = str(classify(case.ends).failure_class)
    assert (judged == case.label) is (case.name not in WRONG), f"{judged}: {classify(case.ends).message}"


def test_nearly_all_are_right_and_no_follower_is_ever_blamed() -> None:
    wrong = [case.name for case in CASES if str(classify(case.ends).failure_class) != case.label]
    assert len(wrong) <= (1 - RIGHT_SHARE) * len(CASES), wrong
    blamed = [
        case.name
        for case in CASES
        if case.first is not None and case.name not in WRONG and first_failed(case.ends).rank != case.first
    ]
    assert blamed == []


def test_every_fault_of_nobody_is_told_by_followers_only() -> None:
    groups = [
        case for case in CASES if case.first is None and case.label == "Infrastructure" and len(case.ends) > 1
    ]
    assert groups
    for case in groups:
        assert all(is_follower(end) for end in case.ends if not end.stopped), case.name
