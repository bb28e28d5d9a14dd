"""Everything a run needs, made from its recipe: rows, model, engine. torch is imported from here on."""

from __future__ import annotations

import math
import os
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from bottega.batch import Batch, Example, Means, counted, joined
from bottega.data.sampler import Feed, Update, judged
from bottega.engine.engine import Engine
from bottega.engine.lr_schedule import Schedule
from bottega.engine.optimizer import Optimizer, freeze
from bottega.errors import Diverged, ModelError, RunError
from bottega.hardware import memory
from bottega.hardware.device import compute_dtype
from bottega.models.adapters.lora import adapt, by_own_head, head_is_adapted, load_scorer
from bottega.models.checkpoint import beside_an_adapter, fit_model, load_model
from bottega.models.generation_config import declare_ends
from bottega.models.heads import VOCABULARY
from bottega.models.scorer import Fit, Scorer
from bottega.models.source import locate
from bottega.models.tokenizer import load_tokenizer
from bottega.objectives import Objective, OnPolicy
from bottega.packing import divide, pack
from bottega.recipe.schema import Recipe
from bottega.seeding import derive
from bottega.training import memory_estimate
from bottega.training.dataset import prepare
from bottega.training.input_files import check_unchanged
from bottega.training.reference_cache import References
from bottega.training.replay import Guarded
from bottega.training.rollout import Drawn, Rollouts

VALIDATIONS = 10
"""How often a run validates where `evaluate.every` does not say."""


