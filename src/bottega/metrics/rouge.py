"""ROUGE-L of summaries (Lin 2004), of `rouge-score`: the longest common subsequence of words, as F1."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

from bottega.metrics import Metric, wordy


class Rouge(Metric):
    name: ClassVar[str] = "ROUGE-L"
    needs: ClassVar[str | None] = "rouge_score"

    def fits(self, answers: Sequence[str]) -> bool:
        return wordy(answers)

    @cached_property
    def _scorer(self) -> Any:
        from rouge_score.rouge_scorer import RougeScorer

        return RougeScorer(["rougeL"], use_stemmer=True)

    def sums(self, written: str, right: Sequence[str]) -> Sequence[float]:
        return max(self._scorer.score(one, written)["rougeL"].fmeasure for one in right), 1.0
