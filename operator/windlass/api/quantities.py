"""Kubernetes quantities in specs: CPU and memory as people write them, always more than nothing.

Resources use the type; offline validation reads its Python twin. No other notation is accepted than
the one below, so that the operator can do arithmetic on it.
"""

from decimal import Decimal
from typing import Annotated, Final

from pydantic import Field

from windlass.api.rules import Hint, Rule, matches, quote

QUANTITY: Final = r"^([0-9]{1,12})(\.[0-9]{1,6})?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"
POWERS: Final[dict[str, int]] = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15} | {
    f"{letter}i": 1024**power for power, letter in enumerate("KMGTP", start=1)
}


def parse(text: str) -> Decimal:
    """The number a quantity stands for; `text` must match QUANTITY."""
    digits = text.rstrip("mkMGTPKi")
    suffix = text[len(digits) :]
    if suffix == "m":
        return Decimal(digits) / 1000
    return Decimal(digits) * POWERS.get(suffix, 1)


Quantity = Annotated[
    str,
    Field(pattern=QUANTITY, min_length=1, max_length=32),
    Hint(
        "write it as in a pod, for example 500m or 4 for CPU, 512Mi or 64Gi for memory",
        allowed="a positive Kubernetes quantity: digits and one of m k M G T P Ki Mi Gi Ti Pi",
    ),
    Rule(
        cel=f"!self.matches({quote(QUANTITY)}) || quantity(self).isGreaterThan(quantity('0'))",
        holds=lambda value, _: not matches(QUANTITY, value) or parse(value) > 0,
        wrong="must be more than nothing",
        got="{self}",
        allowed="a quantity above 0",
        hint="write what one pod needs, for example 500m or 4 for CPU, 512Mi or 64Gi for memory",
    ),
]
