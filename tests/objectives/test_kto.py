"""Probes of KTO: another row's answer behind a prompt, as far as there is room."""

from __future__ import annotations

import numpy as np
from worlds import tokenizer

from bottega.batch import Example
from bottega.objectives.kto import Kto, mismatched_examples
from bottega.records import Unpaired
from bottega.tokenization.codec import Codec
from making import WORDS

LONG = " ".join(WORDS)


def test_a_prompt_that_fills_the_row_has_no_probe() -> None:
    prompt = len(Codec(tokenizer(), max_length=500, too_long="truncate").encode_prompt(LONG))
    made = Codec(tokenizer(), max_length=prompt + 1, too_long="truncate")
    rows = [Unpaired("1", LONG, " sat on", True), Unpaired("2", "the cat", " ran under", False)]
    examples = [Example(str(place), row) for place, one in enumerate(rows) for row in Kto().rows(one, made)]
    filled = int(examples[0].rows[0].at[0]) + 1
    full = mismatched_examples(examples, filled)
    assert [example.id for example in full] == ["1"], "what is behind the short prompt"
    both = mismatched_examples(examples, 500)
    assert [example.id for example in both] == ["0", "1"]
    (probe,) = both[1].rows
    assert np.array_equal(probe.tokens[:3], examples[1].rows[0].tokens[:3])
