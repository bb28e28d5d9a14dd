"""A language model as the judge of generated answers, on any server with chat completions.

Each answer is scored by itself against the reference answer, so that no order of two answers can bias the judge (Zheng
et al. 2023, arXiv 2306.05685, single-answer grading with a reference). A reply without a score is unknown, not zero.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from bottega.evaluation.openai_client import Endpoint
from bottega.evaluation.prompting import query_text
from bottega.metrics.scores import Scores, row_mean
from bottega.records import Prompt

MAX_SCORE = 10

# Ten comes first: of alternatives the first that matches is taken.
SCORE = re.compile(r"\b(10|[0-9])\b")

# Scores depend on this text, so that those of two versions cannot be compared.
INSTRUCTION = (
    "You mark answers. You are shown a question, a right answer and a given answer. Say how good the given answer is, "
    "from 0 (wrong or useless) to 10 (as good as the right one); another wording is no fault. Reply with the number "
    "alone."
)


def judge_answers(
    judge: Endpoint,
    prompts: Sequence[Prompt | None],
    references: Sequence[Sequence[str]],
    answers: Sequence[str | None],
) -> Scores:
    """The mean score, from 0 to 1, of the generated answers; all arguments are per row, [R]."""
    indices = [index for index, answer in enumerate(answers) if answer is not None and prompts[index] is not None]
    texts = [_judge_prompt(prompts[index] or "", references[index], answers[index] or "") for index in indices]
    # NaN is unknown: a judge that does not answer must not lower the score.
    scores = np.full(len(answers), np.nan)
    for index, reply in zip(indices, judge.ask(texts, tokens=8, system=INSTRUCTION), strict=True):
        match = SCORE.search(reply.text) if reply is not None else None
        if match:
            scores[index] = int(match[1]) / MAX_SCORE
    return row_mean("judge_score", scores)


def _judge_prompt(prompt: Prompt, references: Sequence[str], answer: str) -> str:
    return f"Question:\n{query_text(prompt)}\n\nRight answer:\n{' | '.join(references)}\n\nGiven answer:\n{answer}"
