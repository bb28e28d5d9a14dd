"""How a vector is made of the states of a text's tokens, as sentence-transformers writes and reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bottega.objectives import Pooling

POOLING_FILE = "1_Pooling/config.json"
POOLING_KEYS: dict[Pooling, str] = {
    "first": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "last": "pooling_mode_lasttoken",
}
PIPELINE_MODULES = (("0", "", "Transformer"), ("1", "1_Pooling", "Pooling"), ("2", "2_Normalize", "Normalize"))


def write_pooling_config(folder: Path, pooling: Pooling, width: int) -> None:
    """Write beside a model of vectors of `width` numbers what makes `SentenceTransformer(folder)` compute the same."""
    (folder / POOLING_FILE).parent.mkdir()
    (folder / "2_Normalize").mkdir()
    settings = {"word_embedding_dimension": width, **{mode: kind == pooling for kind, mode in POOLING_KEYS.items()}}
    (folder / POOLING_FILE).write_text(json.dumps(settings, indent=1), encoding="utf-8")
    modules = [
        {"idx": int(name), "name": name, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for name, path, kind in PIPELINE_MODULES
    ]
    (folder / "modules.json").write_text(json.dumps(modules, indent=1), encoding="utf-8")


def read_pooling_config(name: str) -> Pooling | None:
    """What a folder or hub id says of how it was trained; None where it says nothing."""
    path = Path(name) / POOLING_FILE
    if not Path(name).is_absolute():
        from transformers.utils import cached_file

        quiet = {f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "connection_errors")}
        found = cached_file(name, POOLING_FILE, **quiet)
        path = Path(found) if found else path
    if not path.exists():
        return None
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return next((kind for kind, mode in POOLING_KEYS.items() if settings.get(mode)), None)
