"""Downloads for hf:// and mlflow:// URIs, into a cache that outlives the pod.

Called by sources.Finder. Only formats that run no code on loading are fetched: a model without safetensors is
refused before a byte of weights moves.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windlass.api.meta import FailureClass, Reason
from windlass_workloads.data.errors import WorkloadError, first_line
from windlass_workloads.data.sources import NOT_FOUND, Found, Request

WEIGHT_FILES = ["*.safetensors"]
TOKENIZER_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]


@dataclass(frozen=True, slots=True)
class HubName:
    """An hf:// URI taken apart; `path` is empty for a whole repository."""

    repository: str
    revision: str | None
    path: str


def parse_hub_name(request: Request, rest: str) -> HubName:
    """hf://org/name[@revision][/path], optionally with `datasets/` before it; the revision may not hold a slash
    when a path follows."""
    parts = rest.removeprefix("datasets/").split("/", 2)
    if len(parts) < 2 or not parts[1]:
        raise WorkloadError(
            NOT_FOUND[request.kind],
            f"{request.field}: not a hub repository (got {request.uri}); allowed hf://org/name@revision/path.",
            hint="write organisation and name, for data also the file's path.",
        )
    name, _, revision = parts[1].partition("@")
    return HubName(f"{parts[0]}/{name}", revision or None, parts[2] if len(parts) > 2 else "")


def find_on_hub(
    request: Request, rest: str, *, cache: Path, token: str | None, progress: Callable[[str], None]
) -> Found:
    """Downloads a model (whole repository, safe files only), what of it is a tokenizer, or one data file.

    Says where it is in the cache.
    """
    from huggingface_hub import HfApi

    name = parse_hub_name(request, rest)
    cache.mkdir(parents=True, exist_ok=True)
    hub = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token or False)
    progress(f"looking up {request.uri}")
    try:
        if request.kind != "data":
            return _download_model(hub, request, name, cache=cache, progress=progress)
        if not name.path:
            raise WorkloadError(
                Reason.DATA_NOT_FOUND,
                f"{request.field}: a data source names one file (got {request.uri}); allowed hf://org/name@revision/path.",
                hint="add the file's path inside the repository.",
            )
        path = hub.hf_hub_download(
            name.repository, name.path, repo_type="dataset", revision=name.revision, cache_dir=cache
        )
        return Found(Path(path))
    except WorkloadError:
        raise
    except Exception as error:  # the hub's client raises errors of several libraries
        raise _as_hub_error(request, error) from error


def _download_model(
    hub: Any, request: Request, name: HubName, *, cache: Path, progress: Callable[[str], None]
) -> Found:
    """Everything at one commit, also when somebody pushes meanwhile."""
    info = hub.repo_info(name.repository, revision=name.revision)
    files = [each.rfilename for each in info.siblings]
    wanted = TOKENIZER_FILES
    if request.kind == "model":
        check_safe(request, files)
        wanted = WEIGHT_FILES + TOKENIZER_FILES
        count = sum(file.endswith(".safetensors") for file in files)
        progress(f"downloading {count} weight files of {request.uri}")
    path = hub.snapshot_download(
        name.repository, revision=info.sha, cache_dir=cache, allow_patterns=wanted, max_workers=2
    )
    progress(f"downloaded {request.uri} at {info.sha}")
    return Found(Path(path), info.sha)


def check_safe(request: Request, files: list[str]) -> None:
    """Refuses a list of files that holds weights, but none as safetensors."""
    pickled = sorted(
        file for file in files if file.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"))
    )
    if not any(file.endswith(".safetensors") for file in files) and pickled:
        raise WorkloadError(
            Reason.MODEL_FORMAT_UNSAFE,
            f"{request.field}: weights are only there as pickle files, which run code when loaded "
            f"(got {request.uri} with {', '.join(pickled[:4])}); allowed *.safetensors.",
            hint="convert them once by model.save_pretrained(…, safe_serialization=True) in a trusted place.",
            evidence=tuple(pickled),
        )


def _as_hub_error(request: Request, error: Exception) -> WorkloadError:
    """Missing and forbidden repositories are the user's to correct; the network's failures are worth a retry."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    kind = type(error).__name__
    if kind in {
        "RepositoryNotFoundError",
        "RevisionNotFoundError",
        "EntryNotFoundError",
        "RemoteEntryNotFoundError",
    }:
        words, hint = (
            "not found on the hub",
            "check organisation, name and revision; a private one needs a secretRef.",
        )
    elif kind == "GatedRepoError" or status in {401, 403}:
        words, hint = "the hub refuses access", "accept its licence on the hub and name a token by secretRef."
    elif kind == "HFValidationError":
        words, hint = "not a valid hub name", "write hf://org/name@revision."
    else:
        return WorkloadError(
            NOT_FOUND[request.kind],
            f"{request.field}: the hub does not answer ({kind}; got {request.uri}).",
            hint="check the cluster's egress, or copy the files onto a claim and use pvc://.",
            failure_class=FailureClass.INFRASTRUCTURE,
        )
    return WorkloadError(NOT_FOUND[request.kind], f"{request.field}: {words} (got {request.uri}).", hint=hint)


@dataclass(frozen=True, slots=True)
class Registry:
    """An MLflow server and where its models are kept after download."""

    tracking_uri: str | None
    cache: Path
    token: str | None


def find_in_registry(request: Request, rest: str, registry: Registry) -> Found:
    """Downloads mlflow://models:/name@alias (or /name/version) and finds the directory that holds config.json."""
    uri = registry.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        raise WorkloadError(
            NOT_FOUND[request.kind],
            f"{request.field}: no MLflow server is known (got {request.uri}).",
            hint="set tracking.mlflow.uri.",
        )
    import mlflow

    mlflow.set_tracking_uri(uri)
    if registry.token:
        os.environ["MLFLOW_TRACKING_TOKEN"] = registry.token
    try:
        exact = version_uri(mlflow.MlflowClient(), rest)
        target = registry.cache / re.sub(r"[^\w.-]", "_", exact)
        # A try that was killed leaves a part, which must not count as the model.
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        path = Path(mlflow.artifacts.download_artifacts(artifact_uri=exact, dst_path=str(target)))
    except Exception as error:  # so does MLflow's
        raise WorkloadError(
            NOT_FOUND[request.kind],
            f"{request.field}: MLflow does not give {rest} (got {request.uri}): {first_line(error)}.",
            hint="check the model's name and alias, and that the server is reachable from the job's namespace.",
        ) from error
    holders = sorted(config.parent for config in path.rglob("config.json"))
    return Found(holders[0] if holders else path, exact)


def version_uri(client: Any, uri: str) -> str:
    """models:/name@alias as models:/name/version, which does not move; any other URI as it is."""
    name, separator, alias = uri.removeprefix("models:/").rpartition("@")
    if not separator or not uri.startswith("models:/"):
        return uri
    return f"models:/{name}/{client.get_model_version_by_alias(name, alias).version}"
