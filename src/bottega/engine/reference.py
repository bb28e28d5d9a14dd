"""Log-probabilities under the policy as the run began: computed when an example first comes, remembered after that.

They are the same in every epoch, and computing them is a third of an update's work. They lie in a nameless file, so
memory does not grow with the data, and a copy goes into every checkpoint: computed anew, in another company of rows,
they would differ in their last bits, and a resumed run from an uninterrupted one.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from bottega.batch import Batch, Example, Row

FILE = "reference.safetensors"
COLUMN = "reference"


class References:
    """What was computed of each example, by its name."""

    def __init__(self, folder: Path | None = None) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115, it lives as long as the run
        weakref.finalize(self, self._file.close)
        self._places: dict[str, tuple[int, int]] = {}
        self._end = 0

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def add(self, examples: Sequence[Example], batch: Batch) -> None:
        """Remember the column of a batch that was packed from `examples`."""
        counts = [sum(len(row.at) for row in example.rows) for example in examples]
        values = batch.columns[COLUMN].float().cpu().numpy()
        for example, part in zip(examples, np.split(values, np.cumsum(counts)[:-1]), strict=True):
            self._append(example.id, part)

    def put_on(self, example: Example) -> Example:
        """The example with what is remembered as a column of its rows."""
        start, count = self._places[example.id]
        values = np.frombuffer(os.pread(self._file.fileno(), 4 * count, 4 * start), np.float32)
        parts = np.split(values, np.cumsum([len(row.at) for row in example.rows])[:-1])
        return replace(example, rows=tuple(_with(row, part) for row, part in zip(example.rows, parts, strict=True)))

    def save(self, folder: Path) -> None:
        values = np.frombuffer(os.pread(self._file.fileno(), 4 * self._end, 0), np.float32)
        names = np.frombuffer("\n".join(self._places).encode(), np.uint8)
        counts = np.array([count for _, count in self._places.values()], np.int64)
        found: dict[str, np.ndarray] = {"values": values, "counts": counts, "names": names}
        save_file({name: torch.from_numpy(array.copy()) for name, array in found.items()}, folder / FILE)

    def load(self, folder: Path) -> None:
        """The inverse of `save`."""
        found = {name: tensor.numpy() for name, tensor in load_file(folder / FILE).items()}
        names, ends = found["names"].tobytes().decode().split("\n"), np.cumsum(found["counts"])
        for name, count, end in zip(names, found["counts"], ends, strict=False):  # of nothing, one empty name is left
            self._append(name, found["values"][end - count : end])

    def _append(self, name: str, values: np.ndarray) -> None:
        if name not in self._places:
            self._places[name] = (self._end, len(values))
            self._end += len(values)
            self._file.write(values.astype(np.float32).tobytes())
            self._file.flush()


def _with(row: Row, values: np.ndarray) -> Row:
    return replace(row, columns={**row.columns, COLUMN: values})
