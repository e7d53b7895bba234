"""What Windlass needs of a cluster, shown by real pods under Pod Security `restricted`."""

from __future__ import annotations

import json
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.cluster_support import ROOT, Cluster, until
from windlass.cli.cluster import dns, network
from windlass.cli.cluster.paths import HOST_REPOSITORY

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

PYTHON = str(ROOT / ".venv" / "bin" / "python")
SERVE = "import http.server as h; h.test(h.SimpleHTTPRequestHandler, port=8000)"
Object = dict[str, Any]


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> Iterator[str]:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    create(cluster, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team", "labels": labels}})
    until(
        lambda: cluster.kubectl("-n", "team", "get", "serviceaccount", "default", "--ignore-not-found"),
        seconds=30,
        what="service account",
    )
    yield "team"
    cluster.kubectl("delete", "namespace", "team", "--wait=false")


def create(cluster: Cluster, *documents: Object) -> None:
    cluster.kubectl("apply", "-f", "-", text_input=yaml.safe_dump_all(documents))


def pod(
    cluster: Cluster, name: str, *command: str, labels: Object | None = None, claim: str | None = None
) -> Object:
    values = yaml.safe_load(cluster.layout.values.read_text())
    mounts = [
        {key: mount[key] for key in ("mountPath", "subPath") if key in mount}
        | {"name": mount["claim"], "readOnly": True}
        for mount in values["hostRoot"]["workloadMounts"]
    ]
    claims = {mount["claim"] for mount in values["hostRoot"]["workloadMounts"]}
    if claim is not None:
        mounts.append({"name": claim, "mountPath": "/data"})
        claims.add(claim)
    container = {
        "name": "main",
        "image": values["workload"]["image"],
        "imagePullPolicy": values["imagePullPolicy"],
        "command": list(command),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [*mounts, {"name": "tmp", "mountPath": "/tmp"}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "team", "labels": labels or {}},
        "spec": {
            "restartPolicy": "Never",
            "hostname": name,
            "subdomain": "gang",
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 1000,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [
                {"name": "tmp", "emptyDir": {}},
                *({"name": item, "persistentVolumeClaim": {"claimName": item}} for item in sorted(claims)),
            ],
        },
    }


def run_to_end(cluster: Cluster, document: Object) -> str:
    name = document["metadata"]["name"]
    create(cluster, document)

    def phase() -> str:
        now = cluster.kubectl("-n", "team", "get", "pod", name, "-o", "jsonpath={.status.phase}")
        return now if now in ("Succeeded", "Failed") else ""

    ended = until(phase, seconds=240, what=f"end of pod {name}")
    log = cluster.kubectl("-n", "team", "logs", name)
    assert ended == "Succeeded", log
    return log


@pytest.fixture(scope="module")
def web(cluster: Cluster, namespace: str) -> str:
    selector = {"app": "web"}
    services: list[Object] = [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"selector": selector, "ports": [{"port": port, "targetPort": 8000}], **more},
        }
        for name, port, more in (
            ("web", 80, {}),
            ("gang", 8000, {"clusterIP": "None", "publishNotReadyAddresses": True}),
        )
    ]
    create(cluster, *services, pod(cluster, "web-0", "/usr/bin/python3", "-c", SERVE, labels=selector))
    cluster.kubectl("-n", namespace, "wait", "--for=condition=Ready", "pod/web-0", "--timeout=90s")
    return "web-0"


def test_torch_runs_from_the_host_s_environment_as_an_ordinary_user(cluster: Cluster, namespace: str) -> None:
    program = "import os, torch; print(os.getuid(), float(torch.ones(3).sum()))"
    assert run_to_end(cluster, pod(cluster, "torch", PYTHON, "-c", program)).strip().endswith("1000 3.0")


def test_the_host_s_files_are_read_only_in_the_pod(cluster: Cluster, namespace: str) -> None:
    program = (
        "import os, sys\n"
        "for path in sys.argv[1:]:\n"
        "    try: open(os.path.join(path, 'written'), 'w')\n"
        "    except OSError as refused: print(refused.strerror)\n"
    )
    targets = ("/usr", str(ROOT / ".venv"), str(ROOT / "workloads"))
    log = run_to_end(cluster, pod(cluster, "writer", "/usr/bin/python3", "-c", program, *targets))
    assert log.splitlines() == ["Read-only file system"] * 3


def test_the_view_of_the_repository_does_not_show_the_clusters_keys(cluster: Cluster) -> None:
    inside = Path("/proc", str(cluster.state()["supervisor_pid"]), "root")
    view = inside / HOST_REPOSITORY.relative_to("/")
    assert (view / "pyproject.toml").exists()
    assert cluster.layout.kubeconfig.exists()
    assert list((view / cluster.layout.directory.relative_to(ROOT)).iterdir()) == []


def test_service_and_headless_names_resolve_and_connect(cluster: Cluster, namespace: str, web: str) -> None:
    program = (
        "import socket, urllib.request\n"
        "print(urllib.request.urlopen('http://web.team/', timeout=5).status)\n"
        "print(urllib.request.urlopen('http://web-0.gang:8000/', timeout=5).status)\n"
        "print(socket.gethostbyname('web-0.gang.team.svc.cluster.local'))\n"
        "print(socket.gethostbyname('kubernetes.default'))\n"
    )
    log = run_to_end(cluster, pod(cluster, "caller", "/usr/bin/python3", "-c", program)).split()
    address = cluster.kubectl("-n", namespace, "get", "pod", web, "-o", "jsonpath={.status.podIP}")
    assert log == ["200", "200", address, network.parse(cluster.network).api_service]


