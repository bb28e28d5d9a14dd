"""Texts → token ids and character offsets, through the Rust tokenizer behind a transformers tokenizer.

What the tokens mean for training is left to the other encoders of this folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np

from bottega.batch import Ints
from bottega.records import Record, Unusable

# (text, whether offsets are included) → the tokenizer's encoding of the text with special tokens.
Encodings = Mapping[tuple[str, bool], Any]


class TextEncoder:
    """A tokenizer as a function of texts.

    max_length   tokens at which `encode_truncated` cuts
    special_ids  ids of the special tokens
    """

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        self._backend = tokenizer.backend_tokenizer
        # A truncation or padding setting stored in tokenizer.json would silently apply to every call.
        self._backend.no_truncation()
        self._backend.no_padding()
        self.special_ids = frozenset(tokenizer.added_tokens_decoder)
        self._precomputed: Encodings = {}

    def encode(self, text: str, *, special: bool = True) -> Any:
        """Encode a text: ids and offsets; `special` adds the tokens the tokenizer puts around a text."""
        encoding = self._precomputed.get((text, True)) if special else None
        try:
            return encoding or self._backend.encode(text, add_special_tokens=special)
        except Exception as error:  # the tokenizers library raises nothing narrower
            raise Unusable(f"the tokenizer cannot encode it: {error}") from None

    def encode_ids(self, text: str) -> Ints:
        """Encode a text to token ids [t], special tokens included."""
        text = self.remove_bos(text)
        # Without offsets, which are half of the work, where the encoding was computed ahead.
        return np.array((self._precomputed.get((text, False)) or self.encode(text)).ids, np.int64)

    def encode_truncated(self, text: str) -> Any:
        """Encode a text cut at `max_length` tokens; the special tokens at its end are kept."""
        return self._truncating_backend.encode(text)

    @cached_property
    def _truncating_backend(self) -> Any:
        # A copy: truncation is a setting of the tokenizer, which may be encoding ahead in another thread.
        backend = deepcopy(self._backend)
        backend.enable_truncation(self.max_length, direction=self.tokenizer.truncation_side)
        return backend

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Start and end character of each token of a text, special tokens not added."""
        offsets: list[tuple[int, int]] = self.encode(text, special=False).offsets
        return offsets

    def special_spans(self, text: str) -> list[tuple[int, int, int]]:
        """(token, start, end) of each special token written out in a text."""
        try:
            encoding = self.encode(text, special=False)
        except Unusable:
            # A character tokenizer without an unknown token cannot encode what a template writes: no token ends there.
            return []
        pairs = zip(encoding.ids, encoding.offsets, strict=True)
        return [(token, start, end) for token, (start, end) in pairs if token in self.special_ids]

    def remove_bos(self, text: str) -> str:
        """Remove a BOS written out in the text where the tokenizer adds one itself."""
        bos = self._bos
        return text[len(bos) :] if bos and text.startswith(bos) and self._adds_bos else text

    @cached_property
    def _bos(self) -> str | None:
        # Once, since a tokenizer looks such an attribute up among all its special tokens.
        token: str | None = self.tokenizer.bos_token
        return token

    @cached_property
    def _adds_bos(self) -> bool:
        first: list[int] = self._backend.encode("a").ids[:1]
        return first == [self.tokenizer.bos_token_id]

    def encode_ahead(self, records: Sequence[Record]) -> Encodings:
        """Encode the texts of many records in two calls, on all cores; pass the result to `precomputed`.

        Conversations are left out: their text is not known before their template renders it. Texts in which no answer
        has to be located are encoded without offsets, at half the cost. Empty if any text cannot be encoded.
        """
        texts = chain.from_iterable(record.texts_to_encode() for record in records)
        # Without duplicates, in order.
        requests = list(dict.fromkeys((self.remove_bos(text), offsets) for text, offsets in texts))
        located, bare = ([text for text, offsets in requests if offsets is wanted] for wanted in (True, False))
        try:
            encodings = [*self._backend.encode_batch(located), *self._backend.encode_batch_fast(bare)]
        except Exception:  # some text cannot be encoded; the error is reported when its own record is encoded
            return {}
        keys = chain(((text, True) for text in located), ((text, False) for text in bare))
        return dict(zip(keys, encodings, strict=True))

    @contextmanager
    def precomputed(self, encodings: Encodings) -> Iterator[None]:
        """Use these encodings inside the `with` block instead of computing them again."""
        self._precomputed = encodings
        try:
            yield
        finally:
            self._precomputed = {}
