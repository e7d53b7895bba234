"""Rendered objects: deterministic, owned, and fit for Pod Security restricted."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from unit.core.builders import SETTINGS, UID, JobBuilder, a_job
from windlass.api.contract import RunConfig
from windlass.api.finetune import FineTuneJobSpec
from windlass.api.status import Member
from windlass.core import names
from windlass.core.render.gang import shared_objects, whole_gang
from windlass.core.render.pod import pod
from windlass.core.settings import HostRootMount, RenderSettings


def a_rich_job() -> JobBuilder:
    """A job that uses every optional part of a pod."""
    return (
        a_job()
        .with_nodes(2)
        .with_spec("model", {"uri": "hf://org/model@abc", "secretRef": {"name": "hub", "key": "token"}})
        .with_spec("data.validation", {"uri": "pvc://data/sft/held-out.jsonl"})
        .with_spec(
            "tracking.mlflow", {"uri": "http://mlflow:5000", "secretRef": {"name": "hub", "key": "mlflow"}}
        )
        .with_spec("resources.accelerator", {"count": 2})
        .with_spec("scheduling", {"schedulerName": "volcano", "priorityClassName": "low"})
        .with_spec(
            "pod",
            {
                "image": "registry.example/own@sha256:1",
                "imagePullSecrets": ["pull"],
                "serviceAccountName": "trainer",
                "nodeSelector": {"pool": "gpu"},
                "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
                "labels": {"team": "ml", "windlass.dev/run-uid": "stolen"},
                "annotations": {"note": "x"},
                "env": [
                    {"name": "TOKENIZERS_PARALLELISM", "value": "false"},
                    {"name": "HOME", "value": "/evil"},
                ],
                "volumes": [
                    {"name": "words", "mountPath": "/words", "configMap": "words"},
                    {"name": "keys", "mountPath": "/keys", "secret": "keys"},
                    {"name": "more", "mountPath": "/more", "claim": "checkpoints"},
                    {"name": "room", "mountPath": "/room", "emptyDir": True},
                ],
            },
        )
    )


def spec_of(job: JobBuilder) -> FineTuneJobSpec:
    spec = job.build().spec
    assert spec is not None
    return spec


def a_rendered_pod(job: JobBuilder, settings: RenderSettings = SETTINGS) -> dict[str, Any]:
    member = Member(index=1, ticket=7)
    return dict(
        pod(job.build(), spec_of(job), member, attempt=3, config_map="triage-config-1", settings=settings)
    )


def mounts(body: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {item["mountPath"]: item for item in body["spec"]["containers"][0]["volumeMounts"]}


def test_rendering_is_deterministic() -> None:
    job = a_rich_job()
    one, other = (
        json.dumps([dict(item) for item in whole_gang(job.build(), spec_of(job), settings=SETTINGS)])
        for _ in range(2)
    )
    assert one == other


def test_everything_belongs_to_the_job_and_carries_its_labels() -> None:
    job = a_rich_job()
    for item in whole_gang(job.build(), spec_of(job), settings=SETTINGS):
        (owner,) = item["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"], owner["controller"]) == ("FineTuneJob", UID, True)
        assert owner["blockOwnerDeletion"] is False
        assert item["metadata"]["labels"]["windlass.dev/run-uid"] == UID
        assert item["metadata"]["namespace"] == "team"


@pytest.mark.bad_input("B91")
@pytest.mark.parametrize("job", [a_job(), a_rich_job()], ids=["plain", "rich"])
def test_pods_pass_pod_security_restricted(job: JobBuilder) -> None:
    body = a_rendered_pod(job)["spec"]
    context = body["securityContext"]
    assert context["runAsNonRoot"] is True and context["runAsUser"] == context["fsGroup"] == 1000
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = body["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    allowed = {"configMap", "projected", "persistentVolumeClaim", "secret", "emptyDir"}
    assert all(set(volume) - {"name"} <= allowed for volume in body["volumes"])
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(body)
    assert body["automountServiceAccountToken"] is False and body["restartPolicy"] == "Never"


def test_every_mount_has_its_volume_and_names_are_labels() -> None:
    body = a_rendered_pod(a_rich_job())
    known = [volume["name"] for volume in body["spec"]["volumes"]]
    assert len(known) == len(set(known))
    assert {item["name"] for item in mounts(body).values()} == set(known)
    assert len(mounts(body)) == len(body["spec"]["containers"][0]["volumeMounts"])


def test_claim_that_is_stored_to_and_read_from_is_one_volume() -> None:
    job = a_job().with_spec("data.sources", [{"uri": "pvc://checkpoints/data.jsonl"}])
    body = a_rendered_pod(job)
    store, read = mounts(body)["/windlass/store"], mounts(body)["/windlass/volumes/checkpoints"]
    assert store["name"] == read["name"]
    assert "readOnly" not in store and read["readOnly"] is True


def test_only_the_keys_of_a_secret_that_are_named_are_mounted() -> None:
    body = a_rendered_pod(a_rich_job())
    secret = next(volume["secret"] for volume in body["spec"]["volumes"] if volume["name"] == "secret-0")
    assert secret["secretName"] == "hub"
    assert [item["key"] for item in secret["items"]] == ["token", "mlflow"]
    assert secret["defaultMode"] == 0o440
    assert mounts(body)["/windlass/secrets/hub"]["readOnly"] is True


def test_writable_places_are_the_store_and_scratch_only() -> None:
    writable = {path for path, item in mounts(a_rendered_pod(a_rich_job())).items() if "readOnly" not in item}
    assert writable == {"/windlass/store", "/tmp", "/dev/shm", "/room"}


def test_memory_is_limited_and_cpu_is_not() -> None:
    (container,) = a_rendered_pod(a_rich_job())["spec"]["containers"]
    assert container["resources"] == {
        "requests": {"cpu": "1", "memory": "4Gi"},
        "limits": {"memory": "4Gi", "nvidia.com/gpu": "2"},
    }


@pytest.mark.bad_input("B25")
def test_identity_wins_over_the_users_variables() -> None:
    (container,) = a_rendered_pod(a_rich_job())["spec"]["containers"]
    env = {item["name"]: item.get("value") for item in container["env"]}
    assert env["TOKENIZERS_PARALLELISM"] == "false"
    assert (env["HOME"], env["WINDLASS_INDEX"], env["WINDLASS_TICKET"], env["WINDLASS_ATTEMPT"]) == (
        "/tmp",
        "1",
        "7",
        "3",
    )
    assert len(env) == len(container["env"])
    fields = {
        item["name"]: item["valueFrom"]["fieldRef"]["fieldPath"]
        for item in container["env"]
        if "valueFrom" in item
    }
    assert fields["POD_UID"] == "metadata.uid" and fields["POD_IP"] == "status.podIP"


def test_user_cannot_relabel_a_pod_into_another_run() -> None:
    labels = a_rendered_pod(a_rich_job())["metadata"]["labels"]
    assert labels["windlass.dev/run-uid"] == UID and labels["team"] == "ml"


@pytest.mark.fault("F23")
def test_pods_leave_a_dead_node_after_half_a_minute_unless_the_user_says_otherwise() -> None:
    plain = a_rendered_pod(a_job())["spec"]["tolerations"]
    assert [(item["key"], item["tolerationSeconds"]) for item in plain] == [
        ("node.kubernetes.io/not-ready", 30),
        ("node.kubernetes.io/unreachable", 30),
    ]
    own = {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "tolerationSeconds": 600}
    mine = a_rendered_pod(a_job().with_spec("pod.tolerations", [own]))["spec"]["tolerations"]
    assert [item["tolerationSeconds"] for item in mine] == [600, 30]


def test_placement_is_left_out_unless_asked_for() -> None:
    plain, rich = a_rendered_pod(a_job())["spec"], a_rendered_pod(a_rich_job())["spec"]
    for field in (
        "schedulerName",
        "priorityClassName",
        "serviceAccountName",
        "nodeSelector",
        "imagePullSecrets",
    ):
        assert field not in plain and field in rich


def test_host_root_is_claims_mounted_read_only() -> None:
    root = (HostRootMount("host-usr", "/usr"), HostRootMount("host-usr", "/opt/venv", "venv"))
    body = a_rendered_pod(a_job(), replace(SETTINGS, host_root=root))
    assert mounts(body)["/usr"]["readOnly"] is True
    assert mounts(body)["/opt/venv"]["subPath"] == "venv"
    assert mounts(body)["/usr"]["name"] == mounts(body)["/opt/venv"]["name"]


def test_without_a_report_address_there_is_no_ca_and_no_token() -> None:
    silent = replace(SETTINGS, report_url=None)
    job = a_job()
    kinds = [
        item["metadata"]["name"]
        for item in shared_objects(job.build(), spec_of(job), attempt=1, settings=silent)
    ]
    assert "triage-ca" not in kinds
    assert not {"/etc/windlass/ca", "/var/run/secrets/windlass"} & set(mounts(a_rendered_pod(job, silent)))


def config_of(
    job: JobBuilder, attempt: int = 1, settings: RenderSettings = SETTINGS
) -> tuple[str, RunConfig]:
    item = shared_objects(job.build(), spec_of(job), attempt=attempt, settings=settings)[0]
    assert item["immutable"] is True
    return item["metadata"]["name"], RunConfig.model_validate_json(item["data"]["run.json"])


def test_run_config_holds_what_agents_need() -> None:
    name, config = config_of(a_rich_job(), attempt=2)
    assert name.startswith("triage-config-") and len(name) == len("triage-config-") + 8
    assert config.attempt == 2
    assert config.leader_host == "triage-0.triage.team.svc"
    assert config.store_path == f"/windlass/store/team/team/triage/{UID}"
    assert config.report is not None and config.report.url == SETTINGS.report_url


def test_configuration_is_named_by_its_content() -> None:
    base = config_of(a_job())[0]
    assert base == config_of(a_job())[0]
    assert base != config_of(a_job(), attempt=2)[0]
    assert base != config_of(a_job().with_spec("training.learningRate", "1e-3"))[0]
    assert base == config_of(a_job().suspended())[0]


def test_only_the_gang_itself_may_connect_to_its_pods() -> None:
    job = a_job()
    policy = shared_objects(job.build(), spec_of(job), attempt=1, settings=SETTINGS)[3]["spec"]
    gang = {"matchLabels": {"windlass.dev/run-uid": UID}}
    assert policy == {
        "podSelector": gang,
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": gang}]}],
    }


def test_names_resolve_before_pods_are_ready() -> None:
    job = a_job()
    service = shared_objects(job.build(), spec_of(job), attempt=1, settings=SETTINGS)[2]["spec"]
    assert service["clusterIP"] == "None" and service["publishNotReadyAddresses"] is True


@pytest.mark.parametrize(
    ("store", "path"),
    [
        ("pvc://c", f"/windlass/store/team/triage/{UID}"),
        ("pvc://c/", f"/windlass/store/team/triage/{UID}"),
        ("pvc://c/a/b/", f"/windlass/store/a/b/team/triage/{UID}"),
    ],
)
def test_store_path_carries_the_runs_identity(store: str, path: str) -> None:
    spec = spec_of(a_job().with_spec("checkpoint.store", store))
    assert names.store_path(spec, namespace="team", name="triage", uid=UID) == path
    assert names.store_claim(spec) == "c"
