"""Log lines: one JSON object each, without credentials."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from windlass.shell.logging import configure, logger, redact_text

TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure("DEBUG", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)


def last(stream: io.StringIO) -> dict:
    return json.loads(stream.getvalue().splitlines()[-1])


def test_a_line_has_message_and_values(lines: io.StringIO) -> None:
    logger("unit").info("pod made", namespace="team", name="ft-0-1", ticket=1, node=None)
    line = last(lines)
    assert line["message"] == "pod made"
    assert (line["level"], line["logger"], line["ticket"], line["node"]) == ("info", "windlass.unit", 1, None)
    assert line["time"].endswith("+00:00")


@pytest.mark.parametrize(
    "values",
    [
        {"token": TOKEN},
        {"password": "hunter2-hunter2"},
        {"headers": {"Authorization": "Bearer abc.def.ghi"}},
        {"problem": f"401 for Bearer {TOKEN}"},
        {"problem": f"refused {TOKEN}"},
        {"items": [{"api_key": "hunter2-hunter2"}]},
        {"client_secret": "hunter2-hunter2"},
    ],
)
def test_credentials_never_come_out(lines: io.StringIO, values: dict) -> None:
    logger("unit").warning("request failed", **values)
    text = lines.getvalue()
    for secret in (TOKEN, "hunter2", "abc.def.ghi"):
        assert secret not in text
    assert "[redacted]" in text


def test_an_error_brings_its_traceback_without_tokens(lines: io.StringIO) -> None:
    try:
        raise ValueError(f"bad token {TOKEN}")
    except ValueError as error:
        logger("unit").error("round broke", error=error)
    assert "ValueError" in last(lines)["traceback"]
    assert TOKEN not in lines.getvalue()


def test_other_libraries_lines_have_the_same_shape(lines: io.StringIO) -> None:
    logging.getLogger("other").warning("hello %s", "Bearer abcdefgh")
    assert last(lines)["message"] == "hello Bearer [redacted]"


def test_plain_text_stays() -> None:
    assert redact_text("exceeded quota: small, used: pods=1") == "exceeded quota: small, used: pods=1"
