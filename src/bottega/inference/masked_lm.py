"""A masked language model to ask what stands at a covered place: `bottega.load_masked(model)`.

model = bottega.load_masked("runs/italian-1")
print(model.fill("Il gatto dorme sul [MASK]")[0][0].text)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bottega.batch import Example, Ints, Row
from bottega.errors import DataError, ModelError
from bottega.inference.language_model import absolute
from bottega.models import heads
from bottega.models.config import position_limit
from bottega.models.scorer import check_token_ids
from bottega.models.scorer_setup import load_scorer
from bottega.models.source import locate
from bottega.models.tokenizer import load_tokenizer
from bottega.packing import pack
from bottega.records import Text, Unusable
from bottega.runs.resolve import resolve
from bottega.tokenization.codec import Codec

# What stands for any tokenizer's mask token.
MASK = "[MASK]"


@dataclass(frozen=True)
class Candidate:
    """A token that may stand at a masked place."""

    text: str
    probability: float


class MaskedModel:
    """A masked language model with its tokenizer: of a run, a folder or a hub id."""

    def __init__(self, name: str, *, dtype: str = "auto", device: str = "auto") -> None:
        self.name = absolute(name)
        recipe = resolve(self.name).recipe
        if recipe is not None and recipe.objective.head != "masked":
            what = f"trained with {recipe.objective.kind}, it fills in nothing"
            raise ModelError(what, where=self.name, fix=heads.load(recipe.objective.head).command)
        tokenizer = load_tokenizer(locate(self.name).tokenizer)
        self.scorer = load_scorer(self.name, dtype, device, "masked", (), tokenizer)
        limit = position_limit(self.scorer.network.config)
        self.codec = Codec(tokenizer, max_length=limit or 1 << 30, too_long="error", both_ways=True)

    def fill(self, text: str, top: int = 5) -> list[list[Candidate]]:
        """The likeliest tokens at each `[MASK]` of a text, the likeliest first; each as if the others were unknown."""
        mask = self.codec.special_tokens.mask
        ids = self._tokens(text.replace(MASK, self.codec.tokenizer.mask_token))
        at = np.flatnonzero(ids == mask)
        if not len(at):
            raise DataError(
                "nothing is masked", where=f"the text {text!r}", fix=f"write {MASK} where a word is missing"
            )
        chances = self.chances(Row(ids, at, ids[at], np.ones(len(at), np.float32), both_ways=True))
        best = chances.topk(min(top, chances.shape[1]))
        return [
            [Candidate(self._shown(int(token)), float(chance)) for token, chance in zip(*place, strict=True)]
            for place in zip(best.indices, best.values, strict=True)
        ]

    def _tokens(self, text: str) -> Ints:
        try:
            (ids,) = self.codec.encode_passages(Text("the text", text))
        except (Unusable, ValueError):
            fix = f"write a sentence with {MASK} where a word is missing"
            raise DataError("too short to fill in", where=f"the text {text!r}", fix=fix) from None
        return ids

    @torch.no_grad()
    def chances(self, row: Row) -> torch.Tensor:
        """[n, V] probability of each token at each place of the row that is read."""
        check_token_ids(self.scorer.network.config, int(row.tokens.max()), self.name)
        batch = pack([Example("", (row,))]).to(str(next(self.scorer.model.parameters()).device))
        scores: torch.Tensor = self.scorer(batch, frozenset({"logits"}))["logits"]
        return scores.softmax(-1).cpu()

    def _shown(self, token: int) -> str:
        return str(self.codec.tokenizer.decode([token])).strip() or repr(self.codec.tokenizer.decode([token]))


def load_masked(name: str | Path, *, dtype: str = "auto", device: str = "auto") -> MaskedModel:
    """The masked language model of a run, a folder or a hub id; an adapter is put on its base."""
    return MaskedModel(str(name), dtype=dtype, device=device)
