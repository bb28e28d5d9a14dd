"""A planted fault of each kind is caught by the proof, and a right export passes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import bottega
from bottega.errors import ModelError
from bottega.exporting._precision import PRECISIONS
from bottega.exporting._proof import GREEDY_TOKENS, Proof, check, compare, compute_reference
from bottega.exporting._source import open_trained
from bottega.exporting.merged import Merged
from bottega.inference.runtimes.transformers import TransformersRuntime
from making import make_model

TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}"
# Rotations that are others for a long text only.
FACTORS = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "factor": 4.0}
ROPE = {"rope_type": "longrope", "rope_theta": 10_000.0, "original_max_position_embeddings": 32, **FACTORS}


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(
        {name: weight.contiguous() for name, weight in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )


def another_base(folder: Path) -> None:
    def change(weights: dict[str, torch.Tensor]) -> None:
        torch.manual_seed(1)
        for weight in weights.values():
            weight += 0.02 * torch.randn_like(weight)

    change_weights(folder, change)


def another_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(TEMPLATE + " ")


def lost_end(folder: Path) -> None:
    change_json(folder / "generation_config.json", eos_token_id=5)


def transposed(folder: Path) -> None:
    def change(weights: dict[str, torch.Tensor]) -> None:
        name = next(name for name in weights if "q_proj" in name)
        weights[name] = weights[name].T

    change_weights(folder, change)


def padded_vocabulary(folder: Path) -> None:
    def change(weights: dict[str, torch.Tensor]) -> None:
        for name in weights:
            if "embed_tokens" in name or "lm_head" in name:
                weights[name] = torch.cat([weights[name], torch.zeros(20, weights[name].shape[1])])

    change_weights(folder, change)
    change_json(folder / "config.json", vocab_size=320)


def untied(folder: Path) -> None:
    change_weights(folder, lambda weights: weights.update({"lm_head.weight": weights["model.embed_tokens.weight"] + 0}))
    change_json(folder / "config.json", tie_word_embeddings=False)


def lost_scaling(folder: Path) -> None:
    change_json(folder / "config.json", rope_parameters={**ROPE, "long_factor": [1.0] * 4})


def another_tokenizer(folder: Path) -> None:
    document = json.loads((folder / "tokenizer.json").read_text())
    document["normalizer"] = {"type": "Lowercase"}
    (folder / "tokenizer.json").write_text(json.dumps(document))


FAULTS = [
    (another_base, "a logit by"),
    (another_template, "its chat template is another one"),
    (lost_end, "answers end at other tokens"),
    (transposed, "a logit by"),
    (padded_vocabulary, "numbers for each of"),
    (untied, "a weight of its own"),
    (lost_scaling, "a logit by"),
    (another_tokenizer, "its tokenizer splits"),
]


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with everything that an export can lose."""
    folder = tmp_path_factory.mktemp("tied") / "model"
    return make_model(folder, template=TEMPLATE, tie_word_embeddings=True, rope_parameters=ROPE)


@pytest.mark.parametrize(("fault", "message"), FAULTS, ids=[fault.__name__ for fault, _ in FAULTS])
def test_a_planted_fault_is_caught_and_nothing_is_left(
    fault: Callable[[Path], None], message: str, tied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Merged.write

    def write_wrongly(self: Merged, model: Any, folder: Path, precision: str) -> None:
        write(self, model, folder, precision)
        fault(folder)

    monkeypatch.setattr(Merged, "write", write_wrongly)
    with pytest.raises(ModelError, match=f"differs from what was trained: .*{message}"):
        bottega.export(tied, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_model_itself_passes(tied: Path) -> None:
    reference = compute_reference(open_trained(str(tied)))
    assert [len(answer) for answer in reference.answers] == [GREEDY_TOKENS] * len(reference.answers)
    assert reference.tied
    proof = compare(reference, TransformersRuntime(tied, "language"), PRECISIONS["fp32"])
    assert (proof.greedy, proof.generated) == (GREEDY_TOKENS * len(reference.answers),) * 2
    assert proof.difference < 1e-4
    assert proof.correlation == pytest.approx(1)
    assert proof.texts == len(reference.texts) > 3
    check(proof, PRECISIONS["fp32"])


GOOD = Proof(
    rows=1,
    tokens=9,
    difference=1e-6,
    kl=1e-9,
    agreement=1.0,
    correlation=1.0,
    greedy=48,
    generated=48,
    texts=3,
    width=9,
    largest=4.0,
)


@pytest.mark.parametrize(
    ("precision", "change"),
    [
        ("fp32", {"difference": 2e-3}),
        ("fp32", {"difference": float("nan")}),
        ("fp32", {"greedy": 47}),
        ("int8", {"kl": 0.02}),
        ("int8", {"kl": float("nan")}),
        ("int4", {"correlation": 0.7}),
        ("int4", {"kl": 0.6}),
        ("bf16", {"width": 1, "difference": 0.3}),
        ("int4", {"correlation": float("nan")}),
    ],
)
def test_each_bound_is_checked(precision: str, change: dict[str, Any]) -> None:
    from dataclasses import replace

    check(GOOD, PRECISIONS[precision])
    with pytest.raises(ModelError, match="differs from what was trained"):
        check(replace(GOOD, **change), PRECISIONS[precision])


def test_quantized_weights_may_choose_other_tokens() -> None:
    from dataclasses import replace

    check(replace(GOOD, difference=1.0, kl=0.3, correlation=0.9, greedy=20), PRECISIONS["int4"])
