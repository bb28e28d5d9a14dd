"""Tokens with a role in training objectives: mask, fill-in-the-middle, span sentinels, and what frames a text.

Tokens that end a turn depend on the chat template: see `chat_spans`.
"""

from __future__ import annotations

from functools import cached_property
from itertools import takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bottega.batch import Ints
from bottega.errors import ModelError
from bottega.tokenization.text_encoder import TextEncoder

# Names of the (prefix, suffix, middle) tokens in the tokenizers that have them:
# Qwen, StarCoder, SantaCoder, Code Llama, Codestral.
FIM_TOKENS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
    ("[PREFIX]", "[SUFFIX]", "[MIDDLE]"),
)


class SpecialTokens:
    """The ids of a tokenizer's special tokens by role, computed when first used."""

    def __init__(self, tokenizer: Any, encoder: TextEncoder) -> None:
        self.tokenizer, self._encoder = tokenizer, encoder
        self.eos: int | None = tokenizer.eos_token_id

    @cached_property
    def frame(self) -> tuple[Ints, Ints]:
        """The tokens that the tokenizer adds before a text, and those it adds after it."""
        # Read off a text of one letter: the post-processor that adds them has no interface to ask.
        encoding = self._encoder.encode("a")
        added = encoding.special_tokens_mask
        first, last = added.index(0), len(added) - added[::-1].index(0)
        return np.array(encoding.ids[:first], np.int64), np.array(encoding.ids[last:], np.int64)

    def add_frame(self, ids: Ints) -> Ints:
        """Put the tokens of a text between those that the tokenizer adds around a text."""
        before, after = self.frame
        return np.concatenate([before, ids, after])

    def remove_frame(self, ids: Ints) -> Ints:
        """The inverse of `add_frame`."""
        before, after = self.frame
        return ids[len(before) : len(ids) - len(after)]

    @cached_property
    def mask(self) -> int:
        """The mask token; a ModelError where the tokenizer has none."""
        token = self.tokenizer.mask_token_id
        if token is None:
            raise ModelError(
                "the tokenizer has no mask token",
                where="model.tokenizer",
                fix="train one that has: bottega tokenizer train FILES --kind wordpieces",
            )
        return int(token)

    @cached_property
    def fim(self) -> tuple[int, int, int]:
        """The fill-in-the-middle tokens (prefix, suffix, middle); a ModelError where the tokenizer has none."""
        vocabulary = self.tokenizer.get_vocab()
        for names in FIM_TOKENS:
            if all(name in vocabulary for name in names):
                prefix, suffix, middle = (vocabulary[name] for name in names)
                return prefix, suffix, middle
        raise ModelError(
            f"the tokenizer has no fill-in-the-middle tokens, such as {FIM_TOKENS[0][0]}",
            where="model.tokenizer",
            fix="train one that has: bottega tokenizer train FILES --fim; or leave out objective.fim",
        )

    @cached_property
    def sentinels(self) -> Ints:
        """T5's sentinel tokens <extra_id_0>, <extra_id_1> … in order; a ModelError where the tokenizer has none."""
        vocabulary = self.tokenizer.get_vocab()
        candidates = (f"<extra_id_{number}>" for number in range(len(vocabulary)))
        # Only an unbroken sequence counts: span k needs the sentinels 0 to k.
        names = list(takewhile(lambda name: name in vocabulary, candidates))
        if not names:
            raise ModelError(
                "the tokenizer has no sentinel tokens for span corruption, such as <extra_id_0>",
                where="model.tokenizer",
                fix="train one that has: bottega tokenizer train FILES --span",
            )
        return np.array([vocabulary[name] for name in names])

    @cached_property
    def is_text(self) -> NDArray[np.bool_]:
        """[V] whether a token is part of texts, and not a special token."""
        is_text = np.ones(len(self.tokenizer), np.bool_)
        # All added tokens count as special, also those that are not marked so.
        is_text[list(self._encoder.special_ids)] = False
        return is_text

    @cached_property
    def text_tokens(self) -> Ints:
        """All tokens that are not special."""
        return np.flatnonzero(self.is_text)

    @cached_property
    def continues_word(self) -> NDArray[np.bool_]:
        """[V] whether a token continues the word of the token before it."""
        tokens = self.tokenizer.convert_ids_to_tokens(range(len(self.tokenizer)))
        # WordPiece marks what continues a word ("##ing"), byte-level BPE and SentencePiece what begins one.
        prefix = getattr(self.tokenizer.backend_tokenizer.model, "continuing_subword_prefix", None)
        if prefix:
            return np.array([token.startswith(prefix) for token in tokens])
        return np.array([not token.startswith(("Ġ", "▁")) for token in tokens])
