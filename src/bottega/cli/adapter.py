"""Commands for trained adapters: which there are, how they differ, several as one, and which one is served."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

import bottega
from bottega.cli.api_client import DEFAULT_URL, ApiClient, Url
from bottega.cli.app import USE, Json, app, errors
from bottega.cli.export import print_export

adapter_app = typer.Typer(help="List, compare, combine, merge and switch trained adapters.", no_args_is_help=True)
app.add_typer(adapter_app, name="adapter", rich_help_panel=USE)

Out = Annotated[Path, typer.Option(help="Folder to write; it must not exist.")]


@adapter_app.command("list")
def list_all(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of runs or of adapters.")] = Path("runs"),
    as_json: Json = False,
) -> None:
    """List the adapters in a folder: of its runs, and in folders of their own."""
    with errors(as_json):
        found = bottega.list_adapters(folder)
    if as_json:
        print(json.dumps([asdict(info) for info in found]))
    elif not found:
        print(f"no adapters in {folder}; train one: bottega init sft, with the section adapter")
    else:
        from bottega.cli.console import results_console, table

        rows = [[info.name, info.kind, info.size, info.base, f"{info.bytes / 1e6:.2f}"] for info in found]
        results_console().print(table("", ["adapter", "kind", "size", "base", "MB"], rows))


@adapter_app.command()
def compare(
    names: Annotated[list[str], typer.Argument(metavar="ADAPTERS", help="Runs or folders of LoRA adapters.")],
    as_json: Json = False,
) -> None:
    """Show how far LoRA adapters of one base change it, and whether in the same direction."""
    with errors(as_json):
        found = bottega.compare_adapters(names)
    if as_json:
        print(json.dumps(found.document()))
        return
    from bottega.cli.console import results_console, table

    columns = ["adapter", "size of its update", *(f"cosine with {name}" for name in found.names)]
    rows = [
        [name, f"{size:.3g}", *(f"{cosine:.3f}" for cosine in cosines)]
        for name, size, cosines in zip(found.names, found.sizes, found.cosines, strict=True)
    ]
    results_console().print(table(f"updates of {found.base}", columns, rows))
    most = max(found.layers, key=lambda layer: abs(found.layers[layer]))
    print(f"{found.names[0]} and {found.names[1]} are most alike in {most}: cosine {found.layers[most]:.3f}")


@adapter_app.command()
def combine(
    names: Annotated[
        list[str],
        typer.Argument(metavar="ADAPTERS", help="Runs or folders of LoRA adapters, each with its weight: runs/a=0.5."),
    ],
    out: Out,
    method: Annotated[
        str,
        typer.Option(
            help="cat: exact, the ranks add up; svd: the best of a smaller --rank; ties, dare: a part of the entries."
        ),
    ] = "cat",
    rank: Annotated[int | None, typer.Option(help="Rank of the result; default: the sum of the ranks.")] = None,
    density: Annotated[float, typer.Option(help="Of ties and dare: the part of the entries that is kept.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Of dare: decides which entries are dropped.")] = 0,
    as_json: Json = False,
) -> None:
    """Write one adapter for the weighted sum of several, and print how far it is from that sum."""
    from bottega.cli.console import progress

    with errors(as_json), progress("combining adapters") as tell:
        result = bottega.combine_adapters(
            _weights(names), out, method=method, rank=rank, density=density, seed=seed, tell=tell
        )
    if as_json:
        print(json.dumps(result.document()))
        return
    parts = " + ".join(f"{weight:g} · {name}" for name, weight in result.weights.items())
    print(f"{result.folder}: {parts}, rank {result.rank}")
    layer, error = result.worst
    print(f"it differs from the exact sum by {result.error:.2g} of its size, at most by {error:.2g}, in {layer}")
    print(f"try it: {shlex.join(['bottega', 'generate', str(out)])} PROMPT")


def _weights(names: list[str]) -> dict[str, float]:
    """Adapter → its weight, which is 1 where none is given."""
    # A folder whose name has an equals sign is one.
    pairs = [(name, "", "1") if "=" not in name or Path(name).exists() else name.rpartition("=") for name in names]
    weights = {}
    for name, _, weight in pairs:
        if name in weights:
            raise bottega.RecipeError("it is named twice", where=name, fix="add its weights up")
        try:
            weights[name] = float(weight)
        except ValueError:
            raise bottega.RecipeError(f"weight {weight!r} is no number", where=name, fix=f"write {name}=0.5") from None
    return weights


@adapter_app.command()
def merge(
    name: Annotated[str, typer.Argument(metavar="ADAPTER", help="A run or a folder of an adapter.")],
    out: Out,
    as_json: Json = False,
) -> None:
    """Write its base with the adapter in the weights, added in float32: the same as `bottega export --to merged`."""
    from bottega.cli.console import progress

    with errors(as_json), progress(f"merging {name}") as tell:
        result = bottega.export(name, out, format="merged", rows=0, tell=tell)
    if as_json:
        print(json.dumps(result.document()))
        return
    print_export(result)
    print(f"try it: {shlex.join(['bottega', 'generate', str(out)])} PROMPT")


@adapter_app.command()
def switch(
    name: Annotated[str, typer.Argument(help="What clients ask for.")],
    to: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model that is served, with an adapter of the same base.")
    ],
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """Let a name of a running server answer with another adapter, while it serves; the next start does not know of it.

    Requests under way end with what they began with. The base's own name switches the adapter off; switched to itself,
    a name means again what the server was started with.
    """
    with errors(as_json):
        model = ApiClient(url).post(f"/models/{quote(name)}", {"model": to})
    if as_json:
        print(json.dumps(model))
        return
    print(f"{name} answers with {to} from now on")
    print(f"as it was added: {shlex.join(['bottega', 'adapter', 'switch', name, name])}")
