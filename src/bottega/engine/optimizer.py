"""The optimizer: collects gradients, clips them, and updates the weights by a rule.

The updates apply to float32 masters of the weights, so that changes too small for half precision are not lost. The
gradients of several micro-batches are added up in float32 as well.
"""

from __future__ import annotations

import fnmatch
import re
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from bottega.engine.adafactor import Adafactor
from bottega.engine.adamw import CHUNK_SIZE, AdamW
from bottega.engine.adamw_8bit import MIN_ELEMENTS, AdamW8bit
from bottega.engine.ema import WeightAverage
from bottega.engine.master_weights import LARGE_WEIGHT, MasterWeight, at_least_float32, make_master_weight
from bottega.engine.muon import Muon
from bottega.errors import CheckpointError, RecipeError
from bottega.models.native import DTYPES
from bottega.recipe.schema import Optim

# The factor on the loss of a model with float16 weights: without it, small gradients would be rounded to zero. It is
# halved when a gradient is too large for float16, and doubled after so many updates in which none was (Micikevicius et
# al. 2018, arXiv 1710.03740).
FLOAT16_SCALE, MAX_FLOAT16_SCALE, UPDATES_BEFORE_GROWTH = 2.0**12, 2.0**16, 2000

# Its place among the tensors of a checkpoint, where other places begin with the name of a weight.
SCALE_KEY = "|loss_scale"

# The layer's index in the name of a weight. The first number counts: a mixture's experts are numbered after it.
LAYER_INDEX = re.compile(r"(?:^|\.)(\d+)\.")

# Names of weights below the first layer.
EMBEDDING_NAME = re.compile(r"(^|\.)(embed|wte|wpe|word_embeddings)")


class UpdateRule(Protocol):
    """Updates a group of weights.

    state  tensors for each weight, by the weight's name and their own
    """

    state: dict[str, dict[str, Tensor]]

    def step(self, gradients: dict[str, Tensor], lr: float, divisor: Tensor | None) -> None: ...


