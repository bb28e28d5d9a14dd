"""Another model as the judge of written answers, through any server that speaks chat completions.

Each answer is marked by itself beside the right one, so that no order of two can sway the judge (Zheng et al. 2023,
arXiv 2306.05685, single-answer grading with a reference); a mark that cannot be read is unknown, not zero.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from bottega.evaluation.openai_client import Endpoint
from bottega.evaluation.prompting import query_text
from bottega.metrics.scores import Scores, average
from bottega.records import Prompt

MAX_SCORE = 10
SCORE = re.compile(r"\b(10|[0-9])\b")

INSTRUCTION = (
    "You mark answers. You are shown a question, a right answer and a given answer. Say how good the given answer is, "
    "from 0 (wrong or useless) to 10 (as good as the right one); another wording is no fault. Reply with the number "
    "alone."
)


def judge_answers(
    judge: Endpoint, prompts: Sequence[Prompt | None], right: Sequence[Sequence[str]], written: Sequence[str | None]
) -> Scores:
    """The mean mark, from 0 to 1, of the answers that were written."""
    asked = [place for place, one in enumerate(written) if one is not None and prompts[place] is not None]
    texts = [_judge_prompt(prompts[place] or "", right[place], written[place] or "") for place in asked]
    marks = np.full(len(written), np.nan)
    for place, reply in zip(asked, judge.ask(texts, tokens=8, system=INSTRUCTION), strict=True):
        found = SCORE.search(reply.text) if reply is not None else None
        if found:
            marks[place] = int(found[1]) / MAX_SCORE
    return average("judge's mark", marks)


def _judge_prompt(prompt: Prompt, right: Sequence[str], written: str) -> str:
    return f"Question:\n{query_text(prompt)}\n\nRight answer:\n{' | '.join(right)}\n\nGiven answer:\n{written}"
