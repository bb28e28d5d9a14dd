"""Any server that speaks the chat completions of OpenAI, as a contender or as a judge. Nothing of ours is kept there
but what it is asked; the key is read from OPENAI_API_KEY."""

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

CONCURRENT_REQUESTS = 4
"""Requests under way at the same time."""

MAX_ATTEMPTS, TIMEOUT_SECONDS = 4, 120.0
"""Tries of a request that the server is too busy for, and seconds until one is given up."""

RETRY_CODES = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Answers after which it is worth asking again."""


@dataclass(frozen=True)
class Reply:
    text: str
    read: int
    written: int
    seconds: float


class Endpoint:
    """A model of a server, given as `http://host/v1#model`."""

    def __init__(self, given: str) -> None:
        address, _, self.model = given.partition("#")
        self.address, self.given = address.rstrip("/"), given

    @classmethod
    def given_as(cls, text: str) -> Endpoint:
        """The endpoint of `http://host/v1#model`; a RunError where that is none."""
        if not text.startswith(("http://", "https://")) or not text.partition("#")[2]:
            raise RunError("no server's model", where=text, fix="write http://host:port/v1#model")
        return cls(text)

    def ask(self, prompts: Sequence[Prompt], *, tokens: int, system: str = "") -> list[Reply | None]:
        """A reply to each prompt, greedily; None for one that the server gave no answer to.

        system  what it is told before each
        """
        turns = [_chat_messages(prompt, system) for prompt in prompts]
        with ThreadPoolExecutor(CONCURRENT_REQUESTS) as pool:
            return list(pool.map(lambda one: self._one(one, tokens), turns))

    def _one(self, turns: list[dict[str, Any]], tokens: int) -> Reply | None:
        body = {"model": self.model, "messages": turns, "max_tokens": tokens, "temperature": 0}
        for turn in range(MAX_ATTEMPTS):
            started = time.perf_counter()
            try:
                found = self._post(body)
            except urllib.error.HTTPError as error:
                if error.code not in RETRY_CODES:
                    what = f"the server answers {error.code}: {_error_message(error)}"
                    raise RunError(what, where=self.given, fix=_suggest_fix(error.code)) from None
            except (OSError, http.client.HTTPException) as error:
                if turn == MAX_ATTEMPTS - 1:
                    fix = "start the server, or mend the address: http://host:port/v1#model"
                    raise RunError(f"no server answers: {error}", where=self.given, fix=fix) from None
            else:
                return _parse_reply(found, time.perf_counter() - started)
            time.sleep(0.5 * 2**turn)
        return None

    def _post(self, body: Mapping[str, Any]) -> Any:
        key = os.environ.get("OPENAI_API_KEY")
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        data = json.dumps(body).encode()
        request = urllib.request.Request(f"{self.address}/chat/completions", data, headers)
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            return json.load(answer)


def mean_cost(replies: Sequence[Reply | None]) -> Cost | None:
    """What an answer took, on average."""
    given = [reply for reply in replies if reply is not None]
    if not given:
        return None
    sums = (sum(getattr(reply, name) for reply in given) / len(given) for name in ("read", "written", "seconds"))
    return Cost(len(given), *sums)


def _chat_messages(prompt: Prompt, system: str) -> list[dict[str, Any]]:
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [one.turn() for one in prompt]
    return [{"role": "system", "content": system}, *turns] if system else turns


def _parse_reply(found: Any, seconds: float) -> Reply | None:
    try:
        text, usage = found["choices"][0]["message"]["content"], found.get("usage") or {}
    except (KeyError, IndexError, TypeError, AttributeError):
        return None
    return Reply(text or "", usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0), seconds)


def _error_message(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"]["message"])[:200]
    except Exception:  # a server may say anything, or nothing
        return str(error.reason)


def _suggest_fix(code: int) -> str:
    if code in (401, 403):
        return "put the server's key in OPENAI_API_KEY"
    return "mend the address or the model's name: http://host:port/v1#model"
