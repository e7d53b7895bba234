"""Score a model on held-out rows: exact match with Wilson intervals, whole answer and each field.

`python score.py MODEL held-out.jsonl` prints JSON. Greedy decoding; answers are parsed in the same way for
every model. `--shots train.jsonl` shows the model three solved rows and the allowed labels first, which is
how an untrained model is given its best chance. It must never read the expected answer into a prompt.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Message = dict[str, str]
SHOTS, BATCH, LABEL_LIMIT = 3, 48, 20
Z_95 = 1.959963984540054


def read_rows(path: Path) -> list[Row]:
    """Rows of a JSON Lines file in Chat format."""
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def wilson(correct: int, total: int) -> tuple[float, float]:
    """The 95 % Wilson interval of a share; (0, 1) when nothing was counted."""
    if total == 0:
        return 0.0, 1.0
    share, square = correct / total, Z_95 * Z_95
    middle = (share + square / (2 * total)) / (1 + square / total)
    half = Z_95 * math.sqrt(share * (1 - share) / total + square / (4 * total * total)) / (1 + square / total)
    return max(0.0, middle - half), min(1.0, middle + half)


def measure(correct: int, total: int) -> dict[str, float]:
    """Count, share and interval as they are written down."""
    low, high = wilson(correct, total)
    return {
        "correct": correct,
        "total": total,
        "accuracy": round(correct / max(total, 1), 4),
        "low": round(low, 4),
        "high": round(high, 4),
    }


def parse(text: str) -> dict[str, str] | None:
    """The first JSON object in a text, keys and values trimmed and in lower case; None when there is none."""
    start = text.find("{")
    while start != -1:
        try:
            found, _ = json.JSONDecoder().raw_decode(text[start:])
        except json.JSONDecodeError:
            found = None
        if isinstance(found, dict):
            return {str(key).strip().lower(): str(value).strip().lower() for key, value in found.items()}
        start = text.find("{", start + 1)
    return None


def question(row: Row) -> list[Message]:
    """Everything but the answer."""
    return list(row["messages"][:-1])


def answer(row: Row) -> str:
    """What is expected."""
    return str(row["messages"][-1]["content"])


def labels(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Allowed values by field, where they are few enough to be labels."""
    values: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        for key, value in (parse(answer(row)) or {}).items():
            values[key].add(value)
    return {key: sorted(found) for key, found in values.items() if len(found) <= LABEL_LIMIT}


def shots(rows: Sequence[Row]) -> list[Message]:
    """The allowed labels and three solved rows whose answers differ in every field, as leading messages."""
    chosen: list[Row] = []
    for row in rows:
        own = parse(answer(row)) or {}
        others = [parse(answer(other)) or {} for other in chosen]
        if all(own.get(key) != other.get(key) for other in others for key in own):
            chosen.append(row)
        if len(chosen) == SHOTS:
            break
    instruction = next((item["content"] for item in rows[0]["messages"] if item["role"] == "system"), "")
    allowed = "".join(f"\n{key}: one of {', '.join(found)}." for key, found in labels(rows).items())
    leading = [{"role": "system", "content": instruction + allowed}]
    for row in chosen:
        leading += [item for item in row["messages"] if item["role"] != "system"]
    return leading


def compare(rows: Sequence[Row], replies: Sequence[str]) -> dict[str, Any]:
    """The score of the replies; rows whose answer is not JSON are compared as text."""
    whole, parsed = 0, 0
    fields: Counter[str] = Counter()
    values: dict[str, Counter[str]] = defaultdict(Counter)
    for row, reply in zip(rows, replies, strict=True):
        expected = parse(answer(row))
        if expected is None:
            parsed += 1
            whole += reply.split() == answer(row).split()
            continue
        found = parse(reply)
        parsed += found is not None
        whole += found == expected
        for key, value in expected.items():
            values[key][value] += 1
            fields[key] += (found or {}).get(key) == value
    total = len(rows)
    return {
        "rows": total,
        "parsed": parsed,
        "whole": measure(whole, total),
        "fields": {key: measure(fields[key], sum(found.values())) for key, found in values.items()},
        "majority": {
            key: round(max(found.values()) / sum(found.values()), 4) for key, found in values.items()
        },
    }


