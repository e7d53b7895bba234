"""One tiny tokenizer for all tests of data."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from tests.tiny import write_model


@pytest.fixture(scope="session")
def shared_tokenizer(tmp_path_factory):
    return AutoTokenizer.from_pretrained(write_model(tmp_path_factory.mktemp("model"), hidden=32, layers=1))


@pytest.fixture
def tokenizer(shared_tokenizer):
    """With the template of the tiny model; tests may put another one in."""
    template = shared_tokenizer.chat_template
    yield shared_tokenizer
    shared_tokenizer.chat_template = template
