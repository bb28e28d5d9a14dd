"""What encoding finds out about the rows on the way, counted where it is seen."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields


@dataclass
class Tally:
    """Counts of a codec, shared by its parts. Those of several codecs over parts of the data add up to those of one.

    truncated         texts or rows that were cut
    untagged          entities without a tag, because they share a word with another
    templated         conversations that were rendered with the chat template
    ended_as_text     answers whose turn ended with text rather than with a token
    unused_fields     fields of conversations that the template ignores: how many conversations have them
    missing_openings  ends of the generation prompt that answers in the data lack: how many lack them
    """

    truncated: int = 0
    untagged: int = 0
    templated: int = 0
    ended_as_text: int = 0
    unused_fields: Counter[str] = field(default_factory=Counter)
    missing_openings: Counter[str] = field(default_factory=Counter)

    def take(self) -> Tally:
        """The counts so far; this tally starts again from nothing."""
        taken = Tally()
        taken.add(self)
        vars(self).update(vars(Tally()))
        return taken

    def add(self, other: Tally) -> None:
        for count in fields(self):
            # Counters keep the order in which their keys came, which breaks ties between equal counts.
            setattr(self, count.name, getattr(self, count.name) + getattr(other, count.name))
