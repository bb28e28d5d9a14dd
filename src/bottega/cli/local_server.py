"""The commands of jobs and files without a server: one that lives as long as the command, in the folder of a server."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

import bottega
from bottega.cli.api_client import ApiClient

Local = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Without a server: in the folder of one, as `bottega serve --folder` has it, or new.",
    ),
]


@contextmanager
def api_client(
    url: str,
    local: Path | None = None,
    database: str | None = None,
    *,
    models: Mapping[str, str] | None = None,
    runs_jobs: bool = False,
) -> Iterator[ApiClient]:
    """A client of a server, or of one in this process.

    local      the folder of a server in this process; None for the one at `url`
    database   URL of its tables, if they are not in the folder
    models     what it serves besides the models that its jobs have made
    runs_jobs  whether it trains; other servers of this folder may anyway
    """
    if local is None:
        yield ApiClient(url)
        return
    from bottega.server.app import create_app, open_backend
    from bottega.server.gate import GateSettings
    from bottega.server.keys import KeyRing
    from bottega.server.run import open_socket, run

    deployment, stop = bottega.Deployment(), threading.Event()
    for name, source in (models or {}).items():
        deployment.add(name, source)
    # The user's own graders; others of this machine do not know the key.
    backend = open_backend(local, deployment, database=database, runs_jobs=runs_jobs, runs_graders_code=True)
    listening, key = open_socket("127.0.0.1", 0), secrets.token_hex(32)
    served = create_app(deployment, GateSettings(KeyRing(key)), backend)
    thread = threading.Thread(target=run, args=(served, listening, stop.is_set), name="server")
    thread.start()
    try:
        yield ApiClient(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", key)
    finally:
        stop.set()
        thread.join()
        backend.close()
        deployment.close()
