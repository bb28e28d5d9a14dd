"""Completions, and the scores of given texts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest
from serving import Running

import bottega

PROMPTS = ["the cat", "a dog ran"]


@pytest.fixture(scope="module")
def lenient(server: Running) -> Iterator[openai.OpenAI]:
    """For echoed prompts: the API has null for the first token, which the client's own types do not allow."""
    with server.client(_strict_response_validation=False) as client:
        yield client


def library(server: Running) -> bottega.LanguageModel:
    model: bottega.LanguageModel = bottega.load(server.folder / "base", dtype="float32")
    return model


def test_continuations_of_several_prompts(server: Running, client: openai.OpenAI) -> None:
    answer = client.completions.create(model="base", prompt=PROMPTS, n=2, seed=3, temperature=1.0, max_tokens=9)
    settings = bottega.Sampling(tokens=9, temperature=1.0, seed=3)
    expected = [
        one.text for prompt in PROMPTS for one in library(server).generate([prompt], settings, continuations=2)[0]
    ]
    assert [choice.text for choice in answer.choices] == expected
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert client.completions.create(model="base", prompt="the", temperature=0).usage.completion_tokens <= 16  # type: ignore[union-attr]


def test_token_ids_are_taken_as_they_are(server: Running, client: openai.OpenAI) -> None:
    ids = library(server).encode("the cat")
    by_text, by_ids, by_list = (
        client.completions.create(model="base", prompt=prompt, temperature=0, max_tokens=7).choices[0].text  # type: ignore[call-overload]
        for prompt in ("the cat", ids, [ids])
    )
    assert by_text == by_ids == by_list


def test_scores_of_an_echoed_prompt_are_the_models(server: Running, lenient: openai.OpenAI) -> None:
    """As evaluation harnesses ask for them: nothing generated, or one token."""
    model = library(server)
    ids = model.encode("the cat sat on the mat")
    row = bottega.Row(np.array(ids), np.arange(len(ids) - 1), np.array(ids[1:]), np.ones(len(ids) - 1, np.float32))
    (expected,) = model.logp([row])
    for tokens in (0, 1):
        answer = lenient.completions.create(
            model="base", prompt=ids, echo=True, logprobs=1, max_tokens=tokens, temperature=0
        )
        (choice,) = answer.choices
        scores: Any = choice.logprobs
        assert len(scores.tokens) == len(scores.token_logprobs) == len(scores.text_offset) == len(ids) + tokens
        assert scores.token_logprobs[0] is None
        assert sum(scores.token_logprobs[1 : len(ids)]) == pytest.approx(expected, abs=1e-4)
        assert choice.text.startswith("<s>the cat sat on the mat")
        for top, value in zip(scores.top_logprobs[1:], scores.token_logprobs[1:], strict=True):
            assert max(top.values()) >= value


def test_an_echoed_text_is_streamed_with_its_scores(lenient: openai.OpenAI) -> None:
    options: dict[str, Any] = {
        "model": "base",
        "prompt": "the cat",
        "echo": True,
        "logprobs": 0,
        "max_tokens": 4,
        "temperature": 0,
    }
    whole = lenient.completions.create(**options)
    chunks = list(lenient.completions.create(**options, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert whole.choices[0].text.startswith("the cat")
    tokens = [token for chunk in chunks for token in chunk.choices[0].logprobs.tokens]
    assert tokens == whole.choices[0].logprobs.tokens  # type: ignore[union-attr]
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"suffix": "end"}, "suffix"),
        ({"prompt": ["a"] * 100, "n": 100}, "n"),
        ({"best_of": 3}, "best_of"),
        ({"prompt": []}, None),
        ({"prompt": [7, -1]}, None),
        ({"prompt": [7, 9999]}, "prompt"),
        ({"logprobs": 50}, "logprobs"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 0, "stream": True}, "max_tokens"),
    ],
)
def test_what_is_wrong_is_named(client: openai.OpenAI, change: dict[str, Any], param: str | None) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.completions.create(**{"model": "base", "prompt": "the", **change})
    assert param is None or raised.value.param == param
