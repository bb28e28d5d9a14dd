"""The checks of an audit: what each reports, and which rows, answers and labels it takes for equal, in any script."""

from __future__ import annotations

import json
import random
import unicodedata
from pathlib import Path
from typing import Any

import pytest

import bottega
from bottega.auditing import checks
from bottega.auditing.checks import Context
from bottega.auditing.checks.labels import _normalize_spelling
from bottega.auditing.checks.languages import MIN_LETTERS, count_evidence, extract_prose
from bottega.auditing.findings import MAX_EXAMPLES, Audit
from making import WORDS, random_rows, shared_data, write_jsonl

ASKED = "Please set the lamp as it should be in the evening."


def rows_of(found: Audit, kind: str) -> list[int]:
    return sorted(int(row) for one in found.findings if one.kind == kind for row in one.rows)


def calling(name: str, arguments: Any, **more: Any) -> dict[str, Any]:
    call = {"id": more.pop("id", "a"), "type": "function", "function": {"name": name, "arguments": arguments}}
    said = {"role": "assistant", "content": None, "tool_calls": [call], **more}
    return {"messages": [{"role": "user", "content": ASKED}, said]}


def saying(
    content: str = "I dim it now, as you wish.", system: str = "", tools: Any = None, **more: Any
) -> dict[str, Any]:
    head = [{"role": "system", "content": system}] if system else []
    said = {"role": "assistant", "content": content, **more}
    row: dict[str, Any] = {"messages": [*head, {"role": "user", "content": ASKED}, said]}
    return row | ({"tools": tools} if tools else {})


TOOL = {"type": "function", "function": {"name": "set_lamp", "description": "d", "parameters": {"type": "object"}}}

APART = {
    "arguments of calls": [calling("set_lamp", {"level": 1}), calling("set_lamp", {"level": 9})],
    "called functions": [calling("set_lamp", {}), calling("lamp_off", {})],
    "reasoning": [saying(reasoning_content="It is late."), saying(reasoning_content="It is dark.")],
    "tools": [saying(tools=[TOOL]), saying()],
    "weights": [saying(weight=1), saying(weight=0)],
    "system prompts": [saying(system="Be kind."), saying(system="Be curt.")],
    "labels": [{"text": ASKED, "label": "a"}, {"text": ASKED, "label": "b"}],
    "scores": [{"sentence1": ASKED, "sentence2": "Dim it.", "score": score} for score in (0.1, 0.9)],
    "what is good": [{"prompt": ASKED, "completion": "Yes.", "label": good} for good in (True, False)],
    "spans": [{"text": ASKED, "spans": [{"start": 15, "end": 19, "label": label}]} for label in "ab"],
    "tools of an answer without a pair": [
        {"prompt": [{"role": "user", "content": ASKED}], "completion": "Yes.", "label": True, "tools": tools}
        for tools in ([TOOL], [])
    ],
    "tools of a pair": [
        {"prompt": [{"role": "user", "content": ASKED}], "chosen": "Yes.", "rejected": "No.", "tools": tools}
        for tools in ([TOOL], [])
    ],
    "what a template is given": [
        saying() | {"chat_template_kwargs": {"enable_thinking": thinking}} for thinking in (True, False)
    ],
    "negatives": [{"anchor": ASKED, "positive": "Dim it.", "hard_negative": one} for one in ("Leave it.", "Break it.")],
    "vowel signs": [{"text": "दिल्ली में कल बहुत ठंड होगी", "label": "a"}, {"text": "दिल्ला में कल बहुत ठंड होगी", "label": "a"}],
}


@pytest.mark.parametrize("what", APART)
def test_rows_that_teach_different_things_are_not_duplicates(what: str, tmp_path: Path) -> None:
    """Neither exact nor near duplicates: the cleaned copy keeps them, and drops the exact repetition."""
    rows = APART[what]
    path = write_jsonl(tmp_path / "rows.jsonl", [*rows, rows[0]])
    found = bottega.audit(
        path, only=["duplicates", *(["near_duplicates"] if what != "vowel signs" else [])], fix=tmp_path / "clean.jsonl"
    )
    assert rows_of(found, "duplicate") == [2]
    kept = [json.loads(line) for line in (tmp_path / "clean.jsonl").read_text(encoding="utf-8").splitlines()]
    assert kept == json.loads(json.dumps(rows))


