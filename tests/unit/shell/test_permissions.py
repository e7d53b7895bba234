"""The table of rights against what the operator really asks of the API server over whole lives of a run."""

from __future__ import annotations

import pytest

from unit.shell.conftest import Hand
from unit.shell.fakeapi import FakeApi
from unit.shell.life import Life, world
from unit.shell.test_rounds import all_run, all_succeed, lose_pod, resume, status, suspend
from windlass.api.kinds import KINDS
from windlass.shell.endpoint import publish
from windlass.shell.identity import Reviewer
from windlass.shell.lease import Candidate, Elector
from windlass.shell.permissions import CLUSTER_RULES, KUEUE_RULES, NODE_RULES, OWN_NAMESPACE_RULES, Rule
from windlass.shell.resources import BY_KIND, Resource
from windlass.shell.settings import Settings

SETTINGS = Settings("windlass-system", "operator-1", "uid-1", "10.0.0.7", "workload:1")
OWN = {"lease": SETTINGS.lease_name, "slice": SETTINGS.slice_name}
GROUPS = {resource.plural: resource.group for resource in BY_KIND.values()}
METHODS = {"POST": {"create"}, "PUT": {"update"}, "DELETE": {"delete"}, "PATCH": {"patch"}}


def needed(method: str, path: str) -> list[tuple[str, str, str, str]]:
    """Group, resource, verb and name that a request needs, as the server's authorizer sees it."""
    parts = [part for part in path.split("/") if part]
    group, rest = ("", parts[2:]) if parts[0] == "api" else (parts[1], parts[3:])
    if rest[0] == "namespaces" and len(rest) > 2:
        rest = rest[2:]
    name = rest[1] if len(rest) > 1 else ""
    resource = rest[0] if len(rest) < 3 else f"{rest[0]}/{rest[2]}"
    assert group == GROUPS[rest[0]], path
    read = {"get"} if name else {"list"}
    verbs = read if method == "GET" else METHODS[method]
    return [(group, resource, verb, name) for verb in verbs]


def allows(rule: Rule, group: str, resource: str, verb: str, name: str) -> bool:
    named = not rule.names or name in {each.format_map(OWN) for each in rule.names}
    return rule.group == group and resource in rule.resources and verb in rule.verbs and named


def refused(requests: list[tuple[str, str]]) -> list[tuple[str, str, str, str]]:
    rules = (*CLUSTER_RULES, *OWN_NAMESPACE_RULES)
    return sorted(
        {
            need
            for method, path in requests
            for need in needed(method, path)
            if not any(allows(rule, *need) for rule in rules)
        }
    )


async def live(api: FakeApi, hand: Hand, *events: object, **spec: object) -> None:
    """A whole life: each event, then rounds until rest."""
    world(api, **spec)
    life = Life(api, hand)
    for event in (lambda _: None, *events):
        event(api)  # type: ignore[operator]
        for _ in range(4):
            hand.at += 30
            life.load()
            await life.settle()
    await life.close()


async def test_a_run_with_two_attempts_stays_within_the_rights(api: FakeApi, hand: Hand) -> None:
    await live(api, hand, all_run, suspend, resume, all_run, lose_pod, all_run)
    assert status(api)["gang"]["attempt"] == 2
    assert refused(api.requests) == []
    assert ("DELETE", "/api/v1/namespaces/team/configmaps") in {
        (method, path.rsplit("/", 1)[0]) for method, path in api.requests
    }, "the configuration of the first attempt is removed"


async def test_a_run_that_goes_with_its_ttl_stays_within_the_rights(api: FakeApi, hand: Hand) -> None:
    await live(api, hand, all_run, all_succeed, ttlSecondsAfterFinished=60)
    assert api.get("finetunejobs", "ft") is None
    assert refused(api.requests) == []


