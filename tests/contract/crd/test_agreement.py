"""`windlass validate` and the real API server give the same verdict, on a table and on random documents."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from contract.crd.specs import ABSENT, FIELDS, JOBS, ODD, STRINGS, VALID, change, documents, grouped
from contract.server import Client
from windlass.api.nodes import Kind, Node
from windlass.api.validation import validate

pytestmark = pytest.mark.contract

EXAMPLES = 2000
VERDICTS: Counter[bool] = Counter()


def agree(server: Client, namespace: str, document: Any) -> bool:
    """Assert that both verdicts are equal; return whether it was refused."""
    problems = validate(document)
    answer = server.create(JOBS.format(namespace), document, dry_run=True)
    assert answer.code in (201, 400, 422), answer.message
    offline = [str(one) for one in problems]
    assert (answer.code != 201) == bool(problems), f"offline: {offline}\nserver: {answer.message}\n{document}"
    return bool(problems)


@pytest.fixture(scope="module")
def space(api_server: Client) -> str:
    api_server.create("/api/v1/namespaces", {"metadata": {"name": "agreement"}}).expect(201)
    return "agreement"


@pytest.mark.parametrize(("path", "node"), FIELDS, ids=[path for path, _ in FIELDS])
def test_every_field_agrees_on_odd_values(api_server: Client, space: str, path: str, node: Node) -> None:
    values = (*ODD, *(STRINGS if node.kind is Kind.STRING and not node.choices else ()))
    if node.kind is Kind.INTEGER:
        low, high = node.bounds.at_least, node.bounds.at_most
        values = (*values, low, low - 1, high, high + 1)
    verdicts = [agree(api_server, space, change(path, value)) for value in values]
    assert any(verdicts), "no odd value was refused"


@pytest.mark.parametrize("path", [path for path, _ in FIELDS])
def test_every_field_agrees_on_its_absence(api_server: Client, space: str, path: str) -> None:
    agree(api_server, space, change(path, ABSENT))


def test_random_documents_agree(api_server: Client, space: str) -> None:
    VERDICTS.clear()

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(document=documents())
    def judged(document: Any) -> None:
        VERDICTS[agree(api_server, space, document)] += 1

    judged()
    assert VERDICTS.total() >= EXAMPLES
    assert min(VERDICTS[True], VERDICTS[False]) >= EXAMPLES // 8, f"one-sided sample: {VERDICTS}"


def test_the_smallest_document_is_accepted(api_server: Client, space: str) -> None:
    assert not agree(api_server, space, VALID)


@pytest.mark.bad_input("B7")
@pytest.mark.parametrize(
    ("size", "gang"),
    [
        (2, {"nodes": 2, "ranksPerNode": 1}),
        (4, {"nodes": 2, "ranksPerNode": 2}),
        (2, {"nodes": 3, "ranksPerNode": 2, "minNodes": 1}),
        (4, {"nodes": 4, "ranksPerNode": 2, "minNodes": 4}),
    ],
)
def test_groups_that_fit_every_gang_are_accepted(
    api_server: Client, space: str, size: int, gang: dict[str, int]
) -> None:
    assert not agree(api_server, space, change("spec", grouped(size, **gang)))
