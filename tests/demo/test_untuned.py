"""The untuned model is prompted fairly: its answers are those of a plain forward pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

import bottega
from bottega.demo.untuned import ask_untuned, generate_labels, most_likely_labels
from bottega.inference.language_model import LanguageModel
from making import make_model

LABELS = ["cat", "dog", "red tree"]
PROMPTS = ["the cat sat on the mat. which? ", "a dog ran under the tree. which?", "one two three. which?"]


@pytest.fixture(scope="module", params=["llama", "bloom"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = tmp_path_factory.mktemp("model")
    return bottega.load(make_model(folder, request.param), dtype="float32")


def plainly(model: LanguageModel, ids: list[int], start: int) -> float:
    """Log-probability of `ids` from `start` on, by the plain model."""
    plain = transformers.AutoModelForCausalLM.from_pretrained(model.name, dtype=torch.float32)
    with torch.no_grad():
        logp = plain(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(float(logp[at - 1, ids[at]]) for at in range(start, len(ids)))


def test_the_most_likely_label_has_the_highest_probability_of_the_plain_model(model: LanguageModel) -> None:
    for prompt, found in zip(PROMPTS, most_likely_labels(model, PROMPTS, LABELS), strict=True):
        start = len(model.codec.encode_prompt(prompt))
        scores = [plainly(model, model.codec.encode_prompt(f"{prompt} {label}"), start) for label in LABELS]
        assert found == LABELS[int(np.argmax(scores))]


def test_a_generated_label_begins_the_continuation(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    written = iter([" Dog, of course", "\ncats", "a cat", "", "red tree"])

    def generate(prompts: list[str], settings: object) -> list[list[object]]:
        return [[type("Found", (), {"text": next(written)})] for _ in prompts]

    monkeypatch.setattr(model, "generate", generate)
    assert generate_labels(model, ["?"] * 5, LABELS) == ["dog", "cat", "", "", "red tree"]


def test_every_way_of_prompting_labels_every_ticket(model: LanguageModel) -> None:
    shots = {label: f"about {label}" for label in LABELS}
    found = ask_untuned(model, ["the cat", "a dog"], "{ticket}. which?", "one of cat, dog, red tree.\n", shots)
    assert set(found) == {"zero-shot", "few-shot", "likelihood", "few-shot likelihood"}
    assert all(len(labels) == 2 for labels in found.values())
    assert all(label in LABELS for way in ("likelihood", "few-shot likelihood") for label in found[way])
