"""What every kind of adapter promises, on every kind of architecture; a new file in `adapters/` is tested, too."""

from __future__ import annotations

import json
import warnings
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file
from worlds import World, fitting, shake, world

import bottega
from bottega import adapters
from bottega.adapters import InstallOptions
from bottega.models import heads
from bottega.models.adapted import merge_saved
from bottega.models.scorer import Fit
from bottega.packing import pack, split_into_micro_batches
from making import make_model, write_jsonl

MODELS = ("llama", "qwen3", "gemma3_text", "gpt2", "mixtral", "bert", "t5")

# Each kind as it is by default, but small, and options that compute something else.
OPTIONS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 3},
    "rslora": {"rank": 4, "rslora": True},
    "dora": {"rank": 3, "dora": True},
    "ranks": {"rank": 3, "rank_pattern": {"o_proj": 1, r"1\..*up_proj": 5}, "alpha_pattern": {"o_proj": 3}},
    "plus": {"rank": 3, "lr_ratio": 8},
    "pissa": {"rank": 3, "init": "pissa"},
    "whole": {"rank": 3, "train": ["norm", "lm_head"]},
    "ia3": {"kind": "ia3"},
    "vera": {"kind": "vera", "rank": 8},
    "bottleneck": {"kind": "bottleneck", "width": 3},
    "prompt": {"kind": "prompt", "tokens": 3},
    "prefix": {"kind": "prefix", "tokens": 3},
    "pfeiffer": {"kind": "bottleneck", "width": 3, "placement": "pfeiffer", "activation": "relu"},
    "parts": {"kind": "bottleneck", "width": 3, "train": ["norm", "input_layernorm"]},
}
OPTIONS |= {
    kind: {"kind": kind} for kind in adapters.kinds() if kind not in {o.get("kind", "lora") for o in OPTIONS.values()}
}

# Kinds that no weight can take in.
NOT_MERGED = ("bottleneck", "pfeiffer", "parts", "prompt", "prefix")

# Kinds that PEFT does not have.
OWN = ("bottleneck", "pfeiffer", "parts")

# Options that name layers of the first model.
NAMED = ("ranks", "plus", "whole", "parts")

# Kinds that are for decoders.
DECODERS_ONLY = ("prompt", "prefix")

# Kinds that only the packed attention computes: `tests/adapters/test_prefixed.py` compares it with PEFT.
PACKED_ONLY = ("prefix",)

# Learning rates other than the usual one here: factors move the outputs less than matrices do.
LR = {"vera": 1.0, "ia3": 0.1, "prompt": 0.1, "prefix": 0.1}

ALONE = Fit(packed=False, own_head=True)


def everyday(adapter: str, model: str) -> bool:
    """What `make test` holds: the first model with every adapter, and of the others a fifth in turns."""
    place = list(OPTIONS).index(adapter) + MODELS.index(model)
    return model == MODELS[0] or place % 5 == 0


def cases(*without: str) -> list[Any]:
    return [
        pytest.param(adapter, model, marks=[] if everyday(adapter, model) else pytest.mark.slow)
        for adapter in OPTIONS
        if adapter not in without
        for model in MODELS
        if adapter not in NAMED or model == MODELS[0]
        if adapter not in DECODERS_ONLY or model not in ("bert", "t5")
        # Its feed-forward blocks close with fused experts, behind which there is no place.
        if (adapter, model) != ("pfeiffer", "mixtral")
    ]


def objective_for(model: str) -> str:
    return "sft" if model in fitting("sft") else "masked"


def adapted_world(adapter: str, model: str) -> World:
    return world(objective_for(model), "{}", model, json.dumps(OPTIONS[adapter]))


def same(one: tuple, other: tuple, tolerance: float) -> None:
    (loss, gradients), (wanted, expected) = one, other
    assert loss == pytest.approx(wanted, rel=tolerance)
    assert gradients.keys() == expected.keys()
    assert gradients, "nothing is trained"
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in gradients.items():
        assert (gradient - expected[name]).abs().max() <= tolerance * scale, name


