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
    """The charts worth drawing, by title: losses, and each metric that was validated."""
    stepped = [event for event in events if event["type"] == "stepped"]
    validated = [event for event in events if event["type"] == "validated"]
    losses = {"training": _averaged(stepped), "validation": _points(validated)}
    found = {"loss": losses}
    for name in validated[-1]["metrics"] if validated else ():
        found[f"{name}, validation"] = {name: ([e["step"] for e in validated], [e["metrics"][name] for e in validated])}
    drawable = {title: {name: c for name, c in curves.items() if len(c[0]) > 1} for title, curves in found.items()}
    return {title: curves for title, curves in drawable.items() if curves}


def _points(events: Sequence[Mapping[str, Any]]) -> Curve:
    return [event["step"] for event in events], [event["loss"] for event in events]


def _averaged(events: Sequence[Mapping[str, Any]]) -> Curve:
    steps, values = _points(events)
    if len(steps) <= POINTS:
        return steps, values
    parts = np.array_split(np.array([steps, values], float), POINTS, axis=1)
    return [float(part[0].mean()) for part in parts], [float(part[1].mean()) for part in parts]
