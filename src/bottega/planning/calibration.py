"""Short training runs that measure what a recipe takes on this machine: memory, and seconds per token.

The recipe itself runs for a few updates on its own rows, with random weights, at two depths of the model. Memory and
time grow linearly with the number of layers, whatever the method, so two depths give the figures of all layers.
"""

from __future__ import annotations

import copy
import math
import tempfile
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

from bottega.data.sampler import Sampler
from bottega.errors import RunError
from bottega.events import Event, Stepped
from bottega.models import heads
from bottega.models.checkpoint import load_model
from bottega.models.dimensions import layer_count
from bottega.models.source import locate
from bottega.models.tokenizer import load_tokenizer
from bottega.objectives import rewards
from bottega.packing import pack
from bottega.progress import ProgressCallback, StatusCallback, progress_callback
from bottega.recipe.schema import Model, Recipe
from bottega.training.dataset import Dataset
from bottega.training.trials import TrialResult, run_trial_process

# Updates of a calibration run. The first WARMUP_UPDATES are slower: a matrix library prepares each new shape it meets.
UPDATES, WARMUP_UPDATES = 10, 5

# Updates where each samples answers and is long; half of them warm up.
ON_POLICY_UPDATES = 4

# A reward that differs between answers, whatever they are.
VARYING_REWARD = "def score(answer, reference): return sum(map(ord, answer)) % 7"

# A model of up to WHOLE_DEPTH layers is calibrated whole; a deeper one with DEPTH_FRACTION of its layers, and with half
# as many. Extrapolated from two and four of thirty layers, memory was off by a factor of two: the difference of two
# layers is small beside the noise between two processes.
WHOLE_DEPTH, DEPTH_FRACTION = 8, 0.4

# Updates that are packed to estimate how many tokens rows share, when another device is planned for.
PACKED_UPDATES = 4


@dataclass(frozen=True)
class Calibration:
    """Peak bytes and seconds per computed token as linear functions of the number of layers.

    computed_fraction  computed tokens / tokens of the rows; below 1 where rows share prefixes
    """

    layers: int
    base_memory: float
    layer_memory: float
    base_rate: float
    layer_rate: float
    computed_fraction: float

    @property
    def memory(self) -> int:
        """Peak bytes of the whole model."""
        return round(self.base_memory + self.layers * self.layer_memory)

    @property
    def rate(self) -> float:
        """Seconds per computed token of the whole model."""
        return self.base_rate + self.layers * self.layer_rate


@dataclass(frozen=True)
class Measurement:
    """What one calibration run took: peak bytes; seconds, computed tokens and tokens of the rows, of each update.

    passes  updates per round of sampled answers; 1 without sampling
    """

    memory: int
    seconds: list[float]
    tokens: list[int]
    tokens_real: list[int]
    passes: int = 1

    @property
    def rate(self) -> float:
        """Seconds per computed token, without warm-up."""
        if self.passes > 1:
            # Only the first update of a round samples answers, so a whole round is averaged, not the median taken.
            last_round = slice(-self.passes, None)
            return sum(self.seconds[last_round]) / max(sum(self.tokens[last_round]), 1)
        first = len(self.seconds) // 2
        return median(
            seconds / max(tokens, 1) for seconds, tokens in zip(self.seconds[first:], self.tokens[first:], strict=True)
        )


def calibrate(recipe: Recipe, config: Any, tell: StatusCallback) -> Calibration:
    """Run the recipe at two depths, or a shallow model whole, and fit the line through them."""
    layers = layer_count(config)
    depths = _depths(config, layers)
    measurements = []
    for depth in depths:
        message = f"running {update_count(recipe)} updates with {depth} of {layers} layers"
        measurements.append(_measure(recipe, config, depth, progress_callback(tell, message)))
    shallow, deep = measurements[0], measurements[-1]
    computed_fraction = sum(deep.tokens) / max(sum(deep.tokens_real), 1)
    if len(measurements) == 1:
        return Calibration(0, deep.memory, 0.0, deep.rate, 0.0, computed_fraction)
    added = depths[1] - depths[0]
    memory_slope, rate_slope = (deep.memory - shallow.memory) / added, (deep.rate - shallow.rate) / added
    base_memory, base_rate = deep.memory - depths[1] * memory_slope, deep.rate - depths[1] * rate_slope
    # Time is noisy: the line may cross zero layers below zero seconds.
    return Calibration(layers, base_memory, memory_slope, max(base_rate, 0.0), rate_slope, computed_fraction)


def pack_without_running(recipe: Recipe, dataset: Dataset) -> Calibration:
    """A calibration with the computed fraction only: the first updates are packed, no model runs."""
    if recipe.objective.on_policy:
        # The rows of an update are its answers, which do not exist yet.
        return Calibration(0, 0.0, 0.0, 0.0, 0.0, 1.0)
    updates = islice(Sampler(dataset.train.examples, recipe, dataset.codec).updates(), PACKED_UPDATES)
    batches = [pack(update.examples) for update in updates]
    computed_fraction = sum(batch.computed_token_count for batch in batches) / max(
        sum(batch.tokens_real for batch in batches), 1
    )
    return Calibration(0, 0.0, 0.0, 0.0, 0.0, computed_fraction)


