"""What a run writes: checkpoints to go on from, and the result that others load."""

from __future__ import annotations

from pathlib import Path

from bottega.models.dimensions import hidden_width
from bottega.models.generation_config import write_stop_tokens
from bottega.models.pooling import write_pooling_config
from bottega.training.setup import Run


def save_checkpoint(run: Run, folder: Path, step: int) -> None:
    """Everything to go on from after `step`."""
    run.engine.save(folder, step=step, state=True)
    if run.reference_cache is not None:
        run.reference_cache.save(folder)
    if run.rollouts is not None:
        run.rollouts.save(folder, step)


def load_checkpoint(run: Run, folder: Path, step: int) -> None:
    """The inverse of `save_checkpoint`."""
    run.engine.load(folder)
    if run.reference_cache is not None:
        run.reference_cache.load(folder)
    if run.rollouts is not None:
        run.rollouts.load(folder, step)


def save_result(run: Run, folder: Path, step: int) -> None:
    """The weights with their tokenizer, and what other tools must know to use them as trained."""
    engine, objective = run.engine, run.recipe.objective
    engine.save(folder, step=step, state=False)
    if objective.pooling_mode is not None:
        write_pooling_config(
            folder, objective.pooling_mode, engine.scorer.embedding_width or hidden_width(engine.scorer.network.config)
        )
    if objective.head == "language":
        write_stop_tokens(engine.scorer.network, run.data.codec.end_tokens, folder)
