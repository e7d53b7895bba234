"""Loads tokenizer and model from a local directory: safetensors only, no code from the directory.

Called by prepare (tokenizer, checks, shapes on the meta device) and by every training rank. Weights are mapped, not
read, so that ranks of one pod share the pages.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from windlass.api.jobs import TrainingJobSpec
from windlass.api.meta import Reason
from windlass.api.training import ModelSource
from windlass_workloads.data.chat import PLAIN_TEMPLATE
from windlass_workloads.data.errors import WorkloadError, first_line
from windlass_workloads.data.remote import check_safe
from windlass_workloads.data.sources import Finder, Request
from windlass_workloads.train.fingerprint import fingerprint

FIELD = "spec.model.uri"
AFTER_PADDING = (
    "camembert",
    "data2vec-text",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xmod",
)
"""Models whose first token has the position behind the number of their padding."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model directory that passed the checks; `config` is its config.json, `digest` its fingerprint."""

    uri: str
    directory: Path
    config: dict[str, Any]
    digest: str

    @property
    def context_length(self) -> int | None:
        """Longest sequence the model was made for, if it says so."""
        text = self.config.get("text_config")
        for holder in (self.config, text if isinstance(text, dict) else {}):
            for key in ("max_position_embeddings", "n_positions", "max_seq_len"):
                if isinstance(holder.get(key), int):
                    return int(holder[key]) - self._positions_before(holder)
        return None

    def _positions_before(self, holder: dict[str, Any]) -> int:
        """Positions that no token has, where a model counts from the one behind its padding's number."""
        pad = holder.get("pad_token_id", 1)
        return pad + 1 if holder.get("model_type") in AFTER_PADDING and isinstance(pad, int) else 0


def find_model(source: ModelSource, finder: Finder) -> LocalModel:
    """The checked local directory of the spec's model."""
    return read_model(source.uri, finder.find(Request(source.uri, FIELD, "model", source.secret_ref)))


def read_model(uri: str, directory: Path) -> LocalModel:
    """Checks a local directory and describes it; `uri` is for messages."""
    if not (directory / "config.json").is_file():
        names = (
            sorted(path.name for path in directory.iterdir())[:8] if directory.is_dir() else [directory.name]
        )
        raise WorkloadError(
            Reason.MODEL_NOT_FOUND,
            f"{FIELD}: no config.json there (got {uri} with {', '.join(names) or 'nothing'}).",
            hint="name the directory of a Hugging Face model (config.json, *.safetensors, tokenizer.json).",
        )
    files = [path.name for path in directory.iterdir()]
    check_safe(Request(uri, FIELD, "model"), files)
    if not any(name.endswith(".safetensors") for name in files):
        raise WorkloadError(
            Reason.MODEL_NOT_FOUND,
            f"{FIELD}: no weights there (got {uri}); allowed *.safetensors.",
            hint="copy the model's weight files beside its config.json.",
        )
    return LocalModel(uri, directory, _read_config(uri, directory), fingerprint(directory))


def _read_config(uri: str, directory: Path) -> dict[str, Any]:
    from transformers import CONFIG_MAPPING

    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise WorkloadError(
            Reason.MODEL_NOT_FOUND,
            f"{FIELD}: config.json is not JSON (got {uri}): {error}.",
            hint="copy it again.",
        ) from error
    if config.get("model_type") not in CONFIG_MAPPING:
        raise WorkloadError(
            Reason.MODEL_FORMAT_UNSAFE if "auto_map" in config else Reason.MODEL_NOT_FOUND,
            f"{FIELD}: unknown model_type (got {config.get('model_type')} in {uri}); code shipped with a model is "
            "never run.",
            hint="use an architecture that transformers itself knows.",
        )
    return dict(config)


def check_length(model: LocalModel, spec: TrainingJobSpec) -> None:
    """SequenceTooLong when samples may be longer than the model's positions."""
    limit, field = model.context_length, f"{spec.rows_block}.sequenceLength"
    if limit is not None and spec.sequence_length > limit:
        raise WorkloadError(
            Reason.SEQUENCE_TOO_LONG,
            f"spec.{field}: longer than the model's context (got {spec.sequence_length}); "
            f"allowed at most {limit} for {model.uri}.",
            hint=f"set {field} to {limit} or less; longer samples are cut, or split them.",
        )


