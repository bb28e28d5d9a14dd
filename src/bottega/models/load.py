"""Checkpoints in: tokenizer, config, model and adapter, with the errors users meet.

Any folder or hub id in transformers' format, with safetensors weights: pickled ones run code when they are read and
are refused. A base may also be a finished run.
"""

from __future__ import annotations

import difflib
import json
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import huggingface_hub
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, get_tokenizer_config

from bottega import recipe as recipes
from bottega.data import builtin
from bottega.errors import ModelError
from bottega.models.across import prepare
from bottega.models.attention import NAME, pass_down, register
from bottega.models.folder import check_config, check_files, check_weights
from bottega.models.fused import fuse
from bottega.models.heads import VOCABULARY
from bottega.models.probe import probe
from bottega.models.quantized import quantize, ready
from bottega.models.reading import packed_while_read
from bottega.models.scorer import Fit, Scorer
from bottega.objectives import HeadKind
from bottega.recipe import Quantize
from bottega.runs import MANIFEST, MERGED, commit, stored_recipe

DEFAULT_LENGTH = 1024
GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Tokenizers that are what their tokenizer.json says. Where the model is a Qwen2 or one of some other kinds,
transformers would put that model's own pre-tokenizer in its place, and so cut texts otherwise than in training."""

DROPOUT = re.compile(r"dropout|pdrop$")
HARMLESS = re.compile(
    r"(inv_freq|position_ids|token_type_ids|masked_bias|(attn|attention)\.bias|\.version|embed_positions\.weights?"
    r"|final_logits_bias|_float_tensor)$|(^|\.)(pooler|seq_relationship)\."
)
"""Weights of a checkpoint that none needs: tables a model computes by itself, and what served another task."""

ANSWERS: dict[HeadKind, str] = {
    "language": "chat",
    "class": "classify",
    "token": "tag",
    "masked": "fill",
    "embedding": "embed",
}
"""The command that asks a model with each head."""

POOLER = re.compile(r"(^|\.)pooler\.")

AUTO: dict[HeadKind, Any] = {
    "language": AutoModelForCausalLM,
    "class": AutoModelForSequenceClassification,
    "token": AutoModelForTokenClassification,
    "masked": AutoModelForMaskedLM,
    "embedding": AutoModel,
}
"""transformers' way to a model with each head."""


@dataclass(frozen=True)
class Source:
    """Where a model comes from: `base` weights, then an `adapter` beside them, trained on them so quantised."""

    base: str
    adapter: Path | None = None
    quantize: Quantize = "none"

    @property
    def tokenizer(self) -> str:
        """Where its tokenizer stands: beside what was trained last, if that brought one."""
        own = self.adapter is not None and (self.adapter / "tokenizer.json").exists()
        return str(self.adapter) if own else self.base


def locate(name: str) -> Source:
    """The source behind `model.base`: a hub id, a folder, or a run (its model, or its base with its adapter).

    A folder of an adapter is its base with that adapter.
    """
    folder = Path(name)
    if not folder.is_absolute():
        return Source(name)
    _check_folder(folder, "model.base")
    for part in (folder, folder / "model", folder / "adapter"):
        check_files(part)
    if (folder / "resolved.json").exists():
        if (folder / "model").exists():
            return Source(str(folder / "model"))
        if (folder / "adapter").exists():
            merged = folder / MERGED
            base = str(merged) if merged.exists() else adapter_base(folder / "adapter")
            return Source(base, folder / "adapter", _quantized(folder))
        raise ModelError("this run has no result yet", where=name, fix=f"finish it: bottega train --resume {name}")
    if (folder / "adapter_config.json").exists():
        return Source(adapter_base(folder), folder, _quantized(folder.parent))
    return Source(name)


def beside_an_adapter(model: recipes.Model, dtype: torch.dtype, run: Path) -> recipes.Model:
    """The section as a run in `run` needs it that trains an adapter, which can only be saved beside a checkpoint.

    Of a base that is a run with an adapter, one is written into the run, once: that adapter folded into its base.
    """
    source = locate(model.base or "")
    if source.adapter is None:
        return model
    merged = run.absolute() / MERGED
    if not (merged / MANIFEST).exists():
        commit(merged, lambda folder: _write_merged(source, str(model.base), dtype, folder))
    return model.model_copy(update={"base": str(merged)})


