"""A language model that generates text: `bottega.load(run)`.

model = bottega.load("runs/support-1")
print(model.chat([{"role": "user", "content": "Where is my parcel?"}]).text)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray

from bottega.batch import Row
from bottega.errors import DataError, ModelError
from bottega.inference.generator import Continuation, Writer
from bottega.inference.open_model import UNLIMITED, OpenedModel, find_model, open_model
from bottega.inference.token_constraints import ignored_settings
from bottega.models.generation_config import end_tokens
from bottega.models.scorer import check_token_ids, score_batches
from bottega.progress import ProgressCallback
from bottega.records import MAX_SHOWN, Message, Prompt, Unusable
from bottega.records.fields import require_string
from bottega.records.messages import parse_messages, parse_tools
from bottega.sampling import Sampling

# A conversation: messages, or mappings with role and content as OpenAI writes them.
Turns: TypeAlias = Sequence[Mapping[str, Any] | Message]

# Descriptions of functions, as OpenAI writes them.
FunctionTools: TypeAlias = Sequence[Mapping[str, Any]]


class LanguageModel:
    """A language model with its tokenizer, from a run, a folder or a hub id.

    name    the absolute path of the folder, or the hub id
    recipe  the recipe of the run; None if it is no run
    dtype   as requested, such as `auto`
    limit   the number of positions the model has; None if unlimited
    """

    def __init__(
        self,
        name: str,
        *,
        dtype: str = "auto",
        device: str = "auto",
        template: str | None = None,
        opened: OpenedModel | None = None,
    ) -> None:
        """A model by name.

        template  a chat template that replaces the tokenizer's
        opened    what to use instead of loading it, such as a base that it shares with others
        """
        source = find_model(name, "language")
        # An export has only the objective of a recipe, and no model that it could be compared with.
        self.name, self.recipe, self.dtype = source.name, source.recipe if source.is_run else None, dtype
        opened = opened or open_model(self.name, "language", dtype=dtype, device=device)
        opened.tokenizer.chat_template = template or opened.tokenizer.chat_template
        self.scorer, self.limit, self.codec = opened.scorer, opened.limit, opened.codec()
        config = self.scorer.network.generation_config
        ends = self.codec.end_tokens | end_tokens(config)
        self.writer = Writer(
            self.scorer.network,
            opened.tokenizer,
            ends,
            packed=self.scorer.fit.packed,
            config=config,
            reset_row_state=self.scorer.reset_row_state,
            prefix=opened.prefix,
            mark=self.scorer.mark_prompt,
        )

    @property
    def ignored_settings(self) -> dict[str, Any]:
        """The settings of the checkpoint's generation config that are not used: sampling settings and beam search."""
        return ignored_settings(self.scorer.network.generation_config)

    @property
    def model(self) -> Any:
        """The transformers model, or the PEFT model around it."""
        return self.scorer.model

    def generate(
        self, prompts: Sequence[str | Turns], settings: Sampling | None = None, *, continuations: int = 1
    ) -> list[list[Continuation]]:
        """`continuations` of each prompt: of a string more text, of a conversation the assistant's next answer."""
        ids, settings = self.prepare(prompts, settings or Sampling())
        return self.writer.write(ids, settings, continuations=continuations)

    def chat(self, turns: Turns, settings: Sampling | None = None) -> Continuation:
        """The assistant's next answer."""
        return self.generate([turns], settings)[0][0]

    def stream(self, prompt: str | Turns, settings: Sampling | None = None) -> Iterator[str]:
        """The text of one continuation, as soon as its characters are complete."""
        ids, settings = self.prepare([prompt], settings or Sampling())
        for piece in self.writer.stream(ids, settings):
            # A token may end within a character, or be the start of a stop string.
            if piece.text:
                yield piece.text

    def prepare(
        self, prompts: Sequence[str | Turns | Sequence[int]], settings: Sampling, tools: FunctionTools = ()
    ) -> tuple[list[list[int]], Sampling]:
        """(the tokens of prompts, the settings with which this model continues them).

        Token ids are taken as they are. The settings get the strings that end an answer of the chat template, and no
        more tokens than the model has positions left. Raises a DataError for a prompt that is empty, too long, or has
        characters or token ids that the model does not know.
        """
        ids = [_token_ids(prompt) or self.encode(cast(str | Turns, prompt), tools) for prompt in prompts]
        if any(not isinstance(prompt, str) and _token_ids(prompt) is None for prompt in prompts):
            settings = settings.model_copy(update={"stop": (*settings.stop, *self.codec.stop_strings)})
        return ids, self._with_limit(settings, ids)

    @torch.no_grad()
    def logp(self, rows: Sequence[Row], progress: ProgressCallback | None = None) -> NDArray[np.float64]:
        """[R] the log-probability of each row's labels in nats, summed by weight. Shared prefixes are computed once."""
        sums = np.empty(len(rows))
        for indices, batch in score_batches(rows, self.scorer, progress):
            sums[indices] = batch.sum_rows(batch.weight * self.scorer(batch, frozenset({"logp"}))["logp"]).cpu()
        return sums

    def room(self, prompt: str | Turns) -> int:
        """The number of tokens left for an answer to the prompt; below 1 if the prompt is too long."""
        return self._room(len(self.encode(prompt)))

    def encode(self, prompt: str | Turns, tools: FunctionTools = ()) -> list[int]:
        """The tokens of a prompt; a DataError if its text, or its chat template, has characters without tokens."""
        try:
            described = parse_tools("the conversation", {"tools": [dict(tool) for tool in tools]})
            return self.codec.encode_prompt(_parse_prompt(prompt), described)
        except Unusable as unusable:
            where = "the conversation, as its chat template renders it"
            fix = "write only what the model was trained on, or give a text: bottega generate"
            if isinstance(prompt, str):
                where, fix = f"the prompt {prompt[:MAX_SHOWN]!r}", "write only what the model was trained on"
            raise DataError(unusable.reason, where=where, fix=fix) from None

    def _room(self, prompt_length: int) -> int:
        """The number of tokens left after a prompt of so many."""
        limit = UNLIMITED if self.limit is None else self.limit
        if self.codec.decoder_start is None:
            return limit - prompt_length
        # An encoder–decoder has the positions twice: for the prompt, and for the answer after its start token.
        return limit - 1 if prompt_length <= limit else 0

    @property
    def origin(self) -> str | None:
        """The model that the run started from; None if it is no run, or trained from scratch."""
        if self.recipe is None:
            return None
        return self._continued_adapter or self.recipe.model.base

    @property
    def _continued_adapter(self) -> str | None:
        """The adapter that the run continued to train; None if it did not."""
        return self.recipe.adapter.start if self.recipe and self.recipe.adapter else None

    @contextlib.contextmanager
    def untuned(self) -> Iterator[LanguageModel]:
        """Inside, the model that this one was tuned from: this one with its adapter disabled, if that is the same."""
        # A continued adapter was part of the model that the run started from.
        if self.scorer.adapted is not None and self._continued_adapter is None:
            with self.scorer.adapted.disabled():
                yield self
            return
        yield self._original

    @cached_property
    def _original(self) -> LanguageModel:
        if self.origin is None:
            raise ModelError("nothing to compare with: it was not tuned from another model", where=self.name)
        # A template in the recipe belongs to the rows: they are rendered with it for any model.
        in_recipe = self.recipe is not None and self.recipe.data.template is not None
        template = self.codec.tokenizer.chat_template if in_recipe else None
        return LanguageModel(self.origin, dtype=self.dtype, template=template)

    def _with_limit(self, settings: Sampling, ids: Sequence[Sequence[int]]) -> Sampling:
        """The settings with no more tokens than the model has positions left after the longest prompt.

        Raises a DataError for a prompt that is empty, too long, or has token ids beyond the model's vocabulary.
        """
        longest = max(map(len, ids), default=0)
        room = self._room(longest)
        if not all(ids):
            raise DataError("the prompt is empty, and no token begins a text", where=self.name, fix="write some words")
        largest = max((*(max(prompt) for prompt in ids), *(token for token, _ in settings.logit_bias)), default=-1)
        check_token_ids(self.scorer.network.config, largest, self.name)
        if room < 1:
            raise DataError(
                f"a prompt of {longest} tokens, and the model has {self.limit} positions",
                where=self.name,
                fix="shorten the prompt",
            )
        return settings.model_copy(update={"tokens": min(settings.tokens, room)})


def load_language_model(name: str | Path, *, dtype: str = "auto", device: str = "auto") -> LanguageModel:
    """The language model of a run, a folder or a hub id; an adapter is put on its base."""
    return LanguageModel(str(name), dtype=dtype, device=device)


def _token_ids(prompt: str | Turns | Sequence[int]) -> list[int] | None:
    """The token ids that a prompt is given as; None for a text or a conversation."""
    if isinstance(prompt, str) or not prompt or not all(isinstance(token, int) for token in prompt):
        return None
    return [int(cast(int, token)) for token in prompt]


def _parse_prompt(prompt: str | Turns) -> Prompt:
    if isinstance(prompt, str):
        return require_string("the prompt", {"text": prompt}, "text", empty=True)
    messages = [turn.turn() if isinstance(turn, Message) else dict(turn) for turn in prompt]
    return parse_messages("the conversation", {"messages": messages})
