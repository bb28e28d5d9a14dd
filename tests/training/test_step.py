"""One update: its gradient, its event, and what stops it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import bottega
from bottega.errors import Diverged
from bottega.objectives import SKIPPED_METRIC
from bottega.packing import pack
from bottega.recipe.schema import Recipe
from bottega.runs.summary import summary
from bottega.training.needs import micro_batches
from bottega.training.setup import build
from bottega.training.step import Clock, finish_update, prepare_update, sample_examples


def test_divergence_stops_before_the_update(recipe: Callable, tmp_path: Path) -> None:
    settings = {"steps": 6, "examples": 4, "lr": 1e18, "warmup": 0, "clip": None}
    with pytest.raises(Diverged, match=r"step \d") as caught:
        list(bottega.train(recipe(optim=settings), tmp_path / "run"))
    assert "rows.jsonl line" in (caught.value.where or "")
    assert summary(tmp_path / "run")["status"] == "failed"
    assert not (tmp_path / "run" / "model").exists()


def test_micro_batches_change_nothing_but_rounding(recipe: Callable, tmp_path: Path) -> None:
    losses = []
    for tokens in (10, 4096):
        events = list(
            bottega.train(
                recipe(optim={"steps": 6, "examples": 8, "tokens": tokens}, evaluate=None), tmp_path / str(tokens)
            )
        )
        losses.append([event.loss for event in events if event.type == "stepped"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_an_update_too_large_for_float16_is_computed_again(
    recipe: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No update is lost: the losses are those of a scale that fits from the first."""
    losses = {}
    for scale in (2.0**8, 2.0**40):
        monkeypatch.setattr("bottega.engine.optimizer.FLOAT16_SCALE", scale)
        settings = recipe(
            model={"base": recipe().model.base, "dtype": "float16"},
            optim={"steps": 12, "examples": 4, "lr": 3e-3},
            evaluate=None,
        )
        events = list(bottega.train(settings, tmp_path / str(scale)))
        losses[scale] = [event.loss for event in events if event.type == "stepped"]
    assert losses[2.0**40] == pytest.approx(losses[2.0**8], rel=1e-3)
    assert losses[2.0**8][-1] < losses[2.0**8][0]


def test_a_clock_measures_since_its_last_lap() -> None:
    clock = Clock()
    clock.wall -= 2.0
    clock.cpu -= 1.0
    seconds, cpu = clock.lap()
    assert seconds == pytest.approx(2.0, abs=0.5)
    assert cpu == pytest.approx(0.5, abs=0.3)
    assert clock.lap()[0] < 0.5


def test_an_example_is_augmented_by_its_step_and_its_place(
    recipe: Callable[..., Recipe], bert: Path, tmp_path: Path
) -> None:
    data = {"train": str(tmp_path / "rows.jsonl"), "mapping": {"text": "completion"}}
    run = build(recipe(model={"base": str(bert), "dtype": "float32"}, objective={"kind": "masked"}, data=data))
    first = next(run.sampler.updates())
    twice = replace(first, examples=[first.examples[0]] * 8)
    one, again = (sample_examples(run, twice).examples for _ in range(2))
    other = sample_examples(run, replace(twice, step=2)).examples
    tokens = [[example.rows[0].tokens.tolist() for example in found] for found in (one, again, other)]
    assert tokens[0] == tokens[1]
    assert tokens[0] != tokens[2]
    assert len({tuple(row) for row in tokens[0]}) > 1, "examples of an update have seeds of their own"


def test_the_event_of_an_update(recipe: Callable[..., Recipe]) -> None:
    run = build(recipe(optim={"steps": 6, "examples": 4, "tokens": 30, "lr": 1e-2}))
    update = replace(next(run.sampler.updates()), passed=2)
    before = [weight.detach().clone() for weight in run.engine.scorer.parameters()]
    pending = prepare_update(run, update, sample_examples(run, update))
    pending.compute()
    event = finish_update(pending, Clock())
    batches = micro_batches(run, update.examples)
    assert len(batches) > 1
    assert event.tokens_real == sum(batch.tokens_real for batch in batches)
    assert event.tokens == sum(batch.computed_token_count for batch in batches)
    assert event.lr == run.schedule.lr(1)
    assert event.metrics[SKIPPED_METRIC] == 2
    assert event.epoch == pytest.approx(4 / len(run.sampler.examples))
    assert event.grad_norm > 0
    assert any(not torch.equal(a, b) for a, b in zip(before, run.engine.scorer.parameters(), strict=True))
    # The loss is the one before the update, over the tokens of all micro-batches.
    scorer = build(recipe()).engine.scorer.eval()
    batch = pack(update.examples)
    with torch.no_grad():
        logp = scorer(batch, frozenset({"logp"}))["logp"]
    assert event.loss == pytest.approx(float(-(logp * batch.weight).sum() / batch.weight.sum()), rel=1e-5)
