"""What a run will take, before it runs: `bottega.plan(recipe)`.

On this machine it is measured: the recipe itself runs for a few updates with two numbers of layers, random weights of
the same widths and the real rows, and a line through the two tells what all layers will take; memory and time grow by
as much with each layer, whatever the method. Of another device the memory is counted from the same measurement and the
time from its datasheet.
"""

from __future__ import annotations

import copy
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

from bottega.data.sampler import Sampler
from bottega.errors import BottegaError, RunError
from bottega.events import Event, Stepped
from bottega.hardware.datasheets import Datasheet, find_datasheet
from bottega.hardware.device import available_device
from bottega.models import heads
from bottega.models.checkpoint import load_model
from bottega.models.dimensions import hidden_width, layer_count, vocabulary_size
from bottega.models.source import locate
from bottega.models.tokenizer import load_tokenizer
from bottega.objectives import OnPolicy
from bottega.packing import pack
from bottega.progress import ProgressCallback, StatusCallback, ignore_status, progress_callback
from bottega.recipe.files import apply_override
from bottega.recipe.schema import Model, Recipe
from bottega.training import memory_estimate
from bottega.training.dataset import Dataset, build_dataset
from bottega.training.trials import run_trial_process

UPDATES, WARM = 10, 5
"""Updates of a calibration, and those of them that warm up: a matrix library prepares each new shape it meets."""

ROUNDS = 4
"""Updates of a calibration that writes answers, half of which warm up."""

DIFFERS = "def score(written, right): return sum(map(ord, written)) % 7"
"""A reward that tells answers apart, whatever they are."""

SHALLOW, DEEPER = 8, 0.4
"""Layers up to which a model is calibrated whole; of a deeper one this share of them, and half as many.

A line through two and four of thirty layers was wrong by the double: what two layers differ by is little beside what
the memory of two processes differs by.
"""

LIVE = "activations, logits, allocator"
"""The part of the memory that micro-batches take."""

SPARE = 0.9
"""Share of a device's memory that a run may take: others want some."""

UTILISATION = 0.4
"""Share of a datasheet's arithmetic that training reaches: 0.34 to 0.50 on an H200, of shapes of 1 B and 7 B."""

PACKED = 4
"""Updates that are packed to see how much rows share, where another device is planned for."""

LOGITS = 512 * 8
"""Rows of logits that are there at once, times the bytes of a logit and its gradient."""

CONTEXT = 700 << 20
"""Bytes that a CUDA context and the library's workspaces take."""


@dataclass(frozen=True)
class Advice:
    """A change of the recipe that makes the run fit, and the memory it then takes."""

    change: str
    memory: int


