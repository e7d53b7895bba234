"""The kinds that train, by name: which models their objects are read with.

Whoever meets an object of any kind asks here. A kind that is not here is not one of ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from windlass.api.finetune import FineTuneJobSpec
from windlass.api.jobs import ROOT_RULES, TrainingJobSpec
from windlass.api.pretrain import PretrainJobSpec
from windlass.api.rules import Rule

KindName = Literal["FineTuneJob", "PretrainJob"]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind: its names in the API, what it is, and the model of its spec. `rules` are about its metadata."""

    name: KindName
    plural: str
    short: str
    text: str
    spec: type[TrainingJobSpec]
    rules: tuple[Rule, ...] = ROOT_RULES


KINDS: Final[Mapping[str, Kind]] = {
    kind.name: kind
    for kind in (
        Kind(
            name="FineTuneJob",
            plural="finetunejobs",
            short="ftj",
            text=(
                "FineTuneJob trains a language model further on your data, survives the loss of ranks, pods and "
                "nodes by going on from the newest verified checkpoint, and says in its status what that cost."
            ),
            spec=FineTuneJobSpec,
        ),
        Kind(
            name="PretrainJob",
            plural="pretrainjobs",
            short="ptj",
            text=(
                "PretrainJob makes a corpus of texts and trains a language model on it, a new one or an existing one "
                "further, survives the loss of ranks, pods and nodes by going on from the newest verified checkpoint, "
                "and says in its status what that cost."
            ),
            spec=PretrainJobSpec,
        ),
    )
}
