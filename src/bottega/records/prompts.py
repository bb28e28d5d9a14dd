"""Records of generated text: documents, prompts with completions, conversations, preferences, questions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from bottega.records.conversation import (
    SYSTEM_ROLES,
    Answer,
    Message,
    Prompt,
    Tools,
    Variables,
    answer_text,
    before_first_answer,
    canonical_json,
    join_contents,
    message_extras,
    prompt_key,
    prompt_text,
    template_extras,
)
from bottega.records.record import ChatLike, Record, RecordParts


@dataclass(frozen=True, slots=True)
class Text(Record):
    """Plain text to model; `answer` is the offset in characters at which the loss starts (with a `text_template`)."""

    text: str
    answer: int = 0

    priority: ClassVar[int] = 110

    @property
    def prompt_key(self) -> str:
        return self.text[: self.answer] or self.text

    def parts(self) -> RecordParts:
        return RecordParts(self.text[: self.answer], self.text[self.answer :], self.text, (self.text,))

    def texts_to_encode(self) -> Iterable[tuple[str, bool]]:
        return [(self.text, self.answer > 0)]


@dataclass(frozen=True, slots=True)
class Prompted(Record):
    """A prompt and its completion, both used verbatim, without a chat template."""

    prompt: str
    completion: str

    priority: ClassVar[int] = 50

    @property
    def prompt_key(self) -> str:
        return self.prompt or self.completion

    def parts(self) -> RecordParts:
        texts = (self.prompt, self.completion)
        return RecordParts(self.prompt, self.completion, "\n".join(texts), texts)

    def texts_to_encode(self) -> Iterable[tuple[str, bool]]:
        return [(self.prompt + self.completion, True)]


@dataclass(frozen=True, slots=True)
class Chat(Record):
    """A conversation; the assistant's messages are the answers."""

    messages: tuple[Message, ...]
    tools: Tools = ()
    variables: Variables = field(default_factory=dict)

    priority: ClassVar[int] = 40

    @property
    def prompt_key(self) -> str:
        return before_first_answer(self.messages)

    def parts(self) -> RecordParts:
        turns = [message for message in self.messages if message.role not in SYSTEM_ROLES]
        first_answer = next((index for index, turn in enumerate(turns) if turn.role == "assistant"), len(turns))
        prompt, answer = join_contents(turns[:first_answer]), join_contents(turns[first_answer:])
        texts = tuple(message.content for message in self.messages)
        extras = message_extras(self.messages) + template_extras(self.tools, self.variables)
        return RecordParts(prompt, answer, f"{prompt}\n{answer}", texts, extras)


@dataclass(frozen=True, slots=True)
class Preference(Record):
    """A prompt with a preferred and a rejected answer."""

    prompt: Prompt
    chosen: Answer
    rejected: Answer
    tools: Tools = ()
    variables: Variables = field(default_factory=dict)

    priority: ClassVar[int] = 10
    has_right_answer: ClassVar[bool] = True

    @property
    def prompt_key(self) -> str:
        return prompt_key(self.prompt)

    def parts(self) -> RecordParts:
        prompt, chosen, rejected = prompt_text(self.prompt), answer_text(self.chosen), answer_text(self.rejected)
        extras = "\0".join(map(message_extras, (self.prompt, self.chosen, self.rejected)))
        extras += template_extras(self.tools, self.variables)
        texts = (prompt, chosen, rejected)
        return RecordParts(prompt, f"{chosen}\n{rejected}", "\n".join(texts), texts, extras)

    def texts_to_encode(self) -> Iterable[tuple[str, bool]]:
        # Messages are known as text only once the chat template has rendered them.
        if not isinstance(self.prompt, str):
            return []
        answers = (answer for answer in (self.chosen, self.rejected) if isinstance(answer, str))
        return [(self.prompt + answer, True) for answer in answers]


@dataclass(frozen=True, slots=True)
class Unpaired(Record):
    """A prompt and one answer that is desirable or not (KTO)."""

    prompt: Prompt
    completion: Answer
    desirable: bool
    tools: Tools = ()
    variables: Variables = field(default_factory=dict)

    priority: ClassVar[int] = 20
    has_right_answer: ClassVar[bool] = True

    @property
    def prompt_key(self) -> str:
        return prompt_key(self.prompt)

    def parts(self) -> RecordParts:
        prompt, answer = prompt_text(self.prompt), answer_text(self.completion)
        extras = f"{self.desirable}\0{message_extras(self.prompt)}\0{message_extras(self.completion)}"
        extras += template_extras(self.tools, self.variables)
        return RecordParts(prompt, f"{self.desirable} {answer}", f"{prompt}\n{answer}", (prompt, answer), extras)


@dataclass(frozen=True, slots=True)
class Choice(ChatLike):
    """A question, its answer choices, and the index of the correct one."""

    question: str
    choices: tuple[str, ...]
    gold: int

    priority: ClassVar[int] = 30
    has_right_answer: ClassVar[bool] = True

    @property
    def prompt_key(self) -> str:
        return self.question

    def parts(self) -> RecordParts:
        prompt, reference = "\n".join((self.question, *self.choices)), self.choices[self.gold]
        return RecordParts(prompt, reference, prompt, (self.question, *self.choices), reference)

    def as_chat(self) -> Chat:
        """The question with its choices as a list, and the correct choice as the answer."""
        question = Message("user", "\n".join([self.question, *(f"- {choice}" for choice in self.choices)]))
        return Chat(self.where, (question, Message("assistant", self.choices[self.gold])))


@dataclass(frozen=True, slots=True)
class Posed(Record):
    """A prompt whose answers are generated and rewarded during training.

    right  reference answer; empty if there is none
    row    all fields of the row, for user-defined rewards
    """

    prompt: Prompt
    right: str = ""
    tools: Tools = ()
    row: Mapping[str, Any] = field(default_factory=dict)
    variables: Variables = field(default_factory=dict)

    priority: ClassVar[int] = 120

    @property
    def prompt_key(self) -> str:
        return prompt_key(self.prompt)

    def parts(self) -> RecordParts:
        prompt = prompt_text(self.prompt)
        # Rewards may read any field of the row, so rows that differ in one of them teach different things.
        fields = {name: value for name, value in self.row.items() if value not in (self.prompt, prompt, self.right)}
        extras = message_extras(self.prompt) + template_extras(self.tools, self.variables)
        extras += f"\0{canonical_json(fields)}"
        return RecordParts(prompt, self.right, f"{prompt}\n{self.right}", (prompt, self.right), extras)

    def texts_to_encode(self) -> Iterable[tuple[str, bool]]:
        return [(self.prompt, True)] if isinstance(self.prompt, str) else []
