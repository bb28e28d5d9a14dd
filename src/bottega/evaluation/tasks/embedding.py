"""Evaluation of embedders: ranking the text that belongs to an anchor, compared with the base model's vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bottega.batch import Row
from bottega.errors import DataError
from bottega.evaluation.baselines import Baseline
from bottega.evaluation.context import EvaluationContext, ModelResult
from bottega.evaluation.retrieval import Bm25Retriever
from bottega.inference.embedder import Embedder
from bottega.metrics.scores import Floats, Scores, proportion, row_mean
from bottega.objectives import positive_mask, split_candidates
from bottega.records import Compared, Paired, Record

# The baselines of an embedder where the user names none, besides its base model.
DEFAULT_BASELINES = ("bm25",)

Columns = dict[str, NDArray[Any]]


def measure(context: EvaluationContext) -> Iterator[ModelResult]:
    """The results of the run, of its base model, and of the further baselines."""
    model = Embedder(str(context.folder), dtype=context.dtype)
    examples = context.build_examples(context.codec(model.codec))
    records, rows = examples.records, _flatten(examples.values)
    _refuse_single_group(records, _columns(rows))
    scores = _score_model(context, model, rows)
    yield ModelResult("the run", scores, records=records, dropped=examples.dropped)
    adapter = context.recipe.adapter
    base = (adapter.start if adapter else None) or context.recipe.model.base
    if base is not None:
        before = Embedder(base, pooling=model.pooling, dtype=context.dtype, any_run=True)
        yield ModelResult(Path(base).name, _score_model(context, before, rows), base=True)
    for baseline in context.baselines:
        yield from _score_baseline(context, baseline, records, rows)


def _flatten(examples: Sequence[Sequence[tuple[Row, ...]]]) -> list[Row]:
    return [row for record in examples for example in record for row in example]


def _score_baseline(
    context: EvaluationContext, baseline: Baseline, records: Sequence[Record], rows: Sequence[Row]
) -> Iterator[ModelResult]:
    if baseline.method == "bm25":
        scores = _score_bm25(records, rows)
        if scores:
            yield ModelResult("the words they share, BM25", scores)
    elif baseline.method in ("run", "zero-shot", "dense") and baseline.model is not None:
        other = Embedder(baseline.model, dtype=context.dtype, any_run=True)
        codec, objective = context.codec(other.codec), context.recipe.objective
        indices, examples = context.build_same(
            baseline.spec, records, lambda record: objective.evaluation_rows(record, codec)
        )
        if len(indices) < len(records):
            # A rank depends on all candidates, so with fewer of them it means something else.
            context.note(baseline.spec, "ranks among fewer texts cannot be compared")
            return
        yield ModelResult(baseline.describe(), _score_model(context, other, _flatten(examples)))
    else:
        context.note(baseline.spec, "it makes no embeddings")


def _score_model(context: EvaluationContext, model: Embedder, rows: Sequence[Row]) -> list[Scores]:
    context.progress(f"embedding {len(rows)} texts")
    vectors, columns = model.vectors(rows), _columns(rows)  # [R, H], normalized
    anchors, candidates, _ = split_candidates(columns)
    scores = _score_ranks(vectors[anchors] @ vectors[candidates].T, columns) if len(anchors) else []
    # Of a scored pair the second row carries the score; the first stands right before it.
    second = np.flatnonzero(columns["compared"])
    if len(second):
        cosine = (vectors[second - 1] * vectors[second]).sum(1)
        scores.append(row_mean("cosine_mae", np.abs(cosine - columns["score"][second]), higher=False))
    return scores


def _score_bm25(records: Sequence[Record], rows: Sequence[Row]) -> list[Scores]:
    """The same ranking by BM25 in place of vectors."""
    columns = _columns(rows)
    texts = [text for record in records if isinstance(record, (Paired, Compared)) for text in record.texts]
    anchors, candidates, _ = split_candidates(columns)
    if not len(anchors) or len(texts) != len(rows):
        return []
    retriever = Bm25Retriever([texts[index] for index in candidates])
    indices, similarity = retriever.nearest([texts[index] for index in anchors], len(candidates))
    scores = np.zeros_like(similarity)  # [A, O]
    np.put_along_axis(scores, indices, similarity, 1)
    return _score_ranks(scores, columns)


def _columns(rows: Sequence[Row]) -> Columns:
    return {name: np.concatenate([row.columns[name] for row in rows]) for name in rows[0].columns}


def _refuse_single_group(records: Sequence[Record], columns: Columns) -> None:
    """A DataError where every text belongs to every other: any ranking would be right."""
    pairs = split_candidates(columns)
    if len(pairs[0]) and positive_mask(columns, *pairs).all():
        raise DataError(
            "every text belongs to every other, so no ranking can be wrong",
            where=", ".join(record.where for record in records[:3]),
            fix="evaluate on more rows: bottega evaluate RUN --data FILE",
        )


def _score_ranks(similarity: NDArray[np.float32], columns: Columns) -> list[Scores]:
    """Accuracy at 1 and mean reciprocal rank; `similarity` [A, O] of each anchor to each candidate."""
    rank = _ranks(similarity, columns)
    right = np.where(np.isnan(rank), np.nan, rank == 1)
    return [proportion("accuracy_at_1", right), row_mean("mrr", 1 / rank)]


def _ranks(similarity: NDArray[np.float32], columns: Columns) -> Floats:
    """[A] rank of each anchor's positive among all candidates, 1 for the nearest; NaN where there is no other."""
    anchors, candidates, positive = split_candidates(columns)
    # Other texts that belong to the anchor are neither right nor wrong: they are left out of its ranking.
    known = positive_mask(columns, anchors, candidates, positive)  # [A, O]
    right = similarity[np.arange(len(anchors)), positive]
    above, equal = ((test(similarity, right[:, None]) & ~known).sum(1) for test in (np.greater, np.equal))
    # Ties count half, so that vectors which are all equal do not rank first.
    return np.where(known.all(1), np.nan, 1.0 + above + equal / 2)
