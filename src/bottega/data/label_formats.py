"""Parsing rows with labels, spans, tags, and text pairs with a similarity."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from bottega.data.fields import Column, Fields, parse_integer, require_string
from bottega.errors import DataError
from bottega.records import Compared, Entity, Labelled, Multilabelled, Paired, Record, Tagged, label_name

# Field names of the negatives of an anchor: `negatives`, `neg`, `hard_negative_1` …
NEGATIVE = re.compile(r"(?:hard_)?neg(?:ative)?s?(?:_?\d+)?")

# Prefixes of tags: Begin, Inside, Last, End, Single, Unit, Middle.
MARKS = "BILESUM"

STARTS = ("start", "begin", "start_offset", "startOffset", "start_char", "start_idx", "offset")
STOPS = ("end", "stop", "end_offset", "endOffset", "end_char", "end_idx")
# Keys of annotation tools for the label of a span.
KINDS = ("label", "labels", "type", "tag", "entity", "entity_group", "entity_type", "category")


# Labels


def labelled(where: str, fields: Fields) -> Record:
    return Labelled(where, require_string(where, fields, "text"), _label(where, fields["label"], "label"))


def labelled_pair(where: str, fields: Fields) -> Record:
    """Two texts with one label of both: the one, a line break, and the other."""
    first, second = (require_string(where, fields, name) for name in ("sentence1", "sentence2"))
    return Labelled(where, f"{first}\n{second}", _label(where, fields["label"], "label"))


def _label(where: str, value: Any, name: str) -> str:
    """The normalized name of a label; a DataError if the value is no label."""
    found = label_name(value)
    if found is None and (value is None or isinstance(value, float)):
        fix = "label the row, or leave such rows out with data.bad_rows=drop"
        raise DataError(f"no {name}", where=f"{where}, field {name}", fix=fix)
    return require_string(where, {name: value if found is None else found}, name)


def multilabelled(where: str, fields: Fields) -> Record:
    """A text with a list of labels."""
    labels = fields["labels"]
    if not isinstance(labels, list):
        raise DataError("labels is not a list", where=f"{where}, field labels", fix='write ["one", "other"], or []')
    named = [_label(where, label, "labels") for label in labels]
    return Multilabelled(where, require_string(where, fields, "text"), tuple(dict.fromkeys(named)))


# Spans and tags


def spans(where: str, fields: Fields) -> Record:
    """A text with spans, each `{start, end, label}` or `[start, end, label]` in characters."""
    if "spans" not in fields:
        fields = _annotated(where, fields)
    text, given = require_string(where, fields, "text"), fields["spans"]
    given = given.get("entities") if isinstance(given, dict) else given
    if not isinstance(given, list):
        raise DataError(
            "spans is not a list", where=f"{where}, field spans", fix='write [{"start": 0, "end": 5, "label": …}]'
        )
    found = sorted({_span(f"{where}, field spans[{index}]", span, text) for index, span in enumerate(given)})
    for one, other in pairwise(found):
        if other.start < one.stop:
            raise DataError(
                f"spans {tuple(one)} and {tuple(other)} overlap", where=f"{where}, field spans", fix="keep one of them"
            )
    return Tagged(where, text, tuple(found))


def are_spans(value: Any) -> bool:
    """Whether a value is a list of spans rather than of labels."""
    if isinstance(value, dict):
        return "entities" in value
    return isinstance(value, list) and bool(value) and all(isinstance(one, (dict, list)) for one in value)


def _annotated(where: str, fields: Fields) -> Fields:
    """Label Studio's rows: `data` holds the text, the first of `annotations` what was marked in it."""
    data, given = fields["data"], fields["annotations"]
    texts = [value for value in data.values() if isinstance(value, str)] if isinstance(data, dict) else []
    known = [one for one in given if isinstance(one, dict)] if isinstance(given, list) else []
    done = [one for one in known if not one.get("was_cancelled")]
    results = done[0].get("result", []) if done else None
    if not texts or not isinstance(results, list) or not all(isinstance(one, dict) for one in results):
        fix = 'write {"data": {"text": …}, "annotations": [{"result": […]}]}; an empty result marks nothing'
        raise DataError("no annotated text", where=f"{where}, field data", fix=fix)
    return {"text": data.get("text", texts[0]), "spans": [one["value"] for one in results if "value" in one]}


def _span(where: str, span: Any, text: str) -> Entity:
    """One span, without surrounding white space: tokens of white space carry no tag."""
    if isinstance(span, list) and len(span) == 3:
        names = ("label", "start", "end") if isinstance(span[0], str) else ("start", "end", "label")
        span = dict(zip(names, span, strict=True))
    known: Mapping[str, Any] = span if isinstance(span, dict) else {}
    start, stop, kind = parse_integer(_named(known, STARTS)), parse_integer(_named(known, STOPS)), _named(known, KINDS)
    length = parse_integer(known.get("length"))
    stop = start + length if stop is None and start is not None and length is not None else stop
    kind = kind[0] if isinstance(kind, list) and len(kind) == 1 else kind
    label = label_name(kind)
    if start is None or stop is None or label is None or not 0 <= start < stop <= len(text):
        raise DataError(
            f"span {_shown(span)} is none of this text",
            where=where,
            fix='write {"start": …, "end": …, "label": …}, in characters, the end after the last',
        )
    marked = text[start:stop]
    if not marked.strip():
        raise DataError(f"span {_shown(span)} marks nothing but white space", where=where, fix="remove it, or mend it")
    said = known.get("text")
    if isinstance(said, str) and "".join(said.split()) != "".join(marked.split()):
        what = f"the span says it is {_shown(said)}, and these characters are {_shown(marked)}"
        raise DataError(what, where=where, fix="count in characters, not bytes, from 0; the end is after the last")
    start += len(marked) - len(marked.lstrip())
    return Entity(start, start + len(marked.strip()), require_string(where, {"label": label}, "label"))


