"""Row formats: one file per format, found by its file name, which is its name in `data.format`.

To add one, write `records/formats/<name>.py` with one subclass of `Format`. It may build any class of records; one of
its own is defined in the same file, and is read by the objectives that name it in `reads`. No registration is needed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, TypeAlias

from bottega import plugins
from bottega.records.fields import Fields
from bottega.records.record import Record

# The fields a row must have; each is a tuple of accepted names, the first of which is the canonical one.
RequiredFields: TypeAlias = tuple[tuple[str, ...], ...]


class Format(ABC):
    """How the fields of a row make a record.

    record       class of the records it builds
    required     the required fields
    alternative  another set of required fields, which have the same canonical names
    rank         where several formats fit a row equally well, the lowest is taken; also the order in messages
    value_hint   advice for a row that has the required fields but no acceptable values
    """

    record: ClassVar[type[Record]]
    required: ClassVar[RequiredFields]
    alternative: ClassVar[RequiredFields] = ()
    # After the built-in formats, which take 10 to 190: rows that are recognized today stay what they are.
    rank: ClassVar[int] = 1000
    value_hint: ClassVar[str] = "its values are of another type"

    @abstractmethod
    def build(self, where: str, fields: Fields) -> Record:
        """The record of a row, whose required fields have their canonical names; a DataError if it is invalid."""

    def accepts(self, fields: Fields) -> bool:
        """Whether the values of a row that has the required fields fit the format."""
        return True

    def tolerates(self, fields: Fields) -> bool:
        """Whether the values are acceptable if no other format accepts the row."""
        return False

    def reads_extra(self, name: str) -> bool:
        """Whether the format reads a further field of this name; fields that nothing reads are reported."""
        return False

    def match(self, fields: Fields) -> dict[str, str] | None:
        """Canonical field name → the file's name, if the row has all required fields; otherwise None."""
        for required in (self.required, self.alternative):
            # `reversed`: if a row has several accepted names of a field, the first of them is taken.
            names = {accepted[0]: name for accepted in required for name in reversed(accepted) if name in fields}
            if names and len(names) == len(required):
                return names
        return None


def format_names() -> list[str]:
    """The names of all formats, by alphabet: those of their files."""
    return plugins.module_names(__path__)


def load_format(name: str) -> Format:
    """The format of `records/formats/<name>.py`."""
    return plugins.load_class(__name__, name, Format)()


def load_formats() -> dict[str, Format]:
    """Every format by its name, in the order of their ranks."""
    formats = {name: load_format(name) for name in format_names()}
    return dict(sorted(formats.items(), key=lambda item: item[1].rank))


def record_types() -> tuple[type[Record], ...]:
    """Every class of records that a format builds, by `Record.priority`: for reading rows without an objective."""
    return tuple(sorted({format.record: None for format in load_formats().values()}, key=lambda type: type.priority))
