"""The application of the studio: pages out of the package, and their API; mounted into the server at `/studio`.

The pages hold no data and need no key; everything below `api/` does (`server.gate`).
"""

from __future__ import annotations

import importlib.util
import mimetypes
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import bottega
from bottega.studio.routes import data, explain, home, labels, models, recipes, runs, tasks, vocabularies
from bottega.studio.worker import describe
from bottega.studio.workshop import Workshop

STATIC = Path(__file__).parent / "static"

ROUTERS = (
    *(home.router, data.router, explain.router, labels.router, models.router, recipes.router, runs.router),
    *(tasks.router, vocabularies.router),
)

# Nothing from elsewhere, nothing inside another page; the charts set styles of their own.
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; object-src 'none'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    # Asked again every time, and answered with "as it was": a new version is seen at once.
    "cache-control": "no-cache",
}

# The status of an error that says nothing else.
STATUSES = {"OutOfMemory": 503, "Overloaded": 429, "Unexpected": 500}


def create_studio(workshop: Workshop) -> FastAPI:
    """The studio of a workshop, as an ASGI application."""
    # Some systems say that a script is plain text, which no browser runs.
    mimetypes.add_type("text/javascript", ".js")
    app = FastAPI(title="bottega studio", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.workshop = workshop
    for router in ROUTERS:
        app.include_router(router, prefix="/api")
    app.add_api_route("/plotly.js", _send_plotly, include_in_schema=False)
    app.mount("/", StaticFiles(directory=STATIC, html=True))
    app.add_middleware(_WithHeaders)
    app.add_exception_handler(bottega.BottegaError, _answer_error)
    app.add_exception_handler(OSError, _answer_error)
    app.add_exception_handler(Exception, _answer_error)
    app.add_exception_handler(KeyError, _answer_missing)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    return app


async def _send_plotly() -> Response:
    """Plotly, out of its installed package."""
    found = importlib.util.find_spec("plotly")
    if found is None or found.origin is None:
        return Response(status_code=404)
    return FileResponse(Path(found.origin).parent / "package_data" / "plotly.min.js", media_type="text/javascript")


class _WithHeaders:
    """Adds `HEADERS` to every answer, without the queue and the task of its own that Starlette's decorator takes."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers)


def _response(status: int, kind: str, what: str, where: str | None = None, fix: str | None = None) -> JSONResponse:
    # Also with the headers of all others: an error that nobody foresaw is answered outside of what adds them.
    return JSONResponse({"error": {"code": kind, "message": what, "where": where, "fix": fix}}, status, HEADERS)


async def _answer_error(request: Request, error: Any) -> JSONResponse:
    told = describe(error)
    return _response(STATUSES.get(told["kind"], 400), told["kind"], told["what"], told["where"], told["fix"])


async def _answer_missing(request: Request, error: Any) -> JSONResponse:
    return _response(404, "RunError", "there is no such task", where=str(error.args[0]), fix="choose one of the list")


async def _answer_http_error(request: Request, error: Any) -> JSONResponse:
    return _response(error.status_code, "Unexpected", f"{request.method} {request.url.path}: {error.detail}")


async def _answer_invalid(request: Request, error: Any) -> JSONResponse:
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"][1:])
    what, fix = bottega.describe_errors([problem])
    return _response(400, "RecipeError", what, where=where, fix=fix or "send what the pages send")
