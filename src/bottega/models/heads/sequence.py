"""A class of a whole text, or a number for it, read at one position of each row."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from transformers import AutoModelForSequenceClassification

from bottega.models.heads._classification import ClassificationHead
from bottega.models.own_head import classifier_of


class SequenceHead(ClassificationHead):
    """The head of a `…ForSequenceClassification`."""

    description: ClassVar[str] = "a classifier, a regression or a reward model"
    per_row: ClassVar[bool] = True
    peft_task: ClassVar[str | None] = "SEQ_CLS"
    command: ClassVar[str] = "bottega classify"

    def auto_class(self, config: Any) -> Any:
        return AutoModelForSequenceClassification

    def logits(self, network: Any, states: Tensor) -> Tensor:
        return classifier_of(network)(states)
