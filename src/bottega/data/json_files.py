"""Reading JSON: one object per line, the elements of an array, or the rows inside one object."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from bottega.data.open_files import count_characters, lines, open_text, refuse_long
from bottega.errors import DataError
from bottega.recipe.schema import Layout
from bottega.records.fields import Fields, NumberedRows
from bottega.suggestions import join_names

# Characters that are read at once. A list is decoded element by element, so memory does not grow with the file.
CHUNK = 1 << 16
# Keys that are preferred if a JSON object contains more than one list of objects.
ROW_LISTS = ("data", "rows", "examples")

JSONL_HINT = "one object per line is JSONL: data.reader=jsonl, or rename it to .jsonl; else correct the line"
JSON_HINT = "one list or object is JSON: data.reader=json, or rename it to .json"
CORRECT_LINE = "correct or remove the line"
CONVERSATION_HINT = 'a conversation is {"messages": [{"role": …, "content": …}, …]}'

# Depth to which an object is searched for lists of rows, to suggest them in an error.
MAX_DEPTH = 3


def json_lines(path: Path, layout: Layout) -> NumberedRows:
    """One row per line; the error of a line that cannot be parsed takes the place of its row."""
    row = _RowParser(path, layout, of_lists=JSON_HINT)
    with open_text(path, layout.encoding, "\n") as file:
        for line, text in lines(path, file):
            if text.strip():
                try:
                    fields = row(line, _load_json(path, text.rstrip("\r\n"), line))
                except DataError as error:
                    yield line, error
                else:
                    if fields is not None:
                        yield line, fields


def json_file(path: Path, layout: Layout) -> NumberedRows:
    """The elements of a JSON list, or the rows in a JSON object, each with the line it starts on or its number.

    A file of one object per line is read as that: many data sets have such files with the suffix .json.
    """
    with open_text(path, layout.encoding) as file:
        text, counted = _read_start(file), unit(path, layout)
        if _is_lines(text):
            yield from json_lines(path, layout)
            return
        row = _RowParser(path, layout, counted)
        if not text.strip():
            return
        elements = _Elements(path, file, text)
        if text.lstrip()[0] == "[":
            rows = iter(elements)
        else:
            # `field` is the key of the list of rows here; the parser would look for it in each row.
            row = _RowParser(path, layout.model_copy(update={"field": None}), counted)
            rows = ((1, value) for value in _rows_in_object(path, elements.load_all(), layout))
        for number, (line, value) in enumerate(rows, 1):
            number = line if counted == "line" else number
            refuse_long(path, number, count_characters(value), counted)
            fields = row(number, value)
            if fields is not None:
                yield from _expand_squad(number, fields)


def unit(path: Path, layout: Layout) -> str:
    """The unit in which the rows of a JSON file are counted: "line", or "row" if all may be on one line."""
    with open_text(path, layout.encoding) as file:
        text = _read_start(file).strip()
    return "line" if (text.startswith("[") and "\n" in text) or _is_lines(text) else "row"


def _is_lines(text: str) -> bool:
    """Whether the beginning of a file is an object on a line of its own, with another after it."""
    first, _, rest = text.lstrip().partition("\n")
    if not first.startswith("{") or not rest.lstrip().startswith("{"):
        return False
    try:
        return isinstance(json.loads(first), dict)
    except (RecursionError, ValueError):
        return False


def _read_start(file: TextIO) -> str:
    """The beginning of the file, at least up to its first character that is not white space."""
    text = file.read(CHUNK)
    while text.isspace() and (more := file.read(CHUNK)):
        text += more
    return text


class _RowParser:
    """Turns a JSON value into a row: an object as it is, a list by the names of its items, or the value at a key.

    of_lists  advice in the error for a row that is a list of objects
    """

    def __init__(self, path: Path, layout: Layout, counted: str = "line", of_lists: str = CONVERSATION_HINT) -> None:
        self.of_lists = of_lists
        self.path, self.counted, self.field, self.columns = path, counted, layout.field, list(layout.columns)
        self.headed = bool(layout.header)

    def __call__(self, number: int, value: Any) -> Fields | None:
        """The row; None for a header, the list with the names of the items of all later lists."""
        where = f"{self.path} {self.counted} {number}"
        if self.field is not None:
            value = value_at(where, value, self.field)
        if isinstance(value, list) and self.headed:
            self.columns, self.headed = self.columns or [str(name) for name in value], False
            return None
        if isinstance(value, list) and self.columns:
            return _name_items(where, value, self.columns)
        if not isinstance(value, dict):
            fix = 'a row is {"field": …}'
            if isinstance(value, list):
                rows = bool(value) and isinstance(value[0], dict)
                fix = self.of_lists if rows else "name its items: data.columns=[text, label]"
            raise DataError(f"a JSON {_json_type(value)} where a row is expected", where=where, fix=fix)
        return value


def _name_items(where: str, items: Sequence[Any], columns: Sequence[str]) -> Fields:
    if len(items) != len(columns):
        what = f"a list of {len(items)} items, but data.columns has {len(columns)} names"
        raise DataError(what, where=where, fix="name every item, or correct the row")
    return dict(zip(columns, items, strict=True))


def value_at(where: str, value: Any, field: str) -> Any:
    """The value at a key of an object, or at nested keys: `result.rows`."""
    result, rest = value, field
    while rest:
        # A key may itself contain dots: the whole rest is tried before its first part.
        key = rest if isinstance(result, dict) and rest in result else rest.partition(".")[0]
        if not isinstance(result, dict) or key not in result:
            keys = join_names(result) if isinstance(result, dict) else f"a JSON {_json_type(result)}"
            raise DataError(f"no key {key}", where=where, fix=f"data.field is {field}; there is {keys}")
        result, rest = result[key], rest[len(key) + 1 :]
    return result


def _rows_in_object(path: Path, value: Any, layout: Layout) -> Sequence[Any]:
    """The rows of a JSON object; their lines are not known, since it is decoded whole."""
    where = f"{path} line 1"
    result = value if layout.field is None else value_at(where, value, layout.field)
    if layout.field is not None and isinstance(result, list):
        return result
    rows = _find_rows(result, bool(layout.columns))
    if rows is not None:
        return rows
    keys = list(_row_list_keys(value))
    what = f"a JSON {_json_type(result)} where a list of rows is expected"
    if keys:
        what += f"; rows are under {join_names(keys)}"
    fix = (
        f"choose one: data.field={keys[0]}"
        if keys
        else "write the rows as [{…}, {…}], or one per line in a .jsonl file"
    )
    raise DataError(what, where=where, fix=fix)


def _find_rows(value: Any, columns: bool) -> Sequence[Any] | None:
    """The rows of an object: one list of objects, columns of equal length, or rows by index; None if it has no rows."""
    if not isinstance(value, dict) or not value:
        return None
    lists = {key: inner for key, inner in value.items() if isinstance(inner, list)}
    objects = {key: inner for key, inner in lists.items() if any(isinstance(row, dict) for row in inner)}
    keys = [name for name in ROW_LISTS if name in objects]
    if (len(lists) == 1 and objects) or keys:
        return objects[keys[0] if keys else next(iter(objects))]
    # {"columns": […], "data": [[…], …]}, as pandas writes it with orient="split".
    if isinstance(value.get("columns"), list) and _is_table(value.get("data")):
        return [_name_items("data", row, [str(name) for name in value["columns"]]) for row in value["data"]]
    if columns and len(lists) == 1:
        return next(iter(lists.values()))
    return None if objects else _rows_of_columns(value)


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(row, list) for row in value)


def _rows_of_columns(value: Mapping[str, Any]) -> Sequence[Any] | None:
    """The rows of an object of columns (lists, or objects by row index), or of an object of rows by index.

    pandas writes these with orient="list", "columns" and "index".
    """
    inner = list(value.values())
    if all(isinstance(column, list) and column for column in inner) and len(set(map(len, inner))) == 1:
        return [dict(zip(value, row, strict=True)) for row in zip(*inner, strict=True)]
    if not all(isinstance(column, dict) and column for column in inner):
        return None
    if all(key.isdecimal() for key in value):
        return inner
    if all(key.isdecimal() for key in inner[0]) and all(column.keys() == inner[0].keys() for column in inner):
        return [{name: column[key] for name, column in value.items()} for key in inner[0]]
    return None


def _row_list_keys(value: Any, depth: int = MAX_DEPTH) -> Iterator[str]:
    """The keys, dots between nested ones, at which an object contains lists of rows."""
    if not isinstance(value, dict) or not depth:
        return
    for key, inner in value.items():
        if isinstance(inner, list) and inner and isinstance(inner[0], (dict, list)):
            yield key
        yield from (f"{key}.{deeper}" for deeper in _row_list_keys(inner, depth - 1))


def _expand_squad(number: int, row: Fields) -> NumberedRows:
    """The row itself, or one row per question of an article in SQuAD's layout (Rajpurkar et al. 2016)."""
    if not isinstance(row.get("paragraphs"), list):
        yield number, row
        return
    for paragraph in row["paragraphs"]:
        for question in _squad_questions(paragraph):
            yield number, {"context": paragraph.get("context"), **question}


