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

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from bottega import plugins
from bottega.errors import BottegaError, DataError
from bottega.sampling import Sampling
from bottega.suggestions import describe_errors

# {{ item.reference.city }}
TEMPLATE = re.compile(r"\{\{\s*(item|sample)((?:\.[\w-]+|\[\d+\])+)\s*\}\}")

# One step of a path: a name or an index.
STEP = re.compile(r"\.([\w-]+)|\[(\d+)\]")

# (name of a model, messages, settings) → what it answers.
AskModel = Callable[[str, Sequence[Mapping[str, Any]], Sampling], str]

# Tokens of the answer of a model that grades.
GRADE_TOKENS = 64


# The errors that are not the answer's but of the row, the grader or the machine: another answer would meet them too.
MISTAKES = frozenset(
    {"invalid_variable_error", "other_error", "model_grader_server_error", "python_grader_server_error"}
)


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
        value: Any = self.item if namespace == "item" else self.sample
        for name, index in STEP.findall(path):
            try:
                value = value[int(index)] if index else value[name]
            except (LookupError, TypeError):
                raise UngradableError("invalid_variable_error", f"there is no {whole}") from None
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    @property
    def sample(self) -> dict[str, Any]:
        """The answer as templates and code read it."""
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

    def grade_with_parts(self, text: GradedText) -> tuple[float, dict[str, float]]:
        """(the grade, those of its parts); raises UngradableError."""
        return self.grade(text), {}

    def renamed(self, models: Mapping[str, str]) -> Grader:
        """The same grader, asking models by other names."""
        return self

    @property
    def model_names(self) -> tuple[str, ...]:
        """The models that it asks, which have to be at hand."""
        return tuple(name for part in self.parts.values() for name in part.model_names)

    @property
    def runs_code(self) -> bool:
        """Whether it runs code that is part of it."""
        return any(part.runs_code for part in self.parts.values())

    @property
    def parts(self) -> Mapping[str, Grader]:
        """The graders that it combines, by name."""
        return {}


class ModelGrader(Grader):
    """Asks a model.

    model            its name
    input            messages; texts are templates
    sampling_params  settings of its answer: temperature, top_p, seed and max_completions_tokens
    """

    model: str
    input: list[dict[str, Any]] = Field(min_length=1)
    sampling_params: dict[str, Any] = Field(default_factory=dict)

    @field_validator("sampling_params")
    @classmethod
    def _check_settings(cls, settings: dict[str, Any]) -> dict[str, Any]:
        _sampling(settings)
        return settings

    @property
    def model_names(self) -> tuple[str, ...]:
        return (self.model,)

    def renamed(self, models: Mapping[str, str]) -> Grader:
        return self.model_copy(update={"model": models.get(self.model, self.model)})

    def ask(self, text: GradedText, instruction: str) -> str:
        """What the model answers to the messages and an instruction; raises UngradableError."""
        if text.ask_model is None:
            raise UngradableError("model_grader_server_error", "there is no model to ask here")
        messages = [{**message, "content": _content(message, text)} for message in self.input]
        messages.append({"role": "user", "content": instruction})
        try:
            return text.ask_model(self.model, messages, _sampling(self.sampling_params))
        except DataError as error:  # it is too long for the model
            raise UngradableError("truncated_observation_error", f"the model cannot read it: {error.what}") from None
        except BottegaError as error:
            raise UngradableError("model_grader_server_error", f"the model does not answer: {error.what}") from None


def _content(message: Mapping[str, Any], text: GradedText) -> str:
    content = message.get("content")
    parts = content if isinstance(content, list) else [content]
    return "".join(
        text.render(str(part.get("text", "")) if isinstance(part, dict) else str(part or "")) for part in parts
    )


def _sampling(settings: Mapping[str, Any]) -> Sampling:
    """Settings as the API names them; greedy where nothing is said."""
    given = {name: settings.get(name) for name in ("temperature", "top_p", "seed")}
    given["tokens"] = settings.get("max_completions_tokens", settings.get("max_completion_tokens")) or GRADE_TOKENS
    return Sampling.model_validate({name: value for name, value in given.items() if value is not None})


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
