"""Chat templates of many families: what is learned is exactly what the assistant adds, whatever the template does."""

from __future__ import annotations

from typing import Any

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.api.training import Columns
from windlass_workloads.data.chat import (
    PLAIN_TEMPLATE,
    ROLES,
    Recipe,
    Sample,
    make_sample,
    render,
    tokenise_chat,
)
from windlass_workloads.data.read import BadRow


class Letters:
    """A tokenizer of letters with a template of its own: every offset is exact, so every mistake shows."""

    eos_token = "\x03"
    eos_token_id = 3

    def __init__(self, template: str = PLAIN_TEMPLATE) -> None:
        environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, autoescape=False)
        environment.globals["raise_exception"] = self.refuse
        self.template = environment.from_string(template)

    @staticmethod
    def refuse(text: str) -> None:
        raise jinja2.TemplateError(text)

    def __call__(self, text: str, **options: Any) -> dict[str, Any]:
        tokens = [ord(letter) for letter in text]
        found: dict[str, Any] = {"input_ids": tokens}
        if options.get("return_offsets_mapping"):
            found["offset_mapping"] = [(place, place + 1) for place in range(len(text))]
        return found

    def apply_chat_template(self, conversation: Any, **options: Any) -> str:
        return self.template.render(
            messages=conversation,
            add_generation_prompt=options["add_generation_prompt"],
            eos_token=self.eos_token,
            bos_token="\x02",
        )


def learned(sample: Sample) -> str:
    return "".join(chr(token) for token, wanted in zip(sample.tokens, sample.learned, strict=True) if wanted)


def text_of(sample: Sample) -> str:
    return "".join(map(chr, sample.tokens))


SYSTEM = {"role": "system", "content": "be short"}
CHAT = [
    SYSTEM,
    {"role": "user", "content": "one?"},
    {"role": "assistant", "content": "ONE"},
    {"role": "user", "content": "two?"},
    {"role": "assistant", "content": "TWO"},
]

FAMILIES: dict[str, tuple[str, str]] = {
    "chatml": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        "ONE<|im_end|>\nTWO<|im_end|>\n",
    ),
    "headers": (
        "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
        "{{ m.content }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
        "ONE<|eot_id|>TWO<|eot_id|>",
    ),
    "brackets": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}{% else %}{{ m.content }}\n{% endif %}"
        "{% endfor %}",
        " ONE\x03 TWO\x03",
    ),
    "turns": (
        "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
        "{{ m.content }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
        "ONE<end_of_turn>\nTWO<end_of_turn>\n",
    ),
    "zephyr": (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        "ONE\x03\nTWO\x03\n",
    ),
    "plain": (PLAIN_TEMPLATE, "ONE\x03\nTWO\x03\n"),
    "stripped": (
        "{% for m in messages %}{{ m.role }}:{{ m.content | trim }};{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}",
        "ONE;TWO;",
    ),
    "system moved into the first question": (
        "{% for m in messages %}{% if m.role != 'system' %}{{ m.role }}:"
        "{% if loop.index0 == 1 and messages[0].role == 'system' %}{{ messages[0].content }} {% endif %}"
        "{{ m.content }};{% endif %}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}",
        "ONE;TWO;",
    ),
    "only the last keeps its thoughts": (
        "{% for m in messages %}{% if m.role == 'assistant' %}A:{% if loop.last %}<think/>{% endif %}{{ m.content }};"
        "{% else %}{{ m.role }}:{{ m.content }};{% endif %}{% endfor %}{% if add_generation_prompt %}A:{% endif %}",
        "<think/>TWO;",
    ),
    "an end for the whole chat": (
        "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"
        "{% if add_generation_prompt %}assistant:"
        "{% else %}{% if messages[-1].role == 'assistant' %}END{% endif %}{% endif %}",
        "TWO;END",
    ),
    "a default system": (
        "{% if messages[0].role != 'system' %}system:default;{% endif %}"
        "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}",
        "ONE;TWO;",
    ),
}