def update_count(recipe: Recipe) -> int:
    """Updates of a calibration run; at least two rounds where answers are sampled."""
    if on_policy := recipe.objective.on_policy:
        return max(ON_POLICY_UPDATES, 2 * on_policy.passes)
    return UPDATES


def can_shorten(config: Any) -> bool:
    """Whether the number of layers is a field of the config that can be set."""
    text = copy.deepcopy(config).get_text_config()
    try:
        # Some configs compute it from other fields, without a setter.
        text.num_hidden_layers = text.num_hidden_layers
    except (AttributeError, NotImplementedError):
        return False
    return True


def shorten_config(config: Any, layers: int) -> Any:
    """A copy of the config with fewer layers; lists with an entry per layer are shortened too."""
    shortened, all_layers = copy.deepcopy(config), layer_count(config)
    if layers == all_layers:
        return shortened
    text = shortened.get_text_config()
    # For example `layer_types` of models that mix sliding and full attention.
    for name, value in list(vars(text).items()):
        if isinstance(value, (list, tuple)) and len(value) == all_layers and not isinstance(value, str):
            setattr(text, name, list(value)[:layers])
    text.num_hidden_layers = layers
    if getattr(text, "num_decoder_layers", None) is not None:
        text.num_decoder_layers = layers
    return shortened


def _depths(config: Any, layers: int) -> list[int]:
    if layers <= WHOLE_DEPTH or not can_shorten(config):
        return [layers]
    # Even, so that the smaller depth is exactly half.
    deep = max(WHOLE_DEPTH, 2 * math.ceil(DEPTH_FRACTION * layers / 2))
    return [deep // 2, deep]


def _measure(recipe: Recipe, config: Any, layers: int, progress: ProgressCallback) -> Measurement:
    """Run a few updates in a new process, for the peak memory of one would stay with the next in the same process."""
    updates = 0

    def count_updates(event: Event) -> None:
        nonlocal updates
        updates += isinstance(event, Stepped)
        progress(updates, update_count(recipe))

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        overrides = _calibration_overrides(recipe, config, layers, folder)
        # Everything needed is local by now: the model is written below, the rows were read before.
        trial = run_trial_process(
            recipe, folder / "run", overrides, on_event=count_updates, environment={"HF_HUB_OFFLINE": "1"}
        )
    if trial.error:
        raise RunError(
            f"the trial run with {layers} layers failed: {trial.error}",
            where=recipe.name,
            fix="run it with optim.steps=2 to see why, or plan it for a larger device",
        )
    return _measurement(recipe, trial)


def _measurement(recipe: Recipe, trial: TrialResult) -> Measurement:
    return Measurement(
        # Where there is an accelerator, its memory is what runs out.
        memory=max(event.device_memory or event.memory for event in trial.updates),
        seconds=[event.seconds for event in trial.updates],
        tokens=[event.tokens for event in trial.updates],
        tokens_real=[event.tokens_real for event in trial.updates],
        passes=on_policy.passes if (on_policy := recipe.objective.on_policy) else 1,
    )


def _calibration_overrides(recipe: Recipe, config: Any, layers: int, folder: Path) -> dict[str, Any]:
    """Overrides that give the recipe a model of so many layers, and end it after a few updates.

    folder  where the files that the overrides name are written
    """
    shortened = shorten_config(config, layers)
    overrides: dict[str, Any] = {"optim.steps": update_count(recipe), "optim.epochs": None}
    overrides |= {"evaluate": None, "save": None, "report": []}
    if recipe.model.shape is not None:
        overrides["model.shape"] = _shape(shortened)
    else:
        _write_random_model(recipe, shortened, folder / "model")
        overrides |= {"model.base": str(folder / "model"), "model.tokenizer": _tokenizer_name(recipe)}
        overrides["model.reference"] = None
        if recipe.adapter is not None and recipe.adapter.start is not None:
            # A trained adapter does not fit the shortened model.
            overrides["adapter"] = {"rank": 16}
    if recipe.objective.on_policy:
        # Random weights earn no reward, and updates with equal rewards are skipped: they would take no time.
        (folder / "varying.py").write_text(VARYING_REWARD, encoding="utf-8")
        own = recipe.document()["objective"]["rewards"]
        overrides["objective.rewards"] = [*own, {"kind": rewards.FROM_FILE, "file": str(folder / "varying.py")}]
    return overrides


def _tokenizer_name(recipe: Recipe) -> str:
    return recipe.model.tokenizer or locate(recipe.model.base or "").tokenizer


def _shape(config: Any) -> dict[str, Any]:
    return {"model_type": config.model_type, **config.to_diff_dict()}


def _write_random_model(recipe: Recipe, config: Any, folder: Path) -> None:
    """Write a checkpoint of random weights with this config, in the dtype of the base model."""
    # Slow to import, and not needed to plan for another device.
    import torch
    from transformers import AutoModel

    tokenizer = load_tokenizer(_tokenizer_name(recipe))
    dtype = getattr(config, "dtype", None) or torch.float32
    if heads.load(recipe.objective.head).over_vocabulary:
        model_section = Model(shape=_shape(config), tokenizer=_tokenizer_name(recipe))
        model, _ = load_model(model_section, config, recipe.objective.head, [], dtype, tokenizer)
    else:
        model = AutoModel.from_config(config, dtype=dtype, trust_remote_code=False)
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