def test_call_ids_and_unicode_normalization_do_not_distinguish_rows(tmp_path: Path) -> None:
    calls = [
        calling("set_lamp", {"level": 1, "room": "a"}, id="x"),
        calling("set_lamp", {"room": "a", "level": 1}, id="y"),
    ]
    assert rows_of(bottega.audit(write_jsonl(tmp_path / "a.jsonl", calls), only=["duplicates"]), "duplicate") == [1]
    texts = [
        {"text": unicodedata.normalize(form, "perché la città è già lontana"), "label": "a"} for form in ("NFC", "NFD")
    ]
    assert rows_of(bottega.audit(write_jsonl(tmp_path / "b.jsonl", texts), only=["duplicates"]), "duplicate") == [1]


def test_near_duplicates_with_another_answer_are_reported_and_kept(tmp_path: Path) -> None:
    text = "the quick brown fox jumps over the lazy dog near the old river bank in the evening"
    rows = [
        {"text": text, "label": "a"}, {"text": text + " today", "label": "b"}, {"text": text + " again", "label": "a"},
    ]  # fmt: skip
    path = write_jsonl(tmp_path / "r.jsonl", rows)
    found = bottega.audit(path, only=["near_duplicates"], fix=tmp_path / "clean.jsonl")
    assert rows_of(found, "near duplicate") == [2]
    assert rows_of(found, "near duplicate, another answer") == [1]
    assert len((tmp_path / "clean.jsonl").read_text().splitlines()) == 2
    asked = [{"prompt": text, "completion": "yes"}, {"prompt": text + " ?", "completion": "no"}]
    found = bottega.audit(write_jsonl(tmp_path / "q.jsonl", asked), only=["near_duplicates"])
    assert rows_of(found, "near duplicate") == []


def test_answers_that_differ_in_their_tool_calls_are_not_equal(tmp_path: Path) -> None:
    def pair(chosen: dict[str, Any], rejected: dict[str, Any]) -> dict[str, Any]:
        return {
            "prompt": chosen["messages"][:1],
            "chosen": chosen["messages"][1:],
            "rejected": rejected["messages"][1:],
        }

    rows = [
        pair(calling("set_lamp", {"level": 1}), calling("set_lamp", {"level": 9})),
        pair(calling("set_lamp", {"level": 9}), calling("set_lamp", {"level": 1})),
        pair(saying("On the mat."), saying("On the mat. \n")),
        pair(saying("On the mat."), saying("on  the MAT.")),
    ]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    found = bottega.audit(path, only=["preferences", "contradictions"], fix=tmp_path / "clean.jsonl")
    assert rows_of(found, "equal answers") == [2, 3]
    assert len((tmp_path / "clean.jsonl").read_text().splitlines()) == 3, "case may be what is to be learned"
    assert set(rows_of(found, "contradiction")) == {1}, "of the two calls each is called better than the other"


