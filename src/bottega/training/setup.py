"""Recipe → `Run`: the data, the model, the engine and the choices of one run, built once and never changed.

torch is imported from here on. What a run does with it is elsewhere: `step` makes one update, `validation` scores what
was held out, `schedule` says what is due when, `loop` goes through all of it.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bottega.batch import Example
from bottega.data.sampler import Sampler, validation_groups
from bottega.engine.engine import Engine
from bottega.engine.lr_schedule import Schedule
from bottega.engine.optimizer import Optimizer, freeze
from bottega.errors import ModelError
from bottega.hardware.device import DeviceMeter, compute_dtype, resolve_device
from bottega.models import heads
from bottega.models.checkpoint import load_model, model_for_adapter
from bottega.models.scorer import Fit, Scorer
from bottega.models.scorer_setup import add_adapter, fit_model, load_scorer
from bottega.models.source import locate
from bottega.models.tokenizer import load_tokenizer
from bottega.recipe.schema import Model, Recipe
from bottega.seeding import derive
from bottega.training import memory_estimate
from bottega.training.dataset import Dataset, build_dataset
from bottega.training.input_files import check_unchanged
from bottega.training.reference_cache import ReferenceCache
from bottega.training.replay import Replay
from bottega.training.rollout import Rollouts


@dataclass(frozen=True)
class Choices:
    """What was decided when the run began; stored in `place.json`, so that a resume computes the same.

    micro_batch_tokens  most tokens of a micro-batch, after sharing
    """

    threads: int
    device: str
    dtype: torch.dtype
    micro_batch_tokens: int
    lr: float


@dataclass(frozen=True, eq=False)
class Run:
    """One run in memory.

    data             its rows as the model sees them, with tokenizer, config and labels
    sampler          which examples each update takes
    held_out         the examples validated on
    validation       those that are scored together, in groups; a single group where the loss is a sum over examples
    new_modules      names of the model's modules that began with random weights
    reference_cache  what the reference said of examples that come again
    rollouts         samples answers, for an objective that learns from its own; else None
    replay           general rows against forgetting; else None
    packed           rows share their prefixes: every model that scores them can compute that
    """

    recipe: Recipe
    choices: Choices
    data: Dataset
    engine: Engine
    sampler: Sampler
    schedule: Schedule
    held_out: list[Example]
    validation: list[list[Example]]
    new_modules: list[str]
    reference_cache: ReferenceCache | None
    rollouts: Rollouts | None
    replay: Replay | None
    packed: bool
    meter: DeviceMeter


def build(recipe: Recipe, place: Mapping[str, Any] | None = None, folder: Path | None = None) -> Run:
    """Everything a run needs.

    place   what an earlier start of the same run stored; its choices are kept, so that a resume is exact
    folder  where encoded rows are kept while the run goes on
    """
    check_unchanged(recipe, place)
    stored: Mapping[str, Any] = place["choices"] if place else {}
    device = resolve_device(stored.get("device", recipe.devices.device), where="devices.device")
    meter = DeviceMeter(device)
    data = build_dataset(recipe, stored, folder)
    dtype = compute_dtype(stored.get("dtype", recipe.model.dtype), device)
    memory_estimate.refuse(recipe, data.config, dtype.itemsize, device)
    maker = _ModelMaker(recipe, data, dtype, device, _model_section(recipe, dtype, folder))
    engine, new_modules = _engine(recipe, maker, Fit(**stored["fit"]) if stored else None)
    sampler = Sampler(data.train.examples, recipe, data.codec)
    tokens = stored.get("micro_batch_tokens") or recipe.optim.tokens
    tokens = tokens or memory_estimate.micro_batch_tokens(recipe, data.config, dtype.itemsize, device)
    choices = Choices(chosen_threads(recipe, place), device, dtype, tokens, stored.get("lr") or recipe.lr)
    packed = engine.scorer.fit.packed and (engine.reference is None or engine.reference.fit.packed)
    held_out = _held_out(recipe, data)
    objective, optim = recipe.objective, recipe.optim
    on_policy = objective.on_policy
    cached = objective.compares_with_reference and sampler.repeats and on_policy is None
    return Run(
        recipe=recipe,
        choices=choices,
        data=data,
        engine=engine,
        sampler=sampler,
        schedule=Schedule(optim.schedule, choices.lr, sampler.steps, optim.warmup, optim.floor),
        held_out=held_out,
        validation=validation_groups(held_out, recipe) if objective.joint and recipe.evaluate else [held_out],
        new_modules=new_modules,
        reference_cache=ReferenceCache(folder) if cached else None,
        rollouts=Rollouts(on_policy, engine, data.codec, tokens, packed=packed) if on_policy else None,
        replay=Replay(recipe, data.codec, folder) if recipe.guard else None,
        packed=packed,
        meter=meter,
    )


def chosen_threads(recipe: Recipe, place: Mapping[str, Any] | None) -> int:
    """CPU threads: as an earlier start had them, as the recipe says, or torch's own number."""
    stored = place["choices"].get("threads") if place else None
    return int(stored or recipe.devices.threads or torch.get_num_threads())


