"""Every format offers precisions that have bounds."""

from __future__ import annotations

from bottega import exporting


def test_precisions_of_every_format_are_known() -> None:
    for kind in exporting.kinds():
        precisions = exporting.load(kind).precisions
        assert precisions[0] == "fp32", "the default is exact"
        assert set(precisions) <= set(exporting.PRECISIONS)


def test_exact_weights_have_exact_bounds() -> None:
    for name, precision in exporting.PRECISIONS.items():
        assert precision.greedy == (precision.difference is not None) == (name == "fp32")
        assert precision.correlation >= 0.8
