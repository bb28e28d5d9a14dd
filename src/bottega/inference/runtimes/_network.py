"""A runtime in the place of a transformers model, so that everything that takes a model takes an export."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from bottega.inference.runtimes import Runtime
from bottega.models import heads


class RuntimeNetwork(nn.Module):
    """What a `Scorer` and the classes of `inference` ask of a model; it computes one row at a time, on the CPU.

    config, generation_config  those of the model that was exported
    """

    def __init__(self, runtime: Runtime, config: Any, generation_config: Any) -> None:
        super().__init__()
        self.runtime, self.config, self.generation_config = runtime, config, generation_config
        # A scorer asks a parameter for its device.
        self.weight = nn.Parameter(torch.empty(0), requires_grad=False)

    @property
    def base_model(self) -> RuntimeNetwork:
        return self

    @property
    def device(self) -> torch.device:
        return self.weight.device

    def get_input_embeddings(self) -> nn.Module:
        """Of the right width, without weights."""
        return nn.Embedding(1, self.config.get_text_config().hidden_size, device="meta")

    def forward(self, input_ids: Tensor, decoder_input_ids: Tensor | None = None, **_: Any) -> SimpleNamespace:
        """`logits` and `last_hidden_state` of one row [1, T]: [1, T, C], or [1, C] of a head that reads the whole row.

        With `decoder_input_ids`, `input_ids` are what the encoder reads.
        """
        row, source = (input_ids, None) if decoder_input_ids is None else (decoder_input_ids, input_ids[0].numpy())
        values = torch.from_numpy(self.runtime.logits(row[0].numpy(), source))
        if not heads.load(self.runtime.head).per_row:
            values = values[None]
        return SimpleNamespace(logits=values, last_hidden_state=values)
