from __future__ import annotations

import itertools

import pytest

from bottega.engine.lr_schedule import Schedule

KINDS = ("cosine", "linear", "constant", "wsd")


@pytest.mark.parametrize("kind", KINDS)
def test_warmup_reaches_the_peak_and_no_rate_is_zero(kind: str) -> None:
    schedule = Schedule(kind, 1.0, 100, 0.1, 0.0)  # type: ignore[arg-type]
    rates = [schedule.lr(step) for step in range(1, 101)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert max(rates) == rates[9] == 1.0
    assert all(rate > 0 for rate in rates)
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates[9:]))


def test_the_shape_of_each_decay() -> None:
    lr = {kind: Schedule(kind, 1.0, 101, 0, 0.1).lr for kind in KINDS}  # type: ignore[arg-type]
    assert lr["constant"](101) == 1.0
    assert lr["linear"](51) == pytest.approx(0.1 + 0.9 * 0.5, abs=0.01)
    assert lr["cosine"](51) == pytest.approx(0.1 + 0.9 * 0.5, abs=0.01)
    assert lr["wsd"](80) == 1.0
    assert lr["wsd"](91) == pytest.approx(0.1 + 0.9 * 0.5, abs=0.05)
    assert [lr[kind](101) < 0.12 for kind in ("cosine", "linear")] == [True, True]


def test_warmup_is_a_fraction_or_a_number_of_steps() -> None:
    assert Schedule("constant", 1.0, 1000, 0.02, 0).lr(10) == 0.5
    assert Schedule("constant", 1.0, 1000, 20, 0).lr(10) == 0.5
    assert Schedule("constant", 1.0, 1000, 0, 0).lr(1) == 1.0
