"""Charts as HTML and SVG without scripts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest

from bottega.evaluation.estimates import Estimate
from bottega.reporting.charts import baseline_chart, interval_chart, line_chart, thin_curve


def test_curves_have_a_text_alternative_and_a_table(report_text: Callable[[str], str]) -> None:
    document = json.loads(report_text("json"))
    steps, values = document["curves"]["loss"]["validation"]
    assert steps == [0, 5, 10, 15, 20]
    chart = line_chart("loss", {"validation": (steps, values)})
    assert f'aria-label="loss: validation from {values[0]:.3g} to {values[-1]:.3g}"' in chart
    assert f'data-name="update">{steps[-1]}</td>' in report_text("html")
    assert thin_curve(([*range(100)], [*range(100)]), 5) == [(0, 0), (25, 25), (50, 50), (74, 74), (99, 99)]


def test_points_of_a_curve_lie_between_the_ends_of_the_axes() -> None:
    chart = line_chart("a <b>", {"one": ([0, 5, 10], [2.0, 3.0, 1.0]), "two": ([0, 10], [2.0, 2.0])})
    assert re.findall(r'points="([^"]+)"', chart) == ["0.0,150.0 500.0,8.0 1000.0,292.0", "0.0,150.0 1000.0,150.0"]
    assert "<span>3</span><span>1</span>" in chart
    assert "<span>0</span><span>10 updates</span>" in chart
    assert 'aria-label="a &lt;b&gt;: one from 2 to 1; two from 2 to 2"' in chart


def test_a_constant_curve_is_a_line() -> None:
    assert 'points="0.0,292.0 1000.0,292.0"' in line_chart("loss", {"one": ([1, 2], [5.0, 5.0])})


@pytest.mark.parametrize(
    ("interval", "higher", "ends", "color"),
    [
        ((0.5, 1.0), True, ("145.5", "190.9"), "var(--good)"),
        ((0.5, 1.0), False, ("9.1", "54.5"), "var(--bad)"),
        ((-1.0, 1.0), True, ("9.1", "190.9"), "var(--dim)"),
        ((0.0, 0.0), True, ("100.0", "100.0"), "var(--dim)"),
    ],
)
def test_an_interval_is_a_bar_around_zero_with_better_to_the_right(
    interval: tuple[float, float], higher: bool, ends: tuple[str, str], color: str
) -> None:
    chart = interval_chart(Estimate("loss", 40, 1.0, 0.5, interval, higher))
    start, end = ends
    assert f'<line x1="{start}" y1="12" x2="{end}" y2="12" stroke="{color}" stroke-width="5"/>' in chart


def test_without_an_interval_there_is_no_chart() -> None:
    assert interval_chart(Estimate("loss", 4, 1.0, 0.5, None)) == ""
    assert interval_chart(Estimate("loss", 40, 1.0, 0.5, (0.1, 0.2), None)) == ""


def test_baselines_are_bars_with_the_interval_of_their_value() -> None:
    few = Estimate("accuracy", 40, 0.8, 0.4, (0.3, 0.6))
    chart = baseline_chart("accuracy", 0.8, {"few <shot>": few, "bm25": Estimate("accuracy", 4, 0.8, None, None)})
    assert 'aria-label="accuracy: the run 0.8; few &lt;shot&gt; 0.4; bm25 0"' in chart
    assert re.findall(r'<i style="width: ([\d.]+)%', chart) == ["100.0", "50.0", "0.0"]
    # From 0.8 - 0.6 to 0.8 - 0.3, of 0.8.
    assert '<b style="left: 25.0%; width: 37.5%"></b>' in chart
    assert chart.count("<b ") == 1


def test_an_interval_below_zero_is_clipped() -> None:
    chart = baseline_chart("accuracy", 0.2, {"few": Estimate("accuracy", 40, 0.2, 0.1, (-0.1, 0.5))})
    assert '<b style="left: 0.0%; width: 100.0%"></b>' in chart


def test_few_points_stay_as_they_are() -> None:
    assert thin_curve(([1, 2], [3.0, 4.0])) == [(1, 3.0), (2, 4.0)]
