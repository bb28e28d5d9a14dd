"""Graders: how good an answer is, as OpenAI's graders say it. One file a type, found by its file name.

To add one, write `metrics/graders/<type>.py` with one subclass of `Grader`. A grader is a JSON object; its texts are
templates over the row (`{{item.answer}}`) and the answer (`{{sample.output_text}}`).
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from bottega import plugins
from bottega.errors import DataError
from bottega.suggestions import describe_errors

# {{ item.reference.city }}
TEMPLATE = re.compile(r"\{\{\s*(item|sample)((?:\.[\w-]+|\[\d+\])+)\s*\}\}")

# One step of a path: a name or an index.
STEP = re.compile(r"\.([\w-]+)|\[(\d+)\]")

# (name of a model, messages, settings of its sampling) → what it answers.
AskModel = Callable[[str, Sequence[Mapping[str, Any]], Mapping[str, Any]], str]


class UngradableError(Exception):
    """This answer cannot be graded: a variable that is not there, a model that answers no number, a bad formula.

    flag  the name of OpenAI's flag for it
    """

    def __init__(self, flag: str, reason: str) -> None:
        super().__init__(reason)
        self.flag, self.reason = flag, reason


@dataclass(frozen=True)
class GradedText:
    """An answer with its row.

    ask_model  asks a model that grades; None where there is none to ask
    """

    output_text: str
    item: Mapping[str, Any] = field(default_factory=dict)
    ask_model: AskModel | None = None

    def render(self, template: str) -> str:
        """A template with the values of the row and the answer in it."""
        return TEMPLATE.sub(lambda found: self._value(found[0], found[1], found[2]), template)

    def _value(self, whole: str, namespace: str, path: str) -> str:
        value: Any = self.item if namespace == "item" else self._sample
        for name, index in STEP.findall(path):
            try:
                value = value[int(index)] if index else value[name]
            except (LookupError, TypeError):
                raise UngradableError("invalid_variable_error", f"there is no {whole}") from None
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    @property
    def _sample(self) -> dict[str, Any]:
        sample: dict[str, Any] = {"output_text": self.output_text}
        try:
            sample["output_json"] = json.loads(self.output_text)
        except (ValueError, RecursionError):
            return sample
        return sample


class Grader(BaseModel, ABC):
    """How good an answer is: a number, higher for a better one. A subclass has its options as fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    type: str
    name: str = ""

    @abstractmethod
    def grade(self, text: GradedText) -> float:
        """The grade; raises UngradableError."""

    @property
    def asks_model(self) -> bool:
        """Whether it asks a model, which has to be at hand."""
        return any(part.asks_model for part in self.parts.values())

    @property
    def parts(self) -> Mapping[str, Grader]:
        """The graders that it combines, by name."""
        return {}


def kinds() -> list[str]:
    """The types of all graders."""
    return plugins.module_names(__path__)


def parse_grader(document: Any) -> Grader:
    """The grader of a JSON object; a DataError that says what is wrong with it."""
    kind = document.get("type") if isinstance(document, Mapping) else None
    if kind not in kinds():
        what = "a grader without a type" if kind is None else f"no grader of the type {kind!r} is here"
        raise DataError(what, where="grader.type", fix=f"one of: {', '.join(kinds())}")
    try:
        return plugins.load_class(__name__, kind, Grader).model_validate(dict(document))
    except ValidationError as error:
        what, fix = describe_errors(error.errors()[:1])
        raise DataError(what, where="grader", fix=fix or "see the documentation of its type") from None
