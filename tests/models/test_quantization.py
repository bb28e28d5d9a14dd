"""Bases kept in fewer bits: what they compute, what passes through them, and runs on top of them."""

from __future__ import annotations

import copy
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

import bottega
from bottega.batch import Example, Row
from bottega.errors import ModelError, RecipeError
from bottega.evaluation.evaluate import evaluate
from bottega.models.checkpoint import load_model
from bottega.models.config import load_config
from bottega.models.quantization import linear
from bottega.models.quantization.linear import (
    BYTES_PER_WEIGHT,
    FP8_MAX,
    LINEAR_CLASSES,
    QuantizedLinear,
    quantize_fp8_rows,
    quantize_model,
    quantize_nf4,
    quantized_size,
)
from bottega.models.quantization.streaming import load_quantized
from bottega.models.scorer_setup import fit_model
from bottega.models.source import locate
from bottega.packing import pack
from bottega.recipe import schema as recipes
from bottega.runs.atomic_files import checksum
from making import WORDS, make_model, write_jsonl

KIND = pytest.mark.parametrize("kind", ["nf4", "fp8"])


@pytest.fixture(autouse=True)
def _has_bitsandbytes(request: pytest.FixtureRequest) -> None:
    if "nf4" in request.node.name:
        pytest.importorskip("bitsandbytes")


@pytest.mark.parametrize("shape", [(70, 96), (3, 64), (5, 33), (600, 448)])
def test_nf4_by_pieces_is_nf4_of_the_whole(shape: tuple[int, int]) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).bfloat16()
    codes, state = quantize_nf4(weight)
    wanted, its = bitsandbytes.functional.quantize_4bit(weight, compress_statistics=True, quant_type="nf4")
    assert torch.equal(codes, wanted)
    assert torch.equal(state.absmax, its.absmax)
    assert torch.equal(state.offset, its.offset)
    assert torch.equal(state.state2.absmax, its.state2.absmax)
    whole = [bitsandbytes.functional.dequantize_4bit(*one) for one in ((codes, state), (wanted, its))]
    assert torch.equal(*whole)
    assert whole[0].shape == weight.shape


@KIND
def test_a_quantized_layer_is_close_to_the_layer(kind: str) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(128, 96)
    small = LINEAR_CLASSES[kind](layer)
    off = (small.weight - layer.weight).norm() / layer.weight.norm()
    assert off < {"nf4": 0.11, "fp8": 0.03}[kind]
    x = torch.randn(7, 128)
    off = (small(x) - layer(x)).norm() / layer(x).norm()
    assert off < {"nf4": 0.11, "fp8": 0.05}[kind]
    # Of so small a layer the scales of scales, in a block of 256, are part of a weight's share.
    assert small.bytes == pytest.approx(BYTES_PER_WEIGHT[kind] * layer.weight.numel(), rel=0.05)


