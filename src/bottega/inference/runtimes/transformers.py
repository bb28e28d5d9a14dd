"""transformers, as anybody would call it: what a model folder computes without any of bottega's own code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from bottega.batch import Ints
from bottega.inference.runtimes import Floats, Runtime
from bottega.models import heads
from bottega.models.source import quietly
from bottega.objectives import HeadKind


class TransformersRuntime(Runtime):
    """A folder of safetensors, computed in the dtype it was saved in."""

    title: ClassVar[str] = "transformers"
    package: ClassVar[str] = "transformers"

    def __init__(self, folder: Path, head: HeadKind) -> None:
        from transformers import AutoConfig

        super().__init__(folder, head)
        with quietly(str(folder), "the export"):
            config = AutoConfig.from_pretrained(str(folder))
            auto = heads.load(head).auto_class(config)
            self.network = auto.from_pretrained(str(folder), dtype="auto", use_safetensors=True).eval()

    def begin(self, source: Ints | None = None) -> None:
        self.source, self.tokens = source, list[int]()

    def append(self, tokens: Sequence[int]) -> Floats:
        # Without a cache: nothing but the model is compared.
        self.tokens += tokens
        return compute_logits(self.network, np.array(self.tokens), self.source)[-len(tokens) :]

    @property
    def tied(self) -> bool:
        return is_tied(self.network)


def is_tied(network: Any) -> bool:
    """Whether the head of a transformers model has the weight of its token embeddings."""
    head = network.get_output_embeddings()
    return head is not None and head.weight is network.get_input_embeddings().weight


@torch.no_grad()
def compute_logits(network: Any, tokens: Ints, source: Ints | None = None) -> Floats:
    """[T, C] what a transformers model gives for each token of a row; [1, C] from a head that reads the whole row."""
    inputs = {"input_ids": torch.tensor(tokens, dtype=torch.long)[None]}
    if source is not None:
        inputs = {"input_ids": torch.tensor(source, dtype=torch.long)[None], "decoder_input_ids": inputs["input_ids"]}
    output = network(**inputs)
    values = output.logits if "logits" in output else output.last_hidden_state
    return np.asarray(values[0].reshape(-1, values.shape[-1]).float().numpy())
