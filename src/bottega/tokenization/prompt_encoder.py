"""Prompts → tokens that a model continues, and what ends the answer it writes."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from bottega.batch import Row
from bottega.errors import DataError
from bottega.records import Chat, Posed, Prompt, Tools, Unusable, Variables
from bottega.tokenization.answer_encoder import without_loss
from bottega.tokenization.chat_spans import AnswerFinder
from bottega.tokenization.chat_template import message_dicts
from bottega.tokenization.length_limit import LengthLimit
from bottega.tokenization.special_tokens import SpecialTokens
from bottega.tokenization.text_encoder import TextEncoder


class PromptEncoder:
    """Encodes prompts for generation.

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

    def encode(self, prompt: Prompt, tools: Tools = (), variables: Variables | None = None) -> list[int]:
        """The tokens of a prompt to continue: a text as it is, or a conversation up to its next answer."""
        source_end = self._special_tokens.frame[1].tolist() if self.decoder_start is not None else []
        if not isinstance(prompt, str):
            chat = Chat("the conversation", prompt, tools, variables or {})
            text = self._finder.render_prompt(message_dicts(prompt), chat)
            return [*self._encoder.encode(text, special=False).ids, *source_end]
        ids: list[int] = self._encoder.encode(self._encoder.remove_bos(prompt)).ids
        eos = self._special_tokens.eos
        # A tokenizer may add EOS to every text, after which nothing is generated; one written in the prompt stays.
        adds_eos = ids and ids[-1] == eos and not prompt.endswith(self._encoder.tokenizer.eos_token or "\0")
        ids = ids[:-1] if adds_eos else ids
        if self.decoder_start is not None:
            return [*ids, *source_end]
        # An empty prompt still needs a token to predict from.
        bos: int | None = self._encoder.tokenizer.bos_token_id
        start = bos if bos is not None else eos
        return ids or ([] if start is None else [start])

    def encode_row(self, record: Posed, room: int) -> Row:
        """The row of a prompt to generate answers of up to `room` tokens for; it predicts their first token."""
        prompt: Any = without_loss(record.prompt)
        if not isinstance(prompt, str):
            self._finder.template.count_unused_fields(Chat(record.where, prompt, record.tools, record.variables))
        ids = np.array(self.encode(prompt, record.tools, record.variables), np.int64)
        # A decoder's answer stands in the same row as its prompt; an encoder–decoder's does not.
        limit = self._limit.max_length - (room if self.decoder_start is None else 0)
        if limit < 1:
            raise DataError(
                f"answers of {room} tokens leave no room for a prompt in a max_length of {self._limit.max_length}",
                where="data.max_length",
                fix="raise it, or lower objective.tokens",
            )
        if not len(ids):
            raise Unusable("empty prompt")
        if len(ids) > limit:
            self._limit.check(record.where, len(ids) + self._limit.max_length - limit, prompt=True)
            # Token counts of a rendered conversation are not additive: shorten and encode until it fits.
            while prompt is not None and len(ids) > limit:
                prompt = self._limit.shorten_prompt(prompt, len(ids) - limit)
                if prompt is not None:
                    ids = np.array(self.encode(prompt, record.tools, record.variables), np.int64)
            if len(ids) > limit:
                raise Unusable(f"longer than max_length {self._limit.max_length}")
            self._limit.tally.truncated += 1
        tokens = ids if self.decoder_start is None else np.array([self.decoder_start])
        # The label is unknown: 0 stands in, and is never used.
        at, weight = np.array([len(tokens) - 1]), np.ones(1, np.float32)
        source = None if self.decoder_start is None else ids
        return Row(tokens, at, np.zeros(1, np.int64), weight, source=source)

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        """Tokens that end an answer: the end of text, and what the chat template closes a turn with."""
        eos = self._special_tokens.eos
        return self._finder.end_tokens | (frozenset() if eos is None else {eos})

    @cached_property
    def stop_strings(self) -> tuple[str, ...]:
        """Texts that end an answer, where the chat template closes a turn with text that is not a token."""
        closing = "" if self._finder.turn_end_tokens else self._finder.turn_end.strip()
        return (closing,) if closing else ()
