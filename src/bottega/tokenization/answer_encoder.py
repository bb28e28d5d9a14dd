"""Conversations, prompts with completions, and preference pairs → rows in which the answers carry the loss.

Where the answers of a rendered conversation stand is found by `chat_spans`, for any chat template. What ends a turn is
part of an answer: a model that never trains on it never stops.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bottega.batch import Ints, Row
from bottega.records import Answer, Chat, Preference, Prompt, Prompted, Text, Unusable, answered
from bottega.tokenization.chat_spans import AnswerFinder
from bottega.tokenization.conversation_shape import TextSpan
from bottega.tokenization.encoder_decoder_rows import split_last_answer
from bottega.tokenization.length_limit import LengthLimit
from bottega.tokenization.special_tokens import SpecialTokens
from bottega.tokenization.text_encoder import TextEncoder


class AnswerEncoder:
    """Encodes records with answers.

    decoder_start  the token an encoder–decoder's decoder starts with; None for other models
    """

    def __init__(
        self,
        encoder: TextEncoder,
        special_tokens: SpecialTokens,
        limit: LengthLimit,
        finder: AnswerFinder,
        decoder_start: int | None,
    ) -> None:
        self._encoder, self._special_tokens, self._limit, self._finder = encoder, special_tokens, limit, finder
        self.decoder_start = decoder_start

    def encode(self, record: Chat | Prompted | Text) -> Row:
        """The row of a record in which its answers carry the loss."""
        if isinstance(record, Prompted):
            completion = record.completion
            rows = self._limit.fit(record.where, record.prompt, lambda prompt: [self._encode_text(prompt, completion)])
            return rows[0]
        if isinstance(record, Chat):
            self._finder.template.count_unused_fields(record)
            chat = record
            return self._limit.fit(
                chat.where, chat.messages, lambda messages: [self._encode_chat(replace(chat, messages=messages))]
            )[0]
        return self.encode(Prompted(record.where, record.text[: record.answer], record.text[record.answer :]))

    def encode_pair(self, record: Preference) -> tuple[Row, Row]:
        """(chosen, rejected) rows, with the same prompt; Unusable where both have the same tokens."""
        answers = record.chosen, record.rejected
        empty = Chat(record.where, (), record.tools, record.variables)
        # Both rows in one call: they must keep the same prompt, or the comparison would be about the prompts.
        with self._limit.track() as truncation:
            chosen, rejected = self._limit.fit(
                record.where,
                self._prepare_prompt(empty, record.prompt, record.chosen),
                lambda prompt: [self._encode_completion(empty, prompt, answer) for answer in answers],
            )
        if np.array_equal(chosen.tokens, rejected.tokens):
            raise Unusable("chosen and rejected are the same in every token" + truncation.note)
        return chosen, rejected

    def encode_completion(self, empty: Chat, prompt: Prompt, completion: Answer) -> Row:
        """The row of a prompt and a completion; of a conversation, only what follows the prompt carries loss.

        empty  the conversation without its messages
        """
        prompt = self._prepare_prompt(empty, prompt, completion)
        return self._limit.fit(
            empty.where, prompt, lambda shorter: [self._encode_completion(empty, shorter, completion)]
        )[0]

    def notes(self) -> Iterator[tuple[str, str]]:
        """(subject, message) of what a user should know about the conversations encoded so far."""
        tally, finder = self._finder.template.tally, self._finder
        if tally.unused_fields:
            counts = ", ".join(f"{name} ({count})" for name, count in tally.unused_fields.most_common(10))
            yield "template", f"the chat template ignores these fields (in so many rows): {counts}"
        for missing, count in tally.missing_openings.most_common(3):
            what = (
                f"the chat template's generation prompt ends with {missing!r}, which {count} answers in the rows lack"
            )
            yield "template", f"{what}: training goes without it, generation will include it"
        closing = finder.turn_end.strip() if tally.ended_as_text else ""
        eos = self._special_tokens.eos
        if closing and not finder.turn_end_tokens:
            last = (
                "the last turn also ends with the end-of-text token" if eos is not None else "there is no end of text"
            )
            yield "template", f"{closing!r}, which ends a turn, is not a token here: it is learned as text, and {last}"
        elif tally.ended_as_text and not finder.turn_end_tokens and eos is None:
            yield "template", "no token and no text ends a turn: the trained model will generate up to its limit"

    def _prepare_prompt(self, empty: Chat, prompt: Prompt, answer: Answer) -> Prompt:
        """The prompt without loss on its own answers; fields that the template ignores are counted on the way."""
        if not isinstance(prompt, str):
            self._finder.template.count_unused_fields(replace(empty, messages=(*prompt, *answered(answer))))
        return without_loss(prompt)

    def _encode_completion(self, empty: Chat, prompt: Prompt, completion: Answer) -> Row:
        if isinstance(prompt, str):
            assert isinstance(completion, str)
            return self._encode_text(prompt, completion)
        return self._encode_chat(replace(empty, messages=(*prompt, *answered(completion))))

    def _encode_chat(self, chat: Chat) -> Row:
        """The row of a conversation, however long."""
        text, spans = self._finder.find(chat)
        # `closed` is false where the end of turn is plain text: the model then needs a stop string.
        self._finder.template.tally.ended_as_text += not all(span.closed for span in spans)
        # The template has written the special tokens itself, BOS included.
        return self._encode_spans(text, spans, special=False)

    def _encode_text(self, prompt: str, completion: str) -> Row:
        prompt = self._encoder.remove_bos(prompt)
        # One text: prompt and completion encoded apart would split words at the seam, as no text is at generation.
        text = prompt + completion
        return self._encode_spans(text, [TextSpan(len(prompt), len(text), 1.0, closed=False)], special=True)

    def _encode_spans(self, text: str, spans: Sequence[TextSpan], *, special: bool) -> Row:
        """The row of `text` that predicts the tokens in `spans`, and an end of text after the last where it is open."""
        encoding, eos = self._encoder.encode(text, special=special), self._special_tokens.eos
        ids: list[int] = encoding.ids
        weight = np.zeros(len(ids) + 1, np.float32)  # [t + 1], with room for an end of text
        begin = end = 0
        for span in spans:
            begin, end = token_range(encoding, span)
            weight[begin:end] = span.weight
        # An answer at the end of the text, whose turn no token ends, is ended by EOS.
        if end and not span.closed and span.stop >= len(text.rstrip()) and ids[end - 1] != eos:
            ids, weight[end:] = [*ids[:end], *([] if eos is None else [eos])], span.weight
        row = predict_weighted(np.array(ids, np.int64), weight[: len(ids)])
        if not row.loss_count:
            raise Unusable("no token of an answer with a weight above 0")
        if self.decoder_start is None:
            return row
        if not begin:
            raise Unusable("no prompt for the encoder to read")
        return split_last_answer(row, self.decoder_start, self._special_tokens.frame[1])


def without_loss(prompt: Prompt) -> Prompt:
    """The same prompt, with no loss on the assistant's messages in it."""
    return prompt if isinstance(prompt, str) else tuple(replace(message, weight=0.0) for message in prompt)


