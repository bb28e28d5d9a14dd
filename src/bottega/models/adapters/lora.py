"""LoRA through PEFT: put on, continued, loaded, switched off."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bottega.errors import ModelError
from bottega.hardware.device import compute_dtype, resolve_device
from bottega.models import heads
from bottega.models.checkpoint import check_adapter, fit_model, load_adapted
from bottega.models.kernels import apply_kernels
from bottega.models.quantization.linear import QuantizedLinear
from bottega.models.scorer import Fit, Scorer
from bottega.models.source import adapter_folder
from bottega.objectives import HeadKind
from bottega.recipe import schema as recipes
from bottega.suggestions import suggest_name

HEADS = ("classifier", "score")
"""Classifiers that PEFT trains and saves of its own accord."""

REFUSED = re.compile(r"Module '([\w.]+)' is incompatible")
"""How PEFT names a layer that it will not adapt."""

REFERENCE = "reference"
"""Name of the frozen copy of a continued adapter, where an objective compares with the policy as the run began."""


def add_adapter(
    model: nn.Module, adapter: recipes.Adapter, *, head: HeadKind, new: Sequence[str], reference: bool
) -> Any:
    """The model with its weights frozen and a trainable adapter; a new classifier is trained beside it.

    new        modules whose weights are random: they are trained and saved with the adapter
    reference  keep what `without` needs to be the policy as it is now
    """
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if adapter.start is not None:
            folder = str(adapter_folder(adapter.start))
            try:
                adapted = PeftModel.from_pretrained(model, folder, is_trainable=True, autocast_adapter_dtype=False)
                if reference:
                    adapted.load_adapter(folder, REFERENCE, is_trainable=False, autocast_adapter_dtype=False)
            except (ValueError, RuntimeError, KeyError) as error:
                what = f"the adapter does not fit this model: {str(error).splitlines()[0]}"
                raise ModelError(what, where=folder, fix="name the base it was trained on as model.base") from None
            check_adapter(adapted, Path(folder))
            return _fused(adapted)
        _refuse_unknown(model, adapter.targets)
        # What is trained whole needs no adapter as well, though it be linear.
        whole = [] if head == "language" else _trained_whole(model, new)
        options = {
            "r": adapter.rank,
            "lora_alpha": adapter.alpha,
            "lora_dropout": adapter.dropout,
            "target_modules": adapter.targets,
            "task_type": "SEQ_2_SEQ_LM" if _is_encoder_decoder(model) else heads.load(head).peft_task,
            "modules_to_save": [name for name in new if name.partition(".")[0] not in HEADS] or None,
        }
        return _fused(_with_lora(model, options, whole))


def left_out(adapted: Any, new: Sequence[str]) -> list[str]:
    """Names of linear layers that all-linear could not take; `new` as it was given to `adapt`."""
    excluded = adapted.peft_config["default"].exclude_modules or []
    return sorted(name for name in excluded if name not in new and not _of_a_head(name))


def _with_lora(model: Any, options: dict[str, Any], whole: Sequence[str]) -> Any:
    """The model with a LoRA on its targets; of all-linear, on those that PEFT can adapt, save and find again."""
    from peft import LoraConfig, get_peft_model

    all_linear = options["target_modules"] == "all-linear"
    excluded = [*whole, *(_of_another_form(model) if all_linear else [])]
    chances = torch.get_rng_state()
    while True:
        config = LoraConfig(**options, exclude_modules=excluded or None)
        try:
            # The optimiser keeps float32 copies, so the adapter computes in the dtype of its base.
            adapted = get_peft_model(model, config, autocast_adapter_dtype=False)
            lost, why = _lost(adapted), "an adapter of it would not be found again when it is loaded"
        except (ValueError, re.error) as error:
            lost, why = REFUSED.findall(str(error)), str(error).splitlines()[0]
            if all_linear and "No modules were targeted" in why:
                what = f"PEFT finds no layer in {model.config.model_type} that it can adapt"
                raise ModelError(what, where="adapter", fix="leave adapter out, and train all weights") from None
            if not all_linear or not set(lost) - set(excluded):
                fix = "name other layers, or all-linear, which leaves out what cannot be adapted"
                raise ModelError(f"{options['target_modules']}: {why}", where="adapter.targets", fix=fix) from None
        if not lost:
            return adapted
        if not all_linear or set(lost) <= set(excluded):
            raise ModelError(f"{lost[0]}: {why}", where="adapter.targets", fix="name other layers, or all-linear")
        excluded += [name for name in lost if name not in excluded]
        _unwrap(model)
        torch.set_rng_state(chances)


def _trained_whole(model: nn.Module, new: Sequence[str]) -> list[str]:
    """Heads and new modules, and linear layers in what PEFT takes for a head, as its name ends in that of one."""
    return list(dict.fromkeys([*HEADS, *new, *(name for name, _ in _linear(model) if _of_a_head(name))]))


def _of_a_head(name: str) -> bool:
    return any(part.endswith(HEADS) for part in name.split("."))


def _linear(model: nn.Module) -> list[tuple[str, nn.Linear]]:
    """The linear layers by their names, an adapter on them or not."""
    found = ((name, getattr(module, "base_layer", module)) for name, module in model.named_modules())
    return [(name, module) for name, module in found if isinstance(module, nn.Linear) and ".base_layer" not in name]


def _of_another_form(model: nn.Module) -> list[str]:
    """Linear layers whose forward is their own and gives something else than x Wᵀ would: routers, grouped layers."""
    own = [(name, layer) for name, layer in _linear(model) if type(layer).forward is not nn.Linear.forward]
    odd = [name for name, layer in own if not isinstance(layer, QuantizedLinear) and not _answers_like_one(layer)]
    return _shortest(model, odd)


def _answers_like_one(layer: Any) -> bool:
    x = layer.weight.new_zeros(2, 3, layer.in_features)
    try:
        with torch.no_grad():
            y = layer(x)
    except Exception:  # it wants another input, or a second one
        return False
    return isinstance(y, torch.Tensor) and y.shape == (2, 3, layer.out_features)


def _lost(adapted: Any) -> list[str]:
    """Layers whose adapter is saved under a name that loading turns into another."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    state = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    missing = set_peft_model_state_dict(adapted, state).missing_keys
    model = adapted.get_base_model()
    names = {key.partition(".lora_")[0].removeprefix("base_model.model.") for key in missing if ".lora_" in key}
    return _shortest(model, sorted(names))


