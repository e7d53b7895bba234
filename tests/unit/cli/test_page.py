"""The HTML page of a run: a golden page, whole parts, hostile texts, and nothing that is loaded."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unit.cli.test_timeline import a_run
from windlass.api.status import GoodputSeconds
from windlass.cli import page, timeline
from windlass.cli.page_style import COLOURS, TRACK

GOLDEN = Path(__file__).with_name("golden")
VOID = {"meta", "br", "hr", "img", "link", "input"}
HOSTILE = "</pre><script>alert(1)</script>\"'&<img src=x onerror=alert(2)>"


class Reader(HTMLParser):
    """Reads a page strictly: every tag is closed in order; remembers tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == [], f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.text += data


def widths(text: str, label: str) -> list[int]:
    """Widths of a bar's parts in thousandths of a percent."""
    inside = text.split(f'aria-label="{label}">')[1].split("</div>")[0]
    return [round(float(one) * 1000) for one in re.findall(r"width:([0-9.]+)%", inside)]


def test_the_page_of_a_run_with_two_recoveries() -> None:
    """Made by `windlass report -f run.yaml -o report.html`."""
    assert page.render(a_run()) == (GOLDEN / "report.html").read_text()


def test_the_page_says_what_the_status_knows() -> None:
    text = Reader(page.render(a_run())).text
    for said in (
        "team/triage",
        "81.4%",
        "10 min 00 s",
        "Wasted accelerator seconds",
        "556",
        "3 min 20 s",
        "rank 1, triage-1-2, node-b (signal 9)",
        "triage-1-2 (lost)",
        "121 → 100",
        "rank 1 was killed by signal 9 <SIGKILL>",
        "3.0 MiB",
        "0.5100",
        "320 of 640",
    ):
        assert said in text, said


def test_nothing_is_loaded_and_nothing_runs() -> None:
    made = page.render(a_run())
    read = Reader(made)
    assert {tag for tag, _ in read.tags}.isdisjoint(
        {"script", "link", "img", "iframe", "object", "form", "a"}
    )
    assert not any(
        name in {"src", "href", "srcset"} or name.startswith("on") for _, had in read.tags for name in had
    )
    assert "default-src 'none'" in made and "url(" not in made and "@import" not in made and "//" not in made


def test_parts_of_goodput_fill_the_bar_exactly() -> None:
    assert sum(widths(page.render(a_run()), "Shares of wall time")) == page.UNITS


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(st.sampled_from(sorted(GoodputSeconds.model_fields)), st.floats(0.001, 1e7), min_size=1)
)
def test_any_account_fills_the_bar(seconds: dict[str, float]) -> None:
    job = a_run()
    told = GoodputSeconds(**seconds).model_dump(by_alias=True)
    job["status"]["goodput"] = {"sinceCreation": sum(seconds.values()), "seconds": told}
    text = page.render(job)
    assert sum(widths(text, "Shares of wall time")) == page.UNITS
    assert sum(widths(text, "What the run was doing when")) == page.UNITS


def poisoned(text: str) -> dict[str, Any]:
    """A run whose every text is this."""
    job = a_run()
    job["metadata"] |= {"name": text, "namespace": text}
    status = job["status"]
    row = status["recoveries"][0]
    row["evidence"], row["firstFailed"] = [text, text], {"rank": 0, "pod": text, "node": text}
    status["checkpoints"][0] |= {"name": text, "digest": text}
    status["conditions"][0] |= {"reason": "X", "message": text}
    status["output"] = {"uri": text}
    status["tracking"] = {"url": text}
    status["lastFailure"] = {
        "reason": text,
        "class": "Crash",
        "message": text,
        "hint": text,
        "evidence": [text],
    }
    return job


def test_hostile_names_and_evidence_stay_text() -> None:
    read = Reader(page.render(poisoned(HOSTILE)))
    assert {tag for tag, _ in read.tags}.isdisjoint({"script", "img"})
    assert read.text.count(HOSTILE) >= 8


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\x00\r"), min_size=1, max_size=40))
def test_no_text_adds_an_element_or_an_attribute(text: str) -> None:
    tame = Reader(page.render(poisoned("x")))
    wild = Reader(page.render(poisoned(text)))
    assert [(tag, sorted(had)) for tag, had in wild.tags] == [(tag, sorted(had)) for tag, had in tame.tags]


@pytest.mark.parametrize(
    "job",
    [
        {"metadata": {"name": "a"}},
        {"metadata": {"name": "a"}, "spec": None, "status": None},
        {"metadata": {"name": "a"}, "spec": {"resources": {"nodes": "two", "accelerator": None}}},
        {"metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z"}, "status": {"progress": 3}},
        {"metadata": {"name": "a"}, "status": {"goodput": {"seconds": {"somethingNew": 3}}, "newer": {}}},
    ],
    ids=["no status", "nulls", "odd spec", "odd status", "newer status"],
)
def test_a_job_with_little_or_odd_to_tell_has_a_page(job: dict[str, Any]) -> None:
    read = Reader(page.render(job))
    assert "default/a" in read.text and "Recoveries" not in read.text


def test_the_column_of_losses_is_there_only_where_one_is_known() -> None:
    job = a_run()
    assert "Validation loss" in page.render(job)
    for row in job["status"]["checkpoints"]:
        row.pop("validationLoss", None)
    assert "Validation loss" not in page.render(job)


def test_every_part_and_stretch_has_a_colour_of_its_own() -> None:
    assert set(COLOURS) == set(timeline.LETTERS) and set(TRACK) == set(timeline.TRACK)
    assert len(set(COLOURS.values())) == len(COLOURS)


def test_light_and_dark_follow_the_reader() -> None:
    made = page.render(a_run())
    assert "prefers-color-scheme:dark" in made and "color-scheme:light dark" in made