def _model_section(recipe: Recipe, dtype: torch.dtype, folder: Path | None) -> Model:
    """`model` of the recipe; an adapter on a run that ended in an adapter needs that one merged first."""
    if recipe.adapter is None or folder is None:
        return recipe.model
    return model_for_adapter(recipe.model, dtype, folder)


@dataclass(frozen=True)
class _ModelMaker:
    """Makes the base model, with the same weights at every call."""

    recipe: Recipe
    data: Dataset
    dtype: torch.dtype
    device: str
    section: Model

    def make(self) -> tuple[Any, list[str]]:
        """(the model, names of its modules with random weights)."""
        torch.manual_seed(derive(self.recipe.seed, "weights"))
        data, head = self.data, self.recipe.objective.head
        model, new = load_model(self.section, data.config, head, data.labels, self.dtype, data.tokenizer)
        for kind in self.recipe.objective.extra_heads:
            new = [*new, *heads.load(kind).attach(model)]
        return model.to(self.device), new


def _engine(recipe: Recipe, maker: _ModelMaker, fit: Fit | None) -> tuple[Engine, list[str]]:
    """(the model with its adapter, optimizer and reference; names of its modules with random weights).

    fit  how an earlier start of the run computed the model
    """
    objective = recipe.objective
    model, new = maker.make()
    scorer = fit_model(model, objective.head, fit, objective.extra_heads)
    compared = objective.compares_with_reference or recipe.uses_anchor
    reference = _reference(maker, scorer.fit) if compared else None
    if recipe.uses_anchor:
        _refuse_own_head(recipe, scorer, reference)
    if recipe.optim.checkpointing:
        _checkpoint_activations(model)
    # Named before an adapter wraps the model, as decay and Muon leave out embeddings and head by these names.
    excluded = _embeddings_and_head(model, heads.load(objective.head).over_vocabulary)
    if recipe.adapter is not None:
        torch.manual_seed(derive(recipe.seed, "adapter"))
        add_adapter(scorer, recipe.adapter, new=new, reference=compared)
    freeze(scorer.model, recipe.optim.freeze)
    if recipe.optim.neftune is not None:
        scorer.add_noise(recipe.optim.neftune)
    optimizer = Optimizer(scorer.model, recipe.optim, excluded)
    offload = recipe.optim.offload and maker.device != "cpu"
    tokenizer = maker.data.tokenizer
    return Engine(scorer, optimizer, tokenizer, reference=reference, seed=recipe.seed, offload=offload), new


def _reference(maker: _ModelMaker, fit: Fit) -> Scorer | None:
    """The frozen model the policy is compared with: `model.reference`, or a copy; None where no adapter is one."""
    named, head = maker.recipe.model.reference, maker.recipe.objective.head
    if named is None:
        copy = maker.make()[0] if maker.recipe.adapter is None else None
        return (
            None
            if copy is None
            else fit_model(copy.requires_grad_(False), head, fit, maker.recipe.objective.extra_heads).eval()
        )
    if load_tokenizer(locate(named).tokenizer).get_vocab() != maker.data.tokenizer.get_vocab():
        raise ModelError(
            "the reference has another tokenizer, so its tokens are not the policy's",
            where=named,
            fix="name a model with the tokenizer of model.base, or leave model.reference out",
        )
    scorer = load_scorer(named, str(maker.dtype).removeprefix("torch."), maker.device, head)
    return scorer.requires_grad_(False).eval()


def _refuse_own_head(recipe: Recipe, scorer: Scorer, reference: Scorer | None) -> None:
    """A ModelError where the anchor cannot be computed: it compares the states that a known head reads."""
    if scorer.fit.own_head or (reference is not None and reference.fit.own_head):
        what = "guard.anchor compares what a head reads, and this model's own head is not one of those known here"
        raise ModelError(what, where=recipe.model.base or "model.shape", fix="leave guard.anchor out")


def _checkpoint_activations(model: Any) -> None:
    with warnings.catch_warnings():  # transformers is renaming it
        warnings.simplefilter("ignore", FutureWarning)
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def _embeddings_and_head(model: Any, has_vocabulary: bool) -> list[str]:
    """Names of the weights of embeddings, and of the head over the vocabulary."""
    head = model.get_output_embeddings() if has_vocabulary else None
    modules = list(model.named_modules())
    embeddings = [name for name, module in modules if isinstance(module, torch.nn.Embedding)]
    heads = [name for name, module in modules if module is head]
    return [f"{name}.weight" for name in (*embeddings, *heads)]


def _held_out(recipe: Recipe, data: Dataset) -> list[Example]:
    """The examples validated on: all, or as many as `evaluate.rows` says, the same in every validation."""
    if recipe.evaluate is None:
        return []
    examples, wanted = data.validation.examples, recipe.evaluate.rows
    indices: Sequence[int] = range(len(examples))
    if wanted is not None and wanted < len(examples):
        indices = random.Random(derive(recipe.seed, "validation")).sample(indices, wanted)
    return [examples[index] for index in indices]
