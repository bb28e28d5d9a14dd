"""What a tuned classifier must beat: the same model asked well, without tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bottega.batch import Row
from bottega.evaluation.prompting import leading_label
from bottega.inference.language_model import LanguageModel
from bottega.sampling import Sampling


def ask(model: LanguageModel, prompts: Sequence[str], labels: Sequence[str]) -> list[str]:
    """The label each prompt is continued with, greedily; empty where the continuation begins with none."""
    longest = max(len(model.codec.encode_prompt(label)) for label in labels) + 2
    written = model.generate(prompts, Sampling(tokens=longest))
    return [["", *labels][leading_label(found[0].text, labels) + 1] for found in written]


def likeliest(model: LanguageModel, prompts: Sequence[str], labels: Sequence[str]) -> list[str]:
    """The label each prompt makes likeliest as its continuation, after a space; no other answer is possible."""
    rows = [_continued(model, prompt, f" {label}") for prompt in prompts for label in labels]
    scores = model.logp(rows).reshape(len(prompts), len(labels))
    return [labels[place] for place in scores.argmax(1)]


def answers(
    model: LanguageModel, tickets: Sequence[str], prompt: str, choices: str, shots: Mapping[str, str]
) -> dict[str, list[str]]:
    """The answers of an untuned model, by the way it was asked.

    prompt   `Message: {ticket}\\nTopic:`; the label goes after it
    choices  a line that names all labels
    shots    an example of each label
    """
    labels = list(shots)
    plain = [prompt.format(ticket=ticket) for ticket in tickets]
    shown = "\n\n".join(f"{prompt.format(ticket=ticket)} {label}" for label, ticket in shots.items()) + "\n\n"
    return {
        "zero-shot": ask(model, [choices + text for text in plain], labels),
        "few-shot": ask(model, [shown + text for text in plain], labels),
        "likelihood": likeliest(model, plain, labels),
        "few-shot likelihood": likeliest(model, [shown + text for text in plain], labels),
    }


def _continued(model: LanguageModel, prompt: str, label: str) -> Row:
    ids = np.array(model.codec.encode_prompt(prompt + label), np.int64)
    start = len(model.codec.encode_prompt(prompt))
    at = np.arange(start - 1, len(ids) - 1)
    return Row(ids, at, ids[at + 1], np.ones(len(at), np.float32))
