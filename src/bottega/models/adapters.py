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

from bottega import recipe as recipes
from bottega.errors import ModelError
from bottega.models.fused import fuse
from bottega.models.heads import VOCABULARY
from bottega.models.load import adapter_folder, check_adapter, compute_dtype, fit_model, load_adapted
from bottega.models.scorer import Fit, Scorer
from bottega.objectives import HeadKind

HEADS = ("classifier", "score")
"""Classifiers that PEFT trains and saves of its own accord."""

TASKS: dict[HeadKind, str] = {"language": "CAUSAL_LM", "class": "SEQ_CLS", "token": "TOKEN_CLS"}
"""PEFT's names of tasks; it has none for masked language models, and that of embeddings asks for a task's own call."""

REFERENCE = "reference"
"""Name of the frozen copy of a continued adapter, where an objective compares with the policy as the run began."""


def adapt(model: nn.Module, adapter: recipes.Adapter, *, head: HeadKind, new: Sequence[str], reference: bool) -> Any:
    """The model with its weights frozen and a trainable adapter; a new classifier is trained beside it.

    new        modules whose weights are random: they are trained and saved with the adapter
    reference  keep what `without` needs to be the policy as it is now
    """
    from peft import LoraConfig, PeftModel, get_peft_model

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
        config = LoraConfig(
            r=adapter.rank,
            lora_alpha=adapter.alpha,
            lora_dropout=adapter.dropout,
            target_modules=adapter.targets,
            task_type="SEQ_2_SEQ_LM" if _is_encoder_decoder(model) else TASKS.get(head),
            modules_to_save=[name for name in new if name.partition(".")[0] not in HEADS] or None,
            # What is trained whole needs no adapter as well, though it be linear.
            exclude_modules=None if head == "language" else [*HEADS, *new],
        )
        _refuse_unknown(model, adapter.targets)
        try:
            # The optimiser keeps float32 copies, so the adapter computes in the dtype of its base.
            return _fused(get_peft_model(model, config, autocast_adapter_dtype=False))
        except (ValueError, re.error) as error:
            raise ModelError(
                f"{adapter.targets}: {str(error).splitlines()[0]}",
                where="adapter.targets",
                fix="all-linear fits any model",
            ) from None


def _is_encoder_decoder(model: Any) -> bool:
    return bool(model.config.is_encoder_decoder)


def by_own_head(fit: Fit, network: Any) -> Fit:
    """How a model is computed whose head an adapter changes; an encoder–decoder then runs a row at a time."""
    if not _is_encoder_decoder(network):
        return replace(fit, own_head=True, reason="the adapter changes the head")
    network.set_attn_implementation("sdpa" if network._supports_sdpa else "eager")  # as transformers chooses
    return replace(fit, own_head=True, packed=False, reason="the adapter changes the head")


def _fused(adapted: nn.Module) -> nn.Module:
    fuse(adapted, names=())
    return adapted


def _refuse_unknown(model: nn.Module, targets: str | list[str]) -> None:
    """PEFT is content when one of several targets exists; the others would go unnoticed."""
    names = {part for name, _ in model.named_modules() for part in (name, name.rpartition(".")[2])}
    lost = [] if isinstance(targets, str) else [name for name in targets if name not in names]
    if lost:
        raise ModelError(f"no module is called {lost[0]}", where="adapter.targets", fix="all-linear fits any model")


def head_is_adapted(adapted: Any) -> bool:
    """Whether the adapter changes the language-model head, whose own weight is then not the whole truth."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return isinstance(adapted.get_base_model().get_output_embeddings(), BaseTunerLayer)


def load_scorer(
    name: str, dtype: str, device: str, head: HeadKind = "language", labels: Sequence[str] = (), tokenizer: Any = None
) -> Scorer:
    """The model of a run, a folder or a hub id, as it was trained, ready to score on `device` (or `auto`)."""
    on = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    model = load_adapted(name, compute_dtype(dtype, on), head, labels, tokenizer).to(on).eval()
    adapted = hasattr(model, "peft_config")
    scorer = fit_model(model.get_base_model() if adapted else model, head)
    scorer.model = model
    if adapted and head in VOCABULARY and head_is_adapted(model):
        scorer.fit = by_own_head(scorer.fit, scorer.network)
    return scorer


@contextmanager
def without(adapted: Any) -> Iterator[None]:
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
