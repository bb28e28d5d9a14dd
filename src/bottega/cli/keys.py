"""Commands for the keys of a server."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from bottega.cli.app import USE, Json, app, errors
from bottega.cli.server_state import SERVER_FOLDER, Database, Folder, open_tables

keys_app = typer.Typer(help="Make, list and revoke the keys of a server.", no_args_is_help=True)
app.add_typer(keys_app, name="keys", rich_help_panel=USE)


@keys_app.command("create")
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who or what it is for.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="infer, train or admin; default: all. May be repeated.")
    ] = None,
    per_minute: Annotated[int | None, typer.Option(help="Most requests a minute.", min=1)] = None,
    folder: Folder = SERVER_FOLDER,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Make a key. It is printed now, and cannot be read again: only its hash is kept."""
    with errors(as_json), open_tables(folder, database) as tables:
        from bottega.server.keys import SCOPES, make_key

        key = make_key(tables, name, scope or SCOPES, per_minute)
        print(json.dumps({"key": key}) if as_json else key)


@keys_app.command("list")
def list_all(folder: Folder = SERVER_FOLDER, database: Database = None, as_json: Json = False) -> None:
    """List all keys, without what would open anything."""
    with errors(as_json), open_tables(folder, database) as tables:
        from bottega.server.keys import list_keys

        keys = list_keys(tables)
        if as_json:
            print(json.dumps(keys))
        elif not keys:
            print("no keys: every key is accepted; make one: bottega keys create NAME")
        else:
            from bottega.cli.console import results_console, table

            columns = ["id", "name", "scopes", "a minute", "made", "revoked"]
            results_console().print(table("", columns, [_cells(key) for key in keys]))


def _cells(key: dict[str, Any]) -> list[str]:
    made, revoked = (_day(key[name]) for name in ("created_at", "revoked_at"))
    return [key["id"], key["name"], " ".join(key["scopes"]), str(key["per_minute"] or "any"), made, revoked]


def _day(seconds: int | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


@keys_app.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `list` shows it.")],
    folder: Folder = SERVER_FOLDER,
    database: Database = None,
) -> None:
    """Refuse a key from now on; a server that runs notices within a second."""
    with errors(as_json=False), open_tables(folder, database) as tables:
        from bottega.server.keys import revoke_key

        revoke_key(tables, key_id)
        print(f"{key_id} is revoked")
