"""Reading JSON: one object per line, the elements of an array, or the rows inside one object."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from bottega.data.open_files import characters, lines, opened, refuse_long
from bottega.errors import DataError
from bottega.recipe.schema import Layout
from bottega.records.fields import Fields, NumberedRows
from bottega.suggestions import join_names

CHUNK = 1 << 16
# Keys that are preferred if a JSON object contains more than one list of objects.
ROW_LISTS = ("data", "rows", "examples")

LINES = "one object a line is JSONL: data.reader=jsonl, or rename it to .jsonl; else mend the line"

WHOLE = "one list or object is JSON: data.reader=json, or rename it to .json"

TALKS = 'a conversation is {"messages": [{"role": …, "content": …}, …]}'

# Depth to which an object is searched for lists of rows, to suggest them in an error.
DEEPEST = 3


def json_lines(path: Path, layout: Layout) -> NumberedRows:
    """A row a line."""
    row = _Shape(path, layout, of_lists=WHOLE)
    with opened(path, layout.encoding, "\n") as file:
        for line, text in lines(path, file):
            if text.strip():
                try:
                    made = row(line, _parsed(path, text.rstrip("\r\n"), line))
                except DataError as error:
                    yield line, error
                else:
                    if made is not None:
                        yield line, made


def json_file(path: Path, layout: Layout) -> NumberedRows:
    """The elements of a JSON list, or the rows in a JSON object, each with the line it starts on or its number."""
    with opened(path, layout.encoding) as file:
        text, counted = _beginning(file), unit(path, layout)
        row = _Shape(path, layout, counted)
        if not text.strip():
            return
        elements = _Elements(path, file, text)
        if text.lstrip()[0] == "[":
            rows = iter(elements)
        else:
            # The key of an object's rows; `row` would look for it in each of them.
            row = _Shape(path, layout.model_copy(update={"field": None}), counted)
            rows = ((1, value) for value in _inside(path, elements.everything(), layout))
        for number, (line, value) in enumerate(rows, 1):
            number = line if counted == "line" else number
            refuse_long(path, number, characters(value), counted)
            made = row(number, value)
            if made is not None:
                yield from _unnested(number, made)


def unit(path: Path, layout: Layout) -> str:
    """What the rows of a JSON file are counted in: its lines, or where these tell nothing, themselves."""
    with opened(path, layout.encoding) as file:
        text = _beginning(file).strip()
    return "line" if text.startswith("[") and "\n" in text else "row"


def _beginning(file: TextIO) -> str:
    """Some of the file, if not all; more than white space, if it holds any."""
    text = file.read(CHUNK)
    while text.isspace() and (more := file.read(CHUNK)):
        text += more
    return text


class _Shape:
    """What a JSON value is as a row: an object as it is, a list by the names of its items, or what lies under a key.

    of_lists  what to do where a row is a list of objects
    """

    def __init__(self, path: Path, layout: Layout, counted: str = "line", of_lists: str = TALKS) -> None:
        self.of_lists = of_lists
        self.path, self.counted, self.field, self.columns = path, counted, layout.field, list(layout.columns)
        self.headed = bool(layout.header)

    def __call__(self, number: int, value: Any) -> Fields | None:
        """The row; None for the list that names the items of those behind it."""
        where = f"{self.path} {self.counted} {number}"
        if self.field is not None:
            value = under(where, value, self.field)
        if isinstance(value, list) and self.headed:
            self.columns, self.headed = self.columns or [str(name) for name in value], False
            return None
        if isinstance(value, list) and self.columns:
            return _named(where, value, self.columns)
        if not isinstance(value, dict):
            fix = 'a row is {"field": …}'
            if isinstance(value, list):
                rows = bool(value) and isinstance(value[0], dict)
                fix = self.of_lists if rows else "name its items: data.columns=[text, label]"
            raise DataError(f"a JSON {_kind(value)} where a row is expected", where=where, fix=fix)
        return value


def _named(where: str, items: Sequence[Any], columns: Sequence[str]) -> Fields:
    if len(items) != len(columns):
        what = f"a list of {len(items)}, and data.columns names {len(columns)}"
        raise DataError(what, where=where, fix="name every item, or mend the row")
    return dict(zip(columns, items, strict=True))


def under(where: str, value: Any, field: str) -> Any:
    """What stands in an object under a key, or under keys within keys: `result.rows`."""
    found, rest = value, field
    while rest:
        key = rest if isinstance(found, dict) and rest in found else rest.partition(".")[0]
        if not isinstance(found, dict) or key not in found:
            known = join_names(found) if isinstance(found, dict) else f"a JSON {_kind(found)}"
            raise DataError(f"nothing under the key {key}", where=where, fix=f"data.field is {field}; there is {known}")
        found, rest = found[key], rest[len(key) + 1 :]
    return found


def _inside(path: Path, value: Any, layout: Layout) -> Sequence[Any]:
    """The rows of a JSON object; their lines are not known, since it is decoded whole."""
    where = f"{path} line 1"
    found = value if layout.field is None else under(where, value, layout.field)
    if layout.field is not None and isinstance(found, list):
        return found
    rows = _rows_of(found, bool(layout.columns))
    if rows is not None:
        return rows
    known = list(_places(value))
    what = f"a JSON {_kind(found)} where a list of rows is expected"
    if known:
        what += f"; rows are under {join_names(known)}"
    fix = (
        f"say which: data.field={known[0]}" if known else "write the rows as [{…}, {…}], or one a line in a .jsonl file"
    )
    raise DataError(what, where=where, fix=fix)


def _rows_of(value: Any, columns: bool) -> Sequence[Any] | None:
    """The rows of an object that holds one list of them, columns of equal length, or rows by their numbers."""
    if not isinstance(value, dict) or not value:
        return None
    lists = {key: inner for key, inner in value.items() if isinstance(inner, list)}
    objects = {key: inner for key, inner in lists.items() if any(isinstance(row, dict) for row in inner)}
    known = [name for name in ROW_LISTS if name in objects]
    if (len(lists) == 1 and objects) or known:
        return objects[known[0] if known else next(iter(objects))]
    if isinstance(value.get("columns"), list) and _is_table(value.get("data")):
        return [_named("data", row, [str(name) for name in value["columns"]]) for row in value["data"]]
    if columns and len(lists) == 1:
        return next(iter(lists.values()))
    return None if objects else _transposed(value)


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(row, list) for row in value)


def _transposed(value: Mapping[str, Any]) -> Sequence[Any] | None:
    """The rows of columns: lists of one length, or objects by the numbers of their rows; rows by their numbers."""
    inner = list(value.values())
    if all(isinstance(column, list) and column for column in inner) and len(set(map(len, inner))) == 1:
        return [dict(zip(value, row, strict=True)) for row in zip(*inner, strict=True)]
    if not all(isinstance(one, dict) and one for one in inner):
        return None
    if all(key.isdecimal() for key in value):
        return inner
    if all(key.isdecimal() for key in inner[0]) and all(one.keys() == inner[0].keys() for one in inner):
        return [{name: column[key] for name, column in value.items()} for key in inner[0]]
    return None


def _places(value: Any, depth: int = DEEPEST) -> Iterator[str]:
    """The keys under which an object holds lists of rows."""
    if not isinstance(value, dict) or not depth:
        return
    for key, inner in value.items():
        if isinstance(inner, list) and inner and isinstance(inner[0], (dict, list)):
            yield key
        yield from (f"{key}.{deeper}" for deeper in _places(inner, depth - 1))


def _unnested(number: int, row: Fields) -> NumberedRows:
    """A row as it is, or the questions of one in SQuAD's nesting of paragraphs (Rajpurkar et al. 2016)."""
    if not isinstance(row.get("paragraphs"), list):
        yield number, row
        return
    for paragraph in row["paragraphs"]:
        for question in _questions(paragraph):
            yield number, {"context": paragraph.get("context"), **question}


