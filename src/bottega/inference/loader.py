"""`bottega.load(name)`: a trained model as the class that its head calls for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bottega.inference.classifier import load_classifier, load_tagger
from bottega.inference.embedder import load_embedder
from bottega.inference.language_model import load_language_model
from bottega.inference.masked_lm import load_masked
from bottega.inference.open_model import find_model
from bottega.models.config import load_stored_config
from bottega.models.source import locate
from bottega.objectives import HeadKind

LOADERS: dict[HeadKind, Callable[..., Any]] = {
    "language": load_language_model,
    "masked": load_masked,
    "sequence": load_classifier,
    "token": load_tagger,
    "embedding": load_embedder,
}

# How transformers' class names of other models than language models end.
HEADS_BY_CLASS: dict[str, HeadKind] = {
    "ForMaskedLM": "masked",
    "ForSequenceClassification": "sequence",
    "ForTokenClassification": "token",
}

# sentence-transformers writes this beside a model of embeddings.
EMBEDDER_FILE = "modules.json"


def load(name: str | Path, *, dtype: str = "auto", device: str = "auto") -> Any:
    """The model of a run, a folder or a hub id, an adapter on its base, ready to use.

    A `LanguageModel`, `MaskedModel`, `Classifier`, `Tagger` or `Embedder`, by the head it was trained or saved with.
    Raises a ModelError if there is no such model, or none that can be used.
    """
    return LOADERS[find_head(str(name))](name, dtype=dtype, device=device)


def find_head(name: str) -> HeadKind:
    """The head of a model: what its run trained; else what its folder or its config says."""
    source = find_model(name)
    if source.export is not None:
        return source.export.head
    if source.recipe is not None:
        return source.recipe.objective.head
    if (source.folder / EMBEDDER_FILE).exists():
        return "embedding"
    classes = load_stored_config(locate(source.name).base).architectures or [""]
    return next((head for suffix, head in HEADS_BY_CLASS.items() if classes[0].endswith(suffix)), "language")
