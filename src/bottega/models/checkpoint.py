"""Checkpoints in: tokenizer, config, model and adapter, with the errors users meet.

Any folder or hub id in transformers' format, with safetensors weights: pickled ones run code when they are read and
are refused. A base may also be a finished run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
)

from bottega.errors import ModelError
from bottega.models import heads
from bottega.models.adapted import attach_saved, merge_saved, weight_names
from bottega.models.config import is_encoder, load_config
from bottega.models.quantization.linear import check_backend, quantize_model
from bottega.models.quantization.streaming import load_quantized, read_tensors, weight_files
from bottega.models.safe_folder import check_weights
from bottega.models.source import ModelSource, locate, quietly
from bottega.models.tokenizer import load_tokenizer
from bottega.objectives import HeadKind
from bottega.recipe import schema as recipes
from bottega.runs.atomic_files import MANIFEST, commit_folder
from bottega.runs.resolve import resolve
from bottega.runs.store import MERGED_BASE

if TYPE_CHECKING:
    from bottega.adapters import AdaptedModel

# Weights of a checkpoint that none needs: tables a model computes by itself, and what served another task.
HARMLESS = re.compile(
    r"(inv_freq|position_ids|token_type_ids|masked_bias|(attn|attention)\.bias|\.version|embed_positions\.weights?"
    r"|final_logits_bias|_float_tensor)$|(^|\.)(pooler|seq_relationship)\."
)

POOLER = re.compile(r"(^|\.)pooler\.")


def model_for_adapter(model: recipes.Model, dtype: torch.dtype, run: Path) -> recipes.Model:
    """The model section for a run in `run` that trains an adapter, which can only be saved beside a checkpoint.

    If the base is a run with an adapter, its adapter is merged into its own base, once, as a folder of the run.
    """
    source = locate(model.base or "")
    if source.adapter is None:
        return model
    merged = run.absolute() / MERGED_BASE
    if not (merged / MANIFEST).exists():
        commit_folder(merged, lambda folder: _write_merged(source, str(model.base), dtype, folder))
    return model.model_copy(update={"base": str(merged)})


def _write_merged(source: ModelSource, name: str, dtype: torch.dtype, folder: Path) -> None:
    assert source.adapter is not None
    recipe = resolve(source.adapter.parent).recipe
    head = "language" if recipe is None else recipe.objective.head
    # A head of classes is saved beside the adapter: there is no checkpoint that both could be merged into.
    if not (heads.load(head).over_vocabulary or heads.load(head).is_bare):
        what = "this run ended in an adapter with a head, and another adapter cannot be put on both"
        raise ModelError(what, where=name, fix="go on with it: leave model out, and give adapter: {from: …}")
    config = load_config(recipes.Model(base=source.base), None)
    model, _ = _from_checkpoint(_auto(config, head), name, config, head, dtype)
    model.save_pretrained(str(folder))
    load_tokenizer(source.tokenizer).save_pretrained(str(folder))


def load_model(
    model: recipes.Model, config: Any, head: HeadKind, labels: Sequence[str], dtype: torch.dtype, tokenizer: Any
) -> tuple[Any, list[str]]:
    """(model, names of its modules that are new): what the checkpoint lacks of the head asked for is random."""
    heads.load(head).check(config)
    config = _with_labels(config, labels, tokenizer) if labels else config
    auto = _auto(config, head)
    if model.base is None:
        with quietly("model.shape", "a model"):
            return auto.from_config(config, dtype=dtype, trust_remote_code=False), []
    if model.quantize == "none":
        return _from_checkpoint(auto, model.base, config, head, dtype)
    check_backend(model.quantize)
    source = locate(model.base)
    # Streamed weights come from the files alone, so nothing of the model may be new.
    if not heads.load(head).may_be_new and source.adapter is None and Path(source.base).is_dir():
        with quietly(source.base, "the weights"):
            read = load_quantized(auto, Path(source.base), config, dtype, model.quantize)
        if read is not None:
            return read, []
    loaded, new = _from_checkpoint(auto, model.base, config, head, dtype)
    quantize_model(loaded, model.quantize, new)
    return loaded, new


def unquantized_weights(model: recipes.Model) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights of a base by name as its files have them, one at a time; a ModelError if there are no such files."""
    source = locate(cast(str, model.base))
    folder = Path(source.base)
    files = weight_files(folder) if folder.is_absolute() and source.adapter is None else None
    if files is None:
        what = "the weights are not in a folder, where they could be read once more"
        raise ModelError(what, where=source.base, fix="name a folder as model.base, or leave adapter.init out")
    yield from read_tensors(files)


def _auto(config: Any, head: HeadKind) -> Any:
    """transformers' way to a model of this config with this head; a ModelError where it has none."""
    auto = heads.load(head).auto_class(config)
    if type(config) not in auto._model_mapping:
        raise ModelError(
            f"transformers has no {auto.__name__} for {config.model_type}",
            where="model",
            fix="choose a model for text alone that is made for this; "
            "of one that reads sound or pictures too, its text part in a folder of its own",
        )
    return auto


