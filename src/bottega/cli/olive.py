"""Commands of Olive (microsoft/Olive), under the names and options that courses use."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

import bottega
from bottega.cli.app import USE, app, errors
from bottega.cli.export import print_export
from bottega.cli.flag_aliases import BOOLEANS
from bottega.cli.underscores import UnderscoreCommand

# Where `auto-opt` writes the adapter beside the graph, for programs that were written for Olive.
ADAPTER_WEIGHTS = "adapter_weights.onnx_adapter"
# The folder in the output of a run file with a folder of each pass that writes: in a run, other names have a meaning.
EXPORTS = "exports"

# Options without effect, and why; those in SWITCHES take no value.
IGNORED = {
    "--task": "it is known from the model",
    "--memory": "the format does not depend on it",
    "--num-splits": "a model is one graph",
    "--use-dynamo-exporter": "the exporter is chosen by the format",
    "--use-qdq-encoding": "blocks of weights share a scale",
    "--cost-model": "a model is one graph",
    "--torch-dtype": "weights are exported from float32",
    "--trust-remote-code": "code of a checkpoint is never run",
    "--disable-telemetry": "nothing is sent anywhere",
    "--save-config-file": "the command is the whole configuration",
    "--surgeries": "the graph is not changed",
    "--block-size": "blocks have 32 weights",
    "--quantize-int4": "adapters stay in float32",
    "--int4-block-size": "adapters stay in float32",
    "--int4-quantization-mode": "adapters stay in float32",
}
SWITCHES = {
    "--use-dynamo-exporter",
    "--use-qdq-encoding",
    "--trust-remote-code",
    "--disable-telemetry",
    "--save-config-file",
    "--quantize-int4",
}

Output = Annotated[Path, typer.Option("--output-path", "-o", help="Folder to write.")]
Precision = Annotated[str, typer.Option(help="Of the weights: fp32, int8 or int4.")]
LogLevel = Annotated[int, typer.Option(help="Above 2, what was compared is not shown.")]


class OliveCommand(UnderscoreCommand):
    """Reports the options of Olive that have no effect here."""

    def translate(self, args: list[str], switches: set[str]) -> list[str]:
        kept, remaining = list[str](), list(reversed(args))  # the next word is the last item
        while remaining:
            word = remaining.pop()
            option, equals, _ = word.partition("=")
            option = option.replace("_", "-")
            if option not in IGNORED:
                kept.append(word)
                continue
            print(f"note: {option} has no effect: {IGNORED[option]}", file=sys.stderr)
            if not equals and remaining and _is_value(option, remaining[-1]):
                remaining.pop()
        return kept


def _is_value(option: str, word: str) -> bool:
    return word.lower() in BOOLEANS if option in SWITCHES else not word.startswith("-")


@app.command("auto-opt", cls=OliveCommand, rich_help_panel=USE)
def auto_opt(
    model: Annotated[str, typer.Option("--model-name-or-path", "-m", help="A run, a folder or a hub id.")],
    output: Output = Path("optimized-model"),
    adapter: Annotated[
        str | None, typer.Option("--adapter-path", "-a", help="A LoRA adapter of the model, to be beside it.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu.")] = "cpu",
    provider: Annotated[str, typer.Option(help="CPUExecutionProvider.")] = "CPUExecutionProvider",
    precision: Precision = "fp32",
    use_ort_genai: Annotated[
        bool, typer.Option("--use-ort-genai", help="Write what ONNX Runtime GenAI runs, else a graph alone.")
    ] = False,
    use_model_builder: Annotated[bool, typer.Option("--use-model-builder", help="The same.")] = False,
    log_level: LogLevel = 3,
) -> None:
    """Write a model for ONNX Runtime into OUTPUT/model, as Olive's command of this name does."""
    with errors(False):
        if (device, provider) != ("cpu", "CPUExecutionProvider"):
            what = f"the graph is written for the processor, not for {provider} on {device}"
            raise bottega.RecipeError(what, where="--provider", fix="leave --device and --provider out")
        to = "genai" if use_ort_genai or use_model_builder else "onnx"
        _export(model, output / "model", to, precision, [] if adapter is None else [adapter], log_level)
        for path in (output / "model").glob("adapters/*/*.onnx_adapter"):
            partial = output / "model" / f".{ADAPTER_WEIGHTS}"
            shutil.copy(path, partial)
            partial.replace(output / "model" / ADAPTER_WEIGHTS)


