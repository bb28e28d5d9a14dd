"""ROUGE-L of summaries (Lin 2004), of `rouge-score`: the longest common subsequence of words, as F1.

Words are runs of letters, digits and marks of any script, in small letters, and single characters of scripts without
spaces. rouge-score's own are those of a to z; of such words both find the same. None is cut to its stem: the stemmer
there is knows English alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

from bottega.metrics.answers import Metric, is_prose
from bottega.tokenization.unicode_words import split_words, to_nfc


class Rouge(Metric):
    name: ClassVar[str] = "rouge_l"
    needs: ClassVar[str | None] = "rouge_score"

    def fits(self, answers: Sequence[str]) -> bool:
        return is_prose(answers)

    @cached_property
    def _scorer(self) -> Any:
        from rouge_score.rouge_scorer import RougeScorer

        return RougeScorer(["rougeL"], tokenizer=_WordTokenizer())

    def sums(self, written: str, right: Sequence[str]) -> Sequence[float]:
        return max(self._alike(one, written) for one in right), 1.0

    def _alike(self, right: str, written: str) -> float:
        if to_nfc(right).strip() == to_nfc(written).strip():
            return 1.0  # also where there is no word
        return float(self._scorer.score(right, written)["rougeL"].fmeasure)


class _WordTokenizer:
    def tokenize(self, text: str) -> list[str]:
        return split_words(to_nfc(text).lower())
