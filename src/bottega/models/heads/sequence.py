"""A class of a whole text, or a number for it, read at one position."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from transformers import AutoModelForSequenceClassification

from bottega.batch import Batch
from bottega.models.heads import Head, ScoreOptions, from_logits
from bottega.models.own_head import classifier_of


class SequenceHead(Head):
    """The head of a `…ForSequenceClassification`: logits [N, C], logp and best [N] of the labels."""

    outputs: ClassVar[frozenset[str]] = frozenset({"logits", "logp", "best"})
    per_row: ClassVar[bool] = True
    peft_task: ClassVar[str | None] = "SEQ_CLS"
    command: ClassVar[str] = "classify"

    def auto_class(self, config: Any) -> Any:
        return AutoModelForSequenceClassification

    def scores(
        self, network: Any, states: Tensor, batch: Batch, wanted: frozenset[str], options: ScoreOptions
    ) -> dict[str, Tensor]:
        return from_logits(classifier_of(network)(states), batch, wanted, options)
