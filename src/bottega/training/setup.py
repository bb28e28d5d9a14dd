"""Recipe → `Run`: the data, the model, the engine and the choices of one run, built once and never changed.

What happens with them is elsewhere: `step` makes one update, `validation` scores the validation rows, `due` says when
to validate and save, `loop` runs all of it.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bottega import adapters
from bottega.adapters import Adapter
from bottega.batch import Example
from bottega.data.sampler import Sampler, validation_groups
from bottega.engine.engine import Engine
from bottega.engine.lr_schedule import Schedule
from bottega.engine.optimizer import Optimizer, freeze
from bottega.errors import DataError, ModelError, RecipeError
from bottega.hardware.device import DeviceMeter, compute_dtype, resolve_device
from bottega.models import heads
from bottega.models.activated import find_start
from bottega.models.checkpoint import load_model, model_for_adapter, unquantized_weights
from bottega.models.scorer import Fit, Scorer
from bottega.models.scorer_setup import add_adapter, fit_model, load_scorer
from bottega.models.shared_base import SharedBase
from bottega.models.source import adapter_folder, locate
from bottega.models.tokenizer import load_tokenizer
from bottega.recipe.schema import Model, Recipe
from bottega.seeding import derive
from bottega.training import memory_estimate
from bottega.training.dataset import Dataset, build_dataset
from bottega.training.input_files import check_unchanged
from bottega.training.reference_cache import ReferenceCache
from bottega.training.replay import Replay
from bottega.training.rollout import Rollouts

# The default learning rate of a new head times the width of what it reads, and the highest default. An output moves by
# as much as all its inputs together, so a wide head needs less (Yang et al. 2022, arXiv 2203.03466); measured in
# `benchmarks/results/head_lr_2xEPYC_2026-12-01.md`.
HEAD_LR_TIMES_WIDTH, MAX_HEAD_LR = 8.0, 0.03

# Rows in which the invocation of an adapter is looked for.
LOOKED_AT = 200


@dataclass(frozen=True)
class Choices:
    """Settings resolved when the run started; stored in `place.json`, so that a resume computes the same.

    micro_batch_tokens  maximum tokens of a micro-batch; a shared prefix counts once
    lr                  the peak learning rate
    head_lr             that of a head which started from random weights; None if there is none
    """

    threads: int
    device: str
    dtype: torch.dtype
    micro_batch_tokens: int
    lr: float
    head_lr: float | None


@dataclass(frozen=True, eq=False)
class Run:
    """One run in memory.

    data             the encoded rows, with tokenizer, config and labels
    sampler          chooses the examples of each update
    held_out         the examples to validate on
    validation       the same in groups that are scored together; a single group if the loss is a sum over examples
    new_modules      names of the model's modules that started from random weights
    reference_cache  scores by the reference of examples that are used again; None if nothing is cached
    rollouts         samples answers from the policy; None unless the objective is on-policy
    replay           replay rows, against forgetting; None without the section `guard`
    packed           whether batches are packed with shared prefixes: policy and reference can both compute that
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