def body(config: Any) -> Any:
    """A model of random weights, without its head; a ModelError for what is no text model."""
    for auto in (AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM):
        if type(config) in auto._model_mapping:
            return auto.from_config(config, trust_remote_code=False).base_model
    raise ModelError(
        f"transformers has no text model of the kind {config.model_type}", where="model", fix="choose another model"
    )


def _from_checkpoint(auto: Any, base: str, config: Any, head: HeadKind, dtype: torch.dtype) -> tuple[Any, list[str]]:
    """(model, names of its modules that are new) of a folder, a hub id or a run."""
    source = locate(base)
    check_weights(source.base)
    with quietly(source.base, "the weights"):
        loaded, info = auto.from_pretrained(
            source.base,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # refused below, in plainer words
            output_loading_info=True,
        )
    _refuse_gaps(source.base, info, loaded, head)
    # A module that no embedding is computed with (BERT's pooler) is not trained.
    is_bare = heads.load(head).is_bare
    new = [] if is_bare else sorted({key.rpartition(".")[0] for key in info["missing_keys"]})
    return loaded if source.adapter is None else merge_saved(loaded, source.adapter, dtype), new


def load_adapted(
    name: str,
    dtype: torch.dtype,
    head: HeadKind = "language",
    labels: Sequence[str] = (),
    tokenizer: Any = None,
    quantize: recipes.Quantize | None = None,
) -> tuple[Any, AdaptedModel | None]:
    """(the model as it was trained, the adapter on it if it has one).

    labels, tokenizer  of a classifier
    quantize           how its weights are kept; None: as by the run that trained it
    """
    source = locate(name)
    base = recipes.Model(base=source.base, quantize=quantize or source.quantize)
    config = load_config(base, None)
    model, new = load_model(base, config, head, labels, dtype, tokenizer)
    check_head_is_trained(name, new, head, source.adapter)
    return model, None if source.adapter is None else attach_saved(model, source.adapter)


def _with_labels(config: Any, labels: Sequence[str], tokenizer: Any) -> Any:
    config.id2label = dict(enumerate(labels))
    config.label2id = {name: index for index, name in enumerate(labels)}
    if len(labels) == 1:
        config.problem_type = "regression"
    if not is_encoder(config):
        # A plain classifier reads the last token that is not padding, so padding must never end a row.
        padding = [tokenizer.pad_token_id, tokenizer.unk_token_id]
        usable = [token for token in padding if token not in (None, tokenizer.eos_token_id)]
        config.get_text_config().pad_token_id = usable[0] if usable else None
        if usable:  # what is saved beside it pads with the same
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(usable[0])
    return config


def _refuse_gaps(name: str, info: dict[str, Any], model: Any, head: HeadKind) -> None:
    """A checkpoint may lack a head that is about to be trained, and nothing else."""
    prefix = "" if heads.load(head).is_bare else f"{model.base_model_prefix}."
    new = heads.load(head).may_be_new
    missing = [key for key in info["missing_keys"] if not new or (key.startswith(prefix) and not POOLER.search(key))]
    if missing or info["mismatched_keys"]:
        wrong = missing or [str(key[0]) for key in info["mismatched_keys"]]
        raise ModelError(
            f"{len(wrong)} weights are missing or of another shape, {sorted(wrong)[0]} for one",
            where=name,
            fix="the folder's config.json and safetensors belong to different models",
        )
    surplus = sorted(key for key in info["unexpected_keys"] if _belongs(key, model, head))
    if surplus:
        raise ModelError(
            f"{len(surplus)} weights have no place in the model its config describes, {surplus[0]} for one",
            where=name,
            fix="the folder's config.json and safetensors belong to different models: compare the number of layers",
        )


def _belongs(key: str, model: Any, head: HeadKind) -> bool:
    """Whether an unread weight of a checkpoint has the name of a part of this model that should have been read.

    Parts of a larger model and heads for other tasks have other names. A classifier of another head may share the name
    of this model's, which is no fault.
    """
    if HARMLESS.search(key):
        return False
    base = getattr(model, model.base_model_prefix, model)
    parts = {name for name, _ in base.named_children()}
    first, _, rest = key.partition(".")
    if first == model.base_model_prefix and rest:
        return rest.partition(".")[0] in parts
    return first in parts or (
        heads.load(head).over_vocabulary and first in {name for name, _ in model.named_children()}
    )


def check_head_is_trained(name: str, new: Sequence[str], head: HeadKind, adapter: Path | None = None) -> None:
    """Refuse to ask a model of whose head some modules are random: an adapter may have brought them."""
    brought = set(weight_names(adapter)) if adapter is not None else set()
    drawn = [module for module in new if not any(f".{module}." in f".{key}" for key in brought)]
    if drawn:
        raise ModelError(
            f"the model has no head for that: {drawn[0]} is missing, and a new one would answer at random",
            where=name,
            fix=f"train it first, with an objective for {heads.load(head).command}",
        )
