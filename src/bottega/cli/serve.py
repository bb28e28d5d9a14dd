"""The commands that serve models: to programs, and to people in a browser."""

from __future__ import annotations

import os
import threading
import webbrowser
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

import bottega
from bottega.cli import interruption
from bottega.cli.app import USE, Dtype, app, busy, errors
from bottega.cli.server_state import KEY_VARIABLE, SERVER_FOLDER, Database, Folder, name_and_source, open_tables

# Environment variable with the key for other servers.
UPSTREAM_KEY_VARIABLE = "BOTTEGA_UPSTREAM_KEY"

Host = Annotated[str, typer.Option(help="Address to listen on; another than this machine's own needs a key.")]
Port = Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535)]
AllowHost = Annotated[list[str] | None, typer.Option(help="Name by which clients reach this server. May be repeated.")]


@app.command(rich_help_panel=USE)
def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=]MODEL …",
            help="Runs, folders, exports or hub ids; NAME is what clients ask for. NAME=URL#MODEL: of another server.",
        ),
    ] = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    allow_host: AllowHost = None,
    folder: Folder = SERVER_FOLDER,
    database: Database = None,
    min_examples: Annotated[int, typer.Option(help="Rows that a training file must have.", min=1)] = 10,
    max_jobs: Annotated[
        int, typer.Option(help="Most fine-tuning jobs at once; one waits while there is too little memory.", min=1)
    ] = 1,
    allow_python: Annotated[
        bool, typer.Option("--allow-python", help="Run Python graders of clients, with limits, but as this user.")
    ] = False,
    log: Annotated[
        Path | None, typer.Option(help="File for one line a request, without prompts; - for standard error.")
    ] = None,
    log_bodies: Annotated[bool, typer.Option("--log-bodies", help="Log what is asked, too.")] = False,
    dtype: Dtype = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    max_rows: Annotated[int, typer.Option(help="Answers of a model that are computed together.", min=1)] = 64,
    max_tokens: Annotated[
        int, typer.Option(help="Tokens of a model whose keys and values are in memory.", min=256)
    ] = 65536,
    max_waiting: Annotated[int, typer.Option(help="Answers of a model that may wait.", min=1)] = 512,
    max_loaded: Annotated[int, typer.Option(help="Models in memory; adapters of one base count once.", min=1)] = 4,
) -> None:
    """Serve models over HTTP, as OpenAI's API does, and fine-tune them by jobs that clients submit.

    With BOTTEGA_API_KEY set, or keys made by `bottega keys`, clients must show one. Jobs go on when the server is
    started again.
    """
    limits = {"max_rows": max_rows, "max_tokens": max_tokens, "max_waiting": max_waiting, "max_loaded": max_loaded}
    options = ServerOptions(
        models or [],
        host,
        port,
        allow_host or [],
        folder,
        database,
        min_examples,
        max_jobs,
        runs_graders_code=allow_python,
        log=log,
        logs_bodies=log_bodies,
        settings={"dtype": dtype, "device": device, **limits},
    )
    with errors(as_json=False):
        _run_server(options, _announce)


@app.command(rich_help_panel=USE)
def studio(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=]MODEL …", help="Models to offer besides the runs here.")
    ] = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    allow_host: AllowHost = None,
    folder: Folder = SERVER_FOLDER,
    max_jobs: Annotated[int, typer.Option(help="Most tasks at once, such as training; others wait.", min=1)] = 1,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
) -> None:
    """Open the workshop in a browser: data, runs, curves and verdicts without writing a line.

    It works on the runs of the present folder, and without any network. What is under way goes on when it is closed.
    """
    options = ServerOptions(models or [], host, port, allow_host or [], folder, max_jobs=max_jobs)
    with errors(as_json=False):
        _run_server(options, partial(_announce_studio, browser=browser))


@dataclass(frozen=True)
class ServerOptions:
    """What a server is started with.

    settings  of its deployment, as in `bottega.DeploymentSettings`
    """

    models: list[str]
    host: str
    port: int
    allow_host: list[str]
    folder: Path
    database: str | None = None
    min_examples: int = 10
    max_jobs: int = 1
    runs_graders_code: bool = False
    log: Path | None = None
    logs_bodies: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


# Tells where a server is: called with its host, its port, the names of its models, and whether it needs a key.
Announce = Callable[[str, int, list[str], bool], None]


