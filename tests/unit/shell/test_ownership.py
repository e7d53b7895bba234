"""Field ownership: what our POST wrote counts as applied, and nothing of others is touched."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass.api.meta import MANAGER, STATUS_MANAGER
from windlass.shell.ownership import add_fields, as_applied, is_ours

Json = dict[str, Any]


def entry(manager: str = MANAGER, operation: str = "Update", subresource: str = "", **fields: Json) -> Json:
    made = {
        "manager": manager,
        "operation": operation,
        "apiVersion": "v1",
        "time": "2026-11-25T12:00:00Z",
        "fieldsType": "FieldsV1",
        "fieldsV1": {f"f:{name}": value for name, value in fields.items()},
    }
    return made | ({"subresource": subresource} if subresource else {})


OTHERS = [
    entry("kubectl-edit", data={"f:x": {}}),
    entry("argocd", "Apply", metadata={"f:labels": {}}),
    entry("kubelet", subresource="status", status={}),
]


def test_an_update_of_ours_becomes_an_apply() -> None:
    assert as_applied([entry(data={"f:ca": {}})]) == [entry(operation="Apply", data={"f:ca": {}})]


@pytest.mark.parametrize(
    "entries",
    [
        [],
        OTHERS,
        [entry(operation="Apply", data={})],
        [entry(STATUS_MANAGER, status={})],
        [entry(subresource="status", status={})],
    ],
    ids=["none", "only others", "applied already", "the status manager", "a subresource"],
)
def test_nothing_is_changed_without_need(entries: list[Json]) -> None:
    assert as_applied(entries) is None


def test_entries_of_others_stay_as_they_are() -> None:
    found = as_applied([OTHERS[0], entry(spec={}), *OTHERS[1:]])
    assert found is not None and found[:-1] == OTHERS


def test_an_apply_and_an_update_become_one_with_the_fields_of_both() -> None:
    found = as_applied([entry(operation="Apply", spec={"f:a": {}}), entry(spec={"f:b": {}}, data={})])
    assert found == [entry(operation="Apply", spec={"f:a": {}, "f:b": {}}, data={})]


def test_what_is_given_is_not_changed() -> None:
    given_entries = [entry(operation="Apply", spec={"f:a": {}}), entry(spec={"f:b": {}})]
    before = copy.deepcopy(given_entries)
    as_applied(given_entries)
    assert given_entries == before


@pytest.mark.parametrize(
    ("one", "operation", "ours"),
    [
        (entry(), "Update", True),
        (entry(), "Apply", False),
        (entry("somebody"), "Update", False),
        (entry(subresource="status"), "Update", False),
        ({}, "Update", False),
    ],
)
def test_whose_an_entry_is(one: Json, operation: str, ours: bool) -> None:
    assert is_ours(one, operation) is ours


TREES = st.recursive(
    st.builds(dict), lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=12
)


def leaves(tree: Json, at: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    found = {at}
    for name, below in tree.items():
        found |= leaves(below, (*at, name))
    return found


@given(TREES, TREES)
def test_a_sum_of_trees_has_the_fields_of_both_and_no_others(one: Json, other: Json) -> None:
    target = copy.deepcopy(one)
    add_fields(target, other)
    assert leaves(target) == leaves(one) | leaves(other)