@dataclass(frozen=True)
class Plan:
    """What a run will take.

    memory     peak bytes, `parts` of which sum up to it; `limit` is what the device has to give
    seconds    of all updates, validations beside them; None where nothing is known of the device's speed
    tokens     of the rows, had nothing been shared, over all updates; `computed` those a model is run on
    disk       bytes of checkpoints and result
    energy     watt-hours, and `cost` in the unit of the prices; None where they are not known
    fits       whether it can be run there, and `advice`, what would make it fit
    measured   whether time and memory were measured here, by shorter runs, or counted for another device
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
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Measured:
    """A few updates of a recipe, `passes` of them by the same answers: peak bytes; seconds and tokens of each."""

    memory: int
    seconds: list[float]
    tokens: list[int]
    tokens_real: list[int]
    passes: int = 1

    @property
    def rate(self) -> float:
        """Seconds a token, once it is warm."""
        if self.passes > 1:  # answers are written in the first of each round
            later = slice(-self.passes, None)
            return sum(self.seconds[later]) / max(sum(self.tokens[later]), 1)
        warm = len(self.seconds) // 2
        return median(one / max(size, 1) for one, size in zip(self.seconds[warm:], self.tokens[warm:], strict=True))


def plan(
    recipe: Recipe,
    *,
    device: str | None = None,
    price_hour: float | None = None,
    price_kwh: float | None = None,
    watts: float | None = None,
    tell: StatusCallback | None = None,
    so_far: Callable[[Plan], None] | None = None,
) -> Plan:
    """What a recipe will take on this machine, or on a `device`: its name (`h100`) or memory (`24GB`).

    price_hour  of an hour of the device; price_kwh of its energy; watts it draws, where that is not known
    tell        called with what is being done, how much of it is done, and of how much
    so_far      called with what is known before it is measured, and before changes are: for one who does not wait
    """
    tell, known = tell or ignore_status, so_far or _nobody
    tell("reading rows")
    rows = build_dataset(recipe)
    config = rows.config
    where = find_datasheet(device)
    if where is None:
        known(_counted(recipe, rows))
    measured = _measured(recipe, config, tell) if where is None else _reckoned(recipe, rows)
    found = _planned(recipe, rows, measured, where, device, (price_hour, price_kwh, watts))
    if found.fits:
        return found
    known(found)
    tell("looking for a change that makes it fit")
    return replace(found, advice=list(_advice(recipe, rows, where, device, tell)))


def _nobody(plan: Plan) -> None:
    """Nobody asked what is known so far."""


def _counted(recipe: Recipe, rows: Dataset) -> Plan:
    """What can be told of this machine before anything has run on it: memory by shapes, and no time."""
    line = _reckoned(recipe, rows)
    memory = sum(_parts(recipe, rows, line).values()) + _live(recipe, rows, _tokens(recipe, rows, None))
    found = _planned(recipe, rows, replace(line, base_memory=memory), None, None, (None, None, None))
    return replace(found, seconds=None, seconds_per_update=None, measured=False)


@dataclass(frozen=True)
class Line:
    """Memory and seconds a token by the number of layers: what there is without one, and what each adds."""

    layers: int
    base_memory: float
    layer_memory: float
    base_rate: float
    layer_rate: float
    shared: float

    @property
    def memory(self) -> int:
        return round(self.base_memory + self.layers * self.layer_memory)

    @property
    def rate(self) -> float:
        return self.base_rate + self.layers * self.layer_rate


def _measured(recipe: Recipe, config: Any, tell: StatusCallback) -> Line:
    """The line through what two depths take; through what the whole model takes, where it is shallow."""
    whole = layer_count(config)
    most = max(SHALLOW, 2 * math.ceil(DEEPER * whole / 2))
    depths = [whole] if whole <= SHALLOW or not _can_be_cut(config) else [most // 2, most]
    found = []
    for layers in depths:
        far = progress_callback(tell, f"running {_updates(recipe)} updates with {layers} of {whole} layers")
        found.append(_run(recipe, config, layers, far))
    one, other = found[0], found[-1]
    shared = sum(other.tokens) / max(sum(other.tokens_real), 1)
    if len(found) == 1:
        return Line(0, other.memory, 0.0, other.rate, 0.0, shared)
    apart = depths[1] - depths[0]
    slope_memory, slope_rate = (other.memory - one.memory) / apart, (other.rate - one.rate) / apart
    base_memory, base_rate = other.memory - depths[1] * slope_memory, other.rate - depths[1] * slope_rate
    return Line(whole, base_memory, slope_memory, max(base_rate, 0.0), slope_rate, shared)


def _reckoned(recipe: Recipe, rows: Dataset) -> Line:
    """What another device does with the rows: no model runs, only the first updates are packed as they would be."""
    if isinstance(recipe.objective, OnPolicy):
        return Line(0, 0.0, 0.0, 0.0, 0.0, 1.0)
    updates = islice(Sampler(rows.train.examples, recipe, rows.codec).updates(), PACKED)
    batches = [pack(update.examples) for update in updates]
    shared = sum(batch.computed for batch in batches) / max(sum(batch.tokens_real for batch in batches), 1)
    return Line(0, 0.0, 0.0, 0.0, 0.0, shared)


def _live(recipe: Recipe, rows: Dataset, tokens: float) -> int:
    """Bytes that activations of so many tokens take on an accelerator, by the shapes of the model.

    Recomputed or sent away, of all layers but one only what enters them stays.
    """
    across, layers = hidden_width(rows.config), layer_count(rows.config)
    each = memory_estimate.OF_TOKEN * _size(recipe) / 2
    kept = _size(recipe) if recipe.optim.checkpointing else 0 if recipe.optim.offload else each
    logits = LOGITS * vocabulary_size(rows.config) if heads.load(recipe.objective.head).over_vocabulary else 0
    return round(tokens * across * (kept * layers + each) + logits)


def _run(recipe: Recipe, config: Any, layers: int, far: ProgressCallback) -> Measured:
    """A few updates of the recipe in a process of its own, with a model of so many layers and random weights."""
    updates = 0

    def count(event: Event) -> None:
        nonlocal updates
        updates += isinstance(event, Stepped)
        far(updates, _updates(recipe))

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        overrides = _calibration(recipe, config, layers, folder)
        trial = run_trial_process(
            recipe, folder / "run", overrides, on_event=count, environment={"HF_HUB_OFFLINE": "1"}
        )
    if trial.error:
        raise RunError(
            f"a few updates with {layers} layers do not run: {trial.error}",
            where=recipe.name,
            fix="run it with optim.steps=2 to see why, or plan it for a larger device",
        )
    return Measured(
        # Where there is an accelerator, its memory is what runs out.
        memory=max(event.device_memory or event.memory for event in trial.updates),
        seconds=[event.seconds for event in trial.updates],
        tokens=[event.tokens for event in trial.updates],
        tokens_real=[event.tokens_real for event in trial.updates],
        passes=recipe.objective.passes if isinstance(recipe.objective, OnPolicy) else 1,
    )


def _updates(recipe: Recipe) -> int:
    """Of a calibration: few where each is long, and no fewer than two rounds of answers."""
    return max(ROUNDS, 2 * recipe.objective.passes) if isinstance(recipe.objective, OnPolicy) else UPDATES


def _calibration(recipe: Recipe, config: Any, layers: int, folder: Path) -> dict[str, Any]:
    """The overrides that give the recipe a model of so many layers and end it after a few updates.

    folder  where the files that the overrides name are written
    """
    small = _cut(config, layers)
    overrides: dict[str, Any] = {"optim.steps": _updates(recipe), "optim.epochs": None}
    overrides |= {"evaluate": None, "save": None, "report": []}
    if recipe.model.shape is not None:
        overrides["model.shape"] = _shape(small)
    else:
        _write_model(recipe, small, folder / "model")
        overrides |= {"model.base": str(folder / "model"), "model.tokenizer": _tokenizer(recipe)}
        overrides["model.reference"] = None
        if recipe.adapter is not None and recipe.adapter.start is not None:
            overrides["adapter"] = {"rank": 16}
    if isinstance(recipe.objective, OnPolicy):
        # Random weights earn no reward, and from answers of equal reward nothing is learned.
        (folder / "differs.py").write_text(DIFFERS, encoding="utf-8")
        rewards = recipe.document()["objective"]["rewards"]
        overrides["objective.rewards"] = [*rewards, {"kind": "custom", "file": str(folder / "differs.py")}]
    return overrides


def _tokenizer(recipe: Recipe) -> str:
    return recipe.model.tokenizer or locate(recipe.model.base or "").tokenizer


def _shape(config: Any) -> dict[str, Any]:
    return {"model_type": config.model_type, **config.to_diff_dict()}


def _write_model(recipe: Recipe, config: Any, folder: Path) -> None:
    """A checkpoint of random weights with this config, in the precision of the base's own."""
    import torch
    from transformers import AutoModel

    tokenizer = load_tokenizer(_tokenizer(recipe))
    dtype = getattr(config, "dtype", None) or torch.float32
    if heads.load(recipe.objective.head).over_vocabulary:
        shaped = Model(shape=_shape(config), tokenizer=_tokenizer(recipe))
        model, _ = load_model(shaped, config, recipe.objective.head, [], dtype, tokenizer)
    else:
        model = AutoModel.from_config(config, dtype=dtype, trust_remote_code=False)
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))