def predict_weighted(ids: Ints, weight: np.ndarray) -> Row:
    """The row [t] that predicts each token of `ids` [t] whose weight [t] is above 0, at the token before it."""
    # The first token has none before it: it is never predicted, whatever its weight.
    at = np.flatnonzero(weight[1:])
    return Row(ids, at, ids[at + 1], weight[at + 1])


def token_range(encoding: Any, span: TextSpan) -> tuple[int, int]:
    """First token of a span of characters and the one after its last; (0, 0) where it has none."""
    if span.start < span.stop:
        begin, last = encoding.char_to_token(span.start), encoding.char_to_token(span.stop - 1)
        if begin is not None and last is not None:
            # The bytes of one character may be several tokens, of which char_to_token names the first.
            while (characters := encoding.token_to_chars(last + 1)) is not None and _begins_in(characters, span):
                last += 1
            return begin, last + 1
    # White space at an end of the span belongs to no token, or to one that the tokenizer reports as empty.
    inside = [
        token for token, offsets in enumerate(encoding.offsets) if offsets[1] > span.start and _begins_in(offsets, span)
    ]
    return (inside[0], inside[-1] + 1) if inside else (0, 0)


def _begins_in(offsets: tuple[int, int], span: TextSpan) -> bool:
    """Whether a token begins before the end of a span, or is empty there."""
    return offsets[0] < span.stop or offsets[0] == offsets[1] == span.stop
