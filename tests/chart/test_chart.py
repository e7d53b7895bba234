"""The chart as Helm sees it: lint, values, rights, Pod Security, and what an uninstall keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
import yaml

from windlass.api.kinds import KINDS, Kind
from windlass.shell.permissions import cluster_rules, kueue_rules, namespace_rules, node_rules
from windlass.shell.settings import price_list

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "windlass"
NAMESPACE = "windlass-system"
HOST_ROOT = {
    "hostRoot": {
        "enabled": True,
        "operatorMounts": [{"claim": "windlass-host-usr", "mountPath": "/usr"}],
        "workloadMounts": [
            {"claim": "windlass-host-usr", "mountPath": "/usr"},
            {"claim": "windlass-host-repository", "subPath": ".venv", "mountPath": "/src/.venv"},
            {"claim": "windlass-host-repository", "subPath": "operator", "mountPath": "/src/operator"},
        ],
    }
}
EXTREMES = [
    {},
    HOST_ROOT,
    {"mlflow": {"enabled": False}, "crds": {"enabled": False}, "rbac": {"aggregate": False}},
    {"operator": {"watchNamespaces": ["a", NAMESPACE], "replicas": 1, "podDisruptionBudget": False}},
    {"operator": {"watchNamespaces": ["a"], "nodeAwareness": {"enabled": True, "healthTaints": []}}},
    {"admission": {"enabled": False}, "networkPolicy": {"enabled": False}, "metrics": {"podMonitor": True}},
    {"prices": {"currency": "USD", "perHour": {"cpu": "0.03", "nvidia.com/gpu": "2.5"}}},
    {"imagePullSecrets": ["one"], "operator": {"tolerations": [{"key": "x", "operator": "Exists"}]}},
]


def render(values: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    chart = helm.Chart.load(CHART)
    texts = chart.render(values=values or {}, name="windlass", namespace=NAMESPACE)
    return [
        document
        for path, text in texts.items()
        if path.endswith(".yaml")
        for document in yaml.safe_load_all(text)
        if document
    ]


def of_kind(documents: list[dict[str, Any]], kind: str, name: str = "") -> list[dict[str, Any]]:
    return [row for row in documents if row["kind"] == kind and name in row["metadata"]["name"]]


def test_lint_finds_nothing_but_the_missing_icon() -> None:
    found = helm.lint(CHART)
    assert found["errors"] == []
    assert [row["error"] for row in found["messages"] if "icon" not in row["error"]] == []


@pytest.mark.parametrize("values", EXTREMES, ids=range(len(EXTREMES)))
def test_renders_at_its_extremes_without_repeated_names(values: dict[str, Any]) -> None:
    documents = render(values)
    keys = [(row["kind"], row["metadata"].get("namespace"), row["metadata"]["name"]) for row in documents]
    assert len(keys) == len(set(keys))
    for deployment in of_kind(documents, "Deployment"):
        for container in deployment["spec"]["template"]["spec"]["containers"]:
            names = [row["name"] for row in container["env"]]
            assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"operatr": {}}, "operatr"),
        ({"operator": {"replica": 2}}, "replica"),
        ({"operator": {"replicas": "two"}}, "replicas"),
        ({"mlflow": {"port": 80}}, "port"),
        ({"operator": {"nodeAwareness": {"healthTaints": ["a b"]}}}, "healthTaints"),
        ({"operator": {"nodeAwareness": {"enabled": "yes"}}}, "enabled"),
        ({"operator": {"kueue": {"enabled": "yes"}}}, "enabled"),
        ({"operator": {"kueue": {"queue": "team-a"}}}, "queue"),
        ({"imagePullPolicy": "Sometimes"}, "imagePullPolicy"),
        ({"hostRoot": {"workloadMounts": [{"claim": "x"}]}}, "mountPath"),
    ],
)
def test_schema_refuses_unknown_and_wrong_values_by_name(values: dict[str, Any], name: str) -> None:
    with pytest.raises(helm.HelmError) as caught:
        helm.Chart.load(CHART).validate_schema(values)
    assert name in str(caught.value)


FREE_FORM = {"podAnnotations", "nodeSelector", "requests", "limits", "labels"}


def sections(values: dict[str, Any], at: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Places of all blocks in the default values, except those whose keys are the user's."""
    inner = [
        place
        for key, value in values.items()
        if isinstance(value, dict) and key not in FREE_FORM
        for place in sections(value, (*at, key))
    ]
    return [at, *inner]


