"""Reading sources: what is yielded, dropped, raised and reported."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from bottega.data.reader import read_records, read_rows
from bottega.errors import DataError
from bottega.recipe.schema import Source
from bottega.records import Labelled, Text
from making import write_jsonl

LABELLED = [{"text": "a", "label": "x"}, {"text": " ", "label": "y"}, {"text": "c", "label": "x"}]


def test_an_invalid_row_is_an_error_unless_rows_are_dropped(tmp_path: Path) -> None:
    sources = [Source(path=str(write_jsonl(tmp_path / name, LABELLED))) for name in ("a.jsonl", "b.jsonl")]
    with pytest.raises(DataError, match="empty text") as caught:
        list(read_records(sources, (Labelled,)))
    assert caught.value.where == "a.jsonl line 2, field text"
    dropped, formats = Counter[str](), dict[str, str]()
    records = list(read_records(sources, (Labelled,), bad_rows="drop", dropped=dropped, formats=formats))
    assert [(index, record.where) for index, record in records] == [
        (0, "a.jsonl line 1"), (0, "a.jsonl line 3"), (1, "b.jsonl line 1"), (1, "b.jsonl line 3"),
    ]  # fmt: skip
    assert dropped == {"empty text": 2}
    assert list(formats) == [source.path for source in sources]
    assert formats[sources[0].path] == "fields text, label; read as labelled"


def test_the_reading_options_of_each_source_apply_to_its_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("t;l\ncaffè;x\n".encode("cp1252"))
    table = Source(path=str(tmp_path / "a.csv"), encoding="cp1252", delimiter=";", mapping={"text": "t", "label": "l"})
    lines = Source(path=str(write_jsonl(tmp_path / "b.jsonl", [{"body": "b"}])), text_template="<{body}>")
    assert list(read_records([table], (Labelled,))) == [(0, Labelled("a.csv line 2", "caffè", "x"))]
    assert list(read_records([lines], (Text,))) == [(0, Text("b.jsonl line 1", "<b>", 1))]


def test_without_a_valid_row_the_reasons_are_given(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", LABELLED[1:2] * 3)
    with pytest.raises(DataError, match="no valid row: 3 rows: empty text") as caught:
        list(read_records([Source(path=str(path))], (Labelled,), bad_rows="drop", fix="mend them"))
    assert (caught.value.where, caught.value.fix) == (str(path), "mend them")


def test_damage_ends_a_source_but_not_the_next(tmp_path: Path) -> None:
    first, second = tmp_path / "a.json", write_jsonl(tmp_path / "b.jsonl", [{"text": "b"}])
    first.write_text('[{"text": "a"}, {"text": ')
    sources = [Source(path=str(path)) for path in (first, second)]
    with pytest.raises(DataError, match="JSON"):
        list(read_rows(sources))
    damage = list[DataError]()
    assert [where for where, _ in read_rows(sources, on_damage=damage.append)] == ["a.json row 1", "b.jsonl line 1"]
    rows, bad = list[str](), list[DataError]()
    options = {"on_row": rows.append, "on_bad": bad.append, "on_damage": damage.append}
    found = [record for _, record in read_records(sources, (Text,), **options)]  # type: ignore[arg-type]
    assert [record.where for record in found] == rows == ["a.json row 1", "b.jsonl line 1"]
    assert not bad
    assert len(damage) == 2
    first.write_text('[{"text": ')
    with pytest.raises(DataError, match="JSON"):  # nothing of the source could be read
        list(read_rows(sources, on_damage=damage.append))
