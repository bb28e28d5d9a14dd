"""Span corruption (Raffel et al. 2020, arXiv 1910.10683): an encoder–decoder restores spans removed from a text."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from bottega.batch import Example, Ints, Row
from bottega.errors import ModelError
from bottega.objectives import Likelihood
from bottega.records import Record, Text, Unusable
from bottega.seeding import derive

if TYPE_CHECKING:
    from bottega.tokenization.codec import Codec

# Fewer tokens than this cannot be corrupted: one must be removed and one must remain.
MIN_TOKENS = 2


class Span(Likelihood):
    """Span corruption: the mean of −log p(token) over removed spans, each introduced by the sentinel in its place.

    "Thank you <X> me to your party <Y> week." is read, "<X> for inviting <Y> last <Z>" is predicted.
    """

    reads: ClassVar[tuple[type, ...]] = (Text,)
    can_split: ClassVar[bool] = True
    lr: ClassVar[tuple[float, float]] = (1e-3, 5e-4)

    kind: Literal["span"] = "span"
    share: float = Field(0.15, gt=0, lt=1, description="Corruption rate: fraction of the tokens that are removed.")
    length: float = Field(3.0, ge=1, description="Mean length of a removed span, in tokens.")
    dynamic: bool = Field(
        True, description="Remove other spans each time a text is seen; false: always the same, as in validation."
    )

    def rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        assert isinstance(record, Text)
        if codec.decoder_start is None:
            raise ModelError(
                "span needs an encoder–decoder model",
                where="model",
                fix="use one such as t5; or objective: {kind: causal, fim: 0.5}, or masked",
            )
        passages = [ids for ids in codec.encode_passages(record) if _count_text_tokens(ids, codec) >= MIN_TOKENS]
        if not passages:
            raise Unusable("shorter than two tokens")
        return [(self._fixed_row(ids, codec),) for ids in passages]

    def window_tokens(self, row: Row, codec: Codec) -> Ints:
        return codec.special_tokens.remove_frame(_original_tokens(row, codec))

    def window_row(self, tokens: Ints, codec: Codec) -> Row | None:
        if _count_text_tokens(tokens, codec) < MIN_TOKENS:
            return None
        return self._fixed_row(codec.special_tokens.add_frame(tokens), codec)

    def augment(self, example: Example, codec: Codec, seed: int) -> Example:
        if not self.dynamic:
            return example
        (row,) = example.rows
        return Example(example.id, (self._corrupted_row(_original_tokens(row, codec), codec, seed),))

    def _fixed_row(self, ids: Ints, codec: Codec) -> Row:
        """The row of a text outside training updates: seeded by its tokens, so it is corrupted alike in every run."""
        return self._corrupted_row(ids, codec, derive(0, "span", *ids.tolist()))

    def _corrupted_row(self, ids: Ints, codec: Codec, seed: int) -> Row:
        """The row of a text [t] without random spans, which are to be predicted."""
        rng = np.random.default_rng(seed)
        sentinels = codec.special_tokens.sentinels
        # T5's tokenizer ends a text with EOS, which is never removed and ends both sides.
        text_end = len(ids) - int(not codec.special_tokens.is_text[ids[-1]])
        text, end = ids[:text_end], ids[text_end:]
        # At least one token is removed and one remains.
        removed_tokens = int(np.clip(round(self.share * len(text)), 1, len(text) - 1))
        # Each span needs a token of its own, a token before it that remains, and a sentinel; one more sentinel ends
        # the last span.
        most = min(removed_tokens, len(text) - removed_tokens, len(sentinels) - 1)
        spans = int(np.clip(round(removed_tokens / self.length), 1, most))
        # Spans that remain and spans that are removed alternate, beginning with one that remains.
        kept = _random_lengths(len(text) - removed_tokens, spans, rng)
        removed = _random_lengths(removed_tokens, spans, rng)
        source, target, start = list[np.ndarray](), list[np.ndarray](), 0
        for index, (kept_length, removed_length) in enumerate(zip(kept, removed, strict=True)):
            sentinel, cut = sentinels[index : index + 1], start + kept_length
            source += [text[start:cut], sentinel]
            target += [sentinel, text[cut : cut + removed_length]]
            start = cut + removed_length
        label = np.concatenate([*target, sentinels[spans : spans + 1], end])  # [n]
        return codec.encoder_decoder_row("", np.concatenate([*source, end]), label, np.ones(len(label), np.float32))


def _count_text_tokens(ids: Ints, codec: Codec) -> int:
    return int(codec.special_tokens.is_text[ids].sum())


def _random_lengths(total: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """[count] lengths of at least 1 that add up to `total`, every division equally likely."""
    # Choosing count − 1 of the total − 1 gaps between tokens is choosing a division.
    cuts = np.sort(rng.choice(total - 1, count - 1, replace=False)) + 1
    return np.diff(cuts, prepend=0, append=total)


def _original_tokens(row: Row, codec: Codec) -> np.ndarray:
    """[t] the tokens of the text before it was corrupted: each sentinel it reads replaced by the span it stands for."""
    assert row.source is not None
    sentinels = set(codec.special_tokens.sentinels.tolist())
    spans, sentinel = dict[int, list[int]](), -1
    for token in row.label.tolist():
        if token in sentinels:
            sentinel = token
            spans[sentinel] = []
        else:
            spans[sentinel].append(token)
    restored = [spans[token] if token in sentinels else [token] for token in row.source.tolist()]
    return np.array([token for span in restored for token in span])