@KIND
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_and_gradients_equal_those_of_the_dequantized_weight(kind: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    small = LINEAR_CLASSES[kind](nn.Linear(64, 48).to(dtype))
    x = torch.randn(2, 5, 64, dtype=dtype).requires_grad_()
    g = torch.randn(2, 5, 48, dtype=dtype)
    out = small(x)
    (found,) = torch.autograd.grad(out, x, g)
    weight, rows, above = small.whole_weight(), x.detach().flatten(0, 1), g.flatten(0, 1)
    if kind == "fp8":  # what it is multiplied with is rounded as well
        codes, scale = quantize_fp8_rows(rows)
        rows = codes.float() * scale
    close = {"rtol": 0.02, "atol": 0.02} if dtype != torch.float32 else {"rtol": 1e-5, "atol": 1e-5}
    expected = (rows.float() @ weight.float().T + small.bias.float()).to(dtype)
    torch.testing.assert_close(out.flatten(0, 1), expected, **close)
    torch.testing.assert_close(found.flatten(0, 1), (above.float() @ weight.float()).to(dtype), **close)


def test_rounding_keeps_the_largest_value_of_each_row_and_zero_rows() -> None:
    x = torch.tensor([[0.0, 3e-9, -1e-9], [0.0, 0.0, 0.0], [1e9, -5.0, 2e8]])
    codes, scale = quantize_fp8_rows(x)
    assert codes.float().abs().amax(1).tolist() == [FP8_MAX, 0.0, FP8_MAX]
    torch.testing.assert_close(codes.float() * scale, x, rtol=0.07, atol=1e6)
    assert torch.equal((codes.float() * scale)[1], torch.zeros(3))


@KIND
def test_quantized_weights_are_moved_but_never_converted(kind: str) -> None:
    small = LINEAR_CLASSES[kind](nn.Linear(64, 64))
    before = small.whole_weight()
    small.to(torch.bfloat16).double()
    assert small.bias.dtype == torch.float64
    assert torch.equal(small.whole_weight(), before)
    assert torch.equal(copy.deepcopy(small).whole_weight(), before)


def loaded(folder: Path, kind: str) -> Any:
    model = recipes.Model(base=str(folder), quantize=kind)
    return load_model(model, load_config(model, None), "language", (), torch.float32, None)[0]


@KIND
def test_the_body_is_quantized_and_the_head_is_not(kind: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", "llama", tie_word_embeddings=False)
    model = loaded(folder, kind)
    assert type(model.lm_head) is nn.Linear
    linear = {name for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}
    plain = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(str(folder)))
    assert linear == {name for name, module in plain.model.named_modules(prefix="model") if type(module) is nn.Linear}
    assert quantized_size(model).layers == len(linear) == 14


@KIND
@pytest.mark.parametrize(("model", "more"), [("llama", {}), ("qwen3", {"tie_word_embeddings": False}), ("mistral", {})])
def test_quantizing_while_loading_equals_quantizing_afterwards(
    kind: str, model: str, more: dict, tmp_path: Path
) -> None:
    folder = make_model(tmp_path / "model", model, attention_bias=True, **more)
    config, auto = AutoConfig.from_pretrained(str(folder)), AutoModelForCausalLM
    afterwards = auto.from_pretrained(str(folder), dtype=torch.bfloat16)
    quantize_model(afterwards, kind, [])
    afterwards.generation_config.eos_token_id = 7
    afterwards.generation_config.save_pretrained(str(folder))
    plain = auto.from_pretrained(str(folder), dtype=torch.float32)
    plain.save_pretrained(str(tmp_path / "parts"), max_shard_size="20KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 2
    ids = torch.arange(3, 40)[None]
    for place in (folder, tmp_path / "parts"):
        read = load_quantized(auto, place, config, torch.bfloat16, kind)
        assert quantized_size(read) == quantized_size(afterwards)
        assert not any(tensor.is_meta for tensor in (*read.parameters(), *read.buffers()))
        assert {name for name, _ in read.named_parameters()} == {name for name, _ in afterwards.named_parameters()}
        assert torch.equal(read(ids).logits, afterwards(ids).logits)
        assert read.generation_config.eos_token_id == 7


def test_weights_that_transformers_converts_are_loaded_by_it(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", "mixtral")  # whose experts are merged while they are read
    config = AutoConfig.from_pretrained(str(folder))
    assert load_quantized(AutoModelForCausalLM, folder, config, torch.float32, "fp8") is None
    assert quantized_size(loaded(folder, "fp8")).layers == 8


def test_a_model_without_linear_layers_is_refused(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "gpt2", "gpt2")  # its layers are transformers' own Conv1D
    with pytest.raises(ModelError, match="no linear layers"):
        loaded(folder, "fp8")
    with pytest.raises(RecipeError, match="adapter"):
        bottega.Recipe.parse(
            {
                "model": {"base": str(folder), "quantize": "fp8"},
                "data": {"train": "rows.jsonl"},
                "objective": {"kind": "sft"},
            }
        )


def recipe(folder: Path, kind: str, **sections: Any) -> bottega.Recipe:
    draw = random.Random(0)
    rows = [
        {"prompt": f"the {draw.choice(WORDS)} dog", "completion": " " + " ".join(draw.choices(WORDS, k=5))}
        for _ in range(24)
    ]
    model = folder / "model"
    if not model.exists():
        make_model(model, "llama")
    document = {
        "model": {"base": str(model), "dtype": "float32", "quantize": kind},
        "adapter": {"rank": 4},
        "data": {"train": str(write_jsonl(folder / "rows.jsonl", rows)), "validation": 0.25},
        "objective": {"kind": "sft"},
        "optim": {"steps": 6, "examples": 4, "lr": 1e-2},
    }
    return bottega.Recipe.parse(document | sections)


@KIND
def test_a_quantized_run_learns_resumes_to_the_bit_and_is_evaluated_quantized(kind: str, tmp_path: Path) -> None:
    given = recipe(tmp_path, kind, evaluate={"every": 3}, save={"every": 2})
    events = list(bottega.train(given, tmp_path / "whole"))
    (note,) = [event.message for event in events if event.type == "noted" and event.subject == "quantized"]
    assert f"14 linear layers are stored as {kind}" in note
    stepped = [event.loss for event in events if event.type == "stepped"]
    assert stepped[-1] < stepped[0] - 0.5

    cut, steps = tmp_path / "cut", 0
    run = bottega.train(given, cut)
    for event in run:
        steps += event.type == "stepped"
        if steps == 5:
            run.close()
    assert list(bottega.resume(cut))[-1].type == "finished"
    sums = [checksum(folder / "adapter" / "adapter_model.safetensors") for folder in (tmp_path / "whole", cut)]
    assert sums[0] == sums[1]

    assert locate(str(cut)).quantize == locate(str(cut / "adapter")).quantize == kind
    found = evaluate(cut, against=(), answers=0)
    loss = next(one.run for one in found.estimates if one.metric == "loss")
    validated = [event.loss for event in events if event.type == "validated"]
    assert loss == pytest.approx(validated[-1], abs=1e-5)


@KIND
def test_packed_and_fused_equals_row_by_row(kind: str, tmp_path: Path) -> None:
    """Two rows with a shared prefix through every kernel, against each row alone through transformers' own modules."""
    small, plain = (loaded(make_model(tmp_path / "model", "llama"), kind) for _ in range(2))
    rows = [np.array([*range(3, 12), *range(start, start + 4)]) for start in (30, 60)]
    examples = [Example("", (Row(ids, np.arange(12), ids[1:], np.ones(12, np.float32)),)) for ids in rows]
    batch = pack(examples)
    assert len(batch.tokens) < sum(map(len, rows)), "the beginning is shared"
    logp = fit_model(small, "language").eval()(batch, frozenset({"logp"}))["logp"]
    losses = [plain(input_ids=torch.tensor(ids)[None], labels=torch.tensor(ids)[None]).loss * 12 for ids in rows]
    found, expected = (
        torch.autograd.grad(loss, model.get_input_embeddings().weight)[0]
        for loss, model in ((-(logp * batch.weight).sum(), small), (sum(losses), plain))
    )
    # A number on the edge between two of eight bits falls to either side with the last bit of what made it.
    assert (found - expected).norm() < {"nf4": 1e-5, "fp8": 0.01}[kind] * expected.norm()


def test_quantization_to_four_bits_requires_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linear._bitsandbytes.cache_clear()
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ModelError, match="bitsandbytes"):
        loaded(make_model(tmp_path / "model"), "nf4")


@KIND
def test_preferences_compare_with_the_quantized_base(kind: str, tmp_path: Path) -> None:
    """A disabled adapter gives the quantized base, so the first margin is zero."""
    rows = [{"prompt": f"the {word}", "chosen": " dog runs", "rejected": " cat sleeps"} for word in WORDS[:8]]
    data = write_jsonl(tmp_path / "pairs.jsonl", rows)
    given = recipe(tmp_path, kind, data={"train": str(data)}, objective={"kind": "dpo"}, optim={"steps": 2})
    events = [event for event in bottega.train(given, tmp_path / "run") if event.type == "stepped"]
    assert events[0].loss == pytest.approx(0.6931, abs=1e-4)
    assert events[1].loss < events[0].loss
