"""Write an export, and prove before it gets its name that it computes what was trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bottega import exporting
from bottega.batch import Row
from bottega.errors import ModelError, RecipeError, RunError
from bottega.exporting._source import TrainedModel, compute_logits, open_trained
from bottega.runs.atomic_files import commit_folder
from bottega.suggestions import suggest_name

PROOF_FILE = "export.json"


@dataclass(frozen=True)
class Proof:
    """The export beside the trained model in float32, over tokens of real rows.

    rows        rows compared
    tokens      tokens compared
    difference  largest absolute difference of a logit
    kl          mean Kullback–Leibler divergence of the trained model's distribution from the export's, in nats a token
    agreement   fraction of tokens with the same likeliest prediction
    """

    rows: int
    tokens: int
    difference: float
    kl: float
    agreement: float


@dataclass(frozen=True)
class Export:
    """An export that was written.

    folder  where it is
    format  its kind
    bytes   size of all its files
    """

    folder: Path
    format: str
    bytes: int
    proof: Proof


def export(name: str | Path, out: str | Path, *, format: str = "merged") -> Export:
    """Write a run, a folder or a hub id in a format for other programs, proved equal to what was trained.

    Nothing is left at `out` if it fails: a ModelError if the export computes something else or the format cannot hold
    the model, a RecipeError for an unknown format, a RunError if `out` exists.
    """
    if format not in exporting.kinds():
        fix = suggest_name(format, exporting.kinds())
        raise RecipeError(f"unknown export format {format!r}", where="format", fix=fix)
    folder = Path(out).absolute()
    if folder.exists():
        raise RunError("already exists", where=str(folder), fix="name another folder, or delete this one")
    model, exporter = open_trained(str(name)), exporting.load(format)
    rows = model.probe_rows()
    proofs: list[Proof] = []

    def write(partial: Path) -> None:
        exporter.write(model, partial)
        proof = compare(model, exporter.open(model, partial), rows)
        if not proof.difference <= exporter.tolerance:  # also if it is NaN
            what = f"the export differs from what was trained: by up to {proof.difference:.2g} in a logit"
            fix = f"at most {exporter.tolerance:g} is rounding; nothing was kept, choose another format"
            raise ModelError(what, where=str(folder), fix=fix)
        proofs.append(proof)
        document = {"format": format, "trained": model.name, "proof": asdict(proof)}
        (partial / PROOF_FILE).write_text(json.dumps(document, indent=1), encoding="utf-8")

    commit_folder(folder, write)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Export(folder, format, size, proofs[0])


def compare(model: TrainedModel, engine: exporting.Engine, rows: Sequence[Row]) -> Proof:
    """How far the engine's logits are from those of the trained model."""
    module, network = model.reference()
    wanted = [compute_logits(network, row) for row in rows]
    del module, network  # the two need not be in memory at once
    given = [engine(row) for row in rows]
    reference, exported = np.concatenate(wanted), np.concatenate(given)  # [N, C]
    reference_logp, exported_logp = _log_softmax(reference), _log_softmax(exported)
    kl = (np.exp(reference_logp) * (reference_logp - exported_logp)).sum(-1).mean()
    agreement = (reference.argmax(-1) == exported.argmax(-1)).mean()
    return Proof(len(rows), len(reference), float(np.abs(reference - exported).max()), float(kl), float(agreement))


def _log_softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    logp: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return logp
