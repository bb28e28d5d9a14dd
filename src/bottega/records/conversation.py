"""Messages, prompts and answers: what records of generated text consist of, and functions that compare them."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, TypeAlias, cast

# Messages that many rows share and that say nothing about a single one; left out of prompts.
SYSTEM_ROLES = ("system", "developer")

# Identifiers that only link a tool call with its result. They are often random, so they are left out of comparisons.
CALL_ID_FIELDS = ("id", "tool_call_id")


def reduce_dataclass(instance: Any) -> tuple[Any, ...]:
    """How to pickle an instance of a dataclass with slots: by calling its class, or else value by value.

    By default that is done field by field and by name, which takes several times as long, and forgets attributes of a
    class that is derived without being a dataclass.
    """
    kind = type(instance)
    names = _names_by_position(cast(Hashable, kind))
    if names is not None:
        return kind, tuple(getattr(instance, name) for name in names)
    values = {one.name: getattr(instance, one.name) for one in fields(kind)}
    return _restore, (kind, values | getattr(instance, "__dict__", {}))


def _restore(kind: type[Any], values: Mapping[str, Any]) -> Any:
    instance = object.__new__(kind)
    for name, value in values.items():
        object.__setattr__(instance, name, value)
    return instance


@cache
def _names_by_position(kind: type[Any]) -> tuple[str, ...] | None:
    names = tuple(one.name for one in fields(kind)) if "__dataclass_fields__" in vars(kind) else None
    return names if names == getattr(kind, "__match_args__", None) else None


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str
    # Weight of an assistant message in the loss; 0 excludes it.
    weight: float = 1.0
    # All other keys of the message, for the chat template: tool_calls, name, reasoning under any name.
    more: Mapping[str, Any] = field(default_factory=dict)

    def __reduce__(self) -> tuple[Any, ...]:
        return reduce_dataclass(self)

    def turn(self) -> dict[str, Any]:
        """The message as a dict, as chat templates expect it."""
        return {"role": self.role, "content": self.content, **self.more}


Prompt: TypeAlias = str | tuple[Message, ...]
# As the answer to a conversation, a string stands for one assistant message.
Answer: TypeAlias = str | tuple[Message, ...]

# Function descriptions (JSON schema), as chat templates expect them.
Tools: TypeAlias = tuple[Mapping[str, Any], ...]

# Further variables of the chat template by name, such as `enable_thinking`.
Variables: TypeAlias = Mapping[str, Any]


def answered(messages: Answer) -> tuple[Message, ...]:
    """The answer to a conversation as messages."""
    return (Message("assistant", messages),) if isinstance(messages, str) else messages


def prompt_key(prompt: Prompt) -> str:
    """The prompt as text, system messages included; of a conversation, what comes before the first answer."""
    return prompt if isinstance(prompt, str) else before_first_answer(prompt)


def before_first_answer(messages: tuple[Message, ...]) -> str:
    """The messages before the first answer to a user, as text."""
    # An assistant message before the first user message is a greeting, the same in many conversations.
    roles = [message.role for message in messages]
    first = roles.index("user") if "user" in roles else 0
    end = roles.index("assistant", first) if "assistant" in roles[first:] else len(roles)
    return "\n".join(f"{message.role}: {message.content}" for message in messages[:end])


# Comparing records


def prompt_text(prompt: Prompt) -> str:
    """The contents of a prompt, system messages left out."""
    if isinstance(prompt, str):
        return prompt
    return join_contents(message for message in prompt if message.role not in SYSTEM_ROLES)


def answer_text(answer: Answer) -> str:
    """The contents of an answer."""
    return answer if isinstance(answer, str) else join_contents(answer)


def join_contents(messages: Iterable[Message]) -> str:
    return "\n".join(message.content for message in messages)


def full_answer(answer: Answer) -> str:
    """An answer as one string, tool calls and reasoning included: equal strings teach the same."""
    if isinstance(answer, str):
        return answer
    return "\0".join([*(message.content for message in answer), message_extras(answer)]).rstrip("\0")


def message_extras(messages: Prompt) -> str:
    """What messages teach beyond their contents; empty for a plain text and for plain messages."""
    extras = [
        (
            message.role,
            message.weight,
            canonical_json(message.more),
            message.content if message.role in SYSTEM_ROLES else "",
        )
        for message in (() if isinstance(messages, str) else messages)
        if message.more or message.weight != 1 or message.role in SYSTEM_ROLES
    ]
    return repr(extras) if extras else ""


def template_extras(tools: Tools, variables: Variables) -> str:
    """The tools and variables that a chat template receives, as text; empty without any."""
    return canonical_json(tools) + canonical_json(variables)


def canonical_json(value: Any) -> str:
    """JSON that is equal for equal data, whatever the order of keys and the ids of tool calls; empty for no data."""
    return json.dumps(_without_call_ids(value), sort_keys=True, default=str) if value else ""


def _without_call_ids(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _without_call_ids(inner) for name, inner in value.items() if name not in CALL_ID_FIELDS}
    return [_without_call_ids(inner) for inner in value] if isinstance(value, (list, tuple)) else value
