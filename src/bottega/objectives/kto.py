"""Kahneman–Tversky optimization (Ethayarajh et al. 2024, arXiv 2402.01306): answers labeled good or bad, unpaired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from bottega.batch import Batch, Example, Loss, Row, Term
from bottega.objectives import Objective, Score, Statistic, completion_row
from bottega.records import Preference, Record, Unpaired

if TYPE_CHECKING:
    from torch import Tensor

    from bottega.tokenization.codec import Codec


class Kto(Objective):
    """Kahneman–Tversky optimization: w · (1 − σ(β · (r − z))) of a good answer, w · (1 − σ(β · (z − r))) of a bad one.

    A mean over answers. r is the log-ratio log p(answer) − log p_reference(answer), summed over tokens; w is
    `desirable` or `undesirable`. z estimates KL(policy ‖ reference): the mean log-ratio, at least 0, of mismatched
    pairs, in which each prompt of the update has another row's answer. No gradient goes through z. An update of one row
    has no mismatched pair, and z is 0. Both answers of a preference pair are learned, each by itself.
    """

    reads: ClassVar[tuple[type, ...]] = (Unpaired, Preference)
    lr: ClassVar[tuple[float, float]] = (1e-6, 2e-5)

    kind: Literal["kto"] = "kto"
    beta: float = Field(0.1, gt=0, description="How strongly the policy is held to the reference model.")
    desirable: float = Field(
        1.0, ge=0, description="Weight of good answers; the paper keeps weight times number, good to bad, in 1 to 4/3."
    )
    undesirable: float = Field(1.0, ge=0, description="Weight of bad answers.")

    @property
    def needs(self) -> tuple[Score | Statistic, ...]:
        return Score("reference", by="reference"), Statistic(mismatched_examples, _sum_log_ratios)

    def rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        if isinstance(record, Preference):
            chosen, rejected = codec.encode_pair(record)
            return [(_with_desirability(chosen, desirable=True),), (_with_desirability(rejected, desirable=False),)]
        assert isinstance(record, Unpaired)
        row = completion_row(record, record.completion, codec)
        return [(_with_desirability(row, desirable=record.desirable),)]

    def loss(self, scores: Mapping[str, Tensor], batch: Batch) -> Loss:
        import torch

        log_ratio = batch.sum_rows(scores["logp"] - batch.columns["reference"])  # [R]
        # A KL divergence is never negative, though its estimate may be. No statistic: the update has a single row.
        kl = max(0.0, batch.statistics.get("raised", 0.0))
        desirable = batch.columns["desirable"] > 0  # [R]
        advantage = torch.where(desirable, log_ratio - kl, kl - log_ratio)
        weight = torch.where(desirable, self.desirable, self.undesirable)
        # 1 − σ(x) = σ(−x), which does not round to 0 for large x.
        loss = weight * torch.sigmoid(-self.beta * advantage)
        metrics = {
            "accuracy": Term((advantage > 0).sum(), "row"),
            # The same for all rows; named by a key of events.jsonl.
            "apart": Term(torch.full_like(log_ratio, kl).sum(), "row"),
        }
        return Loss({"kto": Term(loss.sum(), "row")}, metrics=metrics)


def mismatched_examples(examples: Sequence[Example], limit: int) -> list[Example]:
    """Each row's prompt with the answer of the row before it, in rows of up to `limit` tokens.

    Their log-ratios estimate the KL divergence from the reference, because the answer tells nothing about the prompt.
    """
    rows = [row for example in examples for row in example.rows]
    pairs = zip(rows, [rows[-1], *rows[:-1]], strict=True) if len(rows) > 1 else ()
    mismatched = [_replace_answer(prompt, answer, limit) for prompt, answer in pairs]
    # After a prompt that was cut at the limit there is no room for an answer.
    return [Example(f"{index}", (row,)) for index, row in enumerate(mismatched) if len(row.at)]


def _sum_log_ratios(scores: Mapping[str, Tensor], batch: Batch) -> dict[str, Term]:
    """The statistic `raised`: the log-ratio summed over each row's tokens, a mean over rows."""
    return {"raised": Term(batch.sum_rows(scores["logp"] - batch.columns["reference"]).sum(), "row")}


def _with_desirability(row: Row, *, desirable: bool) -> Row:
    return replace(row, columns={"desirable": np.array([desirable], np.float32)})


def _replace_answer(prompt_row: Row, answer_row: Row, limit: int) -> Row:
    """The prompt of one row with the answer of another, cut at `limit` tokens."""
    if prompt_row.source is not None:
        # An encoder–decoder reads the prompt apart, so the answer is the whole row.
        tokens, at, label, weight = answer_row.tokens, answer_row.at, answer_row.label, answer_row.weight
        return Row(tokens, at, label, weight, source=prompt_row.source)
    # The first prediction is at the prompt's last token, the last one at the answer's last but one.
    prompt = prompt_row.tokens[: int(prompt_row.at[0]) + 1]
    answer = answer_row.tokens[int(answer_row.at[0]) + 1 : int(answer_row.at[-1]) + 2]
    tokens = np.concatenate([prompt, answer])[:limit]
    at = np.arange(len(prompt) - 1, len(tokens) - 1)
    return Row(tokens, at, tokens[at + 1], np.ones(len(at), np.float32))
