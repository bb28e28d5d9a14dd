"""How files are laid out, further members: CoNLL of any extension, with a header or numbers; tables of spreadsheets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bottega.data import sources
from bottega.errors import DataError
from bottega.recipe.schema import Source
from bottega.records import Entity, Labelled, Record, Tagged
from bottega.records.parser import parse_rows

CONLL = "EU\tB-ORG\nrejects\tO\n\nMara\tB-PER\n"
SENTENCES = [("EU rejects", (Entity(0, 2, "ORG"),)), ("Mara", (Entity(0, 4, "PER"),))]


def read(path: Path, text: str, *reads: type, **layout: Any) -> list[Record]:
    path.write_text(text, encoding="utf-8")
    ((_, rows),) = sources.open_sources([Source(path=str(path), **layout)])
    return list(parse_rows(rows, reads))


def tagged(path: Path, text: str, **layout: Any) -> list[tuple[str, Any]]:
    return [(one.text, one.spans) for one in read(path, text, Tagged, **layout) if isinstance(one, Tagged)]


@pytest.mark.parametrize("name", ["a.iob2", "a.conll03", "a.data", "train", "a.txt", "a.tsv"])
def test_conll_is_recognised_in_any_extension_that_names_nothing_else(name: str, tmp_path: Path) -> None:
    assert tagged(tmp_path / name, CONLL) == SENTENCES


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.md"])
def test_conll_may_be_named_for_every_other(name: str, tmp_path: Path) -> None:
    assert tagged(tmp_path / name, CONLL, reader="conll") == SENTENCES
    assert tagged(tmp_path / name, CONLL.replace("\t", ","), reader="conll", delimiter=",") == SENTENCES


def test_a_header_of_conll_is_no_token(tmp_path: Path) -> None:
    for first in ("token\ttag\n", "\nToken\tTag\n\n"):
        assert tagged(tmp_path / "a.tsv", first + CONLL, reader="conll", header=True) == SENTENCES
    with pytest.raises(DataError) as caught:
        read(tmp_path / "a.tsv", "Token\tTag\n" + CONLL, Tagged)
    assert "data.reader=conll data.header=true" in str(caught.value.fix)


def test_numbers_in_the_first_column_are_no_tokens(tmp_path: Path) -> None:
    # GermEval's columns: a number, the token, its tag, and the tag of an entity within.
    text = "# from a paper\n1\tBonn\tB-LOC\tO\n2\truht\tO\tO\n\n1\tJa\tO\tO\n"
    with pytest.raises(DataError, match="numbers the tokens") as caught:
        read(tmp_path / "a.tsv", text, Tagged, reader="conll")
    assert str(caught.value.where).endswith("a.tsv line 2")
    assert "[number, tokens, tags, other1]" in str(caught.value.fix)
    columns = ["number", "tokens", "tags", "other1"]
    found = tagged(tmp_path / "a.tsv", text, reader="conll", columns=columns)
    assert found == [("Bonn ruht", (Entity(0, 4, "LOC"),)), ("Ja", ())]


def test_a_sentence_may_be_all_numbers(tmp_path: Path) -> None:
    assert tagged(tmp_path / "a.conll", "1\tO\n2\tB-N\n") == [("1 2", (Entity(2, 3, "N"),))]


def test_columns_without_names_or_content_are_no_columns_named_alike(tmp_path: Path) -> None:
    assert read(tmp_path / "a.csv", "text,label,,\nx,a,,\n", Labelled) == [Labelled("a.csv line 2", "x", "a")]


def test_a_list_of_rows_in_a_jsonl_names_what_reads_it(tmp_path: Path) -> None:
    rows = '[{"text": "x", "label": "a"}]\n'
    with pytest.raises(DataError) as caught:
        read(tmp_path / "a.jsonl", rows, Labelled)
    assert "data.reader=json" in str(caught.value.fix)
    assert read(tmp_path / "a.jsonl", rows, Labelled, reader="json") == [Labelled("a.jsonl row 1", "x", "a")]
