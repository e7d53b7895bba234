"""The real operator process against a real API server, and a kubelet played by the test.

The operator runs as a ServiceAccount that is bound to exactly the rules of `permissions`; the test itself is
an administrator. Nothing here sleeps for synchronisation: `until` polls a condition up to a deadline.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from contract.server import ROOT, Client, free_ports
from windlass.shell import permissions

Json = dict[str, Any]
SYSTEM = "windlass-system"
LEASE = "windlass-operator"
SERVICE = "windlass-reports"
JOBS = "/apis/windlass.dev/v1alpha1/namespaces/{}/finetunejobs"
EVENTS = "/apis/events.k8s.io/v1/namespaces/{}/events"
WRITE = re.compile(r'[{,]verb="(?:POST|PUT|PATCH|APPLY|DELETE|DELETECOLLECTION)"')
RESOURCE = re.compile(r'[{,]resource="([^"]*)"')


def until(look: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    """The first true result of `look`; fails with `what` and the last result after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        result = look()
        if result:
            return result
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s, last {result!r}"
        time.sleep(0.05)


def job(name: str, **changes: Any) -> Json:
    """A small valid job; `changes` replace fields of the spec."""
    spec = {
        "model": {"uri": "pvc://models/tiny"},
        "data": {"sources": [{"uri": "pvc://data/train.jsonl", "format": "Chat"}], "sequenceLength": 128},
        "training": {"globalBatchSize": 4, "maxSteps": 40},
        "resources": {"nodes": 2, "perNode": {"cpu": "1", "memory": "1Gi"}},
        "checkpoint": {"store": "pvc://checkpoints", "everySteps": 10},
        # The test's API server runs without the plugin that would fill this in.
        "pod": {"serviceAccountName": "trainer"},
    }
    return {
        "apiVersion": "windlass.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name},
        "spec": spec | changes,
    }


