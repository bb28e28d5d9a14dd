"""Tagging: find the entities of a text and their labels, one tag for each word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from bottega.batch import Batch, Loss, Ratio, Row, Term
from bottega.errors import DataError
from bottega.objectives import HeadKind, Objective, Output, smoothed_nll
from bottega.objectives._tags import decode_tags, encode_tags, snap_to_words, tag_prefixes
from bottega.records import Record, Tagged, Unusable

if TYPE_CHECKING:
    from torch import Tensor

    from bottega.tokenization.codec import Codec

Scheme = Literal["BIO", "BIOES"]


class Tag(Objective):
    """Tagging: the mean cross-entropy of the words' tags.

    Words are the pieces that the tokenizer's pre-tokenizer splits a text into; if it splits nothing, words between
    white space and punctuation. Of a word's tokens an encoder is read at the first, a decoder at the last, which has
    seen the others. A word that is partly in an entity is wholly in it; of two entities in one word the first has it.
    """

    reads: ClassVar[tuple[type, ...]] = (Tagged,)
    head: ClassVar[HeadKind] = "token"
    outputs: ClassVar[frozenset[Output]] = frozenset({"logits"})
    lr: ClassVar[tuple[float, float]] = (1e-4, 5e-4)

    kind: Literal["tag"] = "tag"
    scheme: Scheme = Field(
        "BIO",
        description="BIO: an entity Begins and goes on Inside, all else is Outside (Ramshaw and Marcus 1995, "
        "cmp-lg/9505040); BIOES also marks where it Ends, and a Single word.",
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Probability spread evenly over all tags.")

    @property
    def tag_scheme(self) -> str:
        return self.scheme

    def rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        assert isinstance(record, Tagged)
        row, words = codec.encode_words(record.where, record.text)
        # A text may have been cut: entities behind the last word are not counted as lost.
        in_reach = sum(span.start < words[-1][1] for span in record.spans)
        tagged = len(snap_to_words(record, words))
        if in_reach and not tagged:
            raise Unusable("none of its entities has a word of its own")
        codec.tally.untagged += in_reach - tagged
        names = encode_tags(record, words, self.scheme)
        label = np.array([codec.label_id(f"{record.where}, field spans", name) for name in names])  # [n]
        return [(Row(row.tokens, row.at, label, row.weight, row.both_ways),)]

    def count_labels(self, records: Iterable[Record]) -> dict[str, int]:
        counts, where = Counter[str](), ""
        for record in records:
            assert isinstance(record, Tagged)
            counts.update(span.label for span in record.spans)
            where = where or record.where
        if not counts:
            raise DataError("no row has a span, so there is nothing to learn", where=where, fix="add rows with spans")
        # `decode_tags` relies on this order: O, then for each label its tags in the order of the prefixes.
        by_tag = {f"{prefix}-{name}": counts[name] for name in sorted(counts) for prefix in tag_prefixes(self.scheme)}
        return {"O": 0, **by_tag}

    def loss(self, scores: Mapping[str, Tensor], batch: Batch) -> Loss:
        logits = scores["logits"]  # [N, C]
        nll = smoothed_nll(logits, batch.label, self.label_smoothing)  # [N]
        predicted = logits.argmax(-1)  # [N]
        correct, total = (logits.new_tensor(count) for count in self._count_entities(predicted, batch))
        return Loss(
            {"nll": Term((batch.weight * nll).sum(), "token")},
            metrics={
                "accuracy": Term((batch.weight * (predicted == batch.label)).sum(), "token"),
                "span_f1": Ratio(2 * correct, total),
            },
        )

    def _count_entities(self, predicted: Tensor, batch: Batch) -> tuple[int, int]:
        """(entities predicted correctly, entities predicted plus entities in the labels), from tag ids [N]."""
        correct = total = 0
        tags = zip(batch.row.tolist(), predicted.tolist(), batch.label.tolist(), strict=True)
        for _, words in groupby(tags, key=lambda word: word[0]):
            _, predicted_ids, label_ids = zip(*words, strict=True)
            predicted_spans, label_spans = (set(decode_tags(ids, self.scheme)) for ids in (predicted_ids, label_ids))
            correct += len(predicted_spans & label_spans)
            total += len(predicted_spans) + len(label_spans)
        return correct, total
