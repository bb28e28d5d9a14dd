"""Parsing the prompt of a row, what surrounds it (system message, history, tools), and answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bottega.errors import DataError
from bottega.records.conversation import Answer, Message, Prompt, Tools, Variables
from bottega.records.field_names import CONVERSATION_FIELDS, MESSAGE_FIELDS, PROMPT_FIELDS, QUESTION_FIELDS
from bottega.records.fields import Fields, optional_string, require_string
from bottega.records.labels import label_name
from bottega.records.messages import ROLE_KEYS, parse_messages, parse_tools, parse_variables, user_messages

Messages = tuple[Message, ...]


def parse_template_inputs(where: str, fields: Fields) -> tuple[Tools, Variables]:
    """The tools of a row, under either of OpenAI's names, and the variables for its chat template."""
    tools = parse_tools(where, fields) or parse_tools(where, {"tools": fields.get("functions")})
    return tools, parse_variables(where, fields)


# Prompts


def has_prompt(fields: Fields) -> bool:
    """Whether a row has a prompt beside its answers."""
    return any(fields.get(name) is not None for name in (*PROMPT_FIELDS, *MESSAGE_FIELDS))


def parse_prompt(where: str, fields: Fields) -> Prompt:
    """The prompt of a row: a plain string, or messages if any field makes it a conversation."""
    prompt = parse_bare_prompt(where, fields)
    if isinstance(prompt, str):
        if not any(fields.get(name) for name in CONVERSATION_FIELDS):
            return prompt
        prompt = (Message("user", prompt),)
    return add_context(where, fields, prompt)


def parse_bare_prompt(where: str, fields: Fields) -> Prompt:
    """The prompt without the row's system message and history: a text, messages, an instruction or a question."""
    if fields.get("prompt") is not None:
        prompt = fields["prompt"]
        structured = isinstance(prompt, list) or is_messages(prompt)
        return to_messages(where, prompt, "prompt") if structured else require_string(where, fields, "prompt")
    name = next((name for name in MESSAGE_FIELDS if fields.get(name) is not None), None)
    if name is not None:
        return parse_messages(where, fields, name)
    return parse_instruction(where, fields) if "instruction" in fields else _parse_question(where, fields)


def parse_instruction(where: str, fields: Fields) -> Messages:
    """An instruction, followed by the input or context it is about."""
    context = optional_string(where, fields, "input") or optional_string(where, fields, "context")
    return user_messages(require_string(where, fields, "instruction"), context)


def _parse_question(where: str, fields: Fields) -> Messages:
    name = next((name for name in QUESTION_FIELDS if name in fields), "question")
    return user_messages(optional_string(where, fields, "context"), require_string(where, fields, name))


def add_context(where: str, fields: Fields, messages: Messages) -> Messages:
    """The messages after the system message and the history of the row."""
    system, history = optional_string(where, fields, "system"), tuple(_parse_history(where, fields))
    systems = [Message("system", system)] if system else []
    systems += [message for part in (history, messages) for message in part[:1] if message.role == "system"]
    for other in systems[1:]:
        refuse_different_systems(where, systems[0].content, other)
    history, messages = (part[1:] if part and part[0].role == "system" else part for part in (history, messages))
    # Of several equal ones the last is kept: it may have further keys beside its content.
    return (*systems[-1:], *history, *messages)


def refuse_different_systems(where: str, system: str, message: Message) -> None:
    """Raise a DataError if the system message of a row differs from another in its conversation."""
    if system.strip() != message.content.strip():
        what = "the conversation has a system message of its own, which is different"
        fix = "keep one of the two, or leave such rows out with data.bad_rows=drop"
        raise DataError(what, where=f"{where}, field system", fix=fix)


def _parse_history(where: str, fields: Fields) -> Iterator[Message]:
    """The messages before the prompt, from a list of messages or of [question, answer] pairs."""
    history = fields.get("history")
    if not history:
        return
    if isinstance(history, list) and all(isinstance(item, dict) for item in history):
        yield from parse_messages(where, fields, "history")
        return
    for index, pair in enumerate(history if isinstance(history, list) else [history]):
        if not isinstance(pair, list) or len(pair) != 2:
            fix = 'write [["question", "answer"], …]'
            raise DataError("not a question with its answer", where=f"{where}, field history[{index}]", fix=fix)
        question, answer = ({"history": part} for part in pair)
        yield Message("user", require_string(where, question, "history"))
        yield Message("assistant", require_string(where, answer, "history"))


# Messages in a field that may also hold a plain text


def is_messages(value: Any) -> bool:
    """Whether a prompt or an answer is messages, or a single one, rather than a text."""
    if isinstance(value, list):
        return not value or any(isinstance(item, dict) for item in value)
    return isinstance(value, dict) and not value.keys().isdisjoint(ROLE_KEYS)


def to_messages(where: str, value: Any, name: str) -> Messages:
    """The messages in the field `name`, which holds a list of them or a single one."""
    return parse_messages(where, {name: [value] if isinstance(value, dict) else value}, name)


def simplify_answer(messages: Messages) -> Answer:
    """An answer of one message with nothing but text as that text; any other unchanged."""
    first = messages[0]
    return first.content if len(messages) == 1 and first == Message("assistant", first.content) else messages


# Answers that are transcripts: whole conversations, prompt included


def messages_before_answers(where: str, fields: Fields) -> Messages:
    """What comes before answers that are messages; empty if these contain the whole conversation."""
    prompt: Prompt = parse_bare_prompt(where, fields) if has_prompt(fields) else ()
    messages = user_messages(prompt) if isinstance(prompt, str) else prompt
    return add_context(where, fields, messages) if messages else messages_beside_transcript(where, fields)


def messages_beside_transcript(where: str, fields: Fields) -> Messages:
    """The system message and the history of a row whose transcript contains everything else."""
    system = optional_string(where, fields, "system")
    return (*((Message("system", system),) if system else ()), *_parse_history(where, fields))


def join_transcript(where: str, before: Messages, transcript: Messages) -> Messages:
    """`before` and the beginning of a transcript, which may repeat some or all of it; a system message comes first."""
    if transcript and transcript[0].role == "system":
        if before and before[0].role == "system":
            refuse_different_systems(where, before[0].content, transcript[0])
            before = before[1:]
        return (transcript[0], *join_transcript(where, before, transcript[1:]))
    starts = range(len(transcript) - len(before) + 1)
    if any(_are_equal(before, transcript[start : start + len(before)]) for start in starts):
        return transcript
    # The longest end of `before` with which the transcript begins.
    sizes = range(min(len(before), len(transcript)), 0, -1)
    overlap = next((size for size in sizes if _are_equal(before[-size:], transcript[:size])), 0)
    return before + transcript[overlap:]


def _are_equal(left: Sequence[Message], right: Sequence[Message]) -> bool:
    """Whether messages have the same roles and contents; other keys may differ, as only one side may hold them."""
    left_turns, right_turns = ([(item.role, item.content.strip()) for item in part] for part in (left, right))
    return left_turns == right_turns


# Plain answers


def first_answer(answers: Any) -> Any:
    """The answer, or the first of several; SQuAD's answers are objects with a list `text`."""
    answers = answers.get("text") if isinstance(answers, dict) else answers
    answer = answers[0] if isinstance(answers, list) and answers else answers
    return answer.get("text", answer.get("content")) if isinstance(answer, dict) else answer


def number_as_text(value: Any) -> Any:
    """A number as text, whole ones without a decimal point; any other value unchanged."""
    return label_name(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value
