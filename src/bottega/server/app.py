"""The application: routes, and errors in the envelope of the API."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

import bottega
from bottega.server.errors import DO_NOT_RETRY, SERVER, ApiError, from_bottega, from_validation
from bottega.server.gate import REQUEST_ID, STUDIO, Gate, GateSettings
from bottega.server.jobs.rows import MIN_EXAMPLES
from bottega.server.jobs.runner import JobRunner
from bottega.server.request_log import LogRequests, RequestLog
from bottega.server.routes import (
    chat,
    completions,
    embeddings,
    files,
    fine_tuning,
    graders,
    health,
    labels,
    models,
    responses,
    uploads,
)
from bottega.server.state import State, digests_in_use
from bottega.server.storage import Storage
from bottega.server.upstream import PassOn, Upstream

ROUTERS = (
    chat.router,
    completions.router,
    embeddings.router,
    health.router,
    labels.router,
    models.router,
    responses.router,
)

# With something to remember.
BACKEND_ROUTERS = (files.router, fine_tuning.router, graders.router, uploads.router)


@dataclass(frozen=True)
class Backend:
    """What a server remembers: tables, the bytes of files, and jobs."""

    tables: State
    storage: Storage
    jobs: JobRunner

    def close(self) -> None:
        """Stop the jobs, which go on with the next server, and close the tables."""
        self.jobs.close()
        self.tables.close()


def open_backend(
    folder: Path,
    deployment: bottega.Deployment,
    *,
    database: str | None = None,
    min_examples: int = MIN_EXAMPLES,
    max_jobs: int = 1,
    runs_graders_code: bool = False,
    runs_jobs: bool = True,
) -> Backend:
    """The backend in a folder; jobs of an earlier server go on, and the models they have made are served.

    database      URL of the tables; by default a file in the folder
    min_examples, max_jobs, runs_graders_code: see `JobRunner`
    runs_jobs     whether jobs are trained, and what they have made is served
    """
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    tables, storage = State(folder, database), Storage(folder / "files")
    jobs = JobRunner(
        folder / "jobs",
        tables,
        storage,
        deployment.add,
        deployment.remove,
        max_jobs=max_jobs,
        min_examples=min_examples,
        runs_code=runs_graders_code,
    )
    if runs_jobs:
        with tables.transaction() as session:
            storage.clean(digests_in_use(session))
        jobs.start()
    return Backend(tables, storage, jobs)


def create_app(
    deployment: bottega.Deployment,
    gate: GateSettings | None = None,
    backend: Backend | None = None,
    *,
    upstreams: Mapping[str, Upstream] | None = None,
    log: RequestLog | None = None,
    studio: FastAPI | None = None,
) -> FastAPI:
    """The server of a deployment, as an ASGI application; without a backend it has no files and no jobs.

    upstreams  models of other servers, by the names that clients use here
    studio     the pages for people, with their API
    """
    # No pages of documentation: they load scripts from elsewhere.
    app = FastAPI(title="bottega", docs_url=None, redoc_url=None, openapi_url="/openapi.json")
    app.state.deployment = deployment
    app.state.backend = backend
    app.state.upstreams = dict.fromkeys(upstreams or {}, time.time())
    if studio is not None:
        # Before the others: its pages ask every second, and would each time be compared with all of those.
        app.mount(STUDIO, studio)
    for router in ROUTERS if backend is None else (*ROUTERS, *BACKEND_ROUTERS):
        app.include_router(router)
    if backend is not None:
        app.state.tables, app.state.storage, app.state.jobs = backend.tables, backend.storage, backend.jobs
    app.add_exception_handler(ApiError, _answer_api_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(bottega.BottegaError, _answer_bottega_error)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(Exception, _answer_failure)
    # The last one is asked first.
    if upstreams:
        app.add_middleware(PassOn, upstreams=upstreams)
    app.add_middleware(Gate, settings=gate or GateSettings())
    if log is not None:
        app.add_middleware(LogRequests, log=log)
    return app


def _response(error: ApiError) -> JSONResponse:
    return JSONResponse(error.envelope, error.status, error.headers)


async def _answer_api_error(request: Request, error: Any) -> JSONResponse:
    return _response(error)


async def _answer_invalid(request: Request, error: Any) -> JSONResponse:
    return _response(from_validation(error.errors()))


async def _answer_bottega_error(request: Request, error: Any) -> JSONResponse:
    return _response(from_bottega(error))


async def _answer_http_error(request: Request, error: Any) -> JSONResponse:
    message = f"Invalid URL ({request.method} {request.url.path})"
    if error.status_code == 405:
        message = f"Not allowed to {request.method} {request.url.path}."
    elif error.status_code != 404:
        message = str(error.detail)
    return _response(ApiError(error.status_code, message, headers=error.headers))


async def _answer_failure(request: Request, error: Any) -> JSONResponse:
    message = f"The server failed: {type(error).__name__}. Its log says more."
    # The gate, which gives every other answer its id, has been left with the error.
    headers = {**DO_NOT_RETRY, "x-request-id": str(request.scope.get(REQUEST_ID))}
    return _response(ApiError(500, message, type=SERVER, headers=headers))