class Session:
    """A run in memory: its engine, its feed, and the choices made for it.

    place   what an earlier start of the same run found and chose; choices are taken from it, so that a resume is exact
    folder  where encoded rows are kept while the run goes on
    """

    def __init__(self, recipe: Recipe, place: dict[str, Any] | None = None, folder: Path | None = None) -> None:
        self.recipe = recipe
        check_unchanged(recipe, place)
        choices = place["choices"] if place else {}
        self.threads = choices.get("threads") or recipe.devices.threads or torch.get_num_threads()
        torch.set_num_threads(self.threads)
        memory.keep()
        # The matrix library of an accelerator adds in one order only if asked before its first product.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Filling fresh memory with NaN finds reads of nothing; here it costs a tenth of a step.
        setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010, untyped
        self.device = _device(choices.get("device", recipe.devices.device))
        if self.device == "cuda":  # the peak that is told is this run's, not that of one before it in the process
            torch.cuda.reset_peak_memory_stats()
        self.rows = prepare(recipe, choices, folder)
        self.dtype = compute_dtype(choices.get("dtype", recipe.model.dtype), self.device)
        memory_estimate.refuse(recipe, self.rows.config, self.dtype.itemsize, self.device)
        self.source = recipe.model
        if recipe.adapter is not None and folder is not None:
            self.source = beside_an_adapter(recipe.model, self.dtype, folder)
        self.engine = self._engine(Fit(**choices["fit"]) if choices else None)
        self.feed = Feed(self.rows.train.examples, recipe, self.rows.codec)
        self.guarded = Guarded(recipe, self.rows.codec, folder) if recipe.guard else None
        remembered = recipe.objective.reference and self.feed.repeats and not isinstance(recipe.objective, OnPolicy)
        self.references = References(folder) if remembered else None
        self.tokens = choices.get("micro_batch_tokens") or recipe.optim.tokens or self._micro_batch_tokens()
        self.rollouts = self._rollouts()
        self.lr = choices.get("lr") or recipe.lr
        optim = recipe.optim
        self._asks_driver = True
        self.schedule = Schedule(optim.schedule, self.lr, self.feed.steps, optim.warmup, optim.floor)

    def _micro_batch_tokens(self) -> int:
        return memory_estimate.micro_batch_tokens(self.recipe, self.rows.config, self.dtype.itemsize, self.device)

    def _model(self) -> tuple[Any, list[str]]:
        """The base model, the same at every call, and the names of its new modules."""
        torch.manual_seed(derive(self.recipe.seed, "weights"))
        rows, head = self.rows, self.recipe.objective.head
        model, new = load_model(self.source, rows.config, head, rows.labels, self.dtype, rows.tokenizer)
        return model.to(self.device), new

    def _engine(self, fit: Fit | None) -> Engine:
        """The model with its adapter, optimiser and reference; `fit` is how an earlier start computed it."""
        recipe, objective = self.recipe, self.recipe.objective
        model, self.new = self._model()
        scorer = fit_model(model, objective.head, fit)
        compared = objective.reference or recipe.uses_anchor
        reference = self._reference(scorer.fit) if compared else None
        if recipe.uses_anchor and (scorer.fit.own_head or (reference is not None and reference.fit.own_head)):
            what = "guard.anchor compares what a head reads, and this model's own head is not one of those known here"
            raise ModelError(what, where=recipe.model.base or "model.shape", fix="leave guard.anchor out")
        if recipe.optim.checkpointing:
            with warnings.catch_warnings():  # transformers is renaming it
                warnings.simplefilter("ignore", FutureWarning)
                model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        embeddings = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Embedding)]
        head = model.get_output_embeddings() if objective.head in VOCABULARY else None
        heads = [name for name, module in model.named_modules() if module is head]
        if recipe.adapter is not None:
            torch.manual_seed(derive(recipe.seed, "adapter"))
            scorer.model = adapt(model, recipe.adapter, head=objective.head, new=self.new, reference=compared)
            if objective.head in VOCABULARY and head_is_adapted(scorer.model):
                scorer.fit = by_own_head(scorer.fit, scorer.network)
        excluded = [f"{name}.weight" for name in (*embeddings, *heads)]
        freeze(scorer.model, recipe.optim.freeze)
        if recipe.optim.neftune is not None:
            scorer.add_noise(recipe.optim.neftune)
        optimizer = Optimizer(scorer.model, recipe.optim, excluded)
        away = recipe.optim.offload and self.device != "cpu"
        tokenizer, seed = self.rows.tokenizer, recipe.seed
        return Engine(scorer, objective, optimizer, tokenizer, reference=reference, seed=seed, offload=away)

    def _reference(self, fit: Fit) -> Scorer | None:
        """What the policy is compared with: a model of the recipe's, or a copy; None where no adapter is one."""
        named, head = self.recipe.model.reference, self.recipe.objective.head
        if named is None:
            copy = self._model()[0] if self.recipe.adapter is None else None
            return None if copy is None else fit_model(copy.requires_grad_(False), head, fit).eval()
        if load_tokenizer(locate(named).tokenizer).get_vocab() != self.rows.tokenizer.get_vocab():
            raise ModelError(
                "the reference has another tokenizer, so its tokens are not the policy's",
                where=named,
                fix="name a model with the tokenizer of model.base, or leave model.reference out",
            )
        scorer = load_scorer(named, str(self.dtype).removeprefix("torch."), self.device, head)
        return scorer.requires_grad_(False).eval()

    @property
    def packed(self) -> bool:
        """Whether rows share what they begin with: every model that scores them must be able to."""
        reference = self.engine.reference
        return self.engine.scorer.fit.packed and (reference is None or reference.fit.packed)

    def _rollouts(self) -> Rollouts | None:
        objective = self.recipe.objective
        if not isinstance(objective, OnPolicy):
            return None
        return Rollouts(objective, self.engine, self.rows.codec, self.tokens, packed=self.packed)

    def drawn(self, update: Update) -> Drawn:
        """The update's examples, with what chance makes of them there, or what the policy answers to them."""
        if self.rollouts is not None:
            return self.rollouts.drawn(update.step, update.examples)
        objective, codec = self.recipe.objective, self.rows.codec
        seeds = (derive(self.recipe.seed, "drawn", update.step, place) for place in range(len(update.examples)))
        return Drawn([objective.drawn(one, codec, seed) for one, seed in zip(update.examples, seeds, strict=True)])

    def batches(self, examples: Sequence[Example]) -> list[Batch]:
        """The examples as micro-batches on the device, with the columns the objective needs."""
        return [self._batch(group) for group in divide(examples, self.tokens, share=self.packed)]

    def _batch(self, examples: Sequence[Example]) -> Batch:
        """One micro-batch; what the reference makes of its examples is computed once and remembered."""
        batch = pack(examples, share=self.packed).to(self.device)
        if self.references is None:
            return self.engine.complete(batch)
        if not all(example in self.references for example in examples):
            self.references.add(examples, self.engine.complete(batch))
        # Also where it was just computed: an example known before keeps the bits it had.
        return batch.with_columns(reference=self.references.of(examples).to(self.device))

    def hold(self, step: int) -> tuple[Means, list[Batch]]:
        """The update's general rows, where it has a guard: their gradient is added."""
        if self.guarded is None:
            return Means(), []
        section, examples = self.guarded.section, self.guarded.drawn(step)
        batches = [
            pack(group, share=self.packed).to(self.device)
            for group in (divide(examples, self.tokens, share=self.packed) if examples else ())
        ]
        weight, anchor = self.guarded.weight, section.anchor
        return self.engine.hold(batches, self.guarded.objective, weight=weight, anchor=anchor, step=step), batches

    def general_loss(self) -> float:
        """The loss on the general rows that are held out."""
        assert self.guarded is not None
        objective, total = self.guarded.objective, 0.0
        groups = divide(self.guarded.held_out, self.tokens, share=self.packed)
        batches = [pack(group, share=self.packed).to(self.device) for group in groups]
        counts = counted(batches)
        with self.engine.optimizer.averaged():
            for batch in batches:
                scores = self.engine.score(batch, outputs=objective.outputs)
                total += float(objective.loss(scores, batch).total(counts))
        return total

    def informed(self, batches: Sequence[Batch], examples: Sequence[Example]) -> list[Batch]:
        """The batches of these examples with what their objective must know of all of them."""
        probes = self.recipe.objective.probes(examples, self.rows.codec.max_length)
        if not probes:
            return list(batches)
        groups = divide(probes, self.tokens, share=self.packed)
        probed = [self.engine.complete(pack(group, share=self.packed).to(self.device)) for group in groups]
        found = statistics(self.recipe.objective, probed, self.engine.score)
        return [replace(batch, statistics=found) for batch in batches]

    @cached_property
    def validation(self) -> list[list[Batch]]:
        """The validation rows, packed once; what is judged together stands together, an update's worth."""
        if not self.recipe.objective.joint:
            return [[batch] for batch in self.batches(self.held_out)]
        return [self.batches(part) for part in self.judged]

    @cached_property
    def judged(self) -> list[list[Example]]:
        """Of an objective that compares examples with each other, those of the validation that are compared."""
        return judged(self.held_out, self.recipe)

    @cached_property
    def held_out(self) -> list[Example]:
        """The rows validated on."""
        examples = self.rows.validation.examples
        wanted = self.recipe.evaluate.rows if self.recipe.evaluate else None
        numbers: Sequence[int] = range(len(examples))
        if wanted is not None and wanted < len(examples):
            numbers = random.Random(derive(self.recipe.seed, "validation")).sample(numbers, wanted)
        return [examples[number] for number in numbers]

    def validate(self, step: int) -> tuple[float, dict[str, float]]:
        """(loss, metrics) over the validation rows after `step`; Diverged when the loss is no number.

        Of an objective that learns from rewards the loss is the mean reward, taken negative.
        """
        with self.engine.optimizer.averaged():
            return self._validate(step)

    def _validate(self, step: int) -> tuple[float, dict[str, float]]:
        if self.rollouts is not None:
            # Always by the same chances, so that two validations differ by the policy alone.
            reward, told = self.rollouts.validated(self.held_out, derive(self.recipe.seed, "validation answers"))
            return -reward, told
        everything = [batch for group in self.validation for batch in group]
        counts, informed = counted(everything), iter(self.informed(everything, self.held_out))
        total, metrics = 0.0, Means()
        for group in self.validation:
            batches = list(islice(informed, len(group)))
            found, batch = [self.engine.score(one) for one in batches], joined(batches)
            scores = {name: torch.cat([one[name] for one in found]) for name in found[0]}
            loss = self.recipe.objective.loss(scores, batch)
            share = float(loss.total(counts))
            if not math.isfinite(share):
                raise Diverged(
                    f"the validation loss is {share} at step {step}",
                    where=", ".join(batch.ids[:5]),
                    fix="lower optim.lr, or look at these rows with: bottega preview",
                )
            total += share
            metrics.add(loss.metrics, batch)
        return total, metrics.values()

    def save(self, folder: Path, step: int) -> None:
        """Everything to go on from after `step`."""
        self.engine.save(folder, step=step, state=True)
        if self.references is not None:
            self.references.save(folder)
        if self.rollouts is not None:
            self.rollouts.save(folder, step)

    def save_result(self, folder: Path, step: int) -> None:
        """What others load: the weights with their tokenizer, and what ends an answer."""
        self.engine.save(folder, step=step, state=False)
        if self.recipe.objective.head == "language":
            declare_ends(self.engine.scorer.network, self.rows.codec.end_tokens, folder)

    def load(self, folder: Path, step: int) -> None:
        """The inverse of `save`."""
        self.engine.load(folder)
        if self.references is not None:
            self.references.load(folder)
        if self.rollouts is not None:
            self.rollouts.load(folder, step)

    @property
    def stops_early(self) -> bool:
        return self.recipe.evaluate is not None and self.recipe.evaluate.stop_after is not None

    @property
    def keep(self) -> int:
        """How many of the newest checkpoints stay."""
        return self.recipe.save.keep if self.recipe.save else 1

    @property
    def wants_best(self) -> bool:
        """Whether the best weights so far must be kept."""
        return self.stops_early or self.recipe.save is not None

    def due_validation(self, step: int) -> bool:
        if self.recipe.evaluate is None:
            return False
        every = self.recipe.evaluate.every or max(1, self.feed.steps // VALIDATIONS)
        return step % every == 0 or step == self.feed.steps

    def due_answers(self, step: int) -> bool:
        """Whether what the policy answers is to be told: about ten times in a run."""
        rounds, number = self.feed.steps // self.feed.passes, (step - 1) // self.feed.passes
        return number % max(1, rounds // VALIDATIONS) == 0

    def due_save(self, step: int) -> bool:
        return self.recipe.save is not None and step % self.recipe.save.every == 0

    @property
    def device_memory(self) -> int:
        """Peak bytes of the accelerator; 0 without one."""
        return torch.cuda.max_memory_allocated() if self.device == "cuda" else 0

    @property
    def device_use(self) -> float | None:
        """Share of the time the accelerator was busy of late, as its driver says; None where it does not."""
        if self.device != "cuda":
            return None
        if self._asks_driver:
            try:
                return torch.cuda.utilization() / 100
            except Exception:  # the driver's library is not part of torch, and has errors of its own
                self._asks_driver = False
        return None


def statistics(
    objective: Objective, probed: Sequence[Batch], score: Callable[[Batch], Mapping[str, torch.Tensor]]
) -> dict[str, float]:
    """What an objective reads of its probes, each a mean over all of them."""
    found = Means()
    for batch in probed:
        found.add(objective.statistics(score(batch), batch), batch)
    return found.values()


def _device(wanted: str) -> str:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise RunError("no CUDA device here", where="devices.device", fix="set it to auto or cpu; see: bottega doctor")
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted
