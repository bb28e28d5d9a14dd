"""The command that exports a trained model."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

import bottega
from bottega.cli.app import USE, Json, app, errors


@app.command(rich_help_panel=USE)
def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A run, a folder or a hub id.")],
    to: Annotated[
        str,
        typer.Option(
            help="Format: merged, a transformers folder with the adapter in the weights; onnx, a graph for ONNX "
            "Runtime; genai, one for ONNX Runtime GenAI; gguf, a file for llama.cpp."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write; it must not exist.")],
    quantize: Annotated[
        str | None,
        typer.Option(
            help="Precision of the weights: none, bf16, fp16, int8, int4, q8_0, q4_0 or q4_k_m; default: none."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a trained model for other programs, proved to compute what was trained."""
    from bottega.cli.console import progress

    with errors(as_json), progress(f"exporting {model}") as tell:
        result = bottega.export(model, out, format=to, precision=quantize, tell=tell)
    if as_json:
        print(json.dumps(asdict(result) | {"folder": str(result.folder)}))
        return
    print(f"{result.folder}: {result.bytes / 1e6:.1f} MB")
    print(_describe(result))
    print(f"try it: bottega run {out} PROMPT")


def _describe(result: bottega.Export) -> str:
    proof = result.proof
    if proof is None:
        return f"UNPROVED: nothing has compared it with the trained model, as {result.unproved}"
    lines = [
        f"compared with the trained model over {proof.tokens} tokens of {proof.rows} rows: logits differ by at most "
        f"{proof.difference:.1e} (KL {proof.kl:.1e}), the likeliest prediction is the same for {proof.agreement:.1%}"
    ]
    if proof.generated:
        lines.append(f"{proof.greedy} of {proof.generated} generated tokens are the same")
    return "\n".join(lines)
