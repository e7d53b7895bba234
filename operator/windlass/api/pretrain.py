"""PretrainJob: from texts to a pre-trained model, from an existing model on or from nothing.

The CRD in crds/ is generated from these models (see crdgen). What it shares with other kinds that train is in `jobs`;
only what is special to PretrainJob is here.
"""

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from windlass.api.base import Model
from windlass.api.corpus import Corpus
from windlass.api.jobs import Input, TrainingJobSpec
from windlass.api.rules import Between, Computed, Hint, Rule, immutable
from windlass.api.training import Decimal, ModelSource, SecretReference, Training
from windlass.api.uris import Uri

FAMILIES: Final = {"Llama": "CausalLM", "Bert": "MaskedLM"}
"""What a new model of each architecture can be trained for."""


def _pairs_fit(value: Any, _: Any) -> bool:
    size, heads = value["hiddenSize"], value["heads"]
    return bool(value["type"] != "Llama" or heads < 1 or size % heads or size // heads % 2 == 0)


class Architecture(Model):
    """Sizes of a new model. Its vocabulary is the tokenizer's, its longest row corpus.sequenceLength."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.heads < 1 || self.hiddenSize % self.heads == 0",
            holds=lambda value, _: value["heads"] < 1 or value["hiddenSize"] % value["heads"] == 0,
            wrong="is not divisible by heads",
            got="{self.hiddenSize} with {self.heads} heads",
            allowed="a multiple of heads",
            hint="64 or 128 per head is usual",
            path="hiddenSize",
        ),
        Rule(
            # Llama turns the numbers of a head in pairs (rotary positions).
            cel=(
                "self.type != 'Llama' || self.heads < 1 || self.hiddenSize % self.heads != 0 || "
                "self.hiddenSize / self.heads % 2 == 0"
            ),
            holds=_pairs_fit,
            wrong="leaves an odd width to each head",
            got="{self.hiddenSize} with {self.heads} heads",
            allowed="a multiple of twice heads with type Llama",
            hint="64 or 128 per head is usual",
            path="hiddenSize",
        ),
        Rule(
            cel="!has(self.keyValueHeads) || self.keyValueHeads < 1 || self.heads % self.keyValueHeads == 0",
            holds=lambda value, _: (
                value.get("keyValueHeads", 1) < 1 or value["heads"] % value.get("keyValueHeads", 1) == 0
            ),
            wrong="does not divide heads",
            got="{self.keyValueHeads} with {self.heads} heads",
            allowed="a number that divides heads",
            hint="leave it out for one per head",
            path="keyValueHeads",
        ),
        Rule(
            cel="self.type == 'Llama' || !has(self.keyValueHeads)",
            holds=lambda value, _: value["type"] == "Llama" or "keyValueHeads" not in value,
            wrong="is for Llama only",
            got="{self.keyValueHeads} with type {self.type}",
            allowed="keyValueHeads with type Llama",
            hint="remove keyValueHeads",
            path="keyValueHeads",
        ),
    )

    type: Literal["Llama", "Bert"] = "Llama"
    """Family of the model: Llama for objective CausalLM, Bert for MaskedLM. Example: Llama."""
    hidden_size: Annotated[int, Field(ge=8, le=65_536), Hint("768 makes a model of about 100M weights")]
    """Width of the model. Unit: numbers per token. Example: 576."""
    layers: Annotated[int, Field(ge=1, le=1024), Hint("12 makes a model of about 100M weights")]
    """Number of layers. Example: 30."""
    heads: Annotated[int, Field(ge=1, le=1024), Hint("hiddenSize / 64 is usual")]
    """Attention heads of a layer; divides hiddenSize. Example: 9."""
    key_value_heads: Annotated[int, Field(ge=1, le=1024), Hint("leave it out for one per head")] | None = None
    """Heads of keys and values, shared by groups of heads; one per head if left out. Only with type Llama.
    Example: 3."""
    tie_embeddings: bool = True
    """Use the embedding of tokens as the output's weights too, as small models do.
    Example: false."""
    intermediate_size: (
        Annotated[int, Field(ge=8, le=524_288), Hint("leave it out for what is usual")] | None
    ) = None
    """Width inside a layer's MLP; 8/3 of hiddenSize for Llama, rounded up to a multiple of 8, and 4 times for Bert if
    left out. Example: 1536."""


class NewTokenizer(Model):
    """A tokenizer that is trained on the prepared texts: byte-level BPE."""

    vocabulary_size: Annotated[int, Field(ge=300, le=1_000_000), Hint("32768 is usual")] = 32_768
    """Tokens of the vocabulary, the 256 bytes among them. Example: 8192."""


class TokenizerSource(Model):
    """The tokenizer of a new model: an existing one, or one that is trained. Exactly one."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.uri) != has(self.train)",
            holds=lambda value, _: ("uri" in value) != ("train" in value),
            wrong="exactly one of uri and train must be set",
            got="uri={self.uri}, train.vocabularySize={size}",
            allowed="uri, or train",
            hint="write train: {vocabularySize: 32768} to train one on the corpus",
            computed={
                "size": Computed(
                    "has(self.train) ? string(self.train.vocabularySize) : 'nothing'",
                    lambda value: str(value.get("train", {}).get("vocabularySize", "nothing")),
                )
            },
        ),
    )

    uri: Uri | None = None
    """Directory or repository with a tokenizer. Example: pvc://models/SmolLM2-135M."""
    train: NewTokenizer | None = None
    """Trains one on the prepared texts. Example: {vocabularySize: 8192}."""
    secret_ref: SecretReference | None = None
    """Credential for a private hub repository; leave out for public ones. Example: {name: hub-token}."""


