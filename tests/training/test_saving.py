"""Checkpoints restore what they saved, and a result has the files that other tools read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, GenerationConfig

from bottega.engine.engine import OPTIMIZER_FILE
from bottega.errors import Diverged
from bottega.models.pooling import read_pooling_config
from bottega.recipe.schema import Recipe
from bottega.training.needs import micro_batches
from bottega.training.saving import load_checkpoint, save_checkpoint, save_result
from bottega.training.setup import Run, build
from making import WORDS, write_jsonl


@pytest.mark.parametrize("more", [{}, {"adapter": {"rank": 2}}], ids=["full", "lora"])
def test_a_checkpoint_restores_weights_and_cached_scores(
    more: dict, session: Callable[..., Run], tmp_path: Path
) -> None:
    run, folder = session(4, **more), tmp_path / "checkpoint"
    folder.mkdir()
    batches = micro_batches(run, run.sampler.examples[:])
    with torch.no_grad():
        for weight in run.engine.optimizer.weights:
            weight.parameter.add_(0.1)
    save_checkpoint(run, folder, 2)
    again = session(4, **more)
    load_checkpoint(again, folder, 2)
    for one, other in zip(again.engine.scorer.parameters(), run.engine.scorer.parameters(), strict=True):
        assert torch.equal(one, other)
    assert run.reference_cache is not None
    assert again.reference_cache is not None
    assert torch.equal(
        again.reference_cache.of(run.sampler.examples[:]), run.reference_cache.of(run.sampler.examples[:])
    )
    assert batches[0].columns["reference"].isfinite().all()


def test_weights_that_are_not_finite_are_not_saved(session: Callable[..., Run], tmp_path: Path) -> None:
    run = session(4)
    with torch.no_grad():
        run.engine.optimizer.weights[0].parameter.fill_(torch.nan)
    with pytest.raises(Diverged, match="weights are not finite after step 3"):
        save_checkpoint(run, tmp_path, 3)


def test_a_result_is_the_model_with_tokenizer_and_stop_tokens(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    run = build(recipe())
    save_result(run, tmp_path / "model", 6)
    assert (tmp_path / "model" / "model.safetensors").exists()
    assert not (tmp_path / "model" / OPTIMIZER_FILE).exists()
    assert AutoTokenizer.from_pretrained(tmp_path / "model").get_vocab() == run.data.tokenizer.get_vocab()
    stops = GenerationConfig.from_pretrained(tmp_path / "model").eos_token_id
    assert set(stops if isinstance(stops, list) else [stops]) == set(run.data.codec.end_tokens)
    assert read_pooling_config(str(tmp_path / "model")) is None


def test_an_embedder_is_saved_with_its_pooling(recipe: Callable[..., Recipe], bert: Path, tmp_path: Path) -> None:
    pairs = write_jsonl(tmp_path / "pairs.jsonl", [{"anchor": f"the {word}", "positive": word} for word in WORDS])
    sections = {"model": {"base": str(bert), "dtype": "float32"}, "data": {"train": str(pairs)}}
    run = build(recipe(objective={"kind": "contrastive", "pooling": "first"}, **sections))
    save_result(run, tmp_path / "model", 6)
    assert read_pooling_config(str(tmp_path / "model")) == "first"
    settings = json.loads((tmp_path / "model" / "1_Pooling" / "config.json").read_text())
    assert settings["word_embedding_dimension"] == 32
