"""`auto` tries every format and precision, and keeps the fastest that is not noticeably worse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import bottega
from bottega import exporting
from bottega.errors import ModelError, RecipeError
from bottega.exporting import _auto
from bottega.exporting._quality import TaskMetric
from bottega.exporting._speed import Speed
from bottega.runs.atomic_files import verify_folder
from bottega.runs.export_info import EXPORT_FILE
from making import write_jsonl

ROWS = [{"prompt": f"the {word} {number} ", "completion": "sat"} for word in ("cat", "dog") for number in range(20)]


@pytest.fixture
def folders_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers folders are the only format: the others take minutes."""
    monkeypatch.setattr(exporting, "kinds", lambda: ["genai", "merged"])


@pytest.mark.usefixtures("folders_only")
def test_the_fastest_of_those_allowed_is_kept(
    train: Callable[..., Path], bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"text": row["prompt"], "label": row["prompt"][4:7]} for row in ROWS]
    data = {"train": str(write_jsonl(tmp_path / "rows.jsonl", rows)), "validation": 0.5}
    run = train(bert, tmp_path / "run", objective={"kind": "classify"}, data=data)
    speeds = {"merged-fp32": 5.0, "merged-bf16": 9.0, "merged-fp16": 7.0}
    monkeypatch.setattr(_auto, "measure_speed", lambda folder, device: Speed(speeds[folder.name], 10))
    result = bottega.export(run, tmp_path / "out", format="auto")
    assert (result.format, result.precision, result.folder) == ("merged", "bf16", tmp_path / "out")
    assert result.proof is not None
    assert [(each.format, each.precision, each.tokens_per_second) for each in result.choice] == [
        ("genai", "fp32", 0.0),
        *(("merged", name.removeprefix("merged-"), speed) for name, speed in speeds.items()),
    ]
    assert result.choice[0].reason == "it runs language models only"
    assert result.comparison.quality[0].rows == 20
    document = json.loads((tmp_path / "out" / EXPORT_FILE).read_text())
    assert len(document["comparison"]["choice"]) == 4
    assert document["precision"] == "bf16"
    assert verify_folder(tmp_path / "out") == ""
    assert not list(tmp_path.glob(".*"))
    assert bottega.load(tmp_path / "out").classify(["the cat 1"])


@pytest.mark.usefixtures("folders_only")
def test_what_is_far_from_the_trained_model_is_not_chosen(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_auto, "MAX_KL", 1e-9)
    monkeypatch.setattr(_auto, "measure_speed", lambda folder, device: Speed(float("fp32" not in folder.name), 10))
    result = bottega.export(llama, tmp_path / "out", format="auto")
    assert result.precision == "fp32"
    assert result.comparison.unmeasured == "only a run holds out rows to measure on"
    card = (tmp_path / "out" / "README.md").read_text()
    assert 'bottega run out "…"' in card
    assert "not measured: only a run holds out rows" in card
    assert any("nats a token from the trained model" in each.reason for each in result.choice)


def test_what_answers_worse_is_not_chosen() -> None:
    def metric(name: str, interval: tuple[float, float]) -> TaskMetric:
        return TaskMetric(name, name, 40, 0.9, 0.8, interval, higher=name != "loss")

    worse, same = metric("accuracy", (-0.2, -0.05)), metric("accuracy", (-0.2, 0.05))
    assert _auto._loss([metric("loss", (0.1, 0.2)), worse]).startswith("worse: accuracy 0.900 → 0.800")
    assert _auto._loss([metric("loss", (0.1, 0.2)), same]) == ""
    assert _auto._loss([]) == ""


@pytest.mark.usefixtures("folders_only")
def test_a_format_that_fails_in_float32_is_not_tried_in_less(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Speed:
        raise ModelError("it cannot be timed: no", fix="choose another format")

    monkeypatch.setattr(_auto, "measure_speed", fail)
    with pytest.raises(ModelError, match="merged-fp32: it cannot be timed: no; merged-bf16: it fails in float32"):
        bottega.export(llama, tmp_path / "out", format="auto")
    assert list(tmp_path.iterdir()) == []


def test_options_that_auto_has_not(llama: Path, tmp_path: Path) -> None:
    for options, reason in (
        ({"precision": "int4"}, "auto chooses the precision"),
        ({"adapters": [llama]}, "auto takes no adapters"),
        ({"device": "tpu"}, "no device 'tpu'"),
    ):
        with pytest.raises(RecipeError, match=reason):
            bottega.export(llama, tmp_path / "out", format="auto", **options)
    with pytest.raises(RecipeError, match="merged runs on any device"):
        bottega.export(llama, tmp_path / "out", device="cpu")
    with pytest.raises(RecipeError, match="-1 rows"):
        bottega.export(llama, tmp_path / "out", rows=-1)
