"""Writing an export into a folder: its files, what they compute beside what was trained, what they cost the task."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega import exporting
from bottega.errors import BottegaError, ModelError
from bottega.exporting._card import write_card
from bottega.exporting._lora import ExportedLora
from bottega.exporting._precision import PRECISIONS
from bottega.exporting._proof import Proof, Reference, check, compare, compute_reference
from bottega.exporting._quality import TaskMetric, try_quality
from bottega.exporting._source import TrainedModel
from bottega.inference import runtimes
from bottega.progress import StatusCallback
from bottega.runs.atomic_files import commit_folder

if TYPE_CHECKING:
    from bottega.exporting._auto import ExportCandidate

# Inside an export that is being written: the same in float32, to be proved and removed.
IN_FLOAT32 = "float32"


@dataclass(frozen=True)
class ExportComparison:
    """How an export, or an adapter in it, compares with what was trained.

    proof       None if its program is not installed
    in_float32  largest difference of a logit of the same files in float32, where rounding could hide a fault
    unproved    why there is no proof, in words; else empty
    quality     metrics of the task beside those of the trained model, where its weights are quantized
    unmeasured  why there are none, in words; else empty
    """

    proof: Proof | None
    unproved: str = ""
    in_float32: float | None = None
    quality: Sequence[TaskMetric] = ()
    unmeasured: str = ""


@dataclass(frozen=True)
class Export:
    """An export that was written.

    folder      where it is
    format      its kind
    precision   of its weights
    bytes       size of all its files
    comparison  with what was trained
    adapters    that of each adapter beside it, by its name
    choice      what it was chosen from, if the format was `auto`
    """

    folder: Path
    format: str
    precision: str
    bytes: int
    comparison: ExportComparison
    adapters: Mapping[str, ExportComparison] = field(default_factory=dict)
    choice: Sequence[ExportCandidate] = ()

    @property
    def proof(self) -> Proof | None:
        """How it compares with what was trained; None if its program is not installed."""
        return self.comparison.proof

    @property
    def unproved(self) -> str:
        """Why there is no proof, in words; else empty."""
        return self.comparison.unproved

    def document(self) -> dict[str, Any]:
        """Plain data."""
        names = ("format", "precision", "bytes")
        return {
            "folder": str(self.folder),
            **{name: getattr(self, name) for name in names},
            **asdict(self.comparison),
            "adapters": {name: asdict(comparison) for name, comparison in self.adapters.items()},
            "choice": [candidate.document() for candidate in self.choice],
        }


@dataclass(frozen=True)
class ExportJob:
    """A model to write in one format and precision, with adapters beside it.

    base            what the model is called and made of, where adapters stand beside it: `model` has their settings
    rows            held-out rows on which what is in 8 or 4 bits is evaluated; 0: none
    whole_is_known  the same in float32 has been proved before
    references      what each part was trained to give, once it is computed; may be shared by jobs of one model
    """

    model: TrainedModel
    base: TrainedModel
    loras: Sequence[ExportedLora]
    exporter: exporting.ExportFormat
    precision: str
    rows: int
    tell: StatusCallback
    whole_is_known: bool = False
    references: dict[str, Reference] = field(default_factory=dict, repr=False)

    def write(self, folder: Path) -> dict[str, ExportComparison]:
        """Write it into an empty folder; how each adapter compares with what was trained, and the model under ""."""
        unproved = _unproved(self.exporter)
        differences = {} if unproved else self._prove_in_float32(folder)
        self._write_files(folder, self.precision)
        return {
            name: self._finish(name, part, unproved, differences.get(name))
            for name, part in self._parts(folder, self.precision).items()
        }

    def _prove_in_float32(self, folder: Path) -> dict[str, float]:
        """The largest difference of a logit of each part in float32; none where rounding hides no fault.

        4 bits can: they change more than a lost layer may.
        """
        if self.whole_is_known or not PRECISIONS[self.precision].proved_whole_first:
            return {}
        if "fp32" not in self.exporter.precisions:
            return {}
        whole = folder / IN_FLOAT32
        whole.mkdir()
        self.tell("writing it in float32, to be proved first")
        self._write_files(whole, "fp32")
        found = {name: self._prove(name, part).difference for name, part in self._parts(whole, "fp32").items()}
        shutil.rmtree(whole)
        return found

    def _prove(self, name: str, part: ExportPart) -> Proof:
        """Compare a part with what was trained; a ModelError if it differs by more than its precision explains."""
        # First, and freed before the export is opened: the two models need not be in memory at once.
        if name not in self.references:
            self.tell("computing the reference")
            self.references[name] = compute_reference(part.model)
        self.tell(f"comparing {name or 'it'} with the reference")
        return part.prove(self.references[name])

    def _write_files(self, folder: Path, precision: str) -> None:
        self.tell(f"writing it in {PRECISIONS[precision].title}")
        with _program_errors(self.exporter.kind, "writing the export fails"):
            if self.loras:
                self.exporter.write_with_adapters(self.model, self.loras, folder, precision)
            else:
                self.exporter.write(self.model, folder, precision)

    def _parts(self, folder: Path, precision: str) -> dict[str, ExportPart]:
        adapters = {
            lora.name: ExportPart(lora.model, lora.model, self.exporter, precision, folder, folder / lora.folder)
            for lora in self.loras
        }
        return {**adapters, "": ExportPart(self.model, self.base, self.exporter, precision, folder)}

    def _finish(self, name: str, part: ExportPart, unproved: str, in_float32: float | None) -> ExportComparison:
        """Compare a part with what was trained, and write what it says of itself."""
        comparison = ExportComparison(None if unproved else self._prove(name, part), unproved, in_float32)
        part.write(comparison)
        # The base of adapters is nobody's result.
        is_result = part.adapter is not None or not self.loras
        if self.rows and is_result and not unproved and PRECISIONS[self.precision].quantized:
            self.tell("evaluating it beside the trained model")
            # It is loaded by what was just written of it.
            (quality,), unmeasured = try_quality(part.model, [part.adapter or part.folder], self.rows, self.tell)
            comparison = replace(comparison, quality=quality, unmeasured=unmeasured)
            part.write(comparison)
        return comparison


@dataclass(frozen=True)
class ExportPart:
    """What is proved and described by itself: a model that was written into `folder`, or one of its adapters.

    model      what it is compared with
    described  what it is called and made of
    """

    model: TrainedModel
    described: TrainedModel
    exporter: exporting.ExportFormat
    precision: str
    folder: Path
    adapter: Path | None = None

    def write(self, comparison: ExportComparison, **more: Any) -> None:
        """Write what it says of itself; `more` goes into export.json as well."""
        folder = self.adapter or self.folder
        way = "" if self.adapter is None else os.path.relpath(self.folder, self.adapter)
        info = replace(self.described.info(self.exporter.kind, self.precision, self.exporter.runtime), base=way)
        info.write(folder, asdict(comparison) | more)
        write_card(folder, self.described, self.exporter, info, comparison)

    def prove(self, reference: Reference) -> Proof:
        """Compare it with a reference; a ModelError if it differs by more than its precision explains."""
        bounds = self.exporter.bounds(self.model, self.precision)
        with _program_errors(self.exporter.kind, "the program that runs the export fails"):
            proof = compare(reference, self.exporter.open(self.model, self.folder, self.adapter), bounds)
        check(proof, bounds)
        return proof


def write_export(job: ExportJob, folder: Path, *, again: str) -> Export:
    """Do a job in a folder that appears complete or not at all. `again`: the command to repeat it."""
    found: dict[str, ExportComparison] = {}
    commit_folder(folder, lambda partial: found.update(job.write(partial)), again=again)
    return Export(folder, job.exporter.kind, job.precision, folder_size(folder), found.pop(""), found)


def folder_size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextmanager
def _program_errors(format: str, what: str) -> Iterator[None]:
    """Turn what a library raises inside the block into a ModelError that begins with `what`."""
    try:
        yield
    except (BottegaError, OSError, MemoryError):
        raise
    # Each program has errors of its own.
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"{what}: {lines[0][:300]}", where=f"the format {format}", fix="nothing was kept; choose another format"
        ) from error


def _unproved(exporter: exporting.ExportFormat) -> str:
    """Why an export cannot be proved here; empty if it can."""
    if runtimes.is_installed(exporter.runtime):
        return ""
    runtime = runtimes.load_class(exporter.runtime)
    return f"{runtime.title} is not installed here: {runtimes.install_command(runtime.extra)}"
