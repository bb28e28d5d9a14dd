"""Charts as HTML and SVG, drawn from numbers alone: they need no script, and print.

Words are HTML beside the drawing, not in it, so that they keep their size however narrow the page is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from bottega.evaluation.estimates import Estimate
from bottega.runs.curves import Curve

COLOURS = ("var(--one)", "var(--two)", "var(--three)")


def interval(one: Estimate) -> str:
    """The difference as a bar around zero; what is better lies to the right."""
    if one.gain is None:
        return ""
    low, high = one.gain
    reach = 1.1 * max(abs(low), abs(high), 1e-12)
    x = [100 + 100 * value / reach for value in (low, (low + high) / 2, high)]
    colour = {"better": "var(--good)", "worse": "var(--bad)"}.get(one.finding or "", "var(--dim)")
    words = f"{one.label}: gain of {low:+.3g} to {high:+.3g}"
    return (
        f'<svg class="interval" viewBox="0 0 200 24" role="img" aria-label="{escape(words)}">'
        f'<line x1="100" y1="2" x2="100" y2="22" stroke="var(--dim)"/>'
        f'<line x1="{x[0]:.1f}" y1="12" x2="{x[2]:.1f}" y2="12" stroke="{colour}" stroke-width="5"/>'
        f'<circle cx="{x[1]:.1f}" cy="12" r="5" fill="{colour}"/></svg>'
    )


def contenders(metric: str, run: float, others: Mapping[str, Estimate]) -> str:
    """The run's number and the others' as bars; a line shows where each may lie beside the run's."""
    bars: list[tuple[str, float, tuple[float, float] | None]] = [("the run", run, None)]
    for name, one in others.items():
        spread = None if one.interval is None else (run - one.interval[1], run - one.interval[0])
        bars.append((name, one.base or 0.0, spread))
    most = max(1e-12, *(value for _, value, _ in bars), *(spread[1] for _, _, spread in bars if spread))
    words = "; ".join(f"{name} {value:.3g}" for name, value, _ in bars)
    lines = "".join(_bar(*bar, most) for bar in bars)
    return f'<div class="bars" role="img" aria-label="{escape(f"{metric}: {words}")}">{lines}</div>'


def _bar(name: str, value: float, spread: tuple[float, float] | None, most: float) -> str:
    """A name, its bar, and its number; `most` is what the longest bar stands for."""

    def share(number: float) -> float:
        return 100 * min(max(number, 0.0), most) / most

    colour = COLOURS[0] if spread is None and name == "the run" else COLOURS[1]
    drawn = f'<i style="width: {share(value):.1f}%; background: {colour}"></i>'
    if spread is not None:
        low, high = map(share, spread)
        drawn += f'<b style="left: {low:.1f}%; width: {high - low:.1f}%"></b>'
    return f'<div><span>{escape(name)}</span><span class="track">{drawn}</span><span>{value:.3g}</span></div>'


def curves(title: str, named: Mapping[str, Curve]) -> str:
    """Curves over updates, with the ends of both axes written out, and their names above: nothing lies over them."""
    xs = [x for steps, _ in named.values() for x in steps]
    ys = [y for _, values in named.values() for y in values]
    words = "; ".join(f"{name} from {values[0]:.3g} to {values[-1]:.3g}" for name, (_, values) in named.items())
    lines, legend = [], []
    for place, (name, (steps, values)) in enumerate(named.items()):
        colour = COLOURS[place % len(COLOURS)]
        points = " ".join(
            f"{_scaled(x, min(xs), max(xs), 0, 1000):.1f},{_scaled(y, min(ys), max(ys), 292, 8):.1f}"
            for x, y in zip(steps, values, strict=True)
        )
        lines.append(f'<polyline points="{points}" stroke="{colour}"/>')
        legend.append(f'<span style="color: {colour}">{escape(name)}</span>')
    drawing = (
        f'<svg viewBox="0 0 1000 300" preserveAspectRatio="none" role="img" aria-label="{escape(f"{title}: {words}")}">'
        f"{''.join(lines)}</svg>"
    )
    return (
        f'<figure class="curves"><figcaption>{" ".join(legend)}</figcaption>'
        f'<div class="ends"><span>{max(ys):.3g}</span><span>{min(ys):.3g}</span></div>{drawing}'
        f'<div class="updates"><span>{min(xs):,.0f}</span><span>{max(xs):,.0f} updates</span></div></figure>'
    )


def _scaled(value: float, low: float, high: float, start: float, end: float) -> float:
    return start + (end - start) * (value - low) / ((high - low) or 1)


def thinned(curve: Curve, most: int = 12) -> list[tuple[float, float]]:
    """A few points of a curve, its ends among them, for the table behind the chart."""
    steps, values = curve
    places: Sequence[int] = range(len(steps))
    if len(steps) > most:
        places = [round(place * (len(steps) - 1) / (most - 1)) for place in range(most)]
    return [(steps[place], values[place]) for place in places]
