"""Group relative policy optimisation (Shao et al. 2024, DeepSeekMath, arXiv 2402.03300, eq. 3) and what grew out of it.

The policy answers each prompt several times; an answer is as good as its reward beside those of the others. Prompts are
computed once for all their answers, when they are written and when they are learned from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bottega.batch import Batch, Example, Loss, Term
from bottega.objectives import Answer, OnPolicy, Score, equal_rewards

if TYPE_CHECKING:
    from torch import Tensor

EPSILON = 1e-4
"""What is added to a deviation that is divided by, as TRL has it."""


class Grpo(OnPolicy):
    """−min(ratio · advantage, clipped ratio · advantage) of each token of the answers, plus β · KL from the reference.

    The ratio is how much likelier a token is than when it was written. An answer's advantage is its reward less the
    mean of its prompt's answers.

    scale      by what advantages are divided: the deviation of the rewards of a `group`, as in the paper, of the whole
               `update` (Liu et al. 2025, Tricks or Traps, arXiv 2508.08221), or `none` (Liu et al. 2025, Dr. GRPO,
               arXiv 2503.20783): a deviation makes most of the prompts whose answers hardly differ
    weighting  what the loss is a mean over: each `token` of the update (Yu et al. 2025, DAPO, arXiv 2503.14476, eq. 8);
               each `answer`, of which it is a mean over its tokens, as in the paper; or `constant`, a sum over tokens
               by the most an answer may have (Dr. GRPO)
    ratio      of a `token`, or of a whole `answer`, its geometric mean (Zheng et al. 2025, GSPO, arXiv 2507.18071)
    clip       how far the ratio may move down, and up, before its gradient is cut; it does only with `passes` above 1
    clip_high  how far up, where that is to be further (DAPO)
    beta       how strongly the policy is held to the reference; 0 needs none
    unbiased   that divergence times the ratio, by which its gradient is that of the divergence itself (DeepSeek-V3.2,
               arXiv 2512.02556), as TRL has it
    unfinished what of answers that did not end in time: `learn` from them, or `skip` them (DAPO)
    """

    # What others begin with; what is best depends on the rewards more than on the model.
    lr: ClassVar[tuple[float, float]] = (1e-6, 2e-5)

    kind: Literal["grpo"] = "grpo"
    scale: Literal["group", "update", "none"] = "group"
    weighting: Literal["token", "answer", "constant"] = "token"
    ratio: Literal["token", "answer"] = "token"
    clip: float = Field(0.2, gt=0, lt=1)
    clip_high: float | None = Field(None, gt=0)
    beta: float = Field(0.0, ge=0)
    unbiased: bool = False
    unfinished: Literal["learn", "skip"] = "learn"

    @property
    def needs(self) -> tuple[Score, ...]:
        old = [Score("old", by="old")] if self.passes > 1 else []
        reference = [Score("reference", by="reference")] if self.beta else []
        return (*old, *reference)

    def training_examples(self, posed: Sequence[Example], answers: Sequence[Sequence[Answer]]) -> list[Example]:
        advantages = self._advantages(np.array([[one.reward for one in group] for group in answers], float))
        groups = [
            [(one, value) for one, value in zip(group, values, strict=True) if self._counts(one)]
            for group, values in zip(answers, advantages.tolist(), strict=True)
        ]
        whole = sum(self._size(one) for group in groups for one, _ in group)
        if not self.beta:
            groups = [[(one, value) for one, value in group if value] for group in groups]
        # What has no gradient is left out, and the rest stands for its share of all.
        share = sum(self._size(one) for group in groups for one, _ in group) / max(whole, 1)
        examples = [
            _answer_example(example, one, share * value)
            for example, group in zip(posed, groups, strict=True)
            for one, value in group
        ]
        # An update in which no answer is better than another has no gradient, but it is one.
        return examples or [_without_weight(_answer_example(posed[0], answers[0][0], 0.0))]

    def _advantages(self, rewards: NDArray[np.float64]) -> NDArray[np.float64]:
        """[P, G] rewards of P prompts' answers → how much better each is than those of its group."""
        apart: NDArray[np.float64] = rewards - rewards.mean(1, keepdims=True)
        apart[equal_rewards(rewards)] = 0.0
        if self.scale == "none":
            return apart
        spread = rewards.std(1, ddof=1, keepdims=True) if self.scale == "group" else rewards.std(ddof=1)
        divided: NDArray[np.float64] = apart / (spread + EPSILON)
        return divided

    def _counts(self, answer: Answer) -> bool:
        return answer.ended or self.unfinished == "learn"

    def _size(self, answer: Answer) -> int:
        """What an answer counts in the mean that the loss is."""
        return len(answer.tokens) if self.weighting == "token" else 1

    def closing_note(self, updates: Sequence[Mapping[str, float]]) -> str:
        if updates and all(map(self._is_even, updates)):
            why = (
                "all answers to a prompt earned the same"
                if self.unfinished == "learn"
                else ("all answers to a prompt earned the same, or none came to its end")
            )
            return f"nothing was learned: in every update {why}"
        return ""

    def _is_even(self, update: Mapping[str, float]) -> bool:
        skipped = self.unfinished == "skip" and update.get("unfinished") == 1
        return skipped or update.get("even_groups") == 1

    def loss(self, scores: Mapping[str, Tensor], batch: Batch) -> Loss:
        import torch

        logp, advantage = scores["logp"], batch.columns["advantage"]
        apart = logp - batch.columns.get("old", logp.detach())
        if self.ratio == "answer":
            apart = batch.mean_rows(apart)[batch.row]
        ratio = apart.exp()
        high = 1 + (self.clip if self.clip_high is None else self.clip_high)
        bounded = ratio.clamp(1 - self.clip, high)
        lost = -torch.minimum(ratio * advantage, bounded * advantage)
        cut = ((ratio < 1 - self.clip) & (advantage < 0)) | ((ratio > high) & (advantage > 0))
        metrics = {"clipped": Term(cut.sum(), "token")}
        if self.beta:
            # Never below 0, and its mean over answers is the divergence (Schulman 2020).
            further = batch.columns["reference"] - logp
            divergence = further.exp() - further - 1
            lost = lost + self.beta * (divergence * ratio if self.unbiased else divergence)
            metrics["divergence"] = Term((batch.weight * divergence.detach()).sum(), "token")
        return Loss({"grpo": self._mean(batch.weight * lost, batch)}, metrics=metrics)

    def _mean(self, lost: Tensor, batch: Batch) -> Term:
        if self.weighting == "token":
            return Term(lost.sum(), "token")
        if self.weighting == "answer":
            return Term(batch.mean_rows(lost).sum(), "row")
        return Term(lost.sum(), "row", 1 / self.tokens)


def _answer_example(posed: Example, answer: Answer, advantage: float) -> Example:
    """An answer by itself, which may stand in another micro-batch than the rest of its group."""
    return Example(posed.id, (answer.row(posed.rows[0]).with_columns(advantage=advantage),))


def _without_weight(example: Example) -> Example:
    """The example with nothing of it in any mean."""
    (row,) = example.rows
    return replace(example, rows=(replace(row, weight=np.zeros_like(row.weight)),))