def batches(prompts: Sequence[Sequence[int]], size: int) -> Iterable[list[int]]:
    """Indices of prompts, at most `size` together, the shortest first so that little is padded."""
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def shared_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Number of leading tokens that all prompts have in common, leaving at least one of each."""
    shortest = min(len(prompt) for prompt in prompts) - 1
    first = prompts[0]
    return next(
        (at for at in range(shortest) if any(prompt[at] != first[at] for prompt in prompts)), shortest
    )


def generate(model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], *, limit: int) -> list[str]:
    """Greedy continuations. The tokens that all prompts begin with are computed once."""
    import torch

    replies = [""] * len(prompts)
    common = shared_prefix(prompts)
    groups = list(batches([prompt[common:] for prompt in prompts], BATCH))
    with torch.inference_mode():
        prefix = None
        if common:
            prefix = model(
                input_ids=torch.tensor([list(prompts[0][:common])]), use_cache=True
            ).past_key_values
        for number, members in enumerate(groups, start=1):
            cache = copy.deepcopy(prefix)
            if cache is not None:
                cache.batch_repeat_interleave(len(members))
            rest = [list(prompts[index][common:]) for index in members]
            said = decode(model, rest, cache, common=common, end=tokenizer.eos_token_id, limit=limit)
            for index, tokens in zip(members, said, strict=True):
                replies[index] = str(tokenizer.decode(tokens, skip_special_tokens=True))
            print(f"\r{number} of {len(groups)} batches", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return replies


def decode(
    model: Any, prompts: Sequence[Sequence[int]], cache: Any, *, common: int, end: int, limit: int
) -> list[list[int]]:
    """Token lists of one batch, each up to its end token. `cache` holds `common` tokens that all begin with.

    Shorter prompts are padded in front. A mask hides the padding and positions leave it out, so that an
    answer is the same in whatever batch it is made.
    """
    import torch

    width = max(len(prompt) for prompt in prompts)
    padding = torch.tensor([width - len(prompt) for prompt in prompts])[:, None]
    inputs = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    places = torch.arange(width)[None]
    mask = torch.cat([torch.ones(len(prompts), common), (places >= padding)], dim=1).long()
    positions = (common + places - padding).clamp(min=0)
    made: list[list[int]] = [[] for _ in prompts]
    going = list(range(len(prompts)))
    for _ in range(limit):
        output = model(
            input_ids=inputs,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache, chosen = output.past_key_values, output.logits[:, -1].argmax(-1)
        kept = [row for row, token in enumerate(chosen.tolist()) if token != end]
        for row in kept:
            made[going[row]].append(int(chosen[row]))
        if not kept:
            break
        if len(kept) < len(going):
            # Nothing more is computed for answers that have ended.
            going, chosen, mask, positions = (
                [going[row] for row in kept],
                chosen[kept],
                mask[kept],
                positions[kept],
            )
            cache.batch_select_indices(torch.tensor(kept))
        inputs, positions = chosen[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    return made


def load(directory: str, base: str | None) -> tuple[Any, Any]:
    """Model and tokenizer; a directory with an adapter needs the base model's directory."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    is_adapter = (Path(directory) / "adapter_config.json").exists()
    if is_adapter and base is None:
        sys.exit(
            f"{directory}: holds an adapter only (got no --base); allowed: --base DIRECTORY. hint: name the base"
        )
    weights = base if is_adapter and base is not None else directory
    model: Any = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32)
    if is_adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, directory).merge_and_unload()
    return model.eval(), AutoTokenizer.from_pretrained(directory)


def main() -> int:
    """Entry."""
    parser = argparse.ArgumentParser(description="Exact match of a model on held-out rows.")
    parser.add_argument("model", help="directory of a checkpoint or of an adapter")
    parser.add_argument("rows", type=Path, help="JSON Lines in Chat format")
    parser.add_argument("--base", help="base model's directory, when MODEL is an adapter")
    parser.add_argument("--shots", type=Path, help="training rows to take three solved examples from")
    parser.add_argument("--limit", type=int, default=48, help="most tokens of an answer")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="also write the score here")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    rows = read_rows(options.rows)
    leading = shots(read_rows(options.shots)) if options.shots else None
    model, tokenizer = load(options.model, options.base)
    conversations = [
        [*leading, *(item for item in question(row) if item["role"] != "system")]
        if leading
        else question(row)
        for row in rows
    ]
    prompts = [
        tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
        for messages in conversations
    ]
    score = compare(rows, generate(model, tokenizer, prompts, limit=options.limit))
    text = json.dumps(score, indent=2)
    if options.out:
        options.out.write_text(text + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
