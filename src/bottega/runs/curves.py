"""The curves of a run, as numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

POINTS = 160
"""Most points of a curve; updates between them are averaged."""

Curve = tuple[Sequence[float], Sequence[float]]
"""Updates, and a value at each."""


def charts(events: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Curve]]:
    """The charts worth drawing, by title: losses, and each metric that was validated, or else the first there is."""
    stepped = [event for event in events if event["type"] == "stepped"]
    validated = [event for event in events if event["type"] == "validated"]
    found = {"loss": {"training": _averaged(_points(stepped)), "validation": _points(validated)}}
    names = list(validated[-1]["metrics"]) if validated else list(stepped[-1]["metrics"])[:1] if stepped else []
    for name in names:
        found[name] = {"training": _averaged(_points(stepped, name)), "validation": _points(validated, name)}
    drawable = {title: {name: c for name, c in curves.items() if len(c[0]) > 1} for title, curves in found.items()}
    return {title: curves for title, curves in drawable.items() if curves}


def peaks(events: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Peak bytes of the host and of the accelerator over the updates of a run; 0 where there is none."""
    stepped = [event for event in events if event["type"] == "stepped"]
    names = ("memory", "device_memory")
    host, card = (max((event[name] for event in stepped), default=0) for name in names)
    return host, card


def _points(events: Sequence[Mapping[str, Any]], metric: str | None = None) -> Curve:
    """The loss of each event, or a metric of those that have it."""
    known = [event for event in events if metric is None or metric in event["metrics"]]
    values = [event["loss"] if metric is None else event["metrics"][metric] for event in known]
    return [event["step"] for event in known], values


def _averaged(curve: Curve) -> Curve:
    """The same in few points."""
    steps, values = curve
    if len(steps) <= POINTS:
        return steps, values
    parts = np.array_split(np.array([steps, values], float), POINTS, axis=1)
    return [float(part[0].mean()) for part in parts], [float(part[1].mean()) for part in parts]