def test_names_of_pods_that_are_not_ready_are_published(cluster: Cluster, namespace: str, web: str) -> None:
    waiting = pod(cluster, "late", "/usr/bin/python3", "-c", SERVE, labels={"app": "web"})
    waiting["spec"]["containers"][0]["readinessProbe"] = {
        "httpGet": {"path": "/", "port": 9},
        "periodSeconds": 60,
    }
    create(cluster, waiting)
    server = network.parse(cluster.network).dns_service
    until(
        lambda: dns.answer_count(server, "late.gang.team.svc.cluster.local", dns.ADDRESS_RECORD),
        seconds=60,
        what="name of a pod that is not ready",
    )
    assert not dns.answer_count(server, "nobody.gang.team.svc.cluster.local", dns.ADDRESS_RECORD)


def test_exec_logs_and_port_forward_reach_the_pod(cluster: Cluster, namespace: str, web: str) -> None:
    assert cluster.kubectl("-n", namespace, "exec", web, "--", "/usr/bin/id", "-u").strip() == "1000"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    forward = subprocess.Popen(
        [
            *(str(cluster.layout.binaries / "kubectl"), "--kubeconfig", str(cluster.layout.kubeconfig)),
            *("-n", namespace, "port-forward", f"pod/{web}", f"{port}:8000"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert forward.stdout is not None and "Forwarding" in forward.stdout.readline()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
            assert answer.status == 200
    finally:
        forward.kill()
        forward.communicate()
    until(lambda: "GET /" in cluster.kubectl("-n", namespace, "logs", web), seconds=10, what="log line")


def test_host_reaches_services_by_their_addresses(cluster: Cluster, namespace: str, web: str) -> None:
    address = cluster.kubectl("-n", namespace, "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")

    def answers() -> bool:
        # The Service's rules follow the pod's readiness a moment later.
        try:
            with urllib.request.urlopen(f"http://{address}/", timeout=10) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    until(answers, seconds=30, what="an answer of the Service")


def test_claim_is_bound_shared_and_removed_with_its_directory(cluster: Cluster, namespace: str) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "store", "namespace": namespace},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    create(cluster, claim)
    path = cluster.layout.volumes / namespace / "store"
    write = "open('/data/file', 'w').write('kept')"
    run_to_end(cluster, pod(cluster, "first", "/usr/bin/python3", "-c", write, claim="store"))
    assert (path / "file").read_text() == "kept"
    read = "print(open('/data/file').read())"
    log = run_to_end(cluster, pod(cluster, "second", "/usr/bin/python3", "-c", read, claim="store"))
    assert log.strip() == "kept"
    assert path.stat().st_mode & 0o777 == 0o777
    cluster.kubectl("-n", namespace, "delete", "pod", "first", "second")
    cluster.kubectl("-n", namespace, "delete", "pvc", "store")
    until(lambda: not path.exists(), seconds=30, what="removal of the directory")
    until(lambda: "team/store" not in cluster.kubectl("get", "pv"), seconds=30, what="removal of the volume")


def test_new_namespace_is_offered_the_host_claims_within_seconds(cluster: Cluster) -> None:
    cluster.kubectl("create", "namespace", "quick")

    def bound() -> bool:
        return cluster.kubectl("-n", "quick", "get", "pvc").count("Bound") == 2

    until(bound, seconds=10, what="host claims")
    cluster.kubectl("delete", "namespace", "quick", "--timeout=60s")
    until(lambda: "quick" not in cluster.kubectl("get", "pv"), seconds=30, what="removal of the volumes")


def test_privileged_pods_are_refused(cluster: Cluster, namespace: str) -> None:
    bad = pod(cluster, "bad", "/usr/bin/true")
    bad["spec"]["volumes"].append({"name": "host", "hostPath": {"path": "/etc"}})
    said = cluster.kubectl("create", "-f", "-", text_input=yaml.safe_dump(bad), check=False)
    assert "violates PodSecurity" in said and "hostPath" in said


def test_projected_tokens_are_reviewed_for_their_audience(cluster: Cluster, namespace: str) -> None:
    token = cluster.kubectl(
        "-n", namespace, "create", "token", "default", "--audience", "windlass.dev"
    ).strip()

    def authenticated(audience: str) -> bool:
        review = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        }
        said = cluster.kubectl("create", "-o", "json", "-f", "-", text_input=json.dumps(review))
        return bool(json.loads(said)["status"].get("authenticated"))

    assert (authenticated("windlass.dev"), authenticated("elsewhere")) == (True, False)


def test_admission_policies_are_enforced(cluster: Cluster, namespace: str) -> None:
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "no-red"},
        "spec": {
            "matchConstraints": {
                "resourceRules": [
                    {
                        "apiGroups": [""],
                        "apiVersions": ["v1"],
                        "operations": ["CREATE"],
                        "resources": ["configmaps"],
                    }
                ]
            },
            "validations": [{"expression": "object.metadata.name != 'red'", "message": "not red"}],
        },
    }
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "no-red"},
        "spec": {"policyName": "no-red", "validationActions": ["Deny"]},
    }
    create(cluster, policy, binding)

    def refused() -> bool:
        return "not red" in cluster.kubectl(
            "-n", namespace, "create", "configmap", "red", "--dry-run=server", check=False
        )

    until(refused, seconds=30, what="refusal by the policy")
