"""How similar two texts are, from 0 to 1, by measures of other libraries."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Literal

from bottega.metrics.graders import GradedText, Grader, UngradableError

MEASURES = Literal[
    "fuzzy_match", "bleu", "gleu", "meteor", "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l"
]

# Characters of a text: some measures take time by the product of both lengths.
MAX_TEXT = 50_000


class TextSimilarity(Grader):
    """The similarity of a text with a reference.

    fuzzy_match  1 − normalized edit distance of insertions and deletions (RapidFuzz's ratio)
    bleu         BLEU of one sentence (sacreBLEU; Papineni et al. 2002)
    gleu         Google's BLEU of one sentence (NLTK; Wu et al. 2016, arXiv 1609.08144)
    meteor       METEOR by equal words and stems (NLTK; Banerjee and Lavie 2005); synonyms need a dictionary and are not
                 counted
    rouge_N      the F-measure of common n-grams, or of the longest common subsequence (rouge-score; Lin 2004)
    """

    type: Literal["text_similarity"]
    input: str
    reference: str
    evaluation_metric: MEASURES
    # Of evaluations, where a score becomes a verdict; a grade is the score itself.
    pass_threshold: float | None = None

    def grade(self, text: GradedText) -> float:
        measure = _rouge if self.evaluation_metric.startswith("rouge") else OTHER_MEASURES[self.evaluation_metric]
        one, other = text.render(self.input), text.render(self.reference)
        if max(len(one), len(other)) > MAX_TEXT:
            reason = f"a text has more than {MAX_TEXT} characters"
            raise UngradableError("truncated_observation_error", reason)
        return measure(one, other, self.evaluation_metric)


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        reason = f"{name.partition('.')[0]} is not installed: pip install 'bottega[evaluate]'"
        raise UngradableError("other_error", reason) from None


def _fuzzy(text: str, reference: str, _: str) -> float:
    return float(_imported("rapidfuzz.fuzz").ratio(text, reference)) / 100


def _bleu(text: str, reference: str, _: str) -> float:
    return float(_imported("sacrebleu").sentence_bleu(text, [reference]).score) / 100


def _gleu(text: str, reference: str, _: str) -> float:
    return float(_imported("nltk.translate.gleu_score").sentence_gleu([reference.split()], text.split()))


def _meteor(text: str, reference: str, _: str) -> float:
    meteor = _imported("nltk.translate.meteor_score")
    return float(meteor.single_meteor_score(reference.split(), text.split(), wordnet=_NoSynonyms()))


class _NoSynonyms:
    """In the place of WordNet, which is a download."""

    def synsets(self, word: str) -> list[Any]:
        return []


def _rouge(text: str, reference: str, name: str) -> float:
    kind = name.replace("rouge_", "rouge").replace("rougel", "rougeL")
    scorer = _imported("rouge_score.rouge_scorer").RougeScorer([kind], use_stemmer=False)
    return float(scorer.score(reference, text)[kind].fmeasure)


OTHER_MEASURES: dict[str, Callable[[str, str, str], float]] = {
    "fuzzy_match": _fuzzy,
    "bleu": _bleu,
    "gleu": _gleu,
    "meteor": _meteor,
}
