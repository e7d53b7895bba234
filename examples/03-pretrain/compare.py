"""Compare two language models on texts that neither was trained on: perplexity, and whether the change is certain.

`python compare.py BEFORE AFTER held-out.jsonl` prints JSON. Models need not share a tokenizer: the loss of a
text is summed over its tokens and divided by its bytes. The interval is of the mean over texts of what the
second model saves, by 2,000 resamplings of the texts (percentiles, fixed seed).
"""

from __future__ import annotations

import argparse
import json
import math
import random
from pathlib import Path
from typing import Any

WINDOW = 128
"""Tokens that a model sees at once."""
LONGEST = 4_000
"""Letters of a text that count."""
SAMPLES, SEED = 2_000, 17


def read_texts(path: Path, limit: int) -> list[str]:
    """The first texts of a JSON Lines file."""
    rows = [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]
    return [text[:LONGEST] for text in rows if text.strip()][:limit]


def losses(directory: Path, texts: list[str]) -> list[tuple[float, int]]:
    """For each text the summed loss in nats, and how many tokens were predicted."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(directory)
    model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    found = []
    with torch.inference_mode():
        for text in texts:
            ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"][0]
            total, count = 0.0, 0
            for first in range(0, max(len(ids) - 1, 0), WINDOW - 1):
                window = ids[first : first + WINDOW]
                logits = model(window[None, :-1]).logits[0]
                total += float(torch.nn.functional.cross_entropy(logits, window[1:], reduction="sum"))
                count += len(window) - 1
            found.append((total, count))
    return found


def interval(values: list[float]) -> tuple[float, float]:
    """The 95 % interval of the mean, by resampling."""
    chance = random.Random(SEED)
    means = sorted(sum(chance.choices(values, k=len(values))) / len(values) for _ in range(SAMPLES))
    return means[int(0.025 * SAMPLES)], means[int(0.975 * SAMPLES) - 1]


def compare(before: Path, after: Path, texts: list[str]) -> dict[str, Any]:
    """Perplexity by token of each model, and bits per byte that the second saves, with their interval."""
    sizes = [len(text.encode()) for text in texts]
    one, other = losses(before, texts), losses(after, texts)
    saved = [(a - b) / size / math.log(2) for (a, _), (b, _), size in zip(one, other, sizes, strict=True)]
    low, high = interval(saved)
    return {
        "texts": len(texts),
        "perplexityBefore": round(perplexity(one), 3),
        "perplexityAfter": round(perplexity(other), 3),
        "bitsPerByteSaved": round(sum(saved) / len(saved), 4),
        "low": round(low, 4),
        "high": round(high, 4),
    }


def perplexity(found: list[tuple[float, int]]) -> float:
    """Of all tokens together."""
    return math.exp(sum(total for total, _ in found) / max(sum(count for _, count in found), 1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--limit", type=int, default=200, help="texts to use (default 200)")
    options = parser.parse_args()
    print(
        json.dumps(compare(options.before, options.after, read_texts(options.texts, options.limit)), indent=1)
    )
