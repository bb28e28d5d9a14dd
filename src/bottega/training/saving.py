"""Saving and loading checkpoints, and saving the result of a run in the formats that other tools load."""

from __future__ import annotations

from pathlib import Path

from bottega.models.dimensions import hidden_width
from bottega.models.generation_config import write_stop_tokens
from bottega.models.pooling import write_pooling_config
from bottega.training.setup import Run


def save_checkpoint(run: Run, folder: Path, step: int) -> None:
    """Write everything that a resume after `step` needs."""
    run.engine.save(folder, step=step, state=True)
    if run.reference_cache is not None:
        run.reference_cache.save(folder)
    if run.rollouts is not None:
        run.rollouts.save(folder, step)


def load_checkpoint(run: Run, folder: Path, step: int) -> None:
    """Restore what `save_checkpoint` wrote."""
    run.engine.load(folder)
    if run.reference_cache is not None:
        run.reference_cache.load(folder)
    if run.rollouts is not None:
        run.rollouts.load(folder, step)


def save_result(run: Run, folder: Path, step: int) -> None:
    """Write the weights with tokenizer, and the settings with which other tools use them as trained."""
    engine, objective = run.engine, run.recipe.objective
    engine.save(folder, step=step, state=False)
    # sentence-transformers reads the pooling of an embedder; without it, it would guess.
    if objective.pooling_mode is not None:
        write_pooling_config(
            folder, objective.pooling_mode, engine.scorer.embedding_width or hidden_width(engine.scorer.network.config)
        )
    # The base's generation config may lack the end-of-turn token that was trained.
    if engine.scorer.head.autoregressive:
        write_stop_tokens(engine.scorer.network, run.data.codec.end_tokens, folder)
