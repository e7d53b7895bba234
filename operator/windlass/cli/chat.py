"""`windlass chat NAME`: talk to what a job made, on this machine.

Called by `main`. NAME is a job, whose output is fetched once, or a directory. It loads whole models (merged
or full) and must never run code that comes with one.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from windlass.cli.errors import CliError

Message = dict[str, str]


def chat_command(options: argparse.Namespace, connect: Callable[[], Any]) -> int:
    """Answer `--say` and end, or read lines until there are no more."""
    directory = model_directory(options.name, connect)
    require_whole_model(directory)
    reply = load(directory, limit=options.limit)
    history: list[Message] = [{"role": "system", "content": options.system}] if options.system else []
    for text in [options.say] if options.say else prompts():
        history.append({"role": "user", "content": text})
        answer = reply(history)
        history.append({"role": "assistant", "content": answer})
        print(answer, flush=True)
    return 0


def model_directory(name: str, connect: Callable[[], Any]) -> Path:
    """A directory as it is, else the job's output, fetched into the cache under the job's UID."""
    if Path(name).is_dir():
        return Path(name)
    from windlass.cli.cluster.paths import cache_directory
    from windlass.cli.fetch import fetch, output_uri

    access = connect()
    job = access.job(name)
    target = cache_directory() / "outputs" / str(job["metadata"]["uid"])
    part = target / Path(output_uri(job)).name
    return part if part.is_dir() else target / fetch(access, name, target)


def require_whole_model(directory: Path) -> None:
    """Raises CliError for an adapter without its base, or no model at all."""
    if (directory / "config.json").exists():
        return
    if (directory / "adapter_config.json").exists():
        raise CliError(
            f"{directory}: holds an adapter only. hint: set checkpoint.mergeAdapter: true in the job, "
            "or load it with peft on its base model"
        )
    raise CliError(f"{directory}: holds no model (no config.json); allowed: a Hugging Face checkpoint")


def prompts() -> Iterator[str]:
    """Lines that the user types, to the end of input or an empty line."""
    while True:
        try:
            text = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if not text:
            return
        yield text


def load(directory: Path, *, limit: int) -> Callable[[list[Message]], str]:
    """A function from a conversation to the next answer (greedy)."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as problem:
        raise CliError("torch: is not installed here. hint: install windlass[train]", status=2) from problem
    tokenizer: Any = AutoTokenizer.from_pretrained(directory)
    model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()

    def reply(history: list[Message]) -> str:
        inputs = tokenizer.apply_chat_template(
            history, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            tokens = model.generate(
                **inputs, max_new_tokens=limit, do_sample=False, pad_token_id=tokenizer.eos_token_id
            )
        return str(
            tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        ).strip()

    return reply
