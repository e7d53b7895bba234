"""A language model of a hundred thousand parameters with its tokenizer and data, made in seconds, for tests.

The tokenizer is trained on generated sentences; the model is a Llama with random weights from a fixed seed.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

SUBJECTS = (
    "invoice",
    "router",
    "password",
    "parcel",
    "screen",
    "contract",
    "battery",
    "ticket",
    "refund",
    "account",
)
VERBS = (
    "broke",
    "vanished",
    "arrived late",
    "was locked",
    "was charged twice",
    "stopped",
    "expired",
    "failed",
)
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def sentences(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Pairs of request and answer."""
    rng = random.Random(seed)
    return [
        (f"my {rng.choice(SUBJECTS)} {rng.choice(VERBS)} number {rng.randrange(1000)}", rng.choice(SUBJECTS))
        for _ in range(count)
    ]


def write_data(path: Path, count: int = 200, seed: int = 0) -> Path:
    """A chat-format JSONL file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as out:
        for question, answer in sentences(count, seed):
            row = {
                "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            }
            out.write(json.dumps(row) + "\n")
    return path


def write_texts(directory: Path, count: int = 60) -> Path:
    """Two sources of texts: a JSONL file, and a directory of plain ones; two texts repeat others."""
    directory.mkdir(parents=True, exist_ok=True)
    texts = [
        ". ".join(f"{question}, so we sent the {answer}" for question, answer in sentences(6, seed))
        for seed in range(2 * count)
    ]
    rows = [*texts[:count], texts[3]]
    (directory / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    (directory / "b").mkdir(exist_ok=True)
    for place in range(3):
        part = texts[count + place :: 3]
        (directory / "b" / f"{place}.jsonl").write_text(
            "".join(json.dumps({"text": text}) + "\n" for text in part)
        )
    return directory


def write_model(directory: Path, hidden: int = 64, layers: int = 2, context: int = 512) -> Path:
    """A Hugging Face directory with safetensors, tokenizer and chat template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|pad|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([f"{question} {answer}" for question, answer in sentences(500)], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>", chat_template=TEMPLATE
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(fast),
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=context,
            eos_token_id=fast.eos_token_id,
            pad_token_id=fast.pad_token_id,
            bos_token_id=None,
        )
    )
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory)
    fast.save_pretrained(directory)
    for path in directory.iterdir():
        path.chmod(0o644)  # weights are written for their owner only, and pods are other users
    return directory