def test_answers_that_are_equal_after_truncation_are_reported(llama: Path, tmp_path: Path) -> None:
    long = " the cat sat on the mat" * 40
    rows = [
        {"prompt": "the", "chosen": f"{long} red", "rejected": f"{long} blue"},
        {"prompt": "a", "chosen": " b", "rejected": " c"},
    ]
    document = {
        "model": {"base": str(llama)},
        "data": {"train": str(write_jsonl(tmp_path / "r.jsonl", rows)), "max_length": 20, "too_long": "truncate"},
        "objective": {"kind": "dpo"},
    }
    found = bottega.audit(bottega.Recipe.parse(document), only=["no_loss"])
    assert rows_of(found, "nothing to learn") == [0]
    assert "the same in every token, cut at 20" in found.findings[0].what


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("-1", "1", False), ("C", "C++", False), ("C++", "C#", False), ("10", "1.0", False), ("1", "1.0", True),
        ("A+", "A-", False), ("A", "A-", False), ("1-2", "12", False), ("3.11", "311", False), ("1,0", "10", False),
        ("👍 ok", "👎 ok", False), ("कि", "की", False), ("não", "nao", False), ("+1", "1", True),
        ("\u22121", "-1", True),
        ("1.50", "1.5", True), ("-0", "0", True), ("１", "1", True), ("card lost", "Card_Lost", True),
        ("e-mail", "email", True), ("Yes.", "yes", True), ("caffe\u0300", "caffè", True), ("0x1", "1", False),
        (".NET", "NET", False), ("<5", ">5", False), ("50%", "50", False), ("n/a", "na", False),
    ],
)  # fmt: skip
def test_spelling_variants_of_labels(one: str, other: str, same: bool) -> None:
    assert (_normalize_spelling(one) == _normalize_spelling(other)) == same


def test_labels_in_two_spellings_are_reported(tmp_path: Path) -> None:
    labels = ("10", "1.0", "-1", "C", "C++", "card lost", "Card_Lost")
    rows = [{"text": f"row {n} {label}", "label": label} for n in range(8) for label in labels]
    found = bottega.audit(write_jsonl(tmp_path / "rows.jsonl", rows), only=["labels"])
    (twice,) = found.findings
    assert twice.kind == "label written twice"
    assert twice.what.endswith("spaces or punctuation: 'card lost' = 'Card_Lost'")


@pytest.mark.parametrize(
    ("text", "enough"),
    [
        ("", False), ("ok", False), ("42", False), ("?!", False),
        ("https://example.org/a/very/long/address/of/a/page", False),
        ("SELECT name, age, street, town FROM customers WHERE age > 30 ORDER BY name", False),
        ("select name, age, street, town from customers where age > 30 order by name", False),
        ("def found(rows):\n    return [row for row in rows if row.label == wanted_label]", False),
        ('{"name": "Anna Rossi", "street": "Via Garibaldi", "town": "Bologna"}', False),
        ("```python\nprint('the quick brown fox jumps over the lazy dog')\n```", False),
        ("<div><p>the quick brown fox jumps over the lazy dog</p></div>", False),
        ("Where is my parcel? I ordered it two weeks ago and it has not come.", True),
        ("With this lamp comes a bulb, from the shop where you bought the first one.", True),
        ("For example, if you select a book from the shelf, it is yours", True),
        ("我的包裹两个星期前就订购了，现在在哪里？", True), ("荷物はいつ届きますか。二週間前に注文しました。", True),
        ("Где моя посылка? Я заказал её две недели назад, и она не пришла.", True),
    ],
)  # fmt: skip
def test_texts_with_enough_prose_to_detect_the_language(text: str, enough: bool) -> None:
    assert (count_evidence(extract_prose(text)) >= MIN_LETTERS) == enough


def test_code_does_not_count_for_the_language_of_a_row(tmp_path: Path) -> None:
    asked = "Wie viele Kunden haben in den letzten zwei Wochen eine Lampe bestellt und nicht bezahlt?"
    rows = [{"prompt": f"{asked} {n}", "completion": "SELECT count(*) FROM orders WHERE paid = 0"} for n in range(3)]
    rows += [{"prompt": "SELECT 1;", "completion": "SELECT name, street FROM customers WHERE town = 'x'"}]
    found = bottega.audit(write_jsonl(tmp_path / "rows.jsonl", rows), only=["languages"])
    assert found.shape["languages"] == [("de", 3)]
    assert found.unchecked["languages"].startswith("the language of 1 rows")


