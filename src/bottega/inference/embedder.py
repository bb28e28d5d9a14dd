"""An encoder of texts as vectors, near each other where the texts belong together: `bottega.load_embedder(run)`.

model = bottega.load_embedder("runs/intents-1")
one, other = model.embed(["Where is my parcel?", "My order has not come"])
print(one @ other)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bottega.batch import Row
from bottega.errors import DataError, ModelError
from bottega.inference.language_model import absolute
from bottega.models import heads
from bottega.models.config import DEFAULT_MAX_LENGTH, is_encoder, position_limit
from bottega.models.pooling import read_pooling_config
from bottega.models.scorer import score_batches
from bottega.models.scorer_setup import load_scorer
from bottega.models.source import locate
from bottega.models.tokenizer import load_tokenizer
from bottega.objectives import Pooling, pooled_row
from bottega.progress import ProgressCallback
from bottega.records import Unusable
from bottega.runs.resolve import resolve
from bottega.tokenization.codec import Codec


class Embedder:
    """A model whose hidden states make a vector of a text, with its tokenizer: of a run, a folder or a hub id.

    pooling  by default as the run was trained, as a folder of sentence-transformers says, or the mean
    any_run  take the model of a run that was not trained to make vectors, too
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
        self.name = absolute(name)
        resolved = resolve(self.name)
        self.recipe = resolved.recipe
        if self.recipe is not None and self.recipe.objective.head != "embedding" and not any_run:
            what = f"trained with {self.recipe.objective.kind}, it makes no vectors"
            raise ModelError(what, where=self.name, fix=heads.load(self.recipe.objective.head).command)
        tokenizer = load_tokenizer(locate(self.name).tokenizer)
        trained = getattr(self.recipe.objective, "pooling", None) if self.recipe else read_pooling_config(self.name)
        self.pooling: Pooling = pooling or trained or "mean"
        self.scorer = load_scorer(self.name, dtype, device, "embedding", (), tokenizer)
        config = self.scorer.network.config
        place = resolved.place
        length = place["choices"]["max_length"] if place else position_limit(config) or DEFAULT_MAX_LENGTH
        self.codec = Codec(tokenizer, max_length=length, too_long="truncate", both_ways=is_encoder(config))

    def embed(self, texts: Sequence[str], far: ProgressCallback | None = None) -> NDArray[np.float32]:
        """[n, H] the vector of each text, of length 1, so that a product of two is their cosine."""
        return self.vectors([self._row(text) for text in texts], far)

    @torch.no_grad()
    def vectors(self, rows: Sequence[Row], far: ProgressCallback | None = None) -> NDArray[np.float32]:
        """[n, H] the same of rows."""
        width = self.scorer.network.get_input_embeddings().weight.shape[1] if not rows else None
        found: list[tuple[list[int], torch.Tensor]] = []
        for numbers, batch in score_batches(rows, self.scorer, far):
            hidden = self.scorer(batch, frozenset({"hidden"}))["hidden"]
            found.append((numbers, torch.nn.functional.normalize(batch.mean_rows(hidden), dim=1).float().cpu()))
        out = np.empty((len(rows), width or found[0][1].shape[1]), np.float32)
        for numbers, vectors in found:
            out[numbers] = vectors
        return out

    def _row(self, text: str) -> Row:
        try:
            return pooled_row(self.codec, "the text", text, self.pooling)
        except Unusable as unusable:
            raise DataError(unusable.reason, where=f"the text {text!r}", fix="write some words") from None


def load_embedder(
    name: str | Path, *, pooling: Pooling | None = None, dtype: str = "auto", device: str = "auto"
) -> Embedder:
    """The embedder of a run, a folder or a hub id; an adapter is put on its base."""
    return Embedder(str(name), pooling=pooling, dtype=dtype, device=device)
