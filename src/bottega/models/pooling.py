"""The pooling of an embedding model, in the files of sentence-transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bottega.objectives import Pooling

# File and folder names, keys and class names are those of sentence-transformers.
POOLING_FILE = "1_Pooling/config.json"
POOLING_KEYS: dict[Pooling, str] = {
    "first": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "last": "pooling_mode_lasttoken",
}
PIPELINE_MODULES = (("0", "", "Transformer"), ("1", "1_Pooling", "Pooling"), ("2", "2_Normalize", "Normalize"))


def write_pooling_config(folder: Path, pooling: Pooling, width: int) -> None:
    """Write the files with which `SentenceTransformer(folder)` computes the same embeddings; `width` is theirs."""
    # Fails if the folder has these already, which a fresh result folder never has.
    (folder / POOLING_FILE).parent.mkdir()
    (folder / "2_Normalize").mkdir()
    settings = {"word_embedding_dimension": width, **{key: kind == pooling for kind, key in POOLING_KEYS.items()}}
    (folder / POOLING_FILE).write_text(json.dumps(settings, indent=1), encoding="utf-8")
    modules = [
        {"idx": int(name), "name": name, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for name, path, kind in PIPELINE_MODULES
    ]
    (folder / "modules.json").write_text(json.dumps(modules, indent=1), encoding="utf-8")


def read_pooling_config(name: str) -> Pooling | None:
    """The pooling that a folder or hub id declares; None if it declares none, or another kind."""
    path = Path(name) / POOLING_FILE
    if not Path(name).is_absolute():
        from transformers.utils import cached_file

        # Most models on the hub have no such file, and the network may be off: neither is an error here.
        quiet = {f"_raise_exceptions_for_{case}": False for case in ("missing_entries", "connection_errors")}
        cached = cached_file(name, POOLING_FILE, **quiet)
        path = Path(cached) if cached else path
    if not path.exists():
        return None
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return next((kind for kind, key in POOLING_KEYS.items() if settings.get(key)), None)
