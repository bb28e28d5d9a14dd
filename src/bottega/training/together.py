"""Several adapters trained at once on one base: an ordinary run for each, whose updates are computed together.

Every run has its rows, its schedule, its optimizer and its folder, and ends with what it would have come to alone. What
they share is the base, in memory once, and its products: the micro-batches of all runs are one batch, of which each
token is computed with the adapter of its run.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from bottega.errors import BottegaError, RecipeError, RunError
from bottega.events import Event, Failed
from bottega.recipe.schema import Recipe
from bottega.runs.atomic_files import read_json, write_json
from bottega.runs.store import RunStore, recipe_yaml
from bottega.runs.tensorboard import check_report_packages
from bottega.training.loop import Stop, finish_log, log_events, never

if TYPE_CHECKING:
    from torch import Tensor

    from bottega.engine.engine import Contribution
    from bottega.models.shared_base import SharedBase
    from bottega.training.step import PendingUpdate

# Tokens that are enough for products to be fast: more in one batch would take memory only.
JOINED = 1024

# The file of a folder of runs that were trained at once, with their names.
TOGETHER = "adapters.json"


def train_together(
    recipes: Mapping[str, Recipe], out: str | Path, *, stop: Stop = never
) -> Generator[tuple[str, Event], None, None]:
    """Train one adapter by each recipe, all on one base, in the folders `out`/NAME; yields (name, event).

    stop  called between updates: once it returns true, checkpoints of the last updates are saved and the runs end

    Raises a RecipeError if they do not have one base and one objective. A run that fails ends by itself; its error is
    raised when the others are done.
    """
    check_alike(recipes)
    for recipe in recipes.values():
        check_report_packages(recipe)
    folder = Path(out)
    with ExitStack() as stack:
        stores = {
            name: stack.enter_context(RunStore.create(recipe, recipe_yaml(recipe), folder / name))
            for name, recipe in recipes.items()
        }
        write_json(folder / TOGETHER, {"adapters": list(recipes)})
        try:
            yield from _drive(stores, stop)
        except GeneratorExit:
            raise
        except BaseException:
            _discard_unless_begun(stores, folder)
            raise
        _discard_unless_begun(stores, folder)


def _discard_unless_begun(stores: Mapping[str, RunStore], folder: Path) -> None:
    unbegun = [store for store in stores.values() if not store.has_updates]
    for store in unbegun:
        store.discard()
    if len(unbegun) == len(stores):
        (folder / TOGETHER).unlink(missing_ok=True)
        with suppress(OSError):  # there may be other things in it
            folder.rmdir()


def resume_together(folder: str | Path, *, stop: Stop = never) -> Generator[tuple[str, Event], None, None]:
    """Continue the runs of a folder that `train_together` wrote, each from its newest checkpoint.

    Raises a RunError for another folder.
    """
    names = trained_together(folder)
    if not names:
        fix = "name the folder that bottega train printed"
        raise RunError("holds no adapters that were trained at once", where=str(folder), fix=fix)
    with ExitStack() as stack:
        stores = {name: stack.enter_context(RunStore.open(Path(folder) / name)) for name in names}
        check_alike({name: store.recipe for name, store in stores.items()})
        for name, store in stores.items():
            if store.finished:
                yield from ((name, event) for event in finish_log(store))
        yield from _drive({name: store for name, store in stores.items() if not store.finished}, stop)


def trained_together(folder: str | Path) -> list[str]:
    """The names of the runs of a folder that `train_together` wrote; none for another folder."""
    path = Path(folder) / TOGETHER
    return [str(name) for name in read_json(path)["adapters"]] if path.exists() else []


def check_alike(recipes: Mapping[str, Recipe]) -> None:
    """A RecipeError unless recipes differ in nothing that a batch of all of them depends on."""
    first, *others = recipes.values()
    if not others:
        fix = "give two or more, each with the sections that are its own"
        raise RecipeError("several adapters are trained at once", where="adapters", fix=fix)
    for name, recipe in recipes.items():
        where = f"adapters.{name}"
        if recipe.adapter is None:
            fix = "add adapter: {rank: 16}"
            raise RecipeError("it trains every weight", where=where, fix=fix)
        for section in ("model", "devices", "objective"):
            if getattr(recipe, section) != getattr(first, section):
                fix = f"leave {section} out of adapters.{name}, or train it by itself"
                what = f"another {section} than {next(iter(recipes))} has"
                raise RecipeError(what, where=where, fix=fix)
        if (recipe.adapter.invocation_text is None) != (first.adapter is None or first.adapter.invocation_text is None):
            fix = "give all adapters an invocation, or none"
            raise RecipeError("some adapters begin at an invocation, and some at once", where=where, fix=fix)
        if recipe.objective.joint or recipe.objective.extra_heads or recipe.optim.neftune is not None:
            what = "losses over all rows of a batch, heads and noise are trained in a run alone"
            raise RecipeError(what, where=where, fix="train it by itself")


def _drive(stores: Mapping[str, RunStore], stop: Stop) -> Iterator[tuple[str, Event]]:
    """Let every run go on to its next update, and compute these together, until all have ended."""
    from bottega.models.shared_base import SharedBase
    from bottega.training.setup import Share

    base = SharedBase(len(stores))
    running = {name: log_events(store, stop, Share(base, name)) for name, store in stores.items()}
    failures, begun, steps = list[BottegaError](), set[str](), dict[str, int]()
    while running:
        pending: dict[str, PendingUpdate] = {}
        for name, items in list(running.items()):
            base.select(name)
            try:
                for item in items:
                    if not isinstance(item, Event):
                        pending[name] = item
                        begun.add(name)
                        break
                    steps[name] = item.step
                    yield name, item
                else:
                    del running[name]
            except BottegaError as error:
                # What is wrong with a recipe or its rows is better mended before the others are trained for hours.
                if name not in begun:
                    raise
                failures.append(error)
                del running[name]
                yield name, Failed(step=steps.get(name, 0), error=type(error).__name__, message=str(error))
        _compute(base, pending)
    if failures:
        raise failures[0]


def _compute(base: SharedBase, pending: Mapping[str, PendingUpdate]) -> None:
    """The gradients of the updates of several runs."""
    from bottega.hardware.process import compute_settings

    if not pending:
        return
    # All runs are of one machine, and of one section `devices`.
    threads = next(iter(pending.values())).run.choices.threads
    with compute_settings(threads):
        if len(pending) > 1 and base.scorer.fit.packed:
            for index in range(max(len(one.batches) for one in pending.values())):
                for part in _parts(pending, index):
                    _compute_part(base, part, index)
            return
        for name, one in pending.items():
            with base.rows.using(name):
                one.compute()


def _parts(pending: Mapping[str, PendingUpdate], index: int) -> Iterator[dict[str, PendingUpdate]]:
    """The runs that have a micro-batch with this index, so many at a time as give about JOINED tokens."""
    part: dict[str, PendingUpdate] = {}
    tokens = 0
    # Prompts are shared where adapters begin at their invocation: the more runs in one batch, the more is saved.
    shares = {name for name, one in pending.items() if _is_activated(one)}
    for name, one in pending.items():
        if one.failed is not None or index >= len(one.batches):
            continue
        count = one.batches[index].computed_token_count
        added = _adapted_count(one, index) if part and name in shares else count
        if part and tokens + added > (2 * JOINED if name in shares else JOINED):
            yield part
            part, tokens, added = {}, 0, count
        part[name] = one
        tokens += added
    if part:
        yield part


def _adapted_count(one: PendingUpdate, index: int) -> int:
    """How many tokens of a micro-batch its adapter computes."""
    adapted = one.run.engine.scorer.adapted
    assert adapted is not None, "all have adapters"
    return adapted.count_marked(one.batches[index])


def _is_activated(one: PendingUpdate) -> bool:
    """Whether the adapter of a run begins at its invocation."""
    adapted = one.run.engine.scorer.adapted
    return adapted is not None and bool(adapted.invocation)


def _compute_part(base: SharedBase, part: Mapping[str, PendingUpdate], index: int) -> None:
    """Add the gradients of the micro-batches of some runs with this index."""
    try:
        _accumulate(base, part, index)
    except BottegaError as error:
        if len(part) == 1:
            next(iter(part.values())).failed = error
            return
        # What one run computes may be no number: each by itself, to see which it is.
        for name, one in part.items():
            _compute_part(base, {name: one}, index)
    except Exception as error:  # raised in each run by `finish_update`: a stop that was asked for, for example
        for one in part.values():
            one.failed = error


def _accumulate(base: SharedBase, part: Mapping[str, PendingUpdate], index: int) -> None:
    """Score micro-batches of several runs as one batch, and add the gradients of their losses."""
    import torch

    from bottega.batch import join_batches
    from bottega.hardware.memory import out_of_memory_errors
    from bottega.packing import repack

    batches = [one.batches[index] for one in part.values()]
    (name, first), *others = part.items()
    joined = join_batches(batches)
    if others and _is_activated(first):
        marked = [
            batch if one.run.engine.scorer.adapted is None else one.run.engine.scorer.adapted.mark_batch(batch)
            for one, batch in zip(part.values(), batches, strict=True)
        ]
        # What rows of several adapters have in common before their invocations is computed once.
        joined = repack(join_batches(marked), lambda row: row.tokens)
    elif others:
        base.rows.use_in_turn({name: len(batch.tokens) for name, batch in zip(part, batches, strict=True)})
    else:
        base.rows.use_everywhere(name)
    first.run.engine.scorer.train()
    with out_of_memory_errors():
        seed = first.dropout_seed(index)
        scores = first.run.engine.training_scores(first.run.recipe.objective, joined, seed)
        split = {name: torch.split(values, [len(batch.at) for batch in batches]) for name, values in scores.items()}
        losses: list[Tensor] = []
        contributions: list[Contribution] = []
        for place, (one, batch) in enumerate(zip(part.values(), batches, strict=True)):
            own = {name: values[place] for name, values in split.items()}
            engine, objective = one.run.engine, one.run.recipe.objective
            loss, contribution = engine.compute_loss(objective, own, batch, one.counts, one.update.step)
            losses.append(loss)
            contributions.append(contribution)
        torch.autograd.backward(losses)
    for one, contribution in zip(part.values(), contributions, strict=True):
        one.computed.append(contribution)
