"""The curves of a run, as numbers; how they are drawn is up to the caller."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bottega.events import Event, Stepped, Validated

# Limit on the points of a curve: more than a terminal or a page can show. Longer curves are averaged down to it.
MAX_POINTS = 160

# (steps, a value at each of them)
Curve = tuple[Sequence[float], Sequence[float]]


def build_charts(events: Sequence[Event]) -> dict[str, dict[str, Curve]]:
    """The charts to draw: title → curve name (`training`, `validation`) → curve.

    The loss, then every validated metric, or the first training metric of a run without validation. Curves of fewer
    than two points are left out.
    """
    stepped = [event for event in events if isinstance(event, Stepped)]
    validated = [event for event in events if isinstance(event, Validated)]
    charts = {"loss": {"training": _downsample(_curve(stepped)), "validation": _curve(validated)}}
    names = list(validated[-1].metrics) if validated else list(stepped[-1].metrics)[:1] if stepped else []
    for name in names:
        charts[name] = {"training": _downsample(_curve(stepped, name)), "validation": _curve(validated, name)}
    drawable = {title: {name: c for name, c in curves.items() if len(c[0]) > 1} for title, curves in charts.items()}
    return {title: curves for title, curves in drawable.items() if curves}


def peak_memory(events: Sequence[Event]) -> tuple[int, int]:
    """Peak bytes of the host and of the accelerator over a run's updates; 0 if unknown."""
    stepped = [event for event in events if isinstance(event, Stepped)]
    host = max((event.memory for event in stepped), default=0)
    return host, max((event.device_memory for event in stepped), default=0)


def _curve(events: Sequence[Stepped] | Sequence[Validated], metric: str | None = None) -> Curve:
    """The loss at each event, or a metric at each event that has it."""
    if metric is None:
        return [event.step for event in events], [event.loss for event in events]
    having = [event for event in events if metric in event.metrics]
    return [event.step for event in having], [event.metrics[metric] for event in having]


def _downsample(curve: Curve) -> Curve:
    """The curve in at most MAX_POINTS points, each the mean of consecutive ones."""
    steps, values = curve
    if len(steps) <= MAX_POINTS:
        return steps, values
    # array_split allows parts of unequal size: the number of updates is rarely a multiple.
    parts = np.array_split(np.array([steps, values], float), MAX_POINTS, axis=1)
    return [float(part[0].mean()) for part in parts], [float(part[1].mean()) for part in parts]