@pytest.mark.parametrize("place", sections(yaml.safe_load((CHART / "values.yaml").read_text())), ids=".".join)
def test_every_block_of_the_values_refuses_what_it_does_not_know(place: tuple[str, ...]) -> None:
    values: dict[str, Any] = {"surely-unknown": 1}
    for key in reversed(place):
        values = {key: values}
    with pytest.raises(helm.HelmError, match="surely-unknown"):
        helm.Chart.load(CHART).validate_schema(values)


@pytest.mark.parametrize(
    ("section", "listed"),
    [("operator", "tolerations"), ("hostRoot", "operatorMounts"), ("hostRoot", "workloadMounts")],
)
def test_items_of_lists_refuse_what_they_do_not_know(section: str, listed: str) -> None:
    with pytest.raises(helm.HelmError, match="surely-unknown"):
        helm.Chart.load(CHART).validate_schema({section: {listed: [{"surely-unknown": "x"}]}})


def test_rights_are_those_of_the_table() -> None:
    documents = render()
    assert of_kind(documents, "ClusterRole", "windlass-operator")[0]["rules"] == cluster_rules()
    expected = namespace_rules(lease="windlass-operator", slice_name="windlass-reports-leader")
    assert of_kind(documents, "Role", "windlass-operator")[0]["rules"] == expected


def test_snapshot_of_all_rights() -> None:
    """Any change of what the operator may do shows up here, for a reviewer."""
    lines = sorted(
        f"{'/'.join(rule['apiGroups'])}:{resource} {','.join(rule['verbs'])} {','.join(rule.get('resourceNames', []))}"
        for kind in ("ClusterRole", "Role")
        for role in of_kind(render(), kind, "windlass-operator")
        for rule in role["rules"]
        for resource in rule["resources"]
    )
    snapshot = Path(__file__).with_name("rights.txt")
    assert "\n".join(line.strip() for line in lines) + "\n" == snapshot.read_text()


def test_no_right_touches_secrets_nodes_or_everything() -> None:
    rules = [
        rule for kind in ("ClusterRole", "Role") for row in of_kind(render(), kind) for rule in row["rules"]
    ]
    resources = {resource.split("/")[0] for rule in rules for resource in rule["resources"]}
    assert resources.isdisjoint({"secrets", "nodes", "serviceaccounts", "roles", "clusterroles", "*"})
    assert all("*" not in rule["verbs"] and "*" not in rule["apiGroups"] for rule in rules)


AWARE = {"operator": {"nodeAwareness": {"enabled": True}}}
AWARE_IN_ONE = {"operator": {"nodeAwareness": {"enabled": True}, "watchNamespaces": ["a"]}}


def environment(documents: list[dict[str, Any]]) -> dict[str, str]:
    deployment = of_kind(documents, "Deployment", "windlass-operator")[0]
    rows = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    return {row["name"]: row.get("value", "") for row in rows}


@pytest.mark.parametrize("values", [AWARE, AWARE_IN_ONE], ids=["everywhere", "one namespace"])
def test_nodes_are_read_and_nothing_else_where_they_are_watched(values: dict[str, Any]) -> None:
    documents = render(values)
    (role,) = of_kind(documents, "ClusterRole", "windlass-nodes")
    assert role["rules"] == node_rules()
    assert role["rules"] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]}]
    (binding,) = of_kind(documents, "ClusterRoleBinding", "windlass-nodes")
    assert binding["roleRef"]["name"] == "windlass-nodes"
    assert [subject["name"] for subject in binding["subjects"]] == ["windlass-operator"]
    told = environment(documents)
    assert told["WINDLASS_WATCH_NODES"] == "true"
    assert "AggregatedNodeHealth" in told["WINDLASS_HEALTH_TAINTS"].split(",")


def test_nodes_are_not_watched_unless_asked_for() -> None:
    documents = render()
    assert of_kind(documents, "ClusterRole", "windlass-nodes") == []
    assert of_kind(documents, "ClusterRoleBinding", "windlass-nodes") == []
    assert environment(documents)["WINDLASS_WATCH_NODES"] == "false"


