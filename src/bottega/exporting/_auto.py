"""Which format and precision suit a model here: all are written, proved, timed and evaluated, and one is kept."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bottega import exporting
from bottega.errors import ModelError, RecipeError
from bottega.exporting._formats import AUTO
from bottega.exporting._job import Export, ExportComparison, ExportJob, ExportPart, folder_size, write_export
from bottega.exporting._proof import Reference
from bottega.exporting._quality import TaskMetric, try_quality
from bottega.exporting._source import TrainedModel
from bottega.exporting._speed import measure_speed
from bottega.inference import runtimes
from bottega.progress import StatusCallback
from bottega.runs.atomic_files import MANIFEST, commit_folder

# Mean divergence in nats a token that is not noticed: 8 bits have a hundredth of it, 4 bits about as much.
MAX_KL = 0.05

# Metrics that the divergence bounds: of many rows the smallest difference is beyond chance.
LIKELIHOODS = ("loss", "perplexity")


@dataclass(frozen=True)
class ExportCandidate:
    """A format and precision that was tried.

    bytes              size of its files; of one that was not written, 0
    tokens_per_second  of one text at a time; memory: bytes that it adds to its program
    quality            metrics of the task beside the trained model's, that which decides first
    reason             why it is not to be chosen, in words; else empty
    """

    format: str
    precision: str
    bytes: int = 0
    tokens_per_second: float = 0.0
    memory: int = 0
    comparison: ExportComparison | None = None
    quality: Sequence[TaskMetric] = ()
    reason: str = ""

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.format}-{self.precision}"

    @property
    def kl(self) -> float | None:
        """Its divergence from the trained model, in nats a token."""
        return self.comparison.proof.kl if self.comparison is not None and self.comparison.proof is not None else None

    def document(self) -> dict[str, Any]:
        """Plain data, without the proof."""
        return {name: value for name, value in asdict(self).items() if name != "comparison"} | {"kl": self.kl}


def check_options(precision: str | None, adapters: Sequence[str | Path], device: str | None) -> None:
    """A RecipeError for an option that `auto` has not, or a device that is not here."""
    if precision is not None:
        raise RecipeError(f"{AUTO} chooses the precision", where="precision", fix="leave it out, or name a format")
    if adapters:
        fix = "name a format: gguf, genai or onnx"
        raise RecipeError(f"{AUTO} takes no adapters beside a base", where="adapters", fix=fix)
    if device not in (None, "cpu", "cuda"):
        raise RecipeError(f"no device {device!r}", where="device", fix="cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise RecipeError("no GPU that could be measured", where="device", fix="cpu, or run it where there is one")


def choose(model: TrainedModel, out: Path, *, device: str, rows: int, again: str, tell: StatusCallback) -> Export:
    """The fastest export of a model that is not noticeably worse; see `export`. `again`: the command to repeat it."""
    if device == "cuda" and not model.generates:
        raise RecipeError("only what generates text is timed on a GPU", where="device", fix="cpu, or name a format")
    trial = out.with_name(f".{out.name}.candidates")
    shutil.rmtree(trial, ignore_errors=True)
    try:
        candidates = list(_try_all(Trials(model, trial, device, again, tell)))
        candidates, unmeasured = _evaluate(model, candidates, trial, rows, tell)
        allowed = [candidate for candidate in candidates if not candidate.reason]
        if not allowed:
            reasons = "; ".join(f"{candidate.name}: {candidate.reason}" for candidate in candidates)
            raise ModelError(f"no format can hold this model: {reasons}", where=model.name, fix="name a format")
        best = max(allowed, key=lambda candidate: candidate.tokens_per_second)
        assert best.comparison is not None
        comparison = replace(best.comparison, quality=best.quality, unmeasured=unmeasured)
        _keep(best, comparison, candidates, model, trial, out, again)
    finally:
        shutil.rmtree(trial, ignore_errors=True)
    return Export(out, best.format, best.precision, folder_size(out), comparison, choice=candidates)


class Trials(NamedTuple):
    """A model, and the folder that its candidates are written to."""

    model: TrainedModel
    folder: Path
    device: str
    again: str
    tell: StatusCallback


def _try_all(trials: Trials) -> Iterator[ExportCandidate]:
    """Every format in every precision, proved and timed."""
    references: dict[str, Reference] = {}
    genai_holds_it = False
    # The other programs are run on the processor here.
    for kind in ["merged"] if trials.device == "cuda" else exporting.kinds():
        exporter = exporting.load(kind)
        reason = _reason(exporter, trials.model)
        if kind == "onnx" and genai_holds_it:
            reason = "genai has the same in a faster graph"
        for precision in exporter.precisions:
            candidate = ExportCandidate(kind, precision, reason=reason)
            tried = candidate if reason else _try(candidate, trials, references)
            yield tried
            genai_holds_it |= kind == "genai" and tried.comparison is not None
            if reason:
                break
            # A format that is wrong in float32 is not right in 4 bits.
            if precision == "fp32" and tried.comparison is None:
                reason = f"it fails in float32: {tried.reason}"


def _reason(exporter: exporting.ExportFormat, model: TrainedModel) -> str:
    """Why a format cannot be tried; empty if it can."""
    if exporter.missing_packages() or not runtimes.is_installed(exporter.runtime):
        return f"not installed: {runtimes.install_command(exporter.extra)}"
    return exporter.refusal(model)


def _try(candidate: ExportCandidate, trials: Trials, references: dict[str, Reference]) -> ExportCandidate:
    title = f"{candidate.format}, {candidate.precision}"
    job = ExportJob(
        trials.model,
        trials.model,
        [],
        exporting.load(candidate.format),
        candidate.precision,
        rows=0,
        tell=lambda message, done=0, total=None: trials.tell(f"{title}: {message}", done, total),
        # Float32 is tried first.
        whole_is_known=True,
        references=references,
    )
    try:
        result = write_export(job, trials.folder / candidate.name, again=trials.again)
        trials.tell(f"{title}: timing it")
        speed = measure_speed(result.folder, trials.device)
    except ModelError as error:
        return replace(candidate, reason=error.what)
    tried = replace(
        candidate,
        bytes=result.bytes,
        tokens_per_second=speed.tokens_per_second,
        memory=speed.memory,
        comparison=result.comparison,
    )
    assert tried.kl is not None
    if not tried.kl <= MAX_KL:
        return replace(tried, reason=f"{tried.kl:.2g} nats a token from the trained model, over {MAX_KL}")
    return tried


def _evaluate(
    model: TrainedModel, candidates: Sequence[ExportCandidate], trial: Path, rows: int, tell: StatusCallback
) -> tuple[list[ExportCandidate], str]:
    """(the candidates with the metrics of the task, in one evaluation; why there are none)."""
    tried = [candidate for candidate in candidates if not candidate.reason]
    if not rows or not tried:
        return list(candidates), ""
    found, unmeasured = try_quality(model, [trial / candidate.name for candidate in tried], rows, tell)
    measured = {
        candidate.name: replace(candidate, quality=quality, reason=_loss(quality))
        for candidate, quality in zip(tried, found, strict=True)
    }
    return [measured.get(candidate.name, candidate) for candidate in candidates], unmeasured


def _loss(quality: Sequence[TaskMetric]) -> str:
    """Why an export is noticeably worse, by the first metric of its answers; empty if it is not."""
    first = next((each for each in quality if each.metric not in LIKELIHOODS), None)
    return f"worse: {first.describe()}" if first is not None and first.is_worse else ""


def _keep(
    best: ExportCandidate,
    comparison: ExportComparison,
    candidates: Sequence[ExportCandidate],
    model: TrainedModel,
    trial: Path,
    out: Path,
    again: str,
) -> None:
    """Give the best its name, and write down what it was chosen from."""

    def move(partial: Path) -> None:
        for path in (trial / best.name).iterdir():
            if path.name != MANIFEST:
                shutil.move(path, partial / path.name)
        part = ExportPart(model, model, exporting.load(best.format), best.precision, partial)
        part.write(comparison, choice=[candidate.document() for candidate in candidates])

    commit_folder(out, move, again=again)
