"""Curves of a run as numbers."""

from __future__ import annotations

from pathlib import Path

from bottega.cli.run_view import draw_chart
from bottega.events import parse
from bottega.runs.curves import build_charts, peak_memory
from bottega.runs.store import history


def test_charts_show_the_losses_and_metrics_of_the_events(run: Path) -> None:
    found = build_charts(list(map(parse, history(run))))
    assert list(found) == ["loss", "accuracy"]
    steps, losses = found["loss"]["validation"]
    validated = [event for event in history(run) if event["type"] == "validated"]
    assert list(zip(steps, losses, strict=True)) == [(event["step"], event["loss"]) for event in validated]
    assert "training" in draw_chart("loss", found["loss"], 80)


def test_long_curves_are_averaged() -> None:
    events = [{"type": "stepped", "step": step, "loss": float(step), "metrics": {}} for step in range(1, 1001)]
    steps, losses = build_charts(list(map(parse, events)))["loss"]["training"]
    assert len(steps) == 160
    assert list(losses) == list(steps) == sorted(steps)
    assert (steps[0], steps[-1]) == (4, 997.5), "means of the first seven and the last six"


def test_a_run_without_validation_shows_its_first_training_metric() -> None:
    events = [
        {"type": "stepped", "step": step, "loss": 1.0, "metrics": {"reward": 0.5, "unfinished": 0.1}} for step in (1, 2)
    ]
    found = build_charts(list(map(parse, events)))
    assert found == {
        "loss": {"training": ([1, 2], [1.0, 1.0])},
        "reward": {"training": ([1, 2], [0.5, 0.5])},
    }


def test_a_single_point_is_no_curve() -> None:
    events = [parse({"type": "stepped", "step": 1, "loss": 1.0}), parse({"type": "validated", "step": 1, "loss": 1.0})]
    assert build_charts(events) == {}
    assert build_charts([]) == {}


def test_a_metric_is_drawn_where_it_was_measured() -> None:
    events = [
        {"type": "stepped", "step": 1, "loss": 1.0, "metrics": {"accuracy": 0.1}},
        {"type": "stepped", "step": 2, "loss": 1.0, "metrics": {}},
        {"type": "stepped", "step": 3, "loss": 1.0, "metrics": {"accuracy": 0.3}},
        {"type": "validated", "step": 3, "loss": 1.0, "metrics": {"accuracy": 0.2}},
    ]
    assert build_charts(list(map(parse, events)))["accuracy"] == {"training": ([1, 3], [0.1, 0.3])}


def test_the_peak_is_the_largest_of_all_updates() -> None:
    steps = [{"memory": 3, "device_memory": 1}, {"memory": 2, "device_memory": 5}]
    assert peak_memory([parse({"type": "stepped", "step": 1, **step}) for step in steps]) == (3, 5)
    assert peak_memory([]) == (0, 0)
