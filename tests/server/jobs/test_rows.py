"""Rows as the hosted API checks them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bottega.server.jobs.rows import InvalidFile, check_file

USER, ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
TOLD = {"role": "tool", "content": "c"}
CHAT = {"messages": [USER, ANSWER]}
PAIR = {"input": {"messages": [USER]}, "preferred_output": [ANSWER], "non_preferred_output": [ANSWER]}


def check(folder: Path, lines: list[Any], method: str = "supervised", least: int = 1) -> int:
    path = folder / "rows.jsonl"
    texts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"\n".join(texts))
    return check_file(path, method, "training_file", "file-1", min_examples=least)


@pytest.mark.parametrize(
    ("row", "method"),
    [
        (CHAT, "supervised"),
        ({"prompt": "a", "completion": "b"}, "supervised"),
        ({"messages": [USER, {**ANSWER, "weight": 0}, USER, ANSWER]}, "supervised"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": [{}]}, TOLD, ANSWER]}, "supervised"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}, ANSWER]}, "supervised"),
        (PAIR, "dpo"),
        ({"input": PAIR["input"], "preferred_completion": [ANSWER], "non_preferred_completion": [ANSWER]}, "dpo"),
    ],
)
def test_rows_that_can_be_trained_on(row: Any, method: str, tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    assert check(tmp_path, [mark + json.dumps(row).encode(), b"", row], method) == 2


@pytest.mark.parametrize(
    ("line", "method", "words"),
    [
        (b"{", "supervised", "Line 2 is not valid JSON"),
        (b"[]", "supervised", "Line 2 is not a JSON object"),
        (b'{"a": "\xff"}', "supervised", "Line 2 is not UTF-8"),
        ({"messages": []}, "supervised", "Example 2, 'messages' must be"),
        ({"messages": [USER]}, "supervised", "Example 2, there is no assistant message"),
        ({"messages": [USER, {"content": "b"}]}, "supervised", "Example 2, message 2 Discriminator 'role' is missing"),
        ({"messages": [{"role": "alien", "content": "b"}]}, "supervised", "Input tag 'alien'"),
        ({"messages": [USER, {**ANSWER, "weight": 2}]}, "supervised", "'weight' must be 0 or 1"),
        ({"messages": [USER, {**ANSWER, "weight": 0}]}, "supervised", "have weight 0"),
        ({"messages": [USER, {"role": "assistant", "content": ""}]}, "supervised", "must have content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "supervised", "parts of type text"),
        ({"messages": [{"role": "user"}, ANSWER]}, "supervised", "'content' is a required property"),
        ({"messages": [7, ANSWER]}, "supervised", "message 1 is not an object"),
        ({"text": "a"}, "supervised", "'messages' is a required property"),
        (PAIR, "supervised", "fine-tune-preference format"),
        ({**PAIR, "preferred_output": [ANSWER, ANSWER]}, "dpo", "a list of one assistant message"),
        ({**PAIR, "non_preferred_output": [USER]}, "dpo", "must be an assistant message"),
        ({**PAIR, "input": {}}, "dpo", "input: 'messages' is a required property"),
    ],
)
def test_what_is_wrong_is_named(line: Any, method: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidFile) as raised:
        check(tmp_path, [CHAT if method == "supervised" else PAIR, line], method)
    assert words in raised.value.message
    assert raised.value.document["code"] == "invalid_training_file"


def test_too_few_rows(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="has 2 example") as raised:
        check(tmp_path, [CHAT, CHAT], least=10)
    assert (raised.value.code, raised.value.param) == ("invalid_n_examples", "training_file")
