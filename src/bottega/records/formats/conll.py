"""Tokens with one tag each, as in CoNLL files: B-, I- (or M-, L-, E-) inside an entity, S- or U- for one token, O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from bottega.errors import DataError
from bottega.records.field_names import TAG_FIELDS, TOKEN_FIELDS
from bottega.records.fields import Column, Fields, parse_integer, require_string
from bottega.records.formats import Format, RequiredFields
from bottega.records.labels import Entity, Tagged
from bottega.records.record import Record

# Prefixes of tags: Begin, Inside, Last, End, Single, Unit, Middle.
TAG_PREFIXES = "BILESUM"


class ConllFormat(Format):
    record: ClassVar[type[Record]] = Tagged
    required: ClassVar[RequiredFields] = (TOKEN_FIELDS, TAG_FIELDS)
    rank: ClassVar[int] = 120

    def build(self, where: str, fields: Fields) -> Record:
        tokens, tags = fields["tokens"], fields["tags"]
        if isinstance(tokens, str) and isinstance(tags, str):  # a cell of a table
            tokens, tags = tokens.split(), tags.split()
        if not isinstance(tokens, list) or not isinstance(tags, list) or len(tokens) != len(tags) or not tokens:
            raise DataError(
                "not as many tags as tokens", where=f"{where}, field tags", fix="write a tag for each token"
            )
        spans: list[Entity] = []
        text = open_label = ""  # `open_label`: label of the entity that the next token may continue
        for index, (token, tag) in enumerate(zip(tokens, tags, strict=True)):
            location = _token_location(where, tags, index)
            token = require_string(location, {"tokens": token}, "tokens")
            start = len(text) + bool(text)
            text += f" {token}" if text else token
            prefix, label = _split_tag(location, tag)
            if prefix in "ILEM" and open_label == label:
                spans[-1] = spans[-1]._replace(stop=len(text))
            elif prefix != "O":
                spans.append(Entity(start, len(text), label))
            # After O nothing is open; L and E end an entity, S and U are whole ones.
            open_label = "" if prefix in "OLESU" else label
        return Tagged(where, text, tuple(spans))


def _token_location(where: str, tags: Sequence[Any], index: int) -> str:
    """The location of a token of a sentence: a line of its own, in a file with one token per line."""
    file, space, line = where.rpartition(" ")
    return f"{file}{space}{tags.line + index}" if isinstance(tags, Column) and line.isdecimal() else where


def _split_tag(where: str, tag: Any) -> tuple[str, str]:
    """(prefix, label) of a tag; the label of O is empty."""
    if parse_integer(tag) is not None or tag is None:
        fix = "name the tags: a saved dataset or a Parquet file may in its features; or write B-label, I-label, O"
        # -1 is how datasets mark a missing label.
        what = "no tag" if tag is None or parse_integer(tag) == -1 else f"tag {tag!r} is a number without a name"
        raise DataError(what, where=f"{where}, field tags", fix=fix)
    prefix, _, label = require_string(where, {"tags": tag}, "tags").strip().partition("-")
    if prefix == "O" and not label:
        return prefix, label
    if len(prefix) != 1 or prefix not in TAG_PREFIXES or not label:
        fix = "write O, B-label or I-label: what follows the dash is the label (schemes BIO, BIOES, BILOU, BMES)"
        raise DataError(f"tag {tag!r}", where=f"{where}, field tags", fix=fix)
    return prefix, label.strip()
