"""Where a run begins: at its own newest checkpoint, at nothing, or at a checkpoint of another run.

Part of a spec. Whether such a checkpoint is there and fits is for the pods to find out.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import Field

from windlass.api.base import Model
from windlass.api.rules import Hint, Rule
from windlass.api.uris import NO_CLIMBING, split_claim_uri

ANOTHER: Final = "pvc://"
"""What the URI of another run's checkpoint begins with."""
SOURCE: Final = r"^(Latest|None|[0-9]{1,9}|pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9._/-]+)$"


class Resume(Model):
    """Which checkpoint a run starts from: `Latest` verified of its own, `None`, a step of its own, or another run's."""

    source: Annotated[
        str,
        Field(pattern=SOURCE, min_length=1, max_length=1024),
        Hint(
            "see status.checkpoints for the steps that can be resumed",
            allowed="Latest, None, a step, or pvc://claim/path of another run's directory or checkpoint",
        ),
        NO_CLIMBING,
    ] = Field(default="Latest", alias="from")
    """Latest, None (begin anew), the step of a checkpoint of this job, or, at creation, another run's directory in the
    claim of checkpoint.store, with or without a checkpoint's name. Example: "120"."""


def _same_claim(value: Any, _: Any) -> bool:
    source = value["resume"]["from"]
    return (
        not source.startswith(ANOTHER)
        or split_claim_uri(source)[0] == split_claim_uri(value["checkpoint"]["store"])[0]
    )


def _named_at_creation(value: Any, old: Any) -> bool:
    source = value["resume"]["from"]
    return not source.startswith(ANOTHER) or bool(source == old["resume"]["from"])


RESUME_RULES: Final = (
    Rule(
        cel=(
            "!self.resume.from.startsWith('pvc://') || "
            "self.resume.from.split('/')[2] == self.checkpoint.store.split('/')[2]"
        ),
        holds=_same_claim,
        wrong="is not in the claim of checkpoint.store",
        got="{self.resume.from} with checkpoint.store={self.checkpoint.store}",
        allowed="a path in the claim that checkpoint.store names",
        hint="name that claim in checkpoint.store, or copy the other run's directory into this one",
        path="resume.from",
    ),
    Rule(
        cel="!self.resume.from.startsWith('pvc://') || self.resume.from == oldSelf.resume.from",
        holds=_named_at_creation,
        wrong="another run's checkpoint can be named at creation only",
        got="{self.resume.from}, was {old.resume.from}",
        allowed="Latest, None or a step of this job",
        hint="create a new job that names it",
        path="resume.from",
        transition=True,
        frozen=True,
        at_block="!self.startsWith('pvc://') || self == oldSelf",
    ),
)
