"""What a recipe makes of its data, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bottega.batch import Ints, Row
from bottega.data.stream import TextStream
from bottega.recipe import Recipe


@dataclass(frozen=True)
class Piece:
    """A token as text, its id, and its share in the loss (0: read only)."""

    text: str
    id: int
    weight: float


@dataclass(frozen=True)
class Preview:
    """Rows as the model sees them: an example's name, and the tokens of each of its rows."""

    examples: list[tuple[str, list[list[Piece]]]]


def preview(recipe: Recipe, rows: int = 3) -> Preview:
    """The first examples of a recipe as tokens; writes nothing and loads no weights."""
    from bottega.rows import prepare

    prepared = prepare(recipe)
    examples = prepared.train.examples[:rows]
    return Preview([(e.id, [pieces(row, prepared.tokenizer) for row in e.rows]) for e in examples])


def survey(recipe: Recipe) -> dict[str, Any]:
    """Counts over every row of a recipe, encoded: what `train --dry-run` prints."""
    from bottega.rows import prepare

    prepared = prepare(recipe)
    train, validation = prepared.train, prepared.validation
    return {
        "rows": train.rows,
        "examples": len(train.examples),
        "dropped": dict(train.dropped),
        "truncated": train.truncated,
        "tokens": int(train.examples.tokens.sum()),
        "labelled_tokens": train.examples.labelled,
        "validation_examples": len(validation.examples),
        "validation_dropped": dict(validation.dropped),
        "max_length": prepared.codec.max_length,
        "labels": prepared.labels,
    }


def pieces(row: Row, tokenizer: Any) -> list[Piece]:
    """The row's tokens, each with the weight it has as something to predict.

    What an encoder predicts of a token stands there. A label that is none of the row's own tokens (a class; the token
    after a block) is not shown. Of an encoder–decoder what is read comes first, then what is to be written.
    """
    if row.source is not None:
        return [*_shown(row.source, [0.0] * row.read, tokenizer), *_shown(row.label, row.weight.tolist(), tokenizer)]
    weight = [0.0] * len(row.tokens)
    for at, label, share in zip(row.at, row.label, row.weight, strict=True):
        if row.both_ways and (at or len(row.at) > 1):
            weight[at] = float(share)
        elif not row.both_ways and at + 1 < len(row.tokens) and row.tokens[at + 1] == label:
            weight[at + 1] = float(share)
    return _shown(row.tokens, weight, tokenizer)


def _shown(tokens: Ints, weight: Sequence[float], tokenizer: Any) -> list[Piece]:
    """Tokens with the text each adds; a character spread over several tokens stands at the last of them."""
    stream = TextStream(tokenizer, special=True)
    texts = [stream.push(token) for token in tokens.tolist()]
    texts[-1] += stream.end()
    return [Piece(*piece) for piece in zip(texts, tokens.tolist(), weight, strict=True)]
