"""Encodes a record as training would: with the recipe's objective, or with the default for its record type."""

from __future__ import annotations

from collections.abc import Callable

from bottega.batch import Row
from bottega.models.config import decoder_start_token, is_encoder, load_config, resolve_max_length
from bottega.models.source import locate
from bottega.models.tokenizer import load_tokenizer
from bottega.recipe.schema import Model, Recipe
from bottega.records import Chat, Choice, Posed, Preference, Prompted, Record, Text, TooLong, Unpaired
from bottega.tokenization.codec import Codec

EncodeRecord = Callable[[Record], list[tuple[Row, ...]]]


def create_encoder(model: str | None, recipe: Recipe | None) -> tuple[Codec, EncodeRecord]:
    """(tokenizer with the length limits of training, function that encodes a record to its examples of token rows).

    model  a run, folder or hub id; None for the model of the recipe, which must be given then
    """
    section = recipe.model if recipe and model is None else Model(base=model)
    tokenizer = load_tokenizer(section.tokenizer or locate(section.base or "").tokenizer)
    config = load_config(section, tokenizer)
    length = resolve_max_length(recipe.data.max_length if recipe else None, config)

    def create_codec(too_long: TooLong) -> Codec:
        both_ways, start = is_encoder(config), decoder_start_token(config)
        return Codec(tokenizer, max_length=length, too_long=too_long, both_ways=both_ways, decoder_start=start)

    whole_codec = create_codec(recipe.too_long if recipe else "drop")
    # The labels of a classifier or a tagger always carry loss, so its objective would reveal nothing about a record.
    # The default encoding suffices there: it tells whether the text is too long.
    if recipe and recipe.objective.head not in ("sequence", "token"):
        objective = recipe.objective
        return whole_codec, lambda record: objective.rows(record, whole_codec)
    # Plain documents are split into blocks by default, where every other record would be dropped if it is too long.
    split_codec = create_codec("split")
    return whole_codec, lambda record: _default_rows(record, split_codec if _is_document(record) else whole_codec)


def _is_document(record: Record) -> bool:
    """Whether the record is plain text without a prompt: every token of it carries loss."""
    return isinstance(record, Text) and not record.answer


def _default_rows(record: Record, codec: Codec) -> list[tuple[Row, ...]]:
    """The examples of a record under the objective its class is usually trained with."""
    if isinstance(record, Text) and not record.answer:
        # Masked and encoder–decoder models take passages with their special tokens; causal ones take blocks.
        if codec.both_ways or codec.decoder_start is not None:
            return [(codec.pooled_row(ids, 0),) for ids in codec.encode_passages(record)]
        return [(row,) for row in codec.encode_document(record)]
    if isinstance(record, Preference):
        return [codec.encode_pair(record)]
    if isinstance(record, Unpaired):
        row = codec.encode_completion(record.where, record.prompt, record.completion, record.tools, record.variables)
        return [(row,)]
    if isinstance(record, Choice):
        answer = f" {record.choices[record.gold]}"
        return [(codec.encode_completion(record.where, record.question, answer),)]
    if isinstance(record, Posed):
        return [(codec.encode_prompt_row(record, 0),)]
    if isinstance(record, (Chat, Prompted, Text)):
        return [(codec.encode_answers(record),)]
    # Texts that are classified, tagged or embedded, and records of a class that is not known here.
    return [tuple(codec.encode_every_token(record.where, text) for text in record.input_texts)]
