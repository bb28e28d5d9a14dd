"""Embeddings, in both encodings."""

from __future__ import annotations

from typing import Any

import numpy as np
import openai
import pytest
from serving import Running

import bottega

TEXTS = ["the cat", "a dog ran on the mat"]


def test_vectors_are_those_of_the_library(server: Running, client: openai.OpenAI) -> None:
    expected = bottega.load(server.folder / "vectors", dtype="float32").embed(TEXTS)
    answer = client.embeddings.create(model="vectors", input=TEXTS, encoding_format="float")
    # The client asks for base64 unless it is told otherwise; if it is strict, it checks what it has not yet decoded.
    with server.client(_strict_response_validation=False) as lenient:
        packed = lenient.embeddings.create(model="vectors", input=TEXTS)
    for one in (answer, packed):
        np.testing.assert_allclose(np.array([each.embedding for each in one.data]), expected, atol=1e-5)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 8
    assert len(client.embeddings.create(model="vectors", input="the cat", encoding_format="float").data) == 1


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"model": "base"}, 400, "model"),
        ({"model": "nope"}, 404, None),
        ({"input": []}, 400, None),
        ({"input": [1, 2]}, 400, "input"),
        ({"dimensions": 8}, 400, "dimensions"),
    ],
)
def test_what_is_wrong_is_named(client: openai.OpenAI, change: dict[str, Any], status: int, param: str | None) -> None:
    with pytest.raises(openai.APIStatusError) as raised:
        client.embeddings.create(**{"model": "vectors", "input": TEXTS, **change})
    assert (raised.value.status_code, raised.value.param) == (status, param or raised.value.param)
