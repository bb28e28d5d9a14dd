"""Parts of requests that several routes share."""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, TypeAlias

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

import bottega
from bottega.server.errors import ApiError, unsupported
from bottega.server.gate import AZURE_MODEL

# Seconds within which a request that is sent again makes nothing new.
RETRY_SECONDS = 600

# At a temperature of 1 a likeliest token is certain below this.
LEAST_TOP_P = 1e-6

Stop: TypeAlias = str | Annotated[list[str], Field(max_length=16)] | None
LogitBias: TypeAlias = dict[Annotated[int, Field(ge=0)], Annotated[float, Field(ge=-100, le=100)]]


class WireModel(BaseModel):
    """A request. Fields that nothing here knows are ignored, as the API does.

    refused  fields that would change the answer in a way that this server cannot
    """

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    refused: ClassVar[Collection[str]] = ()

    def check_refused(self) -> None:
        """Raise an ApiError for the first refused field that has a value."""
        for name in self.refused:
            value = (self.model_extra or {}).get(name)
            if value not in (None, False, [], {}):
                raise unsupported(name)


class SamplingFields(WireModel):
    """How tokens are chosen; `top_k`, `min_p` and `repetition_penalty` are ours."""

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = None
    stop: Stop = None
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: LogitBias | None = None
    top_k: int | None = Field(None, ge=0)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, ge=0.1, le=10)
    user: str | None = None

    def sampling(self, tokens: int | None) -> bottega.Sampling:
        """The settings of these fields; `tokens`: most tokens of an answer, None for as many as there is room for."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        top_p = 1.0 if self.top_p is None else self.top_p
        return bottega.Sampling(
            tokens=max(1, 1 << 30 if tokens is None else tokens),
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=max(top_p, LEAST_TOP_P),
            top_k=self.top_k or 0,
            min_p=self.min_p or 0.0,
            repetition_penalty=self.repetition_penalty,
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            logit_bias=tuple((self.logit_bias or {}).items()),
            stop=tuple(stop for stop in stops if stop),
            seed=secrets.randbits(63) if self.seed is None else self.seed % (1 << 63),
        )


class StreamOptions(WireModel):
    include_usage: bool = False


def is_retry(request: Request) -> bool:
    """Whether the client sends this again, because it had no answer."""
    return request.headers.get("x-stainless-retry-count", "0") != "0"


def new_id(prefix: str) -> str:
    """A new id of some kind of object."""
    return prefix + secrets.token_hex(12)


def now() -> int:
    """Seconds since 1970, as the API counts them."""
    return int(time.time())


def model_of(request: Request, model: str | None) -> str:
    """The model that a request asks for: in Azure's paths, its deployment."""
    name: str | None = request.scope.get(AZURE_MODEL) or model
    if not name:
        raise ApiError(400, "you must provide a model parameter", param="model", code="missing_required_parameter")
    return name


def caller_of(request: Request) -> str:
    """Who asks: callers are served in turn."""
    client = request.client.host if request.client else ""
    return f"{client} {request.headers.get('authorization', '')}"


def usage_of(prompt: int, completion: int) -> Mapping[str, Any]:
    """The tokens of a request, as the API reports them."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
