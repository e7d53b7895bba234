"""Spec block `guards`: what is watched while training goes on, and what is done about it."""

from pydantic import Field

from windlass.api.base import Model
from windlass.api.stall import Stall


class Guards(Model):
    """What is watched while training goes on, and what is done about it."""

    stall: Stall = Field(default_factory=Stall)
    """Ranks that live and make no progress. Example: {action: Restart, limitSeconds: 600}."""
