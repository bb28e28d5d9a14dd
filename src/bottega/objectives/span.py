"""Span corruption (Raffel et al. 2020, arXiv 1910.10683): an encoder–decoder writes what was left out of a text."""

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


MIN_TOKENS = 2
"""Tokens of a text of which one can be left out."""


class Span(Likelihood):
    """Mean negative log-likelihood a token of what was left out, each span behind the token that stands for it.

    share            of the tokens that is left out
    length           mean length of what is left out together, in tokens
    dynamic          other spans each time a text is taken, or always the same, as validation has
    label_smoothing  share of the likelihood that is spread evenly over the vocabulary, in training only
    """

    reads: ClassVar[tuple[type, ...]] = (Text,)
    can_split: ClassVar[bool] = True
    lr: ClassVar[tuple[float, float]] = (1e-3, 5e-4)

    kind: Literal["span"] = "span"
    share: float = Field(0.15, gt=0, lt=1)
    length: float = Field(3.0, ge=1)
    dynamic: bool = True

    def rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        assert isinstance(record, Text)
        if codec.decoder_start is None:
            raise ModelError(
                "the model has no encoder beside its decoder",
                where="model",
                fix="use one that has, such as t5; or objective: {kind: causal, fim: 0.5}, or masked",
            )
        passages = [
            ids for ids in codec.encode_passages(record) if codec.special_tokens.is_text[ids].sum() >= MIN_TOKENS
        ]
        if not passages:
            raise Unusable("shorter than two tokens")
        return [(self._always(ids, codec),) for ids in passages]

    def window_tokens(self, row: Row, codec: Codec) -> Ints:
        return codec.special_tokens.remove_frame(_original_tokens(row, codec))

    def window_row(self, tokens: Ints, codec: Codec) -> Row | None:
        enough = codec.special_tokens.is_text[tokens].sum() >= MIN_TOKENS
        return self._always(codec.special_tokens.add_frame(tokens), codec) if enough else None

    def augment(self, example: Example, codec: Codec, seed: int) -> Example:
        if not self.dynamic:
            return example
        (row,) = example.rows
        return Example(example.id, (self._corrupted(_original_tokens(row, codec), codec, seed),))

    def _always(self, ids: Ints, codec: Codec) -> Row:
        """The row of a text as it is corrupted where nothing says otherwise: always in the same way."""
        return self._corrupted(ids, codec, derive(0, "span", *ids.tolist()))

    def _corrupted(self, ids: np.ndarray, codec: Codec, seed: int) -> Row:
        draw = np.random.default_rng(seed)
        last = len(ids) - int(not codec.special_tokens.is_text[ids[-1]])
        inner, end = ids[:last], ids[last:]
        out = int(np.clip(round(self.share * len(inner)), 1, len(inner) - 1))
        spans = int(
            np.clip(round(out / self.length), 1, min(out, len(inner) - out, len(codec.special_tokens.sentinels) - 1))
        )
        kept, left_out = _random_lengths(len(inner) - out, spans, draw), _random_lengths(out, spans, draw)
        read, written, place = list[np.ndarray](), list[np.ndarray](), 0
        for number, (stays, goes) in enumerate(zip(kept, left_out, strict=True)):
            mark = codec.special_tokens.sentinels[number : number + 1]
            read += [inner[place : place + stays], mark]
            written += [mark, inner[place + stays : place + stays + goes]]
            place += stays + goes
        label = np.concatenate([*written, codec.special_tokens.sentinels[spans : spans + 1], end])
        return codec.encoder_decoder_row("", np.concatenate([*read, end]), label, np.ones(len(label), np.float32))


def _random_lengths(total: int, count: int, draw: np.random.Generator) -> np.ndarray:
    """[count] lengths of at least 1 that add up to `total`, all divisions as likely."""
    cuts = np.sort(draw.choice(total - 1, count - 1, replace=False)) + 1
    return np.diff(cuts, prepend=0, append=total)


def _original_tokens(row: Row, codec: Codec) -> np.ndarray:
    """The text a row was made of."""
    assert row.source is not None
    marks = set(codec.special_tokens.sentinels.tolist())
    spans, mark = dict[int, list[int]](), -1
    for token in row.label.tolist():
        if token in marks:
            mark = token
            spans[mark] = []
        else:
            spans[mark].append(token)
    whole = [part for token in row.source.tolist() for part in (spans[token] if token in marks else [token])]
    return np.array(whole)
