"""Data sets over HTTP: a file in parts, its rows, its faults and a version without them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from studios import Studio

CSV = "question,answer\n" + "".join(f"what is {n}?,it is {n}\n" for n in range(40)) + "what is 1?,it is 1\n"


@pytest.fixture(scope="module")
def questions(studio: Studio) -> str:
    """A data set with a row that is there twice."""
    task = studio.upload("questions & answers.csv", CSV.encode(), part=100)
    assert task["status"] == "done", task
    return str(task["result"]["name"])


def test_a_table_becomes_rows(studio: Studio, questions: str) -> None:
    assert questions == "questions-answers"
    (version,) = studio.get(f"data/{questions}")["versions"]
    assert (version["rows"], version["fields"]) == (41, {"question": "text", "answer": "text"})
    assert version["origin"] == ["upload", {"file": "questions & answers.csv"}]
    rows = studio.get(f"data/{questions}/rows?start=39&count=5")["rows"]
    assert rows == [{"question": f"what is {n}?", "answer": f"it is {n}"} for n in (39, 1)]
    assert questions in [data["name"] for data in studio.get("data")]
    assert not list(studio.workshop.uploads.iterdir())


def test_parts_may_come_twice_but_not_too_early(studio: Studio) -> None:
    upload = studio.post("data/uploads", {"file": "a.jsonl", "size": 14})["id"]
    put = lambda offset, part: studio.http.put(f"/studio/api/data/uploads/{upload}/{offset}", content=part)  # noqa: E731
    assert put(0, b'{"text"').json() == {"size": 7}
    assert put(0, b'{"text"').json() == {"size": 7}
    assert put(9, b"x").json()["error"]["code"] == "DataError"
    assert put(7, b': "a"}\n').json() == {"size": 14}
    task = studio.wait(studio.post(f"data/uploads/{upload}/import", {"file": "a.jsonl"})["task"])
    assert task["result"]["name"] == "a"


def test_a_file_that_is_read_wrongly_is_read_as_told(studio: Studio) -> None:
    task = studio.upload("latin.csv", "testo;voto\nperché;sì\n".encode("latin-1"), layout={"encoding": "latin-1"})
    name = task["result"]["name"]
    assert studio.get(f"data/{name}/rows")["rows"] == [{"testo;voto": "perché;sì"}]
    layout = {"encoding": "latin-1", "delimiter": ";"}
    task = studio.upload("latin.csv", "testo;voto\nperché;sì\n".encode("latin-1"), layout=layout)
    name = task["result"]["name"]
    assert name == "latin-2"
    assert studio.get(f"data/{name}/rows")["rows"] == [{"testo": "perché", "voto": "sì"}]


def test_a_file_of_no_rows_fails_with_advice(studio: Studio) -> None:
    task = studio.upload("nothing.csv", b"\xff\xfe\x00")
    assert task["status"] == "failed"
    assert task["failure"]["kind"] == "DataError"
    assert task["failure"]["fix"]
    assert "nothing" not in [data["name"] for data in studio.get("data")]


def test_an_audit_names_rows_and_the_fix_is_a_new_version(studio: Studio, questions: str) -> None:
    audit = studio.wait(studio.post(f"data/{questions}/audit", {"version": 1})["task"])["result"]
    assert "characters" in audit["shape"]
    (duplicates,) = [finding for finding in audit["findings"] if finding["kind"] == "duplicate"]
    assert (audit["rows"], duplicates["rows"], duplicates["mend"]) == (41, [40], "remove")
    fixed = studio.wait(studio.post(f"data/{questions}/fix", {"version": 1})["task"])["result"]
    assert (fixed["version"], fixed["kept"], fixed["removed"]) == (2, 40, 1)
    newest, first = studio.get(f"data/{questions}")["versions"]
    assert (newest["rows"], first["rows"]) == (40, 41)
    assert newest["origin"] == ["fix", {"of": 1, "removed": 1, "repaired": 0}]


ODD = [{"frage": f"what is {n}?", "antwort": f"it is {n}", "note": "-"} for n in range(12)]


def test_columns_of_any_name_are_read_as_chosen(studio: Studio) -> None:
    content = "".join(json.dumps(row) + "\n" for row in ODD).encode()
    name = studio.upload("odd.jsonl", content)["result"]["name"]
    assert studio.post(f"data/{name}/examples", {"version": 1})["format"] is None
    assert studio.get(f"recipes/suggestion/{name}")["objective"] is None
    formats = {format["name"]: format for format in studio.get("recipes/row-formats")}
    assert formats["question"]["required"] == ["question", "answer"]
    assert "sft" in formats["question"]["objectives"]
    reading = {"version": 1, "format": "question", "mapping": {"question": "frage", "answer": "antwort"}}
    read = studio.post(f"data/{name}/examples", reading)
    assert [(one["prompt"], one["answer"]) for one in read["examples"]][:2] == [
        ("what is 0?", "it is 0"),
        ("what is 1?", "it is 1"),
    ]
    assert read["ignored"] == ["note"]
    half = studio.post(f"data/{name}/examples", {**reading, "mapping": {"question": "frage"}})
    assert "answer" in half["examples"][0]["error"][0]
    assert studio.http.put(f"/studio/api/data/{name}/reading", json=reading).status_code == 200
    # Everything that reads the rows from now on reads them so.
    assert studio.get(f"recipes/suggestion/{name}")["objective"] == "sft"
    made = studio.post("recipes/make", {"data": name, "model": "m", "method": "lora"})["document"]
    assert made["data"]["train"]["mapping"] == reading["mapping"]
    fixed = studio.wait(studio.post(f"data/{name}/fix", {"version": 1})["task"])
    assert fixed["status"] == "done", fixed
    assert [version["reading"] for version in studio.get(f"data/{name}")["versions"]] == [
        {"format": "question", "mapping": reading["mapping"]}
    ] * 2


def test_an_unknown_format_is_refused(studio: Studio, questions: str) -> None:
    refusal = studio.refusal("PUT", f"data/{questions}/reading", {"version": 1, "format": "unknown"})
    assert "format" in f"{refusal['where']} {refusal['message']}"


def test_what_is_not_there_is_said(studio: Studio) -> None:
    assert studio.refusal("GET", "data/unknown")["message"] == "no such data set"
    assert studio.http.get("/studio/api/data/a%2fb").status_code == 404
    assert studio.refusal("POST", "data/uploads/upload-1/import", {"file": "a.csv"})["message"] == "no such upload"
    assert studio.refusal("POST", "data/uploads", {"file": "a", "size": 1 << 60})["code"] == "DiskError"
    assert studio.refusal("POST", "data/uploads", {"file": "a"})["where"] == "size"


def test_only_the_file_that_was_sent_is_read(studio: Studio, tmp_path: Path) -> None:
    secret = tmp_path / "secret.jsonl"
    secret.write_text('{"text": "secret"}\n', encoding="utf-8")
    upload = studio.post("data/uploads", {"file": "a.jsonl", "size": 1})["id"]
    body = {"file": "a.jsonl", "layout": {"path": str(secret)}}
    assert studio.refusal("POST", f"data/uploads/{upload}/import", body)["where"] == "layout.path"


def test_a_hostile_name_and_hostile_rows_stay_text(studio: Studio) -> None:
    rows = [{"<b>": "<script>alert(1)</script>"}, {"<b>": "\u202eevil"}, {"<b>": "x" * 100_000}]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    task = studio.upload("../../<script>.jsonl", content)
    name = task["result"]["name"]
    assert name == "script"
    assert studio.get(f"data/{name}/rows")["rows"] == rows
    answer = studio.http.delete(f"/studio/api/data/{name}")
    assert answer.status_code == 200
    assert name not in [data["name"] for data in studio.get("data")]
