"""Of embedders: whether what belongs to a text is nearest to it, beside the vectors of what the run began from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bottega.batch import Row
from bottega.errors import DataError
from bottega.evaluation.context import EvaluationContext, ModelResult
from bottega.evaluation.retrieval import Bm25Retriever
from bottega.inference.embedder import Embedder
from bottega.metrics.scores import Numbers, Scores, average, share
from bottega.objectives.contrastive import belonging, sought
from bottega.records import Compared, Paired

DEFAULT_BASELINES = ("bm25",)
"""What an embedder is compared with where nothing is said, besides what it began from."""

Nearness = NDArray[np.float32]
"""[A, O] how near each of the texts there are to choose from is to each anchor."""


def measure(case: EvaluationContext) -> Iterator[ModelResult]:
    """The run's sheet, that of what it began from, and its rivals'."""
    model = Embedder(str(case.folder), dtype=case.dtype)
    rows = [row for example in case.examples(case.codec(model.codec)) for row in example]
    _refuse_lone_pairs(case, _columns(rows))
    yield ModelResult("the run", _embedded(case, model, rows))
    adapter = case.recipe.adapter
    base = (adapter.start if adapter else None) or case.recipe.model.base
    if base is not None:
        before = Embedder(base, pooling=model.pooling, dtype=case.dtype, any_run=True)
        yield ModelResult(Path(base).name, _embedded(case, before, rows), base=True)
    for rival in case.means.rivals:
        if rival.way == "bm25":
            found = _by_words(case, rows)
            if found:
                yield ModelResult("the words they share, BM25", found)
        elif rival.way in ("run", "zero-shot", "dense") and rival.model is not None:
            other = Embedder(rival.model, dtype=case.dtype, any_run=True)
            theirs = [row for example in case.examples(case.codec(other.codec)) for row in example]
            if len(theirs) == len(rows):
                yield ModelResult(rival.named(), _embedded(case, other, theirs))
            else:
                case.unasked[rival.given] = "it cannot read all of these rows"
        else:
            case.unasked[rival.given] = "it makes no vectors"


def _embedded(case: EvaluationContext, model: Embedder, rows: Sequence[Row]) -> list[Scores]:
    case.tell(f"embedding {len(rows)} texts")
    vectors, columns = model.vectors(rows), _columns(rows)
    anchors, others, _ = sought(columns)
    found = _ranked(vectors[anchors] @ vectors[others].T, columns) if len(anchors) else []
    second = np.flatnonzero(columns["compared"])
    if len(second):
        cosine = (vectors[second - 1] * vectors[second]).sum(1)
        found.append(average("mean error of the cosine", np.abs(cosine - columns["score"][second]), higher=False))
    return found


def _by_words(case: EvaluationContext, rows: Sequence[Row]) -> list[Scores]:
    """The texts ranked by BM25 instead of vectors."""
    columns = _columns(rows)
    texts = [text for record in case.records if isinstance(record, (Paired, Compared)) for text in record.texts]
    anchors, others, _ = sought(columns)
    if not len(anchors) or len(texts) != len(rows):
        return []
    numbers, nearness = Bm25Retriever([texts[place] for place in others]).nearest(
        [texts[place] for place in anchors], len(others)
    )
    found = np.zeros_like(nearness)
    np.put_along_axis(found, numbers, nearness, 1)
    return _ranked(found, columns)


def _columns(rows: Sequence[Row]) -> dict[str, NDArray[Any]]:
    return {name: np.concatenate([row.columns[name] for row in rows]) for name in rows[0].columns}


def _refuse_lone_pairs(case: EvaluationContext, columns: dict[str, NDArray[Any]]) -> None:
    way = sought(columns)
    if len(way[0]) and belonging(columns, *way).all():
        raise DataError(
            "every text belongs to every other, so there is nothing to tell apart",
            where=", ".join(record.where for record in case.records[:3]),
            fix="measure on more rows: bottega evaluate RUN --data FILE",
        )


def _ranked(nearness: Nearness, columns: dict[str, NDArray[Any]]) -> list[Scores]:
    place = _ranks(nearness, columns)
    right = np.where(np.isnan(place), np.nan, place == 1)
    return [share("nearest is right", right), average("reciprocal rank", 1 / place)]


def _ranks(nearness: Nearness, columns: dict[str, NDArray[Any]]) -> Numbers:
    """[A] the place of each anchor's positive among all texts it might belong to, 1 for the nearest; NaN where it is
    the only one."""
    anchors, others, own = sought(columns)
    known = belonging(columns, anchors, others, own)
    right = nearness[np.arange(len(anchors)), own]
    before, beside = ((test(nearness, right[:, None]) & ~known).sum(1) for test in (np.greater, np.equal))
    # Of equals, half stand before it.
    return np.where(known.all(1), np.nan, 1.0 + before + beside / 2)
