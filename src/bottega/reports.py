"""Where a run is shown besides its own folder: whoever cares reads its events."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bottega.errors import RecipeError
from bottega.events import Event, Stepped, Validated
from bottega.recipe import Recipe


def check_reports(recipe: Recipe) -> None:
    """A RecipeError where a report needs a package that is not there."""
    if recipe.report and importlib.util.find_spec("tensorboard") is None:
        fix = "pip install 'bottega[tensorboard]', or leave it away: bottega show RUN draws the curves"
        raise RecipeError("TensorBoard is not installed", where="report", fix=fix)


@contextlib.contextmanager
def reports(recipe: Recipe, folder: Path) -> Iterator[Callable[[Event], None]]:
    """What to tell each event of the run in `folder`, while it goes on."""
    with contextlib.ExitStack() as stack:
        writers = []
        for report in recipe.report:
            from torch.utils.tensorboard import SummaryWriter

            writer = SummaryWriter(report.folder or str(folder / "tensorboard"))
            stack.callback(writer.close)
            writers.append(writer)

        def tell(event: Event) -> None:
            for writer in writers:
                for name, value in scalars(event).items():
                    writer.add_scalar(name, value, event.step, event.time)

        yield tell


def scalars(event: Event) -> dict[str, Any]:
    """The curves an event adds a point to."""
    if isinstance(event, Stepped):
        names = ("loss", "lr", "grad_norm", "epoch", "memory", "device_memory", "cpu", "device_use")
        found = {f"train/{name}": getattr(event, name) for name in names}
        found["train/tokens_per_second"] = event.tokens_real / event.seconds
        found |= {f"train/{name}": value for name, value in event.metrics.items()}
    elif isinstance(event, Validated):
        found = {"validation/loss": event.loss}
        found |= {f"validation/{name}": value for name, value in event.metrics.items()}
    else:
        found = {}
    return {name: value for name, value in found.items() if value is not None}
