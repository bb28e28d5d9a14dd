"""Rows as the model sees them, in the terminal."""

from __future__ import annotations

from rich.text import Text

from bottega.cli.console import CONTEXT_STYLE, LABEL_STYLE, LOSS_STYLE
from bottega.cli.preview_view import _style_tokens, show_preview
from bottega.training.preview import Preview, TokenPiece
from making import printed


def styles(text: Text) -> list[tuple[str, str]]:
    return [(text.plain[span.start : span.end], str(span.style)) for span in text.spans]


def test_tokens_are_styled_by_whether_they_carry_loss() -> None:
    text = _style_tokens([TokenPiece("the", 1, 0.0), TokenPiece(" cat", 2, 0.5)], "")
    assert text.plain == "the· cat·"
    assert [pair for pair in styles(text) if pair[0] != "·"] == [("the", CONTEXT_STYLE), (" cat", LOSS_STYLE)]


def test_line_breaks_are_marked_and_end_the_line() -> None:
    assert _style_tokens([TokenPiece("a\n", 1, 1.0), TokenPiece("\nb", 2, 1.0)], "").plain == "a⏎\n⏎\nb·"


def test_a_label_of_a_token_follows_it_unless_the_title_has_it() -> None:
    pieces = [TokenPiece("Ada", 1, 1.0, "B-person"), TokenPiece("ran", 2, 1.0, "good")]
    text = _style_tokens(pieces, "good")
    assert text.plain == "Ada⟨B-person⟩·ran·"
    assert ("⟨B-person⟩", LABEL_STYLE) in styles(text)


def test_every_row_has_a_title_with_its_counts() -> None:
    chosen = [TokenPiece("a", 1, 0.0), TokenPiece("[b]", 2, 1.0)]
    rejected = [TokenPiece("a", 1, 0.0), TokenPiece("c", 3, 1.0), TokenPiece("d", 4, 1.0)]
    examples = [("a.jsonl line 1", [chosen, rejected]), ("a.jsonl line 2", [chosen])]
    preview = Preview(examples, [["chosen", "rejected"], [""]], None, ["read [this]"])
    lines = [line.rstrip("─ ") for line in printed(show_preview, preview).splitlines()]
    assert lines == [
        "note read [this]",
        "a.jsonl line 1: row 1 of 2, 2 tokens, 1 carry loss, chosen",
        "a·[b]·",
        "a.jsonl line 1: row 2 of 2, 3 tokens, 2 carry loss, rejected",
        "a·c·d·",
        "a.jsonl line 2: 2 tokens, 1 carry loss",
        "a·[b]·",
        "",
        "this carries loss  this is only read  · between tokens",
    ]
