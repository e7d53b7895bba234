"""The shipped example: its data is honest, its scorer counts right, its job is valid."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from windlass.api.validation import validate

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "01-finetune"
# Words that carry no meaning of a label; all others count as content.
FUNCTION_WORDS = frozenset(
    """a an and are at by can do every for from has i in is it me my never of on our out the to us we were with
    you your""".split()  # noqa: SIM905
)


@pytest.fixture(scope="module")
def modules() -> dict[str, ModuleType]:
    sys.path.insert(0, str(EXAMPLE))
    try:
        found = {}
        for name in ("vocabulary", "make_tickets", "score", "fetch_model"):
            spec = importlib.util.spec_from_file_location(name, EXAMPLE / f"{name}.py")
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            spec.loader.exec_module(module)
            found[name] = module
        return found
    finally:
        sys.path.remove(str(EXAMPLE))


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower())) - FUNCTION_WORDS


def rows(modules: dict[str, ModuleType], split: str, count: int) -> list[dict[str, Any]]:
    vocabulary = modules["vocabulary"].TRAIN if split == "train" else modules["vocabulary"].HELD_OUT
    made: list[dict[str, Any]] = modules["make_tickets"].tickets(vocabulary, split, count=count, seed=7)
    return made


def test_no_content_word_of_held_out_tickets_stands_in_training(modules: dict[str, ModuleType]) -> None:
    train = set().union(*(words(row["messages"][1]["content"]) for row in rows(modules, "train", 3000)))
    held_out = set().union(*(words(row["messages"][1]["content"]) for row in rows(modules, "held-out", 3000)))
    # Single letters are what is left of model codes such as B42.
    assert {word for word in train & held_out if len(word) > 1} == set()


def test_no_template_or_label_name_is_shared_with_held_out_tickets(modules: dict[str, ModuleType]) -> None:
    train, held_out = modules["vocabulary"].TRAIN, modules["vocabulary"].HELD_OUT
    assert not set(train.templates) & set(held_out.templates)
    labels = {*train.products, *train.problems, *train.priorities}
    text = " ".join(row["messages"][1]["content"].lower() for row in rows(modules, "held-out", 3000))
    assert {label for label in labels if re.search(rf"\b{label}\b", text)} == set()


def test_both_halves_have_the_same_labels_and_enough_of_them(modules: dict[str, ModuleType]) -> None:
    train, held_out = modules["vocabulary"].TRAIN, modules["vocabulary"].HELD_OUT
    for name, least in (("problems", 6), ("priorities", 3), ("products", 6)):
        assert set(getattr(train, name)) == set(getattr(held_out, name))
        assert len(getattr(train, name)) >= least


def test_the_same_seed_gives_the_same_bytes_and_another_other_tickets(
    modules: dict[str, ModuleType], tmp_path: Path
) -> None:
    for directory, seed in (("a", "7"), ("b", "7"), ("c", "8")):
        command = [
            sys.executable,
            str(EXAMPLE / "make_tickets.py"),
            str(tmp_path / directory),
            "--seed",
            seed,
        ]
        subprocess.run(command, check=True, capture_output=True)
    a, b, c = ((tmp_path / name / "held-out.jsonl").read_bytes() for name in "abc")
    assert a == b != c
    assert len(a.splitlines()) >= 200


def test_tickets_are_different_and_answers_are_json(modules: dict[str, ModuleType]) -> None:
    made = rows(modules, "held-out", 240)
    assert len({row["messages"][1]["content"] for row in made}) == 240
    for row in made:
        assert set(json.loads(row["messages"][2]["content"])) == {"category", "priority", "product"}
    majority = modules["score"].compare(made, ["{}"] * 240)["majority"]
    assert max(majority.values()) < 0.4, "always answering the commonest label must not pay"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"category": "Billing ", "priority": "low"}', {"category": "billing", "priority": "low"}),
        ('Sure! {"a": 1} and {"b": 2}', {"a": "1"}),
        ('{broken {"a": "x"}', {"a": "x"}),
        ("no json", None),
        ("[1, 2]", None),
        ("", None),
    ],
)
def test_the_parser_takes_the_first_object(modules: dict[str, ModuleType], text: str, expected: Any) -> None:
    assert modules["score"].parse(text) == expected


def row(answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": answer}]}


def test_whole_and_fields_are_counted_separately(modules: dict[str, ModuleType]) -> None:
    right = '{"a": "x", "b": "y"}'
    score = modules["score"].compare(
        [row(right)] * 4, [right, '{"b": "y", "a": "X"}', '{"a": "x"}', "nothing"]
    )
    assert (score["whole"]["correct"], score["parsed"]) == (2, 3)
    assert {key: value["correct"] for key, value in score["fields"].items()} == {"a": 3, "b": 2}
    assert score["majority"] == {"a": 1.0, "b": 1.0}


def test_an_extra_field_is_not_an_exact_match(modules: dict[str, ModuleType]) -> None:
    score = modules["score"].compare([row('{"a": "x"}')], ['{"a": "x", "b": "y"}'])
    assert score["whole"]["correct"] == 0 and score["fields"]["a"]["correct"] == 1


def test_answers_that_are_not_json_are_compared_as_text(modules: dict[str, ModuleType]) -> None:
    score = modules["score"].compare([row("Paris is it")] * 2, ["Paris  is it\n", "paris"])
    assert score["whole"]["correct"] == 1


def test_wilson_agrees_with_a_reference(modules: dict[str, ModuleType]) -> None:
    from scipy.stats import binomtest

    for correct, total in itertools.chain(((0, 10), (10, 10), (1, 3)), ((k, 240) for k in range(0, 241, 17))):
        reference = binomtest(correct, total).proportion_ci(method="wilson")
        assert modules["score"].wilson(correct, total) == pytest.approx(
            (reference.low, reference.high), abs=1e-9
        )
    assert modules["score"].wilson(0, 0) == (0.0, 1.0)


def test_shots_are_three_solved_rows_with_all_labels_and_not_from_the_held_out(
    modules: dict[str, ModuleType],
) -> None:
    train = rows(modules, "train", 300)
    leading = modules["score"].shots(train)
    assert [item["role"] for item in leading] == ["system"] + ["user", "assistant"] * 3
    assert all(label in leading[0]["content"] for label in modules["vocabulary"].TRAIN.products)
    asked = {item["content"] for item in leading if item["role"] == "user"}
    assert asked <= {item["messages"][1]["content"] for item in train}


def test_batches_hold_each_prompt_once_and_the_shortest_first(modules: dict[str, ModuleType]) -> None:
    prompts = [[0] * (3 + number % 4) for number in range(23)]
    made = list(modules["score"].batches(prompts, 4))
    assert sorted(index for batch in made for index in batch) == list(range(23))
    assert [len(batch) for batch in made] == [4, 4, 4, 4, 4, 3]
    lengths = [len(prompts[index]) for batch in made for index in batch]
    assert lengths == sorted(lengths)


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [([[1, 2, 3], [1, 2, 4]], 2), ([[1, 2], [1, 2, 3]], 1), ([[5], [6]], 0), ([[1, 2, 3]], 2)],
)
def test_the_shared_prefix_leaves_a_token_of_each(
    modules: dict[str, ModuleType], prompts: list[list[int]], expected: int
) -> None:
    assert modules["score"].shared_prefix(prompts) == expected


def test_cached_prefix_and_batching_do_not_change_what_a_model_says(
    modules: dict[str, ModuleType], tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import tiny

    torch.set_num_threads(1)
    directory = tiny.write_model(tmp_path / "tiny")
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    prompts = [[7, 8, 9, 10 + number % 5, *range(20, 20 + 3 * (number % 4))] for number in range(7)]
    together = modules["score"].generate(model, tokenizer, prompts, limit=6)
    for prompt, said in zip(prompts, together, strict=True):
        tokens = model.generate(torch.tensor([prompt]), max_new_tokens=6, do_sample=False, pad_token_id=0)
        assert said == tokenizer.decode(tokens[0, len(prompt) :], skip_special_tokens=True)


def test_the_job_is_valid_and_names_what_the_generator_writes() -> None:
    job = yaml.safe_load((EXAMPLE / "finetunejob.yaml").read_text())
    assert validate(job) == []
    assert job["spec"]["data"]["sources"][0]["uri"] == "pvc://data/support-tickets/train.jsonl"
    assert job["spec"]["resources"]["nodes"] == 2


def test_a_model_of_another_content_is_refused(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    (tmp_path / "x").write_text("something else")
    with pytest.raises(
        modules["fetch_model"].FetchFailed, match=r"content is not what was expected .*hint: check which"
    ):
        modules["fetch_model"].check_digest(tmp_path / "x")


def test_a_cached_model_is_used_without_fetching(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    final = modules["fetch_model"].target_directory(tmp_path)
    final.mkdir(parents=True)
    (final / "config.json").write_text("{}")
    assert modules["fetch_model"].fetch(tmp_path) == final


def test_rope_theta_is_written_beside_the_new_form_and_never_overwritten(
    modules: dict[str, ModuleType], tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"rope_parameters": {"rope_theta": 5.0}}')
    modules["fetch_model"].add_rope_theta(path)
    assert json.loads(path.read_text())["rope_theta"] == 5.0
    path.write_text('{"rope_parameters": {"rope_theta": 5.0}, "rope_theta": 7.0}')
    modules["fetch_model"].add_rope_theta(path)
    assert json.loads(path.read_text())["rope_theta"] == 7.0
