"""Charts as SVG, drawn from numbers alone: they need no script, and print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from bottega.evaluation.estimates import Estimate
from bottega.series import Curve

WIDTH, HEIGHT, LEFT, BELOW = 640, 220, 56, 28
COLOURS = ("var(--one)", "var(--two)", "var(--three)")


def interval(one: Estimate) -> str:
    """The difference as a bar around zero; what is better lies to the right."""
    if one.gain is None:
        return ""
    low, high = one.gain
    reach = 1.1 * max(abs(low), abs(high), 1e-12)
    x = [100 + 100 * value / reach for value in (low, (low + high) / 2, high)]
    colour = {"better": "var(--good)", "worse": "var(--bad)"}.get(one.finding or "", "var(--dim)")
    words = f"{one.metric}: gain of {low:+.3g} to {high:+.3g}"
    return (
        f'<svg class="interval" viewBox="0 0 200 24" role="img" aria-label="{escape(words)}">'
        f'<line x1="100" y1="2" x2="100" y2="22" stroke="var(--dim)"/>'
        f'<line x1="{x[0]:.1f}" y1="12" x2="{x[2]:.1f}" y2="12" stroke="{colour}" stroke-width="5"/>'
        f'<circle cx="{x[1]:.1f}" cy="12" r="5" fill="{colour}"/></svg>'
    )


def contenders(metric: str, run: float, others: Mapping[str, Estimate]) -> str:
    """The run's number and the others' as bars; a line shows where each may lie beside the run's."""
    bars: list[tuple[str, float, tuple[float, float] | None, str]] = [("the run", run, None, "var(--one)")]
    for name, one in others.items():
        spread = None if one.interval is None else (run - one.interval[1], run - one.interval[0])
        bars.append((name, one.base or 0.0, spread, "var(--two)"))
    most = max(1e-12, *(value for _, value, _, _ in bars), *(spread[1] for _, _, spread, _ in bars if spread))
    height, begin, end = 26 * len(bars) + 8, 250, WIDTH - 60
    words = "; ".join(f"{name} {value:.3g}" for name, value, _, _ in bars)
    inner = [
        f'<svg class="curves" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(f"{metric}: {words}")}">'
    ]
    for place, (name, value, spread, colour) in enumerate(bars):
        y = 26 * place + 8
        width = max((end - begin) * value / most, 0.0)
        inner.append(_label(begin - 8, y + 13, name if len(name) <= 38 else f"{name[:37]}…", "end"))
        inner.append(f'<rect x="{begin}" y="{y}" width="{width:.1f}" height="18" fill="{colour}" opacity="0.75"/>')
        if spread is not None:
            low, high = (begin + (end - begin) * max(edge, 0.0) / most for edge in spread)
            inner.append(
                f'<path d="M{low:.1f} {y + 9}H{high:.1f}M{low:.1f} {y + 4}v10M{high:.1f} {y + 4}v10" '
                f'stroke="var(--text)" stroke-width="1.5"/>'
            )
        inner.append(_label(WIDTH - 6, y + 13, f"{value:.3g}", "end", "var(--text)"))
    return "".join([*inner, "</svg>"])


def curves(title: str, named: Mapping[str, Curve]) -> str:
    """Curves over updates, with the ends of both axes written out."""
    xs = [x for steps, _ in named.values() for x in steps]
    ys = [y for _, values in named.values() for y in values]
    low, high = min(ys), max(ys)
    last, first = max(xs), min(xs)
    words = "; ".join(f"{name} from {values[0]:.3g} to {values[-1]:.3g}" for name, (_, values) in named.items())
    inner = [
        f'<svg class="curves" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(f"{title}: {words}")}">',
        f'<path d="M{LEFT} 8V{HEIGHT - BELOW}H{WIDTH - 8}" fill="none" stroke="var(--dim)"/>',
        _label(LEFT - 6, 16, f"{high:.3g}", "end"),
        _label(LEFT - 6, HEIGHT - BELOW, f"{low:.3g}", "end"),
        _label(LEFT, HEIGHT - 8, f"{first:,.0f}", "start"),
        _label(WIDTH - 8, HEIGHT - 8, f"{last:,.0f} updates", "end"),
    ]
    for place, (name, (steps, values)) in enumerate(named.items()):
        colour = COLOURS[place % len(COLOURS)]
        points = " ".join(
            f"{_scaled(x, first, last, LEFT, WIDTH - 8):.1f},{_scaled(y, low, high, HEIGHT - BELOW, 12):.1f}"
            for x, y in zip(steps, values, strict=True)
        )
        inner.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        inner.append(_label(WIDTH - 12, 18 + 16 * place, name, "end", colour))
    return "".join([*inner, "</svg>"])


def _scaled(value: float, low: float, high: float, start: float, end: float) -> float:
    return start + (end - start) * (value - low) / ((high - low) or 1)


def _label(x: float, y: float, text: str, anchor: str, colour: str = "var(--dim)") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'


def thinned(curve: Curve, most: int = 12) -> list[tuple[float, float]]:
    """A few points of a curve, its ends among them, for the table behind the chart."""
    steps, values = curve
    places: Sequence[int] = range(len(steps))
    if len(steps) > most:
        places = [round(place * (len(steps) - 1) / (most - 1)) for place in range(most)]
    return [(steps[place], values[place]) for place in places]
