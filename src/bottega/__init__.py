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

    from bottega.advising import advise
    from bottega.auditing.audit import audit
    from bottega.classifier import load_classifier, load_tagger
    from bottega.embedder import load_embedder
    from bottega.errors import BottegaError
    from bottega.evaluation.measure import evaluate
    from bottega.filling import load_masked
    from bottega.language import load
    from bottega.loop import resume, train
    from bottega.planning import plan
    from bottega.recipe import Recipe
    from bottega.reporting.report import report
    from bottega.survey import preview

_HOME = {
    "BottegaError": "bottega.errors",
    "Recipe": "bottega.recipe",
    "advise": "bottega.advising",
    "audit": "bottega.auditing.audit",
    "evaluate": "bottega.evaluation.measure",
    "load": "bottega.language",
    "load_classifier": "bottega.classifier",
    "load_embedder": "bottega.embedder",
    "load_masked": "bottega.filling",
    "load_tagger": "bottega.classifier",
    "plan": "bottega.planning",
    "preview": "bottega.survey",
    "report": "bottega.reporting.report",
    "resume": "bottega.loop",
    "train": "bottega.loop",
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

    from bottega.memory import uncollected

    with uncollected():
        return getattr(import_module(_HOME[name]), name)
