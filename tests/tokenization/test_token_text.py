"""The bytes of tokens make the bytes of the text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from tokenizers import decoders, models, pre_tokenizers

from bottega.tokenization.token_text import token_bytes
from making import make_tokenizer, shared_data

TEXT = "the cat — perché? 日本 sat"


def test_bytes_of_a_byte_level_vocabulary(tmp_path: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(make_tokenizer(tmp_path, bos=False))
    ids = tokenizer(TEXT, add_special_tokens=False).input_ids
    assert b"".join(token_bytes(tokenizer, token) for token in ids).decode() == TEXT
    assert token_bytes(tokenizer, tokenizer.eos_token_id).decode() == tokenizer.eos_token
    assert token_bytes(tokenizer, 10**6) == b""


def test_bytes_of_sentence_pieces() -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(shared_data("stories260K_hf"))
    ids = tokenizer(TEXT, add_special_tokens=False).input_ids
    assert b"".join(token_bytes(tokenizer, token) for token in ids).decode().strip() == TEXT


def test_bytes_of_words(tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer(models.WordPiece({"[UNK]": 0, "cat": 1, "##s": 2, "perché": 3}, unk_token="[UNK]"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    tokenizer: Any = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    assert [token_bytes(tokenizer, token).decode() for token in (1, 3)] == ["cat", "perché"]


@pytest.mark.parametrize("byte", [0, 32, 127, 173, 255])
def test_every_byte_is_found(byte: int, tmp_path: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(make_tokenizer(tmp_path, bos=False))
    found = {token_bytes(tokenizer, token) for token in range(len(tokenizer))}
    assert bytes([byte]) in found
