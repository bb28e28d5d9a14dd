"""Parts of the training rows, and what is held out from them."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from bottega.errors import DataError
from bottega.planning.study import PATIENCE, VALIDATIONS, WARMUP, Study, write_rows
from bottega.progress import ignore_status
from making import make_model


def split(folder: Path, kind: str, rows: list[dict[str, Any]], evaluated: int = 20) -> tuple[Any, Any, Any]:
    """(rows of each part, training rows, evaluation rows)."""
    folder.mkdir()
    located = [(f"row {number}", row) for number, row in enumerate(rows)]
    parts, rest = Study(folder, kind, "model", 0, ignore_status).split_rows(located, evaluated, "rows.jsonl")
    kept = [json.loads(line) for line in (folder / "evaluation.jsonl").read_text().splitlines()]
    return [[row for _, row in part] for part in parts], [row for _, row in rest], kept


def test_every_part_has_every_label(tmp_path: Path) -> None:
    rows = [{"text": f"the {n}", "label": str(n // 20)} for n in range(400)]
    parts, rest, _ = split(tmp_path / "one", "classify", rows)
    assert [len(part) for part in parts] == [20, 40, 80], "twenty labels, and of 340 rows a twentieth is 17"
    assert all({row["label"] for row in part} == {str(n) for n in range(20)} for part in parts)
    assert parts[0] == parts[1][:20] == rest[:20]
    once = [{"text": f"the {n}", "label": "rare" if n == 3 else "usual"} for n in range(200)]
    _, rest, evaluated = split(tmp_path / "two", "classify", once)
    assert "rare" in {row["label"] for row in rest}, "a label with one row is trained on, not evaluated"
    assert "rare" not in {row["label"] for row in evaluated}
    spans = [
        {"text": f"the {n}", "spans": [{"start": 0, "end": 3, "label": "b" if n == 150 else "a"}]} for n in range(200)
    ]
    parts, _, _ = split(tmp_path / "three", "tag", spans)
    assert {row["spans"][0]["label"] for row in parts[0]} == {"a", "b"}
    several = [{"text": f"the {n}", "label": str(n % 60)} for n in range(200)]
    with pytest.raises(DataError, match="200 rows with 60 labels are too few"):
        split(tmp_path / "four", "classify", several)
    numbers = [{"text": f"the {n}", "label": float(n)} for n in range(200)]
    assert [len(part) for part in split(tmp_path / "five", "regress", numbers)[0]] == [16, 32, 64]


def test_no_training_row_is_an_evaluation_row(tmp_path: Path) -> None:
    rows = [{"text": f"where is the dog number {n}", "label": str(n % 2)} for n in range(200)]
    rows[5] = rows[150]
    _, rest, evaluated = split(tmp_path / "rows", "classify", rows)
    assert rows[5] in rest
    assert rows[5] not in evaluated
    assert len(evaluated) == 19


def test_the_recipe_of_a_part_stops_when_it_stops_improving(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    study = Study(tmp_path, "sft", str(model), 7, ignore_status)
    rows = [("row 1", {"prompt": "the cat", "completion": " sat", "day": date(2025, 1, 2)})]
    data = write_rows(study.path("part1"), rows)
    assert json.loads(data.read_text()) == {"prompt": "the cat", "completion": " sat", "day": "2025-01-02"}
    write_rows(study.path("validation"), rows)
    first = study._recipe(data, 400, None)
    assert (first.model.base, first.seed, first.optim.steps, first.optim.epochs) == (str(model), 7, 400, None)
    assert (first.optim.schedule, first.optim.warmup) == ("constant", WARMUP)
    assert first.evaluate is not None
    assert (first.evaluate.every, first.evaluate.stop_after) == (400 // VALIDATIONS, PATIENCE)
    assert [source.path for source in first.validation_sources] == [str(tmp_path / "validation.jsonl")]
    assert study._recipe(data, 40, None).evaluate.every == WARMUP, "not before the learning rate has risen"  # type: ignore[union-attr]
