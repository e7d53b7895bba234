"""The one error of the command line that a user can mend.

Raised anywhere in `windlass.cli`, printed by `main` as one line; any other exception is a defect of ours.
"""

from __future__ import annotations


class CliError(Exception):
    """The text says what, got, allowed and the next step; `status` is the exit status."""

    def __init__(self, message: str, *, status: int = 1) -> None:
        self.status = status
        super().__init__(message)
