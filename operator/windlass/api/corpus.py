"""Spec block `corpus` of a PretrainJob: which texts, in which mix, and what is left out of them.

Shares are decimals of at most four places, so that a mix is exact over every so many rows (see the order of rows in
windlass_workloads). What a rule or a threshold means is told by the corpus stage's page.
"""

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from windlass.api.base import Model
from windlass.api.rules import Between, Computed, Hint, Rule, matches, quote
from windlass.api.training import Column, Decimal
from windlass.api.uris import CREDENTIALS, NO_CLIMBING, NO_CREDENTIALS, STORE

SHARE: Final = r"^(0\.([1-9][0-9]{0,3}|0[1-9][0-9]{0,2}|00[1-9][0-9]?|000[1-9])|1|1\.0)$"
PARTS: Final = 10_000
"""What shares are whole parts of."""
SUM: Final = "self.sources.map(one, double(one.share)).sum()"

Share = Annotated[
    str,
    Field(pattern=SHARE, min_length=1, max_length=8),
    Hint('write a share in quotes, such as "0.25"', allowed="0.0001 to 1, with at most four places"),
]


ON_A_CLAIM: Final = Rule(
    cel=f"self.matches({quote(CREDENTIALS)}) || self.matches({quote(STORE)})",
    holds=lambda value, _: matches(CREDENTIALS, value) or matches(STORE, value),
    wrong="is not written as it must be",
    got="{self}",
    allowed="pvc://claim or pvc://claim/path",
    hint="copy the texts onto a PersistentVolumeClaim of this namespace and write for example pvc://data/web",
)


class CorpusSource(Model):
    """Texts of one origin: a file or a directory of files (JSONL, Parquet or plain text, also compressed)."""

    uri: Annotated[
        str,
        Field(pattern=STORE, min_length=1, max_length=1024),
        NO_CREDENTIALS,
        ON_A_CLAIM,
        NO_CLIMBING,
    ]
    """File, or directory of files, on a claim. Example: pvc://data/web."""
    column: Column = "text"
    """Column with the text, in JSONL and Parquet. Example: content."""
    share: Share | None = None
    """Share of the tokens that are trained on, whatever the source's size: a small source is repeated, a large one
    is not used up. The shares of all sources sum to 1; left out of all, every row comes once in each pass.
    Example: "0.25"."""


class Prepare(Model):
    """What is left out of the texts before they are tokenised."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.duplicates == 'Near' || !has(self.threshold)",
            holds=lambda value, _: value["duplicates"] == "Near" or "threshold" not in value,
            wrong="threshold is for near duplicates only",
            got="threshold={self.threshold} with duplicates {self.duplicates}",
            allowed="threshold with duplicates Near",
            hint="remove threshold, or set duplicates: Near",
            path="threshold",
        ),
    )

    quality: Literal["None", "Gopher"] = "None"
    """Rules by which texts are dropped: Gopher's for length, symbols, bullets and repetition, or none.
    Example: Gopher."""
    duplicates: Literal["Near", "Exact"] = "Near"
    """Which repetitions are left out but for the first: texts that are equal (Exact), or that resemble an earlier one
    as well (Near). Example: Exact."""
    threshold: Annotated[Decimal, Between(at_least="0.3", at_most="1", hint="0.8 is usual")] | None = None
    """Resemblance (Jaccard's measure of runs of five words) from which a text counts as a near duplicate; 0.8 if left
    out. Only with duplicates Near. Example: "0.7"."""
    workers: Annotated[
        int, Field(ge=1, le=256), Hint("as many as the first node has processors; 1 needs no Ray")
    ] = 1
    """Processes of the first pod that prepare the texts; more than one run as tasks of Ray. Example: 8."""


class HeldOut(Model):
    """Texts that are not trained on, for the validation loss."""

    fraction: Annotated[Decimal, Between(above="0", at_most="0.5", hint="hold out a hundredth with 0.01")] = (
        "0.01"
    )
    """Share of each source's texts held out, above 0 and at most 0.5. Which follows from the text alone.
    Example: "0.05"."""


def _parts(value: Any) -> int:
    return int(sum(float(source["share"]) for source in value["sources"]) * PARTS + 0.5)


def _shares_sum(value: Any, _: Any) -> bool:
    shares = [source.get("share") for source in value["sources"]]
    if any(share is None or not matches(SHARE, share) for share in shares):
        return True
    return bool(0.99999 < sum(float(share) for share in shares) < 1.00001)


def _all_or_none(value: Any, _: Any) -> bool:
    return len({"share" in source for source in value["sources"]}) == 1


class Corpus(Model):
    """Texts to train on."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.sources.all(one, has(one.share)) || self.sources.all(one, !has(one.share))",
            holds=_all_or_none,
            wrong="some sources have a share and some have none",
            got="{without} of {count} sources without share",
            allowed="a share for each source, or for none",
            hint="give every source its share of the tokens",
            computed={
                "without": Computed(
                    "string(size(self.sources.filter(one, !has(one.share))))",
                    lambda value: str(sum("share" not in one for one in value["sources"])),
                ),
                "count": Computed("string(size(self.sources))", lambda value: str(len(value["sources"]))),
            },
            path="sources",
        ),
        Rule(
            cel=(
                f"!self.sources.all(one, has(one.share) && one.share.matches({quote(SHARE)})) || "
                f"({SUM} > 0.99999 && {SUM} < 1.00001)"
            ),
            holds=_shares_sum,
            wrong="the shares of all sources do not sum to 1",
            got="{sum}",
            allowed="shares whose sum is 1",
            hint="raise or lower one of them",
            computed={
                # Not the shares themselves: the server has no bound for the length of what is joined.
                "sum": Computed(
                    f"string(double(int({SUM} * {PARTS}.0 + 0.5)) / {PARTS}.0)",
                    lambda value: f"{_parts(value) / PARTS:g}",
                )
            },
            path="sources",
        ),
    )

    sources: Annotated[list[CorpusSource], Field(min_length=1, max_length=64)]
    """Where the texts are. Example: [{uri: pvc://data/web, share: "0.7"}, {uri: pvc://data/books, share: "0.3"}]."""
    prepare: Prepare = Field(default_factory=Prepare)
    """What is left out of them. Example: {quality: Gopher, threshold: "0.7"}."""
    held_out: HeldOut | None = None
    """Texts held out for the validation loss; none if left out. Example: {fraction: "0.01"}."""
    sequence_length: Annotated[
        int,
        Field(ge=8, le=1_048_576),
        Hint("use a length the model supports (max_position_embeddings in its config.json)"),
    ] = 1024
    """Tokens per row. Texts follow each other, with the end-of-text token between them, and are cut into rows of this
    length. Unit: tokens. Example: 2048."""