def _squad_questions(paragraph: Any) -> Sequence[Fields]:
    questions = paragraph.get("qas", []) if isinstance(paragraph, dict) else []
    return [item for item in questions if isinstance(item, dict)] if isinstance(questions, list) else []


class _Elements:
    """The elements of a JSON list, decoded while the file is read.

    text     the part of the file in memory, read so far and not yet dropped
    line     line of the position `counted` in `text`
    """

    def __init__(self, path: Path, file: TextIO, text: str) -> None:
        self.path, self.file, self.text = path, file, text
        self.line, self.counted, self.ended = 1, 0, False
        self.decoder = json.JSONDecoder()

    def load_all(self) -> Any:
        return _load_json(self.path, self.text + self.file.read(), 1, JSONL_HINT)

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        position, comma = self.text.index("[") + 1, True
        while True:
            position = self._skip_space(position)
            character = self.text[position : position + 1]
            if character == "]":
                return self._check_end(position + 1)
            if character == ",":
                position, comma = self._skip_space(position + 1), True
                character = self.text[position : position + 1]
            if not comma or character in ("", ","):
                raise self._broken_error(
                    "Expecting ',' delimiter" if character and not comma else "Expecting value", position
                )
            if position > CHUNK:
                self._drop_before(position)
                position = 0
            line = self._line_at(position)
            value, position = self._decode_value(position)
            comma = False
            yield line, value

    def _skip_space(self, position: int) -> int:
        """The next position that is not white space."""
        while True:
            while position < len(self.text) and self.text[position].isspace():
                position += 1
            if position < len(self.text) or not self._read_more():
                return position

    def _decode_value(self, position: int) -> tuple[Any, int]:
        while True:
            try:
                return self.decoder.raw_decode(self.text, position)
            except json.JSONDecodeError as error:
                # An error at the end of what was read may only mean that the value goes on in the next chunk.
                cut = error.pos >= len(self.text) - 16 or error.msg.startswith(("Unterminated", "Invalid \\u"))
                if not (cut and self._read_more()):
                    raise self._broken_error(error.msg, error.pos) from None
            except (RecursionError, ValueError) as error:
                raise _limit_error(self.path, self._line_at(position), error) from None

    def _read_more(self) -> bool:
        """Read more of the file; whether there was any."""
        # In steps as long as the text in memory: a long value is decoded anew after each, so they must be few.
        refuse_long(self.path, self.line, len(self.text) // 2)  # the text in memory is hardly more than one row
        more = self.file.read(max(CHUNK, len(self.text)))
        self.text += more
        return bool(more)

    def _drop_before(self, position: int) -> None:
        self.line += self.text.count("\n", self.counted, position)
        self.text, self.counted = self.text[position:], 0

    def _line_at(self, position: int) -> int:
        """The line of a position, which must not be before those of earlier calls."""
        self.line += self.text.count("\n", self.counted, position)
        self.counted = max(self.counted, position)
        return self.line

    def _check_end(self, position: int) -> None:
        position = self._skip_space(position)
        if position < len(self.text):
            raise self._broken_error("Extra data", position)

    def _broken_error(self, problem: str, position: int) -> DataError:
        column = position - self.text.rfind("\n", 0, position)
        return _broken_error(self.path, self._line_at(position), problem, column)


def _load_json(path: Path, text: str, line: int, fix: str | None = None) -> Any:
    """The JSON value in `text`, which starts on `line` of the file."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise _broken_error(path, line + error.lineno - 1, error.msg, error.colno, fix or _line_hint(text)) from None
    except (RecursionError, ValueError) as error:
        raise _limit_error(path, line, error) from None


def _json_type(value: Any) -> str:
    return {dict: "object", bool: "boolean", list: "list", str: "string", type(None): "null"}.get(type(value), "number")


def _broken_error(path: Path, line: int, problem: str, column: int, fix: str = CORRECT_LINE) -> DataError:
    return DataError(f"broken JSON: {problem} at column {column}", where=f"{path} line {line}", fix=fix)


def _line_hint(text: str) -> str:
    """Advice for a line of JSONL that is not JSON."""
    if "\0" in text:
        return "is it UTF-16? data.encoding=utf-16-le"
    if text.strip() in ("[", "{") or text.startswith("[{"):
        return JSON_HINT
    return CORRECT_LINE


def _limit_error(path: Path, line: int, error: Exception) -> DataError:
    return DataError(f"JSON that cannot be decoded: {error}", where=f"{path} line {line}", fix=CORRECT_LINE)
