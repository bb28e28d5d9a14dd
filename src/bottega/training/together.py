"""Several adapters trained at once on one base: an ordinary run for each, whose updates are computed together.

Every run has its rows, its schedule, its optimizer and its folder, and ends with what it would have come to alone. What
they share is the base, in memory once, and its products: the micro-batches of all runs are one batch, of which each
token is computed with the adapter of its run.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from bottega.errors import BottegaError, RecipeError
from bottega.events import Event
from bottega.recipe.schema import Recipe
from bottega.runs.store import RunStore, recipe_yaml
from bottega.training.loop import Stop, log_events, never

if TYPE_CHECKING:
    from torch import Tensor

    from bottega.engine.engine import Contribution
    from bottega.models.shared_base import SharedBase
    from bottega.training.setup import Sharing
    from bottega.training.step import PendingUpdate


def train_together(
    recipes: Mapping[str, Recipe], out: str | Path, *, stop: Stop = never
) -> Generator[tuple[str, Event], None, None]:
    """Train one adapter by each recipe, all on one base, in the folders `out`/NAME; yields (name, event).

    stop  called between updates: once it returns true, checkpoints of the last updates are saved and the runs end

    Raises a RecipeError if they do not have one base and one objective. A run that fails ends by itself; its error is
    raised when the others are done.
    """
    check_alike(recipes)
    with ExitStack() as stack:
        stores = {
            name: stack.enter_context(RunStore.create(recipe, recipe_yaml(recipe), Path(out) / name))
            for name, recipe in recipes.items()
        }
        try:
            yield from _drive(stores, stop)
        except GeneratorExit:
            raise
        except BaseException:
            _discard_unless_begun(stores)
            raise
        _discard_unless_begun(stores)


def _discard_unless_begun(stores: Mapping[str, RunStore]) -> None:
    for store in stores.values():
        if not store.has_updates:
            store.discard()


def resume_together(folder: str | Path, *, stop: Stop = never) -> Generator[tuple[str, Event], None, None]:
    """Continue the runs in the folders of a folder that `train_together` wrote, each from its newest checkpoint."""
    with ExitStack() as stack:
        folders = sorted(path.parent for path in Path(folder).glob("*/recipe.yaml"))
        stores = {path.name: stack.enter_context(RunStore.open(path)) for path in folders}
        yield from _drive({name: store for name, store in stores.items() if not store.finished}, stop)


def check_alike(recipes: Mapping[str, Recipe]) -> None:
    """A RecipeError unless recipes differ in nothing that a batch of all of them depends on."""
    first, *others = recipes.values()
    if first.adapter is None or not others:
        fix = "give two or more, each with the sections that are its own"
        raise RecipeError("several adapters are trained at once", where="adapters", fix=fix)
    for name, recipe in recipes.items():
        for section in ("model", "devices", "objective"):
            if getattr(recipe, section) != getattr(first, section):
                fix = f"leave {section} out of adapters.{name}, or train it by itself"
                what = f"another {section} than {next(iter(recipes))} has"
                raise RecipeError(what, where=f"adapters.{name}", fix=fix)
        if recipe.objective.joint or recipe.objective.extra_heads or recipe.optim.neftune is not None:
            what = "losses over all rows of a batch, heads and noise are trained in a run alone"
            raise RecipeError(what, where=f"adapters.{name}", fix="train it by itself")


def _drive(stores: Mapping[str, RunStore], stop: Stop) -> Iterator[tuple[str, Event]]:
    """Let every run go on to its next update, and compute these together, until all have ended."""
    from bottega.training.setup import Share, Sharing

    sharing = Sharing(len(stores))
    running = {name: log_events(store, stop, Share(sharing, name)) for name, store in stores.items()}
    failures, begun = list[BottegaError](), set[str]()
    while running:
        pending: dict[str, PendingUpdate] = {}
        for name, items in list(running.items()):
            if sharing.base is not None:
                sharing.base.rows.use_everywhere(name)
            try:
                for item in items:
                    if not isinstance(item, Event):
                        pending[name] = item
                        begun.add(name)
                        break
                    yield name, item
                else:
                    del running[name]
            except BottegaError as error:
                # What is wrong with a recipe or its rows is better mended before the others are trained for hours.
                if name not in begun:
                    raise
                failures.append(error)
                del running[name]
        _compute(sharing, pending)
    if failures:
        raise failures[0]


def _compute(sharing: Sharing, pending: Mapping[str, PendingUpdate]) -> None:
    """The gradients of the updates of several runs."""
    from bottega.hardware.process import compute_settings

    base = sharing.base
    if base is None:
        return
    for threads in {one.run.choices.threads for one in pending.values()}:
        with compute_settings(threads):
            if len(pending) > 1 and base.scorer.fit.packed:
                for index in range(max(len(one.batches) for one in pending.values())):
                    _compute_part(base, pending, index)
            else:
                for name, one in pending.items():
                    base.rows.use_everywhere(name)
                    one.compute()


def _compute_part(base: SharedBase, pending: Mapping[str, PendingUpdate], index: int) -> None:
    """Add the gradients of the micro-batches with this index, of the runs that have one."""
    import torch

    part = {name: one for name, one in pending.items() if one.failed is None and index < len(one.batches)}
    try:
        losses = _losses(base, part, index)
    except BottegaError:
        # What one run computes may be no number, for all of them then: each by itself, to see whose it is.
        losses = []
        for name, one in part.items():
            try:
                losses += _losses(base, {name: one}, index)
            except Exception as error:  # raised in the run by `finish_update`
                one.failed = error
    except Exception as error:  # a stop that was asked for, for example
        for one in part.values():
            one.failed = error
        return
    if losses:
        torch.autograd.backward([loss for loss, _, _ in losses])
    for _, one, contribution in losses:
        one.computed.append(contribution)


def _losses(
    base: SharedBase, part: Mapping[str, PendingUpdate], index: int
) -> list[tuple[Tensor, PendingUpdate, Contribution]]:
    """(loss, run, what it contributes) of the micro-batches with this index, scored as one batch."""
    import torch

    from bottega.batch import join_batches
    from bottega.packing import pad_tree

    batches = [one.batches[index] for one in part.values()]
    joined = pad_tree(join_batches(batches))
    names = [name for name, batch in zip(part, batches, strict=True) for _ in range(len(batch.tokens))]
    base.rows.use([*names, *[None] * (len(joined.tokens) - len(names))])
    first = next(iter(part.values()))
    first.run.engine.scorer.train()
    scores = first.run.engine.training_scores(first.run.recipe.objective, joined, first.dropout_seed(index))
    split = {output: torch.split(values, [len(batch.at) for batch in batches]) for output, values in scores.items()}
    losses = []
    for place, (one, batch) in enumerate(zip(part.values(), batches, strict=True)):
        own = {output: values[place] for output, values in split.items()}
        engine, objective = one.run.engine, one.run.recipe.objective
        loss, contribution = engine.compute_loss(objective, own, batch, one.counts, one.update.step)
        losses.append((loss, one, contribution))
    return losses