@app.command("generate-adapter", cls=OliveCommand, rich_help_panel=USE)
def generate_adapter(
    base: Annotated[
        str, typer.Option("--base-model-path", "--model-name-or-path", "-m", help="A folder or a hub id of a model.")
    ],
    adapters: Annotated[
        str, typer.Option("--adapter-paths", "--adapter-path", "-a", help="LoRA adapters of it, commas between.")
    ],
    output: Output,
    adapter_format: Annotated[str, typer.Option(help="onnx_adapter.")] = "onnx_adapter",
    precision: Precision = "fp32",
    log_level: LogLevel = 3,
) -> None:
    """Write one graph with places for several adapters into OUTPUT/model, and a file of each adapter."""
    with errors(False):
        _check_adapter_format(adapter_format)
        names = [name.strip() for name in adapters.split(",") if name.strip()]
        _export(base, output / "model", "genai", precision, names, log_level)


@app.command("convert-adapters", cls=OliveCommand, rich_help_panel=USE)
def convert_adapters(
    adapter: Annotated[str, typer.Option("--adapter-path", "-a", help="A run or a folder of a LoRA adapter.")],
    output: Annotated[Path, typer.Option("--output-path", "-o", help="File to write.")],
    adapter_format: Annotated[str, typer.Option(help="onnx_adapter.")] = "onnx_adapter",
    dtype: Annotated[str, typer.Option(help="float32.")] = "float32",
    log_level: Annotated[int, typer.Option(help="Has no effect.")] = 3,
) -> None:
    """Write a LoRA adapter as a file for a graph of generate-adapter that has places of the same rank."""
    with errors(False):
        _check_adapter_format(adapter_format)
        if dtype not in ("float32", "fp32"):
            raise bottega.RecipeError(f"no adapter in {dtype}", where="--dtype", fix="leave it out: float32")
        path, rank = bottega.convert_adapter(adapter, output)
        print(f"{path}: rank {rank}")


def _check_adapter_format(name: str) -> None:
    if name != "onnx_adapter":
        fix = "leave it out: onnx_adapter; the adapter of a run is in safetensors already"
        raise bottega.RecipeError(f"no adapter format {name!r}", where="--adapter-format", fix=fix)


def _export(name: str, out: Path, to: str, precision: str | None, adapters: Sequence[str], log_level: int) -> None:
    from bottega.cli.console import progress

    with progress(f"exporting {name}") as tell:
        base = bottega.base_of_run(name)
        result = bottega.export(base, out, format=to, precision=precision, adapters=adapters, tell=tell)
    if log_level <= 2 or result.unproved:
        print_export(result)
    for adapter in result.adapters:
        print(f"adapter: {out / 'adapters' / adapter}")
    used = out / "adapters" / next(iter(result.adapters)) if result.adapters else out
    print(f"try it: {shlex.join(['bottega', 'run', str(used)])} PROMPT")


def run_file(path: Path, *, setup: bool) -> None:
    """Train and export as an Olive run file says; with `setup`, only say whether that is possible here."""
    from bottega.cli.olive_config import read_run_file

    with errors(False):
        asked = read_run_file(path)
        for name in asked.ignored:
            print(f"note: {name} has no effect", file=sys.stderr)
        # Before the training, not after it.
        for _, to, precision in asked.exports:
            bottega.check_format(to, precision)
        if setup:
            print("everything that it needs is installed")
            return
        if asked.finetune:
            # As if it had been typed: the options are checked and reported there.
            code = typer.main.get_command(app).main(["finetune", *asked.finetune], standalone_mode=False)
            if code:
                raise typer.Exit(code)
        for name, to, precision in asked.exports:
            model = str(asked.output) if asked.finetune else asked.model
            _export(model, asked.output / EXPORTS / name, to, precision, (), 2)
