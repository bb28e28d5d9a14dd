"""The methods of fine-tuning that the API has, and what each is here. To add one, add it to `METHODS`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

# Answers that are sampled for a prompt, at a compute multiplier of 1.
GROUP = 8


@dataclass(frozen=True)
class TrainingMethod:
    """A method.

    name       what the API calls it
    objective  the kind of objective that does it
    format     what the API calls the format of its rows
    rows       what a row is: a conversation with answers to learn, a pair of answers, or a prompt to answer
    """

    name: str
    objective: str
    format: str
    rows: Literal["answers", "pairs", "prompts"] = "answers"

    def options(self, hyperparameters: dict[str, Any], grader: dict[str, Any] | None) -> dict[str, Any]:
        """The section `objective` of a recipe."""
        options: dict[str, Any] = {"kind": self.objective}
        if self.rows == "pairs":
            options["beta"] = hyperparameters["beta"]
        if self.rows == "prompts":
            options["group"] = max(2, round(GROUP * hyperparameters["compute_multiplier"]))
            options["rewards"] = [{"kind": "grader", "grader": grader}]
        return options


DEFAULT = "supervised"

METHODS = {
    method.name: method
    for method in (
        TrainingMethod(DEFAULT, "sft", "fine-tune-chat"),
        TrainingMethod("dpo", "dpo", "fine-tune-preference", "pairs"),
        TrainingMethod("reinforcement", "grpo", "fine-tune-chat", "prompts"),
    )
}
