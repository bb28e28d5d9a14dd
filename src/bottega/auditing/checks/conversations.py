"""Conversations with faults: turns out of order, tool calls without a result, markers of another chat template."""

from __future__ import annotations

import re
from array import array
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from bottega.auditing.checks import Check, Context
from bottega.auditing.entries import Entry
from bottega.auditing.findings import Finding, Severity
from bottega.records import SYSTEM_ROLES, Chat, Message, Preference, Record, Tools, Unpaired, answered

# Markers that chat templates place between turns. Data exported after rendering still has them, and would get them
# twice.
TEMPLATE_MARKERS = re.compile(
    r"<\|[a-z_]+\|>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|^(?:### )?(?:Human|Assistant):", re.M
)


class Fault(NamedTuple):
    """How a fault is reported."""

    severity: Severity
    what: str
    fix: str


# By the kind of the finding.
FAULTS: dict[str, Fault] = {
    "turns out of order": Fault(
        "error",
        "a conversation whose turns are out of order",
        "start with the user, and alternate between user and assistant",
    ),
    "system message in the middle": Fault(
        "warning",
        "a conversation with a system message after the first position",
        "move it to the start: many templates reject or drop it elsewhere",
    ),
    "no answer to the last turn": Fault(
        "warning", "a conversation that ends with the user", "end with the assistant, or remove the last turn"
    ),
    "open tool call": Fault(
        "error",
        "a conversation with a tool call without a result",
        "add a tool message with the id of the call before the next turn",
    ),
    "answer of no call": Fault(
        "error",
        "a conversation with a tool result that belongs to no call",
        "give it the tool_call_id of an earlier call",
    ),
    "unknown tool": Fault(
        "warning",
        "a conversation that calls a tool which is not in its tools",
        "describe the tool in tools, or correct the name",
    ),
    "template marks in the text": Fault(
        "error",
        "a conversation with markers of a chat template in the text",
        "remove them: the template of the model adds its own",
    ),
}


class Conversations(Check):
    """One finding per fault, with the rows that have it."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.rows_by_fault: dict[str, array[int]] = defaultdict(lambda: array("q"))

    def add(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            for kind in dict.fromkeys(_find_faults(entry.record)):  # each fault once per row
                self.rows_by_fault[kind].append(entry.row)

    def findings(self) -> Iterator[Finding]:
        for kind, fault in FAULTS.items():
            if kind in self.rows_by_fault:
                yield self.context.finding(kind, fault.severity, fault.what, fault.fix, self.rows_by_fault[kind])


def _find_faults(record: Record) -> Iterator[str]:
    if isinstance(record, Chat):
        yield from _find_turn_faults(record.messages, record.tools)
    elif isinstance(record, (Preference, Unpaired)) and not isinstance(record.prompt, str):
        answers = (record.chosen, record.rejected) if isinstance(record, Preference) else (record.completion,)
        for answer in answers:
            yield from _find_turn_faults((*record.prompt, *answered(answer)), record.tools)


def _find_turn_faults(messages: Sequence[Message], tools: Tools) -> Iterator[str]:
    """The kinds of faults in the order in which they occur, with repetitions."""
    previous = ""  # role of the previous message, system messages aside
    open_calls, tool_names = set[str](), {_tool_name(tool) for tool in tools}
    for index, message in enumerate(messages):
        role = message.role
        if role in SYSTEM_ROLES:
            if index:
                yield "system message in the middle"
            continue
        if role != "tool" and open_calls:
            yield "open tool call"
            open_calls = set()
        # Several tool messages in a row are fine: a turn may hold several calls.
        if role == previous != "tool" or (role != "user" and not previous):
            yield "turns out of order"
        if role == "tool":
            if not _answers_a_call(message.more, previous, open_calls):
                yield "answer of no call"
            # Without an id the result is taken for any of the open calls.
            open_calls -= {str(message.more.get("tool_call_id", next(iter(open_calls), "")))}
        for number, call in enumerate(message.more.get("tool_calls", ())):
            open_calls.add(str(call.get("id", number)))
            # Where no tools are described, any name may be called.
            if tool_names and _tool_name(call) not in tool_names:
                yield "unknown tool"
        if TEMPLATE_MARKERS.search(message.content):
            yield "template marks in the text"
        previous = role
    if previous == "user":
        yield "no answer to the last turn"


def _answers_a_call(more: Mapping[str, Any], previous: str, open_calls: set[str]) -> bool:
    """Whether a tool message follows a call, and names an open one if it names any."""
    if previous not in ("tool", "assistant"):
        return False
    call_id = more.get("tool_call_id")
    return call_id is None or str(call_id) in open_calls


def _tool_name(tool: object) -> str:
    """The name in a tool's description, or in a call; empty if there is none."""
    function = tool.get("function", {}) if isinstance(tool, dict) else {}
    return str(function.get("name", "")) if isinstance(function, dict) else ""
