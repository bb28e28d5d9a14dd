"""What is gained on a new language, and what is forgotten of the old: full tuning, LoRA of three ranks, replay, anchor.

    make forgetting      # or: python benchmarks/forgetting.py [--data FOLDER] [--out FILE.md]

A small model reads English (the plays of tinyshakespeare), and is then tuned on Italian prose (I promessi sposi) by
every method, as long, from the same weights. Gain is how much the loss on held-out Italian fell, forgetting how much
that on held-out English rose; both in nats a token. Beside the table goes a figure, as SVG.
"""

from __future__ import annotations

import argparse
import tempfile
from datetime import date
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from machine import described

import bottega
from bottega.data.train_tokenizer import train_tokenizer
from bottega.recipe.schema import Recipe
from bottega.runs.store import history

ROOT = Path(__file__).parent.parent
LORA, FULL = 4e-3, 1e-3
READING: dict[str, Any] = {"steps": 1500, "examples": 24, "lr": 6e-3, "optimizer": "muon", "schedule": "linear"}
STEPS = 300
METHODS: dict[str, dict[str, Any]] = {
    "full": {},
    "LoRA, rank 2": {"adapter": {"rank": 2, "alpha": 4}},
    "LoRA, rank 8": {"adapter": {"rank": 8, "alpha": 16}},
    "LoRA, rank 32": {"adapter": {"rank": 32, "alpha": 64}},
    "full, replay 0.1": {"guard": {"share": 0.1}},
    "full, replay 0.3": {"guard": {"share": 0.3}},
    "full, anchor 0.3": {"guard": {"share": 0, "anchor": 0.3}},
    "full, anchor 1": {"guard": {"share": 0, "anchor": 1.0}},
    "LoRA, rank 8, replay 0.1": {"adapter": {"rank": 8, "alpha": 16}, "guard": {"share": 0.1}},
    "full, stop_when 0.2": {"guard": {"share": 0, "stop_when": 0.2}},
}


class Reached(NamedTuple):
    method: str
    gain: float
    forgotten: float
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        english, italian = written(options.data, folder)
        base = read(folder, english)
        found = [tuned(folder, base, english, italian, method, more) for method, more in METHODS.items()]
    lines = [
        "# Gain and forgetting",
        "",
        f"{date.today()}, {described()}. {STEPS} updates of Italian from a model of English.",
        "",
        "| method | Italian: loss fell by | English: loss rose by | seconds |",
        "|---|---|---|---|",
        *(f"| {one.method} | {one.gain:.3f} | {one.forgotten:+.3f} | {one.seconds:.0f} |" for one in found),
    ]
    print("\n".join(lines))
    if options.out:
        figure = options.out.with_suffix(".svg")
        figure.write_text(drawn(found), encoding="utf-8")
        text = "\n".join([*lines, "", f"![Gain against forgetting, by method]({figure.name})"])
        options.out.write_text(text + "\n", encoding="utf-8")


def written(data: Path, folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Both languages, each with its last tenth held out, and a tokenizer of both."""
    found = []
    for name, path in (("english", "tinyshakespeare/input.txt"), ("italian", "it_promessi_sposi/promessi_sposi.txt")):
        text = (data / path).read_text(encoding="utf-8")[:1_100_000]
        cut = text.rindex("\n", 0, len(text) * 9 // 10)
        sides = {"train": text[:cut], "held": text[cut:]}
        files = {side: folder / f"{name}_{side}.txt" for side in sides}
        for side, part in sides.items():
            files[side].write_text(part, encoding="utf-8")
        found.append({side: str(file) for side, file in files.items()})
    train_tokenizer([Path(one["train"]) for one in found], 2048, folder / "tokenizer")
    return found[0], found[1]


def read(folder: Path, english: dict[str, str]) -> Path:
    """A model that has read English."""
    shape = {"model_type": "llama", "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4}
    shape |= {"num_attention_heads": 4, "max_position_embeddings": 128, "tie_word_embeddings": True}
    document = {
        "model": {"shape": shape, "tokenizer": str(folder / "tokenizer")},
        "data": {"train": english["train"], "validation": english["held"], "max_length": 128},
        "objective": {"kind": "causal"},
        "optim": READING,
        "evaluate": {"every": 500},
    }
    list(bottega.train(Recipe.parse(document), folder / "english"))
    return folder / "english"


def tuned(
    folder: Path, base: Path, english: dict[str, str], italian: dict[str, str], method: str, more: dict[str, Any]
) -> Reached:
    """The base after Italian, by a method."""
    guard = {"share": 0, "stop_when": 99.0, **more.get("guard", {}), "replay": english["train"]}
    document = {
        "model": {"base": str(base)},
        "adapter": more.get("adapter"),
        "data": {"train": italian["train"], "validation": italian["held"], "max_length": 128},
        "objective": {"kind": "causal"},
        "optim": {"steps": STEPS, "examples": 24, "lr": LORA if "adapter" in more else FULL},
        "evaluate": {"every": 20},
        "guard": guard,
    }
    run = folder / method.replace(" ", "_").replace(",", "")
    list(bottega.train(Recipe.parse(document), run))
    events = history(run)
    validated = [event for event in events if event["type"] == "validated"]
    first, last = validated[0], validated[-1]
    general = last["metrics"]["general_loss"] - first["metrics"]["general_loss"]
    return Reached(method, first["loss"] - last["loss"], general, events[-1]["time"] - events[0]["time"])


def drawn(found: list[Reached]) -> str:
    """Gain to the right, forgetting upwards: the best corner is below on the right."""
    width, height, left, below = 720, 440, 60, 50
    most = 1.1 * max(one.forgotten for one in found)
    high, low = 1.03 * max(one.gain for one in found), 0.9 * min(one.gain for one in found)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="13" role="img" aria-label="Gain on Italian against forgetting of English, by method">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<path d="M{left} 10V{height - below}H{width - 10}" fill="none" stroke="#777"/>',
        f'<text x="{width - 10}" y="{height - 12}" text-anchor="end" fill="#444">gain: Italian loss fell by</text>',
        '<text x="14" y="16" fill="#444">forgotten: English loss rose by</text>',
    ]
    for share in (0, 0.5, 1):
        x, y = left + share * (width - 200 - left), height - below - share * (height - below - 40)
        parts.append(f'<text x="{x}" y="{height - 32}" fill="#777">{low + share * (high - low):.2f}</text>')
        parts.append(f'<text x="{left - 6}" y="{y + 4}" text-anchor="end" fill="#777">{share * most:.2f}</text>')
    for one in found:
        x = left + (one.gain - low) / (high - low) * (width - 200 - left)
        y = height - below - max(one.forgotten, 0) / most * (height - below - 40)
        colour = "#2463b4" if "LoRA" in one.method else "#d2541b"
        colour = "#14804a" if any(word in one.method for word in ("replay", "anchor", "stop")) else colour
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{colour}"/>')
        parts.append(f'<text x="{x + 10:.1f}" y="{y + 4:.1f}" fill="#222">{escape(one.method)}</text>')
    return "".join([*parts, "</svg>\n"])


if __name__ == "__main__":
    main()
