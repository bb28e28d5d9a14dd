"""The command that opens a model up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

import bottega
from bottega.cli.app import LOOK, Json, app, busy, errors


@app.command(rich_help_panel=LOOK)
def explain(
    model: Annotated[str, typer.Argument(help="Run, folder or hub id.")],
    text: Annotated[str, typer.Argument(help="What it reads: at most 256 tokens.")],
    beside: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Compare with another model, such as the one before tuning.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("explanation.html"),
    as_json: Json = False,
) -> None:
    """Show what a model computes for a text, layer by layer, as a page: attention, logit lens, next tokens."""
    with errors(as_json):
        with busy(f"loading {model}"):
            explanation = bottega.explain(model, text, beside=beside)
        if as_json:
            print(json.dumps(explanation.document()))
            return
        from bottega.studio.standalone import render_page

        with bottega.open_atomic(out) as file:
            file.write(render_page(explanation).encode())
        likeliest = (explanation.document()["model"]["here"]["next"] or {"tokens": []})["tokens"][:3]
        for token in likeliest:
            print(f"next: {token['text']!r}, logit {token['logit']:.2f}")
        print(f"open it in a browser: {out}")
