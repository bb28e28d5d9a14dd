"""What a run says of itself before its first update: versions and choices, sizes, and what a user should know."""

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
from bottega.models.quantization.linear import quantized_size
from bottega.models.source import locate
from bottega.models.tokenizer import load_tokenizer, mismatched_tokenizer_class
from bottega.recipe.schema import Recipe
from bottega.runs.atomic_files import checksum
from bottega.training.input_files import files_of
from bottega.training.setup import Run


def checksums(recipe: Recipe) -> dict[str, str]:
    """Those of every file whose change would make a resume another run."""
    return {str(path): checksum(path) for path in files_of(recipe)}


def place(run: Run, sums: dict[str, str], others: float | None) -> dict[str, Any]:
    """Versions, hardware, the data's checksums, and every choice made, for `place.json`.

    others  cores that other programs took while the run was loaded
    """
    packages = ["bottega", "torch", "transformers", "tokenizers", "peft"]
    packages += ["bitsandbytes"] if run.recipe.model.quantize == "nf4" else []
    return {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "hardware": {
            # platform.platform() would start a process, and its copy of this one's memory would count as the run's.
            "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
            "processor": torch.cpu.get_capabilities().get("cpu_name") or platform.machine(),
            "accelerator": torch.cuda.get_device_name() if run.choices.device == "cuda" else None,
            "cores": len(usable_cores()),
            "cores_of_others": None if others is None else round(others, 2),
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
            "steps": run.sampler.steps,
            "labels": run.data.labels,
            "fit": asdict(run.engine.scorer.fit),
        },
    }


def started(run: Run, step: int, *, resumed: bool) -> Started:
    """The sizes of what is about to be trained, and how it is computed."""
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
    """What a user should know before the first update."""
    for subject, message, details in _noteworthy(run):
        yield Noted(step=step, subject=subject, message=message, details=details)


def _noteworthy(run: Run) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(subject, message, details) of each."""
    recipe, rows, fit = run.recipe, run.data, run.engine.scorer.fit
    if not has_native_dtype(run.choices.dtype, run.choices.device):
        dtype = str(run.choices.dtype).removeprefix("torch.")
        quick = str(compute_dtype("auto", run.choices.device)).removeprefix("torch.")
        what = f"no {dtype} products are known of this processor: model.dtype={quick} may be many times faster"
        yield "dtype", what, {}
    for subject, message in rows.notes():
        yield subject, message, {}
    for path, seen in rows.formats.items():
        yield "format", f"{Path(path).name}: {seen}", {}
    for name, part in (("training", rows.train), ("validation", rows.validation)):
        if part.dropped:
            yield "dropped", f"{part.dropped.total()} {name} rows left out", dict(part.dropped)
        if part.truncated:
            yield "truncated", f"{part.truncated} {name} rows cut short", {}
    if recipe.objective.joint and recipe.evaluate is not None:
        lost = len(run.held_out) - sum(map(len, run.validation))
        if lost:
            yield "validation", f"{lost} validation rows left out: each belongs to all it would be compared with", {}
    if rows.codec.untagged:
        what = f"{rows.codec.untagged} entities have no word of their own, as the tokenizer splits words, and no tag"
        yield "entities", what, {}
    for differs in tokenizer_differs(recipe, rows.tokenizer):
        yield "tokenizer", f"model.tokenizer is not the base's: {differs}", {}
    other = mismatched_tokenizer_class(rows.tokenizer, run.engine.scorer.network.config)
    if other:
        what = f"transformers' AutoTokenizer makes a {other} of this tokenizer, and so cuts texts otherwise"
        yield "tokenizer", f"{what}: read the result's with PreTrainedTokenizerFast", {}
    if run.new_modules and recipe.objective.head == "masked":
        yield (
            "head",
            f"the checkpoint has no head for masked words; it begins at random: {', '.join(run.new_modules)}",
            {},
        )
    found = quantized_size(run.engine.scorer.model)
    if found.weights:
        before = found.weights * run.choices.dtype.itemsize
        what = f"{found.weights:,} weights of {found.layers} linear layers are kept as {recipe.model.quantize}"
        yield "quantized", f"{what}, in {found.bytes / 1e6:.1f} MB instead of {before / 1e6:.1f}", {}
    if fit.reason:
        how = "packed, its own head" if fit.packed else "one row a forward, exact but slower"
        yield "packing", f"the model runs {how}: {fit.reason}", {}
    if rows.validation.examples and recipe.evaluate is None:
        yield "validation", "validation rows are held out but never scored; leave evaluate: null out", {}
    adapted = run.engine.scorer.adapted
    if adapted is not None and (names := adapted.left_out):
        shown = ", ".join(names[:10]) + (" …" if len(names) > 10 else "")
        yield (
            "adapter",
            f"no adapter on {shown}: PEFT cannot adapt these layers, or not find them again",
            {"names": names},
        )
    if recipe.adapter is not None and getattr(recipe.adapter, "dropout", False):
        yield "dropout", "adapter dropout makes a shared prefix drop the same units for every row", {}


def tokenizer_differs(recipe: Recipe, tokenizer: Any) -> list[str]:
    """What a run's own tokenizer has other than its base's: a model reads tokens and turns as it learned them."""
    if recipe.model.base is None or recipe.model.tokenizer is None:
        return []
    try:
        base = load_tokenizer(locate(recipe.model.base).tokenizer)
    except ModelError:  # a base without one
        return []
    differs = []
    if base.get_vocab() != tokenizer.get_vocab():
        differs.append("its vocabulary is another, so the base reads other tokens than it learned")
    if base.chat_template != tokenizer.chat_template:
        differs.append("its chat template is another, so the base sees turns written otherwise than it learned")
    return differs
