"""Where the demo keeps what it makes, and what it takes from the repository.

Used by every module of this package. Names only: it must never create or read a file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

NAMESPACE = "windlass-demo"
CLAIMS = {"models": "2Gi", "data": "1Gi", "checkpoints": "5Gi"}
DATA_FOLDER = "support-tickets"
OWN_FOLDER = "own"


@dataclass(frozen=True, slots=True)
class Places:
    """Paths of one checkout."""

    repository: Path

    @property
    def example(self) -> Path:
        return self.repository / "examples" / "01-finetune"

    @property
    def manifest(self) -> Path:
        return self.example / "finetunejob.yaml"

    @property
    def chart(self) -> Path:
        return self.repository / "charts" / "windlass"

    @property
    def work(self) -> Path:
        """Data, scores and the fetched output."""
        return self.repository / "build" / "demo"

    @property
    def result(self) -> Path:
        return self.repository / "build" / "demo.json"
