"""Gain on a new language and forgetting of the old one: full fine-tuning, LoRA of three ranks, replay, anchor.

    make forgetting      # or: python benchmarks/forgetting.py [--data FOLDER] [--out FILE.md]

A small model is pre-trained on English (the plays of tinyshakespeare), then trained further on Italian prose (I
promessi sposi) by each method, from the same weights and for as many updates. Gain is the fall of the loss on held-out
Italian, forgetting the rise of the loss on held-out English, both in nats per token. Writes a table, and a figure as
SVG.
"""

from __future__ import annotations

import argparse
import tempfile
from datetime import date
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from machine import describe_machine

import bottega
from bottega.data.train_tokenizer import train_tokenizer
from bottega.recipe.schema import Recipe
from bottega.runs.store import history

ROOT = Path(__file__).parent.parent
# Learning rates of the methods.
LORA_LR, FULL_LR = 4e-3, 1e-3
PRETRAINING: dict[str, Any] = {"steps": 1500, "examples": 24, "lr": 6e-3, "optimizer": "muon", "schedule": "linear"}
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


class Result(NamedTuple):
    method: str
    gain: float
    forgetting: float
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        english, italian = write_texts(options.data, folder)
        base = pretrain(folder, english)
        results = [fine_tune(folder, base, english, italian, method, sections) for method, sections in METHODS.items()]
    lines = [
        "# Gain and forgetting",
        "",
        f"{date.today()}, {describe_machine()}. {STEPS} updates on Italian of a model pre-trained on English.",
        "",
        "| method | Italian: loss fell by | English: loss rose by | seconds |",
        "|---|---|---|---|",
        *(
            f"| {result.method} | {result.gain:.3f} | {result.forgetting:+.3f} | {result.seconds:.0f} |"
            for result in results
        ),
    ]
    print("\n".join(lines))
    if options.out:
        figure = options.out.with_suffix(".svg")
        figure.write_text(draw_figure(results), encoding="utf-8")
        text = "\n".join([*lines, "", f"![Gain and forgetting, by method]({figure.name})"])
        options.out.write_text(text + "\n", encoding="utf-8")


def write_texts(data: Path, folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """(English files, Italian files) by side, the last tenth held out; also trains a tokenizer on both."""
    languages = []
    for name, path in (("english", "tinyshakespeare/input.txt"), ("italian", "it_promessi_sposi/promessi_sposi.txt")):
        text = (data / path).read_text(encoding="utf-8")[:1_100_000]
        cut = text.rindex("\n", 0, len(text) * 9 // 10)
        sides = {"train": text[:cut], "validation": text[cut:]}
        files = {side: folder / f"{name}_{side}.txt" for side in sides}
        for side, part in sides.items():
            files[side].write_text(part, encoding="utf-8")
        languages.append({side: str(file) for side, file in files.items()})
    train_tokenizer([Path(files["train"]) for files in languages], 2048, folder / "tokenizer")
    return languages[0], languages[1]


def pretrain(folder: Path, english: dict[str, str]) -> Path:
    """The run of a model pre-trained on English."""
    shape = {"model_type": "llama", "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4}
    shape |= {"num_attention_heads": 4, "max_position_embeddings": 128, "tie_word_embeddings": True}
    document = {
        "model": {"shape": shape, "tokenizer": str(folder / "tokenizer")},
        "data": {"train": english["train"], "validation": english["validation"], "max_length": 128},
        "objective": {"kind": "causal"},
        "optim": PRETRAINING,
        "evaluate": {"every": 500},
    }
    list(bottega.train(Recipe.parse(document), folder / "english"))
    return folder / "english"


def fine_tune(
    folder: Path, base: Path, english: dict[str, str], italian: dict[str, str], method: str, sections: dict[str, Any]
) -> Result:
    """Train the base on Italian by a method, whose recipe sections are given."""
    guard = {"share": 0, "stop_when": 99.0, **sections.get("guard", {}), "replay": english["train"]}
    document = {
        "model": {"base": str(base)},
        "adapter": sections.get("adapter"),
        "data": {"train": italian["train"], "validation": italian["validation"], "max_length": 128},
        "objective": {"kind": "causal"},
        "optim": {"steps": STEPS, "examples": 24, "lr": LORA_LR if "adapter" in sections else FULL_LR},
        "evaluate": {"every": 20},
        "guard": guard,
    }
    run = folder / method.replace(" ", "_").replace(",", "")
    list(bottega.train(Recipe.parse(document), run))
    events = history(run)
    validations = [event for event in events if event["type"] == "validated"]
    first, last = validations[0], validations[-1]
    general = last["metrics"]["general_loss"] - first["metrics"]["general_loss"]
    return Result(method, first["loss"] - last["loss"], general, events[-1]["time"] - events[0]["time"])


def draw_figure(results: list[Result]) -> str:
    """A scatter plot as SVG: gain to the right, forgetting upwards, so that lower right is best."""
    width, height, left, below = 720, 440, 60, 50
    max_forgetting = 1.1 * max(result.forgetting for result in results)
    max_gain, min_gain = 1.03 * max(result.gain for result in results), 0.9 * min(result.gain for result in results)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="13" role="img" aria-label="Gain on Italian against forgetting of English, by method">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<path d="M{left} 10V{height - below}H{width - 10}" fill="none" stroke="#777"/>',
        f'<text x="{width - 10}" y="{height - 12}" text-anchor="end" fill="#444">gain: Italian loss fell by</text>',
        '<text x="14" y="16" fill="#444">forgetting: English loss rose by</text>',
    ]
    for fraction in (0, 0.5, 1):
        x, y = left + fraction * (width - 200 - left), height - below - fraction * (height - below - 40)
        parts.append(
            f'<text x="{x}" y="{height - 32}" fill="#777">{min_gain + fraction * (max_gain - min_gain):.2f}</text>'
        )
        parts.append(
            f'<text x="{left - 6}" y="{y + 4}" text-anchor="end" fill="#777">{fraction * max_forgetting:.2f}</text>'
        )
    for result in results:
        x = left + (result.gain - min_gain) / (max_gain - min_gain) * (width - 200 - left)
        y = height - below - max(result.forgetting, 0) / max_forgetting * (height - below - 40)
        color = "#2463b4" if "LoRA" in result.method else "#d2541b"
        color = "#14804a" if any(word in result.method for word in ("replay", "anchor", "stop")) else color
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{color}"/>')
        parts.append(f'<text x="{x + 10:.1f}" y="{y + 4:.1f}" fill="#222">{escape(result.method)}</text>')
    return "".join([*parts, "</svg>\n"])


if __name__ == "__main__":
    main()
