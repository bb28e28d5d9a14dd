"""What an audit looks for: one file a check, found by its file name.

To add one, write `auditing/checks/<name>.py` with one subclass of `Check`: it sees all rows once, in parts, and then
says what it found. Nothing else needs to know of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bottega import plugins
from bottega.auditing.entries import Entry, Places
from bottega.auditing.findings import EXAMPLES, Finding, Mend, Numbers, Severity

if TYPE_CHECKING:
    from bottega.tokenization.codec import Codec


@dataclass
class Context:
    """What checks may use.

    codec   the model's tokenizer with the run's limits; None without a model
    rows    how training would encode a record: [(row, …), …]
    model   a run, folder or hub id to score rows with
    near    share of what two texts have in common from which on they are nearly the same
    places  where rows stand
    start   the number of the first row of the data; what it is compared with comes before
    tell    called with what is being done, after all rows are read
    """

    codec: Codec | None = None
    rows: Callable[[Any], list[tuple[Any, ...]]] | None = None
    model: str | None = None
    near: float = 0.7
    seed: int = 0
    places: Places = field(default_factory=Places)
    start: int = 0
    tell: Callable[[str], None] = lambda words: None

    def finding(
        self,
        kind: str,
        severity: Severity,
        what: str,
        fix: str,
        rows: Sequence[int] | Numbers,
        *,
        beside: Sequence[int] | Numbers | None = None,
        mend: Mend | None = None,
        names: Sequence[str] = (),
    ) -> Finding:
        """A finding about rows by their numbers, each `beside` another one, or with its own name for the fault."""
        numbers = np.asarray(rows, np.int64)
        examples = [self.places[number] for number in numbers[:EXAMPLES].tolist()]
        if beside is not None:
            others = np.asarray(beside, np.int64)[:EXAMPLES].tolist()
            examples = [f"{one} ~ {self.places[other]}" for one, other in zip(examples, others, strict=True)]
        if names:
            examples = [f"{one}: {name}" for one, name in zip(examples, names, strict=False)]
        return Finding(kind, severity, what, fix, len(numbers), examples, mend, numbers - self.start)


class Check(ABC):
    """Sees every row of the data, and those it is compared with; then says what it found.

    needs  packages without which it cannot be done
    """

    needs: ClassVar[tuple[str, ...]] = ()

    def __init__(self, context: Context) -> None:
        self.context = context

    @abstractmethod
    def see(self, entries: Sequence[Entry]) -> None:
        """Rows of the data, in their order."""

    def compare(self, name: str, entries: Sequence[Entry]) -> None:
        """Rows of `name`, which the data is compared with; they come before the data itself."""
        return

    @abstractmethod
    def findings(self) -> Iterator[Finding]:
        """What is wrong, once all rows were seen."""

    @property
    def unchecked(self) -> str:
        """What it left out and why; empty where it looked at everything."""
        return ""

    def shape(self) -> Mapping[str, Sequence[tuple[str, int]]]:
        """What the rows are like, for people: a name → (what, how many rows)."""
        return {}


ALIASES = {"near": "near_duplicates", "learning": "no_loss", "private": "personal_data"}
"""Earlier names of checks, still accepted."""


def names() -> list[str]:
    """Every check in the folder."""
    return plugins.module_names(__path__)


def load(name: str) -> type[Check]:
    """The check of `auditing/checks/<name>.py`."""
    return plugins.load_class(__name__, name, Check)
