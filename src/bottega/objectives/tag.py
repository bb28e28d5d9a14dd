"""Tagging: which words of a text are an entity, and of which kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field

from bottega.batch import Batch, Loss, Ratio, Row, Term
from bottega.errors import DataError
from bottega.objectives import HeadKind, Objective, Output, smoothed_nll
from bottega.records import Entity, Record, Tagged, Unusable

if TYPE_CHECKING:
    from torch import Tensor

    from bottega.tokenization.codec import Codec

Scheme = Literal["BIO", "BIOES"]


class Tag(Objective):
    """Mean cross-entropy a word.

    A word is what the tokenizer splits a text into before it splits words; of its pieces an encoder reads the first,
    a decoder the last, which has seen the others. A tokenizer that splits at nothing is given words between white space
    and signs. A word of which only a part is marked is marked whole; of two entities in one word the first has it.

    scheme           BIO: an entity Begins and goes on Inside, all else is Outside (Ramshaw and Marcus 1995,
                     cmp-lg/9505040). BIOES also says where one Ends, and where one is a Single word
    label_smoothing  share of the likelihood that is spread evenly over all tags
    """

    reads: ClassVar[tuple[type, ...]] = (Tagged,)
    head: ClassVar[HeadKind] = "token"
    outputs: ClassVar[frozenset[Output]] = frozenset({"logits"})
    lr: ClassVar[tuple[float, float]] = (1e-4, 5e-4)

    kind: Literal["tag"] = "tag"
    scheme: Scheme = "BIO"
    label_smoothing: float = Field(0.0, ge=0, lt=1)

    def rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        assert isinstance(record, Tagged)
        row, words = codec.encode_words(record.where, record.text)
        read, made = sum(span.start < words[-1][1] for span in record.spans), len(snap_to_words(record, words))
        if read and not made:
            raise Unusable("none of its entities has a word of its own")
        codec.count_untagged(read - made)
        names = encode_tags(record, words, self.scheme)
        label = np.array([codec.label_id(f"{record.where}, field spans", name) for name in names])
        return [(Row(row.tokens, row.at, label, row.weight, row.both_ways),)]

    def count_labels(self, records: Iterable[Record]) -> dict[str, int]:
        kinds, where = Counter[str](), ""
        for record in records:
            assert isinstance(record, Tagged)
            kinds.update(span.label for span in record.spans)
            where = where or record.where
        if not kinds:
            raise DataError("no row has a span, so there is nothing to learn", where=where, fix="add rows with spans")
        named = {f"{mark}-{kind}": kinds[kind] for kind in sorted(kinds) for mark in tag_prefixes(self.scheme)}
        return {"O": 0, **named}

    def loss(self, scores: Mapping[str, Tensor], batch: Batch) -> Loss:
        logits = scores["logits"]
        nll = smoothed_nll(logits, batch.label, self.label_smoothing)
        found = logits.argmax(-1)
        agreed, either = (logits.new_tensor(count) for count in self._spans(found, batch))
        return Loss(
            {"nll": Term((batch.weight * nll).sum(), "token")},
            metrics={
                "accuracy": Term((batch.weight * (found == batch.label)).sum(), "token"),
                "span_f1": Ratio(2 * agreed, either),
            },
        )

    def _spans(self, found: Tensor, batch: Batch) -> tuple[int, int]:
        """(entities found that are there, entities found plus entities there)."""
        agreed = either = 0
        told = zip(batch.row.tolist(), found.tolist(), batch.label.tolist(), strict=True)
        for _, words in groupby(told, key=lambda word: word[0]):
            _, ours, right = zip(*words, strict=True)
            one, other = (set(decode_tags(ids, self.scheme)) for ids in (ours, right))
            agreed, either = agreed + len(one & other), either + len(one) + len(other)
        return agreed, either


class WordSpan(NamedTuple):
    """Words `first` to `last`, which is the one behind, are an entity of kind number `kind`."""

    first: int
    last: int
    kind: int


def tag_prefixes(scheme: str) -> str:
    """The letters before a kind's name, in the order of their ids."""
    return scheme.replace("O", "")


def encode_tags(record: Tagged, words: Sequence[tuple[int, int]], scheme: str) -> list[str]:
    """The tag of each word, given where words start and stop."""
    names = ["O"] * len(words)
    for start, stop, kind in record.spans:
        inside = [place for place, word in enumerate(words) if word[0] < stop and word[1] > start]
        inside = [place for place in inside if names[place] == "O"]  # two entities in one word: the first has it
        for place in inside:
            names[place] = f"I-{kind}"
        if inside:
            names[inside[0]] = f"B-{kind}"
            if scheme == "BIOES":
                names[inside[-1]] = f"E-{kind}" if len(inside) > 1 else f"S-{kind}"
    return names


def snap_to_words(record: Tagged, words: Sequence[tuple[int, int]]) -> list[Entity]:
    """The spans of a record as tags of words tell them: whole words, without those that have no word of their own."""
    kinds = sorted({span.label for span in record.spans})
    known = ["O", *(f"{mark}-{kind}" for kind in kinds for mark in tag_prefixes("BIO"))]
    found = decode_tags(map(known.index, encode_tags(record, words, "BIO")), "BIO")
    return [Entity(words[one.first][0], words[one.last - 1][1], kinds[one.kind]) for one in found]


def decode_tags(ids: Iterable[int], scheme: str) -> list[WordSpan]:
    """The entities in a row of tag ids. One may begin with any mark of its kind: a model need not know the rules."""
    letters, found, open_ = tag_prefixes(scheme), list[WordSpan](), False
    for place, tag in enumerate(ids):
        if tag == 0:
            open_ = False
            continue
        kind, mark = divmod(tag - 1, len(letters))
        if open_ and found[-1].kind == kind and letters[mark] in "IE":
            found[-1] = found[-1]._replace(last=place + 1)
        else:
            found.append(WordSpan(place, place + 1, kind))
        open_ = letters[mark] in "BI"
    return found
