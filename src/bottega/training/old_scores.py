"""Scores of sampled answers by the policy that sampled them: log-probabilities, or whatever else an objective declares.

An objective asks for them with `Score(column, by="old", output)`. They are the denominator of a ratio, or the values
that a value head gave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bottega.batch import Example
from bottega.engine.engine import Engine
from bottega.objectives import OnPolicy, Score
from bottega.packing import pack, split_into_micro_batches
from bottega.seeding import derive

# Column of the batch → [N] float32, over the predictions of all examples in their order.
OldScores = Mapping[str, NDArray[np.float32]]


def score_old(
    engine: Engine, objective: OnPolicy, examples: Sequence[Example], tokens: int, *, packed: bool, dropout_step: int
) -> OldScores:
    """The old scores that the objective needs, by the policy as it is now; empty if it needs none.

    tokens        most tokens of a micro-batch
    dropout_step  the number that the updates of the round derive their dropout seeds from
    """
    needs = [need for need in objective.needs if isinstance(need, Score) and need.by == "old"]
    if not needs:
        return {}
    outputs, temperature = frozenset(need.output for need in needs), objective.logit_temperature
    parts: dict[int, dict[str, NDArray[np.float32]]] = {}
    # Divided as the updates of the round divide them, and with their dropout seeds: the first ratio is exactly 1.
    for index, group in enumerate(split_into_micro_batches(examples, tokens, share=packed)):
        batch = pack(group, share=packed).to(str(engine.scorer.network.device))
        seed = derive(engine.seed, "dropout", dropout_step, index)
        scores = engine.score(batch, outputs, temperature=temperature, dropout_seed=seed)
        ends = np.cumsum([len(example.rows[0].at) for example in group])[:-1]
        for need in needs:
            values = scores[need.output].float().cpu().numpy()  # [N of this micro-batch]
            for example, part in zip(group, np.split(values, ends), strict=True):
                parts.setdefault(id(example), {})[need.column] = part
    # Micro-batches sort examples by length; the scores are stored in the order of `examples`.
    return {need.column: np.concatenate([parts[id(example)][need.column] for example in examples]) for need in needs}


def join_old_scores(examples: Sequence[Example], old_scores: OldScores) -> list[Example]:
    """The examples with the old scores as columns of their rows."""
    if not old_scores:
        return list(examples)
    ends = np.cumsum([len(example.rows[0].at) for example in examples])[:-1]
    columns = {column: np.split(values, ends) for column, values in old_scores.items()}
    rows = [
        example.rows[0].with_columns(**{column: parts[index] for column, parts in columns.items()})
        for index, example in enumerate(examples)
    ]
    return [Example(example.id, (row,)) for example, row in zip(examples, rows, strict=True)]
