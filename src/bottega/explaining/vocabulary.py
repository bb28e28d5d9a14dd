"""A tokenizer opened up: the tokens of a text, what it compresses to, and a search of the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bottega.errors import DataError
from bottega.models.source import locate
from bottega.models.tokenizer import load_tokenizer
from bottega.tokenization.token_text import token_bytes


@dataclass(frozen=True)
class ShownToken:
    """A token: its id, its text (of bytes that are no characters by themselves, a sign), and its bytes."""

    id: int
    text: str
    bytes: bytes
    special: bool = False

    def document(self) -> dict[str, Any]:
        """Plain data."""
        return {"id": self.id, "text": self.text, "bytes": self.bytes.hex(" "), "special": self.special}


class Vocabulary:
    """The tokenizer of a run, a folder or a hub id, or one that is loaded already."""

    def __init__(self, name: str | Path, tokenizer: Any = None) -> None:
        self.name = str(name)
        self.tokenizer = tokenizer or load_tokenizer(locate(self.name).tokenizer)

    def __len__(self) -> int:
        return len(self.tokenizer)

    def token(self, id: int) -> ShownToken:
        """A token by its id."""
        data = token_bytes(self.tokenizer, id)
        return ShownToken(id, data.decode("utf-8", "replace"), data, id in self.tokenizer.added_tokens_decoder)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without those that are put around it; a DataError if it cannot be encoded."""
        try:
            return list(self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)
        except Exception as error:  # the tokenizers library raises nothing narrower
            raise DataError(
                f"the tokenizer cannot encode it: {error}", where=text[:40], fix="write it as Unicode"
            ) from None

    def describe(self, text: str) -> dict[str, Any]:
        """The tokens of a text, and how many characters and bytes one of them holds on average."""
        ids = self.encode(text)
        size = len(text.encode("utf-8", "surrogatepass"))
        return {
            "tokens": [self.token(id).document() for id in ids],
            "characters": len(text),
            "bytes": size,
            "characters_per_token": len(text) / len(ids) if ids else None,
            "bytes_per_token": size / len(ids) if ids else None,
            "size": len(self),
        }

    def search(self, text: str, most: int = 100) -> tuple[list[ShownToken], int]:
        """(tokens that contain a text, the shortest first, how many there are)."""
        found = [id for id, shown in enumerate(self._texts) if text.lower() in shown]
        found.sort(key=lambda id: (len(self._texts[id]), id))
        return [self.token(id) for id in found[:most]], len(found)

    @cached_property
    def _texts(self) -> list[str]:
        """The text of every token, in lower case."""
        return [token_bytes(self.tokenizer, id).decode("utf-8", "replace").lower() for id in range(len(self))]
