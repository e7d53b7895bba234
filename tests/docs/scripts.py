"""Loads a program of scripts/, whose folder is no package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]


def load(name: str) -> ModuleType:
    """scripts/NAME.py as a module of its own."""
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        found = importlib.util.find_spec(name)
        assert found is not None and found.loader is not None
        module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    return module