def _questions(paragraph: Any) -> Sequence[Fields]:
    asked = paragraph.get("qas", []) if isinstance(paragraph, dict) else []
    return [one for one in asked if isinstance(one, dict)] if isinstance(asked, list) else []


class _Elements:
    """The elements of a JSON list, decoded as the file is read."""

    def __init__(self, path: Path, file: TextIO, text: str) -> None:
        self.path, self.file, self.text = path, file, text
        self.line, self.counted, self.ended = 1, 0, False
        self.decoder = json.JSONDecoder()

    def everything(self) -> Any:
        return _parsed(self.path, self.text + self.file.read(), 1, LINES)

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        place, comma = self.text.index("[") + 1, True
        while True:
            place = self._token(place)
            mark = self.text[place : place + 1]
            if mark == "]":
                return self._refuse_more(place + 1)
            if mark == ",":
                place, comma = self._token(place + 1), True
                mark = self.text[place : place + 1]
            if not comma or mark in ("", ","):
                raise self._broken("Expecting ',' delimiter" if mark and not comma else "Expecting value", place)
            if place > CHUNK:
                self._forget(place)
                place = 0
            line = self._at(place)
            value, place = self._value(place)
            comma = False
            yield line, value

    def _token(self, place: int) -> int:
        """The next place that is no white space."""
        while True:
            while place < len(self.text) and self.text[place].isspace():
                place += 1
            if place < len(self.text) or not self._more():
                return place

    def _value(self, place: int) -> tuple[Any, int]:
        while True:
            try:
                return self.decoder.raw_decode(self.text, place)
            except json.JSONDecodeError as error:
                # At the end of what was read, the value may only be cut off.
                cut = error.pos >= len(self.text) - 16 or error.msg.startswith(("Unterminated", "Invalid \\u"))
                if not (cut and self._more()):
                    raise self._broken(error.msg, error.pos) from None
            except (RecursionError, ValueError) as error:
                raise _beyond_measure(self.path, self._at(place), error) from None

    def _more(self) -> bool:
        """Read on, in steps that grow with what is kept, so that a long value costs no more than twice."""
        refuse_long(self.path, self.line, len(self.text) // 2)  # what is kept is hardly more than one row
        more = self.file.read(max(CHUNK, len(self.text)))
        self.text += more
        return bool(more)

    def _forget(self, place: int) -> None:
        self.line += self.text.count("\n", self.counted, place)
        self.text, self.counted = self.text[place:], 0

    def _at(self, place: int) -> int:
        """The line of a place after those asked for before."""
        self.line += self.text.count("\n", self.counted, place)
        self.counted = max(self.counted, place)
        return self.line

    def _refuse_more(self, place: int) -> None:
        place = self._token(place)
        if place < len(self.text):
            raise self._broken("Extra data", place)

    def _broken(self, problem: str, place: int) -> DataError:
        column = place - self.text.rfind("\n", 0, place)
        return _broken(self.path, self._at(place), problem, column)


def _parsed(path: Path, text: str, line: int, fix: str | None = None) -> Any:
    """The JSON value in `text`, which starts on `line` of the file."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise _broken(path, line + error.lineno - 1, error.msg, error.colno, fix or _hint(text)) from None
    except (RecursionError, ValueError) as error:
        raise _beyond_measure(path, line, error) from None


def _kind(value: Any) -> str:
    return {dict: "object", bool: "boolean", list: "list", str: "string", type(None): "null"}.get(type(value), "number")


def _broken(path: Path, line: int, problem: str, column: int, fix: str = "mend or remove the line") -> DataError:
    return DataError(f"broken JSON: {problem} at column {column}", where=f"{path} line {line}", fix=fix)


def _hint(text: str) -> str:
    """What would read a line of JSONL that is no JSON."""
    if "\0" in text:
        return "is it UTF-16? data.encoding=utf-16-le"
    if text.strip() in ("[", "{") or text.startswith("[{"):
        return WHOLE
    return "mend or remove the line"


def _beyond_measure(path: Path, line: int, error: Exception) -> DataError:
    return DataError(f"JSON beyond measure: {error}", where=f"{path} line {line}", fix="mend or remove the line")
