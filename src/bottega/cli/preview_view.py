"""Rows as the model sees them: tokens with and without loss."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape
from rich.text import Text

import bottega
from bottega.cli.console import CONTEXT_STYLE, LABEL_STYLE, LOSS_STYLE


def show_preview(preview: bottega.Preview, console: Console) -> None:
    """Print each token row of the examples, and a legend."""
    for note in preview.notes:
        console.print(f"[yellow]note[/] {escape(note)}")
    for (location, rows), labels in zip(preview.examples, preview.labels, strict=True):
        for index, (pieces, label) in enumerate(zip(rows, labels, strict=True)):
            with_loss = sum(piece.weight > 0 for piece in pieces)
            row = f"row {index + 1} of {len(rows)}, " if len(rows) > 1 else ""
            suffix = f", {label}" if label else ""
            title = f"{location}: {row}{len(pieces)} tokens, {with_loss} carry loss{suffix}"
            console.rule(escape(title), align="left")
            console.print(_style_tokens(pieces, label), soft_wrap=True)
    console.rule(style="dim")
    console.print(
        Text.assemble(
            ("this carries loss", LOSS_STYLE), "  ", ("this is only read", CONTEXT_STYLE), "  · between tokens"
        )
    )


def _style_tokens(pieces: Iterable[bottega.TokenPiece], row_label: str) -> Text:
    """Tokens separated by dots; line breaks are marked, and labels of single tokens follow them."""
    text = Text()
    for piece in pieces:
        token = piece.text.replace("\n", "⏎\n")
        text.append(token, LOSS_STYLE if piece.weight else CONTEXT_STYLE)
        # The label of the whole row is in the title already.
        if piece.label not in ("", row_label):
            text.append(f"⟨{piece.label}⟩", LABEL_STYLE)
        if not token.endswith("\n"):
            text.append("·", "bright_black")
    return text
