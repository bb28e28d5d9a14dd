"""Texts with labelled spans: each `{start, end, label}` or `[start, end, label]`, in characters; or Label Studio's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

from bottega.errors import DataError
from bottega.records.field_names import SPAN_FIELDS, TEXT_FIELDS
from bottega.records.fields import Fields, parse_integer, require_string
from bottega.records.formats import Format, RequiredFields
from bottega.records.formats._labels import are_spans, quote
from bottega.records.labels import Entity, Tagged, label_name
from bottega.records.record import Record

# Keys of annotation tools for the offsets and the label of a span.
START_KEYS = ("start", "begin", "start_offset", "startOffset", "start_char", "start_idx", "offset")
STOP_KEYS = ("end", "stop", "end_offset", "endOffset", "end_char", "end_idx")
LABEL_KEYS = ("label", "labels", "type", "tag", "entity", "entity_group", "entity_type", "category")


class SpansFormat(Format):
    record: ClassVar[type[Record]] = Tagged
    required: ClassVar[RequiredFields] = (TEXT_FIELDS, (*SPAN_FIELDS, "label", "labels"))
    # Label Studio's fields.
    alternative: ClassVar[RequiredFields] = (("data",), ("annotations", "completions"))
    rank: ClassVar[int] = 130
    value_hint: ClassVar[str] = "label must be a list of spans"

    def accepts(self, fields: Fields) -> bool:
        by_name = any(name in fields for name in (*SPAN_FIELDS, "completions"))
        return by_name or any(are_spans(fields.get(name)) for name in ("label", "labels"))

    def build(self, where: str, fields: Fields) -> Record:
        if "spans" not in fields:
            fields = _from_label_studio(where, fields)
        text, spans = require_string(where, fields, "text"), fields["spans"]
        spans = spans.get("entities") if isinstance(spans, dict) else spans
        if not isinstance(spans, list):
            raise DataError(
                "spans is not a list", where=f"{where}, field spans", fix='write [{"start": 0, "end": 5, "label": …}]'
            )
        parsed = sorted({_parse_span(f"{where}, field spans[{index}]", span, text) for index, span in enumerate(spans)})
        for first, second in pairwise(parsed):
            if second.start < first.stop:
                raise DataError(
                    f"spans {tuple(first)} and {tuple(second)} overlap",
                    where=f"{where}, field spans",
                    fix="keep one of them",
                )
        return Tagged(where, text, tuple(parsed))


def _from_label_studio(where: str, fields: Fields) -> Fields:
    """Text and spans of a row of Label Studio: `data` holds the text, the first of `annotations` its spans."""
    data, annotations = fields["data"], fields["annotations"]
    texts = [value for value in data.values() if isinstance(value, str)] if isinstance(data, dict) else []
    objects = [item for item in annotations if isinstance(item, dict)] if isinstance(annotations, list) else []
    finished = [item for item in objects if not item.get("was_cancelled")]
    results = finished[0].get("result", []) if finished else None
    if not texts or not isinstance(results, list) or not all(isinstance(item, dict) for item in results):
        fix = 'write {"data": {"text": …}, "annotations": [{"result": […]}]}; an empty result means no spans'
        raise DataError("no annotated text", where=f"{where}, field data", fix=fix)
    return {"text": data.get("text", texts[0]), "spans": [item["value"] for item in results if "value" in item]}


def _parse_span(where: str, span: Any, text: str) -> Entity:
    """One span, without surrounding white space: tokens of white space carry no tag."""
    if isinstance(span, list) and len(span) == 3:
        names = ("label", "start", "end") if isinstance(span[0], str) else ("start", "end", "label")
        span = dict(zip(names, span, strict=True))
    keys: Mapping[str, Any] = span if isinstance(span, dict) else {}
    (start, stop), label = _parse_offsets(keys), _parse_span_label(keys)
    if start is None or stop is None or label is None or not 0 <= start < stop <= len(text):
        raise DataError(
            f"span {quote(span)} does not fit the text",
            where=where,
            fix='write {"start": …, "end": …, "label": …}, in characters, the end after the last',
        )
    spanned = text[start:stop]
    if not spanned.strip():
        what = f"span {quote(span)} covers only white space"
        raise DataError(what, where=where, fix="remove it, or correct its offsets")
    expected = keys.get("text")
    # White space may differ: annotation tools normalize it. Any other difference means that the offsets are wrong.
    if isinstance(expected, str) and "".join(expected.split()) != "".join(spanned.split()):
        what = f"the span's text is {quote(expected)}, but these characters are {quote(spanned)}"
        raise DataError(what, where=where, fix="count in characters, not bytes, from 0; the end is after the last")
    start += len(spanned) - len(spanned.lstrip())
    return Entity(start, start + len(spanned.strip()), require_string(where, {"label": label}, "label"))


def _parse_offsets(keys: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """(first character, character after the last) of a span, which may give its length instead of its end."""
    start, stop = parse_integer(_first_value(keys, START_KEYS)), parse_integer(_first_value(keys, STOP_KEYS))
    length = parse_integer(keys.get("length"))
    return start, start + length if stop is None and start is not None and length is not None else stop


def _parse_span_label(keys: Mapping[str, Any]) -> str | None:
    label = _first_value(keys, LABEL_KEYS)
    return label_name(label[0] if isinstance(label, list) and len(label) == 1 else label)


def _first_value(keys: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((keys[name] for name in names if name in keys), None)