def test_words_are_counted_in_any_script(tmp_path: Path) -> None:
    """Leaks and overlaps are found, and no row is very short, in a script without spaces."""
    asked = "我的包裹两个星期前就订购了，现在在哪里？"
    rows = [{"prompt": asked, "completion": "在路上。"}, {"prompt": "今天的天气怎么样？", "completion": "好。"}]
    test = write_jsonl(tmp_path / "test.jsonl", [{"prompt": asked, "completion": "已经到了。"}])
    within = [{"prompt": f"客户说：{asked}请回答。", "completion": "好。"}]
    path = write_jsonl(tmp_path / "rows.jsonl", [*rows, *within])
    found = bottega.audit(path, against=[test], only=["duplicates", "overlap", "lengths"])
    assert rows_of(found, "leak") == [0]
    assert rows_of(found, "overlap") == [0, 2]
    assert rows_of(found, "very short") == []


@pytest.mark.parametrize("name", checks.names())
def test_each_check_can_be_run_alone_and_left_out(name: str, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [*random_rows(20), *random_rows(2)])
    alone = bottega.audit(path, only=[name])
    assert set(alone.unchecked) - {name} == {"unsound", *checks.names()} - {name}
    assert bottega.audit(path, skip=[name]).unchecked[name] == "not selected"


def test_rows_that_carry_no_loss(llama: Path, tmp_path: Path) -> None:
    said = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat", "weight": 0}]
    heavy = [{**message, "weight": 1} if message["role"] == "assistant" else message for message in said]
    path = write_jsonl(tmp_path / "rows.jsonl", [{"messages": said}, *[{"messages": heavy}] * 3])
    found = bottega.audit(path, model=str(llama), only=["no_loss"])
    assert [(one.kind, one.rows.tolist()) for one in found.findings] == [("nothing to learn", [0])]


def test_a_model_scores_rows(tmp_path: Path) -> None:
    model = shared_data("stories260K_hf")
    told = [
        {"text": f"Once upon a time there was a little cat named Tom, and he had {n} red balls."} for n in range(60)
    ]
    noise = random.Random(0)
    told.insert(30, {"text": "".join(noise.choices("qzxjkvw@#%&()+0123456789", k=90))})
    found = bottega.audit(write_jsonl(tmp_path / "rows.jsonl", told), model=str(model), only=["quality"])
    (outlier,) = (one for one in found.findings if one.kind == "unlikely text")
    assert outlier.rows.tolist()[0] == 30
    assert outlier.examples[0].startswith("rows.jsonl line 31: ")


def test_text_that_many_rows_share_does_not_make_them_near_duplicates(tmp_path: Path) -> None:
    """Rows under the same long instruction are not near duplicates of each other; exact duplicates are not listed."""
    header = "Below is an instruction that describes a task, paired with an input. Answer as well as you can: "
    told = [{"prompt": header + row["prompt"], "completion": row["completion"]} for row in random_rows(150)]
    for path in (write_jsonl(tmp_path / "a.jsonl", told), write_jsonl(tmp_path / "b.jsonl", [*told, *told[:3]])):
        found = bottega.audit(path, only=["near_duplicates"])
        assert found.findings == []


def test_texts_that_were_not_compared_are_reported(tmp_path: Path) -> None:
    book = {"text": " ".join(random.Random(0).choices(WORDS, k=9000))}
    data = write_jsonl(tmp_path / "rows.jsonl", [book, {"text": "the cat sat"}])
    exam = write_jsonl(tmp_path / "exam.jsonl", [{"prompt": "which cat?", "completion": "a cat that sat on the mat"}])
    found = bottega.audit(data, against=[exam], only=["near_duplicates", "overlap"])
    assert found.unchecked["near_duplicates"] == "the ends of 1 texts, beyond 20,000 characters of each"
    assert found.unchecked["overlap"].startswith("1 inputs of fewer than 8 words")


# A fault for each check, in the last of otherwise sound rows

