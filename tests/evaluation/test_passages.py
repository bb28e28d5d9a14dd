"""Texts cut into passages."""

from __future__ import annotations

from pathlib import Path

from bottega.evaluation.passages import load_passages, split_passages
from making import write_jsonl


def test_passages_are_whole_paragraphs() -> None:
    text = "\n\n".join(["short one", "short two", "word " * 300, "last"])
    found = list(split_passages(text))
    assert found[0] == "short one\nshort two"
    assert [len(one.split()) for one in found[1:]] == [120, 120, 60, 1]
    chinese = list(split_passages("甲" * 500 + "。" + "乙" * 20))
    assert "".join(chinese) == "甲" * 500 + "。" + "乙" * 20
    assert [len(one) for one in chinese] == [120, 120, 120, 120, 41]


def test_passages_of_files_are_read_in_order(tmp_path: Path) -> None:
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"text": "one\n\ntwo"}, {"text": "three"}])
    (tmp_path / "text.txt").write_text("four", encoding="utf-8")
    assert load_passages([str(rows), str(tmp_path / "text.txt")]) == ["one\ntwo", "three", "four"]
    assert load_passages([]) == []
