"""A client of servers with OpenAI's chat completions API, for a model as a baseline or as a judge.

Only prompts are sent. The key is read from the environment variable OPENAI_API_KEY.
"""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from bottega.errors import RunError
from bottega.evaluation.cost import Cost
from bottega.records import Prompt

# Enough to keep a small server busy, and few enough not to be refused by a hosted one.
CONCURRENT_REQUESTS = 4

# The wait between attempts doubles from half a second.
MAX_ATTEMPTS, TIMEOUT_SECONDS = 4, 120.0

# HTTP status codes of a server that is busy, after which another attempt may succeed; 529 is Anthropic's "overloaded".
RETRY_CODES = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})


@dataclass(frozen=True)
class Reply:
    """A generated answer, the tokens read and written, and the seconds it took."""

    text: str
    # Token counts are the server's own, and 0 where it sends none.
    read: int
    written: int
    seconds: float


class Endpoint:
    """A model on a server, written as `http://host/v1#model`."""

    def __init__(self, spec: str) -> None:
        address, _, self.model = spec.partition("#")
        self.address, self.spec = address.rstrip("/"), spec

    @classmethod
    def parse(cls, spec: str) -> Endpoint:
        """The endpoint of `http://host/v1#model`; a RunError where the address or the model is missing."""
        if not spec.startswith(("http://", "https://")) or not spec.partition("#")[2]:
            raise RunError("missing address or #model of a server", where=spec, fix="write http://host:port/v1#model")
        return cls(spec)

    def ask(self, prompts: Sequence[Prompt], *, tokens: int, system: str = "") -> list[Reply | None]:
        """A greedy reply to each prompt; None where the server gave none.

        system  a system prompt before each
        """
        requests = [_chat_messages(prompt, system) for prompt in prompts]
        with ThreadPoolExecutor(CONCURRENT_REQUESTS) as pool:
            return list(pool.map(lambda messages: self._request(messages, tokens), requests))

    def _request(self, messages: list[dict[str, Any]], tokens: int) -> Reply | None:
        body = {"model": self.model, "messages": messages, "max_tokens": tokens, "temperature": 0}
        for attempt in range(MAX_ATTEMPTS):
            started = time.perf_counter()
            try:
                response = self._post(body)
            except urllib.error.HTTPError as error:
                if error.code not in RETRY_CODES:
                    what = f"the server answers {error.code}: {_error_message(error)}"
                    raise RunError(what, where=self.spec, fix=_suggest_fix(error.code)) from None
            except (OSError, http.client.HTTPException) as error:
                if attempt == MAX_ATTEMPTS - 1:
                    fix = "start the server, or correct the address: http://host:port/v1#model"
                    raise RunError(f"no server answers: {error}", where=self.spec, fix=fix) from None
            else:
                return _parse_reply(response, time.perf_counter() - started)
            time.sleep(0.5 * 2**attempt)
        return None

    def _post(self, body: Mapping[str, Any]) -> Any:
        # A local server needs no key.
        key = os.environ.get("OPENAI_API_KEY")
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        data = json.dumps(body).encode()
        request = urllib.request.Request(f"{self.address}/chat/completions", data, headers)
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            return json.load(response)


def mean_cost(replies: Sequence[Reply | None]) -> Cost | None:
    """The mean cost of a reply; None where there is none."""
    known = [reply for reply in replies if reply is not None]
    if not known:
        return None
    means = (sum(getattr(reply, name) for reply in known) / len(known) for name in ("read", "written", "seconds"))
    return Cost(len(known), *means)


def _chat_messages(prompt: Prompt, system: str) -> list[dict[str, Any]]:
    if isinstance(prompt, str):
        messages = [{"role": "user", "content": prompt}]
    else:
        messages = [message.turn() for message in prompt]
    return [{"role": "system", "content": system}, *messages] if system else messages


def _parse_reply(response: Any, seconds: float) -> Reply | None:
    try:
        text, usage = response["choices"][0]["message"]["content"], response.get("usage") or {}
    except (KeyError, IndexError, TypeError, AttributeError):
        return None
    return Reply(text or "", usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0), seconds)


def _error_message(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"]["message"])[:200]
    except Exception:  # the body of an error may be anything, or nothing
        return str(error.reason)


def _suggest_fix(code: int) -> str:
    if code in (401, 403):
        return "put the server's key in OPENAI_API_KEY"
    return "correct the address or the model's name: http://host:port/v1#model"
