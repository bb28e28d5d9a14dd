"""The trained model that an export starts from, and what it is compared on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jinja2 import TemplateError
from torch import nn
from transformers import GenerationConfig

from bottega.batch import Ints, Row
from bottega.errors import DataError, RunError
from bottega.inference.loader import find_head
from bottega.inference.open_model import find_model, make_codec
from bottega.models import heads
from bottega.models.adapted import attach_saved, merge_saved, weight_names
from bottega.models.checkpoint import check_head_is_trained, load_model
from bottega.models.config import DEFAULT_MAX_LENGTH, decoder_start_token, load_config, position_limit
from bottega.models.dimensions import attention_window
from bottega.models.generation_config import end_tokens, load_generation_config, make_saveable, write_stop_tokens
from bottega.models.source import ModelSource, locate
from bottega.models.tokenizer import load_tokenizer
from bottega.objectives import DEFAULT_KINDS, HeadKind
from bottega.recipe import schema as recipes
from bottega.recipe.files import without_folders
from bottega.runs.export_info import USED_CHOICES, ExportInfo, portable_objective
from bottega.runs.resolve import ResolvedName
from bottega.training.dataset import build_dataset

# A few rows show a wrong export, and so do their beginnings; more only takes longer.
PROBE_ROWS, PROBE_TOKENS = 8, 128
# What depends on the length of a text is compared on a longer row too, if it is not longer than this.
LONGEST_PROBE = 4096 + 16
PROBE_TEXT = "A model that ships must be the model that was trained."

# sentence-transformers' list of what follows a model: how states become a vector, in folders of their own.
MODULES = "modules.json"


class Probe(NamedTuple):
    """Tokens to compare on.

    source  [S] what the encoder of an encoder–decoder reads
    prompt  how many of the tokens are the prompt of what is generated
    """

    tokens: Ints
    source: Ints | None
    prompt: int


@dataclass(frozen=True)
class TrainedModel:
    """A run, a folder or a hub id, with all that is needed to write it in another format."""

    name: str
    resolved: ResolvedName
    source: ModelSource
    head: HeadKind
    labels: Sequence[str]
    tokenizer: Any

    @cached_property
    def config(self) -> Any:
        """The config of its base."""
        return load_config(recipes.Model(base=self.source.base), None)

    def merged(self, dtype: torch.dtype) -> Any:
        """The model with its adapter merged into the weights of the base, in float32, then rounded to `dtype`.

        A base that was kept in 4 or 8 bits is merged into its full-precision weights.
        """
        base = self._base()
        return base.to(dtype) if self.source.adapter is None else merge_saved(base, self.source.adapter, dtype)

    def reference(self) -> tuple[nn.Module, Any]:
        """(the model as it was trained, in float32, with its adapter beside the base; the network in it to call)."""
        base = self._base()
        if self.source.adapter is None:
            return base.eval(), base
        adapted = attach_saved(base, self.source.adapter)
        return adapted.model.eval(), adapted.network

    def _base(self) -> Any:
        section = recipes.Model(base=self.source.base)
        config = load_config(section, None)
        model, new = load_model(section, config, self.head, self.labels, torch.float32, self.tokenizer)
        check_head_is_trained(self.name, new, self.head, self.source.adapter)
        return model

    @property
    def adapts_embeddings(self) -> bool:
        """Whether its adapter changes the token embeddings or the head, which its base may tie."""
        names = list(weight_names(self.source.adapter)) if self.source.adapter is not None else []
        ends = (".embed_tokens.", ".lm_head.", ".wte.", ".embed_in.", ".embed_out.", ".shared.")
        return any(end in name and "lora_" in name for name in names for end in ends)

    # What belongs to a model beside its weights

    @property
    def generates(self) -> bool:
        """Whether it can continue a text."""
        return heads.load(self.head).autoregressive

    @cached_property
    def ends(self) -> frozenset[int]:
        """The tokens that end an answer: of its generation config, and what its chat template closes a turn with."""
        if not self.generates:
            return frozenset()
        result = self.resolved.result
        # A run has written all that it learned to stop at beside its result.
        stored = load_generation_config(result) if result is not None else self._stored_generation_config
        return make_codec(self.tokenizer, self.config).end_tokens | end_tokens(stored)

    @cached_property
    def _stored_generation_config(self) -> GenerationConfig:
        """That of the base; of one without, what transformers makes of its config."""
        try:
            return GenerationConfig.from_pretrained(self.source.base)
        except OSError:
            return GenerationConfig.from_model_config(self.config)

    def info(self, format: str, precision: str, runtime: str) -> ExportInfo:
        """What an export of it says of itself."""
        recipe, choices = self.resolved.recipe, self.resolved.choices or {}
        objective = None if recipe is None else portable_objective(recipe)
        labels = list((self.config.id2label or {}).values())
        if recipe is None and self.head == "sequence" and len(labels) > 1:
            # A classifier that was trained elsewhere says what its scores mean in its config.
            objective = {"kind": DEFAULT_KINDS[self.head]}
            choices = {"labels": labels, "max_length": position_limit(self.config) or DEFAULT_MAX_LENGTH}
        return ExportInfo(
            format,
            precision,
            runtime,
            self.head,
            without_folders(self.name),
            objective,
            {name: choices[name] for name in USED_CHOICES if name in choices},
        )

    def write_settings(self, network: Any, folder: Path) -> None:
        """Write everything but weights: config, generation config with all end tokens, tokenizer, chat template."""
        make_saveable(network)
        # A classifier may have been trained on a checkpoint of another class.
        network.config.architectures, network.config.dtype = [type(network).__name__], network.dtype
        network.config.save_pretrained(str(folder))
        if self.generates:
            write_stop_tokens(network, self.ends, folder)
        self.tokenizer.save_pretrained(str(folder))
        _copy_pooling(self.resolved.result or Path(self.source.base), folder)

    # What it is compared on

    def probes(self) -> list[Probe]:
        """The first rows held out by the run, else of its training rows, else a sentence; cut to `PROBE_TOKENS`."""
        limit = min(position_limit(self.config) or PROBE_TOKENS, PROBE_TOKENS)
        rows = list(self._rows()) or [_sentence(self.tokenizer, decoder_start_token(self.config))]
        probes = [_probe(row, limit) for row in rows]
        longer = _revealing_length(self.config)
        if longer is not None and self.generates:
            tokens = np.resize(np.concatenate([probe.tokens for probe in probes]), longer)
            probes.append(Probe(tokens, None, len(tokens)))
        return probes

    def _rows(self) -> Iterator[Row]:
        if self.resolved.recipe is None or self.resolved.place is None:
            return
        try:
            dataset = build_dataset(self.resolved.recipe, self.resolved.place["choices"])
        # Its data may be gone: the model is still there to be exported.
        except DataError:
            return
        examples = dataset.validation.examples if len(dataset.validation.examples) else dataset.train.examples
        rows = [row for index in range(min(PROBE_ROWS, len(examples))) for row in examples[index].rows]
        yield from rows[:PROBE_ROWS]

    def texts(self, probes: Sequence[Probe]) -> list[str]:
        """Texts that every tokenizer of the model must split alike: the prompts, and a conversation in its template."""
        read = [probe.tokens[: probe.prompt] if probe.source is None else probe.source for probe in probes]
        prompts = [self.tokenizer.decode(tokens) for tokens in read]
        return [*dict.fromkeys(prompts), *HARD_TEXTS, *_conversation(self.tokenizer)]


# What tokenizers that were written down again usually split otherwise.
HARD_TEXTS = (
    "It's 1234567 o'clock, isn't it?  Two  spaces\n\n\tand a tab.",
    "Ça coûte 3,50 € à Zürich — naïve café, 東京 и Москва.",
)


def _conversation(tokenizer: Any) -> list[str]:
    if tokenizer.chat_template is None:
        return []
    turns = [
        {"role": "user", "content": "Where is my parcel?"},
        {"role": "assistant", "content": "On its way."},
        {"role": "user", "content": "Thank you!"},
    ]
    try:
        return [tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)]
    # A template may refuse any conversation but its own kind.
    except TemplateError:
        return []


def _probe(row: Row, limit: int) -> Probe:
    tokens = row.tokens[:limit]
    source = None if row.source is None else row.source[:limit]
    # What is predicted with weight is the answer; a row without any is all prompt.
    answer = row.at[row.weight > 0]
    return Probe(tokens, source, min(int(answer[0]) + 1 if len(answer) else len(tokens), len(tokens)))


def _sentence(tokenizer: Any, decoder_start: int | None) -> Row:
    """A row that is all prompt; of an encoder–decoder, one that repeats what the encoder reads."""
    tokens = np.array(tokenizer(PROBE_TEXT).input_ids, np.int64)
    source = None if decoder_start is None else tokens
    tokens = tokens if decoder_start is None else np.append([decoder_start], tokens)
    at = np.arange(len(tokens))
    return Row(tokens, at, np.zeros_like(at), np.zeros(len(at), np.float32), source=source)


def _revealing_length(config: Any) -> int | None:
    """A length at which what depends on the length of a text shows: a window of attention, or scaled rotations."""
    window, limit = attention_window(config), position_limit(config)
    if window is not None and (limit is None or window + 16 <= limit):
        return window + 16 if window + 16 <= LONGEST_PROBE else None
    rope = getattr(config.get_text_config(), "rope_parameters", None) or {}
    if rope.get("rope_type") not in ("longrope", "dynamic"):
        return None
    declared = rope.get("original_max_position_embeddings") if rope["rope_type"] == "longrope" else None
    original = declared or config.get_text_config().max_position_embeddings
    return original + 16 if original + 16 <= LONGEST_PROBE else None


def _copy_pooling(source: Path, folder: Path) -> None:
    """Copy what says how the states of tokens become a vector, for sentence-transformers, where a model has it."""
    modules = source / MODULES
    if not modules.is_file():
        return
    shutil.copy(modules, folder)
    for module in json.loads(modules.read_text(encoding="utf-8")):
        if module.get("path") and (source / module["path"]).is_dir():
            shutil.copytree(source / module["path"], folder / module["path"])


def open_trained(name: str) -> TrainedModel:
    """The trained model of a name; a RunError for a run that has no result yet."""
    resolved = find_model(name)
    absolute = resolved.name
    if resolved.is_run and resolved.result is None:
        raise RunError("this run has no result yet", where=name, fix=f"finish it: bottega train --resume {name}")
    if resolved.export is not None and resolved.export.runtime != "transformers":
        fix = "export the run or the folder that it was made from"
        raise RunError(
            f"an export in the format {resolved.export.format} holds no weights that could be exported again",
            where=name,
            fix=fix,
        )
    source = locate(absolute)
    head = find_head(absolute)
    labels = (resolved.choices or {}).get("labels", [])
    return TrainedModel(absolute, resolved, source, head, labels, load_tokenizer(source.tokenizer))
