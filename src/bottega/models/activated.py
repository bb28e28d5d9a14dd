"""LoRA that begins at its invocation (aLoRA, Greenewald et al. 2025, arXiv 2504.12397).

A row uses such an adapter from the last occurrence of its invocation on, the token ids of a text such as the one that
opens an answer; what stands before that is computed by the base alone. So prompts are the same for all adapters of a
base, and need no gradient.

How a token is computed is part of its id (`RowAdapters.mark`): the embedding takes that off again and tells the layers.
Rows then share what they begin with exactly where it is computed alike, whatever adapters they have.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from bottega.adapters import AdaptedModel
from bottega.batch import Batch, Ints, Row
from bottega.errors import ModelError
from bottega.models.one_of_several import OneOfSeveral
from bottega.models.row_adapters import RowAdapters, find_invocation
from bottega.models.scorer import Scorer
from bottega.packing import repack


def find_start(row: Row, invocation: Sequence[int]) -> int | None:
    """The token from which on a row uses the adapter; None if it does not.

    The invocation is looked for before the last answer, the last stretch of predictions, as where one is generated:
    what stands in the answer changes nothing. A row that is predicted from its first token on is searched whole.
    """
    gaps = np.flatnonzero(np.diff(row.at) > 1)
    first = int(row.at[gaps[-1] + 1] if len(gaps) else row.at[0])
    return find_invocation(row.tokens[: first + 1] if first else row.tokens, invocation)


def check_can_activate(scorer: Scorer) -> None:
    """A ModelError unless such an adapter can be computed on a model."""
    if not scorer.head.autoregressive or scorer.network.config.is_encoder_decoder or not scorer.fit.packed:
        what = "an adapter that begins at its invocation is for decoders that compute packed rows"
        raise ModelError(what, where="adapter.invocation", fix="leave it out")


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
    """An adapter that begins at its invocation, on a network that others may share.

    reference  the name of the adapter that is used where this one is disabled; None for the base alone
    """

    needs_packing = True
    reference: str | None = None

    def __init__(self, rows: RowAdapters, name: str, installed: AdaptedModel) -> None:
        super().__init__(rows, name, installed)
        self._in_use: str | None = name
        self._invocation = tuple(json.loads(self.config)["alora_invocation_tokens"])
        embedding = self.network.get_input_embeddings()
        if not isinstance(embedding, ActivatedEmbedding):
            embedding = ActivatedEmbedding(embedding, rows)
            self.network.set_input_embeddings(embedding)
        self.embedding = embedding

    def keep_reference(self, folder: Path) -> None:
        """Let a frozen copy of the adapter saved in a folder be used where this one is disabled."""
        self.reference = f"{self.name}: reference"
        self.rows.add(self.reference, folder)

    @property
    def invocation(self) -> tuple[int, ...]:
        return self._invocation

    @contextmanager
    def disabled(self) -> Iterator[None]:
        self._in_use, self.embedding.is_on = self.reference, self.reference is not None
        try:
            yield
        finally:
            self._in_use, self.embedding.is_on = self.name, True

    def mark_batch(self, batch: Batch) -> Batch:
        # Several adapters' rows are marked before they are packed together.
        if not self.embedding.is_on or int(batch.tokens.max()) >= self.rows.vocabulary_size:
            return batch
        return repack(batch, lambda row: self._mark(row.tokens, find_start(row, self._invocation)))

    def count_marked(self, batch: Batch) -> int:
        return int((self.mark_batch(batch).tokens >= self.rows.vocabulary_size).sum())

    def mark_prompt(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        if not self.embedding.is_on:
            return ids
        return tuple(self._mark(np.array(ids), find_invocation(ids, self._invocation)).tolist())

    def _mark(self, ids: Ints, start: int | None) -> Ints:
        return ids if start is None else self.rows.mark(self._in_use, ids, start)
