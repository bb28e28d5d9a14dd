"""Similarities: the values that are published for the measures, and those of the libraries."""

from __future__ import annotations

import pytest

from bottega.metrics.graders import GradedText, UngradableError, parse_grader

TEMPLATES = {"input": "{{sample.output_text}}", "reference": "{{item.text}}"}


def grade(measure: str, text: str, reference: str) -> float:
    grader = parse_grader({"type": "text_similarity", "evaluation_metric": measure, **TEMPLATES})
    return grader.grade(GradedText(text, {"text": reference}))


@pytest.mark.parametrize(
    ("measure", "text", "reference", "expected"),
    [
        # RapidFuzz's own example: "this is a test" and "this is a test!".
        ("fuzzy_match", "this is a test", "this is a test!", 0.9655),
        # rouge-score's own example.
        ("rouge_1", "The quick brown dog jumps on the log.", "The quick brown fox jumps over the lazy dog", 0.7059),
        ("rouge_l", "The quick brown dog jumps on the log.", "The quick brown fox jumps over the lazy dog", 0.5882),
        # Lin 2004, section 3: two of the words in common follow each other in another order.
        ("rouge_l", "police kill the gunman", "police killed the gunman", 0.75),
        ("rouge_l", "the gunman kill police", "police killed the gunman", 0.5),
        ("rouge_2", "police kill the gunman", "police killed the gunman", 1 / 3),
        # NLTK's own example of METEOR, in which the texts differ by no synonym.
        ("meteor", "the cat sat on the mat", "the cat sat on the mat", 0.9977),
        # NLTK's own example of GLEU.
        (
            "gleu",
            "It is a guide to action which ensures that the military always obeys the commands of the party",
            "It is a guide to action that ensures that the military will forever heed Party commands",
            0.4393,
        ),
    ],
)
def test_published_values(measure: str, text: str, reference: str, expected: float) -> None:
    assert grade(measure, text, reference) == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize(
    "measure", ["fuzzy_match", "bleu", "gleu", "meteor", "rouge_1", "rouge_2", "rouge_3", "rouge_l"]
)
def test_equal_texts_and_different_ones(measure: str) -> None:
    text = "the cat sat on the red mat and ran"
    assert grade(measure, text, text) == pytest.approx(1, abs=0.01)
    assert grade(measure, "one two three four five", text) < 0.45
    assert 0 <= grade(measure, "", text) < 0.01


def test_bleu_is_that_of_sacrebleu() -> None:
    import sacrebleu

    text, reference = "the dog bit the man", "the dog had bit the man"
    assert grade("bleu", text, reference) == pytest.approx(sacrebleu.sentence_bleu(text, [reference]).score / 100)


def test_texts_that_take_too_long_are_not_graded() -> None:
    with pytest.raises(UngradableError, match="more than"):
        grade("fuzzy_match", "a" * 60_000, "a")
