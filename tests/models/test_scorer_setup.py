"""Models made ready to score, with and without adapters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from bottega import adapters
from bottega.batch import Batch, Example, Row, count_units
from bottega.errors import ModelError
from bottega.models import native
from bottega.models.arithmetic.native import NATIVE, arithmetic_of
from bottega.models.arithmetic.plain import PLAIN
from bottega.models.attention import ATTENTION_NAME
from bottega.models.scorer import Fit
from bottega.models.scorer_setup import add_adapter, fit_model, load_scorer
from bottega.packing import pack
from bottega.training.needs import micro_batches
from bottega.training.setup import build
from making import make_model, make_recipe


def test_an_adapted_head_is_computed_by_the_model_itself(tmp_path: Path) -> None:

    session = build(make_recipe(tmp_path, adapter={"rank": 2, "targets": ["q_proj", "lm_head"]}))
    assert session.engine.scorer.fit.own_head
    with torch.no_grad():
        for name, weight in session.engine.scorer.model.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    (batch,) = micro_batches(session, session.sampler.examples[:1])
    row = session.sampler.examples[0].rows[0]
    network = session.engine.scorer.network
    network.set_attn_implementation("eager")
    with torch.no_grad():
        logits = network.eval()(torch.from_numpy(row.tokens)[None]).logits[0]
    network.set_attn_implementation("bottega")
    wanted = logits.log_softmax(-1)[row.at, row.label]
    torch.testing.assert_close(session.engine.score(batch, frozenset({"logp"}))["logp"], wanted, rtol=1e-4, atol=1e-4)


LOGP = frozenset({"logp"})


def rows_of(*texts: list[int]) -> Batch:
    rows = [Row(np.array(ids), np.arange(0), np.arange(0), np.ones(0, np.float32)) for ids in texts]
    return pack([Example(str(place), (row.predict_every_token(),)) for place, row in enumerate(rows)])


BATCH = rows_of([5, 6, 7, 8, 9], [5, 6, 7, 20, 21, 22])


def lora(llama: Path, folder: Path) -> Path:
    torch.manual_seed(1)
    config = LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(llama), config).save_pretrained(str(folder))
    return folder


def test_a_model_is_packed_where_that_is_exact(llama: Path, tmp_path: Path) -> None:
    packed = load_scorer(str(llama), "float32", "cpu")
    assert packed.fit.packed
    assert packed.network.config._attn_implementation == ATTENTION_NAME
    assert not packed.network.training
    alone = load_scorer(str(make_model(tmp_path / "bloom", "bloom")), "float32", "cpu")
    assert not alone.fit.packed
    assert alone.fit.reason
    assert alone.network.config._attn_implementation != ATTENTION_NAME


def test_the_result_of_an_earlier_proof_is_used(llama: Path) -> None:
    fit = Fit(packed=False, reason="as it was", fused=("LlamaRMSNorm",))
    model = AutoModelForCausalLM.from_pretrained(llama)
    scorer = fit_model(model, "language", fit)
    assert scorer.fit == fit
    assert "forward" in vars(model.model.norm), "its fused parts are fused"
    assert "forward" not in vars(model.model.layers[0].mlp)


@torch.no_grad()
def test_a_folder_of_an_adapter_is_scored_with_it(llama: Path, tmp_path: Path) -> None:
    scorer = load_scorer(str(lora(llama, tmp_path / "adapter")), "float32", "cpu")
    assert (scorer.library, scorer.fit.own_head) == ("peft", False)
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama), tmp_path / "adapter").eval()
    ids = torch.tensor([5, 6, 7, 8, 9])
    wanted = plain(ids[None]).logits[0, :-1].log_softmax(1).gather(1, ids[1:, None]).squeeze(1)
    found = scorer(rows_of(ids.tolist()), LOGP)["logp"]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    base = load_scorer(str(llama), "float32", "cpu")(rows_of(ids.tolist()), LOGP)["logp"]
    assert (base - found).abs().max() > 1e-2


def test_only_the_adapter_is_trained_and_a_new_one_changes_nothing(llama: Path) -> None:
    scorer = load_scorer(str(llama), "float32", "cpu")
    before = scorer(BATCH, LOGP)["logp"]
    add_adapter(scorer, adapters.build({"rank": 2}), new=[], reference=False)
    assert torch.equal(scorer.eval()(BATCH, LOGP)["logp"], before)
    trained = {name for name, weight in scorer.model.named_parameters() if weight.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)


@torch.no_grad()
def test_an_adapter_that_is_continued_is_its_own_reference(llama: Path, tmp_path: Path) -> None:
    scorer = load_scorer(str(llama), "float32", "cpu")
    add_adapter(scorer, adapters.build({"from": str(lora(llama, tmp_path / "adapter"))}), new=[], reference=True)
    before = scorer.eval()(BATCH, LOGP)["logp"]
    for weight in scorer.model.parameters():
        if weight.requires_grad:
            weight.add_(0.3)
    assert (scorer(BATCH, LOGP)["logp"] - before).abs().max() > 1e-2
    assert scorer.adapted is not None
    with scorer.adapted.disabled():
        torch.testing.assert_close(scorer(BATCH, LOGP)["logp"], before, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(native.operators() is None, reason="the operators in C++ are not built")
def test_a_run_computes_in_cpp_as_it_did_at_its_start(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def network() -> Any:
        return AutoModelForCausalLM.from_pretrained(llama)

    with_operators = fit_model(network(), "language", native=True)
    assert with_operators.fit.native
    assert arithmetic_of(with_operators.network) is NATIVE
    without = fit_model(network(), "language", replace(with_operators.fit, native=False), native=True)
    assert arithmetic_of(without.network) is PLAIN
    assert not fit_model(network(), "language").fit.native
    monkeypatch.setenv(native.SWITCH, "0")
    assert not fit_model(network(), "language", native=True).fit.native
    with pytest.raises(ModelError, match="was computed by the operators in C"):
        fit_model(network(), "language", with_operators.fit)


@pytest.mark.skipif(native.operators() is None, reason="the operators in C++ are not built")
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2", "olmo2", "granite"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("adapter", [None, {"rank": 16}])
def test_training_in_cpp_is_that_of_torch(
    kind: str, dtype: str, adapter: dict[str, Any] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss and gradients of an update, as near as one dtype is to another."""
    base = make_model(tmp_path / "base", kind, hidden_size=64, head_dim=32, intermediate_size=96)

    def update(switch: str, dtype: str) -> tuple[float, dict[str, torch.Tensor]]:
        monkeypatch.setenv(native.SWITCH, switch)
        model = {"base": str(base), "dtype": dtype}
        run = build(make_recipe(tmp_path, model=model, **({"adapter": adapter} if adapter else {})))
        batches = micro_batches(run, run.sampler.examples[:3])
        if adapter is not None:
            torch.manual_seed(0)
            for name, weight in run.engine.scorer.model.named_parameters():
                if "lora_B" in name:
                    weight.data = 0.1 * torch.randn(weight.shape).to(weight.dtype)
        assert run.engine.scorer.fit.native == (switch == "1")
        (contribution,) = run.engine.accumulate(
            run.recipe.objective, batches, count_units(batches), step=1, dropout_seed=lambda _: 1
        )
        named = run.engine.scorer.model.named_parameters()
        return contribution.loss, {name: weight.grad.float() for name, weight in named if weight.grad is not None}

    exact_loss, exact = update("0", "float32")
    loss, gradients = update("1", dtype)
    assert loss == pytest.approx(exact_loss, rel=1e-5 if dtype == "float32" else 1e-2)
    usual = exact if dtype == "float32" else update("0", dtype)[1]
    assert gradients.keys() == exact.keys()
    for name, gradient in gradients.items():
        error = (gradient - exact[name]).norm()
        # Rounded to bfloat16 on other ways, it may be as far from the exact one as in torch, and half again.
        allowed = 1.5 * (usual[name] - exact[name]).norm() + 1e-3 * exact[name].norm()
        assert error <= allowed, name
