"""Provenance of a run: versions, hardware, checksums and choices (`place.json`), and its first events."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from bottega.errors import ModelError
from bottega.events import Noted, Started
from bottega.hardware.device import compute_dtype, has_native_dtype
from bottega.hardware.other_programs import usable_cores
from bottega.models.activated import find_start
from bottega.models.quantization.linear import quantized_size
from bottega.models.source import locate
from bottega.models.tokenizer import load_tokenizer, mismatched_tokenizer_class
from bottega.recipe.schema import Recipe
from bottega.runs.atomic_files import checksum
from bottega.training.input_files import list_input_files
from bottega.training.setup import Run

# Examples in which the invocation of an adapter is looked for.
LOOKED_AT = 10_000

# (subject, message, details) of a note.
Message = tuple[str, str, dict[str, Any]]


def checksums(recipe: Recipe) -> dict[str, str]:
    """Path → checksum of every file whose change would make a resume another run."""
    return {str(path): checksum(path) for path in list_input_files(recipe)}


def place_document(run: Run, sums: dict[str, str], cores_of_others: float | None) -> dict[str, Any]:
    """The contents of `place.json`: what a resume must compute with, and what a reader needs to reproduce the run.

    sums             path → checksum of the run's input files
    cores_of_others  CPU cores that other programs used while the run was loaded; None if unknown
    """
    packages = ["bottega", "torch", "transformers", "tokenizers", "peft"]
    packages += ["bitsandbytes"] if run.recipe.model.quantize == "nf4" else []
    return {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "hardware": {
            # Not platform.platform(): it forks, and the child's copy of the memory would count as the run's peak.
            "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
            "processor": torch.cpu.get_capabilities().get("cpu_name") or platform.machine(),
            "accelerator": torch.cuda.get_device_name() if run.choices.device == "cuda" else None,
            "cores": len(usable_cores()),
            "cores_of_others": None if cores_of_others is None else round(cores_of_others, 2),
        },
        "files": sums,
        "choices": {
            "threads": run.choices.threads,
            "device": run.choices.device,
            "dtype": str(run.choices.dtype).removeprefix("torch."),
            "max_length": run.data.codec.max_length,
            "day": run.data.codec.template.day.isoformat(),
            "micro_batch_tokens": run.choices.micro_batch_tokens,
            "lr": run.choices.lr,
            "head_lr": run.choices.head_lr,
            "steps": run.sampler.steps,
            "labels": run.data.labels,
            "fit": asdict(run.engine.scorer.fit),
        },
    }


def started_event(run: Run, step: int, *, resumed: bool) -> Started:
    """The first event: sizes of the model and the data, and the settings of the computation."""
    # Quantized weights are no parameters of the module.
    weights = list(run.engine.scorer.model.parameters())
    return Started(
        step=step,
        resumed=resumed,
        steps=run.sampler.steps,
        examples=len(run.sampler.examples),
        validation_examples=len(run.data.validation.examples),
        parameters=sum(weight.numel() for weight in weights) + quantized_size(run.engine.scorer.model).weights,
        trained_parameters=sum(weight.numel() for weight in weights if weight.requires_grad),
        dtype=str(run.choices.dtype).removeprefix("torch."),
        device=run.choices.device,
        threads=run.choices.threads,
        micro_batch_tokens=run.choices.micro_batch_tokens,
        lr=run.choices.lr,
    )


def notes(run: Run, step: int) -> Iterator[Noted]:
    """Notes for the user before the first update."""
    for subject, message, details in _messages(run):
        yield Noted(step=step, subject=subject, message=message, details=details)


def _messages(run: Run) -> Iterator[Message]:
    """(subject, message, details) of each note."""
    yield from _dtype_messages(run)
    yield from _data_messages(run)
    yield from _tokenizer_messages(run)
    yield from _model_messages(run)


def _dtype_messages(run: Run) -> Iterator[Message]:
    if not has_native_dtype(run.choices.dtype, run.choices.device):
        dtype = str(run.choices.dtype).removeprefix("torch.")
        native = str(compute_dtype("auto", run.choices.device)).removeprefix("torch.")
        message = f"this processor has no native {dtype} arithmetic: model.dtype={native} may be many times faster"
        yield "dtype", message, {}


def _data_messages(run: Run) -> Iterator[Message]:
    """Rows that are dropped, truncated or not compared."""
    data = run.data
    for subject, message in data.notes():
        yield subject, message, {}
    for path, description in data.formats.items():
        yield "format", f"{Path(path).name}: {description}", {}
    # Replay rows are read apart from the dataset, but lost as easily.
    replay = [("replay", run.replay.rows)] if run.replay is not None else []
    for name, side in (("training", data.train), ("validation", data.validation), *replay):
        if side.dropped:
            yield "dropped", f"{side.dropped.total()} {name} rows left out", dict(side.dropped)
        if side.truncated:
            yield "truncated", f"{side.truncated} {name} rows cut short", {}
    if run.recipe.objective.joint and run.recipe.evaluate is not None:
        left_out = len(run.held_out) - sum(map(len, run.validation))
        if left_out:
            message = f"{left_out} validation rows left out: each is a positive of every row it would be compared with"
            yield "validation", message, {}
    if data.codec.tally.untagged:
        message = f"{data.codec.tally.untagged} entities get no tag: the tokenizer's word boundaries leave them no word"
        yield "entities", message, {}


def _tokenizer_messages(run: Run) -> Iterator[Message]:
    for difference in tokenizer_differences(run.recipe, run.data.tokenizer):
        yield "tokenizer", f"model.tokenizer is not the base's: {difference}", {}
    other_class = mismatched_tokenizer_class(run.data.tokenizer, run.engine.scorer.network.config)
    if other_class:
        message = f"transformers' AutoTokenizer loads this tokenizer as {other_class}, which splits texts differently"
        yield "tokenizer", f"{message}: load the result's with PreTrainedTokenizerFast", {}


def _model_messages(run: Run) -> Iterator[Message]:
    """New and quantized layers, packing, and what an adapter does not reach."""
    recipe, scorer = run.recipe, run.engine.scorer
    fit, model = scorer.fit, scorer.model
    # A head for classes is new by design, but a pre-trained encoder should have the one over its vocabulary.
    if run.new_modules and scorer.head.over_vocabulary and scorer.head.may_be_new:
        modules = ", ".join(run.new_modules)
        yield "head", f"the checkpoint has no head over the vocabulary; it starts from random weights: {modules}", {}
    if run.choices.head_lr is not None:
        yield "head", f"the new head learns at {run.choices.head_lr:.1e}, all else at {run.choices.lr:.1e}", {}
    quantized = quantized_size(model)
    if quantized.weights:
        before = quantized.weights * run.choices.dtype.itemsize
        message = f"{quantized.weights:,} weights of {quantized.layers} linear layers are stored as "
        size = f"{recipe.model.quantize}, in {quantized.bytes / 1e6:.1f} MB instead of {before / 1e6:.1f}"
        yield "quantized", message + size, {}
    if fit.reason:
        mode = "packed, its own head" if fit.packed else "one row per forward pass, exact but slower"
        yield "packing", f"the model runs {mode}: {fit.reason}", {}
    if run.data.validation.examples and recipe.evaluate is None:
        yield "validation", "validation rows are held out but never scored; leave evaluate: null out", {}
    if scorer.adapted is not None and (names := scorer.adapted.left_out):
        shown = ", ".join(names[:10]) + (" …" if len(names) > 10 else "")
        message = f"no adapter on {shown}: PEFT cannot adapt these layers, or cannot load them again"
        yield "adapter", message, {"names": names}
    if scorer.adapted is not None and scorer.adapted.invocation:
        looked_at = range(min(len(run.sampler.examples), LOOKED_AT))
        rows = [row for index in looked_at for row in run.sampler.examples[index].rows]
        without = sum(find_start(row, scorer.adapted.invocation) is None for row in rows)
        if without:
            lacking = (
                f"{without:,} of {len(rows):,} rows looked at have no invocation before their answer, and teach nothing"
            )
            yield "adapter", lacking, {"rows": without}
    if recipe.adapter is not None and getattr(recipe.adapter, "dropout", False):
        # The adapter sees a shared prefix once, whatever follows it.
        yield "dropout", "adapter dropout makes a shared prefix drop the same units for every row", {}


def tokenizer_differences(recipe: Recipe, tokenizer: Any) -> list[str]:
    """How `model.tokenizer` differs from the base's: the model was trained on the base's tokens and chat turns."""
    if recipe.model.base is None or recipe.model.tokenizer is None:
        return []
    try:
        base = load_tokenizer(locate(recipe.model.base).tokenizer)
    except ModelError:  # a base without a tokenizer
        return []
    differences = []
    if base.get_vocab() != tokenizer.get_vocab():
        differences.append("its vocabulary differs, so the base reads other tokens than it was trained on")
    if base.chat_template != tokenizer.chat_template:
        differences.append("its chat template differs, so the base sees turns in another format than it was trained on")
    return differences
