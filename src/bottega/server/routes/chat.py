"""Chat completions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter, Request
from pydantic import Field

import bottega
from bottega.server import sse
from bottega.server.errors import ApiError, unsupported
from bottega.server.generation import (
    FINISH_REASONS,
    Generation,
    begin,
    find_language_model,
    in_thread,
    unless_disconnected,
)
from bottega.server.wire import (
    SamplingFields,
    StreamOptions,
    WireModel,
    caller_of,
    model_of,
    new_id,
    now,
    usage_of,
)

router = APIRouter()

Messages = Annotated[list[dict[str, Any]], Field(min_length=1, max_length=4096)]


class JsonSchema(WireModel):
    name: str = "answer"
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(WireModel):
    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchema | None = None


class ChatRequest(SamplingFields):
    """The body of a chat completion."""

    refused: ClassVar[Collection[str]] = (
        "audio", "functions", "function_call", "moderation", "prediction", "web_search_options",
    )  # fmt: skip

    messages: Messages
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_completion_tokens: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    n: int | None = Field(None, ge=1, le=128)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: Annotated[list[dict[str, Any]], Field(max_length=128)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: ResponseFormat | None = None
    modalities: list[str] | None = None


@dataclass
class ChatChoice:
    """One answer while it is written.

    reader  finds the calls of tools in it; None if there are no tools
    """

    reader: bottega.ToolCallReader | None = None
    text: str = ""
    finish: str | None = None
    tokens: int = 0
    scores: list[dict[str, Any]] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)

    def add(self, scored: bottega.ScoredPiece) -> str:
        """Take a piece, and return the text that it adds to what is said."""
        piece = scored.piece
        self.tokens += 1
        said = piece.text if self.reader is None else self.reader.push(piece.text)
        if piece.reason is not None:
            self.finish = FINISH_REASONS[piece.reason]
            if self.reader is not None:
                more, calls = self.reader.end()
                said += more
                self.calls = [
                    {
                        "id": new_id("call_"),
                        "type": "function",
                        "function": {"name": call.name, "arguments": call.arguments},
                    }
                    for call in calls
                ]
                self.finish = "tool_calls" if calls else self.finish
        self.text += said
        return said


@router.post("/v1/chat/completions")
async def create_chat_completion(request: Request, body: ChatRequest) -> Any:
    """The assistant's next message."""
    _check(body)
    deployment: bottega.Deployment = request.app.state.deployment
    name = model_of(request, body.model)
    model = await find_language_model(deployment, name)
    tools = (body.tools or []) if body.tool_choice != "none" else []
    readers = await in_thread(lambda: [_reader(model, tools) for _ in range(body.n or 1)], "tools")
    grammar, wanted = None, body.response_format
    if wanted is not None and wanted.type != "text":
        schema = None if wanted.json_schema is None else wanted.json_schema.schema_
        grammar = await in_thread(lambda: model.grammars.compile(schema), "response_format")
    options = {
        "tools": tools,
        "continuations": body.n or 1,
        "logprobs": (body.top_logprobs or 0) if body.logprobs else None,
        "grammar": grammar,
        "caller": caller_of(request),
    }
    settings = body.sampling(body.max_completion_tokens or body.max_tokens)
    generation = await begin(model, [body.messages], settings, param="messages", options=options)
    choices = [ChatChoice(reader) for reader in readers]
    head = {"id": new_id("chatcmpl-"), "created": now(), "model": name, "system_fingerprint": None}
    if body.stream:
        usage = body.stream_options is not None and body.stream_options.include_usage
        return await sse.stream(_chunks(generation, choices, model, head, with_usage=usage))
    return await unless_disconnected(request, _whole(generation, choices, model, head))


