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
