"""What precision costs the task is measured where weights are quantized, on rows that the run held out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import bottega
from bottega.exporting._quality import TaskMetric
from bottega.runs.export_info import EXPORT_FILE
from making import write_jsonl

ROWS = [{"prompt": f"the {word} {number} ", "completion": "sat"} for word in ("cat", "dog") for number in range(20)]


def test_worse_is_beyond_chance() -> None:
    def metric(interval: tuple[float, float] | None, higher: bool | None) -> TaskMetric:
        return TaskMetric("m", "accuracy", 40, 0.9, 0.85, interval, higher)

    assert metric((-0.1, -0.01), True).is_worse
    assert not metric((-0.1, 0.01), True).is_worse
    assert metric((0.01, 0.1), False).is_worse
    assert not metric((0.01, 0.1), None).is_worse
    assert not metric(None, True).is_worse
    assert metric((-0.1, 0.01), True).describe() == "accuracy 0.900 → 0.850 (-0.100 to +0.010), 40 rows"


def test_a_quantized_run_is_evaluated(train: Callable[..., Path], llama: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    from bottega.inference.runtimes import is_installed

    if not is_installed("llama_cpp"):
        pytest.skip("llama.cpp is not installed: make engines")
    data = {"train": str(write_jsonl(tmp_path / "rows.jsonl", ROWS)), "validation": 0.5}
    run = train(llama, tmp_path / "run", adapter={"rank": 2}, data=data)
    result = bottega.export(run, tmp_path / "out", format="gguf", precision="q8_0", rows=12)
    metrics = {each.metric: each for each in result.comparison.quality}
    evaluation = bottega.evaluate(run, against=[tmp_path / "out"], rows=12, answers=6)
    (wanted,) = (each for each in evaluation.contenders[-1].estimates if each.metric == "loss")
    assert metrics["loss"].rows == 12
    assert metrics["loss"].trained == pytest.approx(wanted.run)
    assert metrics["loss"].exported == pytest.approx(wanted.base)
    assert wanted.interval is not None
    assert metrics["loss"].interval == pytest.approx((-wanted.interval[1], -wanted.interval[0]))
    stored = json.loads((tmp_path / "out" / EXPORT_FILE).read_text())["comparison"]["quality"]
    assert [each["metric"] for each in stored] == list(metrics)
    assert f"- {metrics['loss'].describe()}" in (tmp_path / "out" / "README.md").read_text()
    assert bottega.export(run, tmp_path / "whole", format="gguf").comparison.quality == ()
    plain = bottega.export(llama, tmp_path / "plain", format="gguf", precision="q8_0")
    assert plain.comparison.unmeasured == "only a run holds out rows to measure on"
