"""A language model as the judge of generated answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bottega.evaluation.llm_judge import INSTRUCTION, SCORE, judge_answers
from bottega.evaluation.openai_client import Endpoint
from bottega.records import Message


def test_answers_are_scored_from_0_to_1_and_what_is_unknown_stays_unknown(server: Any) -> None:
    prompts = ["which?", (Message("user", "first"), Message("user", "and now?")), "which?", None, "which?"]
    answers = ["red", "blue", "blue", "red", None]
    references = [["red"], ["red"], ["blue"], ["red"], ["red"]]
    scores = judge_answers(Endpoint.parse(f"{server.url}#judge"), prompts, references, answers)
    assert (scores.metric, scores.higher) == ("judge_score", True)
    # Right; wrong; the judge gives no number; no prompt; no answer.
    assert scores.each == pytest.approx(np.array([1.0, 0.3, np.nan, np.nan, np.nan]), nan_ok=True)


def test_the_judge_reads_the_question_the_references_and_the_answer(server: Any) -> None:
    judge_answers(Endpoint.parse(f"{server.url}#judge"), ["which?"], [["red", "scarlet"]], ["crimson"])
    (request,) = server.requests
    assert request["messages"] == [
        {"role": "system", "content": INSTRUCTION},
        {"role": "user", "content": "Question:\nwhich?\n\nRight answer:\nred | scarlet\n\nGiven answer:\ncrimson"},
    ]
    assert request["max_tokens"] == 8


@pytest.mark.parametrize(
    ("reply", "score"), [("10", "10"), ("Score: 7.", "7"), ("0", "0"), ("10/10", "10"), ("11", None), ("none", None)]
)
def test_the_first_number_of_a_reply_is_its_score(reply: str, score: str | None) -> None:
    match = SCORE.search(reply)
    assert (match and match[1]) == score
