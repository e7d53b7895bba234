"""Finds the file or directory behind a URI of the spec: pvc:// on a mounted claim, hf:// and mlflow:// by download.

Called by prepare (models and data) and by training ranks (models on a claim; of a remote one train/pin knows the place
by then). A path never leaves the claim it names, and a token is read from the mounted Secret only, never from the
environment or the spec.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from windlass.api.meta import SECRET_ROOT, VOLUME_ROOT, Reason
from windlass.api.training import SecretReference
from windlass_workloads.data.errors import WorkloadError

Kind = Literal["model", "tokenizer", "data"]
NOT_FOUND = {
    "model": Reason.MODEL_NOT_FOUND,
    "tokenizer": Reason.MODEL_NOT_FOUND,
    "data": Reason.DATA_NOT_FOUND,
}


@dataclass(frozen=True, slots=True)
class Roots:
    """Where the pod's mounts are; tests point them elsewhere."""

    volumes: Path = Path(VOLUME_ROOT)
    secrets: Path = Path(SECRET_ROOT)


@dataclass(frozen=True, slots=True)
class Request:
    """One URI to find, and the spec field that named it."""

    uri: str
    field: str
    kind: Kind
    secret: SecretReference | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """Where a request led. `revision` says which of a moving name's contents that is; None for a claim."""

    path: Path
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class Finder:
    """Resolves requests; `cache` outlives the pod, `tracking_uri` serves mlflow:// URIs."""

    roots: Roots
    cache: Path
    tracking_uri: str | None = None
    progress: Callable[[str], None] = lambda message: None

    def find(self, request: Request) -> Path:
        """Local path of what the request names; WorkloadError ModelNotFound or DataNotFound if there is none."""
        return self.look_up(request).path

    def look_up(self, request: Request) -> Found:
        """The path, and which revision a remote name stands for at this moment."""
        scheme, _, rest = request.uri.partition("://")
        if scheme == "pvc":
            return Found(find_on_claim(request, rest, self.roots))
        from windlass_workloads.data import remote

        token = read_token(request, self.roots)
        if scheme == "hf":
            return remote.find_on_hub(
                request, rest, cache=self.cache / "hf", token=token, progress=self.progress
            )
        if scheme == "mlflow":
            place = remote.Registry(self.tracking_uri, self.cache / "mlflow", token)
            return remote.find_in_registry(request, rest, place)
        raise WorkloadError(
            NOT_FOUND[request.kind],
            f"{request.field}: unknown scheme (got {request.uri}); allowed pvc://, hf://, mlflow://.",
            hint="put the files on a claim and name it by pvc://claim/path.",
        )


def find_on_claim(request: Request, rest: str, roots: Roots) -> Path:
    """Path on the mounted claim; symbolic links may point anywhere inside the claim and nowhere else."""
    claim, _, inner = rest.partition("/")
    reason = NOT_FOUND[request.kind]
    mount = roots.volumes / claim
    if not mount.is_dir():
        raise WorkloadError(
            reason,
            f"{request.field}: claim {claim} is not mounted at {mount} (got {request.uri}).",
            hint=f"check that the claim {claim} exists in the job's namespace and is bound.",
        )
    base = mount.resolve()
    try:
        path = (mount / inner).resolve(strict=True)
    except FileNotFoundError:
        raise WorkloadError(
            reason,
            f"{request.field}: nothing at {inner or '/'} on claim {claim} (got {request.uri}); "
            f"{_neighbours(base, inner)}.",
            hint="correct the path, or copy the files onto the claim first.",
        ) from None
    except (RuntimeError, OSError) as error:
        raise WorkloadError(
            reason,
            f"{request.field}: {inner} on claim {claim} cannot be read (got {request.uri}): {_plain(error)}.",
            hint="check the path's links and the permissions of user 1000 on the claim.",
        ) from error
    if path != base and base not in path.parents:
        raise WorkloadError(
            reason,
            f"{request.field}: the path leaves its claim through a symbolic link (got {request.uri}); "
            f"allowed are links inside claim {claim}.",
            hint="replace the link by the file it points to.",
        )
    return path


def _neighbours(base: Path, inner: str) -> str:
    """What does exist nearest to a missing path, for the message."""
    parent = base
    for part in Path(inner).parts[:-1]:
        if not (parent / part).is_dir():
            break
        parent = parent / part
    try:
        names = sorted(entry.name for entry in parent.iterdir())[:8]
    except OSError:
        names = []
    shown = "/" if parent == base else f"/{parent.relative_to(base)}/"
    return f"{shown} holds {', '.join(names) if names else 'nothing'}"


def _plain(error: BaseException) -> str:
    """An error as words; OSError's path is left out since the message names the URI."""
    return getattr(error, "strerror", None) or str(error)


def secret_text(path: Path) -> str:
    """The one line of plain text in a mounted Secret. ValueError says what is wrong with it and never what it is."""
    try:
        text = path.read_bytes().decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    # A password may be in any script; with a user's name before it it travels encoded.
    if not text.isprintable() or not (text.isascii() or ":" in text):
        raise ValueError("has line breaks or letters that no token has")
    return text


def read_token(request: Request, roots: Roots) -> str | None:
    """The token of the request's secretRef from its mount; None without a secretRef."""
    if request.secret is None:
        return None
    path = roots.secrets / request.secret.name / request.secret.key
    try:
        return secret_text(path)
    except ValueError as error:
        raise WorkloadError(
            Reason.SECRET_KEY_NOT_FOUND,
            f"{request.field}: key {request.secret.key} of Secret {request.secret.name} {error}.",
            hint="store the token alone, as one line of plain text.",
        ) from None
    except OSError:
        mounted = (roots.secrets / request.secret.name).is_dir()
        what = f"has no key {request.secret.key}" if mounted else "is not mounted"
        raise WorkloadError(
            Reason.SECRET_KEY_NOT_FOUND if mounted else Reason.SECRET_NOT_FOUND,
            f"{request.field}: Secret {request.secret.name} {what}.",
            hint=f"kubectl create secret generic {request.secret.name} --from-literal={request.secret.key}=…",
        ) from None
