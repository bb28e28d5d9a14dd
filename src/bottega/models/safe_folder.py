"""A model's folder, checked before a library reads it: nothing in it may run, and nothing may be waited for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bottega.errors import ModelError

PICKLE_PATTERNS = ("*.bin", "*.pt", "*.pth", "*.ckpt")
CONFIG_FILES = ("config.json", "tokenizer_config.json", "adapter_config.json", "generation_config.json")
KERNEL_KEYS = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal", "experts_implementation")
"""Keys of a config that may name a kernel on the hub, which is code."""


def check_files(folder: Path) -> None:
    """Refuse a folder that brings code of its own, or holds what is no file; a ModelError names it."""
    if not folder.is_dir():
        return
    try:
        paths = list(folder.iterdir())
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", where=str(folder), fix="allow it: chmod u+rx") from None
    for path in paths:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise ModelError(
                f"{path.name} is a pipe, a device or a socket, not a file",
                where=str(folder),
                fix="put the file itself there",
            )
    if (folder / "custom_generate").exists():
        raise _custom_code_error(str(folder), "the folder custom_generate")
    for name in CONFIG_FILES:
        for key, value in _walk_items(_read_json(folder / name)):
            if key == "auto_map" and value:
                raise _custom_code_error(str(folder), f"auto_map in {name}")
            if key in KERNEL_KEYS and "/" in str(value):
                raise _custom_code_error(str(folder), f"{key} in {name}")
    for index in folder.glob("*.safetensors.index.json"):
        named = _read_json(index).get("weight_map", {})
        pickled = next((file for file in named.values() if not str(file).endswith(".safetensors")), None)
        if pickled is not None:
            raise _pickle_error(str(folder), str(pickled))


def check_config(config: Any, name: str) -> None:
    """The same of a config that came from a hub."""
    if getattr(config, "auto_map", None):
        raise _custom_code_error(name, "auto_map in config.json")


def check_weights(name: str) -> None:
    """Refuse a folder without weights that can be read safely; a ModelError says which it has."""
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
    """A JSON object; nothing where there is none, or it cannot be read: who needs it says so."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _walk_items(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, inner objects too."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield from one.items()
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
