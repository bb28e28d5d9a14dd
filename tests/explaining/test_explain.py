"""What is shown is what the model computes: equal to a plain forward, for every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

import bottega
from bottega.explaining.explain import NEXT_TOKENS, Explainer, _next
from making import CAT_ROWS, make_model, write_jsonl

TEXT = "the cat sat on the mat"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def tuned(base: Path) -> Path:
    """The base with an adapter on it."""
    folder = base.parent / "tuned"
    recipe = {
        "model": {"base": str(base), "dtype": "float32"},
        "adapter": {"rank": 2},
        "data": {"train": str(write_jsonl(base.parent / "rows.jsonl", CAT_ROWS))},
        "objective": {"kind": "sft"},
        "optim": {"steps": 3, "examples": 4, "lr": 0.05},
    }
    list(bottega.train(bottega.Recipe.parse(recipe), out=folder))
    return folder


def test_it_is_what_a_plain_forward_computes(base: Path) -> None:
    explainer = Explainer(base)
    trace = explainer.trace(TEXT)
    (stack,) = trace.stacks
    with torch.inference_mode():
        explainer.network.set_attn_implementation("eager")
        ids = torch.tensor([explainer.encode(TEXT)])
        plain = explainer.network(ids, output_attentions=True, output_hidden_states=True)
    assert trace.logits is not None
    np.testing.assert_array_equal(trace.logits, plain.logits[0].numpy())
    for layer, weights in zip(stack.layers, plain.attentions, strict=True):
        assert layer.attention is not None
        np.testing.assert_array_equal(layer.attention, weights[0].numpy())
    # transformers returns the last state after the final norm, and the others before it.
    for layer, state in zip(stack.layers[:-1], plain.hidden_states[1:], strict=False):
        np.testing.assert_array_equal(layer.state, state[0].numpy())
    np.testing.assert_array_equal(stack.embedded, plain.hidden_states[0][0].numpy())


def test_the_lens_at_the_last_layer_is_the_model(base: Path) -> None:
    document = bottega.explain(base, TEXT).document()["model"]
    here = document["here"]
    assert len(here["lens"]) == document["anatomy"]["layers"] + 1
    assert [token["id"] for token in here["lens"][-1]["tokens"]] == [
        token["id"] for token in here["next"]["tokens"][:5]
    ]


@pytest.mark.parametrize(
    ("kind", "more"),
    [("gemma2", {"final_logit_softcapping": 3.0}), ("granite", {"logits_scaling": 8.0, "residual_multiplier": 0.5})],
)
def test_what_a_model_does_to_its_logits_is_done_in_the_lens(tmp_path: Path, kind: str, more: dict[str, Any]) -> None:
    explainer = Explainer(make_model(tmp_path / kind, kind, **more))
    trace = explainer.trace(TEXT)
    last = trace.stacks[0].layers[-1]
    assert last.state is not None
    assert trace.logits is not None
    np.testing.assert_allclose(explainer.lens(last.state), trace.logits, rtol=1e-3, atol=1e-3)
    # What joins the stream is not what their attention and MLP return: nothing is shown instead of something wrong.
    assert last.attended is None
    assert last.fed is None


def test_what_was_written_is_read_by_another_model_in_its_own_tokens(base: Path, tmp_path: Path) -> None:
    explainer = Explainer(base)
    with pytest.raises(bottega.DataError, match="no token"):
        explainer.trace(TEXT, [len(explainer.vocabulary)])
    with pytest.raises(bottega.DataError, match="fit"):
        explainer.trace(TEXT, [5] * explainer.most_tokens)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_probabilities_can_be_computed_from_what_is_sent(tmp_path: Path, temperature: float) -> None:
    """Those of the likeliest tokens, of a vocabulary that is not sent."""
    explainer = Explainer(make_model(tmp_path / "base"))
    logits = np.random.default_rng(0).normal(0, 3, 50_000).astype(np.float32)
    document = _next(cast(Explainer, _Names(explainer)), logits)
    sent = sum(np.exp(token["logit"] / temperature) for token in document["tokens"])
    rest = sum(count * np.exp(logit / temperature) for logit, count in document["rest"])
    exact = np.exp(logits.astype(np.float64) / temperature)
    assert len(document["tokens"]) == NEXT_TOKENS
    assert (sent + rest) / exact.sum() == pytest.approx(1, abs=2e-4)


class _Names:
    """Any vocabulary."""

    def __init__(self, explainer: Explainer) -> None:
        self.explainer = explainer

    def token(self, id: int) -> Any:
        return self.explainer.token(0)


def test_a_tuned_model_beside_its_base(base: Path, tuned: Path) -> None:
    found = bottega.explain(tuned, TEXT, beside=base)
    document = found.document()
    assert document["model"]["changes"] is not None
    assert all(change > 0 for change in document["model"]["changes"])
    assert document["other"]["changes"] is None
    assert all(distance > 0 for distance in document["difference"]["states"])
    assert len(document["difference"]["attention"][0]) == document["model"]["anatomy"]["query_heads"]
    same = bottega.explain(base, TEXT, beside=base).document()["difference"]
    assert same["states"] == [0.0] * len(same["states"])


def test_attention_is_sent_as_bytes(base: Path) -> None:
    found = bottega.explain(base, TEXT)
    (heads, rows, columns), weights = found.attention(0, 1)
    sent = np.frombuffer(weights, np.uint8).reshape(heads, rows, columns) / 255
    exact = found.trace.stacks[0].layers[1].attention
    assert exact is not None
    assert np.abs(sent - exact).max() <= 0.5 / 255 + 1e-6
    assert np.triu(sent[0], 1).max() == 0, "a decoder does not look ahead"


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert", "t5", "mixtral", "mamba"])
def test_every_family_is_opened(tmp_path: Path, kind: str) -> None:
    base = make_model(tmp_path / kind, kind)
    document = bottega.explain(base, "the cat sat").document()
    anatomy, stacks = document["model"]["anatomy"], document["model"]["stacks"]
    assert all(layer["state"] for stack in stacks for layer in stack["layers"])
    assert all(token["text"] for token in stacks[0]["tokens"])
    if kind == "t5":
        assert [stack["name"] for stack in stacks] == ["encoder", "decoder"]
        assert stacks[1]["layers"][0]["cross"]
    if kind == "mixtral":
        weights = stacks[0]["layers"][0]["router"]
        assert sum(weights[0]) == pytest.approx(1, abs=1e-3)
        assert anatomy["experts"]
    if kind == "mamba":
        assert anatomy["attention"] == "none"
    else:
        assert stacks[-1]["layers"][0]["heads"]
    if kind in ("llama", "gpt2"):
        assert document["model"]["here"]["lens"]
    words = {"llama": ("RoPE", "SwiGLU"), "gpt2": ("learned", "GELU"), "t5": ("relative", "ReLU")}
    if kind in words:
        assert (anatomy["positions"], anatomy["mlp"]) == words[kind]


def test_what_cannot_be_explained_is_refused(base: Path) -> None:
    for text, what in (("", "write"), ("cat " * 300, "tokens"), ("\ud800", "character")):
        with pytest.raises(bottega.DataError) as caught:
            bottega.explain(base, text)
        assert what in str(caught.value)