@dataclass
class Cluster:
    """An API server as the administrator sees it, with what a cluster would do by itself."""

    api: Client
    namespace: str

    @property
    def core(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}"

    def claim(self, name: str, *, mode: str = "ReadWriteMany", bound: bool = True) -> None:
        """A claim, bound as a provisioner would."""
        body = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name},
            "spec": {"accessModes": [mode], "resources": {"requests": {"storage": "1Gi"}}},
        }
        self.api.create(f"{self.core}/persistentvolumeclaims", body).expect(201)
        if bound:
            status = {"status": {"phase": "Bound", "accessModes": [mode]}}
            self.api.merge(f"{self.core}/persistentvolumeclaims/{name}/status", status).expect(200)

    def claims(self, *, store_mode: str = "ReadWriteMany", without: str = "") -> None:
        """The claims that `job` names, and the ServiceAccount of its pods."""
        self.api.create(f"{self.core}/serviceaccounts", {"metadata": {"name": "trainer"}}).expect(201)
        for name in ("models", "data", "checkpoints"):
            if name != without:
                self.claim(name, mode=store_mode if name == "checkpoints" else "ReadWriteMany")

    def submit(self, body: Json) -> Json:
        return self.api.create(JOBS.format(self.namespace), body).expect(201)

    def job(self, name: str) -> Json:
        return self.api.get(f"{JOBS.format(self.namespace)}/{name}").expect(200)

    def patch_job(self, name: str, patch: Json) -> Json:
        return self.api.merge(f"{JOBS.format(self.namespace)}/{name}", patch).expect(200)

    def delete_job(self, name: str) -> None:
        self.api.delete(f"{JOBS.format(self.namespace)}/{name}").expect(200)

    def condition(self, name: str, type: str = "Ready") -> Json:
        found = self.job(name).get("status", {}).get("conditions", [])
        return next((item for item in found if item["type"] == type), {})

    def reason(self, name: str, type: str = "Ready") -> str:
        return self.condition(name, type).get("reason", "")

    def await_reason(self, name: str, reason: str, type: str = "Ready", seconds: float = 20.0) -> Json:
        """The condition once it has this reason."""
        last: list[Json] = [{}]

        def look() -> bool:
            last[0] = self.condition(name, type)
            return last[0].get("reason") == reason

        try:
            until(look, "", seconds)
        except AssertionError:
            raise AssertionError(f"{name}: {type} is {last[0]!r}, not {reason}") from None
        return last[0]

    def pods(self, name: str | None = None) -> list[Json]:
        items = self.api.get(f"{self.core}/pods").expect(200)["items"]
        return [
            pod
            for pod in items
            if name is None or pod["metadata"].get("labels", {}).get("windlass.dev/run") == name
        ]

    def pod_names(self, name: str | None = None) -> list[str]:
        return sorted(pod["metadata"]["name"] for pod in self.pods(name))

    def await_pods(self, *names: str, run: str | None = None) -> list[Json]:
        wanted = sorted(names)
        until(lambda: self.pod_names(run) == wanted, f"pods {wanted}, there are {self.pod_names(run)}")
        return self.pods(run)

    def objects(self, path: str) -> list[str]:
        """Names of our objects of a kind, for example `api/v1|configmaps`."""
        prefix, plural = path.split("|")
        query = {"labelSelector": "app.kubernetes.io/managed-by=windlass"}
        body = self.api.request("GET", f"/{prefix}/namespaces/{self.namespace}/{plural}", query=query).expect(
            200
        )
        return sorted(item["metadata"]["name"] for item in body["items"])

    def events(self, reason: str) -> list[Json]:
        items = self.api.get(EVENTS.format(self.namespace)).expect(200)["items"]
        return [item for item in items if item.get("reason") == reason]

    # --- a scheduler and kubelet --------------------------------------------------------------

    def status(self, pod: str, status: Json) -> None:
        self.api.merge(f"{self.core}/pods/{pod}/status", {"status": status}).expect(200)

    def place_pod(self, pod: str, node: str = "node-1") -> None:
        """As if the scheduler bound the pod."""
        if "nodeName" not in self.api.get(f"{self.core}/pods/{pod}").expect(200)["spec"]:
            binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod}}
            target = {"target": {"apiVersion": "v1", "kind": "Node", "name": node}}
            self.api.create(f"{self.core}/pods/{pod}/binding", binding | target).expect(201)

    def run_pod(self, pod: str, node: str = "node-1") -> None:
        """As if the pod was placed and its container started."""
        self.place_pod(pod, node)
        state = {"running": {"startedAt": now()}}
        self.status(pod, {"phase": "Running", "podIP": "198.18.0.9", "containerStatuses": [container(state)]})

    def end_pod(self, pod: str, code: int, message: str = "", reason: str = "Error") -> None:
        """As if the container ended."""
        ended = {
            "exitCode": code,
            "reason": reason,
            "startedAt": now(),
            "finishedAt": now(),
            "message": message,
        }
        phase = "Succeeded" if code == 0 else "Failed"
        self.status(pod, {"phase": phase, "containerStatuses": [container({"terminated": ended})]})

    def remove_pod(self, pod: str) -> None:
        """As if the pod was deleted and its kubelet let it go."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0}
        self.api.request("DELETE", f"{self.core}/pods/{pod}", body).expect(200, 404)

    def finish_deletions(self) -> None:
        """Let go of pods that are being deleted, as kubelets do."""
        for pod in self.pods():
            if pod["metadata"].get("deletionTimestamp"):
                self.remove_pod(pod["metadata"]["name"])

    def finish(self, name: str) -> None:
        """As if a run of one pod went to its success."""
        pod = f"{name}-0-1"
        until(lambda: pod in self.pod_names(name), f"{pod} is made")
        self.run_pod(pod)
        verdict = {"result": "Succeeded", "step": 40, "incarnation": 1}
        self.end_pod(pod, 0, json.dumps(verdict), "Completed")

    def collect_garbage(self) -> None:
        """Remove our objects whose owner is gone, as the garbage collector does."""
        jobs = self.api.get(JOBS.format(self.namespace)).expect(200)["items"]
        alive = {item["metadata"]["uid"] for item in jobs}
        for path in (
            "api/v1|pods",
            "api/v1|configmaps",
            "api/v1|services",
            "apis/networking.k8s.io/v1|networkpolicies",
        ):
            prefix, plural = path.split("|")
            root = f"/{prefix}/namespaces/{self.namespace}/{plural}"
            for item in self.api.get(root).expect(200)["items"]:
                owners = {owner["uid"] for owner in item["metadata"].get("ownerReferences", [])}
                if owners and not owners & alive:
                    options = {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0}
                    self.api.request("DELETE", f"{root}/{item['metadata']['name']}", options).expect(200, 404)


def writes_by_resource(api: Client) -> Counter[str]:
    """Requests that change something, as the API server itself counts them, whoever made them."""
    found: Counter[str] = Counter()
    for row in str(api.get("/metrics").expect(200)).splitlines():
        if row.startswith("apiserver_request_total{") and WRITE.search(row):
            found[RESOURCE.search(row)[1]] += int(float(row.rsplit(" ", 1)[1]))
    return found


def container(state: Json) -> Json:
    """The status of a pod's only container."""
    return {
        "name": "agent",
        "image": "workload",
        "imageID": "",
        "ready": "running" in state,
        "restartCount": 0,
        "state": state,
    }


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# --- the operator process -------------------------------------------------------------------------


