"""BIO and BIOES tags of words: entities to tags and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bottega.records import Entity, Tagged


class WordSpan(NamedTuple):
    """An entity that spans the words `first` up to, not including, `stop`; `label` is the index of its label."""

    first: int
    stop: int
    label: int


def tag_prefixes(scheme: str) -> str:
    """The letters before a label, in the order of their ids: BI or BIES."""
    return scheme.replace("O", "")


def encode_tags(record: Tagged, words: Sequence[tuple[int, int]], scheme: str) -> list[str]:
    """The tag of each word; `words` are (start, stop) offsets of characters."""
    tags = ["O"] * len(words)
    for start, stop, label in record.spans:
        overlapping = [index for index, word in enumerate(words) if word[0] < stop and word[1] > start]
        free = [index for index in overlapping if tags[index] == "O"]  # two entities in one word: the first has it
        for index in free:
            tags[index] = f"I-{label}"
        if free:
            tags[free[0]] = f"B-{label}"
            if scheme == "BIOES":
                tags[free[-1]] = f"E-{label}" if len(free) > 1 else f"S-{label}"
    return tags


def snap_to_words(record: Tagged, words: Sequence[tuple[int, int]]) -> list[Entity]:
    """The entities of a record widened to whole words, as tags represent them; those without a word are left out."""
    labels = sorted({span.label for span in record.spans})
    names = ["O", *(f"{prefix}-{label}" for label in labels for prefix in tag_prefixes("BIO"))]
    spans = decode_tags(map(names.index, encode_tags(record, words, "BIO")), "BIO")
    return [Entity(words[span.first][0], words[span.stop - 1][1], labels[span.label]) for span in spans]


def decode_tags(ids: Iterable[int], scheme: str) -> list[WordSpan]:
    """The entities in the tag ids of a text's words.

    An entity may begin with any of its label's tags, because a model need not predict valid sequences.
    """
    prefixes, spans, is_open = tag_prefixes(scheme), list[WordSpan](), False
    for index, tag in enumerate(ids):
        if tag == 0:
            is_open = False
            continue
        label, prefix = divmod(tag - 1, len(prefixes))
        if is_open and spans[-1].label == label and prefixes[prefix] in "IE":
            spans[-1] = spans[-1]._replace(stop=index + 1)
        else:
            spans.append(WordSpan(index, index + 1, label))
        is_open = prefixes[prefix] in "BI"
    return spans
