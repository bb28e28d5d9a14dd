"""Records → token rows: token ids, and exactly which of them carry loss.

`Codec` is what objectives and models for use call; the work is done by the encoders it is made of. A record is always
encoded as one text, never in pieces: tokenizers that add a BOS, or a space, to every call would insert it in the middle
of a row. Which tokens are the answer is then read from the character offsets the tokenizer reports.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bottega.batch import Ints, Row
from bottega.errors import DataError, ModelError
from bottega.records import (
    Answer,
    Chat,
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
)
from bottega.tokenization.answer_encoder import AnswerEncoder, predict_weighted
from bottega.tokenization.chat_spans import AnswerFinder
from bottega.tokenization.chat_template import ChatTemplate
from bottega.tokenization.encoder_decoder_rows import encoder_decoder_row
from bottega.tokenization.length_limit import LengthLimit, Truncation
from bottega.tokenization.prompt_encoder import PromptEncoder
from bottega.tokenization.special_tokens import SpecialTokens
from bottega.tokenization.tally import Tally
from bottega.tokenization.text_encoder import Encodings, TextEncoder
from bottega.tokenization.word_encoder import WordEncoder, WordOffsets


class Codec:
    """A tokenizer with its chat template, a length limit and a policy for what exceeds it.

    both_ways      the model is an encoder: rows are bidirectional and classified at their first token
    labels         class names in the order of their ids; as a mapping with how many training rows have each
    decoder_start  the token an encoder–decoder's decoder starts with; prompts are then what the encoder reads
    day            the date that a chat template is given as today's
    special_tokens ids of special tokens by role
    answer_finder  finds the answers in a rendered conversation
    tally          what the codec found out about the rows encoded so far
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        max_length: int,
        too_long: TooLong,
        both_ways: bool = False,
        labels: Iterable[str] = (),
        decoder_start: int | None = None,
        day: date | None = None,
    ) -> None:
        self.tokenizer, self.decoder_start = tokenizer, decoder_start
        self.max_length, self.too_long, self.both_ways = max_length, too_long, both_ways
        self.labels = {name: index for index, name in enumerate(labels)}
        self.label_counts = dict(labels) if isinstance(labels, Mapping) else {}
        self.tally = Tally()
        # All parts share the tally, and the encoder, which holds what was computed ahead.
        self._encoder = TextEncoder(tokenizer, max_length)
        self.special_tokens = SpecialTokens(tokenizer, self._encoder)
        self._limit = LengthLimit(max_length, too_long, self._encoder, self.special_tokens, self.tally)
        self.template = ChatTemplate(tokenizer, day, self.tally)
        self.answer_finder = AnswerFinder(self.template, self._encoder.special_spans, self.special_tokens.eos)
        parts = self._encoder, self.special_tokens, self._limit
        self._answer_encoder = AnswerEncoder(*parts, self.answer_finder, decoder_start)
        self._prompt_encoder = PromptEncoder(*parts, self.answer_finder, decoder_start)
        self._word_encoder = WordEncoder(*parts, both_ways=both_ways)

    # Texts to model

    def encode_document(self, record: Text) -> list[Row]:
        """Rows in which every token is predicted from those before it; a long document becomes blocks of `max_length`.

        A block's last token predicts the next block's first, so no prediction is lost at the cut.
        """
        if self.decoder_start is not None:
            raise ModelError(
                "an encoder–decoder does not predict plain texts from left to right",
                where="objective",
                fix="train it on texts with objective: {kind: span}",
            )
        ids, eos = self._encoder.encode_ids(record.text), self.special_tokens.eos
        # A model that never sees the end of a document never learns to end one.
        if eos is not None and len(ids) and ids[-1] != eos:
            ids = np.append(ids, eos)
        if len(ids) < 2:
            raise Unusable("shorter than two tokens")
        if len(ids) <= self.max_length:
            return [predict_weighted(ids, np.ones(len(ids), np.float32))]
        if self.too_long != "split":
            return [self._limit.cut(record.where, predict_weighted(ids, np.ones(len(ids), np.float32)))]
        # The last token is only predicted: a block that began with it would predict nothing.
        starts = range(0, len(ids) - 1, self.max_length)
        return [self.block_row(ids[start : start + self.max_length + 1]) for start in starts]

    def block_row(self, ids: Ints) -> Row:
        """The row of up to `max_length` tokens, each predicting its successor in `ids`, which is one token longer."""
        at = np.arange(len(ids) - 1)  # [t]; label[n] is the token after at[n]
        return Row(ids[: self.max_length], at, ids[1:], np.ones(len(at), np.float32))

    def encode_passages(self, record: Text) -> list[Ints]:
        """The tokens of a text with those the tokenizer adds around it; a long text becomes several passages."""
        before, after = self.special_tokens.frame
        ids = self._encoder.encode_ids(record.text)
        inner = self.special_tokens.remove_frame(ids)
        if len(inner) < 2:
            raise Unusable("shorter than two tokens")
        room = self.max_length - len(before) - len(after)
        if len(inner) > room and self.too_long != "split":
            self._limit.check(record.where, len(ids))
            self.tally.truncated += 1
            inner = inner[:room]
        parts = [inner[start : start + room] for start in range(0, len(inner), room)]
        # A passage of nothing but special tokens has nothing to mask.
        return [self.special_tokens.add_frame(part) for part in parts if self.special_tokens.is_text[part].any()]

    # Texts to classify, embed or tag

    def encode_pooled(self, where: str, text: str, label: int | float) -> Row:
        """The row of a text with one prediction, at the token where the model's classifier reads."""
        return self.pooled_row(self._encode_cut(where, text), label)

    def pooled_row(self, ids: Ints, label: int | float) -> Row:
        """The row of `ids` with one prediction: at the first token of an encoder, at the last of a decoder."""
        if not len(ids):
            raise Unusable("no tokens")
        # An encoder's first token ([CLS]) attends to all; of a decoder only the last token has seen the whole text.
        at = np.array([0 if self.both_ways else len(ids) - 1])
        return Row(ids, at, np.array([label]), np.ones(1, np.float32), self.both_ways)

    def encode_every_token(self, where: str, text: str) -> Row:
        """The row of a text that is read at every token, with every label 0: for embeddings."""
        ids = self._encode_cut(where, text)
        if not len(ids):
            raise Unusable("no tokens")
        at = np.arange(len(ids))
        return Row(ids, at, np.zeros_like(at), np.ones(len(at), np.float32), self.both_ways)

    def _encode_cut(self, where: str, text: str) -> Ints:
        """The tokens [t] of a text, special ones included, cut where there are too many."""
        ids = self._encoder.encode_ids(text)
        if len(ids) > self.max_length:
            self._limit.check(where, len(ids))
            self.tally.truncated += 1
            # Encoded again rather than sliced: the special tokens at the end must stay.
            ids = np.array(self._encoder.encode_truncated(self._encoder.remove_bos(text)).ids, np.int64)
        return ids

    def encode_words(self, where: str, text: str) -> tuple[Row, WordOffsets]:
        """The row of a text with one prediction a word, and the offsets of the words; every label is 0."""
        return self._word_encoder.encode(where, text)

    def encode_word_windows(self, text: str) -> tuple[list[Row], WordOffsets]:
        """The same for a text of any length: overlapping rows, whose predictions in turn are those of the words."""
        return self._word_encoder.encode_windows(text)

    def label_id(self, where: str, name: str) -> int:
        """The id of a class, named in the field `where`; a DataError where no training row has it."""
        if name not in self.labels:
            raise DataError(
                f"label {name!r} does not occur in the training rows",
                where=where,
                fix=f"known: {', '.join(list(self.labels)[:8])}{' …' if len(self.labels) > 8 else ''}",
            )
        return self.labels[name]

    # Prompts with answers

    def encode_answers(self, record: Chat | Prompted | Text) -> Row:
        """The row of a record in which the answers carry the loss."""
        return self._answer_encoder.encode(record)

    def encode_pair(self, record: Preference) -> tuple[Row, Row]:
        """(chosen, rejected), each as `encode_answers` would encode it; Unusable where both have the same tokens."""
        return self._answer_encoder.encode_pair(record)

    def encode_completion(
        self, where: str, prompt: Prompt, completion: Answer, tools: Tools = (), variables: Variables | None = None
    ) -> Row:
        """The row of a prompt and a completion; of a conversation, only what follows the prompt carries loss."""
        return self._answer_encoder.encode_completion(Chat(where, (), tools, variables or {}), prompt, completion)

    def encoder_decoder_row(self, where: str, source: Ints, label: Ints, weight: NDArray[np.float32]) -> Row:
        """The row in which an encoder reads `source` [s] and a decoder predicts `label` [n]."""
        assert self.decoder_start is not None  # only objectives that require an encoder–decoder call this
        return self._limit.cut_source(where, encoder_decoder_row(self.decoder_start, source, label, weight))

    # Prompts to continue

    def encode_prompt(self, prompt: Prompt, tools: Tools = (), variables: Variables | None = None) -> list[int]:
        """The tokens that a continuation of a prompt is generated from."""
        return self._prompt_encoder.encode(prompt, tools, variables)

    def encode_prompt_row(self, record: Posed, room: int) -> Row:
        """The row of a prompt to which answers of up to `room` tokens will be generated."""
        return self._prompt_encoder.encode_row(record, room)

    @property
    def end_tokens(self) -> frozenset[int]:
        """Tokens that end an answer: the end of text, and what the chat template closes a turn with."""
        return self._prompt_encoder.end_tokens

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Texts that end an answer, where the chat template closes a turn with text that is not a token."""
        return self._prompt_encoder.stop_strings

    @property
    def stop_strings_in_use(self) -> tuple[str, ...]:
        """The stop strings if any conversation was encoded so far; none otherwise."""
        return self.stop_strings if self.tally.templated else ()

    # State of encoding

    def track_truncation(self) -> AbstractContextManager[Truncation]:
        """Count what is cut inside the `with` block; the count is set at its end, also after an error."""
        return self._limit.track()

    def encode_ahead(self, records: Sequence[Record]) -> Encodings:
        """Run the tokenizer on the texts of many records, on all cores; may run in another thread than encoding."""
        return self._encoder.encode_ahead(records)

    def precomputed(self, encodings: Encodings) -> AbstractContextManager[None]:
        """Encode with results of `encode_ahead` inside the `with` block."""
        return self._encoder.precomputed(encodings)

    def notes(self) -> list[tuple[str, str]]:
        """(subject, message) of what a user should know about the conversations encoded so far."""
        return list(self._answer_encoder.notes())
