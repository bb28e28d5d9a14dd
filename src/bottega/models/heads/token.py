"""A class of each token that is read, for tagging."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from transformers import AutoModelForTokenClassification

from bottega.batch import Batch
from bottega.models.heads import Head, ScoreOptions, from_logits
from bottega.models.own_head import own_head_logits


class TokenHead(Head):
    """The head of a `…ForTokenClassification`: logits [N, C], logp and best [N] of the labels."""

    outputs: ClassVar[frozenset[str]] = frozenset({"logits", "logp", "best"})
    peft_task: ClassVar[str | None] = "TOKEN_CLS"
    command: ClassVar[str] = "tag"

    def auto_class(self, config: Any) -> Any:
        return AutoModelForTokenClassification

    def scores(
        self, network: Any, states: Tensor, batch: Batch, wanted: frozenset[str], options: ScoreOptions
    ) -> dict[str, Tensor]:
        return from_logits(own_head_logits(network, states), batch, wanted, options)
