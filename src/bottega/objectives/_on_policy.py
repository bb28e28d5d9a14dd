"""Objectives that learn from answers the policy writes while it learns."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bottega.batch import Example, Ints, Row
from bottega.objectives._base import Objective
from bottega.objectives.rewards import Rewards
from bottega.records import Posed, Prompt, Record, Unusable

if TYPE_CHECKING:
    from bottega.tokenization.codec import Codec


class Answer(NamedTuple):
    """An answer that was written: its tokens, its reward, and whether it came to an end by itself."""

    tokens: Ints
    reward: float
    ended: bool

    def row(self, posed: Row) -> Row:
        """The row of a prompt, as `Codec.posed` makes it, with this answer to be predicted."""
        begin, weight = len(posed.tokens) - 1, np.ones(len(self.tokens), np.float32)
        tokens, at = np.concatenate([posed.tokens, self.tokens]), np.arange(begin, begin + len(self.tokens))
        return Row(tokens, at, self.tokens, weight, source=posed.source)


def equal_rewards(rewards: NDArray[np.float64]) -> NDArray[np.bool_]:
    """[P, G] rewards → [P] whether those of a prompt are all the same; rounding does not tell them apart."""
    return np.asarray(np.ptp(rewards, axis=1) <= 1e-9 * np.abs(rewards).max(1))


class OnPolicy(Objective):
    """Objectives that learn from answers which the policy writes while it learns, each worth a reward.

    rewards      what an answer is worth: the sum of these, each times its weight
    group        answers to a prompt
    tokens       most of an answer
    temperature  of what the answers are drawn from, and of all log-probabilities in the loss
    stop         texts that end an answer
    passes       updates made of the same answers, before the policy writes others
    """

    reads: ClassVar[tuple[type, ...]] = (Posed,)

    rewards: Rewards
    group: int = Field(8, ge=2)
    tokens: int = Field(256, ge=1)
    temperature: float = Field(1.0, gt=0)
    stop: tuple[str, ...] = ()
    passes: int = Field(1, ge=1)

    def rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        assert isinstance(record, Posed)
        if not record.right.strip() and any(reward.compares for reward in self.rewards):
            raise Unusable("no right answer, with which a reward compares")
        return [(codec.encode_prompt_row(record, self.tokens),)]

    def metadata(self, record: Record) -> Record:
        return record

    @property
    def logit_temperature(self) -> float:
        return self.temperature

    def prompt_and_reference(self, record: Record) -> tuple[Prompt, str] | None:
        return (record.prompt, record.right) if isinstance(record, Posed) and record.right else None

    def evaluation_rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        assert isinstance(record, Posed)
        if not record.right:
            raise Unusable("no right answer to measure by")
        return [(codec.encode_completion(record.where, record.prompt, record.right, record.tools, record.variables),)]

    @abstractmethod
    def training_examples(self, posed: Sequence[Example], answers: Sequence[Sequence[Answer]]) -> list[Example]:
        """What an update learns from its prompts [P] and the answers to each [P][G]; what has no gradient may be left
        out, but not all."""