def _write_merged(source: Source, name: str, dtype: torch.dtype, folder: Path) -> None:
    assert source.adapter is not None
    before = source.adapter.parent
    head = stored_recipe(before, own_code=False).objective.head if (before / "resolved.json").exists() else "language"
    if head not in ("language", "masked", "embedding"):
        what = "this run ended in an adapter with a head, and another adapter cannot be put on both"
        raise ModelError(what, where=name, fix="go on with it: leave model out, and give adapter: {from: …}")
    config = load_config(recipes.Model(base=source.base), None)
    model, _ = _from_checkpoint(_auto(config, head), name, config, head, dtype)
    model.save_pretrained(str(folder))
    load_tokenizer(source.tokenizer).save_pretrained(str(folder))


def _quantized(run: Path) -> Quantize:
    """How a run kept the base of its adapter; as it was for a folder that is no run."""
    return stored_recipe(run, own_code=False).model.quantize if (run / "resolved.json").exists() else "none"


def _check_folder(folder: Path, key: str) -> None:
    if not folder.is_dir():
        what = "a file, not a folder" if folder.exists() else "no such folder"
        raise ModelError(what, where=str(folder), fix=f"check {key}; it resolves against the recipe's folder")


def adapter_folder(name: str) -> Path:
    """The adapter behind `adapter.from`: a folder or a run."""
    for folder in (Path(name) / "adapter", Path(name)):
        if (folder / "adapter_config.json").exists():
            check_files(folder)
            check_weights(str(folder))
            return folder
    raise ModelError("holds no adapter", where=name, fix="name a folder with adapter_config.json, or a finished run")


def adapter_base(folder: Path) -> str:
    """The base model an adapter was trained on."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        return str(config["base_model_name_or_path"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"does not say what it was trained on: {error}",
            where=str(folder / "adapter_config.json"),
            fix="put the whole file there, or train the adapter again",
        ) from None


def load_tokenizer(name: str) -> Any:
    """A fast tokenizer with a chat template: its own, or a plain-text one."""
    folder = Path(name)
    if folder.is_absolute():
        _check_folder(folder, "model.tokenizer")
        check_files(folder)
    _refuse_unreached(name)
    if folder.is_dir() and not any(
        (folder / file).exists() for file in ("tokenizer.json", "tokenizer.model", "vocab.txt")
    ):
        raise ModelError(
            "the folder holds no tokenizer",
            where=name,
            fix="copy the tokenizer files next to the weights, or name their folder with model.tokenizer",
        )
    with _quietly(name, "the tokenizer"):
        generic = get_tokenizer_config(name).get("tokenizer_class") in GENERIC
        tokenizer = (PreTrainedTokenizerFast if generic else AutoTokenizer).from_pretrained(
            name, trust_remote_code=False
        )
        if not getattr(tokenizer, "is_fast", False):
            fix = "convert it to tokenizer.json"
            raise ModelError("the tokenizer reports no character offsets", where=name, fix=fix)
        builtin.adopt(tokenizer, None)
    return tokenizer


def read_otherwise(tokenizer: Any, config: Any) -> str | None:
    """The class by which transformers would cut texts otherwise than this tokenizer, if both are saved in one folder.

    None where it reads it as it is.
    """
    known = TOKENIZER_MAPPING_NAMES.get(config.model_type)
    if type(tokenizer) is not PreTrainedTokenizerFast or known in (None, *GENERIC):
        return None
    with TemporaryDirectory() as folder, _quietly(folder, "the tokenizer"):
        tokenizer.save_pretrained(folder)
        config.save_pretrained(folder)
        read = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    ours, theirs = (json.loads(one.backend_tokenizer.to_str()) for one in (tokenizer, read))
    same = all(ours[part] == theirs[part] for part in ("normalizer", "pre_tokenizer"))
    return None if same else type(read).__name__


def load_config(model: recipes.Model, tokenizer: Any) -> Any:
    """The transformers config: of the base, or of the shape with the tokenizer's vocabulary and special tokens."""
    config = _config(model, tokenizer)
    if model.dropout is not None:
        _set_dropout(config.get_text_config(), model.dropout)
    return config


