"""The ways of training that the studio offers, each an objective with or without an adapter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import bottega


@dataclass(frozen=True)
class Method:
    """A card to choose from; its title and its sentence are texts of the studio, by its id.

    adapter   options of the adapter; None trains every weight
    quantize  how the frozen weights of the base are stored
    api       what the API of hosted fine-tuning calls it; None if it has no such method
    """

    id: str
    objective: str
    adapter: dict[str, Any] | None = None
    quantize: str = "none"
    api: str | None = None


LORA = {"rank": 16, "alpha": 32}

# In the order in which they are offered. All other objectives follow, each with its own name.
METHODS = (
    Method("lora", "sft", LORA, api="supervised"),
    Method("qlora", "sft", LORA, "nf4"),
    Method("full", "sft"),
    Method("dpo", "dpo", LORA, api="dpo"),
    Method("orpo", "orpo", LORA),
    Method("kto", "kto", LORA),
    Method("reward", "reward", LORA),
    Method("grpo", "grpo", LORA),
    Method("classify", "classify"),
    Method("tag", "tag"),
    Method("contrastive", "contrastive"),
    Method("causal", "causal"),
    Method("masked", "masked"),
)


def methods() -> list[Method]:
    """Those of which the objective exists."""
    kinds = set(bottega.objective_kinds())
    return [method for method in METHODS if method.objective in kinds]
