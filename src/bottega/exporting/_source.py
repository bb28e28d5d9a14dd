"""The trained model that an export starts from, and what it is compared on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig

from bottega.errors import RunError
from bottega.inference.loader import find_head
from bottega.inference.open_model import find_model, make_codec
from bottega.models import heads
from bottega.models.adapted import attach_saved, merge_saved, weight_names
from bottega.models.checkpoint import check_head_is_trained, load_model
from bottega.models.config import DEFAULT_MAX_LENGTH, load_config, position_limit
from bottega.models.generation_config import end_tokens, load_generation_config, make_saveable, write_stop_tokens
from bottega.models.source import ModelSource, locate
from bottega.models.tokenizer import load_tokenizer
from bottega.objectives import DEFAULT_KINDS, HeadKind
from bottega.recipe import schema as recipes
from bottega.recipe.files import without_folders
from bottega.runs.export_info import USED_CHOICES, ExportInfo, portable_objective
from bottega.runs.resolve import ResolvedName, resolve

# sentence-transformers' list of what follows a model: how states become a vector, in folders of their own.
MODULES = "modules.json"


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
        base = self.base_network()
        return base.to(dtype) if self.source.adapter is None else merge_saved(base, self.source.adapter, dtype)

    def reference(self) -> tuple[nn.Module, Any]:
        """(the model as it was trained, in float32, with its adapter beside the base; the network in it to call)."""
        base = self.base_network()
        if self.source.adapter is None:
            return base.eval(), base
        adapted = attach_saved(base, self.source.adapter)
        return adapted.model.eval(), adapted.network

    def base_network(self) -> Any:
        """Its base in float32, without the adapter."""
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
        return any(end in name for name in names for end in ends)

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


def _copy_pooling(source: Path, folder: Path) -> None:
    """Copy what says how the states of tokens become a vector, for sentence-transformers, where a model has it."""
    modules = source / MODULES
    if not modules.is_file():
        return
    shutil.copy(modules, folder)
    for module in json.loads(modules.read_text(encoding="utf-8")):
        if module.get("path") and (source / module["path"]).is_dir():
            shutil.copytree(source / module["path"], folder / module["path"])


def _run_of(name: str) -> str:
    """The run whose adapter a folder is: it knows the rows, the template and the end tokens; else the name."""
    folder = Path(name).expanduser()
    return str(folder.parent) if folder.name == "adapter" and resolve(folder.parent).is_run else name


def base_of_run(name: str) -> str:
    """The base of a run that trained an adapter, for RUN/model, where other tools leave a copy of it; else the name."""
    path = Path(name).expanduser()
    result = resolve(path.parent).result if path.name == "model" and not path.exists() else None
    return name if result is None else locate(str(path.parent.absolute())).base


def open_trained(name: str) -> TrainedModel:
    """The trained model of a name; a RunError for a run that has no result yet."""
    resolved = find_model(_run_of(name))
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
