"""Commands for the files of a server."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from bottega.cli.api_client import DEFAULT_URL, Url
from bottega.cli.app import USE, Json, app, errors
from bottega.cli.local_server import Local, api_client
from bottega.cli.server_state import Database

files_app = typer.Typer(help="Upload, list, read and delete the files of a server.", no_args_is_help=True)
app.add_typer(files_app, name="files", rich_help_panel=USE)

FileId = Annotated[str, typer.Argument(metavar="ID", help="As `list` shows it.")]


@files_app.command("create")
def create(
    file: Annotated[Path, typer.Argument(help="The file.", exists=True, dir_okay=False)],
    purpose: Annotated[str, typer.Option("--purpose", "-p", help="fine-tune, batch, user_data …")] = "fine-tune",
    url: Url = DEFAULT_URL,
    local: Local = None,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Upload a file."""
    with errors(as_json), api_client(url, local, database) as client:
        made = client.upload(file, purpose)
        print(json.dumps(made) if as_json else f"{made['id']}\nnext: bottega jobs create MODEL {made['id']}")


@files_app.command("list")
def list_all(url: Url = DEFAULT_URL, local: Local = None, database: Database = None, as_json: Json = False) -> None:
    """List all files, the newest first."""
    with errors(as_json), api_client(url, local, database) as client:
        files = list(client.pages("/files"))
        if as_json:
            print(json.dumps(files))
            return
        for file in files:
            print(f"{file['id']}  {file['bytes']:>14,}  {file['purpose']:<17}  {file['filename']}")


@files_app.command("content")
def content(file_id: FileId, url: Url = DEFAULT_URL, local: Local = None, database: Database = None) -> None:
    """Write the bytes of a file to standard output."""
    with errors(as_json=False), api_client(url, local, database) as client:
        data = client.content(f"/files/{file_id}/content")
        sys.stdout.flush()
        sys.stdout.buffer.write(data)


@files_app.command("delete")
def delete(file_id: FileId, url: Url = DEFAULT_URL, local: Local = None, database: Database = None) -> None:
    """Delete a file; a job that was created with it keeps what it reads."""
    with errors(as_json=False), api_client(url, local, database) as client:
        client.delete(f"/files/{file_id}")
        print(f"{file_id} is deleted")
