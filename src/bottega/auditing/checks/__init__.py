"""The checks of an audit, one file per check; the file name is the name of the check.

To add one, write `auditing/checks/<name>.py` with one subclass of `Check`. It sees all rows once, in batches, and then
yields its findings. No registration is needed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from bottega import plugins
from bottega.auditing.entries import Entry, RowLocations
from bottega.auditing.findings import MAX_EXAMPLES, Finding, Mend, RowIndices, Severity

if TYPE_CHECKING:
    from bottega.auditing.encode import EncodeRecord
    from bottega.tokenization.codec import Codec

# Earlier names of checks, still accepted by --only and --skip.
ALIASES = {"near": "near_duplicates", "learning": "no_loss", "private": "personal_data"}


@dataclass
class Context:
    """What the checks share.

    codec          the model's tokenizer with the length limits of training; None without a model
    encode         encodes a record as training would, to examples of token rows: [(row, …), …]
    model          a run, folder or hub id whose weights score rows
    near           Jaccard similarity from which two texts are near duplicates
    locations      the location of every row by its index
    data_start     index of the first row of the data; the rows of comparison sets come before it
    report_status  called with the current activity, once all rows have been read
    """

    codec: Codec | None = None
    encode: EncodeRecord | None = None
    model: str | None = None
    near: float = 0.7
    seed: int = 0
    locations: RowLocations = field(default_factory=RowLocations)
    data_start: int = 0
    report_status: Callable[[str], None] = lambda status: None

    def finding(
        self,
        kind: str,
        severity: Severity,
        what: str,
        fix: str,
        rows: Sequence[int] | RowIndices,
        *,
        beside: Sequence[int] | RowIndices | None = None,
        mend: Mend | None = None,
        names: Sequence[str] = (),
    ) -> Finding:
        """A finding with examples: the locations of the first rows.

        rows    indices among all rows of the audit
        beside  for each row the index of the row it resembles, shown next to it
        names   for each row (or the first few) a detail, shown after its location
        """
        indices = np.asarray(rows, np.int64)
        examples = [self.locations[index] for index in indices[:MAX_EXAMPLES].tolist()]
        if beside is not None:
            similar = np.asarray(beside, np.int64)[:MAX_EXAMPLES].tolist()
            examples = [f"{where} ~ {self.locations[index]}" for where, index in zip(examples, similar, strict=True)]
        if names:
            examples = [f"{where}: {name}" for where, name in zip(examples, names, strict=False)]
        # Findings count rows from the start of the data, without the comparison sets that were read before it.
        return Finding(kind, severity, what, fix, len(indices), examples, mend, indices - self.data_start)


class Check(ABC):
    """Sees every row of the comparison sets, then every row of the data, and then yields findings.

    needs  packages it cannot run without; if one is missing, the audit skips the check and reports it
    """

    needs: ClassVar[tuple[str, ...]] = ()

    def __init__(self, context: Context) -> None:
        self.context = context

    @abstractmethod
    def add(self, entries: Sequence[Entry]) -> None:
        """Receive a batch of the data. Keep hashes or indices rather than entries: the data may exceed the memory."""

    def add_comparison(self, name: str, entries: Sequence[Entry]) -> None:
        """Receive a batch of the comparison set `name`. All comparison sets come before the data."""
        return

    @abstractmethod
    def findings(self) -> Iterator[Finding]:
        """The faults of the data, once all rows have been added."""

    @property
    def unchecked(self) -> str:
        """What the check left out, and why; empty if it covered everything."""
        return ""

    def shape(self) -> Mapping[str, Sequence[tuple[str, int]]]:
        """Statistics of the data to display: name → list of (value, row count)."""
        return {}


def names() -> list[str]:
    """The names of all checks."""
    return plugins.module_names(__path__)


def load(name: str) -> type[Check]:
    """The check in `auditing/checks/<name>.py`."""
    return plugins.load_class(__name__, name, Check)