def test_the_rest_of_the_rights_does_not_depend_on_node_awareness() -> None:
    def without(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
        roles = [row for kind in ("ClusterRole", "Role") for row in of_kind(documents, kind)]
        return [row for row in roles if row["metadata"]["name"] != "windlass-nodes"]

    assert without(render(AWARE)) == without(render())


KUEUE = {"operator": {"kueue": {"enabled": True}}}
KUEUE_IN_TWO = {"operator": {"kueue": {"enabled": True}, "watchNamespaces": ["a", "b"]}}


def test_workloads_of_kueue_may_be_deleted_everywhere_where_its_queues_are_used() -> None:
    documents = render(KUEUE)
    (role,) = of_kind(documents, "ClusterRole", "windlass-kueue")
    assert role["rules"] == kueue_rules()
    assert role["rules"] == [
        {"apiGroups": ["kueue.x-k8s.io"], "resources": ["workloads"], "verbs": ["delete"]}
    ]
    (binding,) = of_kind(documents, "ClusterRoleBinding", "windlass-kueue")
    assert binding["roleRef"]["name"] == "windlass-kueue"
    assert [subject["name"] for subject in binding["subjects"]] == ["windlass-operator"]
    assert environment(documents)["WINDLASS_KUEUE"] == "true"


def test_workloads_of_kueue_may_be_deleted_in_the_watched_namespaces_alone() -> None:
    documents = render(KUEUE_IN_TWO)
    assert of_kind(documents, "ClusterRoleBinding", "windlass-kueue") == []
    bindings = of_kind(documents, "RoleBinding", "windlass-kueue")
    assert [binding["metadata"]["namespace"] for binding in bindings] == ["a", "b"]
    assert {binding["roleRef"]["name"] for binding in bindings} == {"windlass-kueue"}


def test_there_is_no_right_on_kueue_unless_asked_for() -> None:
    documents = render()
    for kind in ("ClusterRole", "ClusterRoleBinding", "RoleBinding"):
        assert of_kind(documents, kind, "windlass-kueue") == []
    assert environment(documents)["WINDLASS_KUEUE"] == "false"


@pytest.mark.parametrize("values", [{}, AWARE, KUEUE], ids=["plain", "watching nodes", "queues"])
def test_nothing_is_bound_to_everybody(values: dict[str, Any]) -> None:
    for kind in ("ClusterRoleBinding", "RoleBinding"):
        for binding in of_kind(render(values), kind):
            assert all(subject["kind"] == "ServiceAccount" for subject in binding["subjects"])


def test_named_namespaces_get_a_role_binding_each_and_no_cluster_wide_one() -> None:
    documents = render({"operator": {"watchNamespaces": ["a", "b"]}})
    bound = {row["metadata"]["namespace"] for row in of_kind(documents, "RoleBinding")}
    assert {"a", "b"} <= bound
    assert [row["metadata"]["name"] for row in of_kind(documents, "ClusterRoleBinding")] == [
        "windlass-reviews"
    ]


@pytest.mark.parametrize("values", [{}, HOST_ROOT], ids=["plain", "hostRoot"])
def test_pods_pass_pod_security_restricted(values: dict[str, Any]) -> None:
    deployments = of_kind(render(values), "Deployment")
    assert len(deployments) == 2
    for deployment in deployments:
        spec = deployment["spec"]["template"]["spec"]
        context = spec["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not spec.get("hostNetwork") and not spec.get("hostPID") and not spec.get("hostIPC")
        allowed = {"secret", "emptyDir", "persistentVolumeClaim"}
        assert all(set(volume) - {"name"} <= allowed for volume in spec["volumes"])
        for container in spec["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"] and container["resources"]["limits"]


def test_each_claim_of_the_host_root_is_one_volume() -> None:
    operator = of_kind(render(HOST_ROOT), "Deployment", "mlflow")[0]["spec"]["template"]["spec"]
    names = [volume["name"] for volume in operator["volumes"]]
    assert names.count("windlass-host-repository") == 1
    mounts = [
        row for row in operator["containers"][0]["volumeMounts"] if row["name"] == "windlass-host-repository"
    ]
    assert {row["subPath"] for row in mounts} == {".venv", "operator"}
    assert all(row["readOnly"] for row in mounts)


def test_uninstall_keeps_what_jobs_and_the_next_installation_need() -> None:
    """CRDs, tracking data, the certificate that pods trust, and the right to hand the Lease over."""
    documents = render()
    kept = {
        (row["kind"], row["metadata"]["name"])
        for row in documents
        if row["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep"
    }
    definitions = {("CustomResourceDefinition", path.stem) for path in (ROOT / "crds").glob("*.yaml")}
    handover = {(kind, "windlass-operator") for kind in ("ServiceAccount", "Role", "RoleBinding")}
    data = {("PersistentVolumeClaim", "windlass-mlflow"), ("Secret", "windlass-tls")}
    assert kept == definitions | handover | data
    released = of_kind(render({"crds": {"keep": False}}), "CustomResourceDefinition")
    assert all("annotations" not in row["metadata"] for row in released)


def test_the_chart_carries_the_generated_crds() -> None:
    names = {row["metadata"]["name"] for row in of_kind(render(), "CustomResourceDefinition")}
    assert names == {path.stem for path in (ROOT / "crds").glob("*.yaml")}


def test_decimals_stay_strings_on_their_way_through_helm() -> None:
    text = helm.Chart.load(CHART).render(values={}, name="windlass", namespace=NAMESPACE)[
        "windlass/templates/crds.yaml"
    ]
    assert 'default: "2e-5"' in text


def test_report_service_has_no_selector() -> None:
    assert "selector" not in of_kind(render(), "Service", "windlass-reports")[0]["spec"]


def test_view_and_edit_are_aggregated_and_view_cannot_write() -> None:
    documents = render()
    view = of_kind(documents, "ClusterRole", "windlass-view")[0]
    edit = of_kind(documents, "ClusterRole", "windlass-edit")[0]
    assert view["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-view"] == "true"
    assert {verb for rule in view["rules"] for verb in rule["verbs"]} == {"get", "list", "watch"}
    assert "rbac.authorization.k8s.io/aggregate-to-view" not in edit["metadata"]["labels"]
    plurals = [kind.plural for kind in KINDS.values()]
    assert [rule["resources"] for rule in edit["rules"]] == [plurals], "the status of a job is the operator's"
    assert {resource for rule in view["rules"] for resource in rule["resources"]} == {
        f"{plural}{part}" for plural in plurals for part in ("", "/status")
    }


@pytest.mark.parametrize("name", ["windlass-jobs", "windlass-credentials"])
def test_policies_about_jobs_hold_for_all_kinds(name: str) -> None:
    (policy,) = of_kind(render(), "ValidatingAdmissionPolicy", name)
    (rule,) = policy["spec"]["matchConstraints"]["resourceRules"]
    assert rule["resources"] == [kind.plural for kind in KINDS.values()]


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_every_kind_is_named_to_whoever_installs_or_removes(kind: Kind) -> None:
    notes = (CHART / "templates" / "NOTES.txt").read_text()
    assert "kubectl get windlass -A" in notes and f"kubectl explain {kind.name.lower()}.spec" in notes
    guides = ROOT / "docs" / "guides"
    (line,) = [
        one
        for one in (guides / "install-upgrade-uninstall.md").read_text().splitlines()
        if one.startswith("kubectl delete crd ")
    ]
    assert f"{kind.plural}.windlass.dev" in line.split()
    assert f"health.windlass.dev_{kind.name}: |" in (guides / "argo-cd.md").read_text()


def test_mlflow_knows_its_own_names() -> None:
    command = of_kind(render(), "Deployment", "mlflow")[0]["spec"]["template"]["spec"]["containers"][0][
        "command"
    ]
    hosts = next(part for part in command if part.startswith("--allowed-hosts="))
    assert f"windlass-mlflow.{NAMESPACE}:5000" in hosts


def operator_variable(values: dict[str, Any], name: str) -> str:
    (deployment,) = of_kind(render(values), "Deployment", "operator")
    variables = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    return str(next(row["value"] for row in variables if row["name"] == name))


def test_prices_reach_the_operator_as_they_were_written() -> None:
    written = {"currency": "USD", "perHour": {"cpu": "0.030", "memoryGiB": "0.004", "nvidia.com/gpu": "2.5"}}
    text = operator_variable({"prices": written}, "WINDLASS_PRICES")
    found = price_list(text)
    assert found is not None and found.currency == "USD"
    assert {name: str(price) for name, price in found.per_hour.items()} == written["perHour"]


def test_without_prices_the_operator_gets_no_list() -> None:
    assert operator_variable({}, "WINDLASS_PRICES") == ""


@pytest.mark.parametrize(
    "prices",
    [
        {"perHour": {"cpu": 0.03}},
        {"perHour": {"cpu": "three"}},
        {"perHour": {"memory": "0.03"}},
        {"currency": "EUR/h"},
        {"perMinute": {}},
    ],
)
def test_the_schema_refuses_prices_that_are_none(prices: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="prices"):
        render({"prices": prices})
