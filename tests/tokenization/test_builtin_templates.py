"""Chat templates that come with the project: named, saved with the tokenizer, with tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_families import CALLS, SEVERAL, TALKS, TOOLS
from chat_styles import byte_level

from bottega.errors import ModelError
from bottega.records import Chat, Message
from bottega.tokenization import builtin_templates
from bottega.tokenization.codec import Codec
from making import make_tokenizer

MARKS = ("<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


def with_template(name: str, *, tokens: bool = True, **options: Any) -> Codec:
    tokenizer = byte_level(special=MARKS if tokens else (), eos="</s>", merges=False, **options)
    builtin_templates.set_template(tokenizer, name)
    return Codec(tokenizer, max_length=100_000, too_long="error")


def learned(codec: Codec, chat: Chat) -> list[str]:
    row = codec.encode_answers(chat)
    runs = np.split(row.at + 1, np.flatnonzero(np.diff(row.at) > 1) + 1)
    return [codec.tokenizer.decode(row.tokens[run]) for run in runs]


CALL = '<tool_call>{"name": "hour", "arguments": {}}</tool_call>'
LINES = {
    "plain": (f"{CALL}\n" + CALL.replace("hour", "day").replace("{}}", '{"town": "Bonn"}}') + "</s>", "Ten.</s>"),
    "chatml": (
        f"{CALL}\n" + CALL.replace("hour", "day").replace("{}}", '{"town": "Bonn"}}') + "<|im_end|>",
        "Ten.<|im_end|>",
    ),
    "llama3": (
        '{"name": "hour", "parameters": {}}\n{"name": "day", "parameters": {"town": "Bonn"}}<|eot_id|>',
        "Ten.<|eot_id|>",
    ),
}


@pytest.mark.parametrize("name", builtin_templates.NAMES)
def test_calls_are_learned_to_the_end_of_their_turn(name: str) -> None:
    codec = with_template(name)
    found = learned(codec, Chat("here", SEVERAL["two calls"], TOOLS))
    assert found[:2] == list(LINES[name])
    assert builtin_templates.builtin_name(codec.tokenizer) == codec.template.name == name
    shown = codec.template.render(Chat("here", SEVERAL["two calls"], TOOLS))
    assert all(f"tells the {tool}" in shown for tool in ("hour", "day"))
    assert all(text in shown for text in ("Be brief.", "Monday"))


@pytest.mark.parametrize("name", builtin_templates.NAMES)
def test_every_conversation_is_learned_from_its_prompt_on(name: str) -> None:
    codec = with_template(name)
    for messages in (TALKS | CALLS | SEVERAL).values():
        answers = [message for message in messages if message.role == "assistant" and message.weight]
        found = learned(codec, Chat("here", messages, TOOLS))
        assert len(found) == len(answers)
        for text, message in zip(found, answers, strict=True):
            assert text.endswith(codec.answer_finder.turn_end.strip())
            assert message.content.strip() in text
            assert str(message.more.get("reasoning_content", "")) in text


def test_the_plain_one_writes_words_as_it_always_did(tmp_path: Path) -> None:
    codec = with_template("plain", bos="<s>", adds_bos=True)
    chat = Chat("here", (Message("system", "S"), Message("user", "Q"), Message("assistant", "A")))
    assert codec.template.render(chat) == "<s>S\n\n### Instruction:\nQ\n\n### Response:\nA</s>\n\n"
    assert (
        codec.answer_finder.render_prompt([{"role": "user", "content": "Q"}], chat)
        == "<s>### Instruction:\nQ\n\n### Response:\n"
    )


@pytest.mark.parametrize(("name", "end"), [("chatml", "<|im_end|>"), ("llama3", "<|eot_id|>")])
def test_an_end_that_is_no_token_is_learned_as_text(name: str, end: str) -> None:
    codec = with_template(name, tokens=False)
    chat = Chat("here", TALKS["words"][:3])
    assert learned(codec, chat) == [f"Ten.{end}</s>"]
    assert any("is not a token here" in note for _, note in codec.notes())
    assert codec.stop_strings == (end,)
    assert with_template(name).stop_strings == ()


def test_a_template_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_text("{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}")
    codec = with_template(str(tmp_path / "own.jinja"))
    assert codec.template.name == "the tokenizer's own"
    assert codec.template.render(Chat("here", TALKS["words"][1:2])) == "[user]Hour?"
    (tmp_path / "large.jinja").write_text(" " * (1 << 19))
    (tmp_path / "bytes.jinja").write_bytes(b"\xff\xfe\x00")
    for wrong in ("chatlm", str(tmp_path), str(tmp_path / "large.jinja"), str(tmp_path / "bytes.jinja")):
        with pytest.raises(ModelError) as caught:
            with_template(wrong)
        assert caught.value.where == f"data.template {wrong}"


def test_a_tokenizer_without_a_template_is_given_the_plain_one(tmp_path: Path) -> None:
    from bottega.models.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(str(make_tokenizer(tmp_path)))
    assert builtin_templates.builtin_name(tokenizer) == "plain"
