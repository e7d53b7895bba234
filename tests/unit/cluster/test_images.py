"""The OCI archives: well formed, the same for the same content, and what the host-root image holds."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from windlass.cli.cluster import images


def contents(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {member.name: (tar.extractfile(member) or io.BytesIO()).read() for member in tar.getmembers()}


def layer_of(archive: Path) -> tarfile.TarFile:
    blobs = contents(archive)
    manifest = manifest_of(blobs)
    packed = blobs[blob_path(manifest["layers"][0]["digest"])]
    return tarfile.open(fileobj=io.BytesIO(gzip.decompress(packed)))


def blob_path(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def manifest_of(blobs: dict[str, bytes]) -> dict[str, Any]:
    index = json.loads(blobs["index.json"])
    manifest: dict[str, Any] = json.loads(blobs[blob_path(index["manifests"][0]["digest"])])
    return manifest


@pytest.fixture
def host_image(tmp_path: Path) -> images.Image:
    root = tmp_path / "root"
    (root / "etc/alternatives").mkdir(parents=True)
    (root / "etc/alternatives/awk").symlink_to("/usr/bin/mawk")
    (root / "etc/ssl/certs").mkdir(parents=True)
    (root / "etc/ssl/certs/ca-certificates.crt").write_text("public")
    (root / "etc/shadow").write_text("secret")
    return images.build(
        "host", images.host_root_entries(root), config={"User": "1000"}, directory=tmp_path / "out"
    )


def test_every_blob_has_the_digest_and_size_it_is_listed_with(host_image: images.Image) -> None:
    blobs = contents(host_image.archive)
    manifest = manifest_of(blobs)
    for descriptor in [
        manifest["config"],
        *manifest["layers"],
        *json.loads(blobs["index.json"])["manifests"],
    ]:
        blob = blobs[blob_path(descriptor["digest"])]
        assert descriptor["digest"] == f"sha256:{hashlib.sha256(blob).hexdigest()}"
        assert descriptor["size"] == len(blob)
    config = json.loads(blobs[blob_path(manifest["config"]["digest"])])
    layer = gzip.decompress(blobs[blob_path(manifest["layers"][0]["digest"])])
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    assert config["config"] == {"User": "1000"}


def test_reference_is_in_the_index_for_containerd(host_image: images.Image) -> None:
    index = json.loads(contents(host_image.archive)["index.json"])
    assert index["manifests"][0]["annotations"] == {"io.containerd.image.name": host_image.reference}
    assert host_image.reference.startswith("localhost/host:")


def test_same_content_has_the_same_reference_and_other_content_another(tmp_path: Path) -> None:
    def reference(text: bytes, folder: str) -> str:
        entries = [images.Entry("file", 0o644, content=text)]
        return images.build("x", entries, config={}, directory=tmp_path / folder).reference

    assert reference(b"one", "a") == reference(b"one", "b")
    assert reference(b"one", "a") != reference(b"two", "c")


def test_host_image_leads_to_the_host_s_usr_and_holds_no_secret(host_image: images.Image) -> None:
    with layer_of(host_image.archive) as layer:
        members = {member.name: member for member in layer.getmembers()}
    assert {name: members[name].linkname for name in ("bin", "lib", "lib64", "sbin")} == {
        "bin": "usr/bin",
        "lib": "usr/lib",
        "lib64": "usr/lib64",
        "sbin": "usr/sbin",
    }
    assert members["etc/alternatives/awk"].linkname == "/usr/bin/mawk"
    assert members["etc/ssl/certs/ca-certificates.crt"].isfile()
    assert "etc/shadow" not in members
    assert members["tmp"].mode == 0o1777
    assert {member.uid for member in members.values()} == {0}


def test_parents_come_before_what_is_in_them(host_image: images.Image) -> None:
    with layer_of(host_image.archive) as layer:
        names = layer.getnames()
    for name in names:
        parent = str(Path(name).parent)
        assert parent == "." or names.index(parent) < names.index(name)


def test_host_without_alternatives_or_certificates_is_fine(tmp_path: Path) -> None:
    names = [entry.path for entry in images.host_root_entries(tmp_path)]
    assert "etc/ssl/certs/ca-certificates.crt" not in names and "etc/passwd" in names


def test_program_image_runs_its_program_as_no_root(tmp_path: Path) -> None:
    binaries = {}
    for name in ("pause", "coredns"):
        binaries[name] = tmp_path / name
        binaries[name].write_bytes(name.encode())
    made = images.build_all(binaries, tmp_path / "out")
    assert set(made) == {"pause", "dns", "host"}
    blobs = contents(made["dns"].archive)
    config = json.loads(blobs[blob_path(manifest_of(blobs)["config"]["digest"])])
    assert config["config"] == {"Entrypoint": ["/coredns"], "User": "1000:1000"}
    with layer_of(made["dns"].archive) as layer:
        assert layer.getmember("coredns").mode == 0o755
