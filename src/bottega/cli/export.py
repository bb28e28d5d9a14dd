"""The command that exports a trained model."""

from __future__ import annotations

import json
import shlex
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
            help="Format: merged or hf, a transformers folder with the adapter in the weights; onnx, a graph for ONNX "
            "Runtime; genai, one for ONNX Runtime GenAI; gguf, a file for llama.cpp; auto, of all formats and "
            "precisions the fastest here that is not noticeably worse."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write; it must not exist.")],
    quantize: Annotated[
        str | None,
        typer.Option(
            help="Precision of the weights: none, bf16, fp16, int8, int4, q8_0, q4_0 or q4_k_m; default: none."
        ),
    ] = None,
    adapters: Annotated[
        str,
        typer.Option(
            help="Runs or folders of LoRA adapters of MODEL, with commas between; each becomes a file beside it that "
            "its program switches to (gguf, genai, onnx)."
        ),
    ] = "",
    device: Annotated[
        str | None, typer.Option(help="Of auto: where the export will run, cpu (default) or cuda.")
    ] = None,
    rows: Annotated[
        int,
        typer.Option(help="Held-out rows of the run on which an export in 8 or 4 bits is evaluated; 0: none.", min=0),
    ] = 100,
    as_json: Json = False,
) -> None:
    """Write a trained model for other programs, proved to compute what was trained."""
    from bottega.cli.console import progress

    parts = [part.strip() for part in adapters.split(",") if part.strip()]
    with errors(as_json), progress(f"exporting {model}") as tell:
        result = bottega.export(
            model, out, format=to, precision=quantize, adapters=parts, device=device, rows=rows, tell=tell
        )
    if as_json:
        print(json.dumps(result.document()))
        return
    print_export(result)
    used = out / "adapters" / next(iter(result.adapters)) if result.adapters else out
    print(f"try it: {shlex.join(['bottega', 'run', str(used)])} PROMPT")


def print_export(result: bottega.Export) -> None:
    """What was written, what it was chosen from, and how it compares with what was trained."""
    if result.choice:
        _print_choice(result)
    print(f"{result.folder}: {result.format}, {result.precision}, {result.bytes / 1e6:.1f} MB")
    print(_describe(result.comparison))
    for name, comparison in result.adapters.items():
        print(f"adapter {name}: {_describe(comparison)}")


def _print_choice(result: bottega.Export) -> None:
    from bottega.cli.console import results_console, table

    def row(candidate: bottega.ExportCandidate) -> list[str]:
        names = [candidate.format, candidate.precision]
        if candidate.kl is None:
            return [*names, "", "", "", "", candidate.reason]
        numbers = [candidate.bytes / 1e6, candidate.memory / 1e6, candidate.tokens_per_second]
        chosen = (candidate.format, candidate.precision) == (result.format, result.precision)
        quality = candidate.quality[0].describe() if candidate.quality else ""
        note = "chosen: the fastest of those allowed" if chosen else candidate.reason or quality
        return [*names, *(f"{number:.1f}" for number in numbers), f"{candidate.kl:.1e}", note]

    columns = ["format", "precision", "MB", "memory, MB", "tokens/s", "KL, nats", ""]
    results_console().print(table("", columns, map(row, result.choice)))


def _describe(comparison: bottega.ExportComparison) -> str:
    proof = comparison.proof
    if proof is None:
        return f"UNPROVED: nothing has compared it with the trained model, as {comparison.unproved}"
    lines = [
        f"compared with the trained model over {proof.tokens} tokens of {proof.rows} rows: logits differ by at most "
        f"{proof.difference:.1e} (KL {proof.kl:.1e}), the likeliest prediction is the same for {proof.agreement:.1%}"
    ]
    if proof.generated:
        lines.append(f"{proof.greedy} of {proof.generated} generated tokens are the same")
    lines += [each.describe() for each in comparison.quality]
    if comparison.unmeasured:
        lines.append(f"the metrics of its task were not measured: {comparison.unmeasured}")
    return "\n".join(lines)
