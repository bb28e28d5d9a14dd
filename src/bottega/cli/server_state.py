"""Where the commands find what a server remembers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

# Environment variable with the key that opens everything.
KEY_VARIABLE = "BOTTEGA_API_KEY"

SERVER_FOLDER = Path("bottega-server")

Folder = Annotated[
    Path, typer.Option(help="Folder of the server, for uploaded files, fine-tuning jobs and the models they make.")
]
Database = Annotated[
    str | None, typer.Option(help="URL of a database instead of a file in the folder: postgresql+psycopg://…")
]


@contextmanager
def open_tables(folder: Path, database: str | None) -> Iterator[Any]:
    """The tables of a server, made if there are none."""
    from bottega.server.state import State

    folder.mkdir(parents=True, exist_ok=True)
    tables = State(folder.absolute(), database)
    try:
        yield tables
    finally:
        tables.close()


def name_and_source(model: str) -> tuple[str, str]:
    """The name and the source of `NAME=MODEL`; without a name, that of the folder, or the hub id."""
    name, sign, source = model.partition("=")
    if sign and "/" not in name:
        return name, source
    path = Path(model).expanduser()
    return (path.resolve().name if path.exists() else model), model