def _named(known: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((known[name] for name in names if name in known), None)


def _shown(value: Any) -> str:
    """A value as rows write it; half characters, which nothing prints, by their numbers."""
    shown = json.dumps(value, ensure_ascii=False, default=str).encode(errors="backslashreplace").decode()
    return shown if len(shown) <= 200 else f"{shown[:200]}…"


def conll(where: str, fields: Fields) -> Record:
    """Tokens with a tag each: B-, I- (or M-, L-, E-) inside an entity, S- or U- for one alone, O outside."""
    tokens, tags = fields["tokens"], fields["tags"]
    if isinstance(tokens, str) and isinstance(tags, str):  # as a table writes them
        tokens, tags = tokens.split(), tags.split()
    if not isinstance(tokens, list) or not isinstance(tags, list) or len(tokens) != len(tags) or not tokens:
        raise DataError("not as many tags as tokens", where=f"{where}, field tags", fix="write a tag for each token")
    spans: list[Entity] = []
    text = inside = ""
    for place, (token, tag) in enumerate(zip(tokens, tags, strict=True)):
        here = _place(where, tags, place)
        token = require_string(here, {"tokens": token}, "tokens")
        start = len(text) + bool(text)
        text += f" {token}" if text else token
        mark, label = _tag(here, tag)
        if mark in "ILEM" and inside == label:
            spans[-1] = spans[-1]._replace(stop=len(text))
        elif mark != "O":
            spans.append(Entity(start, len(text), label))
        inside = "" if mark in "OLESU" else label
    return Tagged(where, text, tuple(spans))


def _place(where: str, tags: Sequence[Any], place: int) -> str:
    """Where a token of a sentence stands: its own line, in a file of a token a line."""
    file, blank, line = where.rpartition(" ")
    return f"{file}{blank}{tags.line + place}" if isinstance(tags, Column) and line.isdecimal() else where


def _tag(where: str, tag: Any) -> tuple[str, str]:
    """(mark, kind) of a tag."""
    if parse_integer(tag) is not None or tag is None:
        fix = "name the tags: a saved dataset or a Parquet file may in its features; or write B-label, I-label, O"
        what = "no tag" if tag is None or parse_integer(tag) == -1 else f"tag {tag!r} is a number without a name"
        raise DataError(what, where=f"{where}, field tags", fix=fix)
    mark, _, label = require_string(where, {"tags": tag}, "tags").strip().partition("-")
    if mark == "O" and not label:
        return mark, label
    if len(mark) != 1 or mark not in MARKS or not label:
        fix = "write O, B-label or I-label: what follows the dash is the label (schemes BIO, BIOES, BILOU, BMES)"
        raise DataError(f"tag {tag!r}", where=f"{where}, field tags", fix=fix)
    return mark, label.strip()


# Text pairs


def paired(where: str, fields: Fields) -> Record:
    """A text and one that belongs to it, with what does not: `negatives`, `neg`, `negative_1` …"""
    given = [value for name, value in fields.items() if NEGATIVE.fullmatch(name) and value is not None]
    listed = [one for value in given for one in (value if isinstance(value, list) else [value])]
    negatives = tuple(require_string(where, {"negatives": one}, "negatives") for one in listed)
    belongs = fields["positive"]
    if isinstance(belongs, list) and len(belongs) > 1:
        raise DataError("several positives", where=f"{where}, field positive", fix="write a row for each of them")
    belongs = belongs[0] if isinstance(belongs, list) and belongs else belongs
    anchor, positive = require_string(where, fields, "anchor"), require_string(where, {"positive": belongs}, "positive")
    if positive in negatives:
        raise DataError("positive among the negatives", where=f"{where}, field negatives", fix="remove one of the two")
    label = fields.get("label")
    return Paired(where, anchor, positive, negatives, None if label is None else _label(where, label, "label"))


def compared(where: str, fields: Fields) -> Record:
    """Two texts and a number from 0, nothing in common, to 1, the same."""
    given = fields["score"]
    score = likeness(given)
    if score is None:
        raise DataError(
            f"score {_shown(given)}",
            where=f"{where}, field score",
            fix="a number from 0, nothing in common, to 1, the same; divide other scales by their largest",
        )
    return Compared(
        where, require_string(where, fields, "sentence1"), require_string(where, fields, "sentence2"), score
    )


def likeness(given: Any) -> float | None:
    """A similarity from 0 to 1; None for anything else."""
    number = _number(given)
    return None if number is None or not 0 <= number <= 1 else number


def _number(given: Any) -> float | None:
    try:
        return float(given)
    except (TypeError, ValueError, OverflowError):  # a whole number may have any number of digits
        return None