def _check(body: ChatRequest) -> None:
    body.check_refused()
    if body.modalities not in (None, [], ["text"]):
        raise unsupported("modalities", "answers are text")
    if body.top_logprobs and not body.logprobs:
        raise ApiError(400, "'top_logprobs' needs 'logprobs' to be true.", param="top_logprobs", code="invalid_value")
    if body.tool_choice not in (None, "none", "auto"):
        raise unsupported("tool_choice", "it may be 'auto' or 'none'")
    wanted = body.response_format
    if (
        wanted is not None
        and wanted.type == "json_schema"
        and (not wanted.json_schema or not wanted.json_schema.schema_)
    ):
        message = "Missing required parameter: 'response_format.json_schema.schema'."
        raise ApiError(400, message, param="response_format.json_schema.schema", code="missing_required_parameter")
    for index, turn in enumerate(body.messages):
        content = turn.get("content")
        for part in content if isinstance(content, list) else []:
            if not isinstance(part, dict) or part.get("type") not in ("text", "refusal"):
                raise unsupported(f"messages[{index}].content", "content is text")


def _reader(model: bottega.ServedLanguageModel, tools: list[dict[str, Any]]) -> bottega.ToolCallReader | None:
    names = [
        tool["function"]["name"]
        for tool in tools
        if isinstance(tool.get("function"), dict) and tool["function"].get("name")
    ]
    if len(names) < len(tools):
        raise bottega.DataError(
            "a tool that is no function with a name", where="tools", fix='write {"type": "function", …}'
        )
    return model.call_reader(names) if tools else None


async def _whole(
    generation: Generation, choices: list[ChatChoice], model: bottega.ServedLanguageModel, head: dict[str, Any]
) -> dict[str, Any]:
    """The answer at once."""
    async for _, update in generation.updates():
        if isinstance(update, bottega.ScoredPiece):
            choice = choices[update.piece.index]
            choice.add(update)
            choice.scores += [score_of(model, update.score)] if update.score else []
    return {
        **head,
        "object": "chat.completion",
        "choices": [_choice_document(index, choice) for index, choice in enumerate(choices)],
        "usage": usage_of(generation.prompt_tokens, sum(choice.tokens for choice in choices)),
    }


def _choice_document(index: int, choice: ChatChoice) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
    if choice.calls:
        message |= {"content": choice.text or None, "tool_calls": choice.calls}
    logprobs = {"content": choice.scores, "refusal": None} if choice.scores else None
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": choice.finish}


async def _chunks(
    generation: Generation,
    choices: list[ChatChoice],
    model: bottega.ServedLanguageModel,
    head: dict[str, Any],
    *,
    with_usage: bool,
) -> AsyncIterator[bytes]:
    """The answer piece by piece."""
    more: dict[str, Any] = {"usage": None} if with_usage else {}

    def chunk(index: int, delta: dict[str, Any], finish: str | None = None, logprobs: Any = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return sse.event({**head, "object": "chat.completion.chunk", "choices": [choice], **more})

    begun: set[int] = set()
    async for _, update in generation.updates():
        if not isinstance(update, bottega.ScoredPiece):
            continue
        index = update.piece.index
        choice = choices[index]
        if index not in begun:
            begun.add(index)
            yield chunk(index, {"role": "assistant", "content": "", "refusal": None})
        said = choice.add(update)
        logprobs = {"content": [score_of(model, update.score)], "refusal": None} if update.score else None
        if said or logprobs:
            yield chunk(index, {"content": said}, logprobs=logprobs)
        if choice.finish is not None:
            if choice.calls:
                yield chunk(
                    index, {"tool_calls": [{"index": place, **call} for place, call in enumerate(choice.calls)]}
                )
            yield chunk(index, {}, choice.finish)
    if with_usage:
        usage = usage_of(generation.prompt_tokens, sum(choice.tokens for choice in choices))
        yield sse.event({**head, "object": "chat.completion.chunk", "choices": [], "usage": usage})
    yield sse.DONE


def score_of(model: bottega.ServedLanguageModel, score: bottega.TokenScore) -> dict[str, Any]:
    """The log-probability of a token, with the likeliest in its place."""

    def entry(token: int, logprob: float) -> dict[str, Any]:
        data = model.token_bytes(token)
        return {"token": data.decode(errors="replace"), "logprob": logprob, "bytes": list(data)}

    return {
        **entry(score.token, score.logprob),
        "top_logprobs": [entry(token, logprob) for token, logprob in score.top],
    }
