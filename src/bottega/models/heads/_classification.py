"""What heads with a fixed set of classes share: their outputs, computed from logits."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from torch import Tensor

from bottega.batch import Batch
from bottega.models.heads import Head, ScoreOptions, from_logits


class ClassificationHead(Head):
    """A head of C classes: logits [N, C], logp and best [N] of the labels."""

    outputs: ClassVar[frozenset[str]] = frozenset({"logits", "logp", "best"})

    @abstractmethod
    def logits(self, network: Any, states: Tensor) -> Tensor:
        """[N, H] → [N, C], from the modules of `network`."""

    def scores(
        self, network: Any, states: Tensor, batch: Batch, wanted: frozenset[str], options: ScoreOptions
    ) -> dict[str, Tensor]:
        return from_logits(self.logits(network, states), batch, wanted, options)
