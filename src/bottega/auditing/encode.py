"""How training would encode a record: by a recipe's own objective, or as its kind of row usually is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bottega.batch import Row
from bottega.models.config import is_encoder, load_config, max_length, start_token
from bottega.models.source import locate
from bottega.models.tokenizer import load_tokenizer
from bottega.recipe.schema import Model, Recipe
from bottega.records import (
    Choice,
    Compared,
    Labelled,
    Multilabelled,
    Paired,
    Posed,
    Preference,
    Record,
    Tagged,
    Text,
    TooLong,
    Unpaired,
)
from bottega.tokenization.codec import Codec

Rows = Callable[[Record], list[tuple[Row, ...]]]


def encoder(model: str | None, recipe: Recipe | None) -> tuple[Codec, Rows]:
    """The tokenizer of a model, or of a recipe's, with the limits training would have, and what it makes of records."""
    section = recipe.model if recipe and model is None else Model(base=model)
    tokenizer = load_tokenizer(section.tokenizer or locate(section.base or "").tokenizer)
    config = load_config(section, tokenizer)
    length = max_length(recipe.data.max_length if recipe else None, config)

    def codec(too_long: TooLong) -> Codec:
        both_ways, start = is_encoder(config), start_token(config)
        return Codec(tokenizer, max_length=length, too_long=too_long, both_ways=both_ways, decoder_start=start)

    whole = codec(recipe.too_long if recipe else "drop")
    # A classifier's or a tagger's labels carry loss whatever they are: the text is what may be too long.
    if recipe and recipe.objective.head not in ("class", "token"):
        objective = recipe.objective
        return whole, lambda record: objective.rows(record, whole)
    split = codec("split")
    return whole, lambda record: _usual(record, split if isinstance(record, Text) and not record.answer else whole)


def _usual(record: Any, codec: Codec) -> list[tuple[Row, ...]]:
    """The rows of a record where no objective says otherwise."""
    if isinstance(record, Text) and not record.answer:
        if codec.both_ways or codec.decoder_start is not None:
            return [(codec.pooled_row(ids, 0),) for ids in codec.encode_passages(record)]
        return [(row,) for row in codec.encode_document(record)]
    if isinstance(record, Preference):
        return [_apart(codec, record.where, *codec.encode_pair(record))]
    if isinstance(record, Unpaired):
        row = codec.encode_completion(record.where, record.prompt, record.completion, record.tools, record.variables)
        return [_apart(codec, record.where, row)]
    if isinstance(record, Choice):
        answer = f" {record.choices[record.gold]}"
        return [_apart(codec, record.where, codec.encode_completion(record.where, record.question, answer))]
    if isinstance(record, Posed):
        return [(codec.encode_prompt_row(record, 0),)]
    if isinstance(record, (Paired, Compared)):
        return [tuple(codec.encode_every_token(record.where, text) for text in record.texts)]
    if isinstance(record, (Labelled, Multilabelled, Tagged)):
        return [(codec.encode_every_token(record.where, record.text),)]
    return [_apart(codec, record.where, codec.encode_answers(record))]


def _apart(codec: Codec, where: str, *rows: Row) -> tuple[Row, ...]:
    """The rows as an encoder–decoder has them; of any other model as they are."""
    return rows if codec.decoder_start is None else tuple(codec.split_last_answer(where, row) for row in rows)
