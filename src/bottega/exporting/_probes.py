"""What an export is compared on: rows of the run, a longer row where length matters, and texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jinja2 import TemplateError

from bottega.batch import Ints, Row
from bottega.errors import DataError
from bottega.exporting._source import TrainedModel
from bottega.models.config import decoder_start_token, position_limit
from bottega.models.dimensions import attention_window
from bottega.training.dataset import build_dataset

# A few rows show a wrong export, and so do their beginnings; more only takes longer.
PROBE_ROWS, PROBE_TOKENS = 8, 128
# What depends on the length of a text is compared on a longer row too, if it is not longer than this.
LONGEST_PROBE = 4096 + 16
PROBE_TEXT = "A model that ships must be the model that was trained."

# What tokenizers that were written down again usually split otherwise.
HARD_TEXTS = (
    "It's 1234567 o'clock, isn't it?  Two  spaces\n\n\tand a tab.",
    "Ça coûte 3,50 € à Zürich — naïve café, 東京 и Москва.",
)


class Probe(NamedTuple):
    """Tokens to compare on.

    source  [S] what the encoder of an encoder–decoder reads
    prompt  how many of the tokens are the prompt of what is generated
    """

    tokens: Ints
    source: Ints | None
    prompt: int


def make_probes(model: TrainedModel) -> list[Probe]:
    """The first rows held out by the run, else of its training rows, else a sentence; cut to `PROBE_TOKENS`."""
    limit = min(position_limit(model.config) or PROBE_TOKENS, PROBE_TOKENS)
    rows = list(_rows(model)) or [_sentence(model.tokenizer, decoder_start_token(model.config))]
    probes = [_probe(row, limit) for row in rows]
    longer = _revealing_length(model.config)
    if longer is not None and model.generates:
        tokens = np.resize(np.concatenate([probe.tokens for probe in probes]), longer)
        probes.append(Probe(tokens, None, len(tokens)))
    return probes


def make_texts(tokenizer: Any, probes: Sequence[Probe]) -> list[str]:
    """Texts that every tokenizer of the model must split alike: the prompts, and a conversation in its template."""
    read = [probe.tokens[: probe.prompt] if probe.source is None else probe.source for probe in probes]
    prompts = [tokenizer.decode(tokens) for tokens in read]
    return [*dict.fromkeys(prompts), *HARD_TEXTS, *_conversation(tokenizer)]


def _rows(model: TrainedModel) -> Iterator[Row]:
    if model.resolved.recipe is None or model.resolved.place is None:
        return
    try:
        dataset = build_dataset(model.resolved.recipe, model.resolved.place["choices"])
    # Its data may be gone: the model is still there to be exported.
    except DataError:
        return
    examples = dataset.validation.examples if len(dataset.validation.examples) else dataset.train.examples
    rows = [row for index in range(min(PROBE_ROWS, len(examples))) for row in examples[index].rows]
    yield from rows[:PROBE_ROWS]


def _conversation(tokenizer: Any) -> list[str]:
    if tokenizer.chat_template is None:
        return []
    turns = [
        {"role": "user", "content": "Where is my parcel?"},
        {"role": "assistant", "content": "On its way."},
        {"role": "user", "content": "Thank you!"},
    ]
    try:
        return [tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)]
    # A template may refuse any conversation but its own kind.
    except TemplateError:
        return []


def _probe(row: Row, limit: int) -> Probe:
    tokens = row.tokens[:limit]
    source = None if row.source is None else row.source[:limit]
    # What is predicted with weight is the answer; a row without any is all prompt.
    answer = row.at[row.weight > 0]
    return Probe(tokens, source, min(int(answer[0]) + 1 if len(answer) else len(tokens), len(tokens)))


def _sentence(tokenizer: Any, decoder_start: int | None) -> Row:
    """A row that is all prompt; of an encoder–decoder, one that repeats what the encoder reads."""
    tokens = np.array(tokenizer(PROBE_TEXT).input_ids, np.int64)
    source = None if decoder_start is None else tokens
    tokens = tokens if decoder_start is None else np.append([decoder_start], tokens)
    at = np.arange(len(tokens))
    return Row(tokens, at, np.zeros_like(at), np.zeros(len(at), np.float32), source=source)


def _revealing_length(config: Any) -> int | None:
    """A length at which what depends on the length of a text shows: a window of attention, or scaled rotations."""
    window, limit = attention_window(config), position_limit(config)
    if window is not None and (limit is None or window + 16 <= limit):
        return window + 16 if window + 16 <= LONGEST_PROBE else None
    rope = getattr(config.get_text_config(), "rope_parameters", None) or {}
    if rope.get("rope_type") not in ("longrope", "dynamic"):
        return None
    declared = rope.get("original_max_position_embeddings") if rope["rope_type"] == "longrope" else None
    original = declared or config.get_text_config().max_position_embeddings
    return original + 16 if original + 16 <= LONGEST_PROBE else None
