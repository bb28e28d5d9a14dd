"""A trained classifier or reward model to ask: `bottega.load_classifier(run)`.

model = bottega.load_classifier("runs/intents-1")
print(model.classify(["Where is my parcel?"])[0].label)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bottega.batch import Row
from bottega.data.codec import Codec
from bottega.errors import DataError, ModelError, RunError
from bottega.language import absolute
from bottega.models.adapters import load_scorer
from bottega.models.load import is_encoder, load_tokenizer, locate
from bottega.models.scorer import batched
from bottega.records import Unusable
from bottega.runs import stored_place, stored_recipe


@dataclass(frozen=True)
class Classified:
    """The likeliest label of a text, and the probability of each."""

    label: str
    probabilities: Mapping[str, float]


class Classifier:
    """A run that ended in class scores, or in one score, with its tokenizer and labels."""

    def __init__(self, name: str, *, dtype: str = "auto", device: str = "auto") -> None:
        self.name = absolute(name)
        folder = Path(self.name)
        if not (folder / "resolved.json").exists():
            raise ModelError("no run of bottega", where=name, fix="name the folder of a run; list them: bottega runs")
        self.recipe, place = stored_recipe(folder), stored_place(folder)
        if self.recipe.objective.head != "class":
            what = f"trained with {self.recipe.objective.kind}, it gives no scores to texts"
            raise RunError(what, where=self.name, fix="talk to it: bottega chat")
        if place is None:
            raise RunError("the run has not begun", where=self.name, fix=f"bottega train --resume {name}")
        tokenizer = load_tokenizer(locate(self.name).tokenizer)
        self.labels: list[str] = place["choices"]["labels"]
        self.scorer = load_scorer(self.name, dtype, device, "class", self.labels, tokenizer)
        self.codec = Codec(
            tokenizer,
            max_length=place["choices"]["max_length"],
            too_long="truncate",
            both_ways=is_encoder(self.scorer.network.config),
            labels=self.labels,
        )

    def classify(self, texts: Sequence[str]) -> list[Classified]:
        """The label of each text; a RunError of a reward model, which has none to give."""
        if len(self.labels) < 2:
            fix = "compare answers with scores, or: bottega evaluate"
            raise RunError("a reward model names no classes", where=self.name, fix=fix)
        scores = self.scores([self._row(text) for text in texts])
        shares = np.exp(scores - scores.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        found = [dict(zip(self.labels, row.tolist(), strict=True)) for row in shares]
        return [Classified(max(row, key=lambda label: row[label]), row) for row in found]

    def _row(self, text: str) -> Row:
        try:
            return self.codec.pooled("the text", text, 0)
        except Unusable as unusable:
            raise DataError(unusable.reason, where=f"the text {text!r}", fix="write some words") from None

    @torch.no_grad()
    def scores(self, rows: Sequence[Row]) -> NDArray[np.float64]:
        """[R, C] class scores before the softmax; of a reward model [R, 1]."""
        found = np.empty((len(rows), len(self.labels)))
        for numbers, batch in batched(rows, self.scorer):
            found[numbers] = self.scorer(batch, frozenset({"logits"}))["logits"].cpu()
        return found


def load_classifier(name: str | Path, *, dtype: str = "auto", device: str = "auto") -> Classifier:
    """The classifier or reward model of a run; an adapter is put on its base."""
    return Classifier(str(name), dtype=dtype, device=device)
