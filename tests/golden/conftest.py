"""`--update` rewrites the golden outputs; the difference is then read and committed."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update", action="store_true", default=False, help="rewrite golden outputs")


@pytest.fixture
def update(request: pytest.FixtureRequest) -> bool:
    """Whether golden outputs are to be rewritten."""
    try:
        return bool(request.config.getoption("--update"))
    except ValueError:  # the option is known only when this folder is named on the command line
        return False
