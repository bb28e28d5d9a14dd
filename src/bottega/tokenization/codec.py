"""Records → rows: token ids, and exactly which of them are the answer.

A record is always encoded as one text, never in pieces: tokenizers that add a BOS, or a space, to every call would
plant it in mid-row. Which tokens are the answer is then read from the character offsets the tokenizer reports.

Where the answers of a conversation stand in it, `answers` finds, for any chat template. What ends a turn is part of an
answer: a model that never trains on it never stops.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from datetime import date
from functools import cached_property
from itertools import chain, takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bottega.batch import Ints, Row
from bottega.errors import DataError, ModelError
from bottega.records import (
    Answer,
    Chat,
    Compared,
    Labelled,
    Multilabelled,
    Paired,
    Posed,
    Preference,
    Prompt,
    Prompted,
    Record,
    Text,
    TooLong,
    Tools,
    Unusable,
    Variables,
    answered,
)
from bottega.tokenization import unicode_words
from bottega.tokenization.chat_spans import Answers, Span
from bottega.tokenization.chat_template import Template, turns
from bottega.tokenization.shorten_prompt import shortened

Known = Mapping[tuple[str, bool], Any]
"""The tokenizer's encoding of a text, special tokens included, with or without the characters of each token."""


HOLES = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
    ("[PREFIX]", "[SUFFIX]", "[MIDDLE]"),
)
"""Names of the tokens before the beginning of a text, its end, and its middle, in the tokenizers that have them."""