def build(
    recipe: Recipe,
    place: Mapping[str, Any] | None = None,
    folder: Path | None = None,
    share: Share | None = None,
) -> Run:
    """Everything a run needs.

    place   the `place.json` of an earlier start of the same run, whose choices are kept, so that a resume is exact
    folder  the run's folder, where encoded rows and a merged base are stored
    share   of a base on which other runs train, too
    """
    check_unchanged(recipe, place)
    stored: Mapping[str, Any] = place["choices"] if place else {}
    device = resolve_device(stored.get("device", recipe.devices.device), where="devices.device")
    meter = DeviceMeter(device)
    data = build_dataset(recipe, stored, folder)
    dtype = compute_dtype(stored.get("dtype", recipe.model.dtype), device)
    # Before the weights are loaded: a process that runs out of memory may be killed without a message.
    memory_estimate.check_fits(recipe, data.config, dtype.itemsize, device)
    factory = _ModelFactory(recipe, data, dtype, device, _model_section(recipe, dtype, folder))
    lr = stored.get("lr") or peak_lr(recipe)
    engine, new_modules, head_lr = _build_engine(recipe, factory, stored, share, lr)
    sampler = Sampler(data.train.examples, recipe, data.codec)
    tokens = stored.get("micro_batch_tokens") or recipe.optim.tokens
    tokens = tokens or memory_estimate.micro_batch_tokens(recipe, data.config, dtype.itemsize, device)
    if share is not None and "micro_batch_tokens" not in stored:
        # Adapters that begin at their invocation share most of what they compute, and half leaves room for the rest.
        begins_later = recipe.adapter is not None and recipe.adapter.invocation_text is not None
        tokens = max(1, tokens // (2 if begins_later else share.base.count))
    choices = Choices(resolve_threads(recipe, place), device, dtype, tokens, lr, head_lr)
    packed = engine.scorer.fit.packed and (engine.reference is None or engine.reference.fit.packed)
    held_out = _select_held_out(recipe, data)
    objective, optim = recipe.objective, recipe.optim
    on_policy = objective.on_policy
    # Sampled answers are new in every round, so there is nothing to cache.
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


def peak_lr(recipe: Recipe) -> float:
    """The learning rate of the recipe; by default that for the kind of a continued adapter, which it need not name."""
    adapter = recipe.adapter
    if adapter is None or adapter.start is None or recipe.optim.lr is not None:
        return recipe.lr
    kind = adapters.saved_kind(adapter_folder(adapter.start))
    return recipe.objective.lr[1] * (adapters.load(kind).lr_scale if kind in adapters.kinds() else 1.0)


def _head_lr(recipe: Recipe, lr: float, outputs: Sequence[torch.nn.Linear]) -> float | None:
    """The peak learning rate of output layers that start from random weights; None if there are none."""
    given = recipe.optim.head_lr
    if not outputs:
        if given is not None:
            what = "the model has no head that starts from random weights"
            raise RecipeError(what, where="optim.head_lr", fix="leave it out: all weights are trained at optim.lr")
        return None
    return given or max(lr, min(MAX_HEAD_LR, HEAD_LR_TIMES_WIDTH / max(layer.in_features for layer in outputs)))


def _new_outputs(model: Any, new: Sequence[str]) -> dict[str, torch.nn.Linear]:
    """The output layers in modules with random weights, by name: no inner layers, and no head over the vocabulary."""
    inside = tuple(f"{name}." for name in new)
    return {
        name: layer
        for name, layer in model.named_modules()
        if f"{name}.".startswith(inside) and isinstance(layer, torch.nn.Linear)
        if layer.out_features not in (layer.in_features, model.config.get_text_config().vocab_size)
    }


def resolve_threads(recipe: Recipe, place: Mapping[str, Any] | None) -> int:
    """The number of CPU threads: that of an earlier start of the run, the recipe's, or torch's default."""
    # The order of sums, and so their rounding, depends on it.
    stored = place["choices"].get("threads") if place else None
    return int(stored or recipe.devices.threads or torch.get_num_threads())


def _model_section(recipe: Recipe, dtype: torch.dtype, folder: Path | None) -> Model:
    """`model` of the recipe; if a new adapter goes on a run with an adapter, with that one merged into its base."""
    if recipe.adapter is None or folder is None:
        return recipe.model
    return model_for_adapter(recipe.model, dtype, folder)


class Share(NamedTuple):
    """What a run has of a base on which others train, too; `name` is that of its adapter."""

    base: SharedBase
    name: str


@dataclass(frozen=True)
class _ModelFactory:
    """Builds the base model, with the same weights at every call."""

    recipe: Recipe
    data: Dataset
    dtype: torch.dtype
    device: str
    section: Model

    def build(self) -> tuple[Any, list[str]]:
        """(the model, names of its modules with random weights)."""
        # Seeded at each call: policy and reference must start from the same random head.
        torch.manual_seed(derive(self.recipe.seed, "weights"))
        data, head = self.data, self.recipe.objective.head
        model, new = load_model(self.section, data.config, head, data.labels, self.dtype, data.tokenizer)
        for kind in self.recipe.objective.extra_heads:
            new = [*new, *heads.load(kind).attach(model)]
        return model.to(self.device), new


def _build_engine(
    recipe: Recipe, factory: _ModelFactory, stored: Mapping[str, Any], share: Share | None, lr: float
) -> tuple[Engine, list[str], float | None]:
    """(the engine, names of the model's modules with random weights, the learning rate of a head among these).

    stored  the choices of an earlier start of the run
    lr      the peak learning rate
    """
    objective = recipe.objective
    fit = Fit(**stored["fit"]) if stored else None

    def load() -> tuple[Scorer, list[str]]:
        network, new = factory.build()
        return fit_model(network, objective.head, fit, objective.extra_heads, native=True), new

    scorer, new = load() if share is None else share.base.load(load)
    model = scorer.network
    compared = objective.compares_with_reference or recipe.uses_anchor
    reference = _build_reference(factory, scorer.fit) if compared else None
    if recipe.uses_anchor:
        _check_anchor(recipe, scorer, reference)
    outputs = _new_outputs(model, new)
    # A run of an earlier version has none, and goes on as it began.
    head_lr = stored.get("head_lr") if stored else _head_lr(recipe, lr, list(outputs.values()))
    if recipe.optim.checkpointing:
        _checkpoint_activations(model)
    # Before an adapter wraps the model and its names change. Muon and weight decay leave these weights out.
    excluded = _embeddings_and_head(model, heads.load(objective.head).over_vocabulary)
    if recipe.adapter is not None:
        # Seeded again, because building a reference draws random numbers in between.
        torch.manual_seed(derive(recipe.seed, "adapter"))
        invocation = _invocation(recipe.adapter, factory.data)
        if share is not None:
            scorer = share.base.adapt(share.name, recipe.adapter, invocation)
        else:
            section = factory.section
            unquantized = None if section.quantize == "none" else partial(unquantized_weights, section)
            add_adapter(
                scorer,
                recipe.adapter,
                new=new,
                reference=compared,
                unquantized=unquantized,
                invocation=invocation,
            )
    freeze(scorer.model, recipe.optim.freeze)
    if recipe.optim.neftune is not None:
        scorer.add_noise(recipe.optim.neftune)

    def lr_factor(name: str) -> float:
        # PEFT puts more around the name of a module that it trains whole.
        if head_lr is not None and any(f".{output}." in f".{name}" for output in outputs):
            return head_lr / lr
        return 1.0 if recipe.adapter is None else recipe.adapter.lr_factor(name)

    optimizer = Optimizer(scorer.model, recipe.optim, excluded, native=scorer.fit.native, lr_factor=lr_factor)
    offload = recipe.optim.offload and factory.device != "cpu"
    tokenizer = factory.data.tokenizer
    engine = Engine(scorer, optimizer, tokenizer, reference=reference, seed=recipe.seed, offload=offload)
    return engine, new, head_lr


def _invocation(adapter: Adapter, data: Dataset) -> list[int]:
    """The token ids of the text from which on rows use the adapter; a DataError if no row has it."""
    if adapter.invocation_text is None:
        return []
    examples = (data.train.examples[index] for index in range(min(len(data.train.examples), LOOKED_AT)))
    rows = [row for example in examples for row in example.rows]
    # In many tokenizers a space belongs to the token of the word that follows.
    texts = [adapter.invocation_text, adapter.invocation_text.strip()]
    texts += [f" {text}" for text in texts]
    ids: list[list[int]] = [data.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    counts = [sum(find_start(row, one) is not None for row in rows) if one else 0 for one in ids]
    if any(counts):
        return ids[counts.index(max(counts))]
    what = f"no row has {adapter.invocation_text!r} as tokens, so no row would use the adapter"
    raise DataError(what, where="adapter.invocation", fix="look at the tokens of a row: bottega preview")


def _build_reference(factory: _ModelFactory, fit: Fit) -> Scorer | None:
    """The frozen model that the policy is compared with: `model.reference`, or a copy of the initial policy.

    None if the policy has an adapter: with the adapter disabled it is its own reference.
    """
    recipe, name = factory.recipe, factory.recipe.model.reference
    head, extra_heads = recipe.objective.head, recipe.objective.extra_heads
    if name is None:
        if recipe.adapter is not None:
            return None
        copy, _ = factory.build()
        return fit_model(copy.requires_grad_(False), head, fit, extra_heads).eval()
    if load_tokenizer(locate(name).tokenizer).get_vocab() != factory.data.tokenizer.get_vocab():
        raise ModelError(
            "the reference has another tokenizer, so its tokens are not the policy's",
            where=name,
            fix="name a model with the tokenizer of model.base, or leave model.reference out",
        )
    scorer = load_scorer(name, str(factory.dtype).removeprefix("torch."), factory.device, head)
    return scorer.requires_grad_(False).eval()


def _check_anchor(recipe: Recipe, scorer: Scorer, reference: Scorer | None) -> None:
    """Raise a ModelError if `guard.anchor` cannot be computed: its KL divergence needs a linear head."""
    if scorer.fit.own_head or (reference is not None and reference.fit.own_head):
        what = "guard.anchor is not supported: this model's head computes more than a linear layer"
        raise ModelError(what, where=recipe.model.base or "model.shape", fix="leave guard.anchor out")


def _checkpoint_activations(model: Any) -> None:
    with warnings.catch_warnings():  # transformers is renaming this method
        warnings.simplefilter("ignore", FutureWarning)
        # Reentrant checkpointing needs inputs with gradients, which a frozen base under an adapter lacks.
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def _embeddings_and_head(model: Any, has_vocabulary: bool) -> list[str]:
    """Names of the weights of embeddings, and of the head if it is over the vocabulary."""
    head = model.get_output_embeddings() if has_vocabulary else None
    modules = list(model.named_modules())
    embeddings = [name for name, module in modules if isinstance(module, torch.nn.Embedding)]
    # A tied head has its own module, and the same weight under a second name.
    output = [name for name, module in modules if module is head]
    return [f"{name}.weight" for name in (*embeddings, *output)]


def _select_held_out(recipe: Recipe, data: Dataset) -> list[Example]:
    """The examples to validate on: all, or `evaluate.rows` of them, the same in every validation."""
    if recipe.evaluate is None:
        return []
    examples, wanted = data.validation.examples, recipe.evaluate.rows
    indices: Sequence[int] = range(len(examples))
    if wanted is not None and wanted < len(examples):
        indices = random.Random(derive(recipe.seed, "validation")).sample(indices, wanted)
    return [examples[index] for index in indices]