def _can_be_cut(config: Any) -> bool:
    """Whether the config says how many layers the whole model has, and lets that be changed."""
    text = copy.deepcopy(config).get_text_config()
    try:
        text.num_hidden_layers = text.num_hidden_layers
    except (AttributeError, NotImplementedError):
        return False
    return True


def _cut(config: Any, layers: int) -> Any:
    """The config with fewer layers, and what it lists by layer cut as short; the same where it has no more."""
    small, whole = copy.deepcopy(config), layer_count(config)
    if layers == whole:
        return small
    text = small.get_text_config()
    for name, value in list(vars(text).items()):
        if isinstance(value, (list, tuple)) and len(value) == whole and not isinstance(value, str):
            setattr(text, name, list(value)[:layers])
    text.num_hidden_layers = layers
    if getattr(text, "num_decoder_layers", None) is not None:
        text.num_decoder_layers = layers
    return small


def _planned(
    recipe: Recipe,
    rows: Dataset,
    line: Line,
    where: Datasheet | None,
    device: str | None,
    prices: tuple[float | None, float | None, float | None],
) -> Plan:
    feed = Sampler(rows.train.examples, recipe, rows.codec)
    each = _tokens_an_example(recipe, rows)
    real = recipe.optim.update_tokens or each * feed.update_examples
    tokens = round(real * feed.steps)
    parts = _parts(recipe, rows, line)
    if where is not None:
        parts[LIVE] = _live(recipe, rows, min(_tokens(recipe, rows, where), real))
    seconds: float | None = line.rate * tokens * line.shared
    if where is None:
        memory, limit = line.memory, memory_estimate.limit(available_device(recipe.devices.device))
    else:
        memory, limit = sum(parts.values()) - parts["python and torch"] + CONTEXT, where.memory
        parts = {**parts, "python and torch": 0, "CUDA context": CONTEXT}
        seconds = _by_datasheet(recipe, rows, where, tokens * line.shared)
    per_hour, per_kwh, watts = prices
    draws = watts if watts is not None else where.watts if where else None
    energy = None if seconds is None or not draws else seconds / 3600 * draws
    bills = ((None if seconds is None else seconds / 3600, per_hour), (energy and energy / 1000, per_kwh))
    money = [amount * price for amount, price in bills if amount and price is not None]
    return Plan(
        device=device or "this machine",
        memory=memory,
        parts=parts,
        limit=limit,
        updates=feed.steps,
        seconds_per_update=None if seconds is None else seconds / feed.steps,
        seconds=seconds,
        tokens=tokens,
        computed=round(tokens * line.shared),
        disk=_disk(recipe, parts),
        energy=energy,
        cost=sum(money) if money else None,
        fits=memory <= SPARE * limit,
        measured=where is None,
    )


def _parts(recipe: Recipe, rows: Dataset, line: Line) -> dict[str, int]:
    """What the memory is made of: counted, but for what is left, which is measured."""
    host = _imports() if available_device(recipe.devices.device) == "cpu" else 0
    found = {**memory_estimate.parts(recipe, rows.config, _size(recipe)), "python and torch": host}
    return {**found, LIVE: max(line.memory - sum(found.values()), 0)}


def _tokens(recipe: Recipe, rows: Dataset, where: Datasheet | None) -> int:
    """Most tokens of a micro-batch on that device, or on this machine."""
    if recipe.optim.tokens is not None:
        return recipe.optim.tokens
    device, most = ("cuda", where.memory) if where else (available_device(recipe.devices.device), None)
    return memory_estimate.micro_batch_tokens(recipe, rows.config, _size(recipe), device, most)


def _size(recipe: Recipe) -> int:
    """Bytes of a weight."""
    return 4 if recipe.model.dtype == "float32" else 2


def _imports() -> int:
    """Bytes of this process, in which torch and transformers are imported and no model is."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    kilobytes = next((int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)
    return kilobytes << 10


def _tokens_an_example(recipe: Recipe, rows: Dataset) -> float:
    """Tokens that an example has on average; with answers that are all as long as they may be."""
    each = float(rows.train.examples.tokens.mean())
    objective = recipe.objective
    return objective.group * (each + objective.tokens) if isinstance(objective, OnPolicy) else each


def _disk(recipe: Recipe, parts: Mapping[str, int]) -> int:
    result = parts["weights"] if recipe.adapter is None else parts["adapter"]
    state = result + parts["optimiser"]
    keep = (
        recipe.save.keep + 1 if recipe.save else int(recipe.evaluate is not None and bool(recipe.evaluate.stop_after))
    )
    return result + keep * (state + result)


def _by_datasheet(recipe: Recipe, rows: Dataset, where: Datasheet, tokens: float) -> float | None:
    if not where.flops or isinstance(recipe.objective, OnPolicy):  # to write is no matter of arithmetic
        return None
    total = memory_estimate.counts(recipe, rows.config).total
    passes = (6 if recipe.adapter is None else 4) + (2 if recipe.objective.compares_with_reference else 0)
    return passes * total * tokens / (UTILISATION * where.flops)


def _advice(
    recipe: Recipe, rows: Dataset, where: Datasheet | None, device: str | None, tell: StatusCallback
) -> Iterator[Advice]:
    """Changes that make a run fit, the gentlest first, until one does; each measured."""
    for change in _gentlest_first(recipe, rows, _tokens(recipe, rows, where) // 2):
        try:
            other = _changed(recipe, change)
            line = _measured(other, rows.config, tell) if where is None else _reckoned(other, rows)
        except BottegaError:
            continue
        found = _planned(other, rows, line, where, device, (None, None, None))
        if found.fits:
            yield Advice(change, found.memory)
            return


def _gentlest_first(recipe: Recipe, rows: Dataset, half: int) -> Iterator[str]:
    """Changes: those that change nothing of what is learned, then what is trained, how it is kept, and what is read."""
    least = f"optim.tokens={half} optim.checkpointing=true"
    yield from (f"optim.tokens={half}", "optim.checkpointing=true", least)
    if recipe.model.base is not None and recipe.objective.head != "embedding" and recipe.adapter is None:
        least = f"adapter.rank=16 {least}"
        yield from ("adapter.rank=16", least)
    longest = max(len(row.tokens) for example in rows.train.examples for row in example.rows)
    cut = "" if recipe.too_long == "split" else " data.too_long=truncate"
    adapted = recipe.adapter is not None or "adapter" in least
    packed = [f"model.quantize=nf4 {least}"] if adapted and recipe.model.quantize == "none" else []
    yield from packed
    yield from (f"{change} data.max_length={longest // 2}{cut}" for change in (least, *packed))


def _changed(recipe: Recipe, change: str) -> Recipe:
    document = json.loads(json.dumps(recipe.document()))
    for one in change.split():
        apply_override(document, one, Path())
    return Recipe.parse(document)
