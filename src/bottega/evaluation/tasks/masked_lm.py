"""Of masked language models: what stands at masked places, beside the commonest tokens of the training rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import torch

from bottega.batch import Ints, Row
from bottega.evaluation.context import EvaluationContext, ModelResult
from bottega.inference.masked_lm import MaskedModel
from bottega.metrics.scores import Numbers, Scores, mean
from bottega.records import Record, Text, Unusable
from bottega.tokenization.codec import Codec

DEFAULT_BASELINES = ()

TOP = 5
"""Among how many tokens, the likeliest first, the right one is looked for."""

PASSAGES = 10_000
"""Passages of the training rows in which tokens are counted."""


def measure(case: EvaluationContext) -> Iterator[ModelResult]:
    """The run's sheet, that of the commonest tokens, and those of other runs with the same tokenizer."""
    model = MaskedModel(str(case.folder), dtype=case.dtype)
    codec = case.codec(model.codec)
    rows = [row for (row,) in case.examples(codec)]
    yield ModelResult("the run", _filled(case, model, rows))
    case.tell("counting tokens")
    yield ModelResult(f"the commonest tokens of the {case.those_known}", _usual(case, codec, rows), base=True)
    for rival in case.means.rivals:
        if rival.way not in ("run", "zero-shot") or rival.model is None:
            case.unasked[rival.given] = "it fills in no masked places"
            continue
        other = MaskedModel(rival.model, dtype=case.dtype)
        if other.codec.tokenizer.get_vocab() != codec.tokenizer.get_vocab():
            case.unasked[rival.given] = "it has other tokens"
            continue
        yield ModelResult(rival.named(), _filled(case, other, rows))


def _filled(case: EvaluationContext, model: MaskedModel, rows: Sequence[Row]) -> list[Scores]:
    case.tell(f"filling in {len(rows)} rows")
    nll, top, first = (np.zeros(len(rows)) for _ in range(3))
    for place, row in enumerate(rows):
        chances = model.chances(row)
        label = torch.from_numpy(row.label)
        nll[place] = -float(chances.gather(1, label[:, None]).log().sum())
        best = chances.topk(TOP).indices == label[:, None]
        top[place], first[place] = float(best.any(1).sum()), float(best[:, 0].sum())
    return _scores(rows, nll, first, top)


def _usual(case: EvaluationContext, codec: Codec, rows: Sequence[Row]) -> list[Scores]:
    counts = np.ones(len(codec.tokenizer))
    seen = (ids for record in case.known() for ids in _passages(record, codec))
    for ids in islice(seen, PASSAGES):
        counts += np.bincount(ids[codec.special_tokens.is_text[ids]], minlength=len(counts))
    usual = np.argsort(-counts, kind="stable")[:TOP]
    first, top = (np.array([float(np.isin(row.label, usual[:most]).sum()) for row in rows]) for most in (1, TOP))
    nll = np.array([float(-np.log(counts / counts.sum())[row.label].sum()) for row in rows])
    return _scores(rows, nll, first, top)


def _scores(rows: Sequence[Row], nll: Numbers, first: Numbers, top: Numbers) -> list[Scores]:
    size = np.array([float(len(row.at)) for row in rows])
    return [
        mean("loss", nll, size),
        mean("right", first, size, higher=True),
        mean(f"right among the first {TOP}", top, size, higher=True),
    ]


def _passages(record: Record, codec: Codec) -> list[Ints]:
    with contextlib.suppress(Unusable):
        return codec.encode_passages(record) if isinstance(record, Text) else []
    return []
