"""Of taggers: the entities of a text, beside marking what was marked in the training rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from bottega.classifier import Tagger
from bottega.data.words import Gazetteer
from bottega.evaluation.case import Case, Sheet
from bottega.records import Entity, Tagged
from bottega.scores import Scores, agreement

USUAL = ()


def measure(case: Case) -> Iterator[Sheet]:
    """The run's sheet, that of a gazetteer, and those of other runs."""
    yield Sheet("the run", _found(case, str(case.folder)))
    known = Gazetteer(record for record in case.known() if isinstance(record, Tagged))
    usual = [list(known.spans(record.text)) for record in _tagged(case)]
    yield Sheet(f"marking what was marked in the {case.those_known}", _agreeing(case, usual), base=True)
    for rival in case.means.rivals:
        if rival.way == "run" and rival.model is not None:
            yield Sheet(rival.named(), _found(case, rival.model))
        else:
            case.unasked[rival.given] = "it marks no entities"


def _found(case: Case, name: str) -> list[Scores]:
    model = Tagger(name, dtype=case.dtype)
    codec = case.codec(model.codec)
    # Rows that one tagger cannot read are left out for all that follow.
    rows = [row for (row,) in case.examples(codec)]
    case.tell(f"tagging {len(rows)} rows")
    return _agreeing(case, model.spans(rows, [codec.words(one.where, one.text)[1] for one in _tagged(case)]))


def _tagged(case: Case) -> list[Tagged]:
    return [record for record in case.records if isinstance(record, Tagged)]


def _agreeing(case: Case, found: Sequence[Iterable[Entity]]) -> list[Scores]:
    right = [record.spans for record in _tagged(case)]
    return [
        agreement(name, _common(found, right, fields)) for name, fields in (("span F1", 3), ("span F1, kinds aside", 2))
    ]


def _common(found: Sequence[Iterable[Entity]], right: Sequence[Iterable[Entity]], fields: int) -> NDArray[np.int64]:
    """[R, 2] spans that agree in their first fields, and all of both."""
    sets = (({span[:fields] for span in one} for one in pair) for pair in zip(found, right, strict=True))
    return np.array([(len(one & other), len(one) + len(other)) for one, other in sets])