class Optimizer:
    """Updates the trained weights of a model; backward passes add their gradients to it by themselves.

    not_for_muon  names of embeddings and heads, which Muon leaves to AdamW although they are matrices
    weights       the trained weights and their masters
    scale         the factor that a loss must be multiplied by before its backward
    gradients     by name, `scale` times too large: a single one in the weight's dtype, the sum of several in float32
    average       the moving average of the weights, None without `optim.ema`
    native        large weights may be read and updated in C++
    lr_factor     what the learning rate is multiplied by for the weight of a name
    """

    def __init__(
        self,
        model: nn.Module,
        settings: Optim,
        not_for_muon: Iterable[str] = (),
        *,
        native: bool = False,
        lr_factor: Callable[[str], float] = lambda name: 1.0,
    ) -> None:
        trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
        self.weights = [make_master_weight(name, weight) for name, weight in trained]
        self.has_float16 = any(weight.parameter.dtype == torch.float16 for weight in self.weights)
        self.scale = FLOAT16_SCALE if self.has_float16 else 1.0
        self.updates_at_scale = 0
        self.gradients: dict[str, Tensor] = {}
        for weight in self.weights:
            # Gradients are taken over as soon as they are complete, so that no two copies of one exist at a time.
            cast(Any, weight.parameter).register_post_accumulate_grad_hook(self._gradient_hook(weight.name))
        # Weight decay moves every row of an embedding, whether it has a gradient or not.
        sparse = enable_sparse_gradients(model) if not settings.weight_decay else ()
        self.native = native
        factors = layer_lr_factors([weight.name for weight in self.weights], settings.layer_decay or 1.0)
        factors = {name: factor * lr_factor(name) for name, factor in factors.items()}
        self.rules = _make_rules(self.weights, settings, factors, set(not_for_muon), sparse, native)
        self.average = None if settings.ema is None else WeightAverage(self.weights, settings.ema)
        self.clip = settings.clip

    def averaged_weights(self) -> AbstractContextManager[None]:
        """Inside the `with` block the model's weights are their moving average, if there is one."""
        return nullcontext() if self.average is None else self.average.applied()

    def norm(self) -> Tensor:
        """The L2 norm of the whole gradient, before clipping."""
        if not self.gradients:
            return torch.zeros(())
        large, others = list[Tensor](), list[Tensor]()
        for gradient in self.gradients.values():
            (large if self.native and _fits_native(gradient) else others).append(gradient)
        # In chunks, because the norm of a half-precision tensor makes a float32 copy of it. The sum over chunks is
        # taken in float64: its terms differ by orders of magnitude.
        squares = [torch.dot(chunk, chunk).double() for chunk in _float32_chunks(others)]
        squares += [torch.tensor(torch.ops.bottega.sum_of_squares(one), dtype=torch.float64) for one in large]
        return torch.stack(squares).sum().sqrt().float() / self.scale

    def step(self, lr: float, norm: Tensor) -> None:
        """Update the weights by the clipped gradient, and clear it.

        norm  of the gradient, from `norm`
        """
        divisor = self._divisor(norm)
        for lr_factor, rule in self.rules:
            rule.step(self.gradients, lr_factor * lr, divisor)
        if self.average is not None:
            self.average.update()
        self.updates_at_scale += 1
        if self.has_float16 and self.scale < MAX_FLOAT16_SCALE and self.updates_at_scale >= UPDATES_BEFORE_GROWTH:
            self.scale, self.updates_at_scale = 2 * self.scale, 0

    def shrink_scale(self) -> bool:
        """Forget a gradient that is no number, and halve `scale`; False if it was 1, so that this cannot help."""
        self.gradients.clear()
        if self.scale <= 1.0:
            return False
        self.scale, self.updates_at_scale = self.scale / 2, 0
        return True

    def _divisor(self, norm: Tensor) -> Tensor | None:
        """The number to divide gradients by, for their scale and for clipping; None for 1."""
        if self.clip is None:
            return None if self.scale == 1.0 else torch.tensor(self.scale, device=norm.device)
        # A tensor, not a Python number: reading it would wait for the device.
        return (norm / self.clip).clamp(min=1.0).float() * self.scale

    def state(self) -> dict[str, Tensor]:
        """All tensors needed to continue exactly: masters, states of the update rules, the average."""
        tensors = {f"{name}|{key}": tensor for name, key, tensor in (*self._master_tensors(), *self._rule_tensors())}
        scale = {SCALE_KEY: torch.tensor([self.scale, self.updates_at_scale])} if self.has_float16 else {}
        return tensors | scale

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned; a CheckpointError if tensors are missing."""
        tensors = (*self._master_tensors(), *self._rule_tensors())
        missing = [name for name, key, _ in tensors if f"{name}|{key}" not in state]
        if missing:
            raise CheckpointError(
                "the checkpoint lacks optimizer state that a resume needs: another version wrote it",
                where=missing[0],
                fix="start a new run with its recipe.yaml",
            )
        for weight in self.weights:
            weight.load({key: state[f"{weight.name}|{key}"] for key in weight.tensors})
        for name, key, tensor in self._rule_tensors():
            tensor.copy_(state[f"{name}|{key}"])
        if SCALE_KEY in state:
            self.scale, self.updates_at_scale = float(state[SCALE_KEY][0]), int(state[SCALE_KEY][1])

    def _master_tensors(self) -> Iterator[tuple[str, str, Tensor]]:
        """(name of a weight, key, tensor) for everything that stores masters."""
        for weight in self.weights:
            yield from ((weight.name, key, tensor) for key, tensor in weight.tensors.items())

    def _rule_tensors(self) -> Iterator[tuple[str, str, Tensor]]:
        """(name of a weight, key, tensor) for the states of the update rules and the average."""
        states = [rule.state for _, rule in self.rules] + ([] if self.average is None else [self.average.state])
        for state in states:
            for name, tensors in state.items():
                yield from ((name, key, tensor) for key, tensor in tensors.items())

    def _gradient_hook(self, name: str) -> Callable[[Tensor], None]:
        """A hook that moves a weight's complete gradient into `gradients`."""
        # Python's garbage collector does not see the hooks of a tensor: a strong reference to the optimizer in one
        # would be a cycle that is never freed.
        owner = weakref.ref(self)

        def collect(parameter: Tensor) -> None:
            optimizer = owner()
            assert parameter.grad is not None
            if optimizer is None:  # the model outlives its training, and its gradients belong to someone else
                return
            gradient, parameter.grad = parameter.grad, None
            # A sparse gradient has a row for each occurrence of a token until they are added up.
            gradient = at_least_float32(gradient).coalesce() if gradient.is_sparse else gradient
            sum_so_far = optimizer.gradients.get(name)
            optimizer.gradients[name] = gradient if sum_so_far is None else add_gradients(sum_so_far, gradient)

        return collect


def _fits_native(gradient: Tensor) -> bool:
    """Whether the operators in C++ read a gradient, and are faster than the calls for small ones."""
    fits = gradient.dtype in DTYPES and not gradient.is_sparse and gradient.is_cpu and gradient.is_contiguous()
    return fits and gradient.numel() >= LARGE_WEIGHT


def _float32_chunks(gradients: Iterable[Tensor]) -> Iterator[Tensor]:
    """All elements in flat float32 (or wider) chunks: large gradients cut as for an update, small ones joined."""
    small = []
    for gradient in gradients:
        flat = (gradient.values() if gradient.is_sparse else gradient).reshape(-1)
        if len(flat) < LARGE_WEIGHT:
            small.append(flat)
        else:
            yield from map(at_least_float32, torch.split(flat, CHUNK_SIZE[flat.device.type]))
    if small:
        yield at_least_float32(torch.cat(small))


