"""Where a run is shown besides its own folder: whoever cares reads its events."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bottega.errors import RecipeError, RunError
from bottega.events import Event, Started, Stepped, Validated
from bottega.recipe.schema import Recipe


def check_report_packages(recipe: Recipe) -> None:
    """A RecipeError where a report needs a package that is not there."""
    if recipe.report and importlib.util.find_spec("tensorboard") is None:
        fix = "pip install 'bottega[tensorboard]', or leave it away: bottega show RUN draws the curves"
        raise RecipeError("TensorBoard is not installed", where="report", fix=fix)


@contextlib.contextmanager
def event_writers(recipe: Recipe, folder: Path) -> Iterator[Callable[[Event], None]]:
    """What to tell each event of the run in `folder`, while it goes on."""
    writers: list[Any] = []

    def tell(event: Event) -> None:
        if isinstance(event, Started):
            writers.extend(
                _open_writer(Path(report.folder or folder / "tensorboard"), event) for report in recipe.report
            )
        for writer in writers:
            for name, value in scalars(event).items():
                writer.add_scalar(name, value, event.step, event.time)

    try:
        yield tell
    finally:
        for writer in writers:
            writer.close()


def _open_writer(folder: Path, started: Started) -> Any:
    """A writer of TensorBoard files; what a resume took back is hidden in them."""
    from torch.utils.tensorboard import SummaryWriter

    try:
        return SummaryWriter(str(folder), purge_step=started.step + 1 if started.resumed else None)
    except OSError as error:
        fix = "give report another folder, or leave it away"
        raise RunError(f"no TensorBoard files can be written: {error.strerror}", where=str(folder), fix=fix) from None


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