def _set_dropout(config: Any, share: float) -> None:
    """Set every dropout of a config; a ModelError where it has none."""
    # Some are left open (classifier_dropout), and follow another.
    named = [name for name, value in vars(config).items() if isinstance(value, (int, float)) and DROPOUT.search(name)]
    if not named:
        raise ModelError(
            f"{config.model_type} has no dropout",
            where="model.dropout",
            fix="leave it out; optim.weight_decay, optim.neftune and adapter.dropout fit any model",
        )
    for name in named:
        setattr(config, name, share)


def _config(model: recipes.Model, tokenizer: Any) -> Any:
    if model.base is not None:
        return stored_config(locate(model.base).base)
    shape = dict(model.shape or {})
    tokens = {
        name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id") if name not in shape
    }
    shape.setdefault("vocab_size", len(tokenizer))
    kind = str(shape.pop("model_type"))
    _refuse_unknown_shape(kind, shape)
    with _quietly("model.shape", "the config"):
        return AutoConfig.for_model(kind, **shape, **tokens)


def stored_config(name: str) -> Any:
    """The transformers config of a folder or a hub id."""
    _refuse_unreached(name)
    check_files(Path(name))
    with _quietly(name, "the config"):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    check_config(config, name)
    return config


def _refuse_unknown_shape(kind: str, shape: dict[str, Any]) -> None:
    """transformers keeps any key; one that no model reads is a slip of the pen."""
    if kind not in CONFIG_MAPPING:
        near = difflib.get_close_matches(kind, CONFIG_MAPPING, 3, cutoff=0.4) or ["llama", "qwen3", "gpt2"]
        raise ModelError(f"unknown model_type {kind}", where="model.shape", fix=f"for example {', '.join(near)}")
    default = CONFIG_MAPPING[kind]()
    for key in shape:
        if not hasattr(default, key):
            near = difflib.get_close_matches(key, vars(default), 1)
            fix = f"did you mean {near[0]}?" if near else f"see transformers' {type(default).__name__}"
            raise ModelError(f"unknown key {key}", where="model.shape", fix=fix)


def is_encoder(config: Any) -> bool:
    """Whether the model reads both ways, and writes nothing."""
    known = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return known and not getattr(config, "is_decoder", False) and not config.is_encoder_decoder


def start_token(config: Any) -> int | None:
    """The token before the first that a decoder behind an encoder writes; None for any other model."""
    if not config.is_encoder_decoder:
        return None
    if getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = config.pad_token_id if config.pad_token_id is not None else config.bos_token_id
    if config.decoder_start_token_id is None:
        raise ModelError(
            "it is not said what its decoder begins with",
            where="model",
            fix="add decoder_start_token_id to its config, or to model.shape",
        )
    return int(config.decoder_start_token_id)


def length_limit(config: Any) -> int | None:
    """Most positions the model has; None when unlimited."""
    text = config.get_text_config()
    if getattr(text, "relative_attention_num_buckets", None):  # T5 writes a number of positions, and has no table
        return None
    limit = getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None)
    if limit is None or limit < 1:  # XLNet says -1
        return None
    # RoBERTa's table, and that of its kin, starts after its padding index.
    offset = "roberta" in text.model_type or text.model_type in ("camembert", "mpnet", "data2vec-text")
    return int(limit) - (text.pad_token_id + 1 if offset else 0)


def max_length(wanted: int | None, config: Any) -> int:
    """`data.max_length`, or its default; a ModelError when the model has fewer positions."""
    limit = length_limit(config)
    if wanted is None:
        return min(DEFAULT_LENGTH, limit or DEFAULT_LENGTH)
    if limit is not None and wanted > limit:
        raise ModelError(
            f"max_length {wanted} is more than the model's {limit} positions",
            where="data.max_length",
            fix=f"set data.max_length to {limit} or less",
        )
    return wanted


