"""Kahneman–Tversky optimisation (Ethayarajh et al. 2024, arXiv 2402.01306): answers called good or bad."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from bottega.batch import Batch, Example, Loss, Row, Term
from bottega.objectives import Objective, Score, Statistic
from bottega.records import Preference, Record, Unpaired

if TYPE_CHECKING:
    from torch import Tensor

    from bottega.tokenization.codec import Codec


class Kto(Objective):
    """weight · (1 − σ(β · (r − z))) of a good answer, weight · (1 − σ(β · (z − r))) of a bad one, a mean over rows.

    r is how much the policy raised the answer's log-probability over the reference's. z is how far the policy is from
    the reference: the mean of r, and at least 0, over answers that stand behind another row's prompt in the same
    update. No gradient goes through it. An update of one row has no other, and z is 0. Of a preference both answers
    are learned, each by itself.

    beta         how strongly the policy is held to the reference
    desirable    weight of the good answers; the paper keeps weight times number of both kinds within 1 and 4/3
    undesirable  weight of the bad ones
    """

    reads: ClassVar[tuple[type, ...]] = (Unpaired, Preference)
    lr: ClassVar[tuple[float, float]] = (1e-6, 2e-5)

    kind: Literal["kto"] = "kto"
    beta: float = Field(0.1, gt=0)
    desirable: float = Field(1.0, ge=0)
    undesirable: float = Field(1.0, ge=0)

    @property
    def needs(self) -> tuple[Score | Statistic, ...]:
        return Score("reference", by="reference"), Statistic(mismatched_examples, _sum_log_ratios)

    def rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        if isinstance(record, Preference):
            chosen, rejected = codec.encode_pair(record)
            return [(_with_desirability(chosen, good=True),), (_with_desirability(rejected, good=False),)]
        assert isinstance(record, Unpaired)
        row = codec.encode_completion(record.where, record.prompt, record.completion, record.tools, record.variables)
        return [(_with_desirability(row, good=record.desirable),)]

    def loss(self, scores: Mapping[str, Tensor], batch: Batch) -> Loss:
        import torch

        raised = batch.sum_rows(scores["logp"] - batch.columns["reference"])
        apart = max(0.0, batch.statistics.get("raised", 0.0))
        good = batch.columns["desirable"] > 0
        ahead = torch.where(good, raised - apart, apart - raised)
        weight = torch.where(good, self.desirable, self.undesirable)
        lost = weight * torch.sigmoid(-self.beta * ahead)
        metrics = {
            "accuracy": Term((ahead > 0).sum(), "row"),
            "apart": Term(torch.full_like(raised, apart).sum(), "row"),
        }
        return Loss({"kto": Term(lost.sum(), "row")}, metrics=metrics)


def mismatched_examples(examples: Sequence[Example], limit: int) -> list[Example]:
    """Each row's prompt with the answer of the row before it: their log-ratios estimate the KL from the reference."""
    rows = [row for example in examples for row in example.rows]
    pairs = zip(rows, [rows[-1], *rows[:-1]], strict=True) if len(rows) > 1 else ()
    mismatched = [_swap_answer(row, other, limit) for row, other in pairs]
    # After a prompt that was cut at the limit there is no room for an answer.
    return [Example(f"{index}", (row,)) for index, row in enumerate(mismatched) if len(row.at)]


def _sum_log_ratios(scores: Mapping[str, Tensor], batch: Batch) -> dict[str, Term]:
    """How much the policy raised the log-probabilities of those answers over the reference's, summed by row."""
    return {"raised": Term(batch.sum_rows(scores["logp"] - batch.columns["reference"]).sum(), "row")}


def _with_desirability(row: Row, *, good: bool) -> Row:
    return replace(row, columns={"desirable": np.array([good], np.float32)})


def _swap_answer(row: Row, other: Row, limit: int) -> Row:
    """The prompt of one row with the answer of another, as far as there is room."""
    if row.source is not None:
        return Row(other.tokens, other.at, other.label, other.weight, source=row.source)
    prompt = row.tokens[: int(row.at[0]) + 1]
    answer = other.tokens[int(other.at[0]) + 1 : int(other.at[-1]) + 2]
    tokens = np.concatenate([prompt, answer])[:limit]
    at = np.arange(len(prompt) - 1, len(tokens) - 1)
    return Row(tokens, at, tokens[at + 1], np.ones(len(at), np.float32))
