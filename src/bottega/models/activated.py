"""LoRA that begins at its invocation (aLoRA, Greenewald et al. 2025, arXiv 2504.12397).

A row uses such an adapter from the last occurrence of its invocation on, the token ids of a text such as the one that
opens an answer; what stands before that is computed by the base alone. So prompts are the same for all adapters of a
base, and need no gradient.

How a token is computed is part of its id (`RowAdapters.mark`): the embedding takes that off again and tells the layers.
Rows then share what they begin with exactly where it is computed alike, whatever adapters they have.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import Tensor, nn

from bottega.adapters import AdaptedModel
from bottega.batch import Batch, Ints
from bottega.models.one_of_several import OneOfSeveral
from bottega.models.row_adapters import RowAdapters, find_invocation
from bottega.packing import repack


class ActivatedEmbedding(nn.Module):
    """An embedding that tells layers which adapter each token of what is computed next uses (`RowAdapters.mark`).

    is_on  the adapters are used

    Everything else that is asked of it, such as `weight`, is that of the embedding it stands for.
    """

    def __init__(self, words: nn.Embedding, rows: RowAdapters) -> None:
        super().__init__()
        # Not `base_layer`, by which PEFT knows layers of its own.
        self.words, self.rows, self.is_on = words, rows, True

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("words"), name)

    def forward(self, ids: Tensor) -> Tensor:
        """[…] → […, H]"""
        known = self.rows.use_marked(ids.flatten()).view_as(ids)
        if not self.is_on:
            self.rows.use_everywhere(None)
        embedded: Tensor = self.words(known)
        return embedded


class Activated(OneOfSeveral):
    """An adapter that begins at its invocation, on a network that others may share."""

    needs_packing = True

    def __init__(self, rows: RowAdapters, name: str, installed: AdaptedModel) -> None:
        super().__init__(rows, name, installed)
        self._invocation = tuple(json.loads(self.config)["alora_invocation_tokens"])
        embedding = self.network.get_input_embeddings()
        if not isinstance(embedding, ActivatedEmbedding):
            embedding = ActivatedEmbedding(embedding, rows)
            self.network.set_input_embeddings(embedding)
        self.embedding = embedding

    @property
    def invocation(self) -> tuple[int, ...]:
        return self._invocation

    @contextmanager
    def disabled(self) -> Iterator[None]:
        self.embedding.is_on = False
        try:
            yield
        finally:
            self.embedding.is_on = True

    def mark_batch(self, batch: Batch) -> Batch:
        # Several adapters' rows are marked before they are packed together.
        if not self.embedding.is_on or int(batch.tokens.max()) >= self.rows.vocabulary_size:
            return batch
        return repack(batch, self.mark)

    def count_marked(self, batch: Batch) -> int:
        return int((self.mark_batch(batch).tokens >= self.rows.vocabulary_size).sum())

    def mark_prompt(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(self.mark(np.array(ids)).tolist()) if self.embedding.is_on else ids

    def mark(self, ids: Ints) -> Ints:
        """The ids of a row or a prompt, of which those that use the adapter say so."""
        start = find_invocation(ids, self._invocation)
        return ids if start is None else self.rows.mark(self.name, ids, start)
