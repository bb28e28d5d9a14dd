"""Completions of plain text, and the scores of given texts, by which evaluation harnesses compare answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Request
from pydantic import Field

import bottega
from bottega.server import sse
from bottega.server.errors import ApiError, unsupported
from bottega.server.generation import FINISH_REASONS, Generation, begin, find_language_model, unless_disconnected
from bottega.server.wire import SamplingFields, StreamOptions, caller_of, model_of, new_id, now, usage_of

router = APIRouter()

TokenIds = Annotated[list[Annotated[int, Field(ge=0, lt=1 << 31)]], Field(min_length=1)]
MANY = Field(min_length=1, max_length=2048)

# Completions of one request.
MOST_CHOICES = 2048

# The hosted API's own default.
DEFAULT_TOKENS = 16


class CompletionRequest(SamplingFields):
    """The body of a completion."""

    refused: ClassVar[Collection[str]] = ("suffix",)

    prompt: str | TokenIds | Annotated[list[str], MANY] | Annotated[list[TokenIds], MANY]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=0)
    n: int | None = Field(None, ge=1, le=128)
    best_of: int | None = Field(None, ge=1, le=20)
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=20)

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, of which there may be one."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        several = [prompt for prompt in self.prompt if not isinstance(prompt, int)]
        return list(several) or [[token for token in self.prompt if isinstance(token, int)]]


@dataclass
class _Logprobs:
    """The scores of the tokens of a text, as this route writes them."""

    model: bottega.ServedLanguageModel
    offset: int = 0
    tokens: list[str] = field(default_factory=list)
    token_logprobs: list[float | None] = field(default_factory=list)
    top_logprobs: list[dict[str, float] | None] = field(default_factory=list)
    text_offset: list[int] = field(default_factory=list)

    def add(self, token: int, score: bottega.TokenScore | None) -> None:
        text = self._text(token)
        self.tokens.append(text)
        self.token_logprobs.append(None if score is None else score.logprob)
        top = None if score is None else {self._text(one): value for one, value in reversed(score.top)}
        # Two tokens may have one text, and the chosen one is among the likeliest or beside them.
        self.top_logprobs.append(top if top is None or score is None else {**top, text: score.logprob})
        self.text_offset.append(self.offset)
        self.offset += len(text)

    def take(self) -> dict[str, Any]:
        """What was added since the last call."""
        names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
        taken = {name: getattr(self, name) for name in names}
        for name in names:
            setattr(self, name, [])
        return taken

    def _text(self, token: int) -> str:
        data = self.model.token_bytes(token)
        try:
            return data.decode()
        except UnicodeDecodeError:  # a part of a character
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


@dataclass
class _Text:
    """One completion while it is written."""

    logprobs: _Logprobs | None
    text: str = ""
    finish: str | None = None
    tokens: int = 0

    def document(self, index: int, text: str) -> dict[str, Any]:
        logprobs = None if self.logprobs is None else self.logprobs.take()
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": self.finish}


@router.post("/v1/completions")
async def create_completion(request: Request, body: CompletionRequest) -> Any:
    """Continuations of texts."""
    body.check_refused()
    count = body.n or 1
    if body.best_of not in (None, count):
        raise unsupported("best_of", "it must equal n")
    if body.stream and body.stream_options is None and body.max_tokens == 0 and not body.echo:
        raise ApiError(400, "There is nothing to stream: 'max_tokens' is 0.", param="max_tokens", code="invalid_value")
    if len(body.prompts) * count > MOST_CHOICES:
        message = f"{len(body.prompts)} prompts with {count} completions each are more than {MOST_CHOICES}."
        raise ApiError(400, message, param="n", code="invalid_value")
    name = model_of(request, body.model)
    model = await find_language_model(request.app.state.deployment, name)
    tokens = DEFAULT_TOKENS if body.max_tokens is None else body.max_tokens
    options = {
        "continuations": count,
        "logprobs": body.logprobs,
        "score_prompt": bool(body.echo) and body.logprobs is not None,
        "score_only": tokens == 0,
        "caller": caller_of(request),
    }
    prompts = body.prompts
    generation = await begin(model, prompts, body.sampling(tokens), param="prompt", options=options)
    texts = [_Text(None if body.logprobs is None else _Logprobs(model)) for _ in range(len(prompts) * count)]
    writer = _Writer(generation, texts, model, count, echo=prompts if body.echo else None)
    head = {"id": new_id("cmpl-"), "object": "text_completion", "created": now(), "model": name}
    if body.stream:
        usage = body.stream_options is not None and body.stream_options.include_usage
        return await sse.stream(_chunks(writer, head, with_usage=usage))
    return await unless_disconnected(request, _whole(writer, head))


class _Writer:
    """Turns the updates of a generation into the texts of its choices.

    count  continuations of a prompt
    echo   the prompts, if the texts begin with them
    """

    def __init__(
        self,
        generation: Generation,
        texts: Sequence[_Text],
        model: bottega.ServedLanguageModel,
        count: int,
        *,
        echo: Sequence[str | list[int]] | None,
    ) -> None:
        self.generation, self.texts, self.model, self.count, self.echo = generation, texts, model, count, echo
        self.scored: dict[int, list[bottega.TokenScore]] = {}

    @property
    def usage(self) -> Any:
        return usage_of(self.generation.prompt_tokens, sum(text.tokens for text in self.texts))

    async def pieces(self) -> AsyncIterator[tuple[int, str]]:
        """(index of the choice, text that is added to it), until all are whole."""
        begun: set[int] = set()
        async for number, update in self.generation.updates():
            if isinstance(update, bottega.PromptScores):
                self.scored[number] = update.scores
                continue
            index = number * self.count + update.piece.index
            text = self.texts[index]
            said = "" if index in begun else self._begin(number, index)
            begun.add(index)
            text.tokens += 1
            if text.logprobs is not None:
                text.logprobs.add(update.piece.token, update.score)
            text.finish = None if update.piece.reason is None else FINISH_REASONS[update.piece.reason]
            said += update.piece.text
            text.text += said
            yield index, said
        for index in (index for index in range(len(self.texts)) if index not in begun):
            text = self.texts[index]
            text.text, text.finish = self._begin(index // self.count, index), "length"
            yield index, text.text

    def _begin(self, number: int, index: int) -> str:
        """What a choice begins with: its prompt, if it is echoed."""
        if self.echo is None:
            return ""
        tokens, logprobs = self.generation.prompts[number], self.texts[index].logprobs
        if logprobs is not None:
            # Nothing precedes the first token, so that it has no probability.
            for token, score in zip(tokens, [None, *self.scored.get(number, [])], strict=True):
                logprobs.add(token, score)
        prompt = self.echo[number]
        if isinstance(prompt, str):
            return prompt
        return b"".join(map(self.model.token_bytes, prompt)).decode(errors="replace")


async def _whole(writer: _Writer, head: dict[str, Any]) -> dict[str, Any]:
    async for _ in writer.pieces():
        pass
    choices = [text.document(index, text.text) for index, text in enumerate(writer.texts)]
    return {**head, "choices": choices, "usage": writer.usage}


async def _chunks(writer: _Writer, head: dict[str, Any], *, with_usage: bool) -> AsyncIterator[bytes]:
    more: dict[str, Any] = {"usage": None} if with_usage else {}
    async for index, said in writer.pieces():
        text = writer.texts[index]
        if said or text.logprobs is not None or text.finish is not None:
            yield sse.event({**head, "choices": [text.document(index, said)], **more})
    if with_usage:
        yield sse.event({**head, "choices": [], "usage": writer.usage})
    yield sse.DONE