@pytest.mark.parametrize(("template", "wanted"), list(FAMILIES.values()), ids=list(FAMILIES))
def test_each_family_of_templates(template: str, wanted: str) -> None:
    tokenizer = Letters(template)
    sample = tokenise_chat(CHAT, tokenizer, learn_all=False)
    assert learned(sample) == wanted
    assert text_of(sample) == tokenizer.apply_chat_template(CHAT, add_generation_prompt=False)


@pytest.mark.parametrize("template", [row[0] for row in FAMILIES.values()], ids=list(FAMILIES))
def test_what_the_model_will_see_is_what_it_was_taught_after(template: str) -> None:
    # The text before each learned stretch must be a prompt that serving makes as well.
    tokenizer = Letters(template)
    sample = tokenise_chat(CHAT, tokenizer, learn_all=False)
    first = sample.learned.index(True)
    prompts = {
        render(tokenizer, CHAT[:place], generation=True)
        for place, message in enumerate(CHAT)
        if message["role"] == "assistant"
    }
    assert text_of(sample)[:first] in prompts


@pytest.mark.parametrize("template", [row[0] for row in FAMILIES.values()], ids=list(FAMILIES))
def test_with_the_loss_on_all_everything_is_learned(template: str) -> None:
    sample = tokenise_chat(CHAT, Letters(template), learn_all=True)
    assert all(sample.learned) and "one?" in learned(sample)


WORDS = (
    st.text(st.characters(categories=("L", "N", "Zs")), min_size=1, max_size=12).map(str.strip).filter(bool)
)


@given(
    turns=st.lists(st.tuples(st.sampled_from(["user", "assistant"]), WORDS), min_size=1, max_size=6),
    system=st.one_of(st.none(), WORDS),
    family=st.sampled_from(["chatml", "headers", "turns", "zephyr", "plain"]),
)
@settings(max_examples=80, deadline=None)
def test_any_chat_teaches_the_assistants_words_in_order_and_no_others(
    turns: list[tuple[str, str]], system: str | None, family: str
) -> None:
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": role, "content": text} for role, text in turns]
    tokenizer = Letters(FAMILIES[family][0])
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    if not answers:
        with pytest.raises(BadRow, match="does not show where an assistant turn begins"):
            tokenise_chat(messages, tokenizer, learn_all=False)
        return
    sample = tokenise_chat(messages, tokenizer, learn_all=False)
    taught = learned(sample)
    place = 0
    for answer in answers:
        place = taught.index(answer, place) + len(answer)
    ends = sum(len(answer) for answer in answers)
    assert len(taught) - ends == len(answers) * ((len(taught) - ends) // len(answers)), (
        "only ends of turns besides"
    )


# --- templates that refuse or break ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (
            "{{ raise_exception('roles must alternate') }}",
            "the chat template refuses it: roles must alternate",
        ),
        ("{{ messages.absent.name }}", "the chat template refuses it: "),
        ("{{ 1 // 0 }}", "the chat template refuses it: "),
        ("{{ raise_exception('two\nlines') }}", "the chat template refuses it: two"),
        ("{{ raise_exception('x' * 5000) }}", "the chat template refuses it: xxx"),
        (
            "{{ messages | length }}",
            "the chat template does not show where an assistant turn begins; set lossOn: All",
        ),
    ],
)
def test_a_template_that_does_not_work_is_told(template: str, said: str) -> None:
    with pytest.raises(BadRow) as caught:
        tokenise_chat(CHAT, Letters(template), learn_all=False)
    assert str(caught.value).startswith(said) and len(str(caught.value)) < 260
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("template", ["", "nothing of it"])
def test_a_template_that_shows_nothing_teaches_nothing(template: str) -> None:
    # Such samples are dropped, with a warning in the plan.
    assert learned(tokenise_chat(CHAT, Letters(template), learn_all=False)) == ""


def test_a_template_that_wants_alternating_roles_refuses_the_row_only() -> None:
    strict = (
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}{{ m.role }}:{{ m.content }};{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    good = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "B"}]
    assert learned(tokenise_chat(good, Letters(strict), learn_all=False)) == "B;"
    with pytest.raises(BadRow, match="roles must alternate"):
        tokenise_chat(good[:1] * 2 + good[1:], Letters(strict), learn_all=False)


