"""A trained classifier, tagger or reward model to ask: `bottega.load_classifier(run)`, `bottega.load_tagger(run)`.

model = bottega.load_classifier("runs/intents-1")
print(model.classify(["Where is my parcel?"])[0].label)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bottega.batch import Row
from bottega.errors import DataError, ModelError, RunError
from bottega.inference.language_model import absolute
from bottega.models import heads
from bottega.models.config import is_encoder
from bottega.models.scorer import score_batches
from bottega.models.scorer_setup import load_scorer
from bottega.models.source import locate
from bottega.models.tokenizer import load_tokenizer
from bottega.objectives import HeadKind, decode_tags
from bottega.progress import ProgressCallback
from bottega.records import MAX_SHOWN, Entity, Unusable
from bottega.records.fields import SURROGATES
from bottega.runs.resolve import resolve
from bottega.tokenization.codec import Codec

# Where words start and stop.
Words = list[tuple[int, int]]


class TaggedText(NamedTuple):
    """What a tagger reads as words, and the entities in them."""

    words: Words
    spans: list[Entity]


@dataclass(frozen=True)
class Classified:
    """The likeliest label of a text, and the probability of each.

    labels  all that the text has: the likeliest, or with `multi_label` those likelier than not
    cut     the text is longer than the model reads, and only its beginning was read
    """

    label: str
    probabilities: Mapping[str, float]
    labels: tuple[str, ...]
    cut: bool = False


class ScoringRun:
    """A run whose model scores classes, with its tokenizer and labels."""

    head: ClassVar[HeadKind]

    def __init__(self, name: str, *, dtype: str = "auto", device: str = "auto") -> None:
        self.name = absolute(name)
        resolved = resolve(self.name)
        if resolved.recipe is None:
            raise ModelError("no run of bottega", where=name, fix="name the folder of a run; list them: bottega runs")
        self.recipe, place = resolved.recipe, resolved.place
        self.objective = self.recipe.objective
        if self.objective.head != self.head:
            what = f"trained with {self.objective.kind}, it is not for {heads.load(self.head).command}"
            raise RunError(what, where=self.name, fix=heads.load(self.objective.head).command)
        if place is None:
            raise RunError("the run has not begun", where=self.name, fix=f"bottega train --resume {name}")
        tokenizer = load_tokenizer(locate(self.name).tokenizer)
        self.labels: list[str] = place["choices"]["labels"]
        self.scorer = load_scorer(self.name, dtype, device, self.head, self.labels, tokenizer)
        self.codec = Codec(
            tokenizer,
            max_length=place["choices"]["max_length"],
            too_long="truncate",
            both_ways=is_encoder(self.scorer.network.config),
            labels=self.labels,
        )

    @torch.no_grad()
    def scores(self, rows: Sequence[Row], far: ProgressCallback | None = None) -> NDArray[np.float64]:
        """[N, C] scores of the rows' predictions, in their order; of a reward model or a regression [N, 1]."""
        ends = np.cumsum([len(row.at) for row in rows])
        found = np.empty((int(ends[-1]) if len(rows) else 0, len(self.labels)))
        for numbers, batch in score_batches(rows, self.scorer, far):
            places = [np.arange(ends[number] - len(rows[number].at), ends[number]) for number in numbers]
            found[np.concatenate(places)] = self.scorer(batch, frozenset({"logits"}))["logits"].cpu()
        return found


class Classifier(ScoringRun):
    """A run that ended in scores of texts: of classes, or one."""

    head: ClassVar[HeadKind] = "sequence"

    def classify(self, texts: Sequence[str]) -> list[Classified]:
        """The labels of each text; a RunError of a reward model or a regression, which have none to give."""
        if self.objective.prediction not in ("class", "classes"):
            fix = "compare answers with scores, or: bottega evaluate"
            raise RunError(f"a model trained with {self.objective.kind} names no classes", where=self.name, fix=fix)
        rows, cut = list[Row](), list[bool]()
        for text in texts:
            with self.codec.track_truncation() as truncation:
                rows.append(self._row(text))
            cut.append(truncation.count > 0)
        shares = self.chances(self.scores(rows))
        found = [dict(zip(self.labels, row.tolist(), strict=True)) for row in shares]
        return [self._classified(row, long) for row, long in zip(found, cut, strict=True)]

    def chances(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """[R, C] the probability of each label: of one among all, or with `multi_label` of each by itself."""
        if self.objective.prediction == "classes":
            return np.asarray(1 / (1 + np.exp(-scores)))
        shares = np.exp(scores - scores.max(1, keepdims=True))
        return np.asarray(shares / shares.sum(1, keepdims=True))

    def values(self, texts: Sequence[str]) -> list[float]:
        """What a regression or a reward model says of each text."""
        return [float(value) for value in self.scores([self._row(text) for text in texts])[:, 0]]

    def _classified(self, chances: dict[str, float], cut: bool) -> Classified:
        likeliest = max(chances, key=lambda label: chances[label])
        several = tuple(label for label, chance in chances.items() if chance > 0.5)
        return Classified(likeliest, chances, several if self.objective.prediction == "classes" else (likeliest,), cut)

    def _row(self, text: str) -> Row:
        refuse_halves(text)
        try:
            return self.codec.encode_pooled("the text", text, 0)
        except Unusable as unusable:
            raise DataError(unusable.reason, where=f"the text {text[:MAX_SHOWN]!r}", fix="write some words") from None


class Tagger(ScoringRun):
    """A run that ended in tags of words."""

    head: ClassVar[HeadKind] = "token"

    def tag(self, texts: Sequence[str]) -> list[list[Entity]]:
        """The entities in each text, in characters; of a text of any length."""
        return [one.spans for one in self.read(texts)]

    def read(self, texts: Sequence[str]) -> list[TaggedText]:
        """The words of each text, and the entities in it; nothing but white space has none of either."""
        made = [self._rows(text) for text in texts]
        best = self.scores([row for rows, _ in made for row in rows]).argmax(1)
        parts = np.split(best, np.cumsum([len(words) for _, words in made]))
        return [TaggedText(words, self._spans(ids, words)) for ids, (_, words) in zip(parts, made, strict=False)]

    def _rows(self, text: str) -> tuple[list[Row], Words]:
        refuse_halves(text)
        if not text.strip():
            return [], []
        try:
            return self.codec.encode_word_windows(text)
        except Unusable as unusable:
            raise DataError(unusable.reason, where=f"the text {text[:MAX_SHOWN]!r}", fix="write some words") from None

    def _spans(self, ids: NDArray[np.int64], words: Words) -> list[Entity]:
        scheme = self.objective.tag_scheme
        kinds = [name.partition("-")[2] for name in self.labels[1 :: len(scheme) - 1]]
        found = decode_tags(ids.tolist(), scheme)
        return [Entity(words[one.first][0], words[one.stop - 1][1], kinds[one.label]) for one in found]


def refuse_halves(text: str) -> None:
    """A DataError of a text that no tokenizer takes, as of a row of data."""
    if SURROGATES.search(text):
        raise DataError("contains half a character", where=f"the text {text[:MAX_SHOWN]!r}", fix="write it as Unicode")


def load_classifier(name: str | Path, *, dtype: str = "auto", device: str = "auto") -> Classifier:
    """The classifier, regression or reward model of a run; an adapter is put on its base."""
    return Classifier(str(name), dtype=dtype, device=device)


def load_tagger(name: str | Path, *, dtype: str = "auto", device: str = "auto") -> Tagger:
    """The tagger of a run; an adapter is put on its base."""
    return Tagger(str(name), dtype=dtype, device=device)
