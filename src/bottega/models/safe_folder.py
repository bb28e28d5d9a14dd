"""Checks of a model's folder before a library reads it: it must not run code, and reading it must not block."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bottega.errors import ModelError

PICKLE_PATTERNS = ("*.bin", "*.pt", "*.pth", "*.ckpt")
CONFIG_FILES = ("config.json", "tokenizer_config.json", "adapter_config.json", "generation_config.json")

# Config keys that may name a kernel on the hub (owner/name), which transformers would download and run.
KERNEL_KEYS = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal", "experts_implementation")


def check_files(folder: Path) -> None:
    """Raise a ModelError if a folder contains code, or entries that are not files."""
    if not folder.is_dir():
        return
    try:
        paths = list(folder.iterdir())
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", where=str(folder), fix="allow it: chmod u+rx") from None
    for path in paths:
        # Reading a pipe would wait for ever.
        if path.exists() and not path.is_file() and not path.is_dir():
            raise ModelError(
                f"{path.name} is a pipe, a device or a socket, not a file",
                where=str(folder),
                fix="put the file itself there",
            )
    # transformers runs the code in this folder when the model generates.
    if (folder / "custom_generate").exists():
        raise _custom_code_error(str(folder), "the folder custom_generate")
    for name in CONFIG_FILES:
        for key, value in _walk_items(_read_json(folder / name)):
            if key == "auto_map" and value:
                raise _custom_code_error(str(folder), f"auto_map in {name}")
            if key in KERNEL_KEYS and "/" in str(value):
                raise _custom_code_error(str(folder), f"{key} in {name}")
    for index in folder.glob("*.safetensors.index.json"):
        # An index may send transformers to pickled files although the folder holds safetensors.
        weight_map = _read_json(index).get("weight_map", {})
        pickled = next((file for file in weight_map.values() if not str(file).endswith(".safetensors")), None)
        if pickled is not None:
            raise _pickle_error(str(folder), str(pickled))


def check_config(config: Any, name: str) -> None:
    """Raise a ModelError if a loaded config refers to code; for a hub id there is no folder to check."""
    if getattr(config, "auto_map", None):
        raise _custom_code_error(name, "auto_map in config.json")


def check_weights(name: str) -> None:
    """Raise a ModelError if a folder has no weights that can be read safely."""
    folder = Path(name)
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    pickled = [path.name for pattern in PICKLE_PATTERNS for path in folder.glob(pattern)]
    if pickled:
        raise _pickle_error(name, pickled[0])
    raise ModelError("the folder holds no weights", where=name, fix="a model needs *.safetensors beside config.json")


def _custom_code_error(where: str, what: str) -> ModelError:
    return ModelError(
        f"it brings code of its own ({what}), and no code of a checkpoint is ever run",
        where=where,
        fix="where transformers knows the model by itself, take that entry out; else convert the checkpoint to a"
        " model that it knows",
    )


def _pickle_error(where: str, name: str) -> ModelError:
    return ModelError(
        f"the weights are pickled ({name}), and reading a pickle runs code",
        where=where,
        fix="convert them where you trust them: model.save_pretrained(folder) writes safetensors",
    )


def _read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if it is missing or invalid, which its reader will report."""
    try:
        document = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _walk_items(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, nested objects included."""
    # A stack instead of recursion: a hostile file may be nested deeper than Python recurses.
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            yield from item.items()
            pending += item.values()
        elif isinstance(item, list):
            pending += item
