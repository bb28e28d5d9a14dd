"""Fields that several requests share."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from bottega.server.errors import ApiError
from bottega.server.routes.chat import ChatRequest
from bottega.server.wire import SamplingFields, new_id


def test_the_defaults_are_those_of_the_api() -> None:
    settings = SamplingFields().sampling(None)
    assert (settings.temperature, settings.top_p, settings.stop, settings.logit_bias) == (1.0, 1.0, (), ())
    assert settings.tokens > 10**6
    assert SamplingFields().sampling(1).seed != SamplingFields().sampling(1).seed
    assert SamplingFields(seed=-3).sampling(1) == SamplingFields(seed=-3).sampling(1)
    settings = SamplingFields(top_p=0, stop="a", logit_bias={"7": -100}).sampling(0)  # type: ignore[dict-item]
    assert (settings.stop, settings.logit_bias, settings.tokens) == (("a",), ((7, -100.0),), 1)
    assert settings.top_p > 0


@pytest.mark.parametrize("fields", [{"temperature": float("nan")}, {"logit_bias": {7: 101}}, {"seed": "x"}])
def test_values_out_of_range_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SamplingFields.model_validate(fields)


def test_unknown_fields_are_ignored_and_refused_ones_named() -> None:
    messages = [{"role": "user", "content": "a"}]
    ChatRequest.model_validate({"messages": messages, "store": True, "new": 1, "audio": None}).check_refused()
    with pytest.raises(ApiError, match="'audio' is not supported"):
        ChatRequest.model_validate({"messages": messages, "audio": {"voice": "x"}}).check_refused()


def test_ids_are_new() -> None:
    assert len({new_id("a") for _ in range(100)}) == 100
