"""Chat templates that come with the project, for tokenizers that have none or by a recipe's choice."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from bottega.errors import ModelError
from bottega.tokenization.template_sandbox import MAX_SOURCE

FOLDER = Path(__file__).parent / "chat_templates"
NAMES = ("chatml", "llama3", "plain")

# The first line of each built-in template. It is removed for a tokenizer that does not begin its texts with a BOS.
BOS_LINE = "{{- bos_token }}\n"


def set_template(tokenizer: Any, name: str | None) -> None:
    """Set a tokenizer's chat template, built in or from a file; None keeps its own, or sets `plain` if it has none."""
    if name is not None:
        tokenizer.chat_template = template_source(name, tokenizer) if name in NAMES else _read_file(name)
    elif tokenizer.chat_template is None:
        tokenizer.chat_template = template_source("plain", tokenizer)


def builtin_name(tokenizer: Any) -> str | None:
    """The name of the built-in template that a tokenizer has; None for any other template."""
    return next((name for name in NAMES if tokenizer.chat_template == template_source(name, tokenizer)), None)


def template_source(name: str, tokenizer: Any) -> str:
    """The source of a built-in template for a tokenizer; with a BOS if the tokenizer begins its texts with one."""
    text = _read_builtin(name)
    ids = tokenizer("")["input_ids"]
    begins = tokenizer.bos_token_id is not None and bool(ids) and ids[0] == tokenizer.bos_token_id
    return text if begins else text.removeprefix(BOS_LINE)


def template_files(name: str | None) -> list[Path]:
    """The file that `data.template` names, if it names one."""
    return [] if name is None or name in NAMES else [Path(name)]


@cache
def _read_builtin(name: str) -> str:
    return (FOLDER / f"{name}.jinja").read_text(encoding="utf-8").rstrip("\n")


def _read_file(name: str) -> str:
    path = Path(name)
    fix = f"write {', '.join(NAMES)}, or the path of a Jinja file"
    if not path.is_file():  # reading a pipe could block
        raise ModelError("no such template, and no such file", where=f"data.template {name}", fix=fix)
    if path.stat().st_size > MAX_SOURCE:
        raise ModelError(
            f"{path.stat().st_size:,} bytes, more than a template may have", where=f"data.template {name}", fix=fix
        )
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"cannot be read: {error}", where=f"data.template {name}", fix=fix) from None
