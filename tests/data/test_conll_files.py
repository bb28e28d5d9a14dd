"""CoNLL files, by any name: a token and its tag a line, a sentence a row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from data_files import layout_rows, parsed, read, refused, rows

from bottega.data import conll_files, sources
from bottega.errors import DataError
from bottega.recipe.schema import Source
from bottega.records import Entity, Tagged
from bottega.records.parser import parse_rows
from making import placed, shared_data

CONLL = "EU\tB-ORG\nrejects\tO\n\nMara\tB-PER\n"
PARSED = [("EU rejects", (Entity(0, 2, "ORG"),)), ("Mara", (Entity(0, 4, "PER"),))]


def texts_and_spans(path: Path, text: str, **layout: Any) -> list[tuple[str, Any]]:
    return [(one.text, one.spans) for one in parsed(path, text, Tagged, **layout) if isinstance(one, Tagged)]


@pytest.mark.parametrize("name", ["a.iob2", "a.conll03", "a.data", "train", "a.txt", "a.tsv"])
def test_conll_is_recognised_in_any_extension_that_names_nothing_else(name: str, tmp_path: Path) -> None:
    assert texts_and_spans(tmp_path / name, CONLL) == PARSED


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.md"])
def test_conll_may_be_named_for_every_other(name: str, tmp_path: Path) -> None:
    assert texts_and_spans(tmp_path / name, CONLL, reader="conll") == PARSED
    assert texts_and_spans(tmp_path / name, CONLL.replace("\t", ","), reader="conll", delimiter=",") == PARSED


def test_a_header_of_conll_is_no_token(tmp_path: Path) -> None:
    for first in ("token\ttag\n", "\nToken\tTag\n\n"):
        assert texts_and_spans(tmp_path / "a.tsv", first + CONLL, reader="conll", header=True) == PARSED
    with pytest.raises(DataError) as caught:
        parsed(tmp_path / "a.tsv", "Token\tTag\n" + CONLL, Tagged)
    assert "data.reader=conll data.header=true" in str(caught.value.fix)


def test_numbers_in_the_first_column_are_no_tokens(tmp_path: Path) -> None:
    # GermEval's columns: a number, the token, its tag, and the tag of an entity within.
    text = "# from a paper\n1\tBonn\tB-LOC\tO\n2\truht\tO\tO\n\n1\tJa\tO\tO\n"
    with pytest.raises(DataError, match="numbers the tokens") as caught:
        parsed(tmp_path / "a.tsv", text, Tagged, reader="conll")
    assert str(caught.value.where).endswith("a.tsv line 2")
    assert "[number, tokens, tags, other1]" in str(caught.value.fix)
    columns = ["number", "tokens", "tags", "other1"]
    found = texts_and_spans(tmp_path / "a.tsv", text, reader="conll", columns=columns)
    assert found == [("Bonn ruht", (Entity(0, 4, "LOC"),)), ("Ja", ())]


def test_a_sentence_may_be_all_numbers(tmp_path: Path) -> None:
    assert texts_and_spans(tmp_path / "a.conll", "1\tO\n2\tB-N\n") == [("1 2", (Entity(2, 3, "N"),))]


def test_a_sentence_is_a_row(tmp_path: Path) -> None:
    content = "-DOCSTART- -X- O O\n\nThe DT O\nNile NNP B-river\n\n\nIt PRP O"
    expected = [(3, {"tokens": ["The", "Nile"], "tags": ["O", "B-river"]}), (7, {"tokens": ["It"], "tags": ["O"]})]
    assert rows(tmp_path, "a.conll", content) == expected


def test_a_line_of_white_space_parts_sentences(tmp_path: Path) -> None:
    content = "New York\tB-place\n\t\n#here\tO\r\n"
    expected = [(1, {"tokens": ["New York"], "tags": ["B-place"]}), (3, {"tokens": ["#here"], "tags": ["O"]})]
    assert rows(tmp_path, "a.conll", content) == expected


def test_a_token_without_a_tag_names_its_line(tmp_path: Path) -> None:
    assert str(refused(tmp_path, "a.conll", "a\tO\nb\n", "without a tag").where).endswith("line 2")


SENTENCES = "-DOCSTART- -X- O O\n\nMara NNP B-PER\nran VB O\n\nBern NNP B-LOC\n"


def tagged(path: Path, content: str, **options: Any) -> list[Tagged]:
    path.write_text(content, encoding="utf-8")
    ((_, found),) = sources.open_sources([Source(path=str(path), **options)])
    return [record for record in parse_rows(found, (Tagged,)) if isinstance(record, Tagged)]


@pytest.mark.parametrize("suffix", [".txt", ".tsv", ".iob", ".conll"])
def test_conll_is_recognised_by_its_content(tmp_path: Path, suffix: str) -> None:
    expected = [{"tokens": ["Mara", "ran"], "tags": ["B-PER", "O"]}, {"tokens": ["Bern"], "tags": ["B-LOC"]}]
    assert layout_rows(tmp_path / f"a{suffix}", SENTENCES.replace(" NNP ", "\t").replace(" VB ", "\t")) == expected
    assert layout_rows(tmp_path / f"a{suffix}", SENTENCES) == expected
    assert layout_rows(tmp_path / "eng.train", SENTENCES, reader="conll") == expected


def test_text_that_resembles_conll_is_text(tmp_path: Path) -> None:
    for content in ("A word O\nanother line\nO\n", "name\tO\nMara\tO-1\n", "I am O\n"):
        assert layout_rows(tmp_path / "a.txt", content) == [{"text": content}]


def test_a_no_break_space_belongs_to_its_token(tmp_path: Path) -> None:
    assert layout_rows(tmp_path / "a.conll", "Sum O\n10\u00a0000 B-NUM\nkroner  O \n") == [
        {"tokens": ["Sum", "10\u00a0000", "kroner"], "tags": ["O", "B-NUM", "O"]}
    ]


@pytest.mark.parametrize(
    ("content", "line", "what"),
    [
        ("a O\nb O\n\nc O\nd PER-B\n", 5, "tag 'PER-B'"),
        ("a O\nb X-PER\n", 2, "tag 'X-PER'"),
        ("a O\nb B-\n", 2, "tag 'B-'"),
        ("a\tO\n\u00a0\tO\n", 2, "empty tokens"),
        ("a O\nb\n", 2, "a token without a tag"),
    ],
)
def test_a_wrong_tag_is_located_by_its_own_line(tmp_path: Path, content: str, line: int, what: str) -> None:
    with pytest.raises(DataError, match=what) as caught:
        tagged(tmp_path / "a.conll", content)
    assert f"line {line}" in str(caught.value.where)


def test_invalid_sentences_may_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text("Mara B-PER\n\na\tO\n\u00a0\tO\n\nb\n\nBern S-LOC\n")
    dropped: list[DataError] = []
    ((_, found),) = sources.open_sources([Source(path=str(tmp_path / "a.conll"))])
    kept = list(parse_rows(found, (Tagged,), on_bad=dropped.append))
    assert [record.text for record in kept if isinstance(record, Tagged)] == ["Mara", "Bern"]
    assert len(dropped) == 2


def test_columns_of_conll_may_be_named(tmp_path: Path) -> None:
    (record,) = tagged(tmp_path / "a.conll", "B-PER Mara x\nO ran x\n", columns=["tags", "tokens", "more"])
    assert (record.text, record.spans[0].label) == ("Mara ran", "PER")
    with pytest.raises(DataError, match="no columns called tokens and tags"):
        tagged(tmp_path / "a.conll", "a O\n", columns=["word", "tag"])


def test_comment_lines_are_no_tokens(tmp_path: Path) -> None:
    (record,) = tagged(tmp_path / "a.conll", "# id 7\tdomain=en\nMara _ _ B-PER\n#1 _ _ O\n")
    assert record.text == "Mara #1"


def test_tokens_without_a_blank_line_between_are_no_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conll_files, "MAX_SENTENCE_TOKENS", 100)
    (tmp_path / "a.conll").write_text("x\tO\n" * 100 + "\n" + "y\tO\n" * 101)
    with pytest.raises(DataError, match="a sentence of more than 100 tokens") as caught:
        list(placed(tmp_path / "a.conll"))
    assert str(caught.value.where).endswith("a.conll line 102")
    assert "blank line" in str(caught.value.fix)


@pytest.mark.parametrize(
    ("name", "count"), [("wnut17train.conll", 3394), ("emerging.dev.conll", 1009), ("emerging.test.annotated", 1287)]
)
def test_real_tags(name: str, count: int) -> None:
    found = list(read(shared_data(f"wnut17/{name}")))
    assert len(found) == count
    assert all(len(row["tokens"]) == len(row["tags"]) for _, row in found)
    assert {tag[:2] for _, row in found for tag in row["tags"]} == {"O", "B-", "I-"}
