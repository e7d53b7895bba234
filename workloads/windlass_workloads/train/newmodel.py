"""A model from nothing: a tokenizer, a config and first weights, written once as a directory like any other model's.

Called by `pretraining` before anything is tokenised. From there on such a run is one that trains an existing model:
every rank of every incarnation reads the same first weights, and the result does not depend on who made them. They
follow from seed, sizes and vocabulary alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch
from huggingface_hub import save_torch_state_dict

from windlass.api.pretrain import Architecture
from windlass_workloads.corpus.stages import INDEX
from windlass_workloads.corpus.tasks import appearing, clear
from windlass_workloads.corpus.tokens import batches
from windlass_workloads.train.model import auto_class

END: Final = "<|endoftext|>"
FRAME: Final = {
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "mask_token": "[MASK]",
}
"""Special tokens of a tokenizer for a masked model, by their names in transformers."""
TRAINING_BYTES: Final = 256 << 20
"""Text that a tokenizer is trained on at most, from all shards alike."""
MULTIPLE: Final = 64
"""Embeddings come in multiples of this, which matrix units like."""
SHARD_BYTES: Final = 5_000_000_000


def train_tokenizer(corpus: Path, size: int, *, framed: bool) -> Any:
    """A byte-level BPE tokenizer of at most this size for the texts of a corpus."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = FRAME if framed else {"bos_token": END, "eos_token": END, "pad_token": END}
    names = list(dict.fromkeys(special.values()))
    made: Any = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=names,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts_of(corpus), trainer)
    if framed:
        ends = [(name, made.token_to_id(name)) for name in (FRAME["cls_token"], FRAME["sep_token"])]
        made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    else:
        made.post_processor = processors.ByteLevel(trim_offsets=False)
    return PreTrainedTokenizerFast(tokenizer_object=made, **special)


def texts_of(corpus: Path) -> Iterator[list[str]]:
    """Texts of a corpus: of each shard the first, until all together are what is wanted."""
    shards = json.loads((corpus / INDEX).read_text(encoding="utf-8"))["shards"]
    for shard in shards:
        left = TRAINING_BYTES // len(shards)
        for texts in batches(corpus / shard["name"]):
            yield texts
            left -= sum(map(len, texts))
            if left <= 0:
                break


def config_of(sizes: Architecture, tokenizer: Any, length: int) -> Any:
    """The config of a new model."""
    from transformers import BertConfig, LlamaConfig

    common = {
        "vocab_size": -(-len(tokenizer) // MULTIPLE) * MULTIPLE,
        "hidden_size": sizes.hidden_size,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "max_position_embeddings": length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": pad_of(tokenizer),
        "tie_word_embeddings": sizes.tie_embeddings,
        "dtype": "float32",
    }
    if sizes.type == "Bert":
        # Texts are no pairs; dropout is for small data seen many times.
        none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "type_vocab_size": 1}
        return BertConfig(
            **common, **none, intermediate_size=sizes.intermediate_size or 4 * sizes.hidden_size
        )
    width = -(-8 * sizes.hidden_size // 3 // 8) * 8
    return LlamaConfig(
        **common,
        num_key_value_heads=sizes.key_value_heads or sizes.heads,
        intermediate_size=sizes.intermediate_size or width,
    )


def pad_of(tokenizer: Any) -> int | None:
    """The token that only fills. One that also ends texts is none: a model never learns what its padding means."""
    pad = tokenizer.pad_token_id
    return pad if pad != tokenizer.eos_token_id else None


def make_model(
    directory: Path, sizes: Architecture, tokenizer: Any, *, objective: str, length: int, seed: int
) -> Path:
    """The directory of the new model, made now or found."""
    if directory.exists():
        return directory
    clear(directory.parent, directory.name)
    config = config_of(sizes, tokenizer, length)
    torch.manual_seed(seed)
    model = auto_class(objective).from_config(config)
    model.config.architectures = [type(model).__name__]
    with appearing(directory) as temporary:
        model.config.save_pretrained(temporary)
        save_torch_state_dict(weights_of(model), temporary, max_shard_size=SHARD_BYTES)
        tokenizer.save_pretrained(temporary)
    return directory


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    """Weights by name. Of those that are one, the first: which one a library keeps may change from run to run."""
    first = {name for name, _ in model.named_parameters()} | {name for name, _ in model.named_buffers()}
    return {name: tensor for name, tensor in model.state_dict().items() if name in first}
