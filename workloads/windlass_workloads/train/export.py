"""Writes the result in Hugging Face form: safetensors, tokenizer with chat template, config, and digests.

Called by the loop after the last save, on every rank (gathering weights is collective); rank 0 writes. The directory
appears as a whole or not at all, and a second call finds the first one's work.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file

from windlass.api.finetune import FineTuneJobSpec
from windlass.api.status import Output
from windlass_workloads.checkpoint.store import OUTPUT, sync_directory
from windlass_workloads.data.prepare import file_digest
from windlass_workloads.train.assembly import Assembly
from windlass_workloads.train.model import FIELD, LocalModel, load_model, load_tokenizer, read_tokenizer

DIGESTS = "digests.json"
SHARD_BYTES = 5_000_000_000
ADAPTER, MERGED, MODEL = "adapter", "merged", "model"


def export(job: Assembly, *, step: int) -> Output | None:
    """The output on rank 0, None elsewhere or when the spec wants none. Collective."""
    if job.spec.checkpoint.export == "None":
        return None
    config = job.runtime.context.config
    final = Path(config.store_path) / OUTPUT
    found = read_digest(final, step=step) if job.runtime.is_first else None
    if job.runtime.sum_over_ranks(float(found is not None))[0] == 0:
        weights = job.strategy.full_weights()
        if job.runtime.is_first:
            temporary = final.with_name(f".{OUTPUT}.{job.runtime.context.incarnation}.{os.getpid()}")
            shutil.rmtree(temporary, ignore_errors=True)
            try:
                write_output(job, weights, temporary)
                found = write_digests(temporary, step=step)
                replace(temporary, final)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    if not job.runtime.is_first:
        return None
    run = config.run
    uri = f"{job.spec.checkpoint.store.rstrip('/')}/{run.namespace}/{run.name}/{run.uid}/{OUTPUT}/{main_part(job)}"
    return Output(uri=uri, digest=found)


def main_part(job: Assembly) -> str:
    """The directory that a user loads: the merged model if there is one, else the adapter, else the model."""
    if job.spec.adapter is None:
        return MODEL
    return MERGED if job.spec.merges_adapter else ADAPTER


def write_output(job: Assembly, weights: dict[str, torch.Tensor], directory: Path) -> None:
    """Adapter, merged model or model below the directory, each loadable by itself."""
    tokenizer = tokenizer_of(job)
    if job.spec.adapter is None:
        save_model(job.strategy.module, weights, job.local_model, directory / MODEL)
        tokenizer.save_pretrained(directory / MODEL)
        return
    write_adapter(job.strategy.module, weights, directory / ADAPTER)
    tokenizer.save_pretrained(directory / ADAPTER)
    if job.spec.merges_adapter:
        merge(job.local_model, directory / ADAPTER, directory / MERGED)
        tokenizer.save_pretrained(directory / MERGED)


def tokenizer_of(job: Assembly) -> Any:
    """The model's tokenizer; where it was taught to talk, with a chat template, its own or a plain one."""
    local = job.local_model
    if isinstance(job.spec, FineTuneJobSpec):
        return load_tokenizer(local)[0]
    return read_tokenizer(local.directory, field=FIELD, uri=local.uri)


def unwrap(module: Any) -> Any:
    """The model inside of what a strategy wrapped around it."""
    while hasattr(module, "module"):
        module = module.module
    return module


def write_adapter(module: Any, weights: dict[str, torch.Tensor], directory: Path) -> None:
    """adapter_config.json and adapter_model.safetensors as peft reads them."""
    from peft import get_peft_model_state_dict

    adapted = unwrap(module)
    directory.mkdir(parents=True)
    adapted.peft_config["default"].save_pretrained(str(directory))
    tensors = get_peft_model_state_dict(adapted, state_dict=weights)
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        directory / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )


def merge(base: LocalModel, adapter: Path, directory: Path) -> None:
    """Base and adapter as one model in the base's own number format; added up in fp32."""
    from peft import PeftModel

    model = load_model(base, torch.float32)
    merged: Any = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    save_model(merged, merged.state_dict(), base, directory)


def save_model(module: Any, weights: dict[str, torch.Tensor], base: LocalModel, directory: Path) -> None:
    """A whole model; weights return to the number format of the base model's files."""
    model = unwrap(module)
    kept = stored_dtype(base)
    directory.mkdir(parents=True)
    cast = {
        name: tensor.to(kept) if tensor.is_floating_point() else tensor for name, tensor in weights.items()
    }
    names = {name for name, _ in model.named_parameters(remove_duplicate=True)} | {
        name for name, _ in model.named_buffers()
    }
    # Not model.save_pretrained: it imports every training library that is installed, which takes ten seconds.
    model.config.save_pretrained(directory)
    if model.can_generate():
        model.generation_config.save_pretrained(directory)
    # Of a model that is cut into stages, weights of others come with their names; a tied one is left out here.
    held = set(model.state_dict())
    saved = {name: cast[name].contiguous() for name in cast if name in names or name not in held}
    save_torch_state_dict(saved, directory, max_shard_size=SHARD_BYTES)
    fix_config(directory / "config.json", kept)


def stored_dtype(base: LocalModel) -> torch.dtype:
    """Number format that the base model's config names, fp32 if none."""
    name = base.config.get("dtype") or base.config.get("torch_dtype") or "float32"
    found = getattr(torch, str(name), torch.float32)
    return found if isinstance(found, torch.dtype) else torch.float32


def fix_config(path: Path, dtype: torch.dtype) -> None:
    """Adds the keys that engines older than transformers 5 look for."""
    config = json.loads(path.read_text(encoding="utf-8"))
    rope = config.get("rope_parameters")
    if isinstance(rope, dict) and "rope_theta" in rope:
        config.setdefault("rope_theta", rope["rope_theta"])
    name = str(dtype).removeprefix("torch.")
    config["dtype"] = config["torch_dtype"] = name
    config["use_cache"] = True
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_digests(directory: Path, *, step: int) -> str:
    """Digests of all files, flushed to the disk; returns the digest over them."""
    files = {}
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        files[path.relative_to(directory).as_posix()] = {
            "size": path.stat().st_size,
            "sha256": file_digest(path),
        }
    digest = "sha256:" + hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    text = json.dumps({"step": step, "digest": digest, "files": files}, indent=1, sort_keys=True)
    with (directory / DIGESTS).open("w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    return digest


def read_digest(directory: Path, *, step: int) -> str | None:
    """Digest of a complete output of this step, None if there is none."""
    try:
        record = json.loads((directory / DIGESTS).read_text(encoding="utf-8"))
        whole = all(
            (directory / name).stat().st_size == facts["size"] for name, facts in record["files"].items()
        )
    except (OSError, ValueError, KeyError):
        return None
    return str(record["digest"]) if whole and record["step"] == step else None


def replace(temporary: Path, final: Path) -> None:
    """Puts the new output in place of an older one."""
    if final.exists():
        shutil.rmtree(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary.rename(final)
    sync_directory(final.parent)
