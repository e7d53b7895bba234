"""Container images without a registry: OCI archives written here and imported into containerd.

Called by `up`. Three images: pause, CoreDNS, and the host-root image (empty directories and links), which
runs the host's own programs once /usr and an environment are mounted. It must never fetch anything.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import platform
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

USER_ID = 1000
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_TOP_DIRECTORIES = ("dev", "etc", "home", "proc", "run", "sys", "usr", "var")
_DEEPER_DIRECTORIES = ("etc/alternatives", "etc/ssl", "etc/ssl/certs", "home/windlass")
_OPEN_DIRECTORIES = ("tmp", "var/tmp")
_LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64", "var/run": "../run"}
_ACCOUNTS = {
    "etc/passwd": (
        "root:x:0:0:root:/root:/usr/sbin/nologin\n"
        f"windlass:x:{USER_ID}:{USER_ID}::/home/windlass:/bin/sh\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    ),
    "etc/group": f"root:x:0:\nwindlass:x:{USER_ID}:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}


@dataclass(frozen=True, slots=True)
class Image:
    """An archive on disk and the reference under which it is imported."""

    reference: str
    archive: Path


@dataclass(frozen=True, slots=True)
class Entry:
    """One member of a layer: a directory, a link or a file, by which of the last two is set."""

    path: str
    mode: int = 0o755
    link: str | None = None
    content: bytes | None = None


def host_root_entries(root: Path) -> list[Entry]:
    """Members of the host-root image; `root` is the host's, read for links and public certificates."""
    entries = [Entry(path) for path in _TOP_DIRECTORIES + _DEEPER_DIRECTORIES]
    entries += [Entry(path, mode=0o1777) for path in _OPEN_DIRECTORIES]
    entries += [Entry(path, link=target) for path, target in _LINKS.items()]
    entries += [Entry(path, mode=0o644, content=text.encode()) for path, text in _ACCOUNTS.items()]
    alternatives = root / "etc/alternatives"
    if alternatives.is_dir():
        # Programs such as awk are links through here.
        for path in sorted(alternatives.iterdir()):
            if path.is_symlink():
                entries.append(Entry(f"etc/alternatives/{path.name}", link=os.readlink(path)))
    bundle = root / "etc/ssl/certs/ca-certificates.crt"
    if bundle.is_file():
        entries.append(Entry(f"etc/ssl/certs/{bundle.name}", mode=0o644, content=bundle.read_bytes()))
    return entries


def program_entries(program: Path) -> list[Entry]:
    """Members of an image with a single static program."""
    return [Entry("etc"), Entry("tmp", mode=0o1777), Entry(program.name, content=program.read_bytes())]


def build(name: str, entries: Iterable[Entry], *, config: dict[str, Any], directory: Path) -> Image:
    """Write an image's archive; the tag is its content's digest, so equal content has an equal name."""
    layer = _layer(entries)
    packed = gzip.compress(layer, compresslevel=1, mtime=0)
    document = {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
    }
    config_blob = json.dumps(document, sort_keys=True).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": _descriptor("application/vnd.oci.image.config.v1+json", config_blob),
        "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar+gzip", packed)],
    }
    manifest_blob = json.dumps(manifest, sort_keys=True).encode()
    reference = f"localhost/{name}:{_digest(manifest_blob).removeprefix('sha256:')[:12]}"
    index_entry = _descriptor("application/vnd.oci.image.manifest.v1+json", manifest_blob)
    index_entry["annotations"] = {"io.containerd.image.name": reference}
    index = {"schemaVersion": 2, "manifests": [index_entry]}
    directory.mkdir(parents=True, exist_ok=True)
    archive = directory / f"{name}.tar"
    with tarfile.open(archive, "w") as tar:
        _add(tar, Entry("oci-layout", 0o644, content=b'{"imageLayoutVersion":"1.0.0"}'))
        for blob in (packed, config_blob, manifest_blob):
            _add(tar, Entry(f"blobs/sha256/{_digest(blob).removeprefix('sha256:')}", 0o644, content=blob))
        _add(tar, Entry("index.json", 0o644, content=json.dumps(index).encode()))
    return Image(reference, archive)


def build_all(binaries: dict[str, Path], directory: Path) -> dict[str, Image]:
    """The images of the embedded cluster by role: pause, dns, host."""
    user = f"{USER_ID}:{USER_ID}"
    return {
        "pause": build(
            "windlass-pause",
            program_entries(binaries["pause"]),
            config={"Entrypoint": ["/pause"], "User": "65535:65535"},
            directory=directory,
        ),
        "dns": build(
            "windlass-coredns",
            program_entries(binaries["coredns"]),
            config={"Entrypoint": ["/coredns"], "User": user},
            directory=directory,
        ),
        "host": build(
            "windlass-host",
            host_root_entries(Path("/")),
            config={
                "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"],
                "User": user,
                "WorkingDir": "/home/windlass",
            },
            directory=directory,
        ),
    }


def _layer(entries: Iterable[Entry]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for entry in entries:
            _add(tar, entry)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, entry: Entry) -> None:
    # Times and owners are left at 0, so that the digest depends on the content alone.
    info = tarfile.TarInfo(entry.path)
    info.mode = entry.mode
    if entry.link is not None:
        info.type, info.linkname = tarfile.SYMTYPE, entry.link
    elif entry.content is None:
        info.type = tarfile.DIRTYPE
    else:
        info.size = len(entry.content)
    tar.addfile(info, io.BytesIO(entry.content) if entry.content is not None else None)


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _descriptor(media_type: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(blob), "size": len(blob)}
