"""Supervised fine-tuning: predict the answer, given the prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from bottega.batch import Batch, Loss, Row, Term
from bottega.objectives import Likelihood
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
    """Mean negative log-likelihood of the answers' tokens.

    Of a preference the chosen answer is learned, of unpaired rows the good ones, of a choice the right one, of a text
    with spans the list of them, as JSON.

    weighting        `token`: every answer token of the update counts the same; `example`: every example does
    label_smoothing  share of the likelihood that is spread evenly over the vocabulary, in training only
    """

    reads: ClassVar[tuple[type, ...]] = (Chat, Prompted, Text, Choice, Tagged, Preference, Unpaired, ChatLike)

    kind: Literal["sft"] = "sft"
    weighting: Literal["token", "example"] = "token"

    @property
    def weighted(self) -> bool:
        return self.weighting == "token"

    def rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        if isinstance(record, Preference):
            return [
                (codec.encode_completion(record.where, record.prompt, record.chosen, record.tools, record.variables),)
            ]
        if isinstance(record, Unpaired):
            if not record.desirable:
                raise Unusable("an answer labelled false, which sft does not learn")
            return [
                (
                    codec.encode_completion(
                        record.where, record.prompt, record.completion, record.tools, record.variables
                    ),
                )
            ]
        if isinstance(record, ChatLike):
            record = record.as_chat()
        assert isinstance(record, (Chat, Prompted, Text))
        return [(codec.encode_answers(record),)]

    def prompt_and_reference(self, record: Record) -> tuple[Prompt, str] | None:
        if isinstance(record, ChatLike):
            record = record.as_chat()
        if isinstance(record, Prompted):
            return record.prompt, record.completion
        if isinstance(record, Text) and record.answer:
            return record.text[: record.answer], record.text[record.answer :]
        if isinstance(record, Chat) and record.messages[-1].role == "assistant" and not record.tools:
            before = record.messages[:-1]
            return (before, record.messages[-1].content) if before else None
        return None

    def loss(self, scores: Mapping[str, Tensor], batch: Batch) -> Loss:
        if self.weighting == "token":
            return super().loss(scores, batch)
        nll = -batch.weight * scores["logp"]
        return Loss({"nll": Term((batch.sum_rows(nll) / batch.sum_rows(batch.weight)).sum(), "example")})