async def test_leading_reporting_and_reviewing_stay_within_the_rights(api: FakeApi, hand: Hand) -> None:
    client = api.client()
    elector = Elector(
        client,
        Candidate(SETTINGS.namespace, SETTINGS.lease_name, SETTINGS.identity),
        clock=hand.clock(),
    )
    await elector.acquire()
    await elector.attempt()
    await elector.release()
    for port in (1, 2):
        await publish(client, SETTINGS, port)
    await Reviewer(client, hand.clock()).identify("token")
    assert refused(api.requests) == []


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/api/v1/pods", True),
        ("GET", "/api/v1/nodes", False),
        ("DELETE", "/apis/kueue.x-k8s.io/v1beta2/namespaces/team/workloads/w", False),
        ("PATCH", "/api/v1/nodes/n", False),
        ("GET", "/api/v1/namespaces/team/pods/p", True),
        ("DELETE", "/api/v1/namespaces/team/pods/p", True),
        ("PATCH", "/api/v1/namespaces/team/pods/p", True),
        ("PATCH", "/api/v1/namespaces/team/pods/p/status", False),
        *(
            (method, f"/apis/windlass.dev/v1alpha1{path}", allowed)
            for kind in KINDS.values()
            for method, path, allowed in (
                ("GET", f"/{kind.plural}", True),
                ("DELETE", f"/namespaces/team/{kind.plural}/ft", True),
                ("POST", f"/namespaces/team/{kind.plural}", False),
                ("PATCH", f"/namespaces/team/{kind.plural}/ft", False),
                ("PUT", f"/namespaces/team/{kind.plural}/ft", False),
                ("PUT", f"/namespaces/team/{kind.plural}/ft/status", True),
                ("PATCH", f"/namespaces/team/{kind.plural}/ft/status", True),
            )
        ),
        ("DELETE", "/api/v1/namespaces/team/services/s", False),
        ("DELETE", "/api/v1/namespaces/team/persistentvolumeclaims/c", False),
        ("POST", "/api/v1/namespaces/team/persistentvolumeclaims", False),
        ("PUT", "/apis/coordination.k8s.io/v1/namespaces/windlass-system/leases/windlass-operator", True),
        ("PUT", "/apis/coordination.k8s.io/v1/namespaces/windlass-system/leases/another", False),
        ("DELETE", "/apis/coordination.k8s.io/v1/namespaces/windlass-system/leases/windlass-operator", False),
    ],
)
def test_what_the_table_allows(method: str, path: str, allowed: bool) -> None:
    assert (refused([(method, path)]) == []) is allowed


def test_nodes_are_only_ever_read() -> None:
    assert [(rule.group, rule.resources, rule.verbs) for rule in NODE_RULES] == [
        ("", ("nodes",), ("get", "list", "watch"))
    ]


def test_of_kueue_s_objects_one_kind_is_deleted_and_none_is_read() -> None:
    assert [(rule.group, rule.resources, rule.verbs) for rule in KUEUE_RULES] == [
        ("kueue.x-k8s.io", ("workloads",), ("delete",))
    ]


def test_every_kind_that_is_talked_about_has_a_rule() -> None:
    ruled = {
        (rule.group, name.split("/")[0])
        for rule in (*CLUSTER_RULES, *NODE_RULES, *KUEUE_RULES, *OWN_NAMESPACE_RULES)
        for name in rule.resources
    }
    assert {(resource.group, resource.plural) for resource in BY_KIND.values()} == ruled


def test_no_rule_is_written_twice_and_verbs_are_known() -> None:
    seen: list[tuple[str, str, tuple[str, ...]]] = []
    for rule in (*CLUSTER_RULES, *OWN_NAMESPACE_RULES):
        assert set(rule.verbs) <= {"get", "list", "watch", "create", "update", "patch", "delete"}
        seen += [
            (rule.group, name, rule.names + (() if rule.names else rule.verbs)) for name in rule.resources
        ]
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize("resource", BY_KIND.values(), ids=lambda resource: resource.kind)
def test_path_of_a_kind_names_group_version_and_plural(resource: Resource) -> None:
    path = resource.path("team", "x")
    assert path.endswith(f"/{resource.plural}/x")
    assert path.startswith(f"/apis/{resource.group}/" if resource.group else "/api/v1/")
    assert ("/namespaces/team/" in path) is resource.namespaced
    assert resource.path().endswith(f"/{resource.plural}")
    assert resource.api_version.endswith(resource.version)
