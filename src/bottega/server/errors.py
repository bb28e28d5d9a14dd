"""Errors as OpenAI's API writes them: one envelope for all, which its client reads."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import bottega

# The types of errors that clients know.
INVALID, SERVER, RATE = "invalid_request_error", "server_error", "rate_limit_error"

# For the client: this will fail again in the same way.
DO_NOT_RETRY = {"x-should-retry": "false"}


class ApiError(Exception):
    """An answer that is an error.

    param  the field of the request that is wrong, as `messages[0].content`
    code   what a program can react to
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        type: str = INVALID,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.type, self.headers = type, dict(headers or {})

    @property
    def envelope(self) -> dict[str, Any]:
        """The body of the answer."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}

    def event(self) -> bytes:
        """The error inside a stream that has begun."""
        return b"data: " + json.dumps(self.envelope).encode() + b"\n\n"


def unsupported(param: str, why: str = "") -> ApiError:
    """A field that means something, but nothing that this server can do."""
    message = f"Unsupported parameter: '{param}' is not supported by this server{why and ': ' + why}."
    return ApiError(400, message, param=param, code="unsupported_parameter")


def no_such_model(name: str) -> ApiError:
    """The hosted API's own words."""
    message = f"The model `{name}` does not exist or you do not have access to it."
    return ApiError(404, message, code="model_not_found")


def words_of(error: bottega.BottegaError, folder: Path | None = None) -> str:
    """What an error says, without paths of the server; of files in `folder` their names."""
    where = error.where or ""
    where = where if folder is None else where.replace(f"{folder}{os.sep}", "")
    words = error.what if error.fix is None else f"{error.what}; {error.fix}"
    return words if not where or where.startswith(os.sep) else f"{where}: {words}"


def from_bottega(error: bottega.BottegaError, param: str | None = None) -> ApiError:
    """An error of bottega; `param`: the field that it is about."""
    message = words_of(error)
    if isinstance(error, bottega.Overloaded):
        headers = {"retry-after-ms": str(int(1000 * error.seconds)), "retry-after": str(max(1, round(error.seconds)))}
        return ApiError(429, message, code="rate_limit_exceeded", type=RATE, headers=headers)
    if isinstance(error, bottega.OutOfMemory):
        return ApiError(503, message, code="out_of_memory", type=SERVER, headers=DO_NOT_RETRY)
    if isinstance(error, bottega.DataError | bottega.ModelError | bottega.RecipeError | bottega.RunError):
        return ApiError(400, message, param=param)
    return ApiError(500, message, type=SERVER, headers=DO_NOT_RETRY)


def from_validation(problems: Sequence[Mapping[str, Any]]) -> ApiError:
    """The first problem that pydantic found in a request."""
    problem = problems[0]
    # The first part says where the request has it: body, query, path.
    place = [part for part in problem["loc"][1:] if not str(part).startswith(("function-", "tagged-union"))]
    param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".") or None
    if problem["type"] == "json_invalid":
        return ApiError(400, "We could not parse the JSON body of your request.")
    if problem["type"] == "missing":
        message = f"Missing required parameter: '{param}'." if param else "The request has no body."
        return ApiError(400, message, param=param, code="missing_required_parameter")
    # A union reports one problem for each of its types; their places differ only behind the value's own.
    alike = [one for one in problems if one["loc"][:2] == problem["loc"][:2] and one["input"] is problem["input"]]
    message = f"Invalid value for '{param}': {'; '.join(filter(None, bottega.describe_errors(alike)))}."
    return ApiError(400, message, param=param, code="invalid_value")