SAID = "The parcel that you ordered two weeks ago will come tomorrow."
ITALIAN = "Il pacco che lei ha ordinato due settimane fa arriva domani mattina alle dieci."
FAULTS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "contradictions": ("contradiction", [{"text": "the cat", "label": "a"}, {"text": "the  cat", "label": "b"}]),
    "conversations": ("turns out of order", [saying(), {"messages": [*saying()["messages"], saying()["messages"][1]]}]),
    "duplicates": ("duplicate", [{"text": SAID}, {"text": f" {SAID}"}]),
    "encoding": ("mojibake", [{"text": "perché no"}, {"text": "perchÃ© no"}]),
    "json_answers": ("broken JSON", [{"prompt": f"{n}", "completion": '{"a": 1}'[: 8 - n // 3]} for n in range(4)]),
    "labels": ("rare label", [{"text": f"t {n}", "label": "a" if n < 5 else "b"} for n in range(6)]),
    "languages": ("other language", [*({"text": f"{SAID} {n}"} for n in range(3)), {"text": ITALIAN}]),
    "lengths": ("very short", [{"text": SAID}, {"text": f"{SAID} Or so."}, {"text": "yes"}]),
    "near_duplicates": ("near duplicate", [{"text": SAID}, {"text": ITALIAN}, {"text": SAID.upper()}]),
    "personal_data": ("e-mail address", [{"text": SAID}, {"text": "write to ada@example.org"}]),
    "preferences": (
        "equal answers",
        [{"prompt": "q", "chosen": "a", "rejected": other} for other in ("no", "A")],
    ),
}
# Those that need a model or a comparison set have tests of their own.
OTHER_CHECKS = {"no_loss", "overlap", "quality"}


@pytest.mark.parametrize("name", FAULTS)
def test_each_check_reports_its_fault(name: str, tmp_path: Path) -> None:
    kind, rows = FAULTS[name]
    found = bottega.audit(write_jsonl(tmp_path / "rows.jsonl", rows), only=[name])
    assert rows_of(found, kind) == [len(rows) - 1]
    sound = bottega.audit(write_jsonl(tmp_path / "sound.jsonl", rows[:-1]), only=[name])
    assert rows_of(sound, kind) == []


def test_each_check_has_a_fault_here() -> None:
    assert set(FAULTS) | OTHER_CHECKS == set(checks.names())


@pytest.mark.parametrize(
    ("kind", "values", "others"),
    [
        ("API key", ["sk-abcdefghijklmnopqrstuv", f"hf_{'a' * 34}", f"AKIA{'A' * 16}"], ["sk-short", "desk-lamp"]),
        ("private key", ["-----BEGIN RSA PRIVATE KEY-----"], ["-----BEGIN PUBLIC KEY-----"]),
        ("password in an address", ["https://ada:secret@example.org"], ["https://example.org:80/a@b"]),
        ("card number", ["4111 1111 1111 1111", "4111111111111111", "3782-822463-10005"],
         ["4111 1111 1111 1112", "order-4111111111111111", "0000 0000 0000 0000"]),
        ("IBAN", ["DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432"], ["DE88 3704 0044 0532 0130 00"]),
        ("e-mail address", ["a.b+c@mail.example.it"], ["a@b", "user@localhost"]),
        ("telephone number", ["+39 06 6982 1234", "(212) 555-0123", "212-555-0123"], ["555-0123", "2125550123"]),
    ],
)  # fmt: skip
def test_personal_data(kind: str, values: list[str], others: list[str], tmp_path: Path) -> None:
    rows = [{"text": f"it is {value} here"} for value in (*values, *others)]
    found = bottega.audit(write_jsonl(tmp_path / "rows.jsonl", rows), only=["personal_data"])
    assert rows_of(found, kind) == list(range(len(values)))
    assert not any(value in str(finding.document()) for finding in found.findings for value in values)


def test_findings_count_from_the_start_of_the_data_and_show_the_first_rows() -> None:
    context = Context(data_start=2)
    for line in range(20):
        context.locations.add(f"rows line {line}")
    rows = range(2, 20)
    found = context.finding("leak", "error", "what", "fix", rows, beside=[0] * len(rows), names=["a", "b"])
    assert (found.count, found.rows.tolist()) == (18, list(range(18)))
    assert found.examples == ["rows line 2 ~ rows line 0: a", "rows line 3 ~ rows line 0: b"]
    assert len(context.finding("leak", "error", "what", "fix", rows).examples) == MAX_EXAMPLES
