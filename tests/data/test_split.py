"""What is held out for validation, and that nothing of it is trained on."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest

from bottega.data.split import Split
from bottega.errors import DataError
from bottega.records import Chat, Labelled, Message, Preference, Prompted, Record, Text
from bottega.records.parser import parse_rows
from making import placed, shared_data


def split(rows: Sequence[Record], fraction: float, seed: int) -> tuple[list[Record], list[Record]]:
    """(train, validation) of these records."""
    decided = Split(rows, fraction, seed)
    sides: dict[str, list[Record]] = {"train": [], "validation": []}
    for number, record in enumerate(rows):
        for side, part in decided.sides(number, record):
            sides[side].append(part)
    return sides["train"], sides["validation"]


def test_every_label_is_held_out_alike() -> None:
    """A tenth of each, none of a label with a single text, and texts that are written twice on one side."""
    names = ["many"] * 100 + ["some"] * 20 + ["few"] * 2 + ["one"]
    texts = [f"text {place % 90 if place < 100 else place}" for place in range(len(names))]
    rows: list[Record] = [Labelled(text, text, name) for text, name in zip(texts, names, strict=True)]
    decided = Split(rows, 0.1, 0, stratified=True)
    held = [record for number, record in enumerate(rows) for side, _ in decided.sides(number, record) if side[0] == "v"]
    counts = Counter(record.label for record in held if isinstance(record, Labelled))
    assert counts["many"] == 10
    assert (counts["some"], counts["few"]) == (2, 1)
    assert counts["one"] == 0
    assert {record.prompt_key for record in rows if record not in held}.isdisjoint(one.prompt_key for one in held)
    assert {one.label for one in rows if one not in held and isinstance(one, Labelled)} == set(names)


def prompted(prompts: Sequence[object]) -> list[Record]:
    return [Prompted(f"file line {line}", str(prompt), f"answer {line}") for line, prompt in enumerate(prompts, 1)]


def texts(*contents: str) -> list[Record]:
    return [Text(f"file line {line}", content) for line, content in enumerate(contents, 1)]


def content(part: Sequence[Record]) -> list[str]:
    return [record.text for record in part if isinstance(record, Text)]


def lines(part: Sequence[Record]) -> list[int]:
    return [int(record.where.rsplit(" ", 1)[1]) for record in part]


# Rows


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.25, 0.5, 0.9])
def test_at_least_the_fraction_is_held_out(fraction: float) -> None:
    for count in (2, 3, 7, 14, 15, 30, 70, 100, 101, 1000):
        if fraction * count > count - 1:  # nothing would be left to train on
            continue
        train, validation = split(prompted(range(count)), fraction, 0)
        assert fraction * count - 1e-9 <= len(validation) < fraction * count + 1 - 1e-9
        assert len(train) + len(validation) == count


@pytest.mark.parametrize("count", [20, 45, 500])
def test_the_usual_fraction_is_held_out_to_the_row(count: int) -> None:
    assert len(split(prompted(range(count)), 0.2, 0)[1]) == count // 5


def test_one_prompt_of_many_rows_does_not_swallow_the_fraction() -> None:
    """Where smaller groups make up the fraction, a group larger than all of it stays in training."""
    rows = prompted([*["tell me a joke"] * 60, *range(40)])
    for seed in range(20):
        train, validation = split(rows, 0.1, seed)
        assert len(validation) == 10
        assert len(train) == 90


def test_every_row_stands_on_one_side_in_the_order_of_the_file() -> None:
    rows = prompted(range(100))
    train, validation = split(rows, 0.2, 3)
    assert lines(train) == sorted(lines(train))
    assert lines(validation) == sorted(lines(validation))
    assert sorted(lines(train) + lines(validation)) == list(range(1, 101))
    assert all(rows[line - 1] == record for record in train + validation for line in lines([record]))


@pytest.mark.parametrize("seed", range(10))
def test_rows_with_one_prompt_stay_together(seed: int) -> None:
    rows = prompted([number % 37 for number in range(200)])
    train, validation = split(rows, 0.1, seed)
    assert not {record.prompt_key for record in train} & {record.prompt_key for record in validation}
    assert 20 <= len(validation) < 20 + 6


def chat(*turns: tuple[str, str], line: int = 1) -> Chat:
    return Chat(f"file line {line}", tuple(Message(role, text) for role, text in turns))


def make_prompted(group: int, line: int) -> Record:
    return Prompted(f"file line {line}", f"p{group}", f"c{line}")


def make_chat(group: int, line: int) -> Record:
    return chat(("system", "s"), ("user", f"q{group}"), ("assistant", f"a{line}"), ("user", f"{line}"), line=line)


def make_template(group: int, line: int) -> Record:
    return Text(f"file line {line}", f"Q: {group}\nA: {line}", answer=len(f"Q: {group}\nA: "))


def make_text(group: int, line: int) -> Record:
    return Text(f"file line {line}", f"text {group}")


def make_labelled(group: int, line: int) -> Record:
    return Labelled(f"file line {line}", f"t{group}", f"l{line}")


def make_preference(group: int, line: int) -> Record:
    return Preference(f"file line {line}", f"p{group}", f"c{line}", "r")


def make_talk_preference(group: int, line: int) -> Record:
    return Preference(f"file line {line}", (Message("user", f"p{group}"),), f"c{line}", "r")


MAKERS = [
    make_prompted,
    make_chat,
    make_template,
    make_text,
    make_labelled,
    make_preference,
    make_talk_preference,
]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("seed", range(3))
def test_no_prompt_stands_on_both_sides(make, seed: int) -> None:  # type: ignore[no-untyped-def]
    rows = [make(line % 20, line) for line in range(60)]
    train, validation = split(rows, 0.2, seed)
    assert sorted(lines(train) + lines(validation)) == list(range(60))
    held = {line % 20 for line in lines(validation)}
    assert not held & {line % 20 for line in lines(train)}
    assert len(held) == 4


def test_conversations_differ_by_what_comes_before_the_first_answer() -> None:
    same = [chat(("user", "q"), ("assistant", str(line)), ("user", str(line)), line=line) for line in range(8)]
    others = [chat(("user", f"q{line}"), ("assistant", "a"), line=line) for line in range(8, 40)]
    train, validation = split([*same, *others], 0.25, 0)
    sides = {line in lines(validation) for line in range(8)}
    assert len(sides) == 1
    assert train
    assert validation


def test_the_role_of_a_message_is_part_of_the_prompt() -> None:
    assert chat(("user", "q"), ("assistant", "a")).prompt_key != chat(("system", "q"), ("assistant", "a")).prompt_key


def test_completions_without_prompts_may_be_split() -> None:
    """Rows that all have an empty prompt are no repetitions of each other."""
    train, validation = split(prompted([""] * 50), 0.1, 0)
    assert (len(train), len(validation)) == (45, 5)


def test_conversations_that_open_with_the_assistant_may_be_split() -> None:
    """One greeting for all is not one prompt for all."""
    rows = [
        chat(("assistant", "Hello, how can I help?"), ("user", f"q{line}"), ("assistant", f"a{line}"), line=line)
        for line in range(50)
    ]
    train, validation = split(rows, 0.1, 0)
    assert (len(train), len(validation)) == (45, 5)


# Seeds


def test_a_split_is_decided_by_its_seed() -> None:
    rows = prompted(range(200))
    held = [lines(split(rows, 0.1, seed)[1]) for seed in range(5)]
    assert held == [lines(split(rows, 0.1, seed)[1]) for seed in range(5)]
    assert len({tuple(numbers) for numbers in held}) == 5


def test_nothing_else_decides_a_split() -> None:
    rows = prompted(range(200))
    expected = lines(split(rows, 0.1, 7)[1])
    random.seed(1)
    state = random.getstate()
    assert lines(split(rows, 0.1, 7)[1]) == expected
    assert random.getstate() == state
    shuffled = random.Random(5).sample(rows, len(rows))
    assert sorted(lines(split(shuffled, 0.1, 7)[1])) == expected  # nor the order of the file
    answered = [Prompted("elsewhere line 1", record.prompt_key, "other") for record in rows]
    assert [record.prompt_key for record in split(answered, 0.1, 7)[1]] == [str(line - 1) for line in expected]


def test_the_held_out_rows_are_spread_over_the_file() -> None:
    held = [line for seed in range(20) for line in lines(split(prompted(range(1000)), 0.1, seed)[1])]
    quarters = [sum(250 * k < line <= 250 * k + 250 for line in held) for k in range(4)]
    assert all(400 < count < 600 for count in quarters)


# What cannot be split


@pytest.mark.parametrize("rows", [prompted([0] * 50), prompted([0]), [chat(("user", "q"), ("assistant", "a"))] * 30])
def test_one_prompt_cannot_be_split(rows: list[Record]) -> None:
    with pytest.raises(DataError, match="1 different prompts") as caught:
        split(rows, 0.1, 0)
    assert caught.value.where == "data.validation"
    assert "validation file" in str(caught.value.fix)


# Documents


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.3, 0.5, 0.9])
def test_the_end_of_a_book_is_held_out(fraction: float) -> None:
    book = "".join(f"{number} 🙂é " for number in range(1000))
    (train,), (validation,) = split(texts(book), fraction, 0)
    assert isinstance(train, Text)
    assert isinstance(validation, Text)
    assert train.text + validation.text == book
    assert validation.text == book[len(train.text) :]
    assert len(validation.text) == pytest.approx(fraction * len(book), abs=1)
    assert train.where == validation.where == "file line 1"


def test_the_end_of_each_of_a_few_books_is_held_out() -> None:
    books = ["a" * 90 + "b" * 10, "c" * 900 + "d" * 100, "e" * 9 + "f"]
    train, validation = split(texts(*books), 0.1, 0)
    assert content(train) == ["a" * 90, "c" * 900, "e" * 9]
    assert content(validation) == ["b" * 10, "d" * 100, "f"]


@pytest.mark.parametrize("seed", range(3))
def test_the_seed_does_not_move_an_end(seed: int) -> None:
    assert split(texts("abcdefghij"), 0.2, seed) == split(texts("abcdefghij"), 0.2, 0)


def test_many_documents_are_held_out_whole() -> None:
    documents = texts(*(f"document {number}" for number in range(20)))
    train, validation = split(documents, 0.1, 0)
    assert len(validation) == 2
    assert sorted(lines(train + validation)) == list(range(1, 21))
    assert all(record in documents for record in train + validation)
    train, validation = split(documents[:19], 0.1, 0)
    assert len(train) == len(validation) == 19


def test_answers_are_never_cut() -> None:
    rows = [make_template(line, line) for line in range(10)]
    train, validation = split(rows, 0.2, 0)
    assert (len(train), len(validation)) == (8, 2)
    assert all(record in rows for record in train + validation)


# Real files


def test_a_real_book_is_split_as_others_do() -> None:
    (whole,) = parse_rows(placed(shared_data("tinyshakespeare/input.txt")), (Text,))
    (train,), (validation,) = split([whole], 0.1, 0)
    assert isinstance(whole, Text)
    assert content([train, validation]) == [whole.text[:1003854], whole.text[1003854:]]


@pytest.mark.parametrize("seed", range(3))
def test_repeated_instructions_do_not_leak(seed: int) -> None:
    rows = placed(shared_data("rasbt_preference_1100/instruction-data-with-preference.json"))
    found = list(parse_rows(rows, (Preference,), on_bad=lambda error: None))
    keys = [record.prompt_key for record in found]
    assert len(set(keys)) < len(keys)
    train, validation = split(found, 0.1, seed)
    assert not {record.prompt_key for record in train} & {record.prompt_key for record in validation}
    assert len(validation) == pytest.approx(0.1 * len(found), abs=3)
