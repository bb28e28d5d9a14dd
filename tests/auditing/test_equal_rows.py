"""Which rows, answers and labels count as equal, and which only as near duplicates; in any script."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bottega
from bottega.auditing.checks.labels import _normalize_spelling
from bottega.auditing.checks.languages import MIN_LETTERS, count_evidence, extract_prose
from bottega.auditing.findings import Audit
from bottega.auditing.minhash import RECALL, choose_bands
from making import write_jsonl

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
    ("text", "told"),
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
def test_which_texts_have_enough_prose_to_tell_the_language(text: str, told: bool) -> None:
    assert (count_evidence(extract_prose(text)) >= MIN_LETTERS) == told


def test_code_does_not_count_for_the_language_of_a_row(tmp_path: Path) -> None:
    asked = "Wie viele Kunden haben in den letzten zwei Wochen eine Lampe bestellt und nicht bezahlt?"
    rows = [{"prompt": f"{asked} {n}", "completion": "SELECT count(*) FROM orders WHERE paid = 0"} for n in range(3)]
    rows += [{"prompt": "SELECT 1;", "completion": "SELECT name, street FROM customers WHERE town = 'x'"}]
    found = bottega.audit(write_jsonl(tmp_path / "rows.jsonl", rows), only=["languages"])
    assert found.shape["languages"] == [("de", 3)]
    assert found.unchecked["languages"].startswith("the language of 1 rows")


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.95, 1.0])
def test_bands_propose_nearly_all_pairs_at_any_threshold(threshold: float) -> None:
    bands, depth = choose_bands(threshold)
    assert 1 - (1 - min(threshold, 0.99) ** depth) ** bands >= RECALL
    draw = np.random.default_rng(0)
    hits = draw.random((2000, bands, depth)) < threshold
    assert hits.all(2).any(1).mean() > 0.99


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
