"""Of taggers: the entities of a text, beside marking what was marked in the training rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bottega.evaluation.context import EvaluationContext, ModelResult
from bottega.evaluation.gazetteer import Gazetteer
from bottega.inference.classifier import Tagger
from bottega.metrics.scores import Scores, agreement
from bottega.objectives.tag import worded
from bottega.records import Entity, Record, Tagged
from bottega.tokenization.codec import Codec

DEFAULT_BASELINES = ()


def measure(case: EvaluationContext) -> Iterator[ModelResult]:
    """The run's sheet, that of a gazetteer, and those of other runs."""
    model = Tagger(str(case.folder), dtype=case.dtype)
    _tell_untagged(case, model.codec)
    yield ModelResult("the run", _found(case, model, model.codec))
    known = Gazetteer(record for record in case.known() if isinstance(record, Tagged))
    usual = [list(known.spans(record.text)) for record in _tagged(case)]
    name = f"marking what was marked in the {case.those_known}"
    yield ModelResult(name, _agreeing(case, usual, model.codec), base=True)
    for rival in case.means.rivals:
        if rival.way == "run" and rival.model is not None:
            yield ModelResult(rival.named(), _found(case, Tagger(rival.model, dtype=case.dtype), model.codec))
        else:
            case.unasked[rival.given] = "it marks no entities"


def _tell_untagged(case: EvaluationContext, codec: Codec) -> None:
    """Say which entities no tagger with these words can find; rows without a word are left out."""
    words = case.made(lambda record: codec.encode_word_windows(_text(record))[1])
    count = sum(len(record.spans) for record in _tagged(case))
    lost = count - sum(len(worded(record, own)) for record, own in zip(_tagged(case), words, strict=True))
    if lost:
        case.note("entities", f"{lost} of {count} have no word of their own, and are not counted")


def _text(record: Record) -> str:
    assert isinstance(record, Tagged)
    return record.text


def _found(case: EvaluationContext, model: Tagger, codec: Codec) -> list[Scores]:
    case.tell(f"tagging {len(case.records)} rows")
    return _agreeing(case, model.tag([record.text for record in _tagged(case)]), codec)


def _tagged(case: EvaluationContext) -> list[Tagged]:
    return [record for record in case.records if isinstance(record, Tagged)]


def _agreeing(case: EvaluationContext, found: Sequence[Iterable[Entity]], codec: Codec) -> list[Scores]:
    """How well entities agree with what is right, both by the words that the run reads, as in its training."""
    right, said = list[list[Entity]](), list[list[Entity]]()
    for record, spans in zip(_tagged(case), found, strict=True):
        words = codec.encode_word_windows(record.text)[1]
        right.append(worded(record, words))
        said.append(worded(replace(record, spans=tuple(spans)), words))
    return [
        agreement(name, _common(said, right, fields)) for name, fields in (("span F1", 3), ("span F1, kinds aside", 2))
    ]


def _common(found: Sequence[Iterable[Entity]], right: Sequence[Iterable[Entity]], fields: int) -> NDArray[np.int64]:
    """[R, 2] spans that agree in their first fields, and all of both."""
    sets = (({span[:fields] for span in one} for one in pair) for pair in zip(found, right, strict=True))
    return np.array([(len(one & other), len(one) + len(other)) for one, other in sets])
