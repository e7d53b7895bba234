"""Which tokens are learned, for templates of several kinds, and what is said of rows that do not fit."""

from __future__ import annotations

import pytest

from windlass.api.training import Columns
from windlass_workloads.data.chat import PLAIN_TEMPLATE, Recipe, make_sample, tokenise_chat
from windlass_workloads.data.read import BadRow

CHAT = [
    {"role": "system", "content": "be short"},
    {"role": "user", "content": "my router broke"},
    {"role": "assistant", "content": "router"},
    {"role": "user", "content": "and my parcel vanished"},
    {"role": "assistant", "content": "parcel"},
]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As reasoning models do: an earlier assistant turn is shown without something that the last one has.
FORGETFUL = (
    "{% for m in messages %}{% if m.role == 'assistant' %}A:{% if loop.last %}<think></think>{% endif %}"
    "{{ m.content }}{% else %}U:{{ m.content }}{% endif %};{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
)

# Here the tokenizer merges the space before a turn with its first word; the token must be learned all the same.
SPACED = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{% if m.role == 'assistant' %}<|end|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def learned_text(tokenizer, messages, **options):
    sample = tokenise_chat(messages, tokenizer, learn_all=False, **options)
    ids = [token for token, learned in zip(sample.tokens, sample.learned, strict=True) if learned]
    return tokenizer.decode(ids)


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        (None, "router<|end|>parcel<|end|>"),
        (CHATML, "router<|im_end|>\nparcel<|im_end|>\n"),
        (PLAIN_TEMPLATE, "router<|end|>\nparcel<|end|>\n"),
        (FORGETFUL, "<think></think>parcel;"),
        (SPACED, " router<|end|> parcel<|end|>"),
    ],
    ids=["tiny", "chatml", "plain", "forgetful", "spaced"],
)
def test_only_assistant_turns_are_learned(tokenizer, template, wanted):
    if template is not None:
        tokenizer.chat_template = template
    assert learned_text(tokenizer, CHAT) == wanted


def test_the_tokens_are_those_of_the_whole_rendered_chat(tokenizer):
    text = tokenizer.apply_chat_template(CHAT, tokenize=False)
    sample = tokenise_chat(CHAT, tokenizer, learn_all=True)
    assert sample.tokens == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert all(sample.learned)


def sample_of(row, tokenizer, kind="Chat", **columns):
    return make_sample(row, Recipe(kind, Columns(**columns), False, 64), tokenizer)


def test_an_instruction_becomes_a_chat_of_two_turns(tokenizer):
    row = {"instruction": "name the thing", "input": "my router broke", "output": "router"}
    chat = [
        {"role": "user", "content": "name the thing\n\nmy router broke"},
        {"role": "assistant", "content": "router"},
    ]
    assert sample_of(row, tokenizer, "Instruction") == tokenise_chat(chat, tokenizer, learn_all=False)
    renamed = {"question": "name the thing\n\nmy router broke", "answer": "router"}
    assert sample_of(
        renamed, tokenizer, "Instruction", instruction="question", output="answer"
    ) == tokenise_chat(chat, tokenizer, learn_all=False)


def test_plain_text_is_learned_whole_and_closed(tokenizer):
    sample = sample_of({"text": "my router broke"}, tokenizer, "Text")
    assert tokenizer.decode(sample.tokens) == "my router broke<|end|>"
    assert all(sample.learned)


BAD_ROWS = [
    ("Chat", {"chat": []}, "no column messages (got chat); set `columns` if it is named otherwise"),
    ("Chat", {"messages": []}, "messages is not a list of messages (got list)"),
    ("Chat", {"messages": "hi"}, "messages is not a list of messages (got str)"),
    ("Chat", {"messages": ["hi"]}, "messages[0] is not an object (got str)"),
    (
        "Chat",
        {"messages": [{"role": "bot", "content": "x"}]},
        "messages[0].role is unknown (got bot); allowed system, user, assistant, tool",
    ),
    (
        "Chat",
        {"messages": [{"role": "user", "content": None}]},
        "messages[0].content is not text (got NoneType)",
    ),
    (
        "Chat",
        {"messages": [{"role": "user", "content": "x"}]},
        "messages has no assistant turn, so there is nothing to learn",
    ),
    (
        "Instruction",
        {"prompt": "x", "output": "y"},
        "no column instruction (got output, prompt); set `columns` if it is named otherwise",
    ),
    ("Instruction", {"instruction": "x", "output": " "}, "output is empty"),
    ("Instruction", {"instruction": 3, "output": "y"}, "instruction is not text (got int)"),
    ("Text", {}, "no column text (got nothing); set `columns` if it is named otherwise"),
]


@pytest.mark.parametrize(("kind", "row", "said"), BAD_ROWS, ids=[said for *_, said in BAD_ROWS])
def test_a_row_that_does_not_fit_is_told_why(tokenizer, kind, row, said):
    with pytest.raises(BadRow) as caught:
        sample_of(row, tokenizer, kind)
    assert str(caught.value) == said


def test_a_template_that_refuses_a_chat_is_quoted(tokenizer):
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(BadRow, match=r"^the chat template refuses it: roles must alternate$"):
        tokenise_chat(CHAT, tokenizer, learn_all=False)


def test_a_template_that_hides_its_turns_says_what_to_set(tokenizer):
    tokenizer.chat_template = "{{ messages | length }} messages"
    with pytest.raises(BadRow, match=r"does not show where an assistant turn begins; set lossOn: All$"):
        tokenise_chat(CHAT, tokenizer, learn_all=False)
