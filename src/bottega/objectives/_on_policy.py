"""Objectives that learn from answers sampled from the policy during training, each scored by rewards."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bottega.batch import Example, Ints, Row
from bottega.objectives._base import Objective, completion_row
from bottega.objectives.rewards import FROM_FILE, Rewards
from bottega.records import Posed, Prompt, Record, Unusable

if TYPE_CHECKING:
    from bottega.tokenization.codec import Codec


class RewardedAnswer(NamedTuple):
    """A sampled answer: its tokens [t], its reward, and whether it ended by itself rather than at the limit."""

    tokens: Ints
    reward: float
    ended: bool

    def row(self, prompt_row: Row) -> Row:
        """The row of a prompt, as `Codec.encode_prompt_row` makes it, with this answer's tokens to be predicted."""
        # The prompt's last token predicts the answer's first one.
        begin, weight = len(prompt_row.tokens) - 1, np.ones(len(self.tokens), np.float32)
        tokens = np.concatenate([prompt_row.tokens, self.tokens])
        at = np.arange(begin, begin + len(self.tokens))
        return Row(tokens, at, self.tokens, weight, source=prompt_row.source)


def equal_rewards(rewards: NDArray[np.float64]) -> NDArray[np.bool_]:
    """[P, G] rewards → [P] whether all answers to a prompt got the same one."""
    # Relative: weighted sums of equal rewards differ by rounding, which a division by their deviation would blow up.
    return np.asarray(np.ptp(rewards, axis=1) <= 1e-9 * np.abs(rewards).max(1))


class OnPolicy(Objective):
    """Objectives that learn from answers which the policy generates during training, each scored by rewards."""

    reads: ClassVar[tuple[type, ...]] = (Posed,)

    rewards: Rewards = Field(description="One reward or several; an answer's reward is their weighted sum.")
    group: int = Field(8, ge=2, description="Answers sampled for each prompt.")
    tokens: int = Field(256, ge=1, description="Maximum tokens per answer.")
    temperature: float = Field(
        1.0, gt=0, description="Sampling temperature, by which all logits in the loss are divided, too."
    )
    stop: tuple[str, ...] = Field((), description="Texts that end an answer.")
    passes: int = Field(1, ge=1, description="Updates made from the same answers before new ones are sampled.")

    @classmethod
    def example_options(cls, *, answered: bool) -> dict[str, Any]:
        # Without a reference answer only a reward of the user's own can say how good an answer is.
        return {"rewards": ["exact"] if answered else [{"kind": FROM_FILE, "file": "my_reward.py"}]}

    @property
    def on_policy(self) -> OnPolicy:
        return self

    @property
    def model_names(self) -> tuple[str, ...]:
        return tuple(name for reward in self.rewards for name in (*reward.model_names, *reward.judge_names))

    @property
    def code_files(self) -> tuple[Path, ...]:
        return (*super().code_files, *(path for reward in self.rewards for path in reward.code_files))

    def rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        assert isinstance(record, Posed)
        if not record.right.strip() and any(reward.compares for reward in self.rewards):
            raise Unusable("no reference answer, which a reward compares with")
        return [(codec.encode_prompt_row(record, self.tokens),)]

    def metadata(self, record: Record) -> Record:
        # Rewards see the record that was answered, not only its tokens.
        return record

    @property
    def logit_temperature(self) -> float:
        # Log-probabilities must be those of the distribution that was sampled from, or the ratio would be off.
        return self.temperature

    def prompt_and_reference(self, record: Record) -> tuple[Prompt, str] | None:
        return (record.prompt, record.right) if isinstance(record, Posed) and record.right else None

    def evaluation_rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        # A prompt alone has nothing to score, so the likelihood of the reference answer is measured.
        assert isinstance(record, Posed)
        if not record.right:
            raise Unusable("no reference answer to evaluate on")
        return [(completion_row(record, record.right, codec),)]

    @abstractmethod
    def training_examples(
        self, prompts: Sequence[Example], answers: Sequence[Sequence[RewardedAnswer]]
    ) -> list[Example]:
        """The examples of an update from its prompts [P] and the answers to each [P][G].

        Those without a gradient may be left out, but at least one example is needed.
        """
