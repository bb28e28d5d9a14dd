"""Classifiers, regressions, reward models and taggers: `bottega.load_classifier(run)`, `bottega.load_tagger(run)`.

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
from bottega.errors import ModelError, RunError
from bottega.inference.open_model import find_model, open_model, text_errors
from bottega.models.scorer import score_batches
from bottega.objectives import HeadKind, decode_tags
from bottega.progress import ProgressCallback
from bottega.records import Entity
from bottega.tokenization.word_encoder import WordOffsets


class TaggedText(NamedTuple):
    """The words that a tagger splits a text into, and the entities it finds."""

    words: WordOffsets
    spans: list[Entity]


@dataclass(frozen=True)
class Classified:
    """The likeliest label of a text, and the probability of each.

    labels  all labels of the text: the likeliest one, or with `multi_label` those more probable than one half
    cut     the text is longer than the model's maximum, and only its beginning was read
    """

    label: str
    probabilities: Mapping[str, float]
    labels: tuple[str, ...]
    cut: bool = False


class ScoringRun:
    """A run whose model scores classes, with its tokenizer and labels."""

    head: ClassVar[HeadKind]

    def __init__(self, name: str, *, dtype: str = "auto", device: str = "auto") -> None:
        source = find_model(name, self.head)
        # Only a run knows what the scores mean: classes, any number of labels, a number.
        if source.recipe is None:
            raise ModelError("not a run", where=name, fix="name the folder of a run; list them: bottega runs")
        choices = source.choices
        if choices is None:
            raise RunError("the run has not started", where=source.name, fix=f"bottega train --resume {name}")
        self.name, self.recipe, self.objective = source.name, source.recipe, source.recipe.objective
        self.labels: list[str] = choices["labels"]
        opened = open_model(self.name, self.head, dtype=dtype, device=device, labels=self.labels)
        self.scorer = opened.scorer
        self.codec = opened.codec(choices["max_length"], too_long="truncate", labels=self.labels)

    @torch.no_grad()
    def scores(self, rows: Sequence[Row], progress: ProgressCallback | None = None) -> NDArray[np.float64]:
        """[N, C] the scores of the rows' predictions, in order; [N, 1] for a reward model or a regression."""
        ends = np.cumsum([len(row.at) for row in rows])
        scores = np.empty((int(ends[-1]) if len(rows) else 0, len(self.labels)))
        for indices, batch in score_batches(rows, self.scorer, progress):
            # A row has one prediction, or one for each word: its scores stand where its predictions are in the order.
            positions = [np.arange(ends[index] - len(rows[index].at), ends[index]) for index in indices]
            scores[np.concatenate(positions)] = self.scorer(batch, frozenset({"logits"}))["logits"].cpu()
        return scores


class Classifier(ScoringRun):
    """A classifier, a regression or a reward model."""

    head: ClassVar[HeadKind] = "sequence"

    def classify(self, texts: Sequence[str]) -> list[Classified]:
        """The labels of each text; raises a RunError for a regression or a reward model, which have none."""
        if self.objective.prediction not in ("class", "classes"):
            fix = "compare answers with scores, or: bottega evaluate"
            raise RunError(f"a model trained with {self.objective.kind} has no classes", where=self.name, fix=fix)
        rows, cut = list[Row](), list[bool]()
        for text in texts:
            with self.codec.track_truncation() as truncation:
                rows.append(self._row(text))
            cut.append(truncation.count > 0)
        probabilities = self.probabilities(self.scores(rows))  # [R, C]
        return [
            self._classified(dict(zip(self.labels, row.tolist(), strict=True)), is_cut)
            for row, is_cut in zip(probabilities, cut, strict=True)
        ]

    def probabilities(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """[R, C] the probability of each label: a softmax, or with `multi_label` a sigmoid of each."""
        if self.objective.prediction == "classes":
            return np.asarray(1 / (1 + np.exp(-scores)))
        exp = np.exp(scores - scores.max(1, keepdims=True))  # the largest subtracted, so that none overflows
        return np.asarray(exp / exp.sum(1, keepdims=True))

    def values(self, texts: Sequence[str]) -> list[float]:
        """The number that a regression predicts for each text, or the score of a reward model."""
        return [float(value) for value in self.scores([self._row(text) for text in texts])[:, 0]]

    def _classified(self, probabilities: dict[str, float], cut: bool) -> Classified:
        likeliest = max(probabilities, key=lambda label: probabilities[label])
        labels: tuple[str, ...] = (likeliest,)
        if self.objective.prediction == "classes":
            labels = tuple(label for label, probability in probabilities.items() if probability > 0.5)
        return Classified(likeliest, probabilities, labels, cut)

    def _row(self, text: str) -> Row:
        with text_errors(text):
            return self.codec.encode_pooled("the text", text, 0)  # a label that is not read


class Tagger(ScoringRun):
    """A tagger of words, which finds the entities of a text."""

    head: ClassVar[HeadKind] = "token"

    def tag(self, texts: Sequence[str]) -> list[list[Entity]]:
        """The entities in each text, in characters; texts may have any length."""
        return [tagged.spans for tagged in self.read(texts)]

    def read(self, texts: Sequence[str]) -> list[TaggedText]:
        """The words and the entities of each text; a text of white space has neither."""
        encoded = [self._rows(text) for text in texts]
        # Predictions come in the order of the words, across the overlapping rows of a long text.
        best = self.scores([row for rows, _ in encoded for row in rows]).argmax(1)  # [N]
        # np.split adds an empty part behind the last text.
        parts = np.split(best, np.cumsum([len(words) for _, words in encoded]))
        return [TaggedText(words, self._spans(tags, words)) for tags, (_, words) in zip(parts, encoded, strict=False)]

    def _rows(self, text: str) -> tuple[list[Row], WordOffsets]:
        with text_errors(text):
            return self.codec.encode_word_windows(text) if text.strip() else ([], [])

    def _spans(self, tags: NDArray[np.int64], words: WordOffsets) -> list[Entity]:
        """Tag ids of words [W] → the entities, in characters."""
        scheme = self.objective.tag_scheme
        # Labels are O, then a tag for each letter of the scheme and each type: B-animal, I-animal, B-colour, …
        types = [name.partition("-")[2] for name in self.labels[1 :: len(scheme) - 1]]
        spans = decode_tags(tags.tolist(), scheme)
        return [Entity(words[span.first][0], words[span.stop - 1][1], types[span.label]) for span in spans]


def load_classifier(name: str | Path, *, dtype: str = "auto", device: str = "auto") -> Classifier:
    """The classifier, regression or reward model of a run; an adapter is put on its base."""
    return Classifier(str(name), dtype=dtype, device=device)


def load_tagger(name: str | Path, *, dtype: str = "auto", device: str = "auto") -> Tagger:
    """The tagger of a run; an adapter is put on its base."""
    return Tagger(str(name), dtype=dtype, device=device)
