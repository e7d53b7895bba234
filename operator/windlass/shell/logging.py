"""Logs of the operator: one JSON object per line, constant messages, values beside them.

`configure` is called once by `main`; others call `logger(name)` and pass values by keyword. Values under
names that smell of credentials, and bearer tokens anywhere, never reach the output.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any, Final, TextIO

SECRET_NAME: Final = re.compile(
    r"(token|password|secret|authorization|cookie|credential|private|api_?key)", re.I
)
BEARER: Final = re.compile(r"(?i)(bearer\s+)[A-Za-z0-9._~+/=-]+")
WEB_TOKEN: Final = re.compile(r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
HIDDEN: Final = "[redacted]"
CHATTY: Final = ("asyncio", "aiohttp.access")


class Logger:
    """A logger whose methods take a constant message and values by keyword."""

    __slots__ = ("_inner",)

    def __init__(self, name: str) -> None:
        self._inner = logging.getLogger(name)

    def debug(self, message: str, **values: Any) -> None:
        """For following one run in detail."""
        self._inner.debug(message, extra={"values": values})

    def info(self, message: str, **values: Any) -> None:
        """A change that an administrator may want to see."""
        self._inner.info(message, extra={"values": values})

    def warning(self, message: str, **values: Any) -> None:
        """Something failed and will be tried again."""
        self._inner.warning(message, extra={"values": values})

    def error(self, message: str, *, error: BaseException | None = None, **values: Any) -> None:
        """Something failed that should not; with `error`, its traceback."""
        self._inner.error(message, exc_info=error, extra={"values": values})


class JsonFormatter(logging.Formatter):
    """One JSON object per record; other libraries' records get the same shape."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact_text(record.getMessage()),
        }
        for name, value in getattr(record, "values", {}).items():
            line.setdefault(name, redact(name, value))
        if record.exc_info:
            line["traceback"] = redact_text(self.formatException(record.exc_info))
        return json.dumps(line, default=str)


def redact(name: str, value: Any) -> Any:
    """The value, unless its name says that it is a credential; texts lose embedded tokens."""
    if SECRET_NAME.search(name):
        return HIDDEN
    if isinstance(value, dict):
        return {key: redact(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(name, item) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return redact_text(str(value))


def redact_text(text: str) -> str:
    """The text without bearer tokens and web tokens."""
    return WEB_TOKEN.sub(HIDDEN, BEARER.sub(rf"\1{HIDDEN}", text))


def logger(name: str) -> Logger:
    """A logger under `windlass`."""
    return Logger(f"windlass.{name}")


def configure(level: str, stream: TextIO | None = None) -> None:
    """Send all records to `stream` (default: standard error) as JSON lines."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    # Its warnings are about features that are off here; what matters of it is logged by `kopf_loop`.
    logging.getLogger("kopf").setLevel(logging.ERROR)
