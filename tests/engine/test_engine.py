"""The engine: scores, accumulates, updates, samples, saves and loads a model, and refuses what is not finite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from small_batches import small_codec
from worlds import tokenizer

from bottega.adapters.lora import Lora
from bottega.batch import Batch, Example, count_units
from bottega.engine.engine import Engine
from bottega.engine.optimizer import Optimizer
from bottega.errors import Diverged, ModelError
from bottega.models.scorer import Fit, Scorer
from bottega.models.scorer_setup import add_adapter, fit_model
from bottega.objectives.sft import Sft
from bottega.packing import pack
from bottega.recipe.schema import Optim
from bottega.records import Prompted
from bottega.sampling import Sampling
from making import sharpen, tiny_config

RECORDS = [
    Prompted("line 1", "the cat", " sat on the mat"),
    Prompted("line 2", "a dog", " ran"),
    Prompted("line 3", "red", " blue one two"),
]
LOGP = frozenset({"logp"})


def make_scorer(kind: str = "llama", **more: Any) -> Scorer:
    torch.manual_seed(0)
    config = tiny_config(kind, **more)
    model = sharpen(transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32))
    return fit_model(model, "language", Fit())


def make_engine(scorer: Scorer | None = None, *, reference: Scorer | None = None, **optim: Any) -> Engine:
    scorer = scorer or make_scorer()
    optimizer = Optimizer(scorer.model, Optim(**optim))
    return Engine(scorer, optimizer, tokenizer(), reference=reference, seed=0)


def batches(*groups: list[Prompted]) -> list[Batch]:
    codec = small_codec()
    return [pack([Example(one.where, (codec.encode_answers(one),)) for one in group]) for group in groups]


def accumulate(engine: Engine, parts: list[Batch], seed: Callable[[int], int] = lambda index: index) -> list[float]:
    found = engine.accumulate(Sft(), parts, count_units(parts), step=1, dropout_seed=seed)
    return [contribution.loss for contribution in found]


def weights_of(engine: Engine) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in engine.scorer.model.named_parameters()}


def test_micro_batches_add_up_to_the_update() -> None:
    whole, parted = make_engine(), make_engine()
    (loss,) = accumulate(whole, batches(RECORDS))
    losses = accumulate(parted, batches(RECORDS[:1], RECORDS[1:]))
    assert len(losses) == 2
    assert sum(losses) == pytest.approx(loss, rel=1e-5)
    assert sorted(parted.accumulated_ids) == ["line 1", "line 2", "line 3"]
    for name, gradient in whole.optimizer.gradients.items():
        torch.testing.assert_close(parted.optimizer.gradients[name], gradient, rtol=1e-4, atol=1e-6)


def test_an_update_moves_the_weights_and_clears_the_gradient() -> None:
    engine = make_engine()
    (before,) = accumulate(engine, batches(RECORDS))
    norm = engine.update(1e-2, step=1)
    assert norm > 0
    assert (engine.accumulated_ids, engine.optimizer.gradients) == ([], {})
    (after,) = accumulate(engine, batches(RECORDS))
    assert after < before


def test_a_loss_that_is_not_finite_names_its_rows() -> None:
    """Only those of the batch with a score that is not finite."""
    engine = make_engine()
    (token,) = small_codec().tokenizer("red", add_special_tokens=False)["input_ids"][:1]
    with torch.no_grad():
        engine.scorer.network.get_input_embeddings().weight[token] = torch.inf
    with pytest.raises(Diverged, match="the loss is nan at step 1") as caught:
        accumulate(engine, batches(RECORDS))
    assert caught.value.where == "line 3"
    assert engine.optimizer.gradients == {}


def test_a_gradient_that_is_not_finite_leaves_the_weights() -> None:
    engine = make_engine()
    records = [Prompted(f"line {number}", "the cat", " sat") for number in range(7)]
    accumulate(engine, batches(records))
    before = weights_of(engine)
    next(iter(engine.optimizer.gradients.values())).view(-1)[3] = torch.nan
    with pytest.raises(Diverged, match="the gradient norm is nan at step 4") as caught:
        engine.update(1e-2, step=4)
    assert caught.value.where == "line 0, line 1, line 2, line 3, line 4 and 2 more"
    assert engine.accumulated_ids == []
    assert all(torch.equal(weight, before[name]) for name, weight in weights_of(engine).items())


def test_a_loss_that_depends_on_no_trained_weight_is_refused() -> None:
    scorer = make_scorer()
    scorer.model.requires_grad_(False)
    scorer.model.register_parameter("unused", torch.nn.Parameter(torch.zeros(2)))
    with pytest.raises(ModelError, match="does not depend on any trained weight") as caught:
        accumulate(make_engine(scorer), batches(RECORDS))
    assert caught.value.where == "unused"


def test_scores_with_a_seed_are_those_of_the_update() -> None:
    """Dropout is off without a seed; with one it is that of the micro-batch of this seed."""
    engine = make_engine(make_scorer("gpt2", resid_pdrop=0.3))
    (batch,) = batches(RECORDS)
    plain, again = (engine.score(batch, LOGP)["logp"] for _ in range(2))
    dropped, other = (engine.score(batch, LOGP, dropout_seed=seed)["logp"] for seed in (5, 6))
    assert torch.equal(plain, again)
    assert not torch.equal(dropped, plain)
    assert not torch.equal(dropped, other)
    (loss,) = accumulate(engine, [batch], lambda index: 5)
    assert loss == pytest.approx(float(-(batch.weight * dropped).sum() / batch.weight.sum()), rel=1e-5)


def test_logits_are_divided_by_the_temperature() -> None:
    engine = make_engine()
    (batch,) = batches(RECORDS)
    logits = engine.score(batch, frozenset({"logits"}))["logits"]
    wanted = (logits / 0.5).log_softmax(-1)[torch.arange(len(batch.label)), batch.label]
    torch.testing.assert_close(engine.score(batch, LOGP, temperature=0.5)["logp"], wanted, rtol=1e-4, atol=1e-5)


def test_the_reference_is_the_frozen_copy_or_the_model_without_its_adapter() -> None:
    (batch,) = batches(RECORDS)
    start = make_engine().score(batch, LOGP)["logp"]
    adapted = make_scorer()
    add_adapter(adapted, Lora(rank=2), new=(), reference=True)
    for engine in (make_engine(reference=make_scorer()), make_engine(adapted)):
        for step in (1, 2):
            accumulate(engine, [batch])
            engine.update(1e-2, step=step)
        assert not torch.allclose(engine.score(batch, LOGP)["logp"], start, atol=1e-3)
        torch.testing.assert_close(engine.score(batch, LOGP, by="reference")["logp"], start, rtol=1e-5, atol=1e-5)


def test_a_stop_ends_the_work_before_the_next_forward() -> None:
    engine, calls = make_engine(), list[str]()

    def check() -> None:
        if calls:
            raise KeyboardInterrupt
        calls.append("forward")

    engine.check_stop = check
    with pytest.raises(KeyboardInterrupt):
        accumulate(engine, batches(RECORDS[:1], RECORDS[1:]))
    assert engine.accumulated_ids == ["line 1"]
    with pytest.raises(KeyboardInterrupt):
        engine.score(batches(RECORDS)[0], LOGP)
    with pytest.raises(KeyboardInterrupt):
        engine.sample([[0, 5, 6]], Sampling(tokens=4), ends=frozenset({1}))


def test_continuations_are_sampled_from_the_current_weights() -> None:
    engine = make_engine()
    prompts = [small_codec().encode_prompt(text) for text in ("the cat", "red")]
    settings = Sampling(tokens=5, temperature=1.0, seed=3)
    found = engine.sample(prompts, settings, ends=frozenset({1}), continuations=2)
    assert [len(group) for group in found] == [2, 2]
    for continuation in (one for group in found for one in group):
        assert len(continuation.tokens) == 5 or continuation.tokens[-1] == 1
    assert engine.sample(prompts, settings, ends=frozenset({1}), continuations=2) == found
    with torch.no_grad():
        engine.scorer.network.get_output_embeddings().weight.mul_(-1)
    assert engine.sample(prompts, settings, ends=frozenset({1}), continuations=2) != found


def test_what_was_saved_goes_on_as_it_would_have(tmp_path: Path) -> None:
    """The model's file has the averaged weights, the optimizer's the masters."""
    whole, parts = make_engine(ema=0.5), batches(RECORDS)
    accumulate(whole, parts)
    whole.update(1e-2, step=1)
    whole.save(tmp_path, step=1, state=True)
    saved = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    assert whole.optimizer.average is not None
    average = whole.optimizer.average.state["model.norm.weight"]["average"]
    torch.testing.assert_close(saved["model.norm.weight"], average)
    assert not torch.equal(average, whole.scorer.model.get_parameter("model.norm.weight"))
    assert transformers.AutoTokenizer.from_pretrained(tmp_path)("the cat") == tokenizer()("the cat")
    resumed = make_engine(ema=0.5)
    resumed.load(tmp_path)
    for engine in (whole, resumed):
        accumulate(engine, parts)
        engine.update(1e-2, step=2)
    for name, weight in weights_of(whole).items():
        assert torch.equal(weight, resumed.scorer.model.get_parameter(name)), name


def test_the_optimizer_is_saved_only_to_resume_from(tmp_path: Path) -> None:
    make_engine().save(tmp_path, step=1, state=False)
    assert (tmp_path / "model.safetensors").exists()
    assert not (tmp_path / "optimizer.safetensors").exists()


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    engine = make_engine()
    with torch.no_grad():
        engine.scorer.model.get_parameter("model.norm.weight")[0] = torch.inf
    with pytest.raises(Diverged, match="weights are not finite after step 3") as caught:
        engine.save(tmp_path, step=3, state=True)
    assert caught.value.where == "model.norm.weight"
    assert list(tmp_path.iterdir()) == []
