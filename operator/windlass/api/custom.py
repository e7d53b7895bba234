"""Spec block `custom`: a script of the user's own in place of model, data and training, and what it rules out.

The command is run by the agents as it is: nothing here may ever put a shell between the two.
"""

from typing import Annotated, Any, Final

from pydantic import Field

from windlass.api.base import Model
from windlass.api.pods import Image
from windlass.api.rules import Rule

Argument = Annotated[str, Field(min_length=1, max_length=1024)]


class Custom(Model):
    """A command that is run once for each rank, with the environment that torchrun gives."""

    command: Annotated[list[Argument], Field(min_length=1, max_length=64)]
    """Program and arguments; no shell reads them. `python` is the one that can import windlass_workloads.
    Example: [python, /scripts/train.py, --layers, "4"]."""
    image: Image | None = None
    """Image of the pods with the program, built from the workload image, which holds the agent; the operator's own
    choice if left out. Example: registry.example.com/my-training:1.2.0."""


def _missing(block: str, example: str) -> Rule:
    return Rule(
        cel=f"has(self.custom) || has(self.{block})",
        holds=lambda value, _: "custom" in value or block in value,
        wrong="required value is missing",
        got="nothing",
        allowed="a block of fields",
        hint=f"write for example {block}: {example}; or custom with a command to run a script of your own",
        path=block,
    )


def _replaced(block: str, hint: str) -> Rule:
    return Rule(
        cel=f"!has(self.custom) || !has(self.{block})",
        holds=lambda value, _: "custom" not in value or block not in value,
        wrong="a command of your own replaces this block",
        got=f"{block} with custom",
        allowed=f"{block}, or custom",
        hint=hint,
        path=block,
    )


def _no_strategy(value: Any, _: Any) -> bool:
    return "custom" not in value or value["parallelism"]["strategy"] == "DDP"


def _one_image(value: Any, _: Any) -> bool:
    return "image" not in value.get("custom", {}) or "image" not in value["pod"]


ARGUMENTS: Final = "remove it, and give the script what it needs by custom.command, pod.env or pod.volumes"

CUSTOM_RULES: Final = (
    _missing("model", "{uri: pvc://models/SmolLM2-135M-Instruct}"),
    _missing("data", "{sources: [{uri: pvc://data/sft/train.jsonl}]}"),
    _missing("training", "{globalBatchSize: 16, epochs: 2}"),
    _replaced("model", ARGUMENTS),
    _replaced("data", ARGUMENTS),
    _replaced("training", ARGUMENTS),
    _replaced("adapter", ARGUMENTS),
    _replaced("tracking", "remove it; a script speaks to its tracking server itself"),
    Rule(
        cel="!has(self.custom) || self.parallelism.strategy == 'DDP'",
        holds=_no_strategy,
        wrong="a command of your own decides how its ranks share the work",
        got="{self.parallelism.strategy} with custom",
        allowed="no parallelism with custom",
        hint="remove parallelism; the script may use FSDP or DeepSpeed by itself",
        path="parallelism.strategy",
    ),
    Rule(
        cel="!has(self.custom) || !has(self.custom.image) || !has(self.pod.image)",
        holds=_one_image,
        wrong="the image is named twice",
        got="{self.custom.image} with pod.image={self.pod.image}",
        allowed="custom.image, or pod.image",
        hint="remove pod.image",
        path="custom.image",
    ),
)
"""Which blocks go together with a command of the user's own, and which it takes the place of."""
