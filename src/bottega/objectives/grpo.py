"""Group relative policy optimization (Shao et al. 2024, DeepSeekMath, arXiv 2402.03300, eq. 3) and its variants.

The policy samples a group of answers for each prompt; an answer's advantage is its reward relative to its group, so no
value model is needed. A prompt is computed once for all its answers, when they are sampled and when they are learned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bottega.batch import Batch, Example, Loss, Term
from bottega.objectives import OnPolicy, RewardedAnswer, Score, equal_rewards

if TYPE_CHECKING:
    from torch import Tensor

# Added to the standard deviation that advantages are divided by; the value is TRL's.
EPSILON = 1e-4


class Grpo(OnPolicy):
    """Group relative policy optimization: −min(ratio · A, clip(ratio, 1 − clip, 1 + clip) · A) + β · KL of each token.

    ratio = p(token) / p_old(token), old being the policy that sampled the answer. A, an answer's advantage, is its
    reward minus the mean of its group, divided by a standard deviation. KL(policy ‖ reference) is estimated for each
    token as exp(d) − d − 1, d = log p_reference − log p (Schulman 2020).
    """

    # The values other trainers begin with; the best depend on the rewards more than on the model.
    lr: ClassVar[tuple[float, float]] = (1e-6, 2e-5)

    kind: Literal["grpo"] = "grpo"
    scale: Literal["group", "update", "none"] = Field(
        "group",
        description="Standard deviation that divides advantages: of a prompt's rewards, as in the paper; of the whole "
        "update's (Liu et al. 2025, arXiv 2508.08221); or none (Dr. GRPO, Liu et al. 2025, arXiv 2503.20783), as a "
        "deviation gives most weight to prompts whose answers hardly differ.",
    )
    weighting: Literal["token", "answer", "constant"] = Field(
        "token",
        description="What the loss is a mean over: tokens of the update (DAPO, Yu et al. 2025, arXiv 2503.14476, eq. "
        "8); answers, each a mean over its tokens, as in the paper; or answers, each a sum divided by `tokens` (Dr. "
        "GRPO).",
    )
    ratio: Literal["token", "answer"] = Field(
        "token",
        description="Importance ratio of each token, or of the whole answer: the geometric mean of its tokens' (GSPO, "
        "Zheng et al. 2025, arXiv 2507.18071).",
    )
    clip: float = Field(
        0.2, gt=0, lt=1, description="The ratio has no gradient beyond 1 ± clip; matters only with `passes` above 1."
    )
    clip_high: float | None = Field(
        None, gt=0, description="Upper clip, where it differs from the lower one (DAPO's clip-higher)."
    )
    beta: float = Field(
        0.0, ge=0, description="Weight of the KL divergence from the reference model; 0 needs no reference."
    )
    unbiased: bool = Field(
        False,
        description="Multiply the KL estimate by the ratio, so that its gradient is that of the KL itself "
        "(DeepSeek-V3.2, arXiv 2512.02556), as TRL does.",
    )
    unfinished: Literal["learn", "skip"] = Field(
        "learn", description="Whether answers cut at `tokens` are learned from, or skipped (DAPO)."
    )

    @property
    def needs(self) -> tuple[Score, ...]:
        # With a single pass the policy still is the old one, so its own log-probabilities serve.
        old = [Score("old", by="old")] if self.passes > 1 else []
        reference = [Score("reference", by="reference")] if self.beta else []
        return (*old, *reference)

    def training_examples(
        self, prompts: Sequence[Example], answers: Sequence[Sequence[RewardedAnswer]]
    ) -> list[Example]:
        rewards = np.array([[answer.reward for answer in group] for group in answers], float)  # [P, G]
        advantages = self._advantages(rewards)
        # Skipped answers still count in the mean and the deviation of their group.
        groups = [
            [(answer, value) for answer, value in zip(group, values, strict=True) if self._is_learned(answer)]
            for group, values in zip(answers, advantages.tolist(), strict=True)
        ]
        total = sum(self._count(answer) for group in groups for answer, _ in group)
        if not self.beta:
            # An answer with advantage 0 has no gradient, except through the KL.
            groups = [[(answer, value) for answer, value in group if value] for group in groups]
        # The loss is a mean over the answers that are computed, so it is scaled to be the mean over all of them.
        fraction = sum(self._count(answer) for group in groups for answer, _ in group) / max(total, 1)
        examples = [
            _answer_example(prompt, answer, fraction * value)
            for prompt, group in zip(prompts, groups, strict=True)
            for answer, value in group
        ]
        # An update in which all answers of a group are equal has no gradient, but is still an update.
        return examples or [_without_weight(_answer_example(prompts[0], answers[0][0], 0.0))]

    def _advantages(self, rewards: NDArray[np.float64]) -> NDArray[np.float64]:
        """[P, G] rewards of the answers to P prompts → [P, G] their advantages."""
        centered: NDArray[np.float64] = rewards - rewards.mean(1, keepdims=True)
        # Exactly 0, not a rounding error that the division would scale up to a gradient.
        centered[equal_rewards(rewards)] = 0.0
        if self.scale == "none":
            return centered
        deviation = rewards.std(1, ddof=1, keepdims=True) if self.scale == "group" else rewards.std(ddof=1)
        advantages: NDArray[np.float64] = centered / (deviation + EPSILON)
        return advantages

    def _is_learned(self, answer: RewardedAnswer) -> bool:
        return answer.ended or self.unfinished == "learn"

    def _count(self, answer: RewardedAnswer) -> int:
        """How much an answer counts in the mean that the loss is: its tokens, or 1."""
        return len(answer.tokens) if self.weighting == "token" else 1

    def closing_note(self, updates: Sequence[Mapping[str, float]]) -> str:
        if not updates or not all(map(self._has_no_gradient, updates)):
            return ""
        why = "all answers to a prompt had the same reward"
        if self.unfinished == "skip":
            why += ", or all answers were cut at the limit"
        return f"nothing was learned: in every update {why}"

    def _has_no_gradient(self, metrics: Mapping[str, float]) -> bool:
        all_skipped = self.unfinished == "skip" and metrics.get("unfinished") == 1
        return all_skipped or metrics.get("even_groups") == 1

    def loss(self, scores: Mapping[str, Tensor], batch: Batch) -> Loss:
        import torch

        logp, advantage = scores["logp"], batch.columns["advantage"]  # [N]
        # Without an old column the ratio is 1, and its gradient is that of log p.
        log_ratio = logp - batch.columns.get("old", logp.detach())
        if self.ratio == "answer":
            log_ratio = batch.mean_rows(log_ratio)[batch.row]  # [R] → [N]
        ratio = log_ratio.exp()
        low, high = 1 - self.clip, 1 + (self.clip if self.clip_high is None else self.clip_high)
        clipped = ratio.clamp(low, high)
        loss = -torch.minimum(ratio * advantage, clipped * advantage)  # [N]
        is_clipped = ((ratio < low) & (advantage < 0)) | ((ratio > high) & (advantage > 0))
        metrics = {"clipped": Term(is_clipped.sum(), "token")}
        if self.beta:
            # Schulman's k3 estimator: never below 0, and its mean over sampled answers is the KL.
            difference = batch.columns["reference"] - logp
            kl = difference.exp() - difference - 1
            loss = loss + self.beta * (kl * ratio if self.unbiased else kl)
            metrics["divergence"] = Term((batch.weight * kl.detach()).sum(), "token")
        return Loss({"grpo": self._mean(batch.weight * loss, batch)}, metrics=metrics)

    def _mean(self, loss: Tensor, batch: Batch) -> Term:
        """The loss of the batch, from those of its tokens [N]."""
        if self.weighting == "token":
            return Term(loss.sum(), "token")
        if self.weighting == "answer":
            return Term(batch.mean_rows(loss).sum(), "row")
        return Term(loss.sum(), "row", 1 / self.tokens)


def _answer_example(prompt: Example, answer: RewardedAnswer, advantage: float) -> Example:
    """An example of one answer: its advantage is known, so it may stand in another micro-batch than its group."""
    return Example(prompt.id, (answer.row(prompt.rows[0]).with_columns(advantage=advantage),))


def _without_weight(example: Example) -> Example:
    """The example with weight 0, so that it counts in no mean."""
    (row,) = example.rows
    return replace(example, rows=(replace(row, weight=np.zeros_like(row.weight)),))
