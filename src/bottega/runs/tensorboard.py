"""TensorBoard files of a run, written from its events while it trains."""

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
    """Raise a RecipeError if the recipe asks for a report whose package is not installed."""
    if recipe.report and importlib.util.find_spec("tensorboard") is None:
        fix = "pip install 'bottega[tensorboard]', or leave report out: bottega show RUN draws the curves"
        raise RecipeError("TensorBoard is not installed", where="report", fix=fix)


@contextlib.contextmanager
def event_writer(recipe: Recipe, folder: Path) -> Iterator[Callable[[Event], None]]:
    """A function that writes each event it is called with to every report of the recipe.

    folder  the run folder, which the default folder of a report is in
    """
    writers: list[Any] = []

    def write(event: Event) -> None:
        # Opened at the start event, because only that says which step a resumed run continues from.
        if isinstance(event, Started):
            writers.extend(
                _open_writer(Path(report.folder or folder / "tensorboard"), event) for report in recipe.report
            )
        for writer in writers:
            for name, value in scalars(event).items():
                writer.add_scalar(name, value, event.step, event.time)

    try:
        yield write
    finally:
        for writer in writers:
            writer.close()


def _open_writer(folder: Path, started: Started) -> Any:
    """A SummaryWriter for new files in `folder`; a RunError if they cannot be created."""
    from torch.utils.tensorboard import SummaryWriter

    try:
        # On a resume, TensorBoard hides the points after `purge_step`: those updates are repeated.
        return SummaryWriter(str(folder), purge_step=started.step + 1 if started.resumed else None)
    except OSError as error:
        fix = "give report another folder, or leave it out"
        what = f"TensorBoard files cannot be written: {error.strerror}"
        raise RunError(what, where=str(folder), fix=fix) from None


def scalars(event: Event) -> dict[str, Any]:
    """The values an event adds to TensorBoard's curves, by name: `train/…` or `validation/…`."""
    if isinstance(event, Stepped):
        names = ("loss", "lr", "grad_norm", "epoch", "memory", "device_memory", "cpu", "device_use")
        values = {f"train/{name}": getattr(event, name) for name in names}
        values["train/tokens_per_second"] = event.tokens_real / event.seconds
        values |= {f"train/{name}": value for name, value in event.metrics.items()}
    elif isinstance(event, Validated):
        values = {"validation/loss": event.loss}
        values |= {f"validation/{name}": value for name, value in event.metrics.items()}
    else:
        values = {}
    # `device_use` is None without an accelerator.
    return {name: value for name, value in values.items() if value is not None}
