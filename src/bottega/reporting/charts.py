"""Charts as HTML and SVG without scripts, so that they print and work offline.

Text is HTML beside the SVG rather than inside it: it keeps its size when the drawing is scaled to a narrow page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from bottega.evaluation.estimates import Estimate
from bottega.runs.curves import Curve

# CSS variables of the page, which differ between light and dark.
COLORS = ("var(--one)", "var(--two)", "var(--three)")

# (low, high)
Interval = tuple[float, float]


def interval_chart(estimate: Estimate) -> str:
    """The confidence interval of the difference as a bar around zero; better is to the right. Empty without one."""
    if estimate.gain is None:
        return ""
    low, high = estimate.gain
    reach = 1.1 * max(abs(low), abs(high), 1e-12)  # never zero, which would divide by zero below
    start, middle, end = (100 + 100 * value / reach for value in (low, (low + high) / 2, high))
    color = {"better": "var(--good)", "worse": "var(--bad)"}.get(estimate.finding or "", "var(--dim)")
    label = f"{estimate.label}: gain of {low:+.3g} to {high:+.3g}"
    return (
        f'<svg class="interval" viewBox="0 0 200 24" role="img" aria-label="{escape(label)}">'
        f'<line x1="100" y1="2" x2="100" y2="22" stroke="var(--dim)"/>'
        f'<line x1="{start:.1f}" y1="12" x2="{end:.1f}" y2="12" stroke="{color}" stroke-width="5"/>'
        f'<circle cx="{middle:.1f}" cy="12" r="5" fill="{color}"/></svg>'
    )


def baseline_chart(metric: str, run: float, baselines: Mapping[str, Estimate]) -> str:
    """A bar for the run and for each baseline; the whisker of a baseline is its confidence interval given the run's."""
    bars: list[tuple[str, float, Interval | None]] = [("the run", run, None)]
    for name, estimate in baselines.items():
        # The interval is that of run minus baseline: subtracted from the run's value, it is one of the baseline.
        interval = None if estimate.interval is None else (run - estimate.interval[1], run - estimate.interval[0])
        bars.append((name, estimate.base or 0.0, interval))
    longest = max(1e-12, *(value for _, value, _ in bars), *(interval[1] for _, _, interval in bars if interval))
    values = "; ".join(f"{name} {value:.3g}" for name, value, _ in bars)
    lines = "".join(_bar(*bar, longest) for bar in bars)
    return f'<div class="bars" role="img" aria-label="{escape(f"{metric}: {values}")}">{lines}</div>'


def _bar(name: str, value: float, interval: Interval | None, longest: float) -> str:
    """A name, its bar and its value; `longest` is the value of a bar of full width."""

    def percent(number: float) -> float:
        # Clipped, because an interval may reach below zero.
        return 100 * min(max(number, 0.0), longest) / longest

    color = COLORS[0] if interval is None and name == "the run" else COLORS[1]
    track = f'<i style="width: {percent(value):.1f}%; background: {color}"></i>'
    if interval is not None:
        low, high = map(percent, interval)
        track += f'<b style="left: {low:.1f}%; width: {high - low:.1f}%"></b>'
    return f'<div><span>{escape(name)}</span><span class="track">{track}</span><span>{value:.3g}</span></div>'


def line_chart(title: str, curves: Mapping[str, Curve]) -> str:
    """Curves over updates, with a legend above and the ends of both axes labelled."""
    xs = [x for steps, _ in curves.values() for x in steps]
    ys = [y for _, values in curves.values() for y in values]
    label = "; ".join(f"{name} from {values[0]:.3g} to {values[-1]:.3g}" for name, (_, values) in curves.items())
    lines, legend = [], []
    for index, (name, (steps, values)) in enumerate(curves.items()):
        color = COLORS[index % len(COLORS)]
        # SVG counts y downwards; the margin of 8 keeps the stroke within the drawing.
        points = " ".join(
            f"{_scale(x, min(xs), max(xs), 0, 1000):.1f},{_scale(y, min(ys), max(ys), 292, 8):.1f}"
            for x, y in zip(steps, values, strict=True)
        )
        lines.append(f'<polyline points="{points}" stroke="{color}"/>')
        legend.append(f'<span style="color: {color}">{escape(name)}</span>')
    # Without preserveAspectRatio the drawing takes any width; the style sheet keeps strokes of constant width.
    drawing = (
        f'<svg viewBox="0 0 1000 300" preserveAspectRatio="none" role="img" aria-label="{escape(f"{title}: {label}")}">'
        f"{''.join(lines)}</svg>"
    )
    return (
        f'<figure class="curves"><figcaption>{" ".join(legend)}</figcaption>'
        f'<div class="ends"><span>{max(ys):.3g}</span><span>{min(ys):.3g}</span></div>{drawing}'
        f'<div class="updates"><span>{min(xs):,.0f}</span><span>{max(xs):,.0f} updates</span></div></figure>'
    )


def _scale(value: float, low: float, high: float, start: float, end: float) -> float:
    """Map [low, high] linearly to [start, end]; a constant curve lies at `start`."""
    return start + (end - start) * (value - low) / ((high - low) or 1)


def thin_curve(curve: Curve, max_points: int = 12) -> list[tuple[float, float]]:
    """Evenly spaced points of a curve, including both ends, for the table below the chart."""
    steps, values = curve
    indices: Sequence[int] = range(len(steps))
    if len(steps) > max_points:
        indices = [round(index * (len(steps) - 1) / (max_points - 1)) for index in range(max_points)]
    return [(steps[index], values[index]) for index in indices]
