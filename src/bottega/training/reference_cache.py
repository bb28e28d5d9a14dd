"""Log-probabilities under the policy as the run began: computed when an example first comes, remembered after that.

They are the same in every epoch, and computing them is a third of an update's work. They lie in a nameless file, four
bytes a predicted token, and a copy goes into every checkpoint: computed anew, in another company of rows, they would
differ in their last bits, and a resumed run from an uninterrupted one.
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
KEY_BYTES = 16


class ReferenceCache:
    """What was computed of each example, by its content: two of the same name may differ."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115, it lives as long as the run
        weakref.finalize(self, close_quietly, self._file)
        self._places: dict[bytes, tuple[int, int]] = {}
        self._end = 0

    def __contains__(self, example: Example) -> bool:
        return _key(example) in self._places

    def add(self, examples: Sequence[Example], batch: Batch) -> None:
        """Remember the column `reference` of a batch packed from `examples`; what is known stays as it was."""
        counts = [sum(len(row.at) for row in example.rows) for example in examples]
        values = batch.columns["reference"].float().cpu().numpy()
        for example, part in zip(examples, np.split(values, np.cumsum(counts)[:-1]), strict=True):
            self._append(_key(example), part)

    def of(self, examples: Sequence[Example]) -> Tensor:
        """[N] float32, as `pack` lays the examples out."""
        return torch.from_numpy(np.concatenate([self._read(*self._places[_key(example)]) for example in examples]))

    def save(self, folder: Path) -> None:
        keys = np.frombuffer(b"".join(self._places), np.uint8)
        counts = np.array([count for _, count in self._places.values()], np.int64)
        found = {"values": self._read(0, self._end), "counts": counts, "keys": keys}
        save_file({name: torch.from_numpy(np.array(array)) for name, array in found.items()}, folder / FILE)

    def load(self, folder: Path) -> None:
        """The inverse of `save`; a CheckpointError for a checkpoint that holds nothing of the kind."""
        if not (folder / FILE).exists():
            what = f"{FILE} is missing: another version wrote this checkpoint, and no resume from it would be exact"
            raise CheckpointError(what, where=str(folder), fix="start a new run with its recipe.yaml")
        found = {name: tensor.numpy() for name, tensor in load_file(folder / FILE).items()}
        ends = np.cumsum(found["counts"])
        for key, count, end in zip(found["keys"].reshape(-1, KEY_BYTES), found["counts"], ends, strict=True):
            self._append(key.tobytes(), found["values"][end - count : end])

    def _append(self, key: bytes, values: NDArray[np.float32]) -> None:
        if key not in self._places:
            self._places[key] = (self._end, len(values))
            self._end += len(values)
            with disk_errors_as_run_errors(self._folder, "what the reference says of the rows"):
                self._file.write(values.astype(np.float32).tobytes())
                self._file.flush()

    def _read(self, start: int, count: int) -> NDArray[np.float32]:
        if count == 0:  # nothing cannot be mapped
            return np.empty(0, np.float32)
        return np.array(np.memmap(self._file, np.float32, "r", 4 * start, (count,)))


def _key(example: Example) -> bytes:
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    for row in example.rows:
        read = np.empty(0, np.int64) if row.source is None else row.source
        for part in (row.tokens, row.at, row.label, read):
            digest.update(len(part).to_bytes(8, "little") + part.tobytes())
    return digest.digest()