def prepare(api: Client, directory: Path) -> None:
    """Namespace, ServiceAccount, exactly our rules, the report Service, and the serving certificate."""
    if api.get(f"/api/v1/namespaces/{SYSTEM}").code == 404:
        api.create("/api/v1/namespaces", {"metadata": {"name": SYSTEM}}).expect(201)
        api.create(f"/api/v1/namespaces/{SYSTEM}/serviceaccounts", {"metadata": {"name": "operator"}}).expect(
            201
        )
        grant(api)
        service = {
            "metadata": {"name": SERVICE},
            "spec": {"ports": [{"name": "reports", "port": 8443, "targetPort": 8443}]},
        }
        api.create(f"/api/v1/namespaces/{SYSTEM}/services", service).expect(201)
    write_serving_pair(directory, f"{SERVICE}.{SYSTEM}.svc")


def grant(api: Client) -> None:
    """Bind the ServiceAccount to the tables of `permissions` and nothing else."""
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    subject = [{"kind": "ServiceAccount", "name": "operator", "namespace": SYSTEM}]

    def reference(kind: str) -> Json:
        return {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": "windlass"}

    metadata = {"name": "windlass"}
    own = permissions.namespace_rules(lease=LEASE, slice_name=f"{SERVICE}-leader")
    api.create(f"{rbac}/clusterroles", {"metadata": metadata, "rules": permissions.cluster_rules()}).expect(
        201
    )
    binding = {"metadata": metadata, "roleRef": reference("ClusterRole"), "subjects": subject}
    api.create(f"{rbac}/clusterrolebindings", binding).expect(201)
    nodes = {"name": "windlass-nodes"}
    api.create(f"{rbac}/clusterroles", {"metadata": nodes, "rules": permissions.node_rules()}).expect(201)
    reading = {"metadata": nodes, "roleRef": reference("ClusterRole") | nodes, "subjects": subject}
    api.create(f"{rbac}/clusterrolebindings", reading).expect(201)
    api.create(f"{rbac}/namespaces/{SYSTEM}/roles", {"metadata": metadata, "rules": own}).expect(201)
    binding = {"metadata": metadata, "roleRef": reference("Role"), "subjects": subject}
    api.create(f"{rbac}/namespaces/{SYSTEM}/rolebindings", binding).expect(201)


def service_token(api: Client, namespace: str, account: str, **spec: Any) -> str:
    """A token of a ServiceAccount by the TokenRequest API."""
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
    return api.create(path, body).expect(201)["status"]["token"]


def write_serving_pair(directory: Path, host: str) -> None:
    """tls.crt, tls.key and ca.crt for a host, self-signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    at = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - datetime.timedelta(hours=1))
        .not_valid_after(at + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tls.crt").write_bytes(pem)
    (directory / "ca.crt").write_bytes(pem)
    (directory / "tls.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


def interpreter() -> str:
    """The operator's own environment, without torch, where it is installed."""
    own = ROOT / "build" / "env" / "operator" / "bin" / "python"
    return str(own) if own.exists() else sys.executable


@dataclass
class Operator:
    """One operator process."""

    process: subprocess.Popen[bytes]
    directory: Path
    health_port: int
    report_port: int
    started_at: float = field(default_factory=time.monotonic)

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of the health server; 0 while it does not listen."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def log(self) -> list[Json]:
        """Its log lines."""
        text = (self.directory / "operator.log").read_text()
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def metric(self, name: str) -> float:
        """Sum of a metric's samples."""
        rows = [row for row in self.get("/metrics")[1].splitlines() if not row.startswith("#")]
        return sum(float(row.rsplit(" ", 1)[1]) for row in rows if row.split("{")[0].split(" ")[0] == name)

    def is_leading(self) -> bool:
        return self.metric("windlass_leader") == 1.0

    def writes(self) -> float:
        """Requests that change something, as the operator counts them."""
        rows = self.get("/metrics")[1].splitlines()
        prefix = "windlass_api_request_duration_seconds_count"
        found = [row for row in rows if row.startswith(prefix) and 'method="GET"' not in row]
        return sum(float(row.rsplit(" ", 1)[1]) for row in found)

    def cpu_seconds(self) -> float:
        """Processor time used so far; unlike wall time it does not depend on who else runs here."""
        numbers = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")

    def seconds_since_start(self) -> float:
        """Wall time since the process was started."""
        return time.monotonic() - self.started_at

    def resident_megabytes(self) -> float:
        """Resident memory."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split("kB")[0]) / 1024

    def await_ready(self) -> Operator:
        until(lambda: self.process.poll() is not None or self.get("/readyz")[0] == 200, "operator ready", 60)
        assert self.process.poll() is None, (self.directory / "operator.log").read_text()[-3000:]
        return self

    def await_rest(self) -> None:
        """Wait until nothing is due and no round has run for a third of a second."""
        last = [-1.0, 0]

        def quiet() -> bool:
            rounds = self.metric("windlass_reconcile_total")
            still = rounds == last[0] and self.metric("workqueue_depth") == 0
            last[:] = [rounds, last[1] + 1 if still else 0]
            return last[1] >= 6

        until(quiet, "the operator rests", 60)

    def await_leading(self) -> Operator:
        until(self.is_leading, "operator leads", 40)
        return self

    def stop(self) -> int:
        """SIGTERM, and its exit status."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()


def grant_narrowly(api: Client, namespace: str) -> None:
    """A second ServiceAccount, `narrow`, with the rights of an operator that watches one namespace only."""
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    api.create(f"/api/v1/namespaces/{SYSTEM}/serviceaccounts", {"metadata": {"name": "narrow"}}).expect(201)
    subject = [{"kind": "ServiceAccount", "name": "narrow", "namespace": SYSTEM}]
    own = permissions.namespace_rules(lease="narrow", slice_name="narrow-leader")
    role = {"metadata": {"name": "narrow"}, "rules": own}
    api.create(f"{rbac}/namespaces/{SYSTEM}/roles", role).expect(201)
    for where, kind, name in ((SYSTEM, "Role", "narrow"), (namespace, "ClusterRole", "windlass")):
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}
        binding = {"metadata": {"name": "narrow"}, "roleRef": reference, "subjects": subject}
        api.create(f"{rbac}/namespaces/{where}/rolebindings", binding).expect(201)