@pytest.mark.parametrize(("adapter", "model"), cases())
def test_packed_is_alone_and_shared_is_repeated(adapter: str, model: str) -> None:
    made = adapted_world(adapter, model)
    assert made.fit.packed
    single = [pack([example], share=False) for example in made.examples]
    if adapter not in PACKED_ONLY:
        made.model.set_attn_implementation("eager")
    try:
        alone = made.gradients(single, None if adapter in PACKED_ONLY else ALONE)
    finally:
        made.model.set_attn_implementation("bottega")
    same(made.whole, alone, made.tolerance)
    same(made.shared, alone, made.tolerance)
    same(made.gradients([pack(part) for part in split_into_micro_batches(made.examples, 30)]), alone, made.tolerance)


@cache
def base_folder(model: str) -> Path:
    return make_model(Path(mkdtemp()) / model, model)


def base(model: str) -> Any:
    head = "masked" if model == "bert" else "language"
    config = transformers.AutoConfig.from_pretrained(base_folder(model))
    auto = heads.load(head).auto_class(config)
    return auto.from_pretrained(base_folder(model), dtype=torch.float32).eval()


def saved(adapter: str, model: str, folder: Path) -> Any:
    """A trained adapter in a folder; the model with it."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(1)
    head = "masked" if model == "bert" else "language"
    chosen, network = adapters.build(OPTIONS[adapter]), base(model)
    options = InstallOptions(peft_task=heads.load(head).peft_task, whole=chosen.modules_trained_whole(network))
    adapted = chosen.install(network, options)
    shake(adapted.model)
    adapted.save(folder)
    return adapted


IDS = torch.arange(3, 20)[None]


def logits(network: Any, prefix: tuple[int, ...] = ()) -> torch.Tensor:
    ids = torch.tensor([[*prefix, *IDS[0].tolist()]])
    more = {"decoder_input_ids": ids} if network.config.is_encoder_decoder else {}
    with torch.no_grad():
        return network(input_ids=ids, **more).logits[:, len(prefix) :]


@pytest.mark.parametrize(("adapter", "model"), cases(*NOT_MERGED))
def test_merged_is_unmerged(adapter: str, model: str, tmp_path: Path) -> None:
    adapted = saved(adapter, model, tmp_path)
    wanted = logits(adapted.network)
    assert not torch.allclose(wanted, logits(base(model)), atol=1e-2)
    merged = merge_saved(base(model), tmp_path, torch.float32)
    assert not any("lora_" in name or "ia3" in name or "vera" in name for name, _ in merged.named_parameters())
    torch.testing.assert_close(logits(merged), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("adapter", "model"), cases(*PACKED_ONLY))
def test_what_is_saved_is_loaded(adapter: str, model: str, tmp_path: Path) -> None:
    adapted = saved(adapter, model, tmp_path / "one")
    wanted = logits(adapted.network, adapted.prefix)
    again = adapters.attach(base(model), tmp_path / "one")
    torch.testing.assert_close(logits(again.network, again.prefix), wanted)
    with again.disabled():
        torch.testing.assert_close(logits(again.network, again.prefix), logits(base(model)))
    if adapter in OWN:
        return
    with warnings.catch_warnings():
        # For layers of fused experts PEFT writes patterns that it does not find again; it needs none of them.
        warnings.simplefilter("ignore", RuntimeWarning)
        plain = PeftModel.from_pretrained(base(model), str(tmp_path / "one"), autocast_adapter_dtype=False)
    # PEFT puts its trained tokens around the model, and returns their logits, too.
    called = plain if adapter == "prompt" else plain.get_base_model()
    torch.testing.assert_close(logits(called)[:, -IDS.shape[1] :], wanted)
    plain.save_pretrained(str(tmp_path / "two"))
    reverse = adapters.attach(base(model), tmp_path / "two")
    torch.testing.assert_close(logits(reverse.network, reverse.prefix), wanted)


def make_recipe(way: str, folder: Path, **changes: Any) -> bottega.Recipe:
    rows = [{"prompt": f"the {word} ", "completion": "sat on the mat"} for word in ("cat", "dog", "tree", "mat")]
    return bottega.Recipe.parse(
        {
            "model": {"base": str(base_folder("llama")), "dtype": "float32"},
            "adapter": OPTIONS[way],
            "objective": {"kind": "sft"},
            "data": {"train": str(write_jsonl(folder / "rows.jsonl", rows))},
            "optim": {"steps": 6, "examples": 3, "lr": LR.get(way, 2e-2)},
            "save": {"every": 3},
            **changes,
        }
    )


@pytest.mark.parametrize("adapter", OPTIONS)
def test_resumed_is_uninterrupted(adapter: str, tmp_path: Path) -> None:
    events = list(bottega.train(make_recipe(adapter, tmp_path), out=tmp_path / "whole"))
    losses = [event.loss for event in events if event.type == "stepped"]
    assert losses[-1] < losses[0]
    stopped = bottega.train(make_recipe(adapter, tmp_path), out=tmp_path / "cut")
    for event in stopped:
        if event.type == "saved":
            stopped.close()
            break
    list(bottega.resume(tmp_path / "cut"))
    name = "adapter/adapter_model.safetensors"
    assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("adapter", OPTIONS)
def test_it_is_continued_with_its_own_settings(adapter: str, tmp_path: Path) -> None:
    list(bottega.train(make_recipe(adapter, tmp_path), out=tmp_path / "first"))
    more = {"kind": OPTIONS[adapter].get("kind", "lora"), "from": str(tmp_path / "first")}
    changes = {"adapter": more, "optim": {"steps": 1, "examples": 3, "lr": 1e-9}}
    list(bottega.train(make_recipe(adapter, tmp_path, **changes), out=tmp_path / "more"))
    name = "adapter/adapter_model.safetensors"
    before, after = (load_file(tmp_path / run / name) for run in ("first", "more"))
    assert before.keys() == after.keys()
    for weight in before:
        torch.testing.assert_close(after[weight], before[weight], atol=1e-6, rtol=0)
    stored = bottega.stored_recipe(tmp_path / "more")
    assert bottega.Recipe.parse(stored.document()) == stored


def test_what_is_continued_is_of_the_kind_that_the_recipe_names(tmp_path: Path) -> None:
    """A section without a kind goes on with any, and learns as fast as that one does."""
    list(bottega.train(make_recipe("ia3", tmp_path), out=tmp_path / "first"))
    changes: dict[str, Any] = {"optim": {"steps": 1, "examples": 3}}
    wrong = {**changes, "adapter": {"kind": "vera", "from": str(tmp_path / "first")}}
    with pytest.raises(bottega.ModelError, match="is of the kind ia3, not vera"):
        list(bottega.train(make_recipe("ia3", tmp_path, **wrong), out=tmp_path / "wrong"))
    recipe = make_recipe("ia3", tmp_path, **changes, adapter={"from": str(tmp_path / "first")})
    started = next(event for event in bottega.train(recipe, out=tmp_path / "more") if event.type == "started")
    assert started.lr == recipe.objective.lr[1] * adapters.load("ia3").lr_scale


@pytest.mark.parametrize("adapter", OPTIONS)
def test_its_size_is_known_before_it_is_made(adapter: str) -> None:
    network = base("llama")
    layers = [
        adapters.LinearLayer(name.removeprefix("model."), layer.in_features, layer.out_features)
        for name, layer in network.named_modules()
        if isinstance(layer, torch.nn.Linear) and name != "lm_head"
    ]
    chosen = adapters.build(OPTIONS[adapter])
    adapted = chosen.install(network, InstallOptions(peft_task="CAUSAL_LM"))
    trained = sum(weight.numel() for weight in adapted.model.parameters() if weight.requires_grad)
    assert chosen.count(layers) == trained > 0


def test_quantized_bases_take_every_kind(tmp_path: Path) -> None:
    for adapter in ("dora", "pissa", "ia3", "vera", "bottleneck"):
        recipe = make_recipe(
            adapter, tmp_path, model={"base": str(base_folder("llama")), "dtype": "float32", "quantize": "fp8"}
        )
        losses = [event.loss for event in bottega.train(recipe, out=tmp_path / adapter) if event.type == "stepped"]
        assert losses[-1] < losses[0], adapter
