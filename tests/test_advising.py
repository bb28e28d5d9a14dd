"""Whether to fine-tune: what is learned is foreseen, and what needs no tuning is not tuned."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import bottega
from bottega.advising import Expected, Point, _every_label_first, _expected, _said
from bottega.cli import app
from bottega.errors import DataError
from making import WORDS, make_model, write_jsonl


def test_the_curve_is_drawn_on() -> None:
    """Errors that fall as a power of the rows are foreseen, and the interval holds what comes."""
    draw, held = np.random.default_rng(0), []
    for _ in range(60):
        true = [1 - 2.0 * rows**-0.3 for rows in (50, 100, 200, 1000)]
        points = [
            Point(n, float(v + draw.normal(0, 0.02)), 0.02, n / 10)
            for n, v in zip((50, 100, 200), true[:3], strict=True)
        ]
        one, twice = _expected(points, [1000, 2000], most=1.0)
        held.append(one.low <= true[3] <= one.high)
        assert one.low <= one.value <= one.high
        assert twice.value >= one.value
        assert one.seconds == pytest.approx(100)
    assert np.mean(held) >= 0.85


def test_a_loss_falls_and_what_does_not_is_left_level() -> None:
    falling = [Point(n, 5 * n**-0.2, 0.001, 1.0) for n in (50, 100, 200)]
    (one,) = _expected(falling, [1000], most=None)
    assert one.value == pytest.approx(5 * 1000**-0.2, rel=0.01)
    level = [Point(n, 0.5 - n / 10_000, 0.001, 1.0) for n in (50, 100, 200)]
    (one,) = _expected(level, [1000], most=1.0)
    assert one.value == pytest.approx(0.49, abs=0.01), "more rows are not taken to do harm"


def test_what_is_said() -> None:
    expected = Expected(1000, 0.8, 0.75, 0.85, 60.0)
    assert _said("accuracy", True, {"base": 0.3, "bm25": 0.7}, expected)[0] == "tune"
    assert _said("accuracy", True, {"base": 0.3, "bm25": 0.9}, expected)[0] == "don't"
    assert _said("accuracy", True, {"base": 0.3, "bm25": 0.8}, expected)[0] == "unsure"
    assert _said("loss", False, {"base": 0.9}, expected)[0] == "tune"
    assert _said("loss", False, {}, expected)[0] == "unsure"


def test_a_part_has_every_label() -> None:
    rows = [{"text": f"the {n}", "label": str(n // 45)} for n in range(100)]
    random.Random(0).shuffle(rows)
    assert {row["label"] for row in _every_label_first(rows, "classify")[:3]} == {"0", "1", "2"}


def test_advice_on_rows(tmp_path: Path) -> None:
    draw = random.Random(0)
    rows = []
    for _ in range(400):
        label = draw.choice(["cat", "dog"])
        rows.append(
            {"text": " ".join([*draw.choices(WORDS[8:], k=5), label, *draw.choices(WORDS[8:], k=3)]), "label": label}
        )
    data, model = write_jsonl(tmp_path / "rows.jsonl", rows), make_model(tmp_path / "model", "bert")
    shown = CliRunner().invoke(app, ["advise", str(data), "--model", str(model), "--rows", "60", "--json"])
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.stdout)
    assert found["metric"] == "label accuracy"
    assert [point["rows"] for point in found["points"]] == [17, 34, 68]
    assert [one["rows"] for one in found["expected"]] == [340, 680]
    assert found["without"]["nearest training rows, bm25"] > 0.7
    assert found["outcome"] in ("don't", "unsure"), "the nearest row tells its label without any tuning"
    assert [part[0] for part in found["licences"]] == ["base model", "data"]
    with pytest.raises(DataError, match="too few"):
        bottega.advise(write_jsonl(tmp_path / "few.jsonl", rows[:50]), model)