# --- rows ----------------------------------------------------------------------------------------------------------


def sample_of(kind: Any, row: dict[str, Any], *, learn_all: bool = False, **columns: str) -> Sample:
    return make_sample(row, Recipe(kind, Columns(**columns), learn_all, 64), Letters())


@pytest.mark.parametrize("role", [*ROLES])
def test_every_role_may_speak(role: str) -> None:
    row = {"messages": [{"role": role, "content": "x"}, {"role": "assistant", "content": "y"}]}
    assert "y" in learned(sample_of("Chat", row))


@pytest.mark.parametrize(
    ("extra", "question"),
    [
        ({}, "ask"),
        ({"input": ""}, "ask"),
        ({"input": None}, "ask"),
        ({"input": "  "}, "ask"),
        ({"input": "more"}, "ask\n\nmore"),
    ],
)
def test_an_input_is_added_where_there_is_one(extra: dict[str, Any], question: str) -> None:
    sample = sample_of("Instruction", {"instruction": "ask", "output": "answer", **extra})
    assert text_of(sample) == f"User:\n{question}\nAssistant:\nanswer\x03\n"
    assert learned(sample) == "answer\x03\n"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("words", "words\x03"), ("words\x03", "words\x03"), (" words ", " words \x03"), ("ß\n€", "ß\n€\x03")],
)
def test_a_text_is_closed_once(text: str, wanted: str) -> None:
    sample = sample_of("Text", {"text": text})
    assert text_of(sample) == wanted and all(sample.learned)


@pytest.mark.parametrize(
    ("kind", "row", "said"),
    [
        ("Text", {"text": ""}, "text is empty"),
        ("Text", {"text": "  \n"}, "text is empty"),
        ("Text", {"text": 5}, "text is not text (got int)"),
        ("Text", {"text": None}, "no column text (got text); set `columns` if it is named otherwise"),
        ("Text", {"body": "x"}, "no column text (got body); set `columns` if it is named otherwise"),
        ("Instruction", {"instruction": "x", "output": None}, "no column output (got instruction, output)"),
        ("Instruction", {"instruction": "", "output": "y"}, "instruction is empty"),
        ("Instruction", {"instruction": "x", "input": 5, "output": "y"}, "input is not text (got int)"),
        ("Chat", {"messages": {"role": "user"}}, "messages is not a list of messages (got dict)"),
        ("Chat", {"messages": [None]}, "messages[0] is not an object (got NoneType)"),
        ("Chat", {"messages": [{"content": "x"}]}, "messages[0].role is unknown (got None)"),
        ("Chat", {"messages": [{"role": "User", "content": "x"}]}, "messages[0].role is unknown (got User)"),
        ("Chat", {"messages": [{"role": "user"}]}, "messages[0].content is not text (got NoneType)"),
        (
            "Chat",
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content is not text (got list)",
        ),
        (
            "Chat",
            {f"c{number}": 1 for number in range(20)},
            "no column messages (got c0, c1, c10, c11, c12, c13, c14, c15)",
        ),
    ],
)
def test_a_row_that_does_not_fit_says_where_and_why(kind: Any, row: dict[str, Any], said: str) -> None:
    with pytest.raises(BadRow) as caught:
        sample_of(kind, row)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("kind", "row", "columns"),
    [
        ("Text", {"body": "x"}, {"text": "body"}),
        ("Chat", {"talk": CHAT}, {"messages": "talk"}),
        (
            "Instruction",
            {"q": "x", "more": "y", "a": "z"},
            {"instruction": "q", "input": "more", "output": "a"},
        ),
    ],
)
def test_columns_may_have_other_names(kind: Any, row: dict[str, Any], columns: dict[str, str]) -> None:
    assert any(sample_of(kind, row, **columns).learned)


def test_a_chat_without_an_assistant_is_fine_when_all_is_learned() -> None:
    row = {"messages": [{"role": "user", "content": "x"}]}
    assert all(sample_of("Chat", row, learn_all=True).learned)
    with pytest.raises(BadRow, match="has no assistant turn"):
        sample_of("Chat", row)
