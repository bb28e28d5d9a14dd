"""A client of the server's API, for the commands that use a server: `bottega jobs` and `bottega files`."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

import bottega
from bottega.cli.server_state import KEY_VARIABLE

DEFAULT_URL = "http://127.0.0.1:8000/v1"

# Variables with the key, as the openai client and `bottega serve` read it.
KEY_VARIABLES = ("OPENAI_API_KEY", KEY_VARIABLE)

TIMEOUT_SECONDS = 120.0

Url = Annotated[str, typer.Option(envvar="OPENAI_BASE_URL", help="Address of the server.")]


class ApiClient:
    """Requests to a server; what it refuses is raised as a RunError with its own words.

    key  what is shown there; by default what the environment has
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = url.rstrip("/")
        self.key = key or next((os.environ[name] for name in KEY_VARIABLES if os.environ.get(name)), "anything")

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        """The JSON document at a path."""
        given = {name: value for name, value in query.items() if value is not None}
        return dict(json.loads(self._request("GET", f"{path}?{urllib.parse.urlencode(given)}" if given else path)))

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What the server answers to a JSON document."""
        data = None if body is None else json.dumps(body).encode()
        return dict(json.loads(self._request("POST", path, data, {"content-type": "application/json"})))

    def delete(self, path: str) -> dict[str, Any]:
        """What the server says of what it has deleted."""
        return dict(json.loads(self._request("DELETE", path)))

    def content(self, path: str) -> bytes:
        """The bytes at a path."""
        return self._request("GET", path)

    def upload(self, file: Path, purpose: str) -> dict[str, Any]:
        """Upload a file."""
        boundary = secrets.token_hex(16)
        name = file.name.replace('"', "%22")
        head = (
            f'--{boundary}\r\ncontent-disposition: form-data; name="purpose"\r\n\r\n{purpose}\r\n'
            f'--{boundary}\r\ncontent-disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
        )
        body = head.encode() + file.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
        return dict(json.loads(self._request("POST", "/files", body, headers)))

    def pages(self, path: str, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """What a list has, newest first, in as many requests as it takes."""
        after, left = None, limit
        while left is None or left > 0:
            page = self.get(path, after=after, limit=min(left or 100, 100))
            yield from page["data"]
            if not page["has_more"]:
                return
            after = page["last_id"]
            left = None if left is None else left - len(page["data"])

    def _request(self, method: str, path: str, data: bytes | None = None, headers: Mapping[str, str] = {}) -> bytes:
        sent = {"authorization": f"Bearer {self.key}", **headers}
        request = urllib.request.Request(self.url + path, data, sent, method=method)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
                return bytes(response.read())
        except urllib.error.HTTPError as error:
            raise bottega.RunError(_words(error), where=f"{method} {self.url}{path}", fix=_fix(error.code)) from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            fix = "start it: bottega serve MODEL; or name another with --url"
            reason = getattr(error, "reason", error)
            raise bottega.RunError(f"no server answers: {reason}", where=self.url, fix=fix) from None


def _words(error: urllib.error.HTTPError) -> str:
    """The server's own words for an error."""
    try:
        return str(json.loads(error.read())["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the server answers {error.code}"


def _fix(code: int) -> str:
    if code in (401, 403):
        return f"set {KEY_VARIABLES[0]} to a key for this; make one: bottega keys create NAME"
    return "list what there is: bottega jobs list, bottega files list" if code == 404 else "correct the request"
