"""The token rows that a recipe makes of its data: previewed, or counted; no model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bottega.batch import Example, Ints, Row
from bottega.models import heads
from bottega.recipe.schema import Recipe
from bottega.records import Posed
from bottega.tokenization.detokenize import TextStream
from bottega.training.dataset import Dataset, build_dataset


@dataclass(frozen=True)
class TokenPiece:
    """A token as text, its id, and its weight in the loss (0: context only).

    label  what is predicted there, if it is not this token itself: a word's tag, a text's class or number, a masked
           token
    """

    text: str
    id: int
    weight: float
    label: str = ""


@dataclass(frozen=True)
class Preview:
    """Examples as the model sees them.

    examples  (id, the tokens of each row) of each example
    labels    what each of these rows is (chosen, its class, a similarity); empty where the tokens show it
    template  the chat template that conversations were rendered with; None if there are no conversations
    notes     messages for the user about the rows
    """

    examples: list[tuple[str, list[list[TokenPiece]]]]
    labels: list[list[str]]
    template: str | None
    notes: list[str]


def preview(recipe: Recipe, rows: int = 3) -> Preview:
    """The first `rows` examples of a recipe as tokens; writes nothing and loads no weights."""
    dataset = build_dataset(recipe)
    examples = dataset.train.examples[:rows]
    shown = [
        (
            example.id,
            [token_pieces(row, dataset.tokenizer, _label_texts(row, example, recipe, dataset)) for row in example.rows],
        )
        for example in examples
    ]
    labels = [_row_labels(example, recipe, dataset) for example in examples]
    notes = [message for _, message in dataset.notes()]
    return Preview(shown, labels, dataset.template, notes)


def dry_run(recipe: Recipe) -> dict[str, Any]:
    """Counts over all encoded rows of a recipe, as `bottega train --dry-run` prints them."""
    dataset = build_dataset(recipe)
    train, validation = dataset.train, dataset.validation
    return {
        "rows": train.rows,
        "examples": len(train.examples),
        "dropped": dict(train.dropped),
        "truncated": train.truncated,
        "tokens": int(train.examples.tokens.sum()),
        "labelled_tokens": train.examples.labelled,
        "validation_examples": len(validation.examples),
        "validation_dropped": dict(validation.dropped),
        "max_length": dataset.codec.max_length,
        "labels": dataset.labels,
        "notes": [message for _, message in dataset.notes()],
    }


def token_pieces(row: Row, tokenizer: Any, label_texts: Sequence[str] | None = None) -> list[TokenPiece]:
    """The tokens of a row, each with its weight as a prediction; of an encoder–decoder the source, then the target.

    label_texts  text of each prediction [N]; None if the predictions are tokens of the row, or are not shown
    """
    if row.source is not None and label_texts is None:
        return [
            *_pieces(row.source, [0.0] * row.source_length, tokenizer),
            *_pieces(row.label, row.weight.tolist(), tokenizer),
        ]
    weights, labels = [0.0] * len(row.tokens), [""] * len(row.tokens)
    for index, (at, label, weight) in enumerate(zip(row.at, row.label, row.weight, strict=True)):
        if label_texts is not None:
            weights[at], labels[at] = float(weight), label_texts[index]
        elif row.both_ways and (at or len(row.at) > 1):
            weights[at] = float(weight)
        # A decoder predicts the token after the one it reads. Another label, such as a class, has no token to show it.
        elif not row.both_ways and at + 1 < len(row.tokens) and row.tokens[at + 1] == label:
            weights[at + 1] = float(weight)
    return _pieces(row.tokens, weights, tokenizer, labels)


def _pieces(tokens: Ints, weights: Sequence[float], tokenizer: Any, labels: Sequence[str] = ()) -> list[TokenPiece]:
    """Tokens with the text each adds; a character made of several tokens is shown at its last one."""
    stream = TextStream(tokenizer, special=True)
    texts = [stream.push(token) for token in tokens.tolist()]
    texts[-1] += stream.end()
    labels = labels or [""] * len(texts)
    return [TokenPiece(*fields) for fields in zip(texts, tokens.tolist(), weights, labels, strict=True)]


def _label_texts(row: Row, example: Example, recipe: Recipe, dataset: Dataset) -> list[str] | None:
    """The text of each prediction of a row; None if they are its own next tokens."""
    head = heads.load(recipe.objective.head)
    if head.autoregressive:
        return None
    if head.over_vocabulary:  # masked tokens
        return [_pieces(token.reshape(1), [0.0], dataset.tokenizer)[0].text for token in row.label]
    if head.is_bare:
        return [""] * len(row.at)
    if head.per_row:
        # Rows that are compared with each other have no label alone.
        return [""] if len(example.rows) > 1 else [_class_or_number(row, recipe, dataset)]
    return [dataset.labels[label] for label in row.label.tolist()]


def _class_or_number(row: Row, recipe: Recipe, dataset: Dataset) -> str:
    """The class, the classes or the number that is the label of a text."""
    if "present" in row.columns:
        return ", ".join(dataset.labels[index] for index in np.flatnonzero(row.columns["present"][0])) or "none"
    return dataset.labels[int(row.label[0])] if recipe.objective.stratify else f"{row.label[0]:g}"


def _row_labels(example: Example, recipe: Recipe, dataset: Dataset) -> list[str]:
    """What each row of an example is, where its tokens do not show it."""
    head, rows = heads.load(recipe.objective.head), example.rows
    if isinstance(example.about, Posed):
        return [f"reference: {example.about.right}" if example.about.right else ""]
    if head.is_bare:
        return [_similarity(row, index) for index, row in enumerate(rows)]
    if "desirable" in rows[0].columns:
        return ["desirable" if row.columns["desirable"][0] else "undesirable" for row in rows]
    if len(rows) == 2:
        return ["chosen", "rejected"]
    return [_class_or_number(rows[0], recipe, dataset)] if head.per_row else [""]


def _similarity(row: Row, index: int) -> str:
    """How a text relates to the first of its example, the anchor; empty for the anchor, and for texts with classes."""
    if row.columns["compared"].any():
        return f"similarity: {row.columns['score'][0]:g}"
    if not row.columns["pair"].any():
        return ""
    return "positive" if index == 1 else "negative"
