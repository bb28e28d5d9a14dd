"""A trained language model to talk to: `bottega.load(run)`.

model = bottega.load("runs/support-1")
print(model.chat([{"role": "user", "content": "Where is my parcel?"}]).text)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from bottega.batch import Row
from bottega.errors import DataError, ModelError
from bottega.inference.generator import Continuation, Writer
from bottega.inference.token_constraints import unheeded
from bottega.models import heads
from bottega.models.config import decoder_start_token, position_limit
from bottega.models.scorer import check_token_ids, score_batches
from bottega.models.scorer_setup import load_scorer
from bottega.models.source import locate
from bottega.models.tokenizer import load_tokenizer
from bottega.progress import ProgressCallback
from bottega.records import MAX_SHOWN, Message, Prompt, Unusable
from bottega.records.fields import require_string
from bottega.records.messages import parse_messages
from bottega.runs.resolve import resolve
from bottega.sampling import Sampling
from bottega.tokenization.codec import Codec

# A conversation: messages, or mappings with role and content as OpenAI writes them.
Turns: TypeAlias = Sequence[Mapping[str, Any] | Message]


class LanguageModel:
    """A causal language model with its tokenizer, ready to continue prompts.

    name    the run, folder or hub id it came from
    recipe  of the run it came from, if it came from one
    dtype   as asked for
    """

    def __init__(self, name: str, *, dtype: str = "auto", device: str = "auto", template: str | None = None) -> None:
        """template  a chat template in place of its own"""
        self.name, self.dtype = absolute(name), dtype
        self.recipe = resolve(self.name).recipe
        if self.recipe is not None and self.recipe.objective.head != "language":
            fix = heads.load(self.recipe.objective.head).command
            raise ModelError(f"trained with {self.recipe.objective.kind}, it writes no text", where=self.name, fix=fix)
        tokenizer = load_tokenizer(locate(self.name).tokenizer)
        tokenizer.chat_template = template or tokenizer.chat_template
        self.scorer = load_scorer(self.name, dtype, device, tokenizer=tokenizer)
        network = self.scorer.network
        self.limit = position_limit(network.config)
        start = decoder_start_token(network.config)
        self.codec = Codec(tokenizer, max_length=self.limit or 1 << 30, too_long="error", decoder_start=start)
        declared = network.generation_config.eos_token_id
        ends = self.codec.end_tokens | frozenset(declared if isinstance(declared, list) else [declared]) - {None}
        config = network.generation_config
        packed, reset = self.scorer.fit.packed, self.scorer.reset_row_state
        self.writer = Writer(network, tokenizer, ends, packed=packed, config=config, reset_row_state=reset)

    @property
    def unheeded(self) -> dict[str, Any]:
        """What the checkpoint says of writing that is not done: how to draw, unless asked for, and beams."""
        return unheeded(self.scorer.network.generation_config)

    @property
    def model(self) -> Any:
        """The transformers model, or the PEFT model around it."""
        return self.scorer.model

    def generate(
        self, prompts: Sequence[str | Turns], settings: Sampling | None = None, *, continuations: int = 1
    ) -> list[list[Continuation]]:
        """`continuations` of each prompt; a string goes on as text, a conversation with the assistant's answer."""
        settings = self._stopping(prompts, settings or Sampling())
        ids = [self._tokens(prompt) for prompt in prompts]
        return self.writer.write(ids, self._fitting(ids, settings), continuations=continuations)

    def chat(self, turns: Turns, settings: Sampling | None = None) -> Continuation:
        """The assistant's next answer."""
        return self.generate([turns], settings)[0][0]

    def stream(self, prompt: str | Turns, settings: Sampling | None = None) -> Iterator[str]:
        """One continuation, piece by piece, whole characters only."""
        ids = [self._tokens(prompt)]
        settings = self._stopping([prompt], settings or Sampling())
        for piece in self.writer.stream(ids, self._fitting(ids, settings)):
            if piece.text:
                yield piece.text

    @torch.no_grad()
    def logp(self, rows: Sequence[Row], far: ProgressCallback | None = None) -> NDArray[np.float64]:
        """The log-probability of each row's labels, summed by weight; rows share what they begin with."""
        found = np.empty(len(rows))
        for numbers, batch in score_batches(rows, self.scorer, far):
            found[numbers] = batch.sum_rows(batch.weight * self.scorer(batch, frozenset({"logp"}))["logp"]).cpu()
        return found

    def room(self, prompt: str | Turns) -> int:
        """Tokens left for an answer before the model's last position; below 1 when the prompt is too long."""
        return self._room(len(self._tokens(prompt)))

    def _tokens(self, prompt: str | Turns) -> list[int]:
        """The tokens of a prompt; a DataError where its letters, or those of the chat template around it, have none."""
        try:
            return self.codec.encode_prompt(_prompt(prompt))
        except Unusable as unusable:
            text = isinstance(prompt, str)
            raise DataError(
                unusable.reason,
                where=f"the prompt {prompt[:MAX_SHOWN]!r}"
                if text
                else "the conversation, as the chat template writes it",
                fix="write only what the model was trained on" + ("" if text else ", or a text: bottega generate"),
            ) from None

    def _room(self, prompt: int) -> int:
        """The same of a prompt of so many tokens; an encoder–decoder reads it elsewhere than it writes."""
        limit = self.limit or 1 << 30
        return limit - prompt if self.codec.decoder_start is None else limit - 1 if prompt <= limit else 0

    @property
    def origin(self) -> str | None:
        """What the run started from; None when it is no run, or began from nothing."""
        if self.recipe is None:
            return None
        return self._continued or self.recipe.model.base

    @property
    def _continued(self) -> str | None:
        """The adapter the run went on with, if there was one already."""
        return self.recipe.adapter.start if self.recipe and self.recipe.adapter else None

    @contextlib.contextmanager
    def untuned(self) -> Iterator[LanguageModel]:
        """Inside, the model this one was tuned from."""
        if self.scorer.adapted is not None and self._continued is None:
            with self.scorer.adapted.disabled():
                yield self
            return
        yield self._original

    @cached_property
    def _original(self) -> LanguageModel:
        if self.origin is None:
            raise ModelError("nothing to compare with: it was not tuned from another model", where=self.name)
        # A template that the recipe names is how its rows are written, for whichever model reads them.
        named = self.recipe is not None and self.recipe.data.template is not None
        template = self.codec.tokenizer.chat_template if named else None
        return LanguageModel(self.origin, dtype=self.dtype, template=template)

    def _stopping(self, prompts: Sequence[str | Turns], settings: Sampling) -> Sampling:
        """The settings with the texts that end an answer, where that is what a conversation is continued by."""
        answers = not all(isinstance(prompt, str) for prompt in prompts)
        return settings.model_copy(update={"stop": (*settings.stop, *self.codec.stop_strings)}) if answers else settings

    def _fitting(self, ids: Sequence[Sequence[int]], settings: Sampling) -> Sampling:
        """The settings with no more tokens than the model has positions for."""
        longest = max(map(len, ids), default=0)
        room = self._room(longest)
        if not all(ids):
            raise DataError("an empty prompt, and no token begins a text", where=self.name, fix="write some words")
        most = max((token for one in ids for token in one), default=-1)
        check_token_ids(self.scorer.network.config, most, self.name)
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


def _prompt(prompt: str | Turns) -> Prompt:
    if isinstance(prompt, str):
        return require_string("the prompt", {"text": prompt}, "text", empty=True)
    given = [turn.turn() if isinstance(turn, Message) else dict(turn) for turn in prompt]
    return parse_messages("the conversation", {"messages": given})


def absolute(name: str) -> str:
    """A folder by its whole path; else a hub id as it is."""
    path = Path(name).expanduser()
    looks_like_one = name.startswith((".", "/", "~"))
    if looks_like_one and not path.is_dir():
        raise ModelError("no such folder", where=name, fix="name a run, a folder or a hub id; list runs: bottega runs")
    return str(path.absolute()) if path.exists() else name