def check_vocabulary(model: LocalModel, tokenizer: Any) -> None:
    """ModelNotFound when the tokenizer makes tokens that the model has no weights for."""
    text = model.config.get("text_config")
    holders = (model.config, text if isinstance(text, dict) else {})
    size = next((int(one["vocab_size"]) for one in holders if isinstance(one.get("vocab_size"), int)), None)
    if size is not None and len(tokenizer) > size:
        raise WorkloadError(
            Reason.MODEL_NOT_FOUND,
            f"{FIELD}: the tokenizer does not fit the model (got {len(tokenizer)} tokens for {size} embeddings in "
            f"{model.uri}); allowed at most {size} tokens.",
            hint="copy the model again with its own tokenizer files; added tokens need resized embeddings.",
        )


def load_tokenizer(model: LocalModel) -> tuple[Any, list[str]]:
    """The tokenizer, always with a chat template, and warnings about what had to be added."""
    tokenizer = read_tokenizer(model.directory, field=FIELD, uri=model.uri)
    warnings = []
    if not tokenizer.chat_template:
        tokenizer.chat_template = PLAIN_TEMPLATE
        warnings.append(
            f"{FIELD}: the tokenizer has no chat template; a plain one is used and saved with the model"
        )
    return tokenizer, warnings


def read_tokenizer(directory: Path, *, field: str, uri: str) -> Any:
    """The fast tokenizer of a directory; `field` and `uri` are for messages."""
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False, use_fast=True
        )
    except Exception as error:  # tokenizers raise anything
        raise WorkloadError(
            Reason.MODEL_NOT_FOUND,
            f"{field}: the tokenizer cannot be loaded (got {uri}): {first_line(error)}.",
            hint=f"copy the model's tokenizer files ({', '.join(TOKENIZER_FILES[:2])}, …) beside its config.json.",
        ) from error
    if not getattr(tokenizer, "is_fast", False):
        raise WorkloadError(
            Reason.MODEL_NOT_FOUND,
            f"{field}: only a slow tokenizer is there (got {uri}); allowed one with tokenizer.json.",
            hint="save it once by AutoTokenizer.from_pretrained(…).save_pretrained(…).",
        )
    return tokenizer


def tokenizer_digest(tokenizer: Any) -> str:
    """Digest of everything that decides how text becomes tokens."""
    facts = [
        tokenizer.backend_tokenizer.to_str(),
        str(tokenizer.chat_template),
        str(tokenizer.special_tokens_map),
    ]
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()


def auto_class(objective: str) -> Any:
    """The class of transformers that makes models for an objective."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    return AutoModelForMaskedLM if objective == "MaskedLM" else AutoModelForCausalLM


def load_model(model: LocalModel, dtype: torch.dtype, objective: str = "") -> Any:
    """The model with its weights in `dtype` on the CPU; refuses a directory in which weights are missing."""
    try:
        loaded, info = auto_class(objective).from_pretrained(
            model.directory,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise _unloadable(model, first_line(error)) from error
    missing = sorted(info["missing_keys"]) if info["missing_keys"] else []
    if missing:
        raise _unloadable(model, f"{len(missing)} weights are missing, first {missing[0]}")
    loaded.config.use_cache = False
    return loaded


def _unloadable(model: LocalModel, why: str) -> WorkloadError:
    return WorkloadError(
        Reason.MODEL_NOT_FOUND,
        f"{FIELD}: the weights cannot be loaded (got {model.uri}): {why}.",
        hint="copy the model again; a file may be cut off or belong to another model.",
    )


def make_shapes(model: LocalModel, objective: str = "") -> Any:
    """The model without memory behind its weights, for counting. Configuration where it cannot learn the objective."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model.directory, local_files_only=True, trust_remote_code=False)
    known, masked = auto_class(objective), objective == "MaskedLM"
    if type(config) not in known._model_mapping or (not masked and looks_ahead(config)):
        seen = "" if masked else " and whose tokens see none after them"
        raise WorkloadError(
            Reason.CONFIGURATION,
            f"{FIELD}: this model cannot learn {objective or 'the next token'} (got model_type {config.model_type} in "
            f"{model.uri}); allowed a model that {known.__name__} of transformers knows{seen}.",
            hint="name another model, or choose another objective.",
        )
    with torch.device("meta"):
        return known.from_config(config)


def looks_ahead(config: Any) -> bool:
    """Whether the model's tokens see those after them, which transformers lets learn the next token all the same."""
    from transformers import AutoModelForMaskedLM

    if type(config) not in AutoModelForMaskedLM._model_mapping or getattr(
        config, "is_encoder_decoder", False
    ):
        return False
    return getattr(config, "is_decoder", None) is False
