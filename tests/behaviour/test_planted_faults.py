"""Recall and precision of the checks: five hundred faults of each kind are planted in real data and must be found."""

from __future__ import annotations

import csv
import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ftfy.bad_codecs  # noqa: F401, registers its encodings
import pytest

from bottega.auditing.audit import audit
from bottega.auditing.findings import Audit
from making import shared_data, write_jsonl

PLANTED = 500
# Rows of each data set that stay as they are.
ROWS = 1500

Fields = dict[str, Any]


def intents() -> list[Fields]:
    with shared_data("banking77/train.csv").open(encoding="utf-8") as file:
        return [{"text": row["text"], "label": row["category"]} for row in csv.DictReader(file)]


def problems() -> list[Fields]:
    return [json.loads(line) for line in shared_data("gsm8k/train.jsonl").read_text(encoding="utf-8").splitlines()]


def instructions() -> list[Fields]:
    rows = json.loads(shared_data("rasbt_instruct_1100/instruction-data.json").read_text(encoding="utf-8"))
    return [
        {"instruction": row["instruction"] + ("\n" + row["input"] if row["input"] else ""), "output": row["output"]}
        for row in rows
    ]


SETS = {"banking77": (intents, "text"), "gsm8k": (problems, "question"), "rasbt": (instructions, "instruction")}


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.slow) if name == "gsm8k" else name for name in SETS])
def rows(request: pytest.FixtureRequest) -> tuple[list[Fields], str, random.Random]:
    """(rows without duplicates, the name of the input field, a random generator)."""
    read, field = SETS[request.param]
    draw = random.Random(request.param)
    found = list({normal(row): row for row in read()}.values())
    draw.shuffle(found)
    return found, field, draw


def test_duplicates_and_near_duplicates(rows: tuple[list[Fields], str, random.Random], tmp_path: Path) -> None:
    """Exact copies, and copies with a word or the punctuation changed; brute force tells which pairs are similar."""
    found, field, draw = rows
    kept = found[:ROWS]
    again = draw.choices(kept, k=PLANTED)
    long = [row for row in kept if len(row[field]) >= 90]
    nearly = [{**row, field: reworded(row[field], draw)} for row in draw.choices(long, k=PLANTED)]
    path = write_jsonl(tmp_path / "rows.jsonl", [*kept, *again, *nearly])
    audited = audit(path, only=["duplicates", "near_duplicates"])
    twice, alike = rows_of(audited, "duplicate"), rows_of(audited, "near duplicate")
    everything = [*kept, *again, *nearly]
    seen: dict[str, int] = {}
    assert twice == {number for number, row in enumerate(everything) if seen.setdefault(normal(row), number) != number}
    assert twice >= set(range(len(kept), len(kept) + PLANTED))
    # Of rows changed alike all but the first are the same row again.
    changed = range(len(kept) + PLANTED, len(kept) + 2 * PLANTED)
    assert recall(alike | twice, changed) >= 0.98
    texts = [" ".join(map(str, row.values())) if field != "text" else row["text"] for row in everything]
    assert precision_of_pairs(audited, "near duplicate", texts) >= 0.98


def test_leaks_and_near_leaks(rows: tuple[list[Fields], str, random.Random], tmp_path: Path) -> None:
    found, field, draw = rows
    kept, held = found[:600], found[600 : 600 + PLANTED]
    long = [row for row in held if len(row[field]) >= 90]
    nearly = [{**row, field: reworded(row[field], draw)} for row in draw.choices(long, k=PLANTED)]
    train = write_jsonl(tmp_path / "train.jsonl", [*kept, *draw.sample(held, len(held)), *nearly])
    test = write_jsonl(tmp_path / "test.jsonl", held)
    audited = audit(train, against=[test], only=["duplicates", "near_duplicates"])
    same, near = rows_of(audited, "leak"), rows_of(audited, "near leak")
    planted = range(len(kept), len(kept) + len(held))
    assert recall(same, planted) == 1
    inputs = {" ".join(row[field].split()) for row in held}
    shared = {number for number, row in enumerate(kept) if " ".join(row[field].split()) in inputs}
    assert precision(same, {*planted, *shared}) >= 0.98
    changed = range(len(kept) + len(held), len(kept) + len(held) + PLANTED)
    assert recall(near | same, changed) >= 0.98
    everything = [*kept, *held, *nearly]
    texts = [" ".join(map(str, row.values())) if field != "text" else row["text"] for row in everything]
    others = [" ".join(map(str, row.values())) if field != "text" else row["text"] for row in held]
    own = [grams(text) for text in others]
    told = sorted(near)
    right = [any(jaccard(grams(texts[number]), one) >= 0.7 for one in own) for number in told[:100]]
    assert sum(right) >= 0.98 * len(right)


