"""The token embeddings of a model: neighbours, analogies, projections, and what tuning moved.

All comparisons are made between the vectors themselves; a projection to two or three dimensions only shows some.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bottega.errors import DataError
from bottega.explaining.trace import Floats
from bottega.explaining.vocabulary import ShownToken, Vocabulary
from bottega.inference.loader import find_head
from bottega.inference.open_model import find_model
from bottega.models.checkpoint import load_adapted

# Tokens that are projected: those with the lowest ids, which most vocabularies have by frequency.
PROJECTED = 2000


class TokenVectors:
    """The input embeddings of a run, a folder or a hub id.

    matrix  [V, H] in float32, a row for each token
    """

    def __init__(self, name: str | Path) -> None:
        resolved = find_model(str(name))
        self.vocabulary = Vocabulary(resolved.name)
        labels = (resolved.choices or {}).get("labels", [])
        head = find_head(str(name))
        model, adapted = load_adapted(resolved.name, torch.float32, head, labels, self.vocabulary.tokenizer)
        network: Any = model if adapted is None else adapted.network
        weight = network.get_input_embeddings().weight.detach()[: len(self.vocabulary)]
        self.matrix: Floats = weight.float().cpu().numpy()
        self._unit: Floats = self.matrix / np.maximum(np.linalg.norm(self.matrix, axis=1, keepdims=True), 1e-12)

    def vector(self, word: str) -> tuple[Floats, list[ShownToken]]:
        """(the vector of a word, the tokens it is the mean of): as it is after a space, if it has fewer tokens then."""
        forms = [ids for form in (f" {word}", word) if (ids := self._ids(form))]
        if not forms:
            raise DataError("no token for it", where=word, fix="choose a word that the tokenizer knows")
        ids = min(forms, key=len)
        mean: Floats = self.matrix[ids].mean(axis=0)
        return mean, [self.vocabulary.token(id) for id in ids]

    def neighbours(self, word: str, count: int = 20) -> list[tuple[ShownToken, float]]:
        """The tokens nearest to a word, by cosine; not the word's own."""
        vector, own = self.vector(word)
        return self._nearest(vector, {token.id for token in own}, count)

    def analogy(self, a: str, b: str, c: str, count: int = 10) -> list[tuple[ShownToken, float]]:
        """The tokens nearest to a − b + c (Mikolov et al. 2013); none of the three."""
        found = [self.vector(word) for word in (a, b, c)]
        vector = found[0][0] - found[1][0] + found[2][0]
        return self._nearest(vector, {token.id for _, own in found for token in own}, count)

    def axis(self, low: str, high: str, count: int = 15) -> tuple[list[tuple[ShownToken, float]], list[Any]]:
        """(the projected tokens farthest towards `low` on the axis between two words, those towards `high`)."""
        direction = self.vector(high)[0] - self.vector(low)[0]
        ids = self._projected_ids()
        places = self._unit[ids] @ (direction / max(float(np.linalg.norm(direction)), 1e-12))
        order = np.argsort(places)
        ends = [order[:count], order[::-1][:count]]
        low_end, high_end = ([(self.vocabulary.token(int(ids[i])), float(places[i])) for i in end] for end in ends)
        return low_end, high_end

    def project(self, dimensions: int = 3) -> dict[str, Any]:
        """The principal components of the projected tokens: coordinates, and the part of the variance in each."""
        ids = self._projected_ids()
        centred = self.matrix[ids] - self.matrix[ids].mean(axis=0)
        _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
        variance = sizes**2 / max(float((sizes**2).sum()), 1e-12)
        return {
            "tokens": [self.vocabulary.token(int(id)).document() for id in ids],
            "places": np.round(centred @ axes[:dimensions].T, 5).tolist(),
            "variance": variance[:dimensions].tolist(),
        }

    def drift(self, other: TokenVectors, count: int = 30) -> dict[str, Any]:
        """Which tokens another model has elsewhere: the mean cosine, and the tokens with the lowest.

        A DataError if the two have other vocabularies or widths.
        """
        if self.matrix.shape != other.matrix.shape:
            what = f"embeddings of {self.matrix.shape} and {other.matrix.shape} cannot be compared"
            raise DataError(what, where=other.vocabulary.name, fix="choose the model it was tuned from")
        cosines = (self._unit * other._unit).sum(axis=1)
        order = np.argsort(cosines)[:count]
        moved = [(self.vocabulary.token(int(id)), float(cosines[id])) for id in order]
        return {"mean": float(cosines.mean()), "same": bool((self.matrix == other.matrix).all()), "moved": moved}

    def _ids(self, text: str) -> list[int]:
        return self.vocabulary.encode(text)

    def _nearest(self, vector: Floats, without: set[int], count: int) -> list[tuple[ShownToken, float]]:
        cosines = self._unit @ (vector / max(float(np.linalg.norm(vector)), 1e-12))
        order = np.argsort(-cosines)[: count + len(without)]
        kept = [int(id) for id in order if int(id) not in without][:count]
        return [(self.vocabulary.token(id), float(cosines[id])) for id in kept]

    def _projected_ids(self) -> NDArray[np.int64]:
        special = self.vocabulary.tokenizer.added_tokens_decoder
        ids = (id for id in range(len(self.matrix)) if id not in special)
        return np.array([id for id, _ in zip(ids, range(PROJECTED), strict=False)], np.int64)
