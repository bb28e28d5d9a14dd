"""Texts built from the fields of a row by a `text_template`: `"Q: {question}\\nA: {answer}"`."""

from __future__ import annotations

from string import Formatter
from typing import ClassVar

from bottega.errors import RecipeError
from bottega.records.fields import Fields, require_string
from bottega.records.formats import Format
from bottega.records.prompts import Text
from bottega.records.record import Record


class TemplateFormat(Format):
    """The format of a template, a RecipeError if it is not valid. The loss starts at its last field.

    names  the fields that the template contains
    """

    record: ClassVar[type[Record]] = Text

    def __init__(self, template: str) -> None:
        try:
            # (literal text, field name, format, conversion) of each part.
            self._parts = list(Formatter().parse(template))
        except ValueError as error:
            raise _template_error(str(error)) from None
        self.names = [name for _, name, _, _ in self._parts if name is not None]
        if not self.names:
            raise _template_error("it contains no field")
        # `{name!r}` and `{name:>8}` would need their own rules for values that are not texts.
        if "" in self.names or any(spec or conversion for _, _, spec, conversion in self._parts):
            raise _template_error("a field is written {name}, without ! or :")

    def build(self, where: str, fields: Fields) -> Record:
        text, answer = "", 0
        for literal, name, _, _ in self._parts:
            text += literal
            if name is not None:
                answer, value = len(text), require_string(where, fields, name, empty=name != self.names[-1])
                text += value
        return Text(where, text, answer)


def _template_error(problem: str) -> RecipeError:
    return RecipeError(
        f"not a template: {problem}",
        where="data.text_template",
        fix='for example "Q: {question}\\nA: {answer}"; a brace is written {{',
    )
