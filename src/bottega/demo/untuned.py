"""The demo's baseline: the pre-trained model, prompted for the topic of a letter in four ways, without tuning.

`bottega.evaluate` prompts a base model in the format of the run. A model that has seen no chat format does better with
plain text, so the demo prompts it with that, to be fair to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

import bottega


def generate_labels(model: bottega.LanguageModel, prompts: Sequence[str], labels: Sequence[str]) -> list[str]:
    """The label at the start of each prompt's greedy continuation; empty if it starts with none."""
    # Two more tokens than the longest label: a leading space, and a token that may make it a longer word.
    tokens = max(len(model.codec.encode_prompt(label)) for label in labels) + 2
    generated = model.generate(prompts, bottega.Sampling(tokens=tokens))
    # `leading_label` is -1 for no label: the empty first entry.
    return [["", *labels][bottega.leading_label(answer.text, labels) + 1] for (answer,) in generated]


def most_likely_labels(model: bottega.LanguageModel, prompts: Sequence[str], labels: Sequence[str]) -> list[str]:
    """The most likely label after each prompt and a space; unlike a generated one, it is always a label."""
    rows = [_row(model, prompt, f" {label}") for prompt in prompts for label in labels]
    logp = model.logp(rows).reshape(len(prompts), len(labels))  # [P, C]
    return [labels[index] for index in logp.argmax(1)]


def ask_untuned(
    model: bottega.LanguageModel, tickets: Sequence[str], prompt: str, choices: str, shots: Mapping[str, str]
) -> dict[str, list[str]]:
    """Way of prompting → the label an untuned model gives to each ticket.

    prompt   `Message: {ticket}\\nTopic:`; the label follows it
    choices  a line that names all labels
    shots    an example ticket of each label
    """
    labels = list(shots)
    plain = [prompt.format(ticket=ticket) for ticket in tickets]
    examples = [bottega.Shot(prompt.format(ticket=ticket), f" {label}") for label, ticket in shots.items()]
    few_shot = [_text(bottega.with_shots(text, examples[::-1])) for text in plain]
    return {
        "zero-shot": generate_labels(model, [choices + text for text in plain], labels),
        "few-shot": generate_labels(model, few_shot, labels),
        "likelihood": most_likely_labels(model, plain, labels),
        "few-shot likelihood": most_likely_labels(model, few_shot, labels),
    }


def _text(prompt: bottega.Prompt) -> str:
    assert isinstance(prompt, str)
    return prompt


def _row(model: bottega.LanguageModel, prompt: str, label: str) -> bottega.Row:
    # Encoded in one piece, as the tokenizer may merge what joins them; and without an end token, which an untuned model
    # has never seen after a label.
    ids = np.array(model.codec.encode_prompt(prompt + label), np.int64)
    start = len(model.codec.encode_prompt(prompt))
    at = np.arange(start - 1, len(ids) - 1)
    return bottega.Row(ids, at, ids[at + 1], np.ones(len(at), np.float32))
