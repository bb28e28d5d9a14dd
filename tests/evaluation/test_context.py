"""What all tasks of an evaluation share."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bottega.errors import DataError
from bottega.evaluation.context import EvaluationContext, ReservoirSample, sample_records, with_sources
from bottega.progress import ignore_status
from bottega.recipe.schema import Recipe
from bottega.records import Record, Text, Unusable
from bottega.tokenization.chat_template import ChatTemplateError


def test_every_record_is_as_likely_to_be_sampled() -> None:
    records = [Text(f"row {number}", "x") for number in range(20)]
    counts = Counter[str]()
    for seed in range(400):
        kept, spares, count = sample_records(records, 5, seed, 5)
        assert (len({one.where for one in (*kept, *spares)}), count) == (10, 20)
        counts.update(one.where for one in spares)
        assert sample_records(records, 5, seed)[0] == kept
    assert all(60 < counts[one.where] < 140 for one in records)


def test_a_sample_returns_what_is_not_or_no_longer_in_it() -> None:
    sample, records = ReservoirSample(3, seed=1), [Text(f"row {number}", "x") for number in range(10)]
    left = [record for record in records if (out := sample.add(record)) is not None for record in (out,)]
    assert sample.count == 10
    assert len(sample.records) == 3
    assert sample.records == [record for record in records if record in sample.records], "in the order of the stream"
    assert {record.where for record in (*left, *sample.records)} == {record.where for record in records}


DOCUMENT: dict[str, Any] = {
    "model": {"base": "m"},
    "data": {"train": "rows.jsonl", "validation": 0.1},
    "objective": {"kind": "causal"},
    "evaluate": {"every": 5},
}


def context(records: list[Record], spares: tuple[Record, ...] = (), **data: Any) -> EvaluationContext:
    recipe = Recipe.parse({**DOCUMENT, "data": {**DOCUMENT["data"], **data}})
    choices = {"dtype": "float32", "max_length": 8}
    return EvaluationContext(Path("run"), recipe, choices, records, ignore_status, spares=spares)


def length(record: Record) -> int:
    """The length of a text, which must not be blank, and which a template may refuse."""
    assert isinstance(record, Text)
    if record.text == "refused":
        raise ChatTemplateError("the template refuses it")
    if not record.text:
        raise Unusable("it is blank")
    return len(record.text)


def test_spares_replace_the_records_that_give_nothing() -> None:
    rows = [Text(f"row {number}", text) for number, text in enumerate(["one", "", "three"])]
    spares = (Text("spare 1", ""), Text("spare 2", "eleven"), Text("spare 3", "twelve"))
    examples = context([*rows], spares).build(length)
    assert (examples.values, [record.where for record in examples.records]) == (
        [3, 5, 6],
        ["row 0", "row 2", "spare 2"],
    )
    assert examples.dropped == {"it is blank": 2}


def test_rows_that_all_give_nothing_are_an_error_with_the_commonest_reason() -> None:
    with pytest.raises(DataError, match="no row can be evaluated: it is blank") as caught:
        context([Text("row 1", ""), Text("row 2", "")]).build(length)
    assert caught.value.where == "row 1"


def test_a_template_that_refuses_a_row_is_an_error_unless_bad_rows_are_dropped() -> None:
    rows: list[Record] = [Text("row 1", "refused"), Text("row 2", "one")]
    with pytest.raises(ChatTemplateError):
        context(rows).build(length)
    assert context(rows, bad_rows="drop").build(length).dropped == {"the template refuses it": 1}


def test_rows_that_a_baseline_cannot_read_are_noted() -> None:
    rows: list[Record] = [Text("row 1", "refused"), Text("row 2", "one"), Text("row 3", "")]
    shared = context(rows)
    assert shared.build_same("few-shot", rows, length) == ([1], [3])
    shared.note("few-shot", "another reason")
    assert shared.notes == {"few-shot": "it cannot read 2 of 3 rows; they are left out; another reason"}
    assert shared.build_same("bm25", rows[1:2], length) == ([0], [3])
    assert "bm25" not in shared.notes


def test_other_sources_replace_the_training_rows_and_there_is_no_validation() -> None:
    recipe = Recipe.parse(DOCUMENT)
    other = with_sources(recipe, [{"path": "other.jsonl"}])
    assert [Path(source.path).name for source in other.train_sources] == ["other.jsonl"]
    assert (other.data.validation, other.evaluate) == (None, None)
    assert other.objective == recipe.objective


def test_training_rows_that_are_gone_leave_an_empty_pool(tmp_path: Path) -> None:
    assert context([], train=str(tmp_path / "none.jsonl")).pool == []
