"""What optimizers and forms of the base take: peak memory and seconds of an update.

    python benchmarks/optimizers.py [--shape 135m] [--updates 6] [--rounds 3] [--out FILE]

Optimizers where every weight is trained, and LoRA on a base in 16, 8 and 4 bits. What they learn is in `adapters.py`.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, get_args

import torch
import transformers
from machine import training_dtype, write_result
from measuring import ENVIRONMENT
from workloads import instructions, make_model, write_rows

from bottega.recipe.schema import Optimizer

EXAMPLES = 8

# The sections of a recipe for each choice, in groups whose first is what the others are compared with.
GROUPS: dict[str, dict[str, dict[str, Any]]] = {
    "Optimizers, every weight trained": {name: {"optim": {"optimizer": name}} for name in get_args(Optimizer)},
    "LoRA of rank 16, the base in": {
        "16 bits": {"adapter": {"rank": 16}},
        "8 bits (fp8)": {"adapter": {"rank": 16}, "model": {"quantize": "fp8"}},
        "4 bits (nf4)": {"adapter": {"rank": 16}, "model": {"quantize": "nf4"}},
    },
}


class Taken(NamedTuple):
    """What a run took.

    seconds  of an update, the median of all but the first
    peak     megabytes of the process at its largest
    base     megabytes by which the model made a process larger, at its largest: loaded, and of a few tokens
    """

    seconds: float
    peak: float
    base: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="135m")
    parser.add_argument("--updates", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        print(load(options.load))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_model(folder / "model", options.shape)
        write_rows(instructions(EXAMPLES * options.updates), folder / "rows.jsonl")
        tables = [table(title, choices, folder, options) for title, choices in GROUPS.items()]
    intro = f"{options.shape} shapes in {training_dtype()}, {EXAMPLES} rows an update; medians of {options.rounds} "
    intro += "alternating rounds. Peak: the process at its largest; base: by how much the model made one larger."
    write_result("What optimizers and forms of the base take", "\n\n".join([intro, *tables]), options.out)


def table(title: str, choices: Mapping[str, dict[str, Any]], folder: Path, options: argparse.Namespace) -> str:
    """A table of what each choice took."""
    took: dict[str, list[Taken]] = {name: [] for name in choices}
    for _ in range(options.rounds):
        for name, sections in choices.items():
            took[name].append(train(folder, sections, options.updates))
            print(name, took[name][-1], flush=True)
    middle = {name: Taken(*map(median, zip(*found, strict=True))) for name, found in took.items()}
    first = next(iter(middle.values()))
    lines = [f"## {title}", "", "| | seconds an update | | peak, MB | | base, MB | |", "|---" * 7 + "|"]
    for name, one in middle.items():
        pairs = (f"{mine:.2f} | {mine / its:.2f} ×" for mine, its in zip(one, first, strict=True))
        lines.append(f"| {name} | {' | '.join(pairs)} |")
    return "\n".join(lines)


def load(path: Path) -> float:
    """Megabytes by which the model of a recipe makes this process larger, at its largest.

    While it is loaded, and while it reads a few tokens.
    """
    from bottega.hardware.memory import configure_allocator, return_freed
    from bottega.models.checkpoint import load_model
    from bottega.models.config import load_config
    from bottega.models.quantization.linear import quantize_model
    from bottega.recipe.schema import Recipe

    configure_allocator()
    model = Recipe.load(path).model
    config, dtype = load_config(model, None), getattr(torch, training_dtype())
    # What libraries load when they are first used.
    small = transformers.LlamaConfig(num_hidden_layers=1, vocab_size=100, hidden_size=256, intermediate_size=512)
    body = transformers.AutoModelForCausalLM.from_config(small, dtype=dtype)
    if model.quantize != "none":
        quantize_model(body, model.quantize, [])
    body(input_ids=torch.arange(8)[None])
    del body
    gc.collect()
    return_freed()
    # From here on the largest is counted anew.
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before = _kilobytes("VmRSS")
    loaded, _ = load_model(model, config, "language", (), dtype, None)
    with torch.no_grad():
        loaded(input_ids=torch.arange(8)[None])
    return (_kilobytes("VmHWM") - before) / 1024


def _kilobytes(name: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith(name)))


def train(folder: Path, sections: Mapping[str, Any], updates: int) -> Taken:
    """What a run took."""
    recipe = {
        "model": {"base": "model", "dtype": training_dtype(), **sections.get("model", {})},
        "objective": {"kind": "sft"},
        "data": {"train": "rows.jsonl"},
        "optim": {"steps": updates, "examples": EXAMPLES, "lr": 1e-5, **sections.get("optim", {})},
        "adapter": sections.get("adapter"),
    }
    path, out = folder / "recipe.yaml", folder / "run"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    subprocess.run(["rm", "-rf", str(out)], check=True)
    command = [sys.executable, "-m", "bottega", "train", str(path), "--out", str(out)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ | ENVIRONMENT)
    assert child.stderr is not None
    errors = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(errors.decode()[-3000:])
    events = [json.loads(line) for line in (out / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    seconds = [event["seconds"] for event in events if event["type"] == "stepped"]
    loading = [sys.executable, __file__, "--load", str(path)]
    base = subprocess.run(loading, check=True, capture_output=True, text=True, env=os.environ | ENVIRONMENT).stdout
    return Taken(median(seconds[1:]), usage.ru_maxrss / 1024, float(base.split()[-1]))


if __name__ == "__main__":
    main()
