"""A masked language model that fills in masked tokens: `bottega.load_masked(model)`.

model = bottega.load_masked("runs/italian-1")
print(model.fill("Il gatto dorme sul [MASK]")[0][0].text)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bottega.batch import Example, Ints, Row
from bottega.errors import DataError
from bottega.inference.open_model import find_model, open_model
from bottega.models.scorer import check_token_ids
from bottega.packing import pack
from bottega.records import Text, Unusable

# Stands for the mask token of any tokenizer.
MASK = "[MASK]"


@dataclass(frozen=True)
class Candidate:
    """A token that may stand at a masked position."""

    text: str
    probability: float


class MaskedModel:
    """A masked language model with its tokenizer, from a run, a folder or a hub id."""

    def __init__(self, name: str, *, dtype: str = "auto", device: str = "auto") -> None:
        self.name = find_model(name, "masked").name
        opened = open_model(self.name, "masked", dtype=dtype, device=device)
        self.scorer, self.codec = opened.scorer, opened.codec()

    def fill(self, text: str, top: int = 5) -> list[list[Candidate]]:
        """The `top` likeliest tokens at each `[MASK]` of a text, the likeliest first.

        Each is predicted with all other masked tokens still unknown.
        """
        mask = self.codec.special_tokens.mask
        ids = self._token_ids(text.replace(MASK, self.codec.tokenizer.mask_token))
        at = np.flatnonzero(ids == mask)  # [N]
        if not len(at):
            fix = f"write {MASK} where a word is missing"
            raise DataError("nothing is masked", where=f"the text {text!r}", fix=fix)
        # The labels are unknown, and only logits are asked for: any token ids do.
        probabilities = self.probabilities(Row(ids, at, ids[at], np.ones(len(at), np.float32), both_ways=True))
        best = probabilities.topk(min(top, probabilities.shape[1]))  # values and indices [N, top]
        return [
            [Candidate(self._token_text(int(token)), float(value)) for token, value in zip(*position, strict=True)]
            for position in zip(best.indices, best.values, strict=True)
        ]

    @torch.no_grad()
    def probabilities(self, row: Row) -> torch.Tensor:
        """[N, V] the probability of each token at each position of the row that is read."""
        check_token_ids(self.scorer.network.config, int(row.tokens.max()), self.name)
        batch = pack([Example("", (row,))]).to(str(next(self.scorer.model.parameters()).device))
        logits: torch.Tensor = self.scorer(batch, frozenset({"logits"}))["logits"]  # [N, V]
        return logits.softmax(-1).cpu()

    def _token_ids(self, text: str) -> Ints:
        try:
            # A text of special tokens alone gives no passage, and unpacking it raises ValueError.
            (ids,) = self.codec.encode_passages(Text("the text", text))
        except (Unusable, ValueError):
            fix = f"write a sentence with {MASK} where a word is missing"
            raise DataError("too short to fill in", where=f"the text {text!r}", fix=fix) from None
        return ids

    def _token_text(self, token: int) -> str:
        """The text of a token without the spaces around it, in quotes if it is nothing but white space."""
        text = self.codec.tokenizer.decode([token])
        return str(text).strip() or repr(text)


def load_masked(name: str | Path, *, dtype: str = "auto", device: str = "auto") -> MaskedModel:
    """The masked language model of a run, a folder or a hub id; an adapter is put on its base."""
    return MaskedModel(str(name), dtype=dtype, device=device)
