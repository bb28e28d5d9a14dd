"""Validation during training: when, on which rows, and its loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import bottega
from bottega.errors import Diverged
from bottega.packing import pack
from bottega.recipe.schema import Recipe
from bottega.runs.atomic_files import checksum
from bottega.training.run_history import GENERAL
from bottega.training.setup import Run, build
from bottega.training.validation import Validation
from making import WORDS, write_jsonl


def test_rows_that_are_held_out_are_validated_on(recipe: Callable, tmp_path: Path) -> None:
    told = list(bottega.train(recipe(), tmp_path / "told"))
    assert [event.step for event in told if event.type == "validated"] == list(range(7))
    silent = list(bottega.train(recipe(evaluate=None), tmp_path / "silent"))
    names = [run / "model" / "model.safetensors" for run in (tmp_path / "told", tmp_path / "silent")]
    assert checksum(names[0]) == checksum(names[1])
    assert not [event for event in silent if event.type == "validated"]


def test_validation_rows_are_sampled_from_the_whole_file(recipe: Callable) -> None:
    session = build(recipe(evaluate={"rows": 3}))
    names = [name for (batch,) in Validation(session).groups for name in batch.ids]
    assert len(names) == 3
    assert names != [example.id for example in session.data.validation.examples[:3]]


def test_the_loss_is_that_of_all_rows_however_they_are_divided(recipe: Callable[..., Recipe]) -> None:
    losses = []
    for tokens in (30, 4096):
        run = build(recipe(optim={"steps": 6, "examples": 4, "tokens": tokens}))
        validation = Validation(run)
        losses.append(validation.score(0)[0])
        assert validation.score(3)[0] == losses[-1], "rows are packed once, and scored at any step"
    batch = pack(run.held_out)
    logp = run.engine.score(batch, frozenset({"logp"}))["logp"]
    assert losses == pytest.approx([float(-(logp * batch.weight).sum() / batch.weight.sum())] * 2, rel=1e-5)


def test_a_loss_that_is_not_finite_ends_the_run(recipe: Callable[..., Recipe]) -> None:
    run = build(recipe())
    with torch.no_grad():
        run.engine.optimizer.weights[0].parameter.fill_(torch.nan)
    with pytest.raises(Diverged, match="the validation loss is nan at step 4") as caught:
        Validation(run).score(4)
    assert "rows.jsonl line" in (caught.value.where or "")


def test_replay_rows_have_a_loss_of_their_own(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    general = write_jsonl(tmp_path / "general.jsonl", [{"text": f"the {word} ran and sat"} for word in WORDS])
    run = build(recipe(guard={"replay": str(general)}, evaluate={"every": 2}))
    loss, metrics = Validation(run).score(0)
    assert metrics[GENERAL] > 0
    assert metrics[GENERAL] != pytest.approx(loss)


def test_the_loss_of_sampled_answers_is_their_negative_reward(on_policy: Run) -> None:
    run = replace(on_policy, held_out=on_policy.sampler.examples[:3])
    loss, metrics = Validation(run).score(1)
    assert loss == -metrics["reward"]
    assert Validation(run).score(2) == (loss, metrics), "answers are sampled with one seed at all validations"
