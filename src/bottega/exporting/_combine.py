"""Several LoRA adapters of one base as one: `bottega.combine_adapters`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from bottega.adapters import CONFIG, WEIGHT_FILES
from bottega.errors import RecipeError, RunError
from bottega.exporting._combination import METHODS, Combined, CombineOptions, combine_updates
from bottega.exporting._lora import ExportedLora, open_adapter, open_adapters, shared_base
from bottega.exporting._source import open_trained
from bottega.progress import StatusCallback, ignore_status
from bottega.runs.atomic_files import commit_folder, read_json
from bottega.suggestions import suggest_name

# PEFT's name of the file of weights, and what it puts before the name of a layer.
WEIGHTS, PREFIX = WEIGHT_FILES.replace("*", ""), "base_model.model."


@dataclass(frozen=True)
class AdapterCombination:
    """An adapter that was made of others.

    rank    the largest of its layers
    error   ‖ΔW − Σ wᵢ ΔWᵢ‖ / ‖Σ wᵢ ΔWᵢ‖ over all layers, measured on what was written
    worst   the layer with the largest error of its own, and that error
    """

    folder: Path
    base: str
    weights: Mapping[str, float]
    method: str
    rank: int
    error: float
    worst: tuple[str, float]

    def document(self) -> dict[str, Any]:
        """It as plain data."""
        return {**asdict(self), "folder": str(self.folder)}


def combine_adapters(
    adapters: Mapping[str, float],
    out: str | Path,
    *,
    method: str = "cat",
    rank: int | None = None,
    density: float = 0.5,
    seed: int = 0,
    tell: StatusCallback | None = None,
) -> AdapterCombination:
    """Write one adapter for the weighted sum of several, in PEFT's format.

    adapters  runs or folders of LoRA adapters of one base, with their weights
    method    cat, exact, whose rank is the sum of their ranks; svd, the best of a smaller `rank`; ties or dare, which
              keep a part of the entries, so that adapters disturb each other less
    rank      of the result; default: the sum of their ranks
    density   of ties and dare: the part of the entries that is kept
    seed      of dare

    Raises a ModelError if they are no LoRA of linear layers on one base, a RecipeError for options that cannot be.
    """
    tell, folder = tell or ignore_status, Path(out)
    _check(adapters, method, rank, density)
    if folder.exists():
        raise RunError("already exists", where=str(folder), fix="name another folder, or delete this one")
    names = list(adapters)
    tell("reading adapters")
    base = shared_base([open_adapter(names[0])])
    loras = open_adapters(open_trained(base.source.base), names)
    weighted = list(zip(adapters.values(), loras, strict=True))
    generator = torch.Generator().manual_seed(seed)
    layers, options = sorted({layer for lora in loras for layer in lora.updates}), CombineOptions(method, rank, density)
    combined = dict[str, Combined]()
    for number, layer in enumerate(layers):
        tell("combining layers", number, len(layers))
        present = [(weight, lora.updates[layer]) for weight, lora in weighted if layer in lora.updates]
        combined[layer] = combine_updates(present, options, generator)
    commit_folder(folder.absolute(), lambda partial: _write(partial, combined, loras))
    errors = {layer: _relative(one.error, one.norm) for layer, one in combined.items()}
    worst = max(errors, key=lambda layer: errors[layer])
    return AdapterCombination(
        folder,
        base.source.base,
        dict(zip((lora.name for lora in loras), adapters.values(), strict=True)),
        method,
        max(len(one.a) for one in combined.values()),
        _relative(sum(one.error for one in combined.values()), sum(one.norm for one in combined.values())),
        (worst, errors[worst]),
    )


def _check(adapters: Mapping[str, float], method: str, rank: int | None, density: float) -> None:
    if len(adapters) < 2:
        raise RecipeError("fewer than two adapters", where="adapters", fix="name the others, with commas between")
    if method not in METHODS:
        raise RecipeError(f"unknown method {method!r}", where="method", fix=suggest_name(method, METHODS))
    for name, weight in adapters.items():
        if not math.isfinite(weight) or weight == 0:
            raise RecipeError(f"weight {weight}", where=name, fix="give a number other than 0, or leave it out")
    if rank is not None and rank < 1:
        raise RecipeError(f"rank {rank}", where="rank", fix="1 or more")
    if method == "svd" and rank is None:
        raise RecipeError("svd makes the rank smaller, and needs to know to what", where="rank", fix="give a rank")
    if not 0 < density <= 1:
        raise RecipeError(f"density {density}", where="density", fix="above 0, and at most 1")


def _relative(error: float, norm: float) -> float:
    return math.sqrt(error / norm) if norm else 0.0 if not error else math.inf


def _write(folder: Path, combined: Mapping[str, Combined], loras: Sequence[ExportedLora]) -> None:
    """The adapter in PEFT's format, with the tokenizer of one of those it was made of."""
    from peft import LoraConfig

    like = loras[0]
    folders = [lora.model.source.adapter for lora in loras if lora.model.source.adapter is not None]
    tasks = {read_json(folder / CONFIG).get("task_type") for folder in folders}
    ranks = {layer: len(one.a) for layer, one in combined.items()}
    largest = max(ranks.values())
    # alpha equal to the rank: the scale is in B.
    own = {layer: rank for layer, rank in ranks.items() if rank != largest}
    LoraConfig(
        base_model_name_or_path=like.model.source.base,
        r=largest,
        lora_alpha=largest,
        rank_pattern=own,
        alpha_pattern=own,
        target_modules=sorted(ranks),
        task_type=next(iter(tasks)) if len(tasks) == 1 else None,
        inference_mode=True,
    ).save_pretrained(str(folder))
    weights = {}
    for layer, one in combined.items():
        weights[f"{PREFIX}{layer}.lora_A.weight"] = one.a.contiguous()
        weights[f"{PREFIX}{layer}.lora_B.weight"] = one.b.contiguous()
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    like.model.tokenizer.save_pretrained(str(folder))
