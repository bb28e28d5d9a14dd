"""Adapters through PEFT: installed where PEFT can adapt, save and find a layer again; attached, switched off, merged.

Imported when a model is at hand: PEFT and torch are slow to import, and a recipe needs neither.
"""

from __future__ import annotations

import json
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.integrations import dequantize_module_weight
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.pytorch_utils import Conv1D

from bottega.adapters._adapted import AdaptedModel, RowParts, not_for_rows
from bottega.adapters._base import (
    CONFIG,
    HEADS,
    WEIGHT_FILES,
    WEIGHTS,
    InstallOptions,
    LinearLayer,
    ends_with,
    is_in_head,
)
from bottega.adapters._low_rank_start import check_form, is_quantized, restore_start, subtract_start, write_start
from bottega.adapters._peft import ACTIVE, ALL_LINEAR, REFERENCE, START, PeftAdapter
from bottega.errors import ModelError
from bottega.suggestions import suggest_name

# How PEFT names a layer that it cannot adapt, in its error.
REFUSED = re.compile(r"Module '([\w.]+)' is incompatible")

# PEFT's types that put trained tokens or states before a text, and change no module of the model.
PROMPT_LEARNING = (*("MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "CARTRIDGE", "ADAPTION_PROMPT"),)

# PEFT's class for experts of which all weights are one parameter, in its errors.
FUSED_EXPERTS = "ParamWrapper"

# Where the name of a layer ends, and that of a weight of its adapter begins.
# VeRA's random matrices are those of the model, which every layer only refers to.
TRAINED = re.compile(r"\.(?:lora_|ia3_l|vera_lambda)")


class ScaledLowRank(nn.Module):
    """f · (y - bias) + bias + b · a · x of a layer y = W x + bias: DoRA where its weights do not change.

    factor  [out] f
    a       [r, in]
    b       [out, r]
    """

    def __init__(self, base: nn.Module, factor: Tensor, a: Tensor, b: Tensor) -> None:
        super().__init__()
        self.base, self.factor, self.a, self.b = base, factor, a, b

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        bias = cast("Tensor | None", self.base.bias)
        scaled = y * self.factor if bias is None else torch.addcmul(bias, y - bias, self.factor)
        return scaled + x @ self.a.T @ self.b.T


def _is_row_layer(layer: BaseTunerLayer) -> bool:
    """Whether a layer with an adapter is a linear one, which computes each token by itself."""
    return isinstance(layer.get_base_layer(), (nn.Linear, Conv1D))


@torch.no_grad()
def _with_fixed_norms(base: nn.Module, layer: Any) -> nn.Module:
    """The layer of an adapter; one with DoRA as what computes the same without the norm of its weight at each call."""
    name, *others = layer.active_adapters
    if others or name not in getattr(layer, "lora_magnitude_vector", {}):
        return cast(nn.Module, layer)
    dora, scale = layer.lora_magnitude_vector[name], layer.scaling[name]
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    norm = cast(Any, dora).get_weight_norm(dequantize_module_weight(base).to(a.dtype), b @ a, scale)
    factor = dora.weight / norm
    return ScaledLowRank(base, factor, a, b * factor[:, None] * scale)


class PeftAdaptedModel(AdaptedModel):
    """A PeftModel, and the transformers model inside it."""

    library = "peft"

    def __init__(self, model: Any) -> None:
        self.model = model

    @property
    def network(self) -> Any:
        return self.model.get_base_model()

    @contextmanager
    def disabled(self) -> Iterator[None]:
        # PEFT lets every weight of an adapter be trained again that it switches on, also those that were frozen.
        trained = {weight for weight in self.model.parameters() if weight.requires_grad}
        try:
            if REFERENCE in self.model.peft_config:
                self.model.set_adapter(REFERENCE)
                yield
            else:
                with self.model.disable_adapter():
                    yield
        finally:
            if REFERENCE in self.model.peft_config:
                self.model.set_adapter(ACTIVE)
            for weight in self.model.parameters():
                weight.requires_grad_(weight in trained)

    def save(self, folder: Path) -> None:
        # "auto" would ask a hub whether the vocabulary has grown.
        self.model.save_pretrained(str(folder), selected_adapters=[ACTIVE], save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)
        if START in self.model.peft_config:
            write_start(self.model, folder)
        _sort_lists(folder / CONFIG)

    def restore(self, folder: Path) -> None:
        if START in self.model.peft_config:
            restore_start(self.model, folder)

    def merge(self) -> nn.Module:
        if self.invocation:
            what = "an adapter that begins at its invocation cannot be added to weights, which compute all tokens"
            raise ModelError(what, where="merge", fix="use the base with the adapter beside it")
        bases = [module.get_base_layer() for module in self.model.modules() if isinstance(module, BaseTunerLayer)]
        if any(getattr(base, "is_linear", False) for base in bases):
            raise ModelError(
                "an adapter cannot be added to weights that are kept quantized or packed",
                where="merge",
                fix="bottega export RUN --to merged, which loads them whole",
            )
        merged: nn.Module = self.model.merge_and_unload()
        return merged

    def take_off(self) -> RowParts:
        network, head = self.network, self.network.get_output_embeddings()
        layers: dict[str, Any] = {
            name: layer for name, layer in network.named_modules() if isinstance(layer, BaseTunerLayer)
        }
        others = [name for name, layer in layers.items() if not _is_row_layer(layer) or layer is head]
        _remove_adapters(network)  # PEFT's own way cannot put back what keeps its weight packed
        if others or not layers:
            what = f"it changes {others[0]}" if others else "it changes nothing"
            raise not_for_rows(f"{what}, and not only linear layers before the head")
        found = {name: _with_fixed_norms(network.get_submodule(name), layer) for name, layer in layers.items()}
        return RowParts(found)

    @property
    def invocation(self) -> tuple[int, ...]:
        return tuple(getattr(self.model.peft_config[ACTIVE], "alora_invocation_tokens", None) or ())

    @property
    def left_out(self) -> list[str]:
        config = self.model.peft_config[ACTIVE]
        whole = config.modules_to_save or []
        excluded = getattr(config, "exclude_modules", None) or []
        return sorted(name for name in excluded if name not in whole and not is_in_head(name))

    @property
    def changes_head(self) -> bool:
        return isinstance(self.network.get_output_embeddings(), BaseTunerLayer)


def install_peft(model: Any, adapter: PeftAdapter, options: InstallOptions) -> PeftAdaptedModel:
    """Put new weights on a model; see `Adapter.install`."""
    check_targets(model, adapter.targets)
    # What is trained whole gets no adapter, even where it is linear.
    whole = [*options.whole, *(_trained_whole(model, options.new_modules) if options.head_is_whole else [])]
    beside = [*options.new_modules, *options.whole]
    shared: dict[str, Any] = {
        "target_modules": adapter.targets,
        "task_type": "SEQ_2_SEQ_LM" if _is_encoder_decoder(model) else options.peft_task,
        # PEFT adds those of HEADS itself.
        "modules_to_save": [name for name in beside if name.partition(".")[0] not in HEADS] or None,
    }
    if options.invocation:
        shared["alora_invocation_tokens"] = list(options.invocation)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftAdaptedModel(_install(model, adapter, shared, whole))


def _install(model: Any, adapter: PeftAdapter, shared: dict[str, Any], whole: Sequence[str]) -> Any:
    """The PeftModel; with all-linear, layers that PEFT cannot adapt, or not find again, are left out."""
    all_linear = adapter.targets == ALL_LINEAR
    excluded = [*whole, *(_other_than_linear(model) if all_linear else [])]
    random_state, by_name = torch.get_rng_state(), adapter.by_name
    while True:
        if by_name:
            chosen = adapter.targeted([LinearLayer(name, 0, 0) for name in _body_layers(model)])
            names = [layer.name for layer in chosen if not ends_with(layer.name, excluded)]
            config = adapter.peft_config(**{**shared, "target_modules": names})
        else:
            config = adapter.peft_config(**shared, exclude_modules=excluded or None)
        try:
            # The optimizer keeps float32 copies, so the adapter computes in the dtype of its base.
            adapted = get_peft_model(model, config, autocast_adapter_dtype=False)
            refused, why = _not_found_again(adapted), "an adapter of it would not be found again when it is loaded"
        except (ValueError, re.error) as error:
            refused, why = REFUSED.findall(str(error)), str(error).splitlines()[0]
            if all_linear and "No modules were targeted" in why:
                what = f"PEFT finds no layer in {model.config.model_type} that it can adapt"
                raise ModelError(what, where="adapter", fix="leave adapter out, and train all weights") from None
            if all_linear and not by_name and FUSED_EXPERTS in why:
                # Not for DoRA, nor with dropout: then only what is a linear layer.
                by_name = True
                _remove_adapters(model)
                torch.set_rng_state(random_state)
                continue
            if not all_linear or not set(refused) - set(excluded):
                fix = "name other layers, or all-linear, which leaves out what cannot be adapted"
                raise ModelError(f"{adapter.targets}: {why}", where="adapter.targets", fix=fix) from None
        if not refused:
            return adapted
        if not all_linear or set(refused) <= set(excluded):
            fix = "name other layers, or all-linear"
            raise ModelError(f"{refused[0]}: {why}", where="adapter.targets", fix=fix)
        excluded += [name for name in refused if name not in excluded]
        # The next attempt starts where this one did: same weights, same random numbers.
        _remove_adapters(model)
        torch.set_rng_state(random_state)


def attach_peft(model: nn.Module, folder: Path, *, trainable: bool, reference: bool) -> PeftAdaptedModel:
    """The model with an adapter of any kind of PEFT's that changes modules; see `adapters.attach`."""
    has_start = (folder / START / WEIGHTS).is_file()
    if has_start and not is_quantized(model):
        # It makes up for what the weights lost when they were quantized, and these have not lost it.
        with tempfile.TemporaryDirectory() as changed:
            subtract_start(folder, Path(changed))
            return _attach(model, Path(changed), folder, trainable=trainable, reference=reference)
    if has_start:
        check_form(model, folder)
    return _attach(model, folder, folder, trainable=trainable, reference=reference)


def _attach(model: nn.Module, folder: Path, named: Path, *, trainable: bool, reference: bool) -> PeftAdaptedModel:
    """`named`: the folder that errors name."""
    kind = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["peft_type"]
    if kind in PROMPT_LEARNING:
        # PEFT adds their tokens around the model, which is called without it here: they would do nothing.
        what = f"adapters of the type {kind} are not computed here: what they put before a text would be left out"
        raise ModelError(what, where=str(named), fix="train an adapter of another kind on the same rows")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapted = PeftModel.from_pretrained(
                model, str(folder), is_trainable=trainable, autocast_adapter_dtype=False
            )
            if reference:
                adapted.load_adapter(str(folder), REFERENCE, is_trainable=False, autocast_adapter_dtype=False)
            if (folder / START / WEIGHTS).is_file():
                adapted.load_adapter(str(folder / START), START, is_trainable=False, autocast_adapter_dtype=False)
    except (ValueError, RuntimeError, KeyError) as error:
        what = f"the adapter does not fit this model: {str(error).splitlines()[0]}"
        raise ModelError(what, where=str(named), fix="name the base it was trained on as model.base") from None
    _check_complete(adapted, folder, named)
    return PeftAdaptedModel(adapted)


def _check_complete(adapted: Any, folder: Path, named: Path) -> None:
    """A ModelError if a saved weight has no place in the model, or a place no weight: PEFT ignores both."""
    saved = {key: value for file in sorted(folder.glob(WEIGHT_FILES)) for key, value in load_file(file).items()}
    read = get_peft_model_state_dict(adapted, adapter_name=ACTIVE, save_embedding_layers=False)
    whole = adapted.state_dict()  # modules trained whole and saved beside the adapter are in the model itself
    unplaced = [k for k, value in saved.items() if not _has(read, k, value) and not _has(whole, k, value)]
    wrong = unplaced or sorted(read.keys() - saved.keys())
    if wrong:
        raise ModelError(
            f"{len(wrong)} weights of the adapter {'find no place in' if unplaced else 'are missing for'} this model,"
            f" {wrong[0]} for example",
            where=str(named),
            fix="name the base it was trained on as model.base; else leave these modules out of adapter.targets and"
            " train it again",
        )


def _has(weights: Mapping[str, Tensor], key: str, value: Tensor) -> bool:
    own = weights.get(key)
    return own is not None and torch.equal(own.cpu(), value.to(own.dtype))


def _sort_lists(path: Path) -> None:
    """PEFT writes sets in any order; equal adapters are to be equal files."""
    config = json.loads(path.read_text(encoding="utf-8"))
    for name in ("target_modules", "modules_to_save"):
        if isinstance(config.get(name), list):
            config[name] = sorted(config[name])
    path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


# Which layers PEFT can adapt


def _trained_whole(model: nn.Module, new: Sequence[str]) -> list[str]:
    """Heads and new modules, and linear layers inside what PEFT takes for a head by the end of its name."""
    return list(dict.fromkeys([*HEADS, *new, *(name for name, _ in _linear_layers(model) if is_in_head(name))]))


def _body_layers(model: Any) -> list[str]:
    """The names of all linear layers but the head over the vocabulary."""
    head = model.get_output_embeddings()
    return [name for name in linear_names(model) if model.get_submodule(name) is not head]


def linear_names(model: nn.Module) -> list[str]:
    """The names of the linear layers, GPT-2's transposed ones included."""
    return [name for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))]


