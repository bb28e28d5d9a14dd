"""What a name stands for: a hub id, a folder, a run, or an adapter on one of these."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import transformers

from bottega import adapters
from bottega.errors import ModelError
from bottega.models.safe_folder import check_files, check_weights
from bottega.recipe.schema import Quantize
from bottega.runs.atomic_files import CHECKPOINTS
from bottega.runs.export_info import EXPORT_FILE
from bottega.runs.resolve import ResolvedName, resolve
from bottega.runs.store import MERGED_BASE


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from: `base` weights, then an `adapter` beside them, trained on them so quantised."""

    base: str
    adapter: Path | None = None
    quantize: Quantize = "none"

    @property
    def tokenizer(self) -> str:
        """Where its tokenizer stands: beside what was trained last, if that brought one."""
        own = self.adapter is not None and (self.adapter / "tokenizer.json").exists()
        return str(self.adapter) if own else self.base


def locate(name: str) -> ModelSource:
    """The source behind `model.base`: a hub id, a folder, or a run (its model, or its base with its adapter).

    A folder of an adapter, or a checkpoint of one, is its base with that adapter.
    """
    folder = Path(name)
    if not folder.is_absolute():
        return ModelSource(name)
    check_folder(folder, "model.base")
    for part in (folder, folder / "model", folder / "adapter"):
        check_files(part)
    resolved = resolve(name)
    if resolved.kind == "adapter":
        run = folder.parent.parent if folder.parent.name == CHECKPOINTS else folder.parent
        return ModelSource(adapters.read_saved(folder).base, folder, _quantized(run))
    if resolved.kind == "export":
        return ModelSource(str(_model_of_export(resolved)))
    if not resolved.is_run:
        return ModelSource(name)
    result = resolved.result
    if result is None:
        raise ModelError("this run has no result yet", where=name, fix=f"finish it: bottega train --resume {name}")
    if result.name == "model":
        return ModelSource(str(result))
    merged = folder / MERGED_BASE
    base = str(merged) if merged.exists() else adapters.read_saved(result).base
    return ModelSource(base, result, _quantized(folder))


def _model_of_export(export: ResolvedName) -> Path:
    """The folder with an export's model; a ModelError if an adapter was taken out of its export."""
    model = export.exported_model
    if not (model / EXPORT_FILE).exists():
        what = "an adapter in an export, without the export"
        raise ModelError(what, where=export.name, fix="move or copy the whole folder that was exported")
    return model


def _quantized(run: Path) -> Quantize:
    """How a run kept the base of its adapter; as it was for a folder that is no run."""
    recipe = resolve(run).recipe
    return "none" if recipe is None else recipe.model.quantize


def check_folder(folder: Path, key: str) -> None:
    if not folder.is_dir():
        what = "a file, not a folder" if folder.exists() else "no such folder"
        raise ModelError(what, where=str(folder), fix=f"check {key}; it resolves against the recipe's folder")


def adapter_folder(name: str) -> Path:
    """The adapter behind `adapter.from`: a folder or a run."""
    for folder in (Path(name) / "adapter", Path(name)):
        if adapters.is_adapter_folder(folder):
            check_files(folder)
            check_weights(str(folder))
            return folder
    raise ModelError("holds no adapter", where=name, fix="name a folder with adapter_config.json, or a finished run")


def refuse_unreachable(name: str) -> None:
    """Raise a ModelError for a hub id that is neither in the cache nor on the hub, after one request instead of six."""
    if Path(name).is_absolute() or huggingface_hub.constants.HF_HUB_OFFLINE:
        return
    try:
        if not isinstance(huggingface_hub.try_to_load_from_cache(name, "config.json"), str):
            huggingface_hub.HfApi().model_info(name, timeout=10)
    except Exception as error:  # the hub's client and the libraries below it each have their own errors
        raise ModelError(
            f"no such folder, and no such model on the hub, as far as it can be reached ({type(error).__name__})",
            where=name,
            fix="check the name, or the network; a folder begins with ./ or /",
        ) from None


@contextmanager
def quietly(where: str, what: str) -> Iterator[None]:
    """Silence transformers' messages inside the `with` block, and turn its errors into a ModelError."""
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
            reason = f"no such folder, and no such model on the hub, as far as it can be reached: {reason}"
        raise ModelError(
            f"{what} cannot be loaded: {reason}",
            where=where,
            fix="check that it is a complete transformers checkpoint",
        ) from error
    finally:
        transformers.logging.set_verbosity(before)
