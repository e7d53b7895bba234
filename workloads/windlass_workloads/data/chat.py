"""From a row to token ids and the mask of tokens that are learned.

Called by prepare for every row. Chats go through the tokenizer's own chat template. Which tokens are an assistant's
is found by rendering with and without the turn, so that templates without generation marks work as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from windlass.api.training import Columns
from windlass_workloads.data.errors import first_line
from windlass_workloads.data.read import BadRow, is_half, is_text

Format = Literal["Chat", "Instruction", "Text"]
ROLES = ("system", "user", "assistant", "tool")
NAME_LETTERS = 80
"""Of a name that rows bring; it may be a whole text where a header is missing."""

PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | capitalize }}:{{ '\n' }}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{{ '\n' }}{% endif %}"
)
"""Used, and saved with the model, when the tokenizer brings no chat template; the plan warns of it."""


class Tokenizer(Protocol):
    """The part of a Hugging Face fast tokenizer that is used here."""

    eos_token: Any
    eos_token_id: Any

    def __call__(self, text: str, **options: Any) -> Any:
        """Token ids and character offsets."""
        ...

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """The conversation as one text."""
        ...


@dataclass(frozen=True, slots=True)
class Sample:
    """Token ids and, for each, whether it is learned."""

    tokens: list[int]
    learned: list[bool]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the rows of one source become samples."""

    format: Format
    columns: Columns
    learn_all: bool
    sequence_length: int


def make_sample(row: dict[str, Any], recipe: Recipe, tokenizer: Tokenizer) -> Sample:
    """The sample of a row, not cut to length yet; BadRow says what is wrong with the row."""
    if recipe.format == "Text":
        text = _text_of(row, recipe.columns.text or "text")
        tokens = list(tokenizer(text, add_special_tokens=True)["input_ids"])
        if tokenizer.eos_token_id is not None and (not tokens or tokens[-1] != tokenizer.eos_token_id):
            tokens.append(tokenizer.eos_token_id)
        return Sample(tokens, [True] * len(tokens))
    messages = _chat_of(row, recipe) if recipe.format == "Chat" else _instruction_of(row, recipe.columns)
    return tokenise_chat(messages, tokenizer, learn_all=recipe.learn_all)


def _names(row: dict[str, Any]) -> str:
    return ", ".join(name[:NAME_LETTERS] for name in sorted(row)[:8]) or "nothing"


def _text_of(row: dict[str, Any], column: str, *, required: bool = True) -> str:
    value = row.get(column)
    if value is None and not required:
        return ""
    if value is None:
        raise BadRow(f"no column {column} (got {_names(row)}); set `columns` if it is named otherwise")
    if not isinstance(value, str):
        raise BadRow(f"{column} is not text (got {type(value).__name__})")
    if required and not value.strip():
        raise BadRow(f"{column} is empty")
    return _whole_letters(value, column)


def _whole_letters(value: str, column: str) -> str:
    """The text; BadRow if a JSON escape in it is half of a letter, which no tokeniser takes."""
    if is_text(value):
        return value
    place = next(number for number, letter in enumerate(value) if is_half(letter))
    if "\udc80" <= value[place] <= "\udcff":
        raise BadRow(f"{column} is not UTF-8 at character {place + 1}")
    raise BadRow(f"{column} has half a letter at character {place + 1} (got \\u{ord(value[place]):04x})")


def _instruction_of(row: dict[str, Any], columns: Columns) -> list[dict[str, str]]:
    instruction = _text_of(row, columns.instruction or "instruction")
    extra = _text_of(row, columns.input or "input", required=False)
    output = _text_of(row, columns.output or "output")
    question = f"{instruction}\n\n{extra}" if extra.strip() else instruction
    return [{"role": "user", "content": question}, {"role": "assistant", "content": output}]


def _chat_of(row: dict[str, Any], recipe: Recipe) -> list[dict[str, str]]:
    column = recipe.columns.messages or "messages"
    messages = row.get(column)
    if messages is None:
        raise BadRow(f"no column {column} (got {_names(row)}); set `columns` if it is named otherwise")
    if not isinstance(messages, list) or not messages:
        raise BadRow(f"{column} is not a list of messages (got {type(messages).__name__})")
    chat = [_message_of(message, f"{column}[{place}]") for place, message in enumerate(messages)]
    if not recipe.learn_all and not any(message["role"] == "assistant" for message in chat):
        raise BadRow(f"{column} has no assistant turn, so there is nothing to learn")
    return chat


def _message_of(message: Any, place: str) -> dict[str, str]:
    if not isinstance(message, dict):
        raise BadRow(f"{place} is not an object (got {type(message).__name__})")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise BadRow(f"{place}.role is unknown (got {str(role)[:NAME_LETTERS]}); allowed {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise BadRow(f"{place}.content is not text (got {type(content).__name__})")
    return {"role": role, "content": _whole_letters(content, f"{place}.content")}


def tokenise_chat(messages: list[dict[str, str]], tokenizer: Tokenizer, *, learn_all: bool) -> Sample:
    """Tokens of a whole chat; learned are the characters that each assistant turn adds to the rendered text."""
    text = render(tokenizer, messages, generation=False)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    tokens = list(encoded["input_ids"])
    if learn_all:
        return Sample(tokens, [True] * len(tokens))
    spans = _assistant_spans(messages, tokenizer, text)
    # A token that reaches over the beginning of a turn, as a space merged with a word does, belongs to the turn.
    places = encoded["offset_mapping"]
    learned = [any(start < last and end > first for first, last in spans) for start, end in places]
    return Sample(tokens, learned)


def _assistant_spans(
    messages: list[dict[str, str]], tokenizer: Tokenizer, text: str
) -> list[tuple[int, int]]:
    """Character ranges of the assistant turns in the rendered text.

    Some templates render earlier turns otherwise once the chat goes on (they drop reasoning, say); such a turn is
    not what the model will see, so only turns whose rendering is a prefix of the whole are learned.
    """
    spans = []
    for place, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = render(tokenizer, messages[:place], generation=True)
        upto = (
            text if place == len(messages) - 1 else render(tokenizer, messages[: place + 1], generation=False)
        )
        if text.startswith(upto) and upto.startswith(before):
            spans.append((len(before), len(upto)))
    if not spans:
        raise BadRow("the chat template does not show where an assistant turn begins; set lossOn: All")
    return spans


def render(tokenizer: Tokenizer, messages: list[dict[str, str]], *, generation: bool) -> str:
    """The chat as text by the tokenizer's template; with `generation`, up to where the assistant would go on."""
    if not messages and not generation:
        return ""
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation))
    except Exception as error:  # a template is a program and raises anything
        raise BadRow(f"the chat template refuses it: {first_line(error)}") from error
