"""`windlass validate` and the real API server give the same verdict, on a table and on random documents."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from contract.crd.specs import (
    ABSENT,
    DRAWN_FROM,
    FIELDS,
    NEW_BERT,
    NEW_LLAMA,
    ODD,
    PASSES,
    PATHS,
    PRETRAIN_OWN,
    STRINGS,
    VALID,
    VALID_PRETRAIN,
    Document,
    change,
    documents,
    grouped,
)
from contract.server import Client
from windlass.api.nodes import Kind, Node
from windlass.api.validation import validate

pytestmark = pytest.mark.contract

EXAMPLES = 2000
VERDICTS: Counter[bool] = Counter()


def agree(server: Client, namespace: str, document: Any) -> bool:
    """Assert that both verdicts are equal; return whether it was refused."""
    problems = validate(document)
    answer = server.create(PATHS[document["kind"]].format(namespace), document, dry_run=True)
    assert answer.code in (201, 400, 422), answer.message
    offline = [str(one) for one in problems]
    assert (answer.code != 201) == bool(problems), f"offline: {offline}\nserver: {answer.message}\n{document}"
    return bool(problems)


@pytest.fixture(scope="module")
def space(api_server: Client) -> str:
    api_server.create("/api/v1/namespaces", {"metadata": {"name": "agreement"}}).expect(201)
    return "agreement"


BASES = {
    "spec.architecture": NEW_LLAMA,
    "spec.tokenizer": NEW_LLAMA,
    "spec.maskedShare": NEW_BERT,
    "spec.training.epochs": PASSES,
}
"""A document in which a field of PretrainJob has a place; VALID_PRETRAIN for all others."""


def base_of(path: str) -> Document:
    return next((base for field, base in BASES.items() if path.startswith(field)), VALID_PRETRAIN)


# What both kinds declare by the same words is judged once, in a FineTuneJob; random documents have it in both.
CASES = [("FineTuneJob", path, node, VALID) for path, node in FIELDS]
CASES += [("PretrainJob", path, node, base_of(path)) for path, node in PRETRAIN_OWN]
IDS = [f"{kind}-{path}" for kind, path, *_ in CASES]


@pytest.mark.parametrize(("kind", "path", "node", "base"), CASES, ids=IDS)
def test_every_field_agrees_on_odd_values(
    api_server: Client, space: str, kind: str, path: str, node: Node, base: Document
) -> None:
    values = (*ODD, *(STRINGS if node.kind is Kind.STRING and not node.choices else ()))
    if node.kind is Kind.INTEGER:
        low, high = node.bounds.at_least, node.bounds.at_most
        values = (*values, low, low - 1, high, high + 1)
    verdicts = [agree(api_server, space, change(path, value, base)) for value in values]
    assert any(verdicts), f"no odd value of {kind} was refused"


@pytest.mark.parametrize(("kind", "path", "node", "base"), CASES, ids=IDS)
def test_every_field_agrees_on_its_absence(
    api_server: Client, space: str, kind: str, path: str, node: Node, base: Document
) -> None:
    agree(api_server, space, change(path, ABSENT, base))


@pytest.mark.parametrize("kind", DRAWN_FROM)
def test_random_documents_agree(api_server: Client, space: str, kind: str) -> None:
    VERDICTS.clear()

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(document=documents(kind))
    def judged(document: Any) -> None:
        VERDICTS[agree(api_server, space, document)] += 1

    judged()
    assert VERDICTS.total() >= EXAMPLES
    assert min(VERDICTS[True], VERDICTS[False]) >= EXAMPLES // 8, f"one-sided sample: {VERDICTS}"


STARTS = [base for bases, _ in DRAWN_FROM.values() for base in bases]


@pytest.mark.parametrize("document", STARTS, ids=range(len(STARTS)))
def test_what_the_random_ones_begin_with_is_accepted(
    api_server: Client, space: str, document: Document
) -> None:
    assert not agree(api_server, space, document)


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