def _shortest(model: nn.Module, names: Sequence[str]) -> list[str]:
    """The names by their last one, two, three parts, where no other linear layer has these as well."""
    wanted: set[str] = set(names)
    found: list[str] = []
    every = [name for name, _ in _linear(model)]
    for parts in (1, 2, 3):
        ends = {name: ".".join(name.split(".")[-parts:]) for name in every}
        foreign = {end for name, end in ends.items() if name not in names}
        found += sorted({ends[name] for name in wanted & set(every)} - foreign)
        wanted = {name for name in wanted if ends.get(name) not in found}
    return [*found, *sorted(wanted)]


def _unwrap(model: nn.Module) -> None:
    """Take off adapters that were put on in vain."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            parent, _, place = name.rpartition(".")
            setattr(model.get_submodule(parent), place, module.get_base_layer())


def _is_encoder_decoder(model: Any) -> bool:
    return bool(model.config.is_encoder_decoder)


def computed_by_own_head(fit: Fit, network: Any) -> Fit:
    """How a model is computed whose head an adapter changes; an encoder–decoder then runs a row at a time."""
    if not _is_encoder_decoder(network):
        return replace(fit, own_head=True, reason="the adapter changes the head")
    network.set_attn_implementation("sdpa" if network._supports_sdpa else "eager")  # as transformers chooses
    return replace(fit, own_head=True, packed=False, reason="the adapter changes the head")


def _fused(adapted: nn.Module) -> nn.Module:
    apply_kernels(adapted, names=())
    return adapted


def _refuse_unknown(model: nn.Module, targets: str | list[str]) -> None:
    """PEFT is content when one of several targets exists; the others would go unnoticed."""
    whole = {name for name, _ in model.named_modules()}
    names = whole | {name.rpartition(".")[2] for name in whole}
    single = isinstance(targets, str) and targets.isidentifier()
    lost = [name for name in ([targets] if isinstance(targets, str) else targets) if name not in names]
    if lost and (single or isinstance(targets, list)):
        linear = {name.rpartition(".")[2] for name, _ in _linear(model)}
        fix = f"{suggest_name(lost[0], sorted(linear))}; all-linear fits any model"
        raise ModelError(f"no module is called {lost[0]}", where="adapter.targets", fix=fix)
    if single and targets not in whole:
        what = "a single text is a pattern of whole names, as model.layers.0.mlp.up_proj"
        raise ModelError(what, where="adapter.targets", fix=f"write a list: [{targets}]")


def head_is_adapted(adapted: Any) -> bool:
    """Whether the adapter changes the language-model head, whose own weight is then not the whole truth."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return isinstance(adapted.get_base_model().get_output_embeddings(), BaseTunerLayer)


def load_scorer(
    name: str, dtype: str, device: str, head: HeadKind = "language", labels: Sequence[str] = (), tokenizer: Any = None
) -> Scorer:
    """The model of a run, a folder or a hub id, as it was trained, ready to score on `device` (or `auto`)."""
    on = resolve_device(device)
    model = load_adapted(name, compute_dtype(dtype, on), head, labels, tokenizer).to(on).eval()
    adapted = hasattr(model, "peft_config")
    scorer = fit_model(model.get_base_model() if adapted else model, head)
    scorer.model = model
    if adapted and heads.load(head).over_vocabulary and head_is_adapted(model):
        scorer.fit = computed_by_own_head(scorer.fit, scorer.network)
    return scorer


@contextmanager
def adapter_disabled(adapted: Any) -> Iterator[None]:
    """Inside, the model is the policy as the run began: no adapter, or the frozen copy of the one continued.

    A classifier trained beside the adapter is switched with it.
    """
    if REFERENCE not in adapted.peft_config:
        with adapted.disable_adapter():
            yield
        return
    adapted.set_adapter(REFERENCE)
    try:
        yield
    finally:
        adapted.set_adapter("default")
