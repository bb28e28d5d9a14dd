"""Options of commands that other tools have too."""

from __future__ import annotations

import pytest

import bottega
from bottega.cli.underscores import _normalize_options


@pytest.mark.parametrize(
    ("line", "normalized"),
    [
        ("--max_steps 7 --data_files=a_b.jsonl", "--max-steps 7 --data-files=a_b.jsonl"),
        ("--max_steps -1 optim.max_x=1", "--max-steps -1 optim.max_x=1"),
        ("--text_template --not_an_option", "--text-template --not_an_option"),
        ("--dry_run true --json", "--dry-run --json"),
        ("--dry_run=no --json off key=1", "key=1"),
        ("--dry_run rest", "--dry-run rest"),
        ("--dry_run -- --max_steps", "--dry-run -- --max_steps"),
    ],
)
def test_options_may_be_written_with_underscores(line: str, normalized: str) -> None:
    assert list(_normalize_options(line.split(), {"--dry-run", "--json"})) == normalized.split()


def test_a_switch_is_true_or_false() -> None:
    with pytest.raises(bottega.RecipeError, match="'perhaps' is neither true nor false") as caught:
        list(_normalize_options(["--dry_run=perhaps"], {"--dry-run"}))
    assert caught.value.where == "--dry-run"
