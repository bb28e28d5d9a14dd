"""Advice on fine-tuning: the learning curve predicts what is learned, and a good baseline is not tuned away from."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import bottega
from bottega.cli.commands import app
from bottega.cli.interruption import Interrupted
from bottega.errors import DataError
from bottega.planning.advise import decide
from bottega.planning.learning_curve import CurvePoint, Extrapolation, extrapolate
from bottega.planning.study import Study
from bottega.progress import ignore_status
from bottega.runs.store import stored_recipe
from making import WORDS, make_model, write_jsonl


def extrapolations(values: dict[int, float], error: float, *, share: bool) -> list[Extrapolation]:
    points = [
        CurvePoint(rows, value, error, 100 * (place + 1), 10.0 * (place + 1), True)
        for place, (rows, value) in enumerate(values.items())
    ]
    return list(extrapolate(points, [1000, 2000], share=share))


def falling(rows: int, floor: float) -> float:
    return 1 - floor - 2.0 * rows**-0.4


@pytest.mark.parametrize(
    "curve", [lambda n: falling(n, 0.0), lambda n: falling(n, 0.2), lambda n: 1 / (1 + 250 / n)], ids=["0", "0.2", "S"]
)
def test_the_curve_is_extrapolated(curve: Callable[[int], float]) -> None:
    """Errors, or their odds, that fall as a power of the rows, to a floor or to none: the interval holds what comes."""
    draw, held = np.random.default_rng(0), []
    for _ in range(100):
        true = {rows: curve(rows) for rows in (50, 100, 200, 1000)}
        seen = {rows: true[rows] + float(draw.normal(0, 0.02)) for rows in (50, 100, 200)}
        one, twice = extrapolations(seen, 0.02, share=True)
        held.append(one.low <= true[1000] <= one.high)
        assert one.low <= one.value <= one.high
        assert twice.value >= one.value
        assert one.high - one.low < 0.5
    assert np.mean(held) >= 0.95


def test_training_on_all_rows_takes_what_the_parts_took_or_a_pass() -> None:
    one, twice = extrapolations({50: 0.5, 100: 0.6, 200: 0.7}, 0.02, share=True)
    assert one.passes == pytest.approx(300 * 16 / 1000), "three hundred updates of sixteen"
    assert one.seconds == pytest.approx(30)
    assert twice.passes == pytest.approx(300 * 16 / 2000)
    points = [CurvePoint(rows, 0.5, 0.02, 10, 1.0, True) for rows in (50, 100, 200)]
    (large,) = extrapolate(points, [16_000], share=True)
    assert large.passes == 1
    assert large.seconds == pytest.approx(100)


def test_a_loss_falls_and_what_does_not_is_left_level() -> None:
    one, _ = extrapolations({rows: 5 * rows**-0.2 for rows in (50, 100, 200)}, 0.001, share=False)
    assert one.low == pytest.approx(5 * 1000**-0.2, rel=0.02), "with no floor"
    assert one.high < 5 * 200**-0.2
    one, _ = extrapolations({rows: 0.5 - rows / 10_000 for rows in (50, 100, 200)}, 0.001, share=True)
    assert one.value == pytest.approx(0.49, abs=0.01), "more rows are not taken to do harm"


def test_decision() -> None:
    expected = Extrapolation(1000, 0.8, 0.75, 0.85, 3.0, 60.0)
    assert decide("accuracy", True, {"base": 0.3, "bm25": 0.7}, expected)[0] == "tune"
    assert decide("accuracy", True, {"base": 0.3, "bm25": 0.9}, expected)[0] == "don't"
    assert decide("accuracy", True, {"base": 0.3, "bm25": 0.8}, expected)[0] == "inconclusive"
    assert decide("accuracy", True, {"base": 0.3, "bm25": 0.9}, expected, done=False)[0] == "inconclusive"
    assert decide("accuracy", True, {"base": 0.3}, expected, done=False)[0] == "tune"
    assert decide("loss", False, {"base": 0.9}, expected)[0] == "tune"
    assert decide("loss", False, {}, expected)[0] == "inconclusive"


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


def labelled() -> list[dict[str, str]]:
    """Rows whose label stands in their text."""
    draw = random.Random(0)
    rows = []
    for _ in range(400):
        label = draw.choice(["cat", "dog"])
        rows.append(
            {"text": " ".join([*draw.choices(WORDS[8:], k=5), label, *draw.choices(WORDS[8:], k=3)]), "kind": label}
        )
    return rows


def test_interrupted_advice_shows_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, model = write_jsonl(tmp_path / "rows.jsonl", labelled()), make_model(tmp_path / "model", "bert")
    train_part = Study.train_part

    def interrupted(self: Study, rows: Any, updates: int, previous: Any = None, **options: Any) -> Any:
        if previous is not None:
            raise Interrupted
        return train_part(self, rows, 20, previous, **options)

    monkeypatch.setattr(Study, "train_part", interrupted)
    given = ["advise", str(data), "--model", str(model), "--rows", "40", "--map", "label=kind"]
    with pytest.raises(Interrupted, match="what is known so far is above"):
        app(given)
    shown = capsys.readouterr().out
    for words in ("tuned on 16 rows", "nearest known rows, bm25", "Only 1 of 3 runs are done"):
        assert words in shown


def test_advice_on_rows(tmp_path: Path) -> None:
    rows = labelled()
    data, model = write_jsonl(tmp_path / "rows.jsonl", rows), make_model(tmp_path / "model", "bert")
    out = tmp_path / "study"
    given = ["advise", str(data), "--model", str(model), "--rows", "60", "--map", "label=kind", "--out", str(out)]
    shown = CliRunner().invoke(app, [*given, "--json"])
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.stdout)
    assert found["metric"] == "accuracy"
    assert [point["rows"] for point in found["points"]] == [16, 32, 64]
    assert [one["rows"] for one in found["expected"]] == [300, 600]
    assert found["without"]["nearest known rows, bm25"] > 0.9, "the label is a word of the text"
    assert found["outcome"] in ("don't", "inconclusive"), "the nearest row tells its label without any tuning"
    assert [(part[0], part[1] == "rows.jsonl") for part in found["licences"]] == [("base model", False), ("data", True)]
    kept = [out / f"{name}.jsonl" for name in ("evaluation", "validation", "train")]
    evaluated, validated, trained = (set(path.read_text().splitlines()) for path in kept)
    assert not evaluated & trained
    assert not validated & (evaluated | trained)
    second = stored_recipe(out / "part32")
    assert second.model.base == str(out / "part16"), "each part starts from the result of the one before"
    assert CliRunner().invoke(app, given).exit_code == 2, "an existing folder is not overwritten"
    with pytest.raises(DataError, match="no field intent"):
        bottega.advise(data, model, mapping={"label": "intent"})
    with pytest.raises(DataError, match="too few"):
        bottega.advise(write_jsonl(tmp_path / "few.jsonl", rows[:50]), model)


@pytest.mark.slow
def test_an_adapter_goes_on_as_well(tmp_path: Path) -> None:
    draw = random.Random(0)
    rows = [{"prompt": f"the {draw.choice(WORDS)}", "completion": f" {draw.choice(WORDS)} {n}"} for n in range(120)]
    data, model, out = write_jsonl(tmp_path / "rows.jsonl", rows), make_model(tmp_path / "model"), tmp_path / "study"
    renamed = ["--map", "prompt=prompt", "--rows", "20", "--epochs", "1", "--out", str(out)]
    shown = CliRunner().invoke(app, ["advise", str(data), "--model", str(model), *renamed])
    assert shown.exit_code == 0, shown.output
    said = " ".join(shown.output.split())
    assert "Tune it: tuning on all 88 rows should give loss" in said
    assert f"bottega init sft --data {data} --model {model}" in said
    assert "bottega train recipe.yaml optim.epochs=" in said
    assert "data.mapping.prompt=prompt" in said
    adapters = [stored_recipe(out / f"part{rows}").adapter for rows in (16, 32, 64)]
    assert [one and one.start for one in adapters] == [None, str(out / "part16"), str(out / "part32")]
