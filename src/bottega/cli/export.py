"""The command that exports a trained model."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

import bottega
from bottega.cli.app import USE, Json, app, busy, errors


@app.command(rich_help_panel=USE)
def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A run, a folder or a hub id.")],
    to: Annotated[str, typer.Option(help="Format: merged, a transformers folder with the adapter in the weights.")],
    out: Annotated[Path, typer.Option(help="Folder to write; it must not exist.")],
    as_json: Json = False,
) -> None:
    """Write a trained model for other programs, proved to compute what was trained."""
    with errors(as_json), busy(f"exporting {model}"):
        result = bottega.export(model, out, format=to)
    if as_json:
        print(json.dumps(asdict(result) | {"folder": str(result.folder)}))
        return
    proof = result.proof
    print(f"{result.folder}: {result.bytes / 1e6:.1f} MB")
    print(
        f"compared with the trained model over {proof.tokens} tokens of {proof.rows} rows: logits differ by at most "
        f"{proof.difference:.1e}, the likeliest prediction is the same for {proof.agreement:.1%}"
    )
    print(f"try it: bottega generate {out} PROMPT")
