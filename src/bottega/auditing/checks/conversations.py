"""Conversations whose turns are out of order, whose tool calls stay open, or that hold marks of a template."""

from __future__ import annotations

import re
from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence

from bottega.auditing.checks import Check, Context
from bottega.auditing.entries import Entry
from bottega.auditing.findings import Finding, Severity
from bottega.records import Chat, Message, Preference, Record, Tools, Unpaired, answered

MARKS = re.compile(r"<\|[a-z_]+\|>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|^(?:### )?(?:Human|Assistant):", re.M)
"""What chat templates put between turns, and data exported after rendering still holds."""

FIXES: dict[str, tuple[Severity, str]] = {
    "turns out of order": ("error", "begin with the user, and let user and assistant take turns"),
    "system message in the middle": ("warning", "put it first: many templates refuse or drop it elsewhere"),
    "no answer to the last turn": ("warning", "end with the assistant, or remove the last turn"),
    "open tool call": ("error", "add the tool's message with the call's id before the next turn"),
    "answer of no call": ("error", "give it the tool_call_id of a call before it"),
    "unknown tool": ("warning", "describe it in tools, or correct the name"),
    "template marks in the text": ("error", "remove them: the template of the model adds its own"),
}


class Conversations(Check):
    """Each fault is a finding with the rows that have it."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.faults: dict[str, array[int]] = defaultdict(lambda: array("q"))

    def see(self, entries: Sequence[Entry]) -> None:
        for one in entries:
            for fault in dict.fromkeys(_faults(one.record)):
                self.faults[fault].append(one.number)

    def findings(self) -> Iterator[Finding]:
        for fault, (severity, fix) in FIXES.items():
            if fault in self.faults:
                yield self.context.finding(
                    fault, severity, f"a conversation with {_said(fault)}", fix, self.faults[fault]
                )


def _said(fault: str) -> str:
    return (
        fault
        if fault.startswith(("no ", "turns", "template"))
        else f"an {fault}"
        if fault[0] in "aou"
        else f"a {fault}"
    )


def _faults(record: Record) -> Iterator[str]:
    if isinstance(record, Chat):
        yield from _in_turns(record.messages, record.tools, ends=True)
    elif isinstance(record, (Preference, Unpaired)) and not isinstance(record.prompt, str):
        answers = (record.chosen, record.rejected) if isinstance(record, Preference) else (record.completion,)
        for answer in answers:
            yield from _in_turns((*record.prompt, *answered(answer)), record.tools, ends=True)


def _in_turns(messages: Sequence[Message], tools: Tools, *, ends: bool) -> Iterator[str]:
    before, open_calls, described = "", set[str](), {_name(tool) for tool in tools}
    for place, message in enumerate(messages):
        role = message.role
        if role in ("system", "developer"):
            if place:
                yield "system message in the middle"
            continue
        if role != "tool" and open_calls:
            yield "open tool call"
            open_calls = set()
        if role == before != "tool" or (role != "user" and not before):
            yield "turns out of order"
        if role == "tool":
            if before not in ("tool", "assistant") or (
                (known := message.more.get("tool_call_id")) is not None and str(known) not in open_calls
            ):
                yield "answer of no call"
            open_calls -= {str(message.more.get("tool_call_id", next(iter(open_calls), "")))}
        for number, call in enumerate(message.more.get("tool_calls", ())):
            open_calls.add(str(call.get("id", number)))
            if described and _name(call) not in described:
                yield "unknown tool"
        if MARKS.search(message.content):
            yield "template marks in the text"
        before = role
    if ends and before == "user":
        yield "no answer to the last turn"


def _name(tool: object) -> str:
    function = tool.get("function", {}) if isinstance(tool, dict) else {}
    return str(function.get("name", "")) if isinstance(function, dict) else ""
