"""The bytes of single tokens: one token of a text may be a part of a character."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

# How byte-fallback vocabularies write a byte.
BYTE = re.compile(r"<0x([0-9A-F]{2})>")

# How SentencePiece writes a space.
SPACE = "\u2581"


def token_bytes(tokenizer: Any, token: int) -> bytes:
    """What a token adds to a text, in UTF-8; of a special token its name."""
    name = tokenizer.convert_ids_to_tokens(token)
    if name is None:  # the embedding may have more rows than the vocabulary has tokens
        return b""
    if token in tokenizer.added_tokens_decoder:
        return str(name).encode()
    if (byte := BYTE.fullmatch(name)) is not None:
        return bytes([int(byte[1], 16)])
    alphabet = _byte_alphabet()
    if SPACE not in name and _is_byte_level(tokenizer) and all(letter in alphabet for letter in name):
        return bytes(alphabet[letter] for letter in name)
    text: str = tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    # Decoders drop the space at the start of a text.
    return (" " + text if name.startswith(SPACE) and not text.startswith(" ") else text).encode()


@lru_cache(maxsize=8)
def _is_byte_level(tokenizer: Any) -> bool:
    return "ByteLevel" in str(tokenizer.backend_tokenizer.decoder) + str(tokenizer.backend_tokenizer.pre_tokenizer)


@lru_cache(maxsize=1)
def _byte_alphabet() -> dict[str, int]:
    """The letter by which a byte-level vocabulary writes each byte (Radford et al. 2019, GPT-2)."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + place): byte for place, byte in enumerate(hidden)}