def test_overlaps(tmp_path: Path) -> None:
    found = problems()
    kept, held = found[:ROWS], found[ROWS : ROWS + PLANTED]
    copied = [
        {"question": f"{one['question']} Then: {row['question']} And last: {other['question']}", "answer": "7"}
        for one, row, other in zip(found[3000:], held, found[4000:], strict=False)
    ]
    train = write_jsonl(tmp_path / "train.jsonl", [*kept, *copied])
    test = write_jsonl(tmp_path / "test.jsonl", held)
    told = rows_of(audit(train, against=[test], only=["overlap"]), "overlap")
    planted = range(ROWS, ROWS + PLANTED)
    assert recall(told, planted) >= 0.98
    assert precision(told, planted) >= 0.98


def reworded(text: str, draw: random.Random) -> str:
    """The text in capitals, with other punctuation, or with one word changed."""
    turn = draw.randrange(3)
    if turn == 0:
        return text.upper()
    if turn == 1:
        return re.sub(r"\s+", "  ", re.sub(r"[.,;?]", " !", text))
    words = text.split()
    place = draw.randrange(len(words))
    words[place] = "perhaps"
    return " ".join(words)


def normal(row: Fields) -> str:
    return "\0".join(" ".join(str(value).split()) for value in row.values())


def rows_of(audited: Audit, kind: str) -> set[int]:
    return {int(row) for finding in audited.findings if finding.kind == kind for row in finding.rows}


def recall(found: set[int], planted: Sequence[int] | range | set[int]) -> float:
    return len(found & set(planted)) / len(planted)


def precision(found: set[int], planted: Sequence[int] | range | set[int]) -> float:
    return len(found & set(planted)) / max(len(found), 1)


def grams(text: str) -> set[str]:
    plain = " ".join(re.findall(r"\w+", text.casefold()))
    return {plain[start : start + 5] for start in range(max(1, len(plain) - 4))}


def jaccard(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other)


def precision_of_pairs(audited: Audit, kind: str, texts: Sequence[str]) -> float:
    """Fraction of the reported rows that are similar to an earlier one, by brute force."""
    sets = [grams(text) for text in texts]
    told = sorted(rows_of(audited, kind))[:100]
    return sum(any(jaccard(sets[row], one) >= 0.7 for one in sets[:row]) for row in told) / max(len(told), 1)


def _digits(draw: random.Random, count: int) -> str:
    return "".join(str(draw.randrange(10)) for _ in range(count))


def _card(draw: random.Random) -> str:
    digits = draw.choice("456") + _digits(draw, 14)
    doubled = sum(sum(divmod(int(c) * (2 if place % 2 == 0 else 1), 10)) for place, c in enumerate(digits))
    number = digits + str(-doubled % 10)
    mark = draw.choice(["", " ", "-"])
    return mark.join(number[start : start + 4] for start in range(0, 16, 4))


def _iban(draw: random.Random) -> str:
    account = _digits(draw, 18)
    check = 98 - int(account + "131400") % 97
    plain = f"DE{check:02}{account}"
    return draw.choice([plain, " ".join(plain[start : start + 4] for start in range(0, 22, 4))])


