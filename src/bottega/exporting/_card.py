"""The model card of an export: how it was proved, how to run it, and whose licences hold."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from bottega.recipe.files import without_folders
from bottega.runs.export_info import ExportInfo
from bottega.training.model_card import UNKNOWN, Component, licence_note, licence_of, list_components

if TYPE_CHECKING:
    from bottega.exporting import ExportFormat
    from bottega.exporting._job import ExportComparison
    from bottega.exporting._source import TrainedModel


def write_card(
    folder: Path, model: TrainedModel, exporter: ExportFormat, info: ExportInfo, comparison: ExportComparison
) -> None:
    """Write README.md: Markdown with the YAML header that model hubs read."""
    components = _components(model)
    rows = "\n".join(f"| {kind} | {name} | {licence} |" for kind, name, licence in components)
    card = (
        f"---\n{yaml.safe_dump(_header(model, exporter, components), sort_keys=False)}---\n\n"
        f"# {info.origin}, {exporter.title}, {info.precision}\n\n"
        f"## Proof\n\n{_proof(comparison)}\n\n{_quality(comparison)}"
        f'## Use\n\n```\nbottega run {folder.name.removeprefix(".").removesuffix(".partial")} "…"\n```\n\n'
        f"{exporter.adapter_usage if info.base else exporter.usage}\n\n"
        f"## Components\n\n| | | licence |\n|---|---|---|\n{rows}\n\n{licence_note(components)}\n"
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _header(model: TrainedModel, exporter: ExportFormat, components: Sequence[Component]) -> dict[str, Any]:
    header: dict[str, Any] = {"library_name": exporter.library, "tags": ["bottega"]}
    base = next((part for part in components if part.kind in ("base model", "model")), None)
    if base is not None:
        header["base_model"] = base.name
        # Hubs take names, not sentences.
        header["license"] = base.licence if re.fullmatch(r"[\w.-]+", base.licence) else "other"
    return header


def _components(model: TrainedModel) -> list[Component]:
    """The base model and the data of a run; else the model itself."""
    if model.resolved.is_run and model.resolved.recipe is not None:
        return list_components(model.resolved.recipe)
    folder = Path(model.name)
    return [Component("model", without_folders(model.name), licence_of(folder) if folder.is_absolute() else UNKNOWN)]


def _quality(comparison: ExportComparison) -> str:
    """A section on the metrics of the task; empty if none were to be measured."""
    if comparison.unmeasured:
        return f"## Quality\n\nThe metrics of its task were not measured: {comparison.unmeasured}.\n\n"
    if not comparison.quality:
        return ""
    rows = "".join(f"- {each.describe()}\n" for each in comparison.quality)
    return f"## Quality\n\nBeside the trained model, on rows that its run held out:\n\n{rows}\n"


def _proof(comparison: ExportComparison) -> str:
    """The proof as a sentence and a table."""
    proof = comparison.proof
    if proof is None:
        return f"**Unproved.** {comparison.unproved}."
    rows = {
        "largest difference of a logit": f"{proof.difference:.1e}",
        "Kullback–Leibler divergence, nats a token": f"{proof.kl:.1e}",
        "correlation of the logits": f"{proof.correlation:.6f}",
        "tokens with the same likeliest prediction": f"{proof.agreement:.1%}",
    }
    if proof.generated:
        rows["generated tokens that are the same"] = f"{proof.greedy} of {proof.generated}"
    if comparison.in_float32 is not None:
        rows["largest difference of a logit of the same files in float32"] = f"{comparison.in_float32:.1e}"
    if proof.texts:
        rows["texts split into the same tokens"] = f"{proof.texts} of {proof.texts}"
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return (
        f"Loaded by the program that runs it and compared, before it was given its name, with the trained model in "
        f"float32, over {proof.tokens} tokens of {proof.rows} rows. End tokens and chat template are the same.\n\n"
        f"| | |\n|---|---|\n{table}"
    )
