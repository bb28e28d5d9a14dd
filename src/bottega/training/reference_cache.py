"""Cache of log-probabilities by the reference model, computed the first time an example comes.

They are the same in every epoch, and computing them is a third of an update's work. They are kept in an unnamed
temporary file, 4 bytes per predicted token, and copied into every checkpoint: computed again in another batch they
would differ in their last bits, and a resumed run would differ from an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from bottega.batch import Batch, Example
from bottega.data.example_cache import close_quietly, disk_errors_as_run_errors
from bottega.errors import CheckpointError

FILE = "reference.safetensors"
# 128 bits: a collision between examples is out of the question.
KEY_BYTES = 16


class ReferenceCache:
    """Reference log-probabilities by the content of an example, as augmented examples share their name."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115, it lives as long as the run
        weakref.finalize(self, close_quietly, self._file)
        self._spans: dict[bytes, tuple[int, int]] = {}
        self._end = 0

    def __contains__(self, example: Example) -> bool:
        return _key(example) in self._spans

    def add(self, examples: Sequence[Example], batch: Batch) -> None:
        """Store the column `reference` of a batch packed from `examples`; examples already cached keep their values."""
        counts = [sum(len(row.at) for row in example.rows) for example in examples]
        values = batch.columns["reference"].float().cpu().numpy()  # [N]
        for example, part in zip(examples, np.split(values, np.cumsum(counts)[:-1]), strict=True):
            self._append(_key(example), part)

    def of(self, examples: Sequence[Example]) -> Tensor:
        """[N] float32, in the order in which `pack` puts the predictions of the examples."""
        return torch.from_numpy(np.concatenate([self._read(*self._spans[_key(example)]) for example in examples]))

    def save(self, folder: Path) -> None:
        keys = np.frombuffer(b"".join(self._spans), np.uint8)
        counts = np.array([count for _, count in self._spans.values()], np.int64)
        arrays = {"values": self._read(0, self._end), "counts": counts, "keys": keys}
        save_file({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}, folder / FILE)

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote; raise a CheckpointError if the file is missing."""
        if not (folder / FILE).exists():
            what = f"{FILE} is missing: another version wrote this checkpoint, so a resume would not be exact"
            raise CheckpointError(what, where=str(folder), fix="start a new run with its recipe.yaml")
        arrays = {name: tensor.numpy() for name, tensor in load_file(folder / FILE).items()}
        ends = np.cumsum(arrays["counts"])
        for key, count, end in zip(arrays["keys"].reshape(-1, KEY_BYTES), arrays["counts"], ends, strict=True):
            self._append(key.tobytes(), arrays["values"][end - count : end])

    def _append(self, key: bytes, values: NDArray[np.float32]) -> None:
        if key not in self._spans:
            self._spans[key] = (self._end, len(values))
            self._end += len(values)
            with disk_errors_as_run_errors(self._folder, "the reference log-probabilities of the rows"):
                self._file.write(values.astype(np.float32).tobytes())
                self._file.flush()

    def _read(self, start: int, count: int) -> NDArray[np.float32]:
        if count == 0:  # an empty range cannot be memory-mapped
            return np.empty(0, np.float32)
        return np.array(np.memmap(self._file, np.float32, "r", 4 * start, (count,)))


def _key(example: Example) -> bytes:
    """Digest of what decides the log-probabilities: tokens, positions, labels and encoder input of each row."""
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    for row in example.rows:
        source = np.empty(0, np.int64) if row.source is None else row.source
        for array in (row.tokens, row.at, row.label, source):
            # The length first, so that a boundary between two arrays cannot move.
            digest.update(len(array).to_bytes(8, "little") + array.tobytes())
    return digest.digest()