def _linear_layers(model: nn.Module) -> list[tuple[str, nn.Linear]]:
    """The linear layers by name; of one with an adapter, the layer inside it."""
    modules = ((name, getattr(module, "base_layer", module)) for name, module in model.named_modules())
    return [(name, module) for name, module in modules if isinstance(module, nn.Linear) and ".base_layer" not in name]


def _other_than_linear(model: nn.Module) -> list[str]:
    """Subclasses of nn.Linear that do not compute x Wᵀ: routers, grouped layers."""
    overridden = [
        (name, layer) for name, layer in _linear_layers(model) if type(layer).forward is not nn.Linear.forward
    ]
    # A quantized layer says that it is one: to try it would unpack its weight.
    odd = [name for name, layer in overridden if not getattr(layer, "is_linear", False) and not _maps_as_linear(layer)]
    return _shortest_unique(model, odd)


def _maps_as_linear(layer: Any) -> bool:
    x = layer.weight.new_zeros(2, 3, layer.in_features)
    try:
        with torch.no_grad():
            y = layer(x)
    except Exception:  # it wants another input, or a second one
        return False
    return isinstance(y, torch.Tensor) and y.shape == (2, 3, layer.out_features)


def _not_found_again(adapted: Any) -> list[str]:
    """Layers whose adapter is saved under a name that loading turns into another."""
    # Loading renames only in architectures whose checkpoints have other names than their modules.
    if get_checkpoint_conversion_mapping(adapted.config.model_type) is None:
        return []
    state = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    missing = set_peft_model_state_dict(adapted, state).missing_keys
    names = {TRAINED.split(key)[0].removeprefix("base_model.model.") for key in missing if TRAINED.search(key)}
    return _shortest_unique(adapted.get_base_model(), sorted(names))


