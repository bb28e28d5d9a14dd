"""The API of responses, in its smallest form: a text or messages in, one message out, nothing stored."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Request
from pydantic import Field

import bottega
from bottega.server import sse
from bottega.server.errors import ApiError, unsupported
from bottega.server.generation import Generation, begin, find_language_model, in_thread, unless_disconnected
from bottega.server.wire import SamplingFields, caller_of, model_of, new_id

router = APIRouter()

# Kinds of parts of a message that are text.
TEXT_PARTS = ("input_text", "output_text", "text")


class ResponsesRequest(SamplingFields):
    """The body of a request for a response."""

    refused: ClassVar[Collection[str]] = (
        "background", "conversation", "previous_response_id", "prompt", "tools", "image", "max_tool_calls",
    )  # fmt: skip

    input: str | Annotated[list[dict[str, Any]], Field(min_length=1, max_length=4096)]
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    stream: bool | None = None
    metadata: dict[str, str] | None = None
    text: dict[str, Any] | None = None

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The input as messages; raises an ApiError for anything but text."""
        first = [] if self.instructions is None else [{"role": "system", "content": self.instructions}]
        if isinstance(self.input, str):
            return [*first, {"role": "user", "content": self.input}]
        return [*first, *(_message(index, item) for index, item in enumerate(self.input))]


def _message(index: int, item: dict[str, Any]) -> dict[str, Any]:
    if item.get("type", "message") != "message":
        raise unsupported(f"input[{index}].type", "the input is messages")
    content = item.get("content")
    for part in content if isinstance(content, list) else []:
        if not isinstance(part, dict) or part.get("type") not in TEXT_PARTS:
            raise unsupported(f"input[{index}].content", "content is text")
    return {"role": item.get("role", "user"), "content": content}


@router.post("/v1/responses")
async def create_response(request: Request, body: ResponsesRequest) -> Any:
    """The assistant's answer."""
    body.check_refused()
    name = model_of(request, body.model)
    model = await find_language_model(request.app.state.deployment, name)
    format = (body.text or {}).get("format") or {"type": "text"}
    if not isinstance(format, dict) or format.get("type") not in ("text", "json_object", "json_schema"):
        raise ApiError(400, "Invalid value for 'text.format.type'.", param="text.format.type", code="invalid_value")
    schema = format.get("schema") if format["type"] == "json_schema" else None
    constrained = format["type"] != "text"
    grammar = await in_thread(lambda: model.grammars.compile(schema), "text.format") if constrained else None
    options = {"grammar": grammar, "caller": caller_of(request)}
    generation = await begin(
        model, [body.messages], body.sampling(body.max_output_tokens), param="input", options=options
    )
    answer = _Answer(body, name, generation, format)
    if body.stream:
        return await sse.stream(_events(answer))
    return await unless_disconnected(request, _whole(answer))


class _Answer:
    """A response while it is written."""

    def __init__(self, body: ResponsesRequest, name: str, generation: Generation, format: dict[str, Any]) -> None:
        self.body, self.name, self.generation, self.format = body, name, generation, format
        self.id, self.item, self.created = new_id("resp_"), new_id("msg_"), time.time()
        self.text, self.tokens, self.cut = "", 0, False

    async def pieces(self) -> AsyncIterator[str]:
        """The text that is added, piece by piece."""
        async for _, update in self.generation.updates():
            if isinstance(update, bottega.ScoredPiece):
                self.tokens += 1
                self.text += update.piece.text
                self.cut = update.piece.reason == "length"
                if update.piece.text:
                    yield update.piece.text

    def part(self, text: str) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def message(self, status: str, *content: dict[str, Any]) -> dict[str, Any]:
        return {"id": self.item, "type": "message", "role": "assistant", "status": status, "content": list(content)}

    def document(self, status: str) -> dict[str, Any]:
        """The response as it is now."""
        ended, read = status != "in_progress", self.generation.prompt_tokens
        usage = {
            "input_tokens": read,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": self.tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": read + self.tokens,
        }
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": self.body.instructions,
            "max_output_tokens": self.body.max_output_tokens,
            "model": self.name,
            "output": [self.message("completed" if status == "completed" else "incomplete", self.part(self.text))]
            if ended
            else [],
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "store": False,
            "temperature": 1.0 if self.body.temperature is None else self.body.temperature,
            "text": {"format": self.format},
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0 if self.body.top_p is None else self.body.top_p,
            "truncation": "disabled",
            "metadata": self.body.metadata or {},
            "usage": usage if ended else None,
        }

    @property
    def status(self) -> str:
        return "incomplete" if self.cut else "completed"


async def _whole(answer: _Answer) -> dict[str, Any]:
    async for _ in answer.pieces():
        pass
    return answer.document(answer.status)


async def _events(answer: _Answer) -> AsyncIterator[bytes]:
    count = 0

    def event(kind: str, **fields: Any) -> bytes:
        nonlocal count
        count += 1
        return sse.event({"type": kind, "sequence_number": count - 1, **fields}, kind)

    place = {"item_id": answer.item, "output_index": 0, "content_index": 0}
    yield event("response.created", response=answer.document("in_progress"))
    yield event("response.in_progress", response=answer.document("in_progress"))
    yield event("response.output_item.added", output_index=0, item=answer.message("in_progress"))
    yield event("response.content_part.added", **place, part=answer.part(""))
    async for text in answer.pieces():
        yield event("response.output_text.delta", **place, delta=text, logprobs=[])
    yield event("response.output_text.done", **place, text=answer.text, logprobs=[])
    yield event("response.content_part.done", **place, part=answer.part(answer.text))
    ended = answer.message("incomplete" if answer.cut else "completed", answer.part(answer.text))
    yield event("response.output_item.done", output_index=0, item=ended)
    yield event(f"response.{answer.status}", response=answer.document(answer.status))