def load_model(
    model: recipes.Model, config: Any, head: HeadKind, labels: Sequence[str], dtype: torch.dtype, tokenizer: Any
) -> tuple[Any, list[str]]:
    """(model, names of its modules that are new): what the checkpoint lacks of the head asked for is random."""
    _refuse_direction(config, head)
    config = _with_labels(config, labels, tokenizer) if labels else config
    auto = _auto(config, head)
    if model.base is None:
        with _quietly("model.shape", "a model"):
            return auto.from_config(config, dtype=dtype, trust_remote_code=False), []
    if model.quantize == "none":
        return _from_checkpoint(auto, model.base, config, head, dtype)
    ready(model.quantize)
    source = locate(model.base)
    if head == "language" and source.adapter is None and Path(source.base).is_dir():
        with _quietly(source.base, "the weights"):
            read = packed_while_read(auto, Path(source.base), config, dtype, model.quantize)
        if read is not None:
            return read, []
    loaded, new = _from_checkpoint(auto, model.base, config, head, dtype)
    quantize(loaded, model.quantize, new)
    return loaded, new


def _auto(config: Any, head: HeadKind) -> Any:
    """transformers' way to a model of this config with this head; a ModelError where it has none."""
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder and head == "language" else AUTO[head]
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
    with _quietly(source.base, "the weights"):
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
    # What is no part of a vector (BERT's pooler) stays as it is.
    new = sorted({key.rpartition(".")[0] for key in info["missing_keys"]}) if head != "embedding" else []
    return loaded if source.adapter is None else _merged(loaded, source.adapter, dtype), new


def _refuse_direction(config: Any, head: HeadKind) -> None:
    """An encoder sees what it would have to write; a decoder does not see what follows a masked place."""
    if config.is_encoder_decoder and head != "language":
        raise ModelError(
            f"{config.model_type} reads with one part and writes with another",
            where="model.base",
            fix="use it with span, sft or preferences; to classify, write the label as text with sft",
        )
    if head == "language" and is_encoder(config):
        raise ModelError(
            f"{config.model_type} is an encoder and writes no text",
            where="model.base",
            fix="use it with masked, classify or tag",
        )
    if head == "masked" and not is_encoder(config):
        raise ModelError(
            f"{config.model_type} reads from left to right only", where="model.base", fix="use it with causal"
        )


def load_adapted(
    name: str, dtype: torch.dtype, head: HeadKind = "language", labels: Sequence[str] = (), tokenizer: Any = None
) -> Any:
    """The model as it was trained: with its adapter beside the weights, if it has one.

    labels, tokenizer  of a classifier
    """
    source = locate(name)
    base = recipes.Model(base=source.base, quantize=source.quantize)
    config = load_config(base, None)
    model, new = load_model(base, config, head, labels, dtype, tokenizer)
    refuse_new(name, new, head, source.adapter)
    if source.adapter is None:
        return model
    return _with_adapter(model, source.adapter)


def _with_adapter(model: nn.Module, folder: Path) -> Any:
    """The model with the adapter of a folder, all of it."""
    from peft import PeftModel

    check_weights(str(folder))
    with _quietly(str(folder), "the adapter"):
        adapted = PeftModel.from_pretrained(model, str(folder), autocast_adapter_dtype=False)
    check_adapter(adapted, folder)
    return adapted


def check_adapter(adapted: Any, folder: Path) -> None:
    """Refuse an adapter of which a weight found no place, or a place no weight: PEFT passes over both."""
    from peft import get_peft_model_state_dict

    saved = {key: value for file in sorted(folder.glob("*.safetensors")) for key, value in load_file(file).items()}
    read = get_peft_model_state_dict(adapted, adapter_name="default", save_embedding_layers=False)
    whole = adapted.state_dict()  # what was trained whole and saved beside the adapter stands in the model itself
    lost = [key for key, value in saved.items() if not _is_in(read, key, value) and not _is_in(whole, key, value)]
    wrong = lost or sorted(read.keys() - saved.keys())
    if wrong:
        raise ModelError(
            f"{len(wrong)} weights of the adapter {'find no place in' if lost else 'are missing for'} this model,"
            f" {wrong[0]} for one",
            where=str(folder),
            fix="name the base it was trained on as model.base; else leave these modules out of adapter.targets and"
            " train it again",
        )


def _is_in(weights: Mapping[str, Tensor], key: str, value: Tensor) -> bool:
    found = weights.get(key)
    return found is not None and torch.equal(found.cpu(), value.to(found.dtype))


def fit_model(model: Any, head: HeadKind, fit: Fit | None = None) -> Scorer:
    """The model ready to score batches, packed where the probe proves that exact, or did before (`fit`)."""
    fit = fit or probe(type(model), model.config, head, is_encoder(model.config))
    if fit.packed:
        if model.config.is_encoder_decoder:
            prepare(model)
        register()
        pass_down(model)
        model.set_attn_implementation(NAME)
    fuse(model, fit.fused)
    return Scorer(model, head, fit)


