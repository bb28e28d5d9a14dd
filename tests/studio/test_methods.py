"""The ways of training that the studio offers."""

from __future__ import annotations

import bottega
from bottega.studio.methods import METHODS, methods


def test_each_is_an_objective_that_there_is() -> None:
    assert list(METHODS) == methods()
    assert {method.objective for method in METHODS} <= set(bottega.objective_kinds())
    # Quantized weights are not trained.
    assert all(method.adapter for method in METHODS if method.quantize != "none")
