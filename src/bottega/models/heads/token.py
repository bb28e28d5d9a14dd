"""A class of each token that is read, for tagging."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from transformers import AutoModelForTokenClassification

from bottega.models.heads._classification import ClassificationHead
from bottega.models.own_head import own_head_logits


class TokenHead(ClassificationHead):
    """The head of a `…ForTokenClassification`."""

    description: ClassVar[str] = "a tagger"
    peft_task: ClassVar[str | None] = "TOKEN_CLS"
    command: ClassVar[str] = "bottega tag"

    def auto_class(self, config: Any) -> Any:
        return AutoModelForTokenClassification

    def logits(self, network: Any, states: Tensor) -> Tensor:
        return own_head_logits(network, states)
