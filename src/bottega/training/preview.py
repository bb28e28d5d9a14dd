"""What a recipe makes of its data, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bottega.batch import Example, Ints, Row
from bottega.recipe.schema import Recipe
from bottega.records import Posed
from bottega.tokenization.detokenize import TextStream

if TYPE_CHECKING:
    from bottega.training.dataset import Dataset


@dataclass(frozen=True)
class TokenPiece:
    """A token as text, its id, and its share in the loss (0: read only).

    label  what is to be said of it: a word's tag, a text's class or number; what stood at a place that is covered
    """

    text: str
    id: int
    weight: float
    label: str = ""


@dataclass(frozen=True)
class Preview:
    """Rows as the model sees them.

    examples  an example's name, and the tokens of each of its rows
    labels    what each of these rows is, in words: chosen, its class, how alike; empty where its tokens say all
    template  the chat template that conversations were rendered with; None where there were none
    notes     what a user should know of them
    """

    examples: list[tuple[str, list[list[TokenPiece]]]]
    labels: list[list[str]]
    template: str | None
    notes: list[str]


def preview(recipe: Recipe, rows: int = 3) -> Preview:
    """The first examples of a recipe as tokens; writes nothing and loads no weights."""
    from bottega.training.dataset import build_dataset

    prepared = build_dataset(recipe)
    examples = prepared.train.examples[:rows]
    shown = [
        (e.id, [pieces(row, prepared.tokenizer, _said(row, e, recipe, prepared)) for row in e.rows]) for e in examples
    ]
    labels = [_labels(example, recipe, prepared) for example in examples]
    notes = [message for _, message in prepared.notes()]
    return Preview(shown, labels, prepared.template, notes)


def dry_run(recipe: Recipe) -> dict[str, Any]:
    """Counts over every row of a recipe, encoded: what `train --dry-run` prints."""
    from bottega.training.dataset import build_dataset

    prepared = build_dataset(recipe)
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
        "notes": [message for _, message in prepared.notes()],
    }


def pieces(row: Row, tokenizer: Any, said: Sequence[str] | None = None) -> list[TokenPiece]:
    """The row's tokens, each with the weight it has as something to predict.

    said  what each prediction says, in words; without it, a label that is none of the row's own tokens (a class; the
          token after a block) is not shown

    What an encoder predicts of a token stands there. Of an encoder–decoder what is read comes first, then what is to
    be written.
    """
    if row.source is not None and said is None:
        return [
            *_shown(row.source, [0.0] * row.source_length, tokenizer),
            *_shown(row.label, row.weight.tolist(), tokenizer),
        ]
    weight, labels = [0.0] * len(row.tokens), [""] * len(row.tokens)
    for place, (at, label, share) in enumerate(zip(row.at, row.label, row.weight, strict=True)):
        if said is not None:
            weight[at], labels[at] = float(share), said[place]
        elif row.both_ways and (at or len(row.at) > 1):
            weight[at] = float(share)
        elif not row.both_ways and at + 1 < len(row.tokens) and row.tokens[at + 1] == label:
            weight[at + 1] = float(share)
    return _shown(row.tokens, weight, tokenizer, labels)


def _shown(tokens: Ints, weight: Sequence[float], tokenizer: Any, labels: Sequence[str] = ()) -> list[TokenPiece]:
    """Tokens with the text each adds; a character spread over several tokens stands at the last of them."""
    stream = TextStream(tokenizer, special=True)
    texts = [stream.push(token) for token in tokens.tolist()]
    texts[-1] += stream.end()
    labels = labels or [""] * len(texts)
    return [TokenPiece(*piece) for piece in zip(texts, tokens.tolist(), weight, labels, strict=True)]


def _said(row: Row, example: Example, recipe: Recipe, prepared: Dataset) -> list[str] | None:
    """What each prediction of a row says where that is no token to come; None of a model that writes."""
    head = recipe.objective.head
    if head == "masked":
        return [_shown(token.reshape(1), [0.0], prepared.tokenizer)[0].text for token in row.label]
    if head == "token":
        return [prepared.labels[label] for label in row.label.tolist()]
    if head == "embedding":
        return [""] * len(row.at)
    if head == "sequence":
        return [""] if len(example.rows) > 1 else [_of_text(row, recipe, prepared)]
    return None


def _of_text(row: Row, recipe: Recipe, prepared: Dataset) -> str:
    """The class of a text, or its classes, or its number."""
    if "present" in row.columns:
        return ", ".join(prepared.labels[at] for at in np.flatnonzero(row.columns["present"][0])) or "none"
    return prepared.labels[int(row.label[0])] if recipe.objective.stratify else f"{row.label[0]:g}"


def _labels(example: Example, recipe: Recipe, prepared: Dataset) -> list[str]:
    """What each row of an example is, beside its tokens."""
    head, rows = recipe.objective.head, example.rows
    if isinstance(example.about, Posed):
        return [f"right: {example.about.right}" if example.about.right else ""]
    if head == "embedding":
        return [_likened(row, place) for place, row in enumerate(rows)]
    if "desirable" in rows[0].columns:
        return ["good" if row.columns["desirable"][0] else "bad" for row in rows]
    if len(rows) == 2:
        return ["chosen", "rejected"]
    return [_of_text(rows[0], recipe, prepared)] if head == "sequence" else [""]


def _likened(row: Row, place: int) -> str:
    if row.columns["compared"].any():
        return f"alike: {row.columns['score'][0]:g}"
    return "" if not row.columns["pair"].any() else "belongs to the first" if place == 1 else "does not belong to it"
