"""Embeddings of texts, close to each other for texts that belong together: `bottega.load_embedder(run)`.

model = bottega.load_embedder("runs/intents-1")
first, second = model.embed(["Where is my parcel?", "My order has not come"])
print(first @ second)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bottega.batch import Row
from bottega.inference.open_model import find_model, open_model, text_errors
from bottega.models.config import DEFAULT_MAX_LENGTH
from bottega.models.pooling import read_pooling_config
from bottega.models.scorer import score_batches
from bottega.objectives import Pooling, pooled_row
from bottega.progress import ProgressCallback


class Embedder:
    """An embedding model with its tokenizer, from a run, a folder or a hub id.

    pooling  how token states become an embedding; default: as the run was trained, as a folder of sentence-transformers
             declares, or the mean
    any_run  also accept a run that was trained for something else, and use its hidden states
    """

    def __init__(
        self,
        name: str,
        *,
        pooling: Pooling | None = None,
        dtype: str = "auto",
        device: str = "auto",
        any_run: bool = False,
    ) -> None:
        source = find_model(name, None if any_run else "embedding")
        self.name, self.recipe = source.name, source.recipe
        opened = open_model(self.name, "embedding", dtype=dtype, device=device)
        self.scorer = opened.scorer
        declared = self.recipe.objective.pooling_mode if self.recipe else read_pooling_config(self.name)
        self.pooling: Pooling = pooling or declared or "mean"
        length = source.choices["max_length"] if source.choices else opened.limit or DEFAULT_MAX_LENGTH
        self.codec = opened.codec(length, too_long="truncate")

    def embed(self, texts: Sequence[str], progress: ProgressCallback | None = None) -> NDArray[np.float32]:
        """[R, H] the embedding of each text, of length 1: the dot product of two is their cosine similarity."""
        return self.vectors([self._row(text) for text in texts], progress)

    def embed_counted(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], int]:
        """(the embedding of each text, the number of tokens of all)."""
        rows = [self._row(text) for text in texts]
        return self.vectors(rows), sum(len(row.tokens) for row in rows)

    @torch.no_grad()
    def vectors(self, rows: Sequence[Row], progress: ProgressCallback | None = None) -> NDArray[np.float32]:
        """[R, H] the embedding of each token row, of length 1."""
        parts: list[tuple[list[int], torch.Tensor]] = []
        for indices, batch in score_batches(rows, self.scorer, progress):
            hidden = self.scorer(batch, frozenset({"hidden"}))["hidden"]  # [N, H]
            parts.append((indices, torch.nn.functional.normalize(batch.mean_rows(hidden), dim=1).float().cpu()))
        vectors = np.empty((len(rows), self._width(parts)), np.float32)
        for indices, part in parts:
            vectors[indices] = part
        return vectors

    def _width(self, parts: Sequence[tuple[list[int], torch.Tensor]]) -> int:
        # Taken from the result: a model may project its states to another width than that of its input embeddings.
        width = parts[0][1].shape[1] if parts else self.scorer.network.get_input_embeddings().weight.shape[1]
        return int(width)

    def _row(self, text: str) -> Row:
        with text_errors(text):
            return pooled_row(self.codec, "the text", text, self.pooling)


def load_embedder(
    name: str | Path, *, pooling: Pooling | None = None, dtype: str = "auto", device: str = "auto"
) -> Embedder:
    """The embedding model of a run, a folder or a hub id; an adapter is put on its base."""
    return Embedder(str(name), pooling=pooling, dtype=dtype, device=device)
