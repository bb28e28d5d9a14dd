"""ROUGE-L (Lin 2004), by `rouge-score`: F1 of the longest common subsequence of words.

Words are lower-case runs of letters, digits and marks of any script, and single characters of scripts without spaces.
rouge-score's own tokenizer knows a to z only; for such words both agree. Words are not stemmed: rouge-score's stemmer
supports English alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

from bottega.metrics.answers import Metric, is_prose
from bottega.tokenization.unicode_words import split_words, to_nfc


class Rouge(Metric):
    name: ClassVar[str] = "rouge_l"
    requires: ClassVar[str | None] = "rouge_score"

    def applies_to(self, answers: Sequence[str]) -> bool:
        return is_prose(answers)

    @cached_property
    def _scorer(self) -> Any:
        from rouge_score.rouge_scorer import RougeScorer

        return RougeScorer(["rougeL"], tokenizer=_WordTokenizer())

    def sums(self, answer: str, references: Sequence[str]) -> Sequence[float]:
        return max(self._f1(reference, answer) for reference in references), 1.0

    def _f1(self, reference: str, answer: str) -> float:
        # Equal texts without a word, such as an emoji, would score 0.
        if to_nfc(reference).strip() == to_nfc(answer).strip():
            return 1.0
        return float(self._scorer.score(reference, answer)["rougeL"].fmeasure)


class _WordTokenizer:
    def tokenize(self, text: str) -> list[str]:
        return split_words(to_nfc(text).lower())
