"""The results of `bottega plan` and `bottega advise` in the terminal."""

from __future__ import annotations

from typing import Any

import pytest

from bottega.cli.planning_view import _format_bytes, show_counsel, show_plan
from bottega.planning.advise import Counsel
from bottega.planning.learning_curve import CurvePoint, Extrapolation
from bottega.planning.plan import Advice, Plan
from making import printed


def plan(**changes: Any) -> Plan:
    values: dict[str, Any] = {
        "device": "h200", "memory": 3_000_000_000, "parts": {"weights": 2_995_000_000, "buffers": 4_000_000},
        "limit": 8_000_000_000, "updates": 1200, "seconds_per_update": 0.5, "seconds": 600.0, "tokens": 90_000,
        "computed": 80_000, "disk": 50_000_000, "energy": 1234.5, "cost": 0.5, "fits": True, "measured": True,
    }  # fmt: skip
    return Plan(**{**values, **changes})


def counsel(**changes: Any) -> Counsel:
    values: dict[str, Any] = {
        "outcome": "tune", "sentence": "Tune: it pays.", "kind": "classify", "metric": "accuracy", "higher": True,
        "without": {"bm25": 0.5}, "points": [CurvePoint(100, 0.6, 0.01, 1500, 90.0, True)],
        "expected": [Extrapolation(2000, 0.8, 0.7, 0.9, 2.5, 7200.0)], "saved": 1200.0, "repaid": 3400.0,
        "licences": [("model", "smol [1]", "apache-2.0")],
    }  # fmt: skip
    return Counsel(**{**values, **changes})


def test_a_plan_that_fits_shows_what_it_takes_and_the_command() -> None:
    text = printed(show_plan, plan(), "my [1].yaml")
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0] == "my [1].yaml on h200"
    for line in (
        "memory: weights 3.00 GB",
        "memory, total 3.00 GB of 8.0 GB",
        "updates 1,200",
        "tokens 90,000, of which 80,000 are computed",
        "disk 50.0 MB",
        "time per update 0.5 s",
        "time, total 10 min",
        "energy 1,234 Wh",
        "cost 0.50",
        "It fits. Run it: bottega train my [1].yaml",
    ):
        assert line in lines
    assert "buffers" not in text, "parts of a few megabytes are left out"
    assert "note" not in text


def test_what_is_not_known_is_left_out_and_an_estimate_is_called_one() -> None:
    unknown = plan(seconds=None, seconds_per_update=None, energy=None, cost=None, measured=False)
    text = printed(show_plan, unknown, "r.yaml")
    assert "note estimated, not measured\n" in text
    for name in ("time", "energy", "cost"):
        assert f"\n{name}" not in text
    assert "; its speed is from the datasheet" in printed(show_plan, plan(measured=False), "r.yaml")


def test_a_plan_that_does_not_fit_shows_the_changes_that_make_it_fit() -> None:
    advice = [Advice("optim.tokens=64 optim.checkpointing=true", 2_500_000_000)]
    text = printed(show_plan, plan(fits=False, advice=advice), "r.yaml")
    assert "It does not fit." in text
    assert "with optim.tokens=64 optim.checkpointing=true it takes 2.50 GB, and fits:" in text
    assert "    bottega train r.yaml optim.tokens=64 optim.checkpointing=true\n" in text
    assert "use a smaller model" in printed(show_plan, plan(fits=False), "r.yaml")
    assert "use a smaller model" not in printed(show_plan, plan(fits=False), "r.yaml", preliminary=True)


@pytest.mark.parametrize(("size", "text"), [(1_000_000, "1.0 MB"), (99_900_000, "99.9 MB"), (100_000_000, "0.10 GB")])
def test_sizes_have_a_readable_unit(size: int, text: str) -> None:
    assert _format_bytes(size) == text


def test_a_counsel_shows_its_learning_curve_and_what_tuning_saves() -> None:
    lines = [" ".join(line.split()) for line in printed(show_counsel, counsel()).splitlines()]
    assert lines[0] == "accuracy, more is better"
    for line in (
        "bm25 0.500",
        "tuned on 100 rows 0.600 1,500 updates, 90 s",
        "expected from 2,000 rows 0.800 (0.700 to 0.900) 2.5 passes, 2.0 h",
        "Tune: it pays.",
        "A request would read 1,200 tokens fewer than with the longest prompt.",
        "The training time on all rows would be saved again after 3,400 requests.",
        "model smol [1]: apache-2.0",
    ):
        assert line in lines


@pytest.mark.parametrize("saved", [None, 0.0, -5.0])
def test_nothing_is_said_of_savings_where_there_are_none(saved: float | None) -> None:
    text = printed(show_counsel, counsel(saved=saved, repaid=None, higher=False))
    assert "less is better" in text
    assert "fewer" not in text
    assert "saved again" not in text