def add_gradients(sum_so_far: Tensor, gradient: Tensor) -> Tensor:
    """Their sum in float32 or wider, sparse if both are; `sum_so_far` may be overwritten."""
    if sum_so_far.is_sparse:
        return (sum_so_far + gradient).coalesce() if gradient.is_sparse else at_least_float32(gradient) + sum_so_far
    return at_least_float32(sum_so_far).add_(gradient)


def enable_sparse_gradients(model: nn.Module) -> set[str]:
    """Let large embeddings have sparse gradients, of the rows looked up; returns the names of their weights.

    Most rows have a gradient of zero. A dense gradient would be allocated, measured and read in every update for
    nothing. A weight that another module shares, such as a tied head, keeps its dense gradient.
    """
    holders = Counter(id(weight) for module in model.modules() for weight in module.parameters(recurse=False))
    names = set()
    for name, module in model.named_modules():
        if not isinstance(module, nn.Embedding) or module.weight.numel() < LARGE_WEIGHT:
            continue
        if module.weight.requires_grad and holders[id(module.weight)] == 1:
            module.sparse = True
            names.add(f"{name}.weight")
    return names


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Exclude weights whose names match a pattern from training.

    Raises RecipeError for a pattern without a match, and if no weight is left.
    """
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    for pattern in patterns:
        matches = fnmatch.filter(trained, pattern)
        if not matches:
            raise RecipeError(
                f"{pattern!r} matches no trained weight",
                where="optim.freeze",
                fix=f"weights have names such as {', '.join(list(trained)[:3])}",
            )
        for name in matches:
            trained[name].requires_grad_(False)
    if not any(weight.requires_grad for weight in trained.values()):
        raise RecipeError("all weights are frozen", where="optim.freeze", fix="leave some weights out of it")


def layer_lr_factors(names: Sequence[str], decay: float) -> dict[str, float]:
    """The factor on each weight's learning rate, decaying from layer to layer (Clark et al. 2020, arXiv 2003.10555).

    The head, and anything else above the layers, has 1, the top layer `decay`, the next decay², and so on down to the
    embeddings.
    """
    layers = {name: int(match[1]) for name in names if (match := LAYER_INDEX.search(name))}
    top = max(layers.values(), default=-1) + 1
    # A weight without a number is an embedding, below layer 0, or belongs above the layers.
    depth = {name: layers.get(name, -1 if EMBEDDING_NAME.search(name) else top) for name in names}
    return {name: decay ** (top - layer) for name, layer in depth.items()}


def _make_rules(
    weights: Sequence[MasterWeight],
    settings: Optim,
    factors: Mapping[str, float],
    not_for_muon: Collection[str],
    sparse: Collection[str],
    native: bool,
) -> list[tuple[float, UpdateRule]]:
    """(learning rate factor, update rule) for each group of weights; `factors` by their names."""
    return [
        (factor, rule)
        for factor in sorted(set(factors.values()))
        for rule in _rules_of_group(
            [weight for weight in weights if factors[weight.name] == factor], settings, not_for_muon, sparse, native
        )
    ]


def _rules_of_group(
    weights: Sequence[MasterWeight],
    settings: Optim,
    not_for_muon: Collection[str],
    sparse: Collection[str],
    native: bool,
) -> list[UpdateRule]:
    """The update rules of weights with one learning rate."""
    matrices = [weight for weight in weights if weight.parameter.dim() >= 2]
    vectors = [weight for weight in weights if weight not in matrices]
    # Biases and norms do not decay: pulling them to zero would not regularize, but shift what a layer computes.
    if settings.optimizer == "adafactor":
        return [Adafactor(matrices, settings.weight_decay), Adafactor(vectors, 0.0)]
    rules = list[UpdateRule]()
    if settings.optimizer == "muon":
        # It orthogonalizes an update, which makes sense for a linear map: not for embeddings, heads or convolutions.
        taken = [weight for weight in matrices if weight.parameter.dim() == 2 and weight.name not in not_for_muon]
        rules.append(Muon(taken, settings.weight_decay))
    elif settings.optimizer == "adamw_8bit":
        taken = [weight for weight in matrices if weight.parameter.numel() >= MIN_ELEMENTS]
        rules.append(AdamW8bit(taken, settings.betas, settings.weight_decay))
    else:
        taken = []
    others = [weight for weight in matrices if weight not in taken]
    return [
        *rules,
        AdamW(others, settings.betas, settings.weight_decay, sparse, native=native),
        AdamW(vectors, settings.betas, 0.0),
    ]
