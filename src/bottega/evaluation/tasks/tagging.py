"""Evaluation of taggers: F1 of the entities in a text, compared with a gazetteer of the training rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bottega.evaluation.baselines import Baseline
from bottega.evaluation.context import EvaluationContext, ModelResult
from bottega.evaluation.gazetteer import Gazetteer
from bottega.inference.classifier import Tagger
from bottega.metrics.scores import Scores, micro_f1
from bottega.objectives import snap_to_words
from bottega.records import Entity, Record, Tagged
from bottega.tokenization.codec import Codec

DEFAULT_BASELINES = ()

# Character offsets at which words start and stop.
Words = list[tuple[int, int]]


def measure(context: EvaluationContext) -> Iterator[ModelResult]:
    """The results of the run, of a gazetteer, and of other runs."""
    model = Tagger(str(context.folder), dtype=context.dtype)
    # Rows without a word are left out.
    examples = context.build(lambda record: _words(record, model.codec))
    records = [record for record in examples.records if isinstance(record, Tagged)]
    _note_lost_entities(context, records, examples.values)

    def score(entities: Sequence[Iterable[Entity]]) -> list[Scores]:
        return _span_f1(records, entities, examples.values)

    context.progress(f"tagging {len(records)} rows")
    found = model.tag([record.text for record in records])
    yield ModelResult("the run", score(found), records=examples.records, dropped=examples.dropped)
    gazetteer = Gazetteer(record for record in context.baseline_records() if isinstance(record, Tagged))
    name = f"a gazetteer of the {context.baseline_rows}"
    yield ModelResult(name, score([list(gazetteer.spans(record.text)) for record in records]), base=True)
    for baseline in context.baselines:
        if baseline.method == "run" and baseline.model is not None:
            yield from _score_other_run(context, baseline, records, examples.values)
        else:
            context.note(baseline.spec, "it marks no entities")


def _score_other_run(
    context: EvaluationContext, baseline: Baseline, records: Sequence[Tagged], words: Sequence[Words]
) -> Iterator[ModelResult]:
    """Another tagger on the same rows. Its labels and its scheme may differ: entities are compared, not tags."""
    assert baseline.model is not None
    other = Tagger(baseline.model, dtype=context.dtype)
    # Words are those of the run for both: with each model's own, boundaries would differ by tokenizer alone.
    # Its tokenizer may find no word in a text, of which `tag` would raise.
    indices, _ = context.build_same(baseline.spec, records, lambda record: _words(record, other.codec))
    if not indices:
        return
    context.progress(f"tagging {len(indices)} rows")
    readable = [records[index] for index in indices]
    scores = _span_f1(readable, other.tag([record.text for record in readable]), [words[index] for index in indices])
    yield ModelResult(baseline.describe(), [each.within(indices, len(records)) for each in scores])


def _words(record: Record, codec: Codec) -> Words:
    assert isinstance(record, Tagged)
    return codec.encode_word_windows(record.text)[1]


def _note_lost_entities(context: EvaluationContext, records: Sequence[Tagged], words: Sequence[Words]) -> None:
    """Note how many entities no tagger with these words can find."""
    count = sum(len(record.spans) for record in records)
    lost = count - sum(len(snap_to_words(*pair)) for pair in zip(records, words, strict=True))
    if lost:
        context.note("entities", f"{lost} of {count} have no word of their own, and are not counted")


def _span_f1(records: Sequence[Tagged], entities: Sequence[Iterable[Entity]], words: Sequence[Words]) -> list[Scores]:
    """F1 of predicted entities, both sides widened to the words of the run's tokenizer, as in its training."""
    references, predicted = list[list[Entity]](), list[list[Entity]]()
    for record, spans, text_words in zip(records, entities, words, strict=True):
        references.append(snap_to_words(record, text_words))
        predicted.append(snap_to_words(replace(record, spans=tuple(spans)), text_words))
    # The fields of an entity are start, stop and label; without the label, only the boundaries must agree.
    typed, untyped = (_count_common(predicted, references, fields) for fields in (3, 2))
    return [micro_f1("span_f1", typed), micro_f1("untyped_span_f1", untyped)]


def _count_common(
    predicted: Sequence[Iterable[Entity]], references: Sequence[Iterable[Entity]], fields: int
) -> NDArray[np.int64]:
    """[R, 2] entities of both whose first fields are equal; entities of one plus those of the other."""
    counts = []
    for pair in zip(predicted, references, strict=True):
        ours, theirs = ({entity[:fields] for entity in entities} for entities in pair)
        counts.append((len(ours & theirs), len(ours) + len(theirs)))
    return np.array(counts)