class Codec:
    """A tokenizer with its chat template, a length limit and a policy for what exceeds it.

    both_ways  the model is an encoder: rows are bidirectional and classified at their first token
    labels     class names in the order of their ids; as a mapping with how many training rows have each
    start      of an encoder–decoder: what its decoder begins with; prompts are then what the encoder reads
    day        what a chat template is told is today
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        max_length: int,
        too_long: TooLong,
        both_ways: bool = False,
        labels: Iterable[str] = (),
        start: int | None = None,
        day: date | None = None,
    ) -> None:
        self.tokenizer, self.start = tokenizer, start
        self.max_length, self.too_long, self.both_ways = max_length, too_long, both_ways
        self.labels = {name: index for index, name in enumerate(labels)}
        self.counts = dict(labels) if isinstance(labels, Mapping) else {}
        self._backend = tokenizer.backend_tokenizer
        # A limit or padding stored in tokenizer.json would act here unseen.
        self._backend.no_truncation()
        self._backend.no_padding()
        self._special, self._eos = set(tokenizer.added_tokens_decoder), tokenizer.eos_token_id
        self.template = Template(tokenizer, day)
        self.answers = Answers(self.template, self._specials, self._eos)
        self.truncated, self.untagged, self.unclosed = 0, 0, False
        self.known: Known = {}

    def document(self, record: Text) -> list[Row]:
        """Every token predicted from those before it; a long document becomes blocks of `max_length`.

        A block's last token predicts the next block's first, so no prediction is lost at the cut.
        """
        if self.start is not None:
            raise ModelError(
                "the model writes only about what its encoder has read",
                where="objective",
                fix="teach it texts with objective: {kind: span}",
            )
        ids = self._ids(record.text)
        if self._eos is not None and len(ids) and ids[-1] != self._eos:
            ids = np.append(ids, self._eos)
        if len(ids) < 2:
            raise Unusable("shorter than two tokens")
        if len(ids) <= self.max_length:
            return [_predicting(ids, np.ones(len(ids), np.float32))]
        if self.too_long != "split":
            return [self._fit(record.where, _predicting(ids, np.ones(len(ids), np.float32)))]
        starts = range(0, len(ids) - 1, self.max_length)
        return [self.block(ids[start : start + self.max_length + 1]) for start in starts]

    def block(self, ids: Ints) -> Row:
        """Up to `max_length` tokens, each predicting its successor in `ids`, which is one token longer."""
        at = np.arange(len(ids) - 1)
        return Row(ids[: self.max_length], at, ids[1:], np.ones(len(at), np.float32))

    def passages(self, record: Text) -> list[Ints]:
        """The tokens of a text between those the tokenizer puts around it; a long one becomes several such."""
        first, last = self._frame
        ids = self._ids(record.text)
        inner = ids[len(first) : len(ids) - len(last)]
        if len(inner) < 2:
            raise Unusable("shorter than two tokens")
        room = self.max_length - len(first) - len(last)
        if len(inner) > room and self.too_long != "split":
            self._refuse(record.where, len(ids))
            self.truncated += 1
            inner = inner[:room]
        parts = [inner[start : start + room] for start in range(0, len(inner), room)]
        return [self.framed(part) for part in parts if self.is_ordinary[part].any()]

    def framed(self, ids: Ints) -> Ints:
        """Tokens of a text between those that the tokenizer puts around one."""
        first, last = self._frame
        return np.concatenate([first, ids, last])

    def unframed(self, ids: Ints) -> Ints:
        """The inverse of `framed`."""
        first, last = self._frame
        return ids[len(first) : len(ids) - len(last)]

    @cached_property
    def _frame(self) -> tuple[Ints, Ints]:
        """The tokens that the tokenizer puts before a text and behind it."""
        encoding = self._encoding("a")
        added = encoding.special_tokens_mask
        first, last = added.index(0), len(added) - added[::-1].index(0)
        return np.array(encoding.ids[:first], np.int64), np.array(encoding.ids[last:], np.int64)

    @cached_property
    def mask(self) -> int:
        """The token that covers another; a ModelError where the tokenizer has none."""
        token = self.tokenizer.mask_token_id
        if token is None:
            raise ModelError(
                "the tokenizer has no mask token",
                where="model.tokenizer",
                fix="train one that has: bottega tokenizer train FILES --kind wordpieces",
            )
        return int(token)

    @cached_property
    def holes(self) -> tuple[int, int, int]:
        """The tokens before a beginning, an end and the middle between them; a ModelError where there are none."""
        known = self.tokenizer.get_vocab()
        for marks in HOLES:
            if all(mark in known for mark in marks):
                prefix, suffix, middle = (known[mark] for mark in marks)
                return prefix, suffix, middle
        raise ModelError(
            f"the tokenizer has no tokens to fill in a middle with, such as {HOLES[0][0]}",
            where="model.tokenizer",
            fix="train one that has: bottega tokenizer train FILES --fim; or leave out objective.fim",
        )

    @cached_property
    def is_ordinary(self) -> NDArray[np.bool_]:
        """[V] which tokens are parts of texts, and not the tokenizer's own marks."""
        known = np.ones(len(self.tokenizer), np.bool_)
        known[list(self._special)] = False
        return known

    @cached_property
    def ordinary(self) -> Ints:
        """All of those."""
        return np.flatnonzero(self.is_ordinary)

    @cached_property
    def continues(self) -> NDArray[np.bool_]:
        """[V] which tokens go on with the word of the token before: those marked so, or not marked as its first."""
        tokens = self.tokenizer.convert_ids_to_tokens(range(len(self.tokenizer)))
        prefix = getattr(self._backend.model, "continuing_subword_prefix", None)
        if prefix:
            return np.array([token.startswith(prefix) for token in tokens])
        return np.array([not token.startswith(("Ġ", "▁")) for token in tokens])

    def answer(self, record: Chat | Prompted | Text) -> Row:
        """The row of a record in which the answers carry the loss."""
        if isinstance(record, Chat):
            self.template.look(record)
            chat = record
            return self._fitting(chat.where, chat.messages, lambda kept: [self._talk(replace(chat, messages=kept))])[0]
        if isinstance(record, Text):
            record = Prompted(record.where, record.text[: record.answer], record.text[record.answer :])
        completion = record.completion
        return self._fitting(record.where, record.prompt, lambda kept: [self._prompted(kept, completion)])[0]

    def pair(self, record: Preference) -> tuple[Row, Row]:
        """(chosen, rejected), each as `answer` would encode it; Unusable where no token tells them apart."""
        before, answers = self.truncated, (record.chosen, record.rejected)
        empty = Chat(record.where, (), record.tools, record.variables)
        chosen, rejected = self._fitting(
            record.where,
            self._seen(empty, record.prompt, record.chosen),
            lambda kept: [self._continued(empty, kept, answer) for answer in answers],
        )
        if np.array_equal(chosen.tokens, rejected.tokens):
            raise Unusable("chosen and rejected are the same in every token" + self.cut_since(before))
        return chosen, rejected

    def cut_since(self, truncated: int) -> str:
        """That rows were cut since so many had been, in words; empty where none was."""
        return f", cut at {self.max_length}" if self.truncated > truncated else ""

    def continued(
        self, where: str, prompt: Prompt, answer: Answer, tools: Tools = (), variables: Variables | None = None
    ) -> Row:
        """The row of a prompt and one answer to it; of a conversation, only what follows the prompt carries loss."""
        empty = Chat(where, (), tools, variables or {})
        prompt = self._seen(empty, prompt, answer)
        return self._fitting(where, prompt, lambda kept: [self._continued(empty, kept, answer)])[0]

    def _seen(self, empty: Chat, prompt: Prompt, answer: Answer) -> Prompt:
        """The prompt without loss; what it and its answer hold for nothing is counted.

        empty  the conversation without its messages
        """
        if not isinstance(prompt, str):
            self.template.look(replace(empty, messages=(*prompt, *answered(answer))))
        return _silent(prompt)

    def _continued(self, empty: Chat, prompt: Prompt, answer: Answer) -> Row:
        if isinstance(prompt, str):
            assert isinstance(answer, str)
            return self._prompted(prompt, answer)
        return self._talk(replace(empty, messages=(*prompt, *answered(answer))))

    def _talk(self, chat: Chat) -> Row:
        """The row of a conversation, however long."""
        text, spans = self.answers.find(chat)
        self.unclosed |= not all(span.closed for span in spans)
        return self._answered(text, spans, special=False)

    def _fitting(self, where: str, prompt: Any, make: Callable[[Any], list[Row]]) -> list[Row]:
        """Rows that share a prompt, which gives way where they are too long: first to make room for the answers.

        Where an answer is too long by itself it is cut, if it may be, behind half a row of its prompt.
        """
        rows = make(prompt)
        if all(self._over(row) <= 0 for row in rows):
            return rows
        if self.too_long in ("shorten", "truncate"):
            for least in (1, self.max_length // 2) if self.too_long == "truncate" else (1,):
                found = self._shortened(prompt, make, rows, least)
                if all(self._over(row) <= 0 for row in found):
                    self.truncated += 1
                    return found
            rows = found
        return [self._fit(where, row) for row in rows]

    def _shortened(self, prompt: Any, make: Callable[[Any], list[Row]], rows: list[Row], least: int) -> list[Row]:
        """The rows of the longest prompt that lets them fit, or the shortest that it can be made."""
        while (over := max(self._over(row) for row in rows)) > 0:
            shorter = shortened(prompt, over, least, self._tokens_of)
            if shorter is None:
                break
            prompt, rows = shorter, make(shorter)
        return rows

    def _over(self, row: Row) -> int:
        """Tokens that are too many, of what is read before an answer or beside it."""
        return max(len(row.tokens), row.read) - self.max_length

    def _tokens_of(self, text: str) -> list[tuple[int, int]]:
        """Where each token of a text starts and ends."""
        found: list[tuple[int, int]] = self._encoding(text, special=False).offsets
        return found

    def pooled(self, where: str, text: str, label: int | float) -> Row:
        """The row of a text whose one prediction is read where the model's classifier reads it."""
        return self.whole(self._within(where, text), label)

    def everywhere(self, where: str, text: str) -> Row:
        """The row of a text that is read at every token, and expects nothing there."""
        ids = self._within(where, text)
        if not len(ids):
            raise Unusable("no tokens")
        at = np.arange(len(ids))
        return Row(ids, at, np.zeros_like(at), np.ones(len(at), np.float32), self.both_ways)

    def _within(self, where: str, text: str) -> Ints:
        """The tokens of a text, special ones included, cut where they are too many."""
        ids = self._ids(text)
        if len(ids) > self.max_length:
            self._refuse(where, len(ids))
            self.truncated += 1
            ids = np.array(self._truncating.encode(self._begun(text)).ids, np.int64)
        return ids

    def whole(self, ids: Ints, label: int | float) -> Row:
        """All of `ids` as a row with one prediction: at the first token of an encoder, the last of a decoder."""
        if not len(ids):
            raise Unusable("no tokens")
        at = np.array([0 if self.both_ways else len(ids) - 1])
        return Row(ids, at, np.array([label]), np.ones(1, np.float32), self.both_ways)

    def words(self, where: str, text: str) -> tuple[Row, list[tuple[int, int]]]:
        """A row with a prediction a word, all of label 0, and where in the text each word starts and stops.

        Words are what the tokenizer splits a text into before it looks for pieces; of one that splits at nothing, what
        stands between white space and signs. One is read at its first piece by an encoder, at its last by a decoder.
        """
        encoding = self._encoding(text)
        if len(encoding.ids) > self.max_length:
            self._refuse(where, len(encoding.ids))
            self.truncated += 1
            encoding = self._truncating.encode(text)
        at, found = self._words(encoding, text)
        return self._read_at(np.array(encoding.ids), at), found

    def windows(self, text: str) -> tuple[list[Row], list[tuple[int, int]]]:
        """The same of a text of any length: rows that each fit, whose predictions are those of the words in turn.

        A word is read in the row that has most of the text on both sides of it.
        """
        encoding = self._encoding(text)
        ids, (at, found) = np.array(encoding.ids), self._words(encoding, text)
        if len(ids) <= self.max_length:
            return [self._read_at(ids, at)], found
        first, last = self._frame
        inner = ids[len(first) : len(ids) - len(last)]
        room = max(self.max_length - len(first) - len(last), 1)
        step = max(room // 2, 1)
        count = -(-max(len(inner) - room, 0) // step) + 1
        number = ((at - len(first) - room // 4) // step).clip(0, count - 1)
        parts = ((start, at[number * step == start] - start) for start in np.unique(number * step).tolist())
        rows = [
            self._read_at(np.concatenate([first, inner[start : start + room], last]), inside) for start, inside in parts
        ]
        return rows, found

    def _words(self, encoding: Any, text: str) -> tuple[Ints, list[tuple[int, int]]]:
        """(the token each word is read at, where each stands)."""
        places, found, before = list[int](), list[tuple[int, int]](), None
        own, within = None if self._splits else unicode_words.places(text, signs=True), unicode_words.inner(text)
        for place, (word, (start, stop)) in enumerate(zip(encoding.word_ids, encoding.offsets, strict=True)):
            start += len(text[start:stop]) - len(text[start:stop].lstrip())  # a byte-level token may begin with a space
            if word is None or start >= stop:
                continue
            if own is not None:
                word = bisect_right(own, (start, len(text))) - 1
                stop = min(stop, own[word][1])
            if word == before or (found and start in within and found[-1][1] == start):
                found[-1] = (found[-1][0], max(found[-1][1], stop))
                places[-1] = places[-1] if self.both_ways else place
            else:
                found.append((start, stop))
                places.append(place)
            before = word
        if not found:
            raise Unusable("no words")
        # What a tokenizer leaves out of a word, such as its accents, is part of it.
        return np.array(places), [(start, stop + _marks(text, stop)) for start, stop in found]

    @cached_property
    def _splits(self) -> bool:
        """Whether the tokenizer takes what stands between spaces for words."""
        found = self._encoding("a b").word_ids
        return len({word for word in found if word is not None}) > 1

    def _read_at(self, ids: Ints, at: Ints) -> Row:
        return Row(ids, at, np.zeros_like(at), np.ones(len(at), np.float32), self.both_ways)

    def label(self, where: str, name: str) -> int:
        """The id of a class, named in the field `where`; a DataError when training never saw it."""
        if name not in self.labels:
            raise DataError(
                f"label {name!r} does not occur in the training rows",
                where=where,
                fix=f"known: {', '.join(list(self.labels)[:8])}{' …' if len(self.labels) > 8 else ''}",
            )
        return self.labels[name]

    def notes(self) -> list[tuple[str, str]]:
        """(subject, message) of what a user should know of the conversations encoded so far."""
        return list(self._notes())

    def _notes(self) -> Iterator[tuple[str, str]]:
        if self.template.unread:
            counts = ", ".join(f"{name} ({count})" for name, count in self.template.unread.most_common(10))
            yield "template", f"in so many rows the chat template never asks for what they hold: {counts}"
        for missing, count in self.answers.unopened.most_common(3):
            what = f"the chat template asks for an answer with {missing!r}, which {count} answers in the rows lack"
            yield "template", f"{what}: they are learned without it, and will be asked for with it"
        closing = self.answers.closing.strip() if self.unclosed else ""
        if closing and not self.answers.closes:
            last = "with an end of text behind the last" if self._eos is not None else "and there is no end of text"
            yield "template", f"{closing!r}, which ends a turn, is no token here: it is learned as text, {last}"
        elif self.unclosed and not self.answers.closes and self._eos is None:
            yield "template", "nothing ends a turn, no token and no text: what is learned so writes to its limit"

    # Prompts to continue

    def prefix(self, prompt: Prompt, tools: Tools = (), variables: Variables | None = None) -> list[int]:
        """The tokens a continuation of `prompt` is generated from: text as it is, or a conversation's next answer."""
        if not isinstance(prompt, str):
            text = self.answers.prompt(turns(prompt), Chat("the conversation", prompt, tools, variables or {}))
            last = self._frame[1].tolist() if self.start is not None else []
            return [*self._encoding(text, special=False).ids, *last]
        ids: list[int] = self._encoding(self._begun(prompt)).ids
        ended = ids and ids[-1] == self._eos and not prompt.endswith(self.tokenizer.eos_token or "\0")
        found = ids[:-1] if ended else ids
        if self.start is not None:
            return [*found, *self._frame[1].tolist()]
        start = self.tokenizer.bos_token_id if self.tokenizer.bos_token_id is not None else self._eos
        return found or ([] if start is None else [start])

    def posed(self, record: Posed, room: int) -> Row:
        """The row of a prompt to which answers of up to `room` tokens will be written: what begins one is predicted."""
        prompt: Any = _silent(record.prompt)
        if not isinstance(prompt, str):
            self.template.look(Chat(record.where, prompt, record.tools, record.variables))
        ids = np.array(self.prefix(prompt, record.tools, record.variables), np.int64)
        most = self.max_length - (room if self.start is None else 0)
        if most < 1:
            raise DataError(
                f"answers of {room} tokens leave no room for a prompt in a max_length of {self.max_length}",
                where="data.max_length",
                fix="raise it, or lower objective.tokens",
            )
        if not len(ids):
            raise Unusable("nothing to answer")
        if len(ids) > most:
            self._refuse(record.where, len(ids) + self.max_length - most, prompt=True)
            while prompt is not None and len(ids) > most:
                prompt = shortened(prompt, len(ids) - most, 1, self._tokens_of)
                if prompt is not None:
                    ids = np.array(self.prefix(prompt, record.tools, record.variables), np.int64)
            if len(ids) > most:
                raise Unusable(f"longer than max_length {self.max_length}")
            self.truncated += 1
        tokens = ids if self.start is None else np.array([self.start])
        at, one = np.array([len(tokens) - 1]), np.ones(1, np.float32)
        return Row(tokens, at, np.zeros(1, np.int64), one, source=None if self.start is None else ids)

    @cached_property
    def ends(self) -> frozenset[int]:
        """Tokens that end an answer: the end of text, and what the chat template closes a turn with."""
        return self.answers.ends | (frozenset() if self._eos is None else {self._eos})

    @cached_property
    def stop(self) -> tuple[str, ...]:
        """Texts that end an answer, where what the chat template closes it by is no token."""
        closing = "" if self.answers.closes else self.answers.closing.strip()
        return (closing,) if closing else ()

    @property
    def stop_in_use(self) -> tuple[str, ...]:
        """Of these, those that end an answer to what was encoded so far: none where nothing was a conversation."""
        return self.stop if self.template.used else ()

    # Encoding

    @cached_property
    def _truncating(self) -> Any:
        """The same tokenizer, cutting at `max_length`: it spares the tokens that are added at the end.

        A copy, since the other may be at work in a thread.
        """
        backend = deepcopy(self._backend)
        backend.enable_truncation(self.max_length, direction=self.tokenizer.truncation_side)
        return backend

    def look_ahead(self, records: Sequence[Record]) -> Known:
        """What encoding the records will ask for, in two calls on all cores; to be set as `known` while they are.

        Not of conversations, whose text only their template knows. Where no answer is to be found in a text, which
        characters make a token is not asked: that is half of the work.
        """
        asked = list(dict.fromkeys((self._begun(text), kind) for record in records for text, kind in texts(record)))
        located, bare = ([text for text, wanted in asked if wanted is kind] for kind in (True, False))
        try:
            encodings = [*self._backend.encode_batch(located), *self._backend.encode_batch_fast(bare)]
        except Exception:  # one of them cannot be encoded; which, its own turn will tell
            return {}
        keys = chain(((text, True) for text in located), ((text, False) for text in bare))
        return dict(zip(keys, encodings, strict=True))

    def _encoding(self, text: str, *, special: bool = True) -> Any:
        """The tokenizer's account of a text: ids, and the characters of each token."""
        known = self.known.get((text, True)) if special else None
        try:
            return known or self._backend.encode(text, add_special_tokens=special)
        except Exception as error:  # the tokenizers library raises nothing narrower
            raise Unusable(f"the tokenizer cannot encode it: {error}") from None

    def _ids(self, text: str) -> Ints:
        """The tokens of a text, special ones included."""
        text = self._begun(text)
        return np.array((self.known.get((text, False)) or self._encoding(text)).ids, np.int64)

    def _prompted(self, prompt: str, completion: str) -> Row:
        prompt = self._begun(prompt)
        text = prompt + completion
        return self._answered(text, [Span(len(prompt), len(text), 1.0, closed=False)], special=True)

    def _begun(self, text: str) -> str:
        """A text without a token that begins it, where the tokenizer puts one there itself."""
        bos = self.tokenizer.bos_token
        return text[len(bos) :] if bos and text.startswith(bos) and self._begins else text

    @cached_property
    def _begins(self) -> bool:
        """Whether the tokenizer begins every text with a token."""
        first: list[int] = self._backend.encode("a").ids[:1]
        return first == [self.tokenizer.bos_token_id]

    def _answered(self, text: str, spans: Sequence[Span], *, special: bool) -> Row:
        """The row of `text` whose predictions are the tokens in `spans`; what ends the text is one of them."""
        encoding = self._encoding(text, special=special)
        ids: list[int] = encoding.ids
        weight = np.zeros(len(ids) + 1, np.float32)  # room for an end of text
        end = 0
        for span in spans:
            begin, end = _tokens(encoding, span)
            weight[begin:end] = span.weight
        if end and not span.closed and span.stop >= len(text.rstrip()) and ids[end - 1] != self._eos:
            # The end of the text is predicted too, where the tokenizer has one.
            ids, weight[end:] = [*ids[:end], *([] if self._eos is None else [self._eos])], span.weight
        row = _predicting(np.array(ids, np.int64), weight[: len(ids)])
        if not row.labelled:
            raise Unusable("no token of an answer with a weight above 0")
        return row if self.start is None else self._apart(row)

    def apart(self, where: str, row: Row) -> Row:
        """The row of an encoder–decoder: its last answer is written, and what stands before that is read."""
        return self._fit_read(where, self._apart(row))

    def _apart(self, row: Row) -> Row:
        begins = np.flatnonzero(np.diff(row.at, prepend=-2) > 1)[-1]
        place = int(row.at[begins]) + 1
        read, label = row.tokens[:place], row.label[begins:]
        if not len(read):
            raise Unusable("nothing for the encoder to read")
        return self._translated(np.append(read, self._frame[1]), label, row.weight[begins:])

    def translated(self, where: str, read: Ints, label: Ints, weight: NDArray[np.float32]) -> Row:
        """A row in which an encoder reads `read` and a decoder writes `label`."""
        return self._fit_read(where, self._translated(read, label, weight))

    def _fit_read(self, where: str, row: Row) -> Row:
        """The row with no more to read than fits."""
        if row.source is None or len(row.source) <= self.max_length:
            return row
        self._refuse(where, len(row.source))
        self.truncated += 1
        last = self._frame[1]
        return replace(row, source=np.append(row.source[: self.max_length - len(last)], last))

    def _translated(self, read: Ints, label: Ints, weight: NDArray[np.float32]) -> Row:
        assert self.start is not None
        tokens = np.append(self.start, label[:-1])
        return Row(tokens, np.arange(len(label)), label, weight, source=read)

    @cached_property
    def sentinels(self) -> Ints:
        """Tokens that stand for what is left out of a text, in their order; a ModelError where there are none."""
        known = self.tokenizer.get_vocab()
        found = list(takewhile(lambda mark: mark in known, (f"<extra_id_{number}>" for number in range(len(known)))))
        if not found:
            raise ModelError(
                "the tokenizer has no tokens that stand for what is left out, such as <extra_id_0>",
                where="model.tokenizer",
                fix="train one that has: bottega tokenizer train FILES --span",
            )
        return np.array([known[mark] for mark in found])

    def _fit(self, where: str, row: Row) -> Row:
        """The row, within `max_length`."""
        row = self._fit_read(where, row)
        if len(row.tokens) <= self.max_length:
            return row
        self._refuse(where, len(row.tokens))
        kept = row.at < self.max_length
        if not row.weight[kept].any():
            raise Unusable(f"all labels lost to truncation at max_length {self.max_length}")
        self.truncated += 1
        tokens = row.tokens[: self.max_length]
        return replace(row, tokens=tokens, at=row.at[kept], label=row.label[kept], weight=row.weight[kept])

    def _refuse(self, where: str, length: int, *, prompt: bool = False) -> None:
        """Raise unless a row that is too long may be cut, or the prompt that it is."""
        if self.too_long == "error":
            raise DataError(
                f"{length} tokens, more than max_length {self.max_length}",
                where=where,
                fix="raise data.max_length, or set data.too_long to shorten, drop or truncate",
            )
        if self.too_long != "truncate" and not (prompt and self.too_long == "shorten"):
            raise Unusable(f"longer than max_length {self.max_length}")

    def _specials(self, text: str) -> list[tuple[int, int, int]]:
        """Each special token in `text`, and where it starts and ends; none where the tokenizer lacks a letter of it.

        So it is with what a template writes and a tokenizer of characters never saw: nothing can end in it.
        """
        try:
            encoding = self._encoding(text, special=False)
        except Unusable:
            return []
        pairs = zip(encoding.ids, encoding.offsets, strict=True)
        return [(token, start, end) for token, (start, end) in pairs if token in self._special]


def texts(record: Record) -> Iterator[tuple[str, bool]]:
    """The texts that are encoded of a record, as far as they are known without its objective or a chat template.

    Each with whether an answer is to be found in it.
    """
    if isinstance(record, (Text, Labelled, Multilabelled)):
        yield record.text, isinstance(record, Text) and record.answer > 0
    elif isinstance(record, Prompted):
        yield record.prompt + record.completion, True
    elif isinstance(record, (Paired, Compared)):
        yield from ((text, False) for text in record.texts)
    elif isinstance(record, Preference) and isinstance(record.prompt, str):
        answers = (answer for answer in (record.chosen, record.rejected) if isinstance(answer, str))
        yield from ((record.prompt + answer, True) for answer in answers)
    elif isinstance(record, Posed) and isinstance(record.prompt, str):
        yield record.prompt, True


def _tokens(encoding: Any, span: Span) -> tuple[int, int]:
    """First token of a span and the one after its last; (0, 0) where it has none."""
    if span.start < span.stop:
        begin, last = encoding.char_to_token(span.start), encoding.char_to_token(span.stop - 1)
        if begin is not None and last is not None:
            # A character's bytes may make several tokens.
            while (characters := encoding.token_to_chars(last + 1)) is not None and _begins_in(characters, span):
                last += 1
            return begin, last + 1
    # White space that belongs to no token, or the tokenizer reports some as empty, at its end.
    inside = [place for place, at in enumerate(encoding.offsets) if at[1] > span.start and _begins_in(at, span)]
    return (inside[0], inside[-1] + 1) if inside else (0, 0)


def _begins_in(characters: tuple[int, int], span: Span) -> bool:
    """Whether a token begins before the end of a span, or is empty there."""
    return characters[0] < span.stop or characters[0] == characters[1] == span.stop


def _silent(prompt: Prompt) -> Prompt:
    """The same prompt, with no loss on its answers."""
    return prompt if isinstance(prompt, str) else tuple(replace(message, weight=0.0) for message in prompt)


def _marks(text: str, start: int) -> int:
    """How many characters from there on belong to the letter before."""
    return sum(1 for _ in takewhile(unicode_words.is_mark, text[start:]))


def _predicting(ids: Ints, weight: np.ndarray) -> Row:
    """Each token with a weight above 0 predicted at the token before it; the first token has none before it."""
    at = np.flatnonzero(weight[1:])
    return Row(ids, at, ids[at + 1], weight[at + 1])
