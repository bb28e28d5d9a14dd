"""Each way to mark a written answer, beside the package it is made of or beside counting by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bottega.errors import RecipeError
from bottega.evaluation.estimates import compared
from bottega.evaluation.scorer import scorer
from bottega.metrics import fitting
from bottega.metrics.bleu import Bleu
from bottega.metrics.chrf import Chrf
from bottega.metrics.fields import Fields
from bottega.metrics.numeric import Numeric, number
from bottega.metrics.rouge import Rouge

RIGHT = [
    "the quick brown fox jumps over the lazy dog today",
    "a stitch in time saves nine, they always say",
    "we show that the method works well in practice for many tasks",
]
SAID = ["the quick fox jumped over a lazy dog", "a stitch in time saves nine always", "works the method, we xyz"]


def test_bleu_and_chrf_are_those_of_sacrebleu() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    for said, right in ((SAID, RIGHT), (SAID[2:], RIGHT[2:]), (["", "x"], RIGHT[:2]), (RIGHT, RIGHT)):
        bleu = Bleu().scores(said, [[one] for one in right])
        assert float(bleu.of(bleu.sums.sum(0))) == pytest.approx(sacrebleu.BLEU().corpus_score(said, [right]).score)
        chrf = Chrf().scores(said, [[one] for one in right])
        assert float(chrf.of(chrf.sums.sum(0))) == pytest.approx(sacrebleu.CHRF().corpus_score(said, [right]).score)
        for text, one, found in zip(said, right, chrf.each, strict=True):
            assert found == pytest.approx(sacrebleu.CHRF().sentence_score(text, [one]).score)


def test_rouge_is_that_of_rouge_score_and_the_best_of_several() -> None:
    rouge = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"], use_stemmer=True)
    scores = Rouge().scores(SAID, [[one] for one in RIGHT])
    assert scores.each == pytest.approx([
        rouge.score(one, said)["rougeL"].fmeasure for one, said in zip(RIGHT, SAID, strict=True)
    ])  # fmt: skip
    assert Rouge().sums(RIGHT[0], [RIGHT[1], RIGHT[0]]) == (1.0, 1.0)


def test_what_is_not_written_is_unknown_and_left_out() -> None:
    one = Rouge().scores([RIGHT[0], None, RIGHT[2]], [[text] for text in RIGHT])
    other = Rouge().scores([None, RIGHT[1], SAID[2]], [[text] for text in RIGHT])
    assert one.known.tolist() == [True, False, True]
    found = compared(one, other)
    assert found is not None
    assert (found.rows, found.run) == (1, 1.0)
    assert compared(one, Rouge().scores([None, RIGHT[1], None], [[text] for text in RIGHT])) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [("so 3 + 4 = 7\n#### 7", "7"), ("about 1,234.50 euros", "1234.50"), ("#### -12", "-12"), ("none", None),
     ("it is 5. Or 6.", "6"), ("7 of them ####", "7")],
)  # fmt: skip
def test_the_number_of_an_answer(text: str, found: str | None) -> None:
    assert number(text) == found


def test_numbers_are_compared_as_numbers() -> None:
    assert Numeric().sums("it makes 1,000.0", ["#### 1000"]) == (1.0, 1.0)
    assert Numeric().sums("I do not know", ["#### 1000"]) == (0.0, 1.0)
    assert Numeric().fits(["2 + 2\n#### 4", "#### 5"])
    assert Numeric().fits(["4", "-5.5"])
    assert not Numeric().fits(["4", "about 5"])


def test_fields_by_hand() -> None:
    right = '{"name": "Ada", "age": 36, "tags": ["a", "b"]}'
    assert Fields().fits([right, "[1, 2]"])
    assert not Fields().fits([right, "3", "no JSON"])
    assert Fields().sums(right, [right]) == (4, 8)
    assert Fields().sums('{"tags": ["b", "c"], "name": "Ada", "age": 37}', [right]) == (2, 8)
    assert Fields().sums("no JSON", [right]) == (0, 4), "nothing was written that could be read"
    assert Fields().sums('{"name": "Eve"}', ['{"name": "Ada"}', '{"name": "Eve"}']) == (2 / 2, 2)
    scores = Fields().scores([right, "no JSON"], [[right], [right]])
    assert float(scores.of(scores.sums.sum(0))) == pytest.approx(2 * 4 / 12)


def test_which_metrics_fit() -> None:
    assert [one.name for one in fitting(["red", "blue"])[0]] == ["exact match"]
    assert {one.name for one in fitting(RIGHT)[0]} == {"exact match", "BLEU", "chrF", "ROUGE-L"}
    assert {one.name for one in fitting(['{"a": 1}'])[0]} == {"exact match", "fields F1"}


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bottega.metrics.installed", lambda metric: metric.needs != "sacrebleu")
    found, absent = fitting(RIGHT)
    assert {one.name for one in found} == {"exact match", "ROUGE-L"}
    assert absent == ["BLEU", "chrF"]


def test_a_scorer_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "polite.py"
    file.write_text("def score(written, right):\n    return 'please' in written\n")
    made = scorer(str(file))
    scores = made.scores(["please go", "go", None], [["x"], ["x", "y"], ["x"]])
    assert made.name == "polite"
    assert np.nanmean(scores.each) == 0.5
    for text, kind, words in (
        ("def mark(a, b): return 1\n", RecipeError, "no function score"),
        ("def score(written, right):\n    return None\n", RecipeError, "which is no number"),
        ("def score(written, right):\n    return 1 / 0\n", RecipeError, "line 2"),
        ("def score(:\n", RecipeError, "line 1"),
    ):
        bad = tmp_path / f"bad{len(text)}.py"
        bad.write_text(text)
        with pytest.raises(kind) as caught:
            scorer(str(bad)).sums("a", ["b"])
        assert words in str(caught.value)
    with pytest.raises(RecipeError, match="no such file"):
        scorer(str(tmp_path / "none.py"))