def _run_server(options: ServerOptions, announce: Announce) -> None:
    """Run a server until it is asked to stop."""
    if find_spec("fastapi") is None:
        fix = "pip install 'bottega[serve]'"
        raise bottega.ModelError("the packages of the server are not installed", where="bottega serve", fix=fix)
    from bottega.server.app import create_app, open_backend
    from bottega.server.gate import GateSettings
    from bottega.server.keys import KeyRing
    from bottega.server.request_log import STANDARD_ERROR, RequestLog
    from bottega.server.run import is_local, open_socket, run
    from bottega.server.upstream import Upstream, is_url
    from bottega.studio.app import create_studio
    from bottega.studio.workshop import Workshop

    host, folder, database = options.host, options.folder, options.database
    settings = bottega.DeploymentSettings(**options.settings)
    deployment = bottega.Deployment(settings)
    names = [name_and_source(model) for model in options.models]
    if repeated := [name for index, (name, _) in enumerate(names) if name in dict(names[:index])]:
        fix = "give one another name: NAME=MODEL"
        raise bottega.RecipeError(f"two models are called {repeated[0]}", where="MODEL", fix=fix)
    key = os.environ.get(UPSTREAM_KEY_VARIABLE)
    upstreams = {name: Upstream.parse(name, source, key) for name, source in names if is_url(source)}
    names = [(name, source) for name, source in names if name not in upstreams]
    for name, source in names:
        deployment.add(name, source)
    if not is_local(host) and not _has_keys(folder, database):
        what = "other machines could use this server without a key"
        fix = f"make one: bottega keys create NAME; or set {KEY_VARIABLE}, or listen on 127.0.0.1"
        raise bottega.RecipeError(what, where="--host", fix=fix)
    has_log = options.log is not None or options.logs_bodies
    requests = RequestLog(options.log or STANDARD_ERROR, with_bodies=options.logs_bodies) if has_log else None
    listening = open_socket(host, options.port)
    with busy("loading " + ", ".join(name for name, _ in names)):
        for name, _ in names[: settings.max_loaded]:
            if deployment.head(name) == "language":
                deployment.language(name)
    backend = open_backend(
        folder,
        deployment,
        database=database,
        min_examples=options.min_examples,
        max_jobs=options.max_jobs,
        runs_graders_code=options.runs_graders_code,
    )
    workshop = Workshop(Path("runs"), folder, deployment, options.max_jobs)
    workshop.open()
    keys = KeyRing(os.environ.get(KEY_VARIABLE) or None, backend.tables)
    gate = GateSettings(keys, frozenset({host, *options.allow_host}))
    studio_app = create_studio(workshop)
    served = create_app(deployment, gate, backend, upstreams=upstreams, log=requests, studio=studio_app)
    announce(host, listening.getsockname()[1], [*deployment.names, *upstreams], keys.is_required)
    with interruption.deferred():
        run(served, listening, interruption.stop_requested)
        workshop.close()
        backend.close()
        deployment.close()
        if requests is not None:
            requests.close()


def _has_keys(folder: Path, database: str | None) -> bool:
    """Whether clients must show a key."""
    if database is None and not folder.exists():
        return bool(os.environ.get(KEY_VARIABLE))
    from bottega.server.keys import KeyRing

    with open_tables(folder, database) as tables:
        return KeyRing(os.environ.get(KEY_VARIABLE) or None, tables).is_required


def _address(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _announce_studio(host: str, port: int, names: list[str], needs_key: bool, *, browser: bool) -> None:
    address = f"{_address(host, port)}/studio/"
    if advice := bottega.native_advice():
        print(advice)
    print(f"the studio: {address}; stop with Ctrl-C, what is under way goes on", flush=True)
    if browser:
        # In a thread: some browsers are waited for. The socket listens already, so that the page comes once it can.
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()


def _announce(host: str, port: int, names: list[str], needs_key: bool) -> None:
    address = f"{_address(host, port)}/v1"
    if advice := bottega.native_advice():
        print(advice)
    print(f"serving {', '.join(names) or 'no model yet'} at {address}; stop with Ctrl-C")
    print(f"for people, in a browser: {_address(host, port)}/studio/")
    print(f"for the openai client: OPENAI_BASE_URL={address} OPENAI_API_KEY={'your key' if needs_key else 'anything'}")
    if names:
        body = '{"model": "%s", "messages": [{"role": "user", "content": "Hello"}]}' % names[0]  # noqa: UP031
        key = f"${KEY_VARIABLE}" if needs_key else "anything"
        command = (
            f"curl {address}/chat/completions -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json'"
        )
        print(f"try it: {command} -d '{body}'", flush=True)
