"""The methods of fine-tuning that the API has, and what each is here. To add one, add it to `METHODS`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TrainingMethod:
    """A method.

    name       what the API calls it
    objective  the kind of objective that does it
    format     what the API calls the format of its rows
    has_pairs  its rows are pairs of answers, which it compares with a reference of strength `beta`
    """

    name: str
    objective: str
    format: str
    has_pairs: bool = False

    def options(self, hyperparameters: dict[str, Any]) -> dict[str, Any]:
        """The section `objective` of a recipe."""
        return {"kind": self.objective} | ({"beta": hyperparameters["beta"]} if self.has_pairs else {})


DEFAULT = "supervised"

METHODS = {
    method.name: method
    for method in (
        TrainingMethod(DEFAULT, "sft", "fine-tune-chat"),
        TrainingMethod("dpo", "dpo", "fine-tune-preference", has_pairs=True),
    )
}
