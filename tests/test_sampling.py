"""Settings of text generation: greedy by default, a value, and in range."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from bottega.sampling import Sampling


def test_decoding_is_greedy_and_unfiltered_by_default() -> None:
    settings = Sampling()
    assert (settings.temperature, settings.top_k, settings.top_p, settings.min_p) == (0.0, 0, 1.0, 0.0)
    assert settings.repetition_penalty is None, "the checkpoint's own, if it declares one"
    assert (settings.stop, settings.seed) == ((), 0)


def test_settings_are_a_value() -> None:
    assert Sampling(stop=["."]) == Sampling(stop=(".",))
    assert hash(Sampling(seed=3)) == hash(Sampling(seed=3))
    with pytest.raises(ValidationError, match="frozen"):
        Sampling().tokens = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    "wrong",
    [
        {"tokens": 0},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 0},
        {"top_p": 1.1},
        {"min_p": 1.1},
        {"repetition_penalty": 0},
        {"temperatur": 1.0},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Sampling(**wrong)
