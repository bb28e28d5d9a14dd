"""Evaluation of masked language models: the loss at masked positions, and how often the right token is predicted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import torch

from bottega.batch import Ints, Row
from bottega.evaluation.context import EvaluationContext, ModelResult
from bottega.inference.masked_lm import MaskedModel
from bottega.metrics.scores import Floats, Scores, weighted_mean
from bottega.progress import progress_callback
from bottega.records import Record, Text, Unusable
from bottega.tokenization.codec import Codec

DEFAULT_BASELINES = ()

# Top-k accuracy: the right token is among this many of the most likely.
TOP_K = 5

# Token frequencies settle long before all passages of a large corpus are read.
MAX_COUNTED_PASSAGES = 10_000


def measure(context: EvaluationContext) -> Iterator[ModelResult]:
    """The results of the run, of the most frequent tokens, and of other models with the same tokenizer."""
    model = MaskedModel(str(context.folder), dtype=context.dtype)
    codec = context.codec(model.codec)
    examples = context.build_examples(codec)
    rows = [row for record in examples.values for (row,) in record]
    scores = _score_model(context, model, rows)
    yield ModelResult("the run", scores, records=examples.records, dropped=examples.dropped)
    context.progress("counting tokens")
    name = f"the most frequent tokens of the {context.baseline_rows}"
    yield ModelResult(name, _score_frequent_tokens(context, codec, rows), base=True)
    for baseline in context.baselines:
        if baseline.method not in ("run", "zero-shot") or baseline.model is None:
            context.note(baseline.spec, "it fills in no masked tokens")
            continue
        other = MaskedModel(baseline.model, dtype=context.dtype)
        if other.codec.tokenizer.get_vocab() != codec.tokenizer.get_vocab():
            context.note(baseline.spec, "it has another vocabulary")
            continue
        yield ModelResult(baseline.describe(), _score_model(context, other, rows))


def _score_model(context: EvaluationContext, model: MaskedModel, rows: Sequence[Row]) -> list[Scores]:
    progress = progress_callback(context.progress, f"filling in {len(rows)} rows")
    nll, top, first = (np.zeros(len(rows)) for _ in range(3))  # [R] each
    for index, row in enumerate(rows):
        probabilities = model.probabilities(row)  # [N, V]
        label = torch.from_numpy(row.label)  # [N]
        nll[index] = -float(probabilities.gather(1, label[:, None]).log().sum())
        hits = probabilities.topk(TOP_K).indices == label[:, None]  # [N, K]
        top[index], first[index] = float(hits.any(1).sum()), float(hits[:, 0].sum())
        progress(index + 1, len(rows))
    return _scores(rows, nll, first, top)


def _score_frequent_tokens(context: EvaluationContext, codec: Codec, rows: Sequence[Row]) -> list[Scores]:
    """The token frequencies of the training rows as the prediction at every position."""
    # Counts start at one, so that a token that was never seen has a finite loss.
    counts = np.ones(len(codec.tokenizer))  # [V]
    passages = (ids for record in context.baseline_records() for ids in _passages(record, codec))
    for ids in islice(passages, MAX_COUNTED_PASSAGES):
        counts += np.bincount(ids[codec.special_tokens.is_text[ids]], minlength=len(counts))
    frequent = np.argsort(-counts, kind="stable")[:TOP_K]
    first, top = (np.array([float(np.isin(row.label, frequent[:k]).sum()) for row in rows]) for k in (1, TOP_K))
    nll = np.array([float(-np.log(counts / counts.sum())[row.label].sum()) for row in rows])
    return _scores(rows, nll, first, top)


def _scores(rows: Sequence[Row], nll: Floats, first: Floats, top: Floats) -> list[Scores]:
    size = np.array([float(len(row.at)) for row in rows])  # [R] masked positions
    return [
        weighted_mean("loss", nll, size),
        weighted_mean("masked_accuracy", first, size, higher=True),
        weighted_mean(f"top_{TOP_K}_accuracy", top, size, higher=True),
    ]


def _passages(record: Record, codec: Codec) -> list[Ints]:
    with contextlib.suppress(Unusable):
        return codec.encode_passages(record) if isinstance(record, Text) else []
    return []