def _shortest_unique(model: nn.Module, names: Sequence[str]) -> list[str]:
    """The names cut to their last one, two or three parts, where no other linear layer ends in these as well."""
    remaining: set[str] = set(names)
    shortened: list[str] = []
    layers = [name for name, _ in _linear_layers(model)]
    for parts in (1, 2, 3):
        ends = {name: ".".join(name.split(".")[-parts:]) for name in layers}
        foreign = {end for name, end in ends.items() if name not in names}
        shortened += sorted({ends[name] for name in remaining & set(layers)} - foreign)
        remaining = {name for name in remaining if ends.get(name) not in shortened}
    return [*shortened, *sorted(remaining)]


def _remove_adapters(model: nn.Module) -> None:
    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, module.get_base_layer())


def _is_encoder_decoder(model: Any) -> bool:
    return bool(model.config.is_encoder_decoder)


def check_targets(model: nn.Module, targets: str | list[str]) -> None:
    """A ModelError if a target does not exist: PEFT is content when one of several does."""
    modules = {name for name, _ in model.named_modules()}
    single = isinstance(targets, str) and targets.isidentifier()
    wanted = [targets] if isinstance(targets, str) else targets
    unknown = [end for end in wanted if not any(ends_with(name, [end]) for name in modules)]
    if unknown and (single or isinstance(targets, list)):
        linear = {name.rpartition(".")[2] for name, _ in _linear_layers(model)}
        fix = f"{suggest_name(unknown[0], sorted(linear))}; all-linear fits any model"
        raise ModelError(f"no module is called {unknown[0]}", where="adapter.targets", fix=fix)
    if single and targets not in modules:
        what = "a single text is a pattern of whole names, as model.layers.0.mlp.up_proj"
        raise ModelError(what, where="adapter.targets", fix=f"write a list: [{targets}]")
