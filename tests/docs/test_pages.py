"""Every reason has its page, every dependency its line, every link its target, every shipped YAML parses."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from windlass.api.meta import Reason

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])


def documented_states() -> str:
    return (ROOT / "docs" / "concepts" / "states.md").read_text()


@pytest.mark.parametrize("reason", list(Reason))
def test_reason_is_documented(reason: Reason) -> None:
    page = ROOT / "docs" / "failures" / f"{reason}.md"
    if page.exists():
        text = page.read_text()
        assert all(
            f"## {heading}" in text for heading in ("Why you see it", "What Windlass does", "What to do")
        )
    else:
        assert re.search(rf"\b{reason}\b", documented_states()), f"{reason} has neither a page nor a state"


def test_no_failure_page_is_left_behind() -> None:
    pages = {path.stem for path in (ROOT / "docs" / "failures").glob("*.md")} - {"README"}
    assert pages <= {str(reason) for reason in Reason}


def test_every_dependency_has_its_line() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = [project["project"]["dependencies"], *project["project"]["optional-dependencies"].values()]
    groups.append([row for row in project["dependency-groups"]["dev"] if not row.startswith("windlass")])
    names = {re.split(r"[\[<>=~ ]", row)[0].lower() for group in groups for row in group}
    text = (ROOT / "docs" / "dependencies.md").read_text().lower()
    assert {name for name in names if not re.search(rf"[| ,]{re.escape(name)}[, |]", text)} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)(?:#[^)]*)?\)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize(
    "path",
    sorted([*(ROOT / "examples").rglob("*.yaml"), *(ROOT / "crds").glob("*.yaml")]),
    ids=lambda p: p.name,
)
def test_shipped_yaml_parses(path: Path) -> None:
    documents = [document for document in yaml.safe_load_all(path.read_text()) if document]
    assert documents and all("apiVersion" in document for document in documents)


def test_readme_commands_are_make_targets() -> None:
    targets = set(re.findall(r"^([a-z%-]+):", (ROOT / "Makefile").read_text(), re.M))
    commands = set(re.findall(r"`?make ([a-z-]+)", (ROOT / "README.md").read_text()))
    assert {command for command in commands if command not in targets} == set()


def test_readme_leads_to_recovery_in_one_hop() -> None:
    assert "docs/concepts/recovery.md" in (ROOT / "README.md").read_text()


def test_every_promise_names_tests_that_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "promises.md").read_text()))
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert named and {name for name in named if f"def {name}(" not in sources} == set()
