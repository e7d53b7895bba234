"""Run a program and turn its failure into a sentence.

Used for `ip`, `nft`, `ctr`, `apt-get`, `go`. It must never go through a shell.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence


class CommandFailed(Exception):
    """A program ended with a status other than 0; the text has the command and what it printed."""


def run(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    text_input: str | None = None,
    directory: str | None = None,
    timeout_seconds: float = 120.0,
) -> str:
    """Run to the end and return standard output. Raises CommandFailed."""
    try:
        done = subprocess.run(
            list(arguments),
            env=None if environment is None else dict(environment),
            input=text_input,
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired) as problem:
        raise CommandFailed(f"{' '.join(arguments)}: {problem}") from problem
    if done.returncode != 0:
        raise CommandFailed(f"{' '.join(arguments)}: status {done.returncode}: {done.stderr.strip()[-800:]}")
    return done.stdout
