"""What a run will take, before it runs: `bottega.plan(recipe)`.

For this machine, memory and time are measured by short runs (`calibration`). For another device, memory is counted from
shapes (`memory`) and time follows from its datasheet; nothing is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from bottega.data.sampler import Sampler
from bottega.errors import BottegaError
from bottega.hardware.datasheets import Datasheet, find_datasheet
from bottega.hardware.device import available_device
from bottega.planning.calibration import Calibration, calibrate, pack_without_running
from bottega.planning.changes import apply_changes, memory_saving_changes
from bottega.planning.memory import (
    ACTIVATIONS,
    CUDA,
    CUDA_CONTEXT_BYTES,
    PROCESS,
    activation_bytes,
    memory_by_part,
    micro_batch_tokens,
)
from bottega.progress import StatusCallback, ignore_status
from bottega.recipe.schema import Recipe
from bottega.training import memory_estimate
from bottega.training.dataset import Dataset, build_dataset

# Fraction of a device's memory that a run may take: other programs need some.
USABLE_MEMORY = 0.9

# Fraction of a datasheet's FLOP/s that training reaches: 0.34 to 0.50 on an H200, with models of 1 B and 7 B weights.
UTILIZATION = 0.4


@dataclass(frozen=True)
class Advice:
    """A change of the recipe that makes the run fit, and the peak bytes it then takes."""

    change: str
    memory: int


@dataclass(frozen=True)
class Plan:
    """What a run will take.

    memory     peak bytes, the sum of `parts`; `limit` is what the device has
    seconds    of all updates, without validations; None if the speed of the device is unknown
    tokens     of all rows over all updates, as if no prefix were shared; `computed` are those a model runs on
    disk       bytes of checkpoints and result
    energy     watt-hours, and `cost` in the unit of the prices; None if unknown
    fits       whether it can run there; `advice` is what would make it fit
    measured   whether time and memory were measured here, by short runs; else they are counted
    """

    device: str
    memory: int
    parts: Mapping[str, int]
    limit: int
    updates: int
    seconds_per_update: float | None
    seconds: float | None
    tokens: int
    computed: int
    disk: int
    energy: float | None
    cost: float | None
    fits: bool
    measured: bool
    advice: Sequence[Advice] = ()

    def document(self) -> dict[str, Any]:
        """The plan as plain data."""
        return asdict(self)


class Prices(NamedTuple):
    """Price of an hour of the device and of a kilowatt-hour, and the watts it draws; None if unknown."""

    hour: float | None = None
    kwh: float | None = None
    watts: float | None = None


def plan(
    recipe: Recipe,
    *,
    device: str | None = None,
    price_hour: float | None = None,
    price_kwh: float | None = None,
    watts: float | None = None,
    measured: bool = True,
    tell: StatusCallback | None = None,
    so_far: Callable[[Plan], None] | None = None,
) -> Plan:
    """What a recipe will take on this machine, or on a `device`, given by name (`h100`) or memory (`24GB`).

    price_hour  price of an hour of the device
    price_kwh   price of a kilowatt-hour
    watts       power of the device; needed for a device without a datasheet, and for this machine
    measured    on this machine, whether to measure time and memory by short runs; else memory is counted
    tell        called with the status: message, done, total
    so_far      called with preliminary plans, before anything is measured and before changes are tried, so that an
                interrupted call leaves something
    """
    tell, on_preliminary = tell or ignore_status, so_far or _ignore_plan
    tell("reading rows")
    dataset = build_dataset(recipe)
    datasheet = find_datasheet(device)
    if datasheet is None and not measured:
        return _plan_without_running(recipe, dataset)
    if datasheet is None:
        on_preliminary(_plan_without_running(recipe, dataset))
        calibration = calibrate(recipe, dataset.config, tell)
    else:
        calibration = pack_without_running(recipe, dataset)
    result = _build_plan(recipe, dataset, calibration, datasheet, device, Prices(price_hour, price_kwh, watts))
    if result.fits:
        return result
    on_preliminary(result)
    tell("looking for a change that makes it fit")
    return replace(result, advice=list(_find_change(recipe, dataset, datasheet, device, tell)))


def _ignore_plan(plan: Plan) -> None:
    """The default of `so_far`."""


def _plan_without_running(recipe: Recipe, dataset: Dataset) -> Plan:
    """A plan for this machine before anything has run: memory from shapes, no times."""
    calibration = pack_without_running(recipe, dataset)
    activations = activation_bytes(recipe, dataset, micro_batch_tokens(recipe, dataset, None))
    memory = sum(memory_by_part(recipe, dataset, 0).values()) + activations
    preliminary = _build_plan(recipe, dataset, replace(calibration, base_memory=memory), None, None, Prices())
    return replace(preliminary, seconds=None, seconds_per_update=None, measured=False)


def _build_plan(
    recipe: Recipe,
    dataset: Dataset,
    calibration: Calibration,
    datasheet: Datasheet | None,
    device: str | None,
    prices: Prices,
) -> Plan:
    sampler = Sampler(dataset.train.examples, recipe, dataset.codec)
    update_tokens = recipe.optim.update_tokens or _tokens_per_example(recipe, dataset) * sampler.update_examples
    tokens = round(update_tokens * sampler.steps)
    computed = tokens * calibration.computed_fraction
    parts, memory, limit = _memory(recipe, dataset, calibration, datasheet, update_tokens)
    seconds: float | None = calibration.rate * tokens * calibration.computed_fraction
    if datasheet is not None:
        seconds = _seconds_by_datasheet(recipe, dataset, datasheet, computed)
    energy, cost = _energy_and_cost(seconds, datasheet, prices)
    return Plan(
        device=device or "this machine",
        memory=memory,
        parts=parts,
        limit=limit,
        updates=sampler.steps,
        seconds_per_update=None if seconds is None else seconds / sampler.steps,
        seconds=seconds,
        tokens=tokens,
        computed=round(computed),
        disk=_disk_bytes(recipe, parts),
        energy=energy,
        cost=cost,
        fits=memory <= USABLE_MEMORY * limit,
        measured=datasheet is None,
    )


def _memory(
    recipe: Recipe, dataset: Dataset, calibration: Calibration, datasheet: Datasheet | None, update_tokens: float
) -> tuple[dict[str, int], int, int]:
    """(bytes by part, peak bytes, bytes that the device has)."""
    parts = memory_by_part(recipe, dataset, calibration.memory)
    if datasheet is None:
        return parts, calibration.memory, memory_estimate.memory_limit(available_device(recipe.devices.device))
    # An update may have fewer tokens than fit into a micro-batch.
    tokens = min(micro_batch_tokens(recipe, dataset, datasheet), update_tokens)
    parts |= {ACTIVATIONS: activation_bytes(recipe, dataset, tokens), PROCESS: 0, CUDA: CUDA_CONTEXT_BYTES}
    return parts, sum(parts.values()), datasheet.memory


def _energy_and_cost(
    seconds: float | None, datasheet: Datasheet | None, prices: Prices
) -> tuple[float | None, float | None]:
    """(watt-hours, money); None where time, power or price is unknown."""
    watts = prices.watts if prices.watts is not None else datasheet.watts if datasheet else None
    energy = None if seconds is None or not watts else seconds / 3600 * watts
    # One price is enough for a cost: who rents a device pays no energy.
    priced = ((None if seconds is None else seconds / 3600, prices.hour), (energy and energy / 1000, prices.kwh))
    costs = [amount * price for amount, price in priced if amount and price is not None]
    return energy, sum(costs) if costs else None


def _tokens_per_example(recipe: Recipe, dataset: Dataset) -> float:
    """Mean tokens of an example. Sampled answers count with their greatest length, as nothing is known of them."""
    mean = float(dataset.train.examples.tokens.mean())
    on_policy = recipe.objective.on_policy
    return on_policy.group * (mean + on_policy.tokens) if on_policy else mean


def _disk_bytes(recipe: Recipe, parts: Mapping[str, int]) -> int:
    """Bytes of the result and of the checkpoints that are kept at the same time."""
    result = parts["weights"] if recipe.adapter is None else parts["adapter"]
    state = result + parts["optimiser"]
    if recipe.save:
        # A new checkpoint is complete before the oldest is deleted.
        checkpoints = recipe.save.keep + 1
    else:
        # Early stopping keeps the best one.
        checkpoints = int(recipe.evaluate is not None and bool(recipe.evaluate.stop_after))
    return result + checkpoints * (state + result)


def _seconds_by_datasheet(recipe: Recipe, dataset: Dataset, datasheet: Datasheet, tokens: float) -> float | None:
    """Seconds of all updates, by their FLOPs; None if the device's speed is unknown, or FLOPs do not decide."""
    # Generation is bound by memory bandwidth, not by arithmetic.
    if not datasheet.flops or recipe.objective.on_policy:
        return None
    weights = memory_estimate.count_weights(recipe, dataset.config).total
    # FLOPs per weight and token: 2 forward, 2 for the gradient of activations, 2 for that of weights; a frozen base
    # needs no gradient of weights. A reference model adds a forward.
    flops = (6 if recipe.adapter is None else 4) + (2 if recipe.objective.compares_with_reference else 0)
    return flops * weights * tokens / (UTILIZATION * datasheet.flops)


def _find_change(
    recipe: Recipe, dataset: Dataset, datasheet: Datasheet | None, device: str | None, tell: StatusCallback
) -> Iterator[Advice]:
    """The mildest change that makes the run fit, if there is one; each is measured until then."""
    smaller_batch = micro_batch_tokens(recipe, dataset, datasheet) // 2
    for change in memory_saving_changes(recipe, dataset, smaller_batch):
        try:
            changed = apply_changes(recipe, change)
            if datasheet is None:
                calibration = calibrate(changed, dataset.config, tell)
            else:
                calibration = pack_without_running(changed, dataset)
        except BottegaError:
            # Not every change suits every recipe, and a run may be out of memory even so.
            continue
        result = _build_plan(changed, dataset, calibration, datasheet, device, Prices())
        if result.fits:
            yield Advice(change, result.memory)
            return
