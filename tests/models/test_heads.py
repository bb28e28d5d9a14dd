"""Each head gives the scores it declares; a head of one's own is a file beside them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig

import bottega
from bottega import objectives
from bottega.batch import Batch, Example, Row
from bottega.errors import ModelError
from bottega.models import heads
from bottega.models.heads import ScoreOptions, from_logits
from bottega.models.heads._classification import ClassificationHead
from bottega.packing import pack
from making import page_file, sharpen, write_jsonl


@pytest.fixture
def plugged(plug_in: Callable[..., None]) -> None:
    """The two files of the page on extending."""
    plug_in(heads, "value", page_file("src/bottega/models/heads/value.py"))
    plug_in(objectives, "valued", page_file("src/bottega/objectives/valued.py"))


@pytest.mark.parametrize("adapter", [None, {"rank": 2}], ids=["full", "lora"])
@pytest.mark.usefixtures("plugged")
def test_a_value_head_is_trained_beside_the_language_head(
    adapter: dict[str, int] | None, llama: Path, tmp_path: Path
) -> None:
    rows = [{"prompt": f"the {word} ", "completion": "sat on the mat"} for word in ("cat", "dog", "tree", "mat")]
    recipe = bottega.Recipe.parse(
        {
            "model": {"base": str(llama), "dtype": "float32"},
            "adapter": adapter,
            "objective": {"kind": "valued"},
            "data": {"train": str(write_jsonl(tmp_path / "rows.jsonl", rows))},
            "optim": {"steps": 12, "examples": 4, "lr": 1e-2},
            "save": {"every": 6},
        }
    )
    events = list(bottega.train(recipe, out=tmp_path / "run"))
    errors = [event.metrics["value_error"] for event in events if event.type == "stepped"]
    assert errors[-1] < errors[0] / 2
    (result,) = (path for path in (tmp_path / "run").glob("*/*.safetensors") if path.parent.name != "checkpoints")
    assert any("value_head" in name for name in load_file(result)), "it is saved with the rest"
    stopped = bottega.train(recipe, out=tmp_path / "cut")
    for event in stopped:
        if event.type == "saved":
            stopped.close()
            break
    list(bottega.resume(tmp_path / "cut"))
    again = tmp_path / "cut" / result.parent.name / result.name
    assert again.read_bytes() == result.read_bytes(), "resumed = uninterrupted"


SMALL = {
    "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "pad_token_id": 1, "num_labels": 3,
}  # fmt: skip

HEADS = {"language": "llama", "masked": "bert", "sequence": "bert", "token": "bert", "embedding": "bert"}


def batch() -> Batch:
    ids = np.arange(4, 12)
    at = np.array([0, 3, 6])
    return pack([Example("", (Row(ids, at, np.array([2, 0, 1]), np.ones(3, np.float32), both_ways=True),))])


def network(kind: str, head: str) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SMALL)
    return sharpen(heads.load(head).auto_class(config).from_config(config)).eval()


@pytest.mark.parametrize(("head", "kind"), HEADS.items())
@torch.no_grad()
def test_a_head_gives_the_requested_outputs(head: str, kind: str) -> None:
    found, one, model = heads.load(head), batch(), network(kind, head)
    assert found.kind == head
    states = model.base_model(one.tokens[None]).last_hidden_state[0, one.at]
    for wanted in found.outputs:
        scores = found.scores(model, states, one, frozenset({wanted}), ScoreOptions())
        assert wanted in scores
        assert all(len(values) == 3 for values in scores.values())
    scores = found.scores(model, states, one, found.outputs, ScoreOptions(temperature=2.0))
    if "logits" in scores:
        logp = scores["logits"].log_softmax(1)
        torch.testing.assert_close(scores["logp"], logp.gather(1, one.label[:, None]).squeeze(1))
        assert torch.equal(scores["best"], logp.argmax(1))
        plain = found.scores(model, states, one, frozenset({"logits"}), ScoreOptions())["logits"]
        torch.testing.assert_close(scores["logits"], plain / 2)
    else:
        assert torch.equal(scores["hidden"], states)


def test_every_head_is_tested() -> None:
    assert set(heads.kinds()) == set(HEADS)
    assert type(heads.load("class")) is type(heads.load("sequence")), "its former name"
    assert all(issubclass(type(heads.load(kind)), ClassificationHead) for kind in ("sequence", "token"))


@pytest.mark.parametrize(
    ("head", "kind", "words"),
    [
        ("language", "bert", "bert is an encoder and cannot generate text"),
        ("masked", "llama", "llama attends from left to right only"),
        ("sequence", "t5", "t5 is an encoder–decoder"),
        ("token", "t5", "t5 is an encoder–decoder"),
        ("embedding", "t5", "t5 is an encoder–decoder"),
    ],
)
def test_a_model_with_another_attention_is_refused(head: str, kind: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        heads.load(head).check(AutoConfig.for_model(kind))


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_every_head_smooths_labels_in_the_same_way(smoothing: float) -> None:
    one, logits = batch(), torch.randn(3, 5)
    logp = from_logits(logits, one, frozenset({"logp"}), ScoreOptions(smoothing=smoothing))["logp"]
    plain = logits.log_softmax(1)
    expected = (1 - smoothing) * plain.gather(1, one.label[:, None]).squeeze(1) + smoothing * plain.mean(1)
    torch.testing.assert_close(logp, expected)
