"""The result of `bottega demo`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from bottega.cli.console import LOSS_STYLE, table


def show_demo(
    folder: Path, summary: Mapping[str, Any], conversation: Iterable[tuple[str, str]], console: Console
) -> None:
    """Print the metrics of the demo's model, a conversation with it, its verdict, and commands to try next."""
    console.print(table("\nResults", ["", ""], _metrics(summary)))
    console.print("\nA conversation", style="bold")
    for question, answer in conversation:
        console.print(Text.assemble(("  you › ", "bold"), question))
        console.print(Text.assemble(("model › ", LOSS_STYLE), answer))
    console.print(f"\nThe verdict on the fine-tuning, from {folder}/tuned/report.html", style="bold")
    console.print(summary["verdict"], markup=False)
    console.print("\nNext", style="bold")
    for command in (
        f"bottega chat {folder}/aligned --temperature 0",
        f"bottega preview {folder}/tuned.yaml",
        f"bottega train {folder}/tuned.yaml optim.epochs=1 adapter.rank=4",
        f"bottega runs {folder}",
        f"bottega demo --seed {summary['seed'] + 1}",
    ):
        console.print(f"  {command}", markup=False, soft_wrap=True)


def _metrics(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    low, high = summary["gain_interval"]
    best_prompting = max(summary["base_asked"], key=summary["base_asked"].get)
    return [
        ("validation loss of pre-training, nats per token", f"{summary['pretrain_loss']:.2f}"),
        ("  the same of a bigram model", f"{summary['bigram_entropy']:.2f}"),
        ("topic accuracy on unseen letters, before tuning", f"{summary['base_accuracy']:.1%} ({best_prompting})"),
        ("topic accuracy on unseen letters, tuned", f"{summary['tuned_accuracy']:.1%}"),
        ("  difference, 95 % interval", f"{low:+.0%} to {high:+.0%}"),
        ("fields as JSON, exact match", f"{summary['fields_accuracy']:.1%}"),
        ("kind reply preferred to a rude one", f"{summary['preference_accuracy']:.1%}"),
        ("  if the longer one were preferred", f"{summary['length_heuristic_accuracy']:.1%}"),
        ("training time", f"{summary['train_seconds']:.0f} s"),
    ]
