"""CoreDNS, the storage class, the provisioner's rights and the chart's values."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from windlass.cli.cluster import addons, dns, values
from windlass.cli.cluster.certificates import PROVISIONER_USER


def objects() -> dict[str, dict[str, Any]]:
    listed = addons.objects(dns_image="localhost/dns:1", dns_address="198.19.0.10", forwarders=[])
    return {f"{document['kind']}/{document['metadata']['name']}": document for _, document in listed}


def test_every_object_is_applied_at_its_own_path() -> None:
    for path, document in addons.objects(dns_image="i", dns_address="198.19.0.10", forwarders=[]):
        assert path.endswith("/" + document["metadata"]["name"])
        prefix = "/api/v1" if document["apiVersion"] == "v1" else f"/apis/{document['apiVersion']}"
        assert path.startswith(prefix + "/")
        namespace = document["metadata"].get("namespace")
        assert (f"/namespaces/{namespace}/" in path) == (namespace is not None)


def test_cluster_names_and_others_are_in_two_blocks() -> None:
    text = addons.corefile([])
    own, rest = text.split("\n}\n. {\n")
    assert "kubernetes cluster.local" in own and "template" not in own
    assert "rcode NXDOMAIN" in rest and "forward" not in rest
    assert "forward . 10.0.0.53 10.0.0.54" in addons.corefile(["10.0.0.53", "10.0.0.54"])


@pytest.mark.parametrize("forwarders", [[], ["10.0.0.53"]])
def test_braces_of_the_corefile_are_closed(forwarders: list[str]) -> None:
    text = addons.corefile(forwarders)
    assert text.count("{") == text.count("}")


def test_only_servers_that_a_pod_can_reach_and_that_answer_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    alive = {"10.0.0.53", "127.0.0.53"}
    monkeypatch.setattr(dns, "answer_count", lambda server, name, record: 0 if server in alive else None)
    text = (
        "# comment\nnameserver 127.0.0.53\nnameserver 10.0.0.53\nnameserver 10.0.0.54\n"
        "nameserver fe80::1\nnameserver\noptions ndots:2\nnameserver words\n"
    )
    assert addons.usable_forwarders(text) == ["10.0.0.53"]


def test_storage_class_is_the_default() -> None:
    document = objects()["StorageClass/windlass-local"]
    assert document["metadata"]["annotations"] == {"storageclass.kubernetes.io/is-default-class": "true"}
    assert (document["volumeBindingMode"], document["reclaimPolicy"]) == ("Immediate", "Delete")


def test_provisioner_may_change_volumes_and_nothing_of_users() -> None:
    rules = objects()[f"ClusterRole/{PROVISIONER_USER}"]["rules"]
    rights = {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}
    changing = {right for right in rights if right[1] not in ("get", "list", "watch")}
    assert changing == {
        ("persistentvolumes", "create"),
        ("persistentvolumes", "delete"),
        ("persistentvolumeclaims", "create"),
    }


def test_dns_pod_has_no_rights_it_does_not_need() -> None:
    pod = objects()["Deployment/coredns"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["imagePullPolicy"] == "Never"
    assert objects()["Service/kube-dns"]["spec"]["clusterIP"] == "198.19.0.10"


class NameServer(threading.Thread):
    """Answers one question with the given count of records, cut to a length, under the asked or another number."""

    def __init__(self, answers: int, *, length: int = 12, flip: int = 0) -> None:
        super().__init__(daemon=True)
        self.channel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.channel.bind(("127.0.0.1", 0))
        self.answers, self.length, self.flip = answers, length, flip
        self.asked = b""

    def run(self) -> None:
        self.asked, address = self.channel.recvfrom(512)
        header = bytes([self.asked[0] ^ self.flip]) + self.asked[1:2]
        header += struct.pack(">HHHHH", 0x8180, 1, self.answers, 0, 0)
        self.channel.sendto(header[: self.length], address)


@pytest.fixture
def servers() -> Iterator[list[NameServer]]:
    made: list[NameServer] = []
    yield made
    for server in made:
        server.channel.close()


@pytest.mark.parametrize(
    ("answers", "length", "flip", "expected"),
    [(2, 12, 0, 2), (0, 12, 0, 0), (1, 5, 0, None), (1, 12, 1, None)],
    ids=["two records", "none", "too short", "another question's"],
)
def test_answers_are_counted(
    answers: int, length: int, flip: int, expected: int | None, servers: list[NameServer]
) -> None:
    server = NameServer(answers, length=length, flip=flip)
    servers.append(server)
    server.start()
    port = server.channel.getsockname()[1]
    assert dns.answer_count("127.0.0.1", "a.bc", dns.ADDRESS_RECORD, port=port, timeout_seconds=5) == expected
    assert server.asked[12:] == b"\x01a\x02bc\x00\x00\x01\x00\x01"


def test_silence_is_told_from_an_empty_answer(servers: list[NameServer]) -> None:
    silent = NameServer(0)
    servers.append(silent)
    port = silent.channel.getsockname()[1]
    assert dns.answer_count("127.0.0.1", "", dns.NAME_SERVER_RECORD, port=port, timeout_seconds=0.05) is None


def test_values_mount_the_host_s_files_at_their_own_paths() -> None:
    repository = Path("/srv/windlass")
    document = values.embedded(repository, "localhost/host:1")
    assert yaml.safe_load(values.render(document)) == document
    assert set(document) == {"imagePullPolicy", "hostRoot", "operator", "workload"}
    for role, folders in {
        "operator": ["build/env/operator", "operator"],
        "workload": [".venv", "operator", "workloads"],
    }.items():
        usr, *rest = document["hostRoot"][f"{role}Mounts"]
        assert usr == {"claim": "windlass-host-usr", "mountPath": "/usr"}
        assert [mount["subPath"] for mount in rest] == folders
        assert all(mount["mountPath"] == f"{repository}/{mount['subPath']}" for mount in rest)
        python = document[role]["python"]
        assert any(python.startswith(mount["mountPath"] + "/") for mount in rest)


def test_values_of_kind_have_the_same_keys() -> None:
    embedded, kind = values.embedded(Path("/srv"), "image"), values.kind()
    assert {key: set(value) for key, value in embedded.items() if isinstance(value, dict)} == {
        key: set(value) for key, value in kind.items() if isinstance(value, dict)
    }
    assert kind["hostRoot"]["enabled"] is False
