"""The base of every model: camelCase on the wire, frozen, strict about unknown fields.

Status models alone ignore what they do not know. Nothing here may depend on a kind.
"""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from windlass.api.rules import Rule


class Model(BaseModel):
    """Base of spec and contract models. Wire names are camelCase; unknown fields are errors."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True, use_enum_values=False
    )
    rules: ClassVar[tuple[Rule, ...]] = ()
    """Rules across the fields of this block, written next to it (see rules)."""

    def to_wire(self, *, without: frozenset[str] = frozenset()) -> dict[str, object]:
        """This model as JSON-ready data with wire names; unset optional fields are left out, as are some by name."""
        return self.model_dump(
            mode="json", by_alias=True, exclude_none=True, exclude=set(without) if without else None
        )


class StatusModel(Model):
    """Base of status models: unknown fields are ignored, so that an older operator can read newer status."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True, use_enum_values=False
    )
