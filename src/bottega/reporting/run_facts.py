"""What the events and files of a run tell: what was trained, and whether it overfitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bottega.events import Event, Started, Stepped, Validated
from bottega.hardware.memory import format_peak_memory
from bottega.recipe.schema import Recipe
from bottega.runs.curves import peak_memory
from bottega.runs.summary import summary


def find_started(events: Sequence[Event]) -> Started | None:
    """The first start of a run; None if it never began."""
    return next((event for event in events if isinstance(event, Started)), None)


def describe_run(folder: Path, recipe: Recipe, place: Mapping[str, Any], events: Sequence[Event]) -> dict[str, str]:
    """What was trained, on what, how long: name → text. What was not measured is left out.

    The names are keys of report.json; `markdown.FACT_LABELS` holds what people read instead.
    """
    progress, started = summary(folder), find_started(events)
    steps = [event for event in events if isinstance(event, Stepped)]
    hardware = place.get("hardware", {})
    facts = {
        "objective": recipe.objective.kind,
        "method": recipe.adapter.label if recipe.adapter else "all weights",
        "began from": recipe.model.base or "none (trained from scratch)",
        "weights": f"{started.trained_parameters:,} of {started.parameters:,} trained" if started else "",
        "rows": f"{started.examples:,} examples, {started.validation_examples:,} for validation" if started else "",
        "updates": f"{progress['step']:,} of {progress['steps']:,}" if progress["steps"] else "",
        "training took": f"{progress['seconds']:,.0f} s",
        # Fewer tokens are computed than the rows have where prefixes are shared, more where rows are padded.
        "tokens": f"{sum(step.tokens_real for step in steps):,} ({sum(step.tokens for step in steps):,} computed)",
        "peak memory": format_peak_memory(*peak_memory(events)) if steps else "",
        "on": ", ".join(str(part) for part in (hardware.get("accelerator"), hardware.get("processor")) if part),
        "precision": started.dtype if started else "",
    }
    return {name: text for name, text in facts.items() if text}


def summarize_losses(events: Sequence[Event]) -> list[str]:
    """Sentences that compare training and validation loss, and tell whether the run overfitted.

    Empty with fewer than two validations: a single loss shows no trend.
    """
    validations = [(event.step, event.loss) for event in events if isinstance(event, Validated)]
    losses = [event.loss for event in events if isinstance(event, Stepped)]
    if len(validations) < 2 or not losses:
        return []
    (best_step, best_loss), (last_step, last_loss) = min(validations, key=lambda pair: pair[1]), validations[-1]
    # The loss of a single update depends on its rows; the mean of the last tenth is steadier.
    recent = losses[-max(1, len(losses) // 10) :]
    training_loss = sum(recent) / len(recent)
    final = (
        f"At the end, the validation loss is {last_loss:.3f} and the training loss {training_loss:.3f} "
        "(mean of the last tenth of the updates)."
    )
    if best_step == last_step:
        return [final, "The validation loss was lowest at the end: there is no sign of overfitting."]
    return [
        final,
        f"The validation loss was lowest, {best_loss:.3f}, after update {best_step}, and rose by "
        f"{last_loss - best_loss:.3f} until the end.",
    ]