def _one_length(value: Any, _: Any) -> bool:
    return sum(name in value for name in ("tokenBudget", "epochs", "maxSteps")) == 1


class PretrainTraining(Training):
    """Optimisation. `globalBatchSize` is primary; accumulation follows from it and the world size."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=(
                "(has(self.tokenBudget) ? 1 : 0) + (has(self.epochs) ? 1 : 0) + (has(self.maxSteps) ? 1 : 0) == 1"
            ),
            holds=_one_length,
            wrong="exactly one of tokenBudget, epochs and maxSteps must be set",
            got="tokenBudget={self.tokenBudget}, epochs={self.epochs}, maxSteps={self.maxSteps}",
            allowed="tokenBudget, epochs, or maxSteps",
            hint="write tokenBudget: 1000000000 to train on so many tokens",
        ),
        *Training.rules,
    )

    token_budget: (
        Annotated[int, Field(ge=1, le=10**15), Hint("about 20 tokens per weight is usual for a new model")]
        | None
    ) = None
    """Tokens to train on, rounded up to whole steps of globalBatchSize x corpus.sequenceLength. Exactly one of
    tokenBudget, epochs and maxSteps. Unit: tokens. Example: 2500000000."""
    epochs: Annotated[int, Field(ge=1, le=10_000), Hint("1 is usual for pre-training")] | None = None
    """Passes over the rows of all sources; not with shares. Exactly one of tokenBudget, epochs and maxSteps.
    Example: 1."""
    max_steps: (
        Annotated[int, Field(ge=1, le=100_000_000), Hint("set spec.suspend: true to pause a run")] | None
    ) = None
    """Optimiser steps. Exactly one of tokenBudget, epochs and maxSteps. Example: 5000."""
    learning_rate: Annotated[
        Decimal,
        Between(
            above="0", at_most="1", hint='"3e-4" is usual for a new model, "5e-5" for one trained further'
        ),
    ] = "3e-4"
    """Highest learning rate, above 0 and at most 1. Example: "1e-3"."""
    z_loss: Annotated[Decimal, Between(above="0", at_most="1", hint="1e-4 is usual")] | None = None
    """Weight of the squared logarithm of the softmax's normaliser, which keeps logits small; none if left out. Only
    with objective CausalLM. Example: "1e-4"."""


def _has_start(value: Any, _: Any) -> bool:
    return ("model" in value) != ("architecture" in value)


def _tokenizer_fits(value: Any, _: Any) -> bool:
    return ("tokenizer" in value) == ("architecture" in value)


def _family_fits(value: Any, _: Any) -> bool:
    return "architecture" not in value or FAMILIES[value["architecture"]["type"]] == value["objective"]


def _masks(value: Any, _: Any) -> bool:
    return "maskedShare" not in value or value["objective"] == "MaskedLM"


def _z_fits(value: Any, _: Any) -> bool:
    return "zLoss" not in value["training"] or value["objective"] == "CausalLM"


def _passes_fit(value: Any, _: Any) -> bool:
    return "epochs" not in value["training"] or "share" not in value["corpus"]["sources"][0]


def _has_held_out(value: Any, _: Any) -> bool:
    return "validateEverySteps" not in value["training"] or "heldOut" in value["corpus"]


CROSS_RULES: Final = (
    Rule(
        cel="has(self.model) != has(self.architecture)",
        holds=_has_start,
        wrong="exactly one of model and architecture must be set",
        got="model.uri={uri}, architecture.type={type}",
        allowed="model to train on an existing one, or architecture for a new one",
        hint="write for example model: {uri: pvc://models/SmolLM2-135M}",
        computed={
            "uri": Computed(
                "has(self.model) ? self.model.uri : 'nothing'",
                lambda value: str(value.get("model", {}).get("uri", "nothing")),
            ),
            "type": Computed(
                "has(self.architecture) ? self.architecture.type : 'nothing'",
                lambda value: str(value.get("architecture", {}).get("type", "nothing")),
            ),
        },
        path="model",
    ),
    Rule(
        cel="has(self.tokenizer) == has(self.architecture)",
        holds=_tokenizer_fits,
        wrong="a new model needs a tokenizer, and an existing one has its own",
        got="{tokenizer} with {start}",
        allowed="tokenizer with architecture, and no tokenizer with model",
        hint="write tokenizer: {train: {vocabularySize: 32768}} for a new model, or remove tokenizer",
        computed={
            "tokenizer": Computed(
                "has(self.tokenizer) ? 'a tokenizer' : 'no tokenizer'",
                lambda value: "a tokenizer" if "tokenizer" in value else "no tokenizer",
            ),
            "start": Computed(
                "has(self.architecture) ? 'architecture' : 'model'",
                lambda value: "architecture" if "architecture" in value else "model",
            ),
        },
        path="tokenizer",
    ),
    Rule(
        cel=(
            "!has(self.architecture) || (self.architecture.type == 'Bert') == (self.objective == 'MaskedLM')"
        ),
        holds=_family_fits,
        wrong="does not fit the objective",
        got="{self.architecture.type} with objective {self.objective}",
        allowed="Llama with CausalLM, Bert with MaskedLM",
        hint="change architecture.type, or objective",
        path="architecture.type",
    ),
    Rule(
        cel="!has(self.maskedShare) || self.objective == 'MaskedLM'",
        holds=_masks,
        wrong="is for MaskedLM only",
        got="{self.maskedShare} with objective {self.objective}",
        allowed="maskedShare with objective MaskedLM",
        hint="remove maskedShare, or set objective: MaskedLM",
        path="maskedShare",
    ),
    Rule(
        cel="!has(self.training.zLoss) || self.objective == 'CausalLM'",
        holds=_z_fits,
        wrong="is for CausalLM only",
        got="{self.training.zLoss} with objective {self.objective}",
        allowed="zLoss with objective CausalLM",
        hint="remove zLoss",
        path="training.zLoss",
    ),
    Rule(
        cel="!has(self.training.epochs) || !has(self.corpus.sources[0].share)",
        holds=_passes_fit,
        wrong="sources with shares have no passes in common",
        got="epochs={self.training.epochs} with shares",
        allowed="epochs with sources without share",
        hint="write tokenBudget or maxSteps in place of epochs, or remove the shares",
        path="training.epochs",
    ),
    Rule(
        cel="!has(self.training.validateEverySteps) || has(self.corpus.heldOut)",
        holds=_has_held_out,
        wrong="there are no validation samples",
        got="validateEverySteps={self.training.validateEverySteps} without corpus.heldOut",
        allowed="validateEverySteps with corpus.heldOut",
        hint='add corpus.heldOut with fraction: "0.01", or remove validateEverySteps',
        path="training.validateEverySteps",
    ),
)

FROZEN: Final = (
    immutable("objective", shown="objective"),
    immutable("maskedShare", shown="maskedShare"),
    immutable("model", shown="model.uri"),
    immutable("architecture"),
    immutable("tokenizer"),
    immutable("corpus"),
)


class Pretraining(Model):
    """What only a PretrainJob has, before the blocks that it shares."""

    # The bases have a property of the wire's name.
    aim: Literal["CausalLM", "MaskedLM"] = Field(default="CausalLM", alias="objective")
    """What is learned: each next token (CausalLM), or tokens that are hidden (MaskedLM). Cannot change after creation.
    Example: MaskedLM."""
    masked_share: (
        Annotated[Decimal, Between(above="0", at_most="0.9", hint="0.15 to 0.4 is usual")] | None
    ) = None
    """Share of a row's tokens that MaskedLM hides, rounded to whole tokens of each row; 0.15 if left out. Of those, 8
    in 10 become the mask token, 1 in 10 another token, 1 in 10 stay. Cannot change after creation. Example: "0.3"."""
    model_block: ModelSource | None = Field(default=None, alias="model")
    """Model to train further. Exactly one of model and architecture. Cannot change after creation.
    Example: {uri: pvc://models/SmolLM2-135M}."""
    architecture: Architecture | None = None
    """Sizes of a new model. Exactly one of model and architecture. Cannot change after creation.
    Example: {hiddenSize: 576, layers: 30, heads: 9, keyValueHeads: 3}."""
    tokenizer: TokenizerSource | None = None
    """Tokenizer of a new model. Required with, and only with, architecture. Cannot change after creation.
    Example: {train: {vocabularySize: 8192}}."""
    corpus: Corpus
    """Texts to train on. Cannot change after creation. Example: {sources: [{uri: pvc://data/web}]}."""


class PretrainJobSpec(TrainingJobSpec, Pretraining):
    """Desired state of a PretrainJob."""

    rules: ClassVar[tuple[Rule, ...]] = (*CROSS_RULES, *TrainingJobSpec.rules, *FROZEN)

    training_block: PretrainTraining = Field(alias="training")
    """Optimisation settings. Cannot change after creation. Example: {globalBatchSize: 64, tokenBudget: 2500000000}."""

    @property
    def training(self) -> PretrainTraining:
        """Optimisation settings."""
        return self.training_block

    @property
    def objective(self) -> str:
        """What is learned."""
        return self.aim

    @property
    def start(self) -> ModelSource | None:
        """The model to train further."""
        return self.model_block

    @property
    def origin(self) -> str:
        """The model to train further, or what a new one is."""
        if self.model_block is not None:
            return self.model_block.uri
        return f"new {self.architecture.type}" if self.architecture is not None else "nothing"

    @property
    def sequence_length(self) -> int:
        """Tokens of each row."""
        return self.corpus.sequence_length

    @property
    def rows_block(self) -> str:
        """The block of texts."""
        return "corpus"

    @property
    def shares(self) -> tuple[str, ...]:
        """Shares of the tokens by source."""
        return tuple(one.share for one in self.corpus.sources if one.share is not None)

    @property
    def z_loss(self) -> str | None:
        """Weight of the squared normaliser."""
        return self.training.z_loss

    @property
    def is_packed(self) -> bool:
        """Texts are cut into full rows."""
        return True

    @property
    def known_steps(self) -> int | None:
        """Steps that maxSteps says, or that tokenBudget comes to."""
        tokens = self.training.token_budget
        if tokens is None:
            return self.training.max_steps
        return -(-tokens // (self.training.global_batch_size * self.sequence_length))

    @property
    def length_field(self) -> str:
        """The field that says how long to train."""
        return "training.tokenBudget" if self.training.token_budget is not None else super().length_field

    @property
    def facts(self) -> dict[str, object]:
        """What the texts were prepared with."""
        return {
            "quality": self.corpus.prepare.quality,
            "duplicates": self.corpus.prepare.duplicates,
            "masked_share": self.masked_share,
            "z_loss": self.training.z_loss,
        }

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Model or tokenizer, and the sources."""
        found = []
        if self.model_block is not None:
            found.append(Input(self.model_block.uri, "spec.model.uri", self.model_block.secret_ref))
        if self.tokenizer is not None and self.tokenizer.uri is not None:
            found.append(Input(self.tokenizer.uri, "spec.tokenizer.uri", self.tokenizer.secret_ref))
        found += [
            Input(source.uri, f"spec.corpus.sources[{place}].uri")
            for place, source in enumerate(self.corpus.sources)
        ]
        return tuple(found)
