"""Fixtures of the tests of tokenization."""

from __future__ import annotations

from typing import Any

import pytest
from chat_styles import byte_level

from bottega.models.tokenizer import load_tokenizer
from making import make_tokenizer


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Any]:
    """Tokenizers without a template of their own, so with bottega's; by whether they add a BOS."""
    return {
        bos: load_tokenizer(str(make_tokenizer(tmp_path_factory.mktemp("plain"), bos=bos))) for bos in (True, False)
    }


@pytest.fixture
def bracketed() -> Any:
    """A tokenizer that puts [CLS] before a text and [SEP] behind it."""
    return byte_level(bos="[CLS]", eos="[SEP]", adds_bos=True, adds_eos=True, merges=False)