def _merged(model: nn.Module, adapter: Path, dtype: torch.dtype) -> nn.Module:
    """The adapter folded into the weights, in float32 and rounded once."""
    _part_from_head(model, adapter)
    adapted = _with_adapter(model.float(), adapter)
    with _quietly(str(adapter), "the adapter"):
        merged = adapted.merge_and_unload()
    return cast(nn.Module, merged.to(dtype).requires_grad_(True))


def _part_from_head(model: Any, adapter: Path) -> None:
    """Give the head a weight of its own where an adapter changes tied embeddings at one end, as it did in training.

    Merged into a weight that both share, it would change both; a ModelError where more than two share it.
    """
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or head.weight is not embeddings.weight:
        return
    ends = [name for name, module in model.named_modules() if module in (head, embeddings)]
    if not any(f".{name}.lora_" in key for key in _keys(adapter) for name in ends):
        return
    if model.config.is_encoder_decoder:
        raise ModelError(
            "the adapter changes embeddings that encoder, decoder and head share, and cannot be merged into them",
            where=str(adapter),
            fix="leave embeddings and head out of adapter.targets; all-linear does",
        )
    head.weight = nn.Parameter(head.weight.detach().clone())
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False


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
    prefix = "" if head == "embedding" else f"{model.base_model_prefix}."
    new = head != "language"
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
    """Whether a weight that was not read is named as a part of the model, and is not one that none needs.

    Other parts of a larger model are named otherwise, and so are heads for other tasks; but that a classifier has the
    name of one of another kind is no fault.
    """
    if HARMLESS.search(key):
        return False
    base = getattr(model, model.base_model_prefix, model)
    parts = {name for name, _ in base.named_children()}
    first, _, rest = key.partition(".")
    if first == model.base_model_prefix and rest:
        return rest.partition(".")[0] in parts
    return first in parts or (head in VOCABULARY and first in {name for name, _ in model.named_children()})


def refuse_new(name: str, new: Sequence[str], head: HeadKind, adapter: Path | None = None) -> None:
    """Refuse to ask a model of whose head some modules are random: an adapter may have brought them."""
    brought = set(_keys(adapter)) if adapter is not None else set()
    drawn = [module for module in new if not any(f".{module}." in f".{key}" for key in brought)]
    if drawn:
        raise ModelError(
            f"the model has no head for that: {drawn[0]} is missing, and a new one would answer at random",
            where=name,
            fix=f"train it first, with an objective for bottega {ANSWERS[head]}",
        )


def _keys(folder: Path) -> Iterator[str]:
    """Names of the weights in a folder."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            yield from opened.keys()


def _refuse_unreached(name: str) -> None:
    """A ModelError for a hub id that is not here and cannot be asked for: one question, where each file asks six."""
    if Path(name).is_absolute() or huggingface_hub.constants.HF_HUB_OFFLINE:
        return
    try:
        if not isinstance(huggingface_hub.try_to_load_from_cache(name, "config.json"), str):
            huggingface_hub.HfApi().model_info(name, timeout=10)
    except Exception as error:  # the hub's client, and what it is made of, have errors of their own
        raise ModelError(
            f"no such folder, and no such model on the hub as far as it can be asked ({type(error).__name__})",
            where=name,
            fix="check the name, or the network; a folder begins with ./ or /",
        ) from None


@contextmanager
def _quietly(where: str, what: str) -> Iterator[None]:
    """Silence loading chatter; turn what transformers raises into a ModelError."""
    before = transformers.logging.get_verbosity()
    transformers.utils.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ModelError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        reason = " ".join(lines[:3])[:300]
        if "trust_remote_code" in str(error):
            reason = "it needs code of its own, and no code of a checkpoint is ever run"
        elif where != "model.shape" and not Path(where).is_absolute():
            reason = f"no such folder, and no such model on the hub as far as it can be asked: {reason}"
        raise ModelError(
            f"{what} cannot be loaded: {reason}",
            where=where,
            fix="is it a transformers checkpoint, whole and readable?",
        ) from error
    finally:
        transformers.logging.set_verbosity(before)