def start_shared(api: Client, system: Path) -> Operator:
    """The session's own operator, also when a test that stopped it starts it again: it watches nodes.

    Those that most tests bind pods to do not exist.
    """
    watching = {"WINDLASS_WATCH_NODES": "true", "WINDLASS_HEALTH_TAINTS": "windlass.dev/unhealthy"}
    return start(api, system / "one", "operator-1", **watching)


def start(
    api: Client, directory: Path, name: str, *, account: str = "operator", **environment: str
) -> Operator:
    """Start an operator as its ServiceAccount."""
    directory.mkdir(parents=True, exist_ok=True)
    token = service_token(api, SYSTEM, account, expirationSeconds=7200)
    authority = ssl.DER_cert_to_PEM_cert(api.context.get_ca_certs(binary_form=True)[0])
    (directory / "ca.pem").write_text(authority)
    (directory / "token").write_text(token)
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "clusters": [{"name": "test", "cluster": {"server": api.url, "certificate-authority": "ca.pem"}}],
        "users": [{"name": "test", "user": {"tokenFile": "token"}}],
    }
    (directory / "kubeconfig").write_text(json.dumps(kubeconfig))
    health, reports = free_ports(2)
    settings = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT / "operator"),
        "KUBECONFIG": str(directory / "kubeconfig"),
        "WINDLASS_NAMESPACE": SYSTEM,
        "POD_NAME": name,
        "POD_UID": f"uid-of-{name}",
        "POD_IP": "198.18.0.10",
        "WINDLASS_WORKLOAD_IMAGE": "workload:test",
        "WINDLASS_TLS_DIRECTORY": str(directory.parent / "tls"),
        "WINDLASS_REPORT_SERVICE": SERVICE,
        "WINDLASS_REPORT_PORT": str(reports),
        "WINDLASS_HEALTH_PORT": str(health),
        "WINDLASS_LEASE_NAME": LEASE,
    }
    with (directory / "operator.log").open("ab") as log:
        process = subprocess.Popen(
            [interpreter(), "-m", "windlass.shell.main"],
            env=settings | environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=directory,
        )
    return Operator(process, directory, health, reports)