def _key(draw: random.Random) -> str:
    letters = "".join(draw.choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", k=40))
    return draw.choice([f"sk-{letters}", f"ghp_{letters}", f"hf_{letters}", f"AKIA{letters[:16].upper()}"])


def _phone(draw: random.Random) -> str:
    area, line = draw.randrange(200, 999), draw.randrange(1000, 9999)
    return draw.choice([f"+39 0{area} 5{line}", f"({area}) 555-{line}", f"+1-{area}-555-{line}", f"{area}-555-{line}"])


def _mojibake(draw: random.Random) -> str:
    return (
        draw.choice(["più", "perché", "Zürich’s", "“quoted”", "naïve"]).encode().decode("sloppy-windows-1252")
    )  # as ftfy calls what web pages do


INSERTED: dict[str, Callable[[random.Random], str]] = {
    "mojibake": _mojibake,
    "control character": lambda draw: draw.choice(["\x00", "\x07", "\ufeff", "\x1b[31m"]),
    "lost character": lambda draw: "caf\ufffd",
    "e-mail address": lambda draw: f"anna.{_digits(draw, 3)}@posta-{_digits(draw, 2)}.example.it",
    "telephone number": _phone,
    "card number": _card,
    "IBAN": _iban,
    "API key": _key,
    "password in an address": lambda draw: f"postgres://admin:{_digits(draw, 6)}@db.example.it/rows",
    "template marks in the text": lambda draw: draw.choice(["<|im_end|>", "[/INST]", "<|eot_id|>"]),
}


@pytest.fixture(scope="module")
def answered() -> list[Fields]:
    """Instructions whose answers end in a full stop."""
    return [row for row in instructions() if row["output"].endswith(".")]


@pytest.mark.parametrize("kind", INSERTED)
def test_faults_within_a_text(kind: str, answered: list[Fields], tmp_path: Path) -> None:
    draw = random.Random(kind)
    spoiled = []
    for row in draw.choices(answered, k=PLANTED):
        words = row["output"].split(" ")
        words.insert(draw.randrange(len(words)), INSERTED[kind](draw))
        spoiled.append({**row, "output": " ".join(words)})
    only = ["encoding", "personal_data", "conversations"]
    natural = rows_of(audit(write_jsonl(tmp_path / "sound.jsonl", answered), only=only), kind)
    found = audit(write_jsonl(tmp_path / "rows.jsonl", [*answered, *spoiled]), only=only)
    planted = set(range(len(answered), len(answered) + PLANTED))
    assert rows_of(found, kind) == planted | natural


def test_answers_that_are_cut_off_or_missing(answered: list[Fields], tmp_path: Path) -> None:
    draw = random.Random(0)
    sound = [{"prompt": row["instruction"], "completion": row["output"]} for row in answered] * 10
    cut = [{**row, "completion": f"The fox of number {_digits(draw, 5)} jumps over the la"} for row in sound[:PLANTED]]
    blank = [{**row, "prompt": " "} for row in sound[:PLANTED]]
    empty = [{**row, "completion": ""} for row in sound[:PLANTED]]
    short = [{"prompt": "", "completion": "yes"}] * PLANTED
    found = audit(
        write_jsonl(tmp_path / "rows.jsonl", [*sound, *cut, *blank, *empty, *short]), only=["lengths", "unsound"]
    )
    first = len(sound)
    for kind, wanted in (
        ("cut off", range(first, first + PLANTED)),
        ("unsound", range(first + 2 * PLANTED, first + 3 * PLANTED)),
    ):
        assert rows_of(found, kind) == set(wanted), kind
    assert rows_of(found, "very short") >= set(range(first + 3 * PLANTED, first + 4 * PLANTED))
    blanks = {*range(first + PLANTED, first + 2 * PLANTED), *range(first + 3 * PLANTED, first + 4 * PLANTED)}
    assert rows_of(found, "empty input") == blanks


def test_rows_of_another_language(tmp_path: Path) -> None:
    book = shared_data("it_promessi_sposi/promessi_sposi.txt").read_text(encoding="utf-8")
    sentences = [one.strip() for one in re.split(r"(?<=[.!?])\s+", book) if 80 < len(one) < 300]
    english = [{"text": row["question"]} for row in problems()[:ROWS]]
    italian = [{"text": one.replace("\n", " ")} for one in random.Random(0).sample(sentences, PLANTED)]
    found = audit(write_jsonl(tmp_path / "rows.jsonl", [*english, *italian]), only=["languages"])
    told = rows_of(found, "other language")
    assert recall(told, range(ROWS, ROWS + PLANTED)) >= 0.98
    assert precision(told, range(ROWS, ROWS + PLANTED)) >= 0.98
    assert dict(found.shape["languages"])["it"] >= 0.98 * PLANTED


def faulty() -> Iterator[tuple[str, Callable[[int], Fields]]]:
    """(kind of a fault, function from a number to a conversation that has it)."""

    def said(*turns: tuple[str, str]) -> Fields:
        return {"messages": [{"role": role, "content": content} for role, content in turns]}

    def call(number: int, *, answered: bool, name: str = "look", arguments: str = "{}") -> Fields:
        asked = {"id": "a1", "type": "function", "function": {"name": name, "arguments": arguments}}
        turns: list[Fields] = [{"role": "user", "content": f"find {number}"}]
        turns.append({"role": "assistant", "content": None, "tool_calls": [asked]})
        turns += [{"role": "tool", "content": "7", "tool_call_id": "a1"}] if answered else []
        turns += [{"role": "assistant", "content": "It is 7."}]
        described = {"type": "function", "function": {"name": "look", "description": "", "parameters": {}}}
        return {"messages": turns, "tools": [described]}

    yield "turns out of order", lambda n: said(("user", f"a {n}"), ("user", "b"), ("assistant", "c"))
    yield "system message in the middle", lambda n: said(("user", f"a {n}"), ("system", "b"), ("assistant", "c"))
    yield "no answer to the last turn", lambda n: said(("user", f"a {n}"), ("assistant", "b"), ("user", "c"))
    yield "open tool call", lambda n: call(n, answered=False)
    yield "unknown tool", lambda n: call(n, answered=True, name="guess")
    yield "unsound", lambda n: call(n, answered=True, arguments="{broken")
    yield (
        "answer of no call",
        lambda n: said(("user", f"a {n}"), ("tool", "7"), ("assistant", "b")),
    )


@pytest.mark.parametrize(("kind", "made"), [*faulty()], ids=[kind for kind, _ in faulty()])
def test_faulty_conversations(kind: str, made: Callable[[int], Fields], tmp_path: Path) -> None:
    sound = [
        {"messages": [{"role": "user", "content": f"{n} and {n}?"}, {"role": "assistant", "content": str(2 * n)}]}
        for n in range(ROWS)
    ]
    path = write_jsonl(tmp_path / "rows.jsonl", [*sound, *(made(n) for n in range(PLANTED))])
    assert rows_of(audit(path, skip=["near_duplicates", "languages"]), kind) == set(range(ROWS, ROWS + PLANTED))


def test_answers_that_should_be_json(tmp_path: Path) -> None:
    draw = random.Random(0)
    sound = [{"prompt": f"ticket {n}", "completion": json.dumps({"topic": "a", "place": n})} for n in range(ROWS)]
    broken = [{**row, "completion": row["completion"][: draw.randrange(1, 10)]} for row in sound[:PLANTED]]
    lacking = [{**row, "completion": json.dumps({"topic": "b"})} for row in sound[:PLANTED]]
    path = write_jsonl(tmp_path / "rows.jsonl", [*sound * 10, *broken, *lacking])
    found = audit(path, only=["json_answers"])
    assert rows_of(found, "broken JSON") == set(range(10 * ROWS, 10 * ROWS + PLANTED))
    assert rows_of(found, "missing field") == set(range(10 * ROWS + PLANTED, 10 * ROWS + 2 * PLANTED))


def test_labels_that_disagree(tmp_path: Path) -> None:
    sound = [{"text": f"message {n} of many", "label": "ab"[n % 2]} for n in range(ROWS)]
    wrong = [{**row, "label": "ba"[number % 2]} for number, row in enumerate(sound[:PLANTED])]
    spelled = [{"text": f"letter {n}", "label": "A "} for n in range(PLANTED)]
    found = audit(write_jsonl(tmp_path / "rows.jsonl", [*sound, *wrong, *spelled]), only=["contradictions", "labels"])
    assert rows_of(found, "contradiction") == set(range(ROWS, ROWS + PLANTED))
    assert rows_of(found, "label written twice") == set(range(ROWS + PLANTED, ROWS + 2 * PLANTED))


def test_preferences_that_teach_nothing(tmp_path: Path) -> None:
    rows = json.loads(
        shared_data("rasbt_preference_1100/instruction-data-with-preference.json").read_text(encoding="utf-8")
    )
    sound = [
        {name: row[name] for name in ("instruction", "chosen", "rejected")}
        for row in rows
        if row["chosen"].casefold() != row["rejected"].casefold()
    ]
    count = len(sound)
    equal = [{**row, "rejected": row["chosen"]} for row in sound[:PLANTED]]
    alike = [{**row, "rejected": f" {row['chosen'].upper()} "} for row in sound[:PLANTED]]
    parted = [
        {
            "chosen": [{"role": "user", "content": f"a {n}"}, {"role": "assistant", "content": "b"}],
            "rejected": [{"role": "user", "content": f"c {n}"}, {"role": "assistant", "content": "d"}],
        }
        for n in range(PLANTED)
    ]
    found = audit(write_jsonl(tmp_path / "rows.jsonl", [*sound, *equal, *alike]), skip=["near_duplicates", "languages"])
    assert rows_of(found, "unsound") == set(range(count, count + PLANTED))
    assert rows_of(found, "equal answers") == set(range(count + PLANTED, count + 2 * PLANTED))
    conversations = [
        {
            "chosen": [
                {"role": "user", "content": f"a {n}"},
                {"role": "assistant", "content": "a long answer, and kind"},
            ],
            "rejected": [{"role": "user", "content": f"a {n}"}, {"role": "assistant", "content": "no"}],
        }
        for n in range(ROWS)
    ]
    found = audit(
        write_jsonl(tmp_path / "talk.jsonl", [*conversations, *parted]), skip=["near_duplicates", "languages"]
    )
    assert rows_of(found, "unsound") == set(range(ROWS, ROWS + PLANTED))
    assert rows_of(found, "length bias") == set(range(ROWS))
