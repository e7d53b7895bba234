"""What holds of every rendered object, whatever the spec says."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unit.core.builders import SETTINGS, UID, JobBuilder, a_job
from unit.core.pod_security import violations
from windlass.api.contract import RunConfig
from windlass.api.jobs import NAME_LIMIT
from windlass.api.validation import validate
from windlass.core import names
from windlass.core.decision import Manifest
from windlass.core.render.gang import whole_gang
from windlass.core.render.objects import canonical, digest
from windlass.core.settings import HostRootMount, RenderSettings

LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")

NAMES = st.from_regex(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", fullmatch=True)
CLAIMS = st.sampled_from(["checkpoints", "data", "models", "c"])
ENV = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["A", "TOKENIZERS_PARALLELISM", "OMP_NUM_THREADS"]),
        "value": st.text(max_size=9),
    }
)
VOLUMES = st.sampled_from(
    [
        {"name": "words", "mountPath": "/words", "configMap": "words"},
        {"name": "keys", "mountPath": "/keys", "secret": "keys"},
        {"name": "more", "mountPath": "/more", "claim": "checkpoints"},
        {"name": "room", "mountPath": "/room", "emptyDir": True},
    ]
)
TOLERATIONS = st.sampled_from(
    [
        {"key": "nvidia.com/gpu", "operator": "Exists"},
        {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"},
    ]
)
SECRET = st.none() | st.fixed_dictionaries(
    {"name": st.sampled_from(["hub", "s3"]), "key": st.sampled_from(["token", "other"])}
)


def unique(items: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    return list({item[key]: item for item in items}.values())


@st.composite
def jobs(draw: st.DrawFn) -> JobBuilder:
    """A valid job with any of the fields that rendering reads."""
    job = a_job()
    body = copy.deepcopy(job.body)
    body["metadata"]["name"] = draw(NAMES)
    spec = body["spec"]
    spec["resources"] = {
        "nodes": draw(st.sampled_from([1, 2, 4])),
        "perNode": {
            "cpu": draw(st.sampled_from(["500m", "4"])),
            "memory": draw(st.sampled_from(["2Gi", "64Gi"])),
        },
        "accelerator": {"count": draw(st.sampled_from([0, 0, 1, 8]))},
    }
    uri = draw(
        st.sampled_from(["pvc://models/m", "hf://org/name@abc", "mlflow://models:/m@best", "pvc://c/m"])
    )
    spec["model"] = {"uri": uri} | with_secret(draw(SECRET))
    spec["data"]["sources"] = [
        {"uri": f"pvc://{draw(CLAIMS)}/x.jsonl"} | with_secret(draw(SECRET))
        for _ in range(draw(st.integers(1, 3)))
    ]
    if draw(st.booleans()):
        spec["data"]["validation"] = draw(
            st.sampled_from([{"uri": "pvc://data/held-out.jsonl"}, {"fraction": "0.05"}])
        )
    spec["checkpoint"]["store"] = f"pvc://{draw(CLAIMS)}" + draw(st.sampled_from(["", "/", "/a", "/a/b/"]))
    if draw(st.booleans()):
        spec["tracking"] = {"mlflow": {"uri": "http://mlflow:5000"} | with_secret(draw(SECRET))}
    spec["pod"] = {
        "env": unique(draw(st.lists(ENV, max_size=3)), "name"),
        "volumes": unique(draw(st.lists(VOLUMES, max_size=4)), "name"),
        "tolerations": unique(draw(st.lists(TOLERATIONS, max_size=2)), "key"),
        "labels": draw(st.dictionaries(st.sampled_from(["team", "example.com/x"]), st.just("v"))),
        "annotations": draw(st.dictionaries(st.just("note"), st.text(max_size=20))),
        "nodeSelector": draw(st.dictionaries(st.just("pool"), st.just("gpu"))),
        "imagePullSecrets": draw(st.lists(st.just("pull"), max_size=1)),
    }
    if draw(st.booleans()):
        spec["pod"]["image"] = "registry.example/own@sha256:1"
        spec["scheduling"] = {"schedulerName": "volcano", "priorityClassName": "low"}
    return JobBuilder(body)


def with_secret(reference: dict[str, str] | None) -> dict[str, Any]:
    return {"secretRef": reference} if reference is not None else {}


INSTALLATIONS = st.builds(
    RenderSettings,
    workload_image=st.just("registry.example/workloads@sha256:0"),
    host_root=st.sampled_from(
        [(), (HostRootMount("host-usr", "/usr"), HostRootMount("host-usr", "/opt/venv", "venv"))]
    ),
    report_url=st.sampled_from([None, "https://reports:8443/v1/reports"]),
    ca_pem=st.just("-----BEGIN CERTIFICATE-----"),
)


def rendered(job: JobBuilder, settings: RenderSettings = SETTINGS) -> tuple[Manifest, ...]:
    built = job.build()
    assert built.spec is not None, built.spec_error
    return whole_gang(built, built.spec, settings=settings)


def pods_in(made: tuple[Manifest, ...]) -> list[dict[str, Any]]:
    return [dict(item) for item in made if item["kind"] == "Pod"]


# --- checks, each of one whole rendering -----------------------------------------------------------


def is_accepted_by_the_api(job: JobBuilder, made: tuple[Manifest, ...], _: RenderSettings) -> None:
    """The strategy makes what users may write; else the other checks would prove nothing."""
    assert validate({"apiVersion": "windlass.dev/v1alpha1", "kind": "FineTuneJob"} | job.body) == []
    assert made


def is_the_same_twice(job: JobBuilder, made: tuple[Manifest, ...], settings: RenderSettings) -> None:
    assert canonical([dict(item) for item in made]) == canonical(
        [dict(item) for item in rendered(job, settings)]
    )
    json.dumps([dict(item) for item in made])


def passes_pod_security(_: JobBuilder, made: tuple[Manifest, ...], __: RenderSettings) -> None:
    for pod in pods_in(made):
        assert violations(pod) == []
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert pod["spec"]["restartPolicy"] == "Never"


def has_names_that_kubernetes_takes(job: JobBuilder, made: tuple[Manifest, ...], _: RenderSettings) -> None:
    seen = set()
    for item in made:
        name = item["metadata"]["name"]
        assert (item["kind"], name) not in seen
        seen.add((item["kind"], name))
        assert DNS_LABEL.fullmatch(name), name
        for value in item["metadata"]["labels"].values():
            assert LABEL_VALUE.fullmatch(value), value
    for pod in pods_in(made):
        assert DNS_LABEL.fullmatch(pod["spec"]["hostname"])
        assert pod["spec"]["subdomain"] == job.body["metadata"]["name"]
        for volume in pod["spec"]["volumes"]:
            assert DNS_LABEL.fullmatch(volume["name"])


def mounts_every_volume_at_its_own_path(
    _: JobBuilder, made: tuple[Manifest, ...], __: RenderSettings
) -> None:
    for pod in pods_in(made):
        (container,) = pod["spec"]["containers"]
        volumes = [each["name"] for each in pod["spec"]["volumes"]]
        paths = [each["mountPath"] for each in container["volumeMounts"]]
        assert len(volumes) == len(set(volumes)) and len(paths) == len(set(paths))
        assert {each["name"] for each in container["volumeMounts"]} == set(volumes)
        claims = [
            each["persistentVolumeClaim"]["claimName"]
            for each in pod["spec"]["volumes"]
            if "persistentVolumeClaim" in each
        ]
        assert len(claims) == len(set(claims)), "a claim is one volume"


def writes_only_to_the_store_and_scratch(
    _: JobBuilder, made: tuple[Manifest, ...], __: RenderSettings
) -> None:
    for pod in pods_in(made):
        (container,) = pod["spec"]["containers"]
        writable = {each["mountPath"] for each in container["volumeMounts"] if not each.get("readOnly")}
        assert writable <= {"/windlass/store", "/tmp", "/dev/shm", "/room"}


def mounts_secrets_by_name_and_holds_none(
    _: JobBuilder, made: tuple[Manifest, ...], __: RenderSettings
) -> None:
    for item in made:
        assert item["kind"] != "Secret"
    for pod in pods_in(made):
        (container,) = pod["spec"]["containers"]
        assert all("secretKeyRef" not in str(entry) for entry in container["env"])
        assert "envFrom" not in container


def tells_identity_last(_: JobBuilder, made: tuple[Manifest, ...], __: RenderSettings) -> None:
    for number, pod in enumerate(pods_in(made)):
        env = {each["name"]: each.get("value") for each in pod["spec"]["containers"][0]["env"]}
        assert len(env) == len(pod["spec"]["containers"][0]["env"])
        assert (env["WINDLASS_INDEX"], env["WINDLASS_TICKET"]) == (str(number), str(number + 1))
        labels = pod["metadata"]["labels"]
        assert (labels["windlass.dev/index"], labels["windlass.dev/ticket"]) == (str(number), str(number + 1))
        assert labels["windlass.dev/run-uid"] == UID


def belongs_to_the_job(job: JobBuilder, made: tuple[Manifest, ...], _: RenderSettings) -> None:
    for item in made:
        (owner,) = item["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["name"]) == (UID, job.body["metadata"]["name"])
        assert item["metadata"]["namespace"] == "team"


def carries_the_digest_of_its_own_body(_: JobBuilder, made: tuple[Manifest, ...], __: RenderSettings) -> None:
    for item in made:
        if item["kind"] == "Pod":
            continue
        body = {key: value for key, value in item.items() if key not in ("apiVersion", "kind", "metadata")}
        assert item["metadata"]["annotations"] == {names.ANNOTATION_DIGEST: digest(body)}


def is_read_back_by_the_agent(job: JobBuilder, made: tuple[Manifest, ...], settings: RenderSettings) -> None:
    config = made[0]
    assert config["immutable"] is True
    read = RunConfig.model_validate_json(config["data"]["run.json"])
    assert read.run.uid == UID and read.attempt == 1
    assert read.spec == job.build().spec
    assert (read.report is None) is (settings.report_url is None)
    for pod in pods_in(made):
        (volume,) = [each for each in pod["spec"]["volumes"] if each["name"] == "config"]
        assert volume["configMap"]["name"] == config["metadata"]["name"]


CHECKS = (
    is_accepted_by_the_api,
    is_the_same_twice,
    passes_pod_security,
    has_names_that_kubernetes_takes,
    mounts_every_volume_at_its_own_path,
    writes_only_to_the_store_and_scratch,
    mounts_secrets_by_name_and_holds_none,
    tells_identity_last,
    belongs_to_the_job,
    carries_the_digest_of_its_own_body,
    is_read_back_by_the_agent,
)


@pytest.mark.bad_input("B91")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(jobs(), INSTALLATIONS)
def test_any_spec_renders_to_objects_that_a_cluster_takes(
    job: JobBuilder, installation: RenderSettings
) -> None:
    made = rendered(job, installation)
    for check in CHECKS:
        check(job, made, installation)


@settings(max_examples=80, deadline=None)
@given(NAMES, st.integers(0, 4095), st.integers(1, 10**9))
def test_longest_names_fit_and_name_one_thing_only(run: str, index: int, ticket: int) -> None:
    assert len(run) <= NAME_LIMIT
    made = [
        names.service_name(run),
        names.ca_name(run),
        names.config_name(run, "0123456789abcdef"),
        names.host_name(run, index),
        names.pod_name(run, index, ticket),
    ]
    assert all(len(name) <= 63 and DNS_LABEL.fullmatch(name) for name in made)
    assert len(set(made)) == len(made)
    assert DNS_NAME.fullmatch(names.leader_host(run, "n" * 63))


BROKEN_PODS: list[tuple[str, Any, str]] = [
    ("hostNetwork", True, "hostNetwork is set"),
    ("hostPID", True, "hostPID is set"),
    ("volumes", [{"name": "v", "hostPath": {"path": "/"}}], "volume v is a hostPath"),
    ("securityContext", {"sysctls": [{"name": "kernel.msgmax"}]}, "sysctl kernel.msgmax"),
]


@pytest.mark.parametrize(("field", "value", "text"), BROKEN_PODS)
def test_checker_itself_sees_a_broken_pod(field: str, value: Any, text: str) -> None:
    """A checker that finds nothing proves nothing."""
    pod = copy.deepcopy(pods_in(rendered(a_job()))[0])
    pod["spec"][field] = value
    assert text in violations(pod)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"privileged": True}, "agent: privileged"),
        ({"allowPrivilegeEscalation": True}, "agent: allowPrivilegeEscalation is not false"),
        ({"runAsUser": 0}, "agent: runs as root"),
        ({"runAsNonRoot": False}, "agent: runAsNonRoot is not true"),
        ({"capabilities": {"drop": []}}, "agent: capabilities are not dropped"),
        ({"capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]}}, "agent: capabilities are added"),
        ({"seccompProfile": {"type": "Unconfined"}}, "agent: no seccomp profile"),
        ({"procMount": "Unmasked"}, "agent: procMount"),
    ],
)
def test_checker_itself_sees_a_broken_container(change: dict[str, Any], text: str) -> None:
    pod = copy.deepcopy(pods_in(rendered(a_job()))[0])
    pod["spec"]["containers"][0]["securityContext"] |= change
    assert violations(pod) == [text]


@settings(max_examples=40, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    )
)
def test_digest_depends_on_content_and_not_on_the_order_of_keys(data: Any) -> None:
    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: turned(value[key]) for key in reversed(list(value))}
        return [turned(item) for item in value] if isinstance(value, list) else value

    assert digest(data) == digest(turned(data))
    assert json.loads(canonical(data)) == data
    assert digest([data]) != digest(data)
