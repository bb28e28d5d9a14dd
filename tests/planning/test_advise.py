"""Advice on fine-tuning: the learning curve predicts what is learned, and a good baseline is not tuned away from."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import bottega
from bottega.cli.commands import app
from bottega.cli.interruption import Interrupted
from bottega.errors import DataError
from bottega.planning.advise import decide
from bottega.planning.learning_curve import Extrapolation
from bottega.planning.study import Study
from bottega.runs.store import stored_recipe
from making import WORDS, make_model, write_jsonl


def test_decision() -> None:
    expected = Extrapolation(1000, 0.8, 0.75, 0.85, 3.0, 60.0)
    assert decide("accuracy", True, {"base": 0.3, "bm25": 0.7}, expected)[0] == "tune"
    assert decide("accuracy", True, {"base": 0.3, "bm25": 0.9}, expected)[0] == "don't"
    assert decide("accuracy", True, {"base": 0.3, "bm25": 0.8}, expected)[0] == "inconclusive"
    assert decide("accuracy", True, {"base": 0.3, "bm25": 0.9}, expected, done=False)[0] == "inconclusive"
    assert decide("accuracy", True, {"base": 0.3}, expected, done=False)[0] == "tune"
    assert decide("loss", False, {"base": 0.9}, expected)[0] == "tune"
    assert decide("loss", False, {}, expected)[0] == "inconclusive"


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
