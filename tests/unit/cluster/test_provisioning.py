"""What the provisioner decides: every claim gets its directory, nothing else is ever removed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from windlass.cli.cluster import provisioner
from windlass.cli.cluster.api import ApiError
from windlass.cli.cluster.paths import HOST_REPOSITORY_CLAIM, HOST_USR_CLAIM, STORAGE_CLASS
from windlass.cli.cluster.provisioning import (
    Action,
    CreateClaim,
    CreateVolume,
    DeleteVolume,
    claim_volume,
    host_claim,
    host_volume,
    plan,
)

ROOT = Path("/srv/cluster/volumes")
Object = dict[str, Any]


def a_claim(name: str = "data", namespace: str = "team", uid: str = "u1", **spec: Any) -> Object:
    wanted = {
        "storageClassName": STORAGE_CLASS,
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": "2Gi"}},
    }
    return {"metadata": {"name": name, "namespace": namespace, "uid": uid}, "spec": {**wanted, **spec}}


def a_namespace(name: str, phase: str = "Active") -> Object:
    return {"metadata": {"name": name}, "status": {"phase": phase}}


def in_phase(volume: Object, phase: str, **metadata: str) -> Object:
    return {**volume, "metadata": {**volume["metadata"], **metadata}, "status": {"phase": phase}}


def decide(
    claims: list[Object] | None = None,
    volumes: list[Object] | None = None,
    namespaces: list[Object] | None = None,
) -> list[Action]:
    return plan(claims=claims or [], volumes=volumes or [], namespaces=namespaces or [], root=ROOT)


DIRECTORY = ROOT / "team" / "data"
BOUND = in_phase(claim_volume(a_claim(), DIRECTORY), "Bound")


def test_new_claim_gets_a_volume_bound_to_it() -> None:
    (action,) = decide([a_claim(accessModes=["ReadWriteOnce"])])
    assert isinstance(action, CreateVolume)
    assert action.directory == DIRECTORY
    spec = action.volume["spec"]
    assert spec["claimRef"] == {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "namespace": "team",
        "name": "data",
        "uid": "u1",
    }
    assert spec["accessModes"] == ["ReadWriteOnce"]
    assert spec["capacity"] == {"storage": "2Gi"}
    assert spec["hostPath"] == {"path": str(DIRECTORY), "type": "Directory"}
    assert spec["persistentVolumeReclaimPolicy"] == "Delete"


@pytest.mark.parametrize(
    "claim",
    [
        a_claim(storageClassName="other"),
        a_claim(storageClassName=""),
        a_claim(volumeName="chosen-by-hand"),
        a_claim(selector={"matchLabels": {"a": "b"}}),
        a_claim(volumeMode="Block"),
        {**a_claim(), "metadata": {**a_claim()["metadata"], "deletionTimestamp": "now"}},
    ],
    ids=["other class", "no class", "named volume", "selector", "block", "going"],
)
def test_claim_that_is_not_ours_is_left_alone(claim: Object) -> None:
    assert decide([claim]) == []


def test_nothing_is_left_to_do_once_done() -> None:
    assert decide([a_claim()], [BOUND]) == []


@pytest.mark.parametrize(
    ("claims", "volume"),
    [
        ([], BOUND),
        ([], in_phase(BOUND, "Released")),
        ([a_claim(uid="u2")], BOUND),
    ],
    ids=["claim gone", "released", "claim of the same name, another life"],
)
def test_volume_goes_with_its_claim_and_directory(claims: list[Object], volume: Object) -> None:
    assert decide(claims, [volume]) == [DeleteVolume("windlass-u1", DIRECTORY)]


def test_claim_of_the_same_name_waits_until_the_old_directory_is_gone() -> None:
    again = a_claim(uid="u2")
    assert not any(isinstance(action, CreateVolume) for action in decide([again], [BOUND]))
    (action,) = decide([again], [])
    assert isinstance(action, CreateVolume)


@pytest.mark.parametrize(
    ("volume", "outcome"),
    [
        ({**BOUND, "spec": {**BOUND["spec"], "persistentVolumeReclaimPolicy": "Retain"}}, []),
        (in_phase(BOUND, "Released", deletionTimestamp="now"), []),
        ({**BOUND, "metadata": {"name": "theirs"}}, []),
        (
            {**BOUND, "spec": {**BOUND["spec"], "hostPath": {"path": "/etc"}}},
            [DeleteVolume("windlass-u1", None)],
        ),
        (
            {**BOUND, "spec": {**BOUND["spec"], "hostPath": {"path": f"{ROOT}/team/../../../x"}}},
            [DeleteVolume("windlass-u1", None)],
        ),
    ],
    ids=["kept by its owner", "already going", "not ours", "edited path", "path with dots"],
)
def test_no_directory_goes_that_we_did_not_make(volume: Object, outcome: list[Action]) -> None:
    assert decide([], [volume]) == outcome


def test_every_open_namespace_is_offered_both_views_of_the_host() -> None:
    namespaces = [a_namespace("team"), a_namespace("kube-system"), a_namespace("gone", "Terminating")]
    actions = decide(namespaces=namespaces)
    assert [
        (type(a), a.namespace, a.claim["metadata"]["name"]) for a in actions if isinstance(a, CreateClaim)
    ] == [
        (CreateClaim, "team", HOST_USR_CLAIM),
        (CreateClaim, "team", HOST_REPOSITORY_CLAIM),
    ]
    assert len(actions) == 2


def offered(name: str, uid: str = "h1") -> Object:
    claim = host_claim("team", name)
    return {**claim, "metadata": {**claim["metadata"], "uid": uid}}


def test_offered_claims_get_read_only_volumes_and_then_rest() -> None:
    claims = [offered(HOST_USR_CLAIM), offered(HOST_REPOSITORY_CLAIM, "h2")]
    actions = decide(claims, namespaces=[a_namespace("team")])
    volumes = [action.volume for action in actions if isinstance(action, CreateVolume)]
    assert [action.directory for action in actions if isinstance(action, CreateVolume)] == [None, None]
    assert [volume["spec"]["accessModes"] for volume in volumes] == [["ReadOnlyMany"]] * 2
    assert [volume["spec"]["claimRef"]["uid"] for volume in volumes] == ["h1", "h2"]
    assert [claim["spec"]["volumeName"] for claim in claims] == [
        volume["metadata"]["name"] for volume in volumes
    ]
    assert decide(claims, volumes, [a_namespace("team")]) == []


def test_view_of_the_host_never_takes_a_directory_with_it() -> None:
    volume = host_volume(offered(HOST_USR_CLAIM), Path("/run/windlass/host/usr"))
    assert decide([], [in_phase(volume, "Released")]) == [DeleteVolume("windlass-host-usr-team", None)]


class FakeClient:
    """Answers lists from a dictionary and records the rest."""

    def __init__(self, lists: dict[str, list[Object]], refuse: int = 0) -> None:
        self.lists, self.refuse = lists, refuse
        self.calls: list[tuple[str, str]] = []

    def request(self, method: str, path: str, *, body: Any = None) -> Any:
        if method == "GET":
            return {"items": self.lists.get(path, [])}
        self.calls.append((method, path))
        if self.refuse:
            raise ApiError(self.refuse, "refused")
        return {}


def test_round_makes_a_directory_everyone_can_write(tmp_path: Path) -> None:
    client = FakeClient({provisioner.CLAIMS: [a_claim()]})
    assert provisioner.round_of(client, tmp_path) == 1  # type: ignore[arg-type]
    assert (tmp_path / "team" / "data").stat().st_mode & 0o777 == 0o777
    assert client.calls == [("POST", provisioner.VOLUMES)]


def test_round_removes_the_directory_before_the_volume(tmp_path: Path) -> None:
    directory = tmp_path / "team" / "data"
    provisioner.make_directory(directory)
    (directory / "file").write_text("x")
    client = FakeClient({provisioner.VOLUMES: [claim_volume(a_claim(), directory)]})
    provisioner.round_of(client, tmp_path)  # type: ignore[arg-type]
    assert not (tmp_path / "team").exists()
    assert client.calls == [("DELETE", f"{provisioner.VOLUMES}/windlass-u1")]


@pytest.mark.parametrize("status", [403, 404, 409])
def test_refusal_by_a_race_is_left_to_the_next_round(status: int, tmp_path: Path) -> None:
    client = FakeClient({provisioner.NAMESPACES: [a_namespace("team")]}, refuse=status)
    assert provisioner.round_of(client, tmp_path) == 2  # type: ignore[arg-type]


def test_failing_server_is_not_taken_for_a_race(tmp_path: Path) -> None:
    client = FakeClient({provisioner.NAMESPACES: [a_namespace("team")]}, refuse=500)
    with pytest.raises(ApiError):
        provisioner.round_of(client, tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize("relative", ["data", "team/data/deeper", "."])
def test_directory_at_another_depth_is_never_removed(relative: str, tmp_path: Path) -> None:
    victim = tmp_path / relative
    victim.mkdir(parents=True, exist_ok=True)
    provisioner.remove_directory(victim, tmp_path)
    assert victim.exists()


def test_link_in_place_of_a_directory_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "volumes" / "team").mkdir(parents=True)
    link = tmp_path / "volumes" / "team" / "data"
    link.symlink_to(outside)
    provisioner.remove_directory(link, tmp_path / "volumes")
    assert outside.is_dir()


def test_neighbours_in_the_namespace_stay(tmp_path: Path) -> None:
    for name in ("data", "other"):
        provisioner.make_directory(tmp_path / "team" / name)
    provisioner.remove_directory(tmp_path / "team" / "data", tmp_path)
    assert [path.name for path in (tmp_path / "team").iterdir()] == ["other"]
