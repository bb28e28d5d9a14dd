"""SFT: what is learned of each type of record, what counts equally, and what is compared with in an evaluation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_batches import batch_of, encode, loss_and_metrics, small_codec
from worlds import tokenizer

from bottega.objectives.sft import Sft
from bottega.records import (
    Chat,
    Choice,
    Entity,
    Labelled,
    Message,
    Preference,
    Prompted,
    Record,
    Tagged,
    Text,
    Unpaired,
    Unusable,
)
from bottega.tokenization.builtin_templates import set_template
from bottega.tokenization.codec import Codec


@pytest.fixture(scope="module")
def codec() -> Codec:
    set_template(tokenizer(), None)
    return small_codec()


def learned(record: Record, codec: Codec) -> str:
    """The text of the tokens with a weight."""
    ((row,),) = Sft().rows(record, codec)
    text: str = codec.tokenizer.decode(row.label[row.weight > 0], skip_special_tokens=True)
    return text


CHAT = (Message("user", "the cat"), Message("assistant", "sat on"), Message("user", "and then"))


@pytest.mark.parametrize(
    ("record", "answers"),
    [
        (Prompted("1", "the cat", " sat on"), [" sat on"]),
        (Text("1", "the cat sat on", answer=7), [" sat on"]),
        (Preference("1", "the cat", " sat on", " ran"), [" sat on"]),
        (Unpaired("1", "the cat", " sat on", True), [" sat on"]),
        (Chat("1", (*CHAT, Message("assistant", "it ran"))), ["sat on", "it ran"]),
        (Choice("1", "what sat?", ("the mat", "the cat"), 1), ["the cat"]),
        (Tagged("1", "the red cat", (Entity(4, 7, "colour"),)), ['[{"label": "colour", "text": "red"}]']),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, Record) else "",
)
def test_the_answer_of_each_type_of_record_is_learned(record: Record, answers: list[str], codec: Codec) -> None:
    text = learned(record, codec)
    assert all(answer in text for answer in answers)
    # Besides, at most the marks that end an answer.
    assert len(text) <= sum(map(len, answers)) + 12 * len(answers)
    assert "the cat" not in text or "the cat" in answers


def test_a_bad_answer_is_not_learned(codec: Codec) -> None:
    with pytest.raises(Unusable, match="labeled false"):
        Sft().rows(Unpaired("1", "the cat", " sat on", False), codec)


@pytest.mark.parametrize(
    ("weighting", "wanted"), [("token", lambda rows: sum(map(sum, rows)) / sum(map(len, rows))), ("example", None)]
)
def test_tokens_or_examples_count_equally(weighting: str, wanted: Any) -> None:
    objective = Sft(weighting=weighting)  # type: ignore[arg-type]
    batch = batch_of(objective, [Prompted("1", "the cat", " sat on the mat"), Prompted("2", "a dog", " ran")])
    nll = torch.arange(1.0, len(batch.at) + 1)
    rows = [nll[batch.row == row].tolist() for row in range(2)]
    assert len(rows[0]) != len(rows[1])
    wanted = wanted or (lambda rows: sum(sum(row) / len(row) for row in rows) / 2)
    assert loss_and_metrics(objective, batch, logp=-nll)[0] == pytest.approx(wanted(rows))
    assert objective.weighted is (weighting == "token"), "only a mean over tokens is the weighted one"


@pytest.mark.parametrize(
    ("record", "pair"),
    [
        (Prompted("1", "the cat", " sat on"), ("the cat", " sat on")),
        (Text("1", "the cat sat on", answer=7), ("the cat", " sat on")),
        (Text("1", "the cat sat on"), None),
        (Chat("1", CHAT[:2]), (CHAT[:1], "sat on")),
        (Chat("1", CHAT), None),
        (Chat("1", CHAT[1:2]), None),
        (Chat("1", CHAT[:2], tools=({"type": "function", "function": {"name": "look"}},)), None),
        (Choice("1", "what sat?", ("mat", "cat"), 1), ((Message("user", "what sat?\n- mat\n- cat"),), "cat")),
        (Labelled("1", "the cat", "a"), None),
    ],
)
def test_what_an_answer_is_compared_with(record: Record, pair: Any) -> None:
    """Only a last answer that follows a prompt, and that cannot be a call of a tool."""
    assert Sft().prompt_and_reference(record) == pair


def test_the_rows_of_an_evaluation_are_those_of_training(codec: Codec) -> None:
    record = Prompted("1", "the cat", " sat on")
    (example,) = encode(Sft(), [record], codec)
    ((row,),) = Sft().evaluation_rows(record, codec)
    assert row.tokens.tolist() == example.rows[0].tokens.tolist()
