"""Supervised fine-tuning: predict the answer, given the prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from bottega.batch import Batch, Loss, Row, Term
from bottega.objectives import Likelihood, completion_row
from bottega.records import (
    Chat,
    ChatLike,
    Choice,
    Preference,
    Prompt,
    Prompted,
    Record,
    Tagged,
    Text,
    Unpaired,
    Unusable,
)

if TYPE_CHECKING:
    from torch import Tensor

    from bottega.tokenization.codec import Codec


class Sft(Likelihood):
    """Supervised fine-tuning: the mean of −log p(token | prompt, tokens before it) over the answers' tokens.

    Learned are the chosen answer of a preference pair, the good ones of unpaired answers, the correct choice of a
    multiple-choice question, and the entities of a text with spans, written as a JSON list.
    """

    reads: ClassVar[tuple[type, ...]] = (Chat, Prompted, Text, Choice, Tagged, Preference, Unpaired, ChatLike)

    kind: Literal["sft"] = "sft"
    weighting: Literal["token", "example"] = Field(
        "token", description="What counts equally in the loss: every answer token of the update, or every example."
    )

    @property
    def weighted(self) -> bool:
        # By example, a token's factor is not its weight alone.
        return self.weighting == "token"

    def rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        # The usual classes first: a record is seen at once to be of its own class, and slowly not to be of another.
        if isinstance(record, (Prompted, Chat, Text)):
            return [(codec.encode_answers(record),)]
        if isinstance(record, Preference):
            return [(completion_row(record, record.chosen, codec),)]
        if isinstance(record, Unpaired):
            if not record.desirable:
                raise Unusable("an answer labeled false, which sft does not learn")
            return [(completion_row(record, record.completion, codec),)]
        assert isinstance(record, ChatLike)
        return [(codec.encode_answers(record.as_chat()),)]

    def prompt_and_reference(self, record: Record) -> tuple[Prompt, str] | None:
        if isinstance(record, ChatLike):
            record = record.as_chat()
        if isinstance(record, Prompted):
            return record.prompt, record.completion
        if isinstance(record, Text) and record.answer:
            return record.text[: record.answer], record.text[record.answer :]
        # With tools the last answer may be a call, whose content is empty.
        if isinstance(record, Chat) and record.messages[-1].role == "assistant" and not record.tools:
            prompt = record.messages[:-1]
            return (prompt, record.messages[-1].content) if prompt else None
        return None

    def loss(self, scores: Mapping[str, Tensor], batch: Batch) -> Loss:
        if self.weighting == "token":
            return super().loss(scores, batch)
        nll = -batch.weight * scores["logp"]  # [N]
        return Loss({"nll": Term((batch.sum_rows(nll) / batch.sum_rows(batch.weight)).sum(), "example")})
