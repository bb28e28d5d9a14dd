"""No head: the hidden states themselves, from which the embedding of a text is pooled."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import AutoModel

from bottega.batch import Batch
from bottega.models.heads import Head, ScoreOptions


class EmbeddingHead(Head):
    """The final hidden states: hidden [N, H]."""

    outputs: ClassVar[frozenset[str]] = frozenset({"hidden"})
    description: ClassVar[str] = "an embedding model"
    is_bare: ClassVar[bool] = True
    command: ClassVar[str] = "bottega embed"
    probe_output: ClassVar[str] = "hidden"

    def auto_class(self, config: Any) -> Any:
        return AutoModel

    def scores(
        self, network: Any, states: Tensor, batch: Batch, wanted: frozenset[str], options: ScoreOptions
    ) -> dict[str, Tensor]:
        return {"hidden": states.to(torch.promote_types(states.dtype, torch.float32))}
