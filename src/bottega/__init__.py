"""bottega: the workshop where a small language model learns its trade.

    import bottega

    recipe = bottega.Recipe.load("recipe.yaml", "optim.lr=1e-4")
    for event in bottega.train(recipe, out="runs/first"):
        print(event)

The names are loaded when first used, so that the command line answers at once; so are modules of Python's own that take
a moment: a signal that comes before the command line listens ends in a traceback.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bottega.auditing.audit import audit
    from bottega.errors import BottegaError
    from bottega.evaluation.evaluate import evaluate
    from bottega.inference.classifier import load_classifier, load_tagger
    from bottega.inference.embedder import load_embedder
    from bottega.inference.language_model import load
    from bottega.inference.masked_lm import load_masked
    from bottega.planning.advise import advise
    from bottega.planning.plan import plan
    from bottega.recipe.schema import Recipe
    from bottega.reporting.report import report
    from bottega.training.loop import resume, train
    from bottega.training.preview import preview

_HOME = {
    "BottegaError": "bottega.errors",
    "Recipe": "bottega.recipe.schema",
    "advise": "bottega.planning.advise",
    "audit": "bottega.auditing.audit",
    "evaluate": "bottega.evaluation.evaluate",
    "load": "bottega.inference.language_model",
    "load_classifier": "bottega.inference.classifier",
    "load_embedder": "bottega.inference.embedder",
    "load_masked": "bottega.inference.masked_lm",
    "load_tagger": "bottega.inference.classifier",
    "plan": "bottega.planning.plan",
    "preview": "bottega.training.preview",
    "report": "bottega.reporting.report",
    "resume": "bottega.training.loop",
    "train": "bottega.training.loop",
}

__all__ = [
    "BottegaError",
    "Recipe",
    "advise",
    "audit",
    "evaluate",
    "load",
    "load_classifier",
    "load_embedder",
    "load_masked",
    "load_tagger",
    "plan",
    "preview",
    "report",
    "resume",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'bottega' has no attribute {name!r}")
    from importlib import import_module

    from bottega.hardware.memory import uncollected

    with uncollected():
        return getattr(import_module(_HOME[name]), name)
