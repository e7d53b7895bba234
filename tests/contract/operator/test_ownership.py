"""Field ownership on a real API server: what we made by a POST and render differently later loses its old fields."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from contract.operator.harness import JOBS, Cluster, job
from contract.server import ADMIN_TOKEN
from windlass.api.meta import MANAGER
from windlass.core.decision import Decision
from windlass.core.names import ANNOTATION_DIGEST
from windlass.shell.act import Actor
from windlass.shell.cache import slim_child
from windlass.shell.client import Client, Json
from windlass.shell.clock import Clock
from windlass.shell.credentials import Credentials
from windlass.shell.observe import Caches, Memory
from windlass.shell.resources import of


class Silent:
    """Records no events."""

    async def record(self, job: Json, event: Any) -> None:
        """Drop it."""


def service(owner: Json, digest: str, *ports: int) -> Json:
    """A Service of a run as some version of the operator would render it."""
    reference = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "controller": True}
    reference |= {key: owner["metadata"][key] for key in ("name", "uid")}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "ft",
            "namespace": owner["metadata"]["namespace"],
            "labels": {"app.kubernetes.io/managed-by": "windlass"},
            "annotations": {ANNOTATION_DIGEST: digest},
            "ownerReferences": [reference],
        },
        "spec": {
            "clusterIP": "None",
            "selector": {"run": "ft"},
            "ports": [{"name": f"p{port}", "port": port, "targetPort": port} for port in ports],
        },
    }


def managers(body: Json) -> list[tuple[str, str]]:
    """Manager and operation of each entry."""
    return sorted((entry["manager"], entry["operation"]) for entry in body["metadata"]["managedFields"])


@pytest.mark.parametrize("edited", [False, True], ids=["as it was made", "with a port of somebody else"])
async def test_a_port_that_is_no_longer_rendered_goes_and_those_of_others_stay(
    cluster: Cluster, edited: bool
) -> None:
    owner = cluster.api.create(JOBS.format(cluster.namespace), job("ft", suspend=True)).expect(201)
    path = f"{cluster.core}/services/ft"
    credentials = Credentials(server=cluster.api.url, token=ADMIN_TOKEN, insecure=True)
    caches, memory = Caches(), Memory()
    async with Client(credentials) as client:
        actor = Actor(client, caches, Silent(), clock=Clock())
        await actor.act(owner, Decision(applies=(service(owner, "1", 7001, 7002),)), memory)
        made = cluster.api.get(path).expect(200)
        assert managers(made) == [(MANAGER, "Update")]
        if edited:
            ports = [*copy.deepcopy(made["spec"]["ports"]), {"name": "theirs", "port": 9, "protocol": "TCP"}]
            cluster.api.merge(path, {"spec": {"ports": ports}}).expect(200)
        caches.children["Service"].upsert(slim_child(cluster.api.get(path).expect(200)))
        await actor.act(owner, Decision(applies=(service(owner, "2", 7001),)), memory)
        found = cluster.api.get(path).expect(200)
        assert [port["port"] for port in found["spec"]["ports"]] == ([7001, 9] if edited else [7001])
        assert (MANAGER, "Apply") in managers(found) and (MANAGER, "Update") not in managers(found)
        # Once more, now over what was applied.
        await actor.act(owner, Decision(applies=(service(owner, "3", 7003),)), memory)
        found = cluster.api.get(path).expect(200)
        assert sorted(port["port"] for port in found["spec"]["ports"]) == ([9, 7003] if edited else [7003])
        assert memory.strangers == {} and of("Service").kind == found["kind"]
