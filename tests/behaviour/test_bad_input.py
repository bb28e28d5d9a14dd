"""Bad input: each gives an error that says what, where and what to do, with exit code 2, and harms nothing."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import bottega
from bottega.cli.commands import app
from bottega.data.sources import read
from bottega.errors import BottegaError, CheckpointError, DataError, Diverged, ModelError, RecipeError, RunError
from bottega.recipe.schema import Recipe
from bottega.runs.atomic_files import verify_folder
from bottega.runs.store import RunStore
from bottega.training.preview import dry_run
from making import make_model, make_tokenizer, write_jsonl

ROW = {"prompt": "the cat", "completion": " sat on the mat"}
LONG = {"prompt": "the cat ran " * 200, "completion": " sat"}
PAIR = {"prompt": "the cat", "chosen": " sat", "rejected": " ran"}
LABELLED = [{"text": "a cat", "label": "x"}, {"text": "a dog", "label": "y"}]
SHAPE = {
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "intermediate_size": 48,
    "num_attention_heads": 4,
}
JSON_ROW = json.dumps(ROW).encode()

Write = Callable[..., Path]


def chat(*turns: tuple[Any, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


CHAT = chat(("user", "the cat"), ("assistant", "sat"))


def refused(kind: type[BottegaError], call: Callable[[], Any], *words: str, at: str = "") -> BottegaError:
    """The error `call` ends in: of this kind, with these words, with a remedy, and a place that ends in `at`."""
    with pytest.raises(BottegaError) as caught:
        call()
    error = caught.value
    assert isinstance(error, kind), f"{type(error).__name__}: {error}"
    assert error.exit_code == (1 if kind is Diverged else 2)
    for word in words:
        assert word in str(error)
    assert error.where
    assert error.where.endswith(at)
    assert error.fix, f"no remedy: {error}"
    assert str(error).endswith(f"\n  → {error.fix}")
    return error


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with what it holds."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def write(tmp_path: Path, llama: Path) -> Write:
    """Writes rows (or the bytes of a file; None: no file) and a recipe that trains on them; returns the recipe."""

    def _write(rows: Any = (ROW,), *, file: str = "data.jsonl", kind: str = "sft", **sections: Any) -> Path:
        if isinstance(rows, bytes):
            (tmp_path / file).write_bytes(rows)
        elif rows is not None:
            write_jsonl(tmp_path / file, list(rows))
        document: dict[str, Any] = {
            "model": {"base": str(llama)},
            "data": {"train": file},
            "objective": {"kind": kind},
            "devices": {"device": "cpu"},
        }
        for name, section in sections.items():
            document[name] = {**document.get(name, {}), **section} if isinstance(section, dict) else section
        (tmp_path / "recipe.yaml").write_text(json.dumps(document), encoding="utf-8")
        return tmp_path / "recipe.yaml"

    return _write


def counts(recipe: Path, *overrides: str) -> dict[str, Any]:
    return dry_run(Recipe.load(recipe, *overrides))


def run(recipe: Path, *overrides: str, out: Path | None = None) -> list[bottega.events.Event]:
    """Every event of a run in the recipe's folder `out`."""
    return list(bottega.train(Recipe.load(recipe, *overrides), out or recipe.parent / "out"))


@pytest.fixture
def copied(llama: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to be damaged."""
    return Path(shutil.copytree(llama, tmp_path / "copied"))


# Data files


@pytest.mark.parametrize(
    ("file", "content", "at", "words"),
    [
        ("data.jsonl", b"", "data.jsonl", ["no rows"]),
        ("data.jsonl", b" \n\n\t\n", "data.jsonl", ["no rows"]),
        ("data.jsonl", b"\xef\xbb\xbf", "data.jsonl", ["no rows"]),
        ("data.json", b"", "data.json", ["no rows"]),
        ("data.json", b"[]", "data.json", ["no rows"]),
        ("data.txt", b"\n \n", "data.txt", ["no rows"]),
        ("data.csv", b"", "data.csv", ["no rows"]),
        ("data.csv", b"prompt,completion\n", "data.csv", ["no rows"]),
        ("data.jsonl", JSON_ROW + b"\n\n" + b'{"prompt": "a", \n', "data.jsonl line 3", ["broken JSON"]),
        ("data.jsonl", JSON_ROW + b"\n" + JSON_ROW[:-9], "data.jsonl line 2", ["broken JSON"]),
        ("data.json", b"[\n" + JSON_ROW + b',\n{"prompt": \n]', "data.json line 4", ["broken JSON"]),
        ("data.json", b"[" + JSON_ROW + b",\n" + JSON_ROW, "data.json line 2", ["broken JSON"]),
        ("data.json", JSON_ROW, "data.json line 1", ["object", "list of rows"]),
        ("data.json", b"[\n" + JSON_ROW + b",\n\n[1]]", "data.json line 4", ["list", "row"]),
        ("data.jsonl", JSON_ROW + b"\n[1, 2]\n", "data.jsonl line 2", ["list", "row"]),
        ("data.jsonl", JSON_ROW + b'\n"text"\n', "data.jsonl line 2", ["string", "row"]),
        ("data.jsonl", JSON_ROW + b"\nnull\n", "data.jsonl line 2", ["null", "row"]),
        ("data.jsonl", JSON_ROW + b"\n17\n", "data.jsonl line 2", ["number", "row"]),
        ("data.jsonl", JSON_ROW + b"\r\n\x00\x00\r\n", "data.jsonl line 2", ["broken JSON"]),
        ("data.jsonl", JSON_ROW + b'\n{"prompt": "caf\xe9"}', "data.jsonl line 2", ["UTF-8", "0xe9"]),
        ("data.json", b"[\n\n" + b'{"prompt": "caf\xe9"}]', "data.json line 3", ["UTF-8", "0xe9"]),
        ("data.csv", b"prompt,completion\na,b\ncaf\xe9,b\n", "data.csv line 3", ["UTF-8", "0xe9"]),
        ("data.txt", b"a cat\nin a caf\xe9\n", "data.txt line 2", ["UTF-8", "0xe9"]),
        ("data.jsonl", JSON_ROW + b"\n" + b"[" * 100_000, "data.jsonl line 2", []),
        ("data.jsonl", JSON_ROW + b'\n{"a": ' + b"[" * 90_000 + b"]" * 90_000 + b"}", "data.jsonl line 2", []),
        ("data.json", b"[" * 100_000 + b"]" * 100_000, "data.json line 1", []),
        ("data.jsonl", JSON_ROW + b'\n{"a": ' + b"9" * 5000 + b"}", "data.jsonl line 2", []),
        ("data.csv", b"prompt,completion\na,b\na,b,c\n", "data.csv line 3", ["3 columns", "2"]),
        ("data.csv", b"prompt,completion\na,b\na\n", "data.csv line 3", ["1 columns", "2"]),
        ("data.csv", b'prompt,completion\n"a\nb",c\na,b,c\n', "data.csv line 4", ["3 columns", "2"]),
        ("data.tsv", b"prompt\tcompletion\na\tb\tc\n", "data.tsv line 2", ["3 columns", "2"]),
        ("data.csv", b'prompt,completion\na,b\na,"b\na,b\na,b\n', "data.csv line 3", []),
        ("data.csv", b"prompt,completion,completion\na,b,c\n", "data.csv line 1", ["completion"]),
        ("data.parquet", b"PAR1", "data.parquet row 1", ["Parquet"]),
        ("data.xlsx", b"PK", "data.xlsx", [".xlsx", "CSV"]),
        ("data", b"{}", "data", ["suffix", ".jsonl"]),
    ],
)
def test_a_file_that_cannot_be_read(write: Write, file: str, content: bytes, at: str, words: list[str]) -> None:
    refused(DataError, lambda: counts(write(content, file=file)), *words, at=at)


def test_another_encoding_is_not_called_latin(write: Write) -> None:
    error = refused(DataError, lambda: counts(write(json.dumps(ROW).encode("utf-16-le"))), at="data.jsonl line 1")
    assert "UTF-16" in str(error)


@pytest.mark.parametrize(
    "name", ["none.jsonl", "recipe.yaml/none.jsonl", "a" * 300 + ".jsonl", "a\0b.jsonl", "~nobody-by-this-name/a.jsonl"]
)
def test_a_missing_file(write: Write, name: str) -> None:
    error = refused(BottegaError, lambda: counts(write(None, data={"train": name})))
    assert Path(name).name in str(error)


@pytest.mark.parametrize("name", [".", "", "folder.jsonl"])
def test_a_folder_for_a_file(write: Write, tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    refused(BottegaError, lambda: counts(write(None, data={"train": name})), str(tmp_path))


def test_a_link_to_itself(write: Write, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").symlink_to("data.jsonl")
    refused(BottegaError, lambda: counts(write(None)), "data.jsonl")


@pytest.mark.parametrize("name", ["train", "validation"])
def test_an_empty_list_of_files(write: Write, name: str) -> None:
    refused(BottegaError, lambda: counts(write(data={name: []}, evaluate={} if name == "validation" else None)), name)


def test_a_missing_validation_file(write: Write) -> None:
    refused(DataError, lambda: counts(write(data={"validation": "none.jsonl"})), "no such file", at="none.jsonl")


def test_files_of_one_name_are_told_apart(write: Write, tmp_path: Path) -> None:
    (tmp_path / "held").mkdir()
    write_jsonl(tmp_path / "held" / "data.jsonl", [ROW, {**ROW, "completion": ""}])
    refused(DataError, lambda: counts(write(data={"validation": "held/data.jsonl"})), "held/data.jsonl line 2")


@contextmanager
def unprivileged() -> Iterator[None]:
    """Without root's right to open anything."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def closed() -> Iterator[Path]:
    """A folder with an unreadable file `data.jsonl` and a folder `shut` that cannot be entered, holding the same."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "shut").mkdir()
        for path in (folder / "data.jsonl", folder / "shut" / "data.jsonl"):
            path.write_bytes(JSON_ROW)
            path.chmod(0)
        folder.chmod(0o555)
        (folder / "shut").chmod(0)
        yield folder
        folder.chmod(0o755)
        (folder / "shut").chmod(0o755)


@pytest.mark.parametrize("name", ["data.jsonl", "shut/data.jsonl"])
def test_an_unreadable_file(closed: Path, name: str) -> None:
    with unprivileged():
        refused(DataError, lambda: list(read(closed / name)), "ermission", at=name)


@pytest.mark.parametrize("name", ["data.jsonl", "shut/data.jsonl"])
def test_an_unreadable_recipe(closed: Path, name: str) -> None:
    with unprivileged():
        refused(RecipeError, lambda: Recipe.load(closed / name), "ermission", at=name)


@pytest.mark.parametrize("name", ["out", "shut/out"])
def test_an_output_folder_that_cannot_be_made(write: Write, closed: Path, name: str) -> None:
    recipe = Recipe.load(write())
    with unprivileged():
        refused(RunError, lambda: list(bottega.train(recipe, closed / name)), "ermission", at=name)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("data.jsonl", b"\xef\xbb\xbf" + JSON_ROW),
        ("data.jsonl", JSON_ROW + b"\r\n\r\n"),
        ("data.ndjson", b"\n\n  " + JSON_ROW + b"  \n"),
        ("data.JSONL", JSON_ROW),
        ("data.json", b"\xef\xbb\xbf[" + JSON_ROW + b"]\n"),
        ("data.json", b"\r\n[\r\n" + JSON_ROW + b"\r\n]"),
        ("data.csv", b"\xef\xbb\xbfprompt,completion\r\nthe cat, sat\r\n"),
        ("data.csv", b'prompt,completion\n"the, cat"," sat\n\n""on"" the mat"\n'),
        ("data.tsv", b"prompt\tcompletion\nthe, cat\t sat\n\n"),
        ("data.jsonl", json.dumps({"prompt": "a\0b", "completion": " \0"}).encode()),
        ("data.jsonl", '{"prompt": "👩‍👩‍👧 é", "completion": " 🎉\u2028🎉"}'.encode()),
        ("data.jsonl", json.dumps({"prompt": "👩‍👩‍👧", "completion": "🎉"}).encode()),
        ("data.jsonl", json.dumps({**ROW, "more": [[{"a": None}]] * 9}).encode()),
    ],
)
def test_odd_files_that_are_sound(write: Write, file: str, content: bytes) -> None:
    found = counts(write(content, file=file))
    assert (found["examples"], found["dropped"]) == (1, {})
    assert found["labelled_tokens"] > 0


def test_a_row_of_a_hundred_thousand_characters(write: Write) -> None:
    text = {"text": "a" * 100_000}
    found = counts(write([text], kind="causal"))
    assert found["labelled_tokens"] >= 100_000
    assert found["examples"] == -(-found["labelled_tokens"] // 128)
    found = counts(write([ROW, {"prompt": text["text"], "completion": "b"}]))
    assert (found["examples"], found["dropped"], found["truncated"]) == (2, {}, 1)
    found = counts(write(b"prompt,completion\na,b\nc," + b"d" * 200_000, file="data.csv"))
    assert (found["examples"], found["dropped"]) == (1, {"longer than max_length 128": 1})


# Rows


@pytest.mark.parametrize(
    ("kind", "bad", "at"),
    [
        ("sft", {**ROW, "completion": ""}, "field completion"),
        ("sft", {**ROW, "completion": " \n"}, "field completion"),
        ("sft", {**ROW, "completion": None}, "field completion"),
        ("sft", {"prompt": "the cat"}, "field completion"),
        ("sft", {**ROW, "prompt": 5}, "field prompt"),
        ("sft", {**ROW, "prompt": ["the", "cat"]}, "field prompt"),
        ("sft", {}, "field prompt"),
        ("sft", {"prompt": "\ud800", "completion": " sat"}, "field prompt"),
        ("causal", {"text": ""}, "field text"),
        ("causal", {"txt": "a cat"}, "field text"),
        ("causal", {"text": "a \udc00"}, "field text"),
        ("dpo", {"prompt": "the cat", "chosen": " sat"}, "field rejected"),
        ("dpo", {"prompt": "the cat", "chosen": "", "rejected": " ran"}, "field chosen"),
        ("dpo", {"chosen": " sat", "rejected": " ran"}, "field prompt"),
        ("dpo", {**PAIR, "prompt": 5}, "field prompt"),
        ("dpo", {**PAIR, "rejected": " sat"}, "field rejected"),
        ("dpo", {**PAIR, "rejected": CHAT["messages"]}, "field rejected"),
        ("dpo", {**PAIR, "chosen": CHAT["messages"]}, "field rejected"),
        ("reward", {**PAIR, "rejected": " sat"}, "field rejected"),
        ("classify", {"text": "a cat"}, "field label"),
        ("classify", {"text": "a cat", "label": None}, "field label"),
        ("classify", {"text": "a cat", "label": ""}, "field label"),
        ("classify", {"text": "a cat", "label": ["x"]}, "field label"),
        ("classify", {"text": "a cat", "label": float("nan")}, "field label"),
        ("classify", {"text": 3, "label": "x"}, "field text"),
        ("classify", {"text": "\ud800", "label": "x"}, "field text"),
    ],
)
def test_an_unsound_row(write: Write, kind: str, bad: dict[str, Any], at: str) -> None:
    """It ends the run, or is left out and counted where `data.bad_rows` says so."""
    good = {"sft": [ROW], "causal": [{"text": "a cat"}], "classify": LABELLED}.get(kind, [PAIR])
    recipe = write([*good, bad], kind=kind)
    refused(DataError, lambda: counts(recipe), at=f"data.jsonl line {len(good) + 1}, {at}")
    found = counts(recipe, "data.bad_rows=drop")
    assert (found["examples"], sum(found["dropped"].values())) == (len(good), 1)


@pytest.mark.parametrize(
    ("bad", "at"),
    [
        (chat(("user", "the cat")), "field messages"),
        (chat(("user", "the cat"), ("assistant", "")), "field messages[1], field content"),
        (chat(("user", "the cat"), ("assistant", None)), "field messages[1], field content"),
        (chat(("user", "the cat"), ("assistant", [5])), "field messages[1], field content"),
        (chat(("user", 5), ("assistant", "sat")), "field messages[0], field content"),
        (chat(("narrator", "the cat"), ("assistant", "sat")), "field messages[0]"),
        (chat(([], "the cat"), ("assistant", "sat")), "field messages[0]"),
        ({"messages": []}, "field messages"),
        ({"messages": "the cat"}, "field messages"),
        ({"messages": ["the cat"]}, "field messages[0]"),
        ({"messages": [{"role": "assistant"}]}, "field messages[0]"),
        ({"prompt": "the cat"}, "field messages"),
        *(
            (
                {
                    "messages": [
                        {"role": "user", "content": "a"},
                        {"role": "assistant", "content": "b", "weight": weight},
                    ]
                },
                "field messages[1]",
            )
            for weight in (-1, -0.5, "1", True, float("nan"), float("inf"), 1e300)
        ),
    ],
)
def test_an_unsound_conversation(write: Write, bad: dict[str, Any], at: str) -> None:
    recipe = write([CHAT, bad])
    refused(DataError, lambda: counts(recipe), at=f"data.jsonl line 2, {at}")
    assert counts(recipe, "data.bad_rows=drop")["examples"] == 1


@pytest.mark.parametrize(
    ("first", "field"),
    [
        ({"instruction": "the cat", "output": ""}, "output"),
        ({"instruction": "", "output": "sat"}, "instruction"),
        ({"instruction": "the cat", "output": "sat", "input": 5}, "input"),
        ({"instruction": "the cat", "output": "sat", "system": ["s"]}, "system"),
        ({"text": None}, "text"),
    ],
)
def test_an_unsound_first_row(write: Write, first: dict[str, Any], field: str) -> None:
    refused(DataError, lambda: counts(write([first])), at=f"data.jsonl line 1, field {field}")


def test_fields_that_make_no_row(write: Write) -> None:
    refused(DataError, lambda: counts(write([{"a": "b"}])), "fields a", "prompt + completion", at="data.jsonl line 1")
    refused(DataError, lambda: counts(write([{}])), "prompt + completion", at="data.jsonl line 1")


def test_a_csv_row_without_answer(write: Write) -> None:
    recipe = write(b"prompt,completion\na,b\na,\n", file="data.csv")
    refused(DataError, lambda: counts(recipe), "empty completion", at="data.csv line 3, field completion")


def test_a_format_the_objective_does_not_read(write: Write) -> None:
    recipe = write([PAIR], data={"format": "labelled"})
    refused(RecipeError, lambda: counts(recipe), "labelled", "prompted", at="data.format")


def test_a_format_the_rows_have_not(write: Write) -> None:
    recipe = write(data={"format": "text"})
    refused(DataError, lambda: counts(recipe), "text", "prompt", at="data.jsonl line 1, field text")


def test_broken_lines_are_never_dropped(write: Write) -> None:
    """`bad_rows: drop` is for rows; a file that cannot be read is another matter."""
    recipe = write(JSON_ROW + b"\n{", data={"bad_rows": "drop"})
    refused(DataError, lambda: counts(recipe), "broken JSON", at="data.jsonl line 2")


def test_chosen_equal_to_rejected_everywhere(write: Write) -> None:
    recipe = write([{**PAIR, "rejected": " sat"}] * 3, kind="dpo", data={"bad_rows": "drop"})
    refused(DataError, lambda: counts(recipe), "3 rows", "chosen equal to rejected", at="data.jsonl")


def test_dropped_rows_are_told(write: Write) -> None:
    recipe = write([PAIR, {**PAIR, "rejected": " sat"}, {**PAIR, "chosen": " ran"}], kind="dpo")
    events = run(recipe, "data.bad_rows=drop")
    (note,) = [event for event in events if event.type == "noted" and event.subject == "dropped"]
    assert note.details == {"chosen equal to rejected": 2}


# Mapping, template


@pytest.mark.parametrize(("name", "hint"), [("anser", "did you mean answer?"), ("zzz", "question, answer")])
@pytest.mark.parametrize("key", ["mapping", "text_template"])
def test_a_missing_field(write: Write, key: str, name: str, hint: str) -> None:
    named = {"mapping": {"prompt": "question", "completion": name}, "text_template": f"Q {{question}} A {{{name}}}"}
    recipe = write([{"question": "the cat", "answer": "sat"}], data={key: named[key]})
    error = refused(DataError, lambda: counts(recipe), f"data.{key}", at=f"data.jsonl line 1, field {name}")
    assert hint in error.fix


def test_a_field_missing_further_down(write: Write) -> None:
    rows = [{"q": "the cat", "a": " sat"}, {"q": "the cat"}]
    recipe = write(rows, data={"mapping": {"prompt": "q", "completion": "a"}})
    refused(DataError, lambda: counts(recipe), "data.mapping", at="data.jsonl line 2, field a")
    recipe = write(rows, data={"text_template": "{q}{a}"})
    refused(DataError, lambda: counts(recipe), "data.text_template", at="data.jsonl line 2, field a")


def test_a_mapping_to_a_field_nobody_reads(write: Write) -> None:
    recipe = write([{"q": "the cat", "a": " sat"}], data={"mapping": {"promt": "q", "completion": "a"}})
    refused(DataError, lambda: counts(recipe), "promt", "prompt + completion", at="data.jsonl line 1")


@pytest.mark.parametrize(
    "template",
    [
        "",
        "no field",
        "Q {q",
        "Q }",
        "Q {}",
        "Q {0}",
        "{q:d} {a}",
        "{q!x} {a}",
        "{q:{a}} {a}",
        "{q.__class__}",
        "{q[0]}",
    ],
)
def test_a_template_that_is_none(write: Write, template: str) -> None:
    recipe = write([{"q": "the cat", "a": "sat"}], data={"text_template": template})
    refused(BottegaError, lambda: counts(recipe), "text_template")


def test_a_template_with_braces_of_its_own(write: Write) -> None:
    recipe = write([{"q": "the cat", "a": "sat"}], data={"text_template": "{q} is {a} {{a}}"})
    assert counts(recipe)["examples"] == 1


@pytest.mark.parametrize(
    ("bad", "at"), [({"q": "x", "a": ""}, "field a"), ({"q": 5, "a": "y"}, "field q"), ({"q": "x", "a": 5}, "field a")]
)
def test_a_template_row_without_answer(write: Write, bad: dict[str, Any], at: str) -> None:
    recipe = write([{"q": "the cat", "a": "sat"}, bad], data={"text_template": "{q} {a}"})
    refused(DataError, lambda: counts(recipe), at=f"data.jsonl line 2, {at}")


@pytest.mark.parametrize(("kind", "row"), [("dpo", PAIR), ("reward", PAIR), ("classify", LABELLED[0])])
def test_a_template_for_an_objective_that_reads_no_text(write: Write, kind: str, row: dict[str, Any]) -> None:
    recipe = write([row], kind=kind, data={"text_template": "{" + next(iter(row)) + "}"})
    refused(RecipeError, lambda: counts(recipe), "text_template")


# Length, labels, split


ANSWERS_AT_LENGTH = {"prompt": LONG["completion"], "completion": LONG["prompt"]}


@pytest.mark.parametrize("too_long", ["shorten", "truncate"])
def test_a_long_prompt_loses_no_label(write: Write, too_long: str) -> None:
    found = counts(write([LONG] * 2, data={"too_long": too_long}))
    assert (found["examples"], found["dropped"], found["truncated"]) == (2, {}, 2)
    assert "2 of 2 training rows (100%) are not learned in full: 2 cut short" in found["notes"]


def test_every_row_too_long(write: Write) -> None:
    refused(
        DataError,
        lambda: counts(write([ANSWERS_AT_LENGTH] * 2)),
        "2 rows",
        "longer than max_length 128",
        at="data.jsonl",
    )


def test_every_validation_row_too_long(write: Write, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "held.jsonl", [ANSWERS_AT_LENGTH])
    recipe = write(data={"validation": "held.jsonl"})
    refused(DataError, lambda: counts(recipe), "longer than max_length 128", at="held.jsonl")


def test_every_validation_row_unsound(write: Write, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "held.jsonl", [{**ROW, "completion": ""}])
    recipe = write(data={"validation": "held.jsonl", "bad_rows": "drop"}, evaluate={})
    refused(DataError, lambda: counts(recipe), "empty completion", at="held.jsonl")


def test_a_row_too_long_by_order_an_error(write: Write) -> None:
    recipe = write([ROW, LONG], data={"too_long": "error"})
    refused(DataError, lambda: counts(recipe), "tokens", "max_length 128", at="data.jsonl line 2")


def test_no_weight_anywhere(write: Write) -> None:
    recipe = write([{"messages": [CHAT["messages"][0], {"role": "assistant", "content": "sat", "weight": 0}]}])
    refused(DataError, lambda: counts(recipe), "1 rows", "weight above 0", at="data.jsonl")


@pytest.mark.parametrize("length", [129, 10**9])
def test_max_length_beyond_the_model(write: Write, length: int) -> None:
    recipe = write(data={"max_length": length})
    refused(ModelError, lambda: counts(recipe), str(length), "128", at="data.max_length")


def test_a_validation_label_unseen_in_training(write: Write, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "held.jsonl", [LABELLED[0], {"text": "a tree", "label": "z"}])
    recipe = write(LABELLED, kind="classify", data={"validation": "held.jsonl"})
    refused(DataError, lambda: counts(recipe), "'z'", "x, y", at="held.jsonl line 2, field label")


def test_one_class(write: Write) -> None:
    """It could only be learned by heart, with a loss of nothing."""
    recipe = write([LABELLED[0], {"text": "a dog", "label": "x"}], kind="classify")
    refused(DataError, lambda: counts(recipe), "label", "x")


def test_labels_that_do_not_fit_their_objective(write: Write, tmp_path: Path) -> None:
    listed = {"text": "a cat", "labels": ["x", "y"]}
    refused(
        DataError, lambda: counts(write([listed, listed], kind="classify")), "has a list of labels", at="field labels"
    )
    number = [{"text": "a cat", "label": 0.5}, {"text": "a dog", "label": "much"}]
    refused(
        DataError, lambda: counts(write(number, kind="regress")), "'much' is not a number", at="line 2, field label"
    )
    unknown = {"kind": "classify", "weights": {"z": 2.0}}
    refused(DataError, lambda: counts(write(LABELLED, objective=unknown)), "'z'", "x, y", at="objective.weights")


def test_spans_that_do_not_fit_their_text_or_training(write: Write, tmp_path: Path) -> None:
    def tagged(text: str, start: int, end: int, label: str) -> dict[str, Any]:
        return {"text": text, "spans": [{"start": start, "end": end, "label": label}]}

    sound = tagged("a cat", 2, 5, "animal")
    outside = write([sound, tagged("a dog", 2, 50, "animal")], kind="tag")
    refused(DataError, lambda: counts(outside), "does not fit the text", at="line 2, field spans[0]")
    refused(DataError, lambda: counts(write([{"text": "a cat", "spans": []}], kind="tag")), "no row has a span")
    write_jsonl(tmp_path / "held.jsonl", [sound, tagged("a mat", 2, 5, "thing")])
    unseen = write([sound, sound], kind="tag", data={"validation": "held.jsonl"})
    refused(DataError, lambda: counts(unseen), "'B-thing'", "B-animal", at="held.jsonl line 2, field spans")


def test_an_objective_the_model_has_no_head_for(write: Write, bert: Path) -> None:
    text = {"text": "a cat and a dog"}
    refused(ModelError, lambda: run(write([text], kind="masked")), "left to right")
    encoder = write([text], kind="causal", model={"base": str(bert)})
    refused(
        ModelError,
        lambda: run(encoder, out=encoder.parent / "other"),
        "cannot generate text",
        "classify, tag, masked or contrastive",
    )


def test_numbers_as_labels(write: Write) -> None:
    rows = [{"text": "a cat", "label": 1}, {"text": "a dog", "label": 0}, {"text": "a tree", "label": "1"}]
    assert counts(write(rows, kind="classify"))["labels"] == ["0", "1"]


def test_a_split_that_leaves_a_side_empty(write: Write) -> None:
    for rows in ([ROW], [ROW] * 4):
        refused(DataError, lambda rows=rows: counts(write(rows, data={"validation": 0.5})), at="data.validation")
    found = counts(write([{"text": "the cat sat on the mat"}], kind="causal", data={"validation": 0.5}))
    assert (found["examples"], found["validation_examples"]) == (1, 1)


# Chat templates


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{% for message in %}",
        "{{ messages[7].content.text }}",
        "{{ messages[0].content() }}",
        "{{ 1 / 0 }}",
        "{{ 'a' + 1 }}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        "",
        "{{ messages[0].content }}",
    ],
)
def test_a_chat_template_that_cannot_render(write: Write, tmp_path: Path, template: str) -> None:
    tokenizer = make_tokenizer(tmp_path / "tokenizer", template=template)
    recipe = write([CHAT], model={"tokenizer": str(tokenizer)})
    refused(DataError, lambda: counts(recipe), "template", at="data.jsonl line 1")


def test_a_conversation_the_assistant_begins(write: Write) -> None:
    """It is no bad input: many a chat opens with a greeting."""
    for turns in ([("assistant", "sat")], [("assistant", "hello"), ("user", "the cat"), ("assistant", "sat")]):
        found = counts(write([chat(*turns)]))
        assert (found["examples"], found["dropped"]) == (1, {})


def test_a_conversation_the_template_refuses_is_an_unsound_row(write: Write, tmp_path: Path) -> None:
    template = (
        "{% if messages[0].role != 'user' %}{{ raise_exception('the user speaks first') }}{% endif %}"
        "{% for message in messages %}{{ message.content }}{{ eos_token }}{% endfor %}"
    )
    tokenizer = make_tokenizer(tmp_path / "tokenizer", template=template)
    recipe = write([CHAT, chat(("assistant", "sat"))], model={"tokenizer": str(tokenizer)})
    refused(DataError, lambda: counts(recipe), "the user speaks first", at="data.jsonl line 2")
    found = counts(recipe, "data.bad_rows=drop")
    assert (found["examples"], sum(found["dropped"].values())) == (1, 1)


# Recipes


@pytest.mark.parametrize(
    ("section", "key", "nearest"),
    [
        ("optim", "epoch", "epochs"),
        ("optim", "learning_rte", "lr"),
        ("optim", "lern_rate", "lr"),
        ("data", "formt", "format"),
        ("model", "bsae", "base"),
        ("adapter", "rnak", "rank"),
        ("adapter", "form", "from"),
        ("adapter", "start", None),
        ("evaluate", "evry", "every"),
        ("save", "kep", "keep"),
        ("devices", "devise", "device"),
        ("objective", "weigting", "weighting"),
    ],
)
def test_an_unknown_key(write: Write, section: str, key: str, nearest: str | None) -> None:
    error = refused(RecipeError, lambda: Recipe.load(write(**{section: {key: 1}})), at="recipe.yaml")
    assert error.what == f"unknown key {section}.{key}"
    if nearest:
        assert error.fix == f"did you mean {nearest}?"


def test_an_unknown_section(write: Write) -> None:
    error = refused(RecipeError, lambda: Recipe.load(write(optin={"lr": 1})), "unknown key optin", at="recipe.yaml")
    assert error.fix == "did you mean optim?"


def test_a_misspelt_section_is_named_before_what_it_leaves_missing(tmp_path: Path) -> None:
    text = "model: {base: model}\ndata: {train: rows.jsonl}\nobjectve: {kind: sft}\n"
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    error = refused(RecipeError, lambda: Recipe.load(tmp_path / "recipe.yaml"), "unknown key objectve")
    assert error.fix == "did you mean objective?"


def test_an_unknown_key_of_a_shape(write: Write, llama: Path) -> None:
    """Transformers would take it without a word and build another model."""
    shape = {**SHAPE, "num_hiden_layers": 2}
    recipe = write(model={"base": None, "shape": shape, "tokenizer": str(llama)})
    error = refused(BottegaError, lambda: counts(recipe), "num_hiden_layers")
    assert "num_hidden_layers" in error.fix


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ({"kind": "stf"}, ["'stf'", "sft"]),
        (
            {"kind": "ppo-clip"},
            [
                "'ppo-clip'",
                "causal, classify, contrastive, cpo, custom, dpo, grpo, kto, masked, orpo … and 6 more",
            ],
        ),
        ({}, ["kind", "sft"]),
        ({"kind": ["sft"]}, ["sft"]),
        ({"kind": 5}, ["5", "sft"]),
        ({"knd": "sft"}, ["kind"]),
        ("sft", ["objective"]),
        (None, ["objective"]),
    ],
)
def test_an_unknown_objective(write: Write, objective: Any, words: list[str]) -> None:
    recipe = write()
    document = json.loads(recipe.read_text()) | {"objective": objective}
    recipe.write_text(json.dumps(document))
    error = refused(RecipeError, lambda: Recipe.load(recipe), *words, at="recipe.yaml")
    assert "instance of" not in error.what, "the words of pydantic, not of a recipe"


@pytest.mark.parametrize("name", ["model", "data", "objective"])
def test_a_missing_section(write: Write, name: str) -> None:
    recipe = write()
    document = json.loads(recipe.read_text())
    del document[name]
    recipe.write_text(json.dumps(document))
    refused(RecipeError, lambda: Recipe.load(recipe), name, "missing", at="recipe.yaml")


@pytest.mark.parametrize(
    "override",
    [
        "optim.lr=0",
        "optim.lr=-1e-4",
        "optim.lr=abc",
        "optim.lr=.nan",
        "optim.lr=.inf",
        "optim.epochs=0",
        "optim.epochs=.inf",
        "optim.steps=0",
        "optim.steps=1.5",
        "optim.warmup=-1",
        "optim.warmup=.inf",
        "optim.floor=2",
        "optim.clip=0",
        "optim.weight_decay=.inf",
        "optim.betas=[2, 3]",
        "optim.betas=[-0.1, 0.9]",
        "optim.betas=[0.9]",
        "optim.tokens=0",
        "optim.examples=-1",
        "optim.schedule=cosin",
        "data.validation=0",
        "data.validation=1",
        "data.validation=1.5",
        "data.validation=-0.1",
        "data.validation=.nan",
        "data.max_length=1",
        "data.too_long=cut",
        "data.too_long=split",
        "data.format=chat",
        "data.mapping=[prompt]",
        "data.train=5",
        "adapter.rank=0",
        "adapter.alpha=0",
        "adapter.dropout=1",
        "save.every=0",
        "save.keep=0",
        "evaluate.every=0",
        "evaluate.stop_after=0",
        "devices.device=tpu",
        "devices.threads=0",
        "model.dtype=int8",
        "model.base=5",
        "name=../elsewhere",
        "name=",
        "seed=one",
        "recipe=2",
        "objective.weighting=words",
    ],
)
def test_a_quantity_out_of_range(write: Write, override: str) -> None:
    refused(RecipeError, lambda: Recipe.load(write(), override), override.split("=")[0])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["optim.steps=1", "optim.epochs=1"], ["steps", "epochs"]),
        (["optim.examples=1", "optim.update_tokens=1"], ["examples", "update_tokens"]),
        (["model.shape={model_type: llama}"], ["tokenizer"]),
        (["model.base=models/x", "model.shape={model_type: llama}"], ["base", "shape"]),
        (["model.base=null"], ["base", "shape"]),
        (["model.base=null", "model.shape={model_type: llama}"], ["tokenizer"]),
        (["model.base=null", "model.shape={hidden_size: 3}", "model.tokenizer=x"], ["model_type"]),
        (["evaluate.every=1"], ["evaluate", "data.validation"]),
        (["model.base=null", "model.shape={model_type: llama}", "model.tokenizer=x", "adapter.rank=4"], ["adapter"]),
    ],
)
def test_keys_that_contradict_each_other(write: Write, overrides: list[str], words: list[str]) -> None:
    refused(RecipeError, lambda: Recipe.load(write(), *overrides), *words)


@pytest.mark.parametrize("section", ["model", "data", "optim", "adapter", "evaluate", "save", "devices"])
@pytest.mark.parametrize("value", ["text", []])
def test_a_section_that_is_none(write: Write, section: str, value: Any) -> None:
    error = refused(RecipeError, lambda: Recipe.load(write(**{section: value})), section, at="recipe.yaml")
    assert "instance of" not in error.what, "the words of pydantic, not of a recipe"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"# nothing but a comment\n",
        b"- model\n- data\n",
        b"a recipe\n",
        b"null",
        b"model: {base: [\n",
        b"model:\n\tbase: x\n",
        b"model: {base: caf\xe9}",
        b"model: \x00",
        b"\x89PNG\r\n\x1a\n",
        b"model: 1\n---\nmodel: 2\n",
        b"model: !!python/object/apply:os.system [true]\n",
        b"model: *nowhere\n",
        b"&a\nmodel: *a\ndata: *a\nobjective: *a\n",
        b"1: 2\n",
        b"[" * 5000,
        b"model: " + b"[" * 5000 + b"]" * 5000,
    ],
)
def test_a_recipe_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "recipe.yaml").write_bytes(content)
    refused(RecipeError, lambda: Recipe.load(tmp_path / "recipe.yaml"), at="recipe.yaml")


def test_a_key_given_twice(write: Write) -> None:
    """YAML readers take the last and forget the first without a word."""
    recipe = write()
    for twice in ("optim: {lr: 1.0e-4}\noptim: {steps: 3}\n", "optim: {lr: 1.0e-4, lr: 1.0e-5}\n"):
        recipe.write_text(f"model: {{base: x}}\ndata: {{train: x}}\nobjective: {{kind: sft}}\n{twice}")
        refused(RecipeError, lambda: Recipe.load(recipe), "optim" if "steps" in twice else "lr", at="recipe.yaml")


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    for name in ("none.yaml", "none/recipe.yaml", ".", "loop.yaml", "a" * 300, "a\0b"):
        refused(RecipeError, lambda name=name: Recipe.load(tmp_path / name), at=str(tmp_path / name))


@pytest.mark.parametrize(
    "override",
    [
        "optim.lr",
        "=3",
        ".=3",
        "optim.=3",
        "optim..lr=3",
        "optim=3",
        "optim.lr.x=3",
        "data.train.x=3",
        "optim.lr=[1",
        "optim.lr={",
        "optim.lr=: :",
        "optim.lr=!!python/name:os.system",
        "optim.lr='",
        "optm.lr=3",
    ],
)
def test_an_override_that_is_none(write: Write, override: str) -> None:
    refused(RecipeError, lambda: Recipe.load(write(), override))


def test_a_device_that_is_not_here(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(RunError, lambda: run(write(devices={"device": "cuda"})), "CUDA", at="devices.device")


# Models


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./models/none", "models/none", "none"])
def test_a_base_that_does_not_exist(write: Write, name: str) -> None:
    recipe = write(model={"base": name})
    error = refused(ModelError, lambda: counts(recipe), "no such folder")
    assert Path(error.where).name == Path(name).name


@pytest.mark.parametrize("key", ["base", "tokenizer"])
@pytest.mark.parametrize("name", ["./recipe.yaml", "./none"])
def test_a_model_path_that_is_no_folder(write: Write, key: str, name: str) -> None:
    error = refused(ModelError, lambda: counts(write(model={key: name})), at=Path(name).name)
    assert "Repo id" not in error.what, "a path is not asked of the hub"


def test_a_folder_without_tokenizer(write: Write, copied: Path) -> None:
    for path in copied.glob("tokenizer*"):
        path.unlink()
    refused(ModelError, lambda: run(write(model={"base": str(copied)})), "no tokenizer", "model.tokenizer", at="copied")


def test_pickled_weights(write: Write, copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    torch.save({}, copied / "pytorch_model.bin")
    refused(ModelError, lambda: run(write(model={"base": str(copied)})), "pickle", "pytorch_model.bin", at="copied")


def test_a_folder_without_weights(write: Write, copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    refused(ModelError, lambda: run(write(model={"base": str(copied)})), "no weights", "safetensors", at="copied")
    assert not (copied.parent / "out" / "model").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_a_file_of_the_model_cut_off(write: Write, copied: Path, name: str, keep: float) -> None:
    content = (copied / name).read_bytes()
    (copied / name).write_bytes(content[: int(keep * len(content))])
    refused(ModelError, lambda: run(write(model={"base": str(copied)})), at="copied")


@pytest.mark.parametrize(
    ("change", "word"),
    [({"intermediate_size": 40}, "mlp"), ({"num_hidden_layers": 3}, "layers.2"), ({"model_type": "zzz"}, "zzz")],
)
def test_a_config_of_another_model(write: Write, copied: Path, change: dict[str, Any], word: str) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | change))
    refused(ModelError, lambda: run(write(model={"base": str(copied)})), word, at="copied")


def test_a_tokenizer_with_more_tokens_than_the_model(write: Write, copied: Path) -> None:
    config = json.loads((copied / "tokenizer.json").read_text())
    added = {"id": 300, "content": "zebra", "special": False, "normalized": False}
    added |= {"single_word": False, "lstrip": False, "rstrip": False}
    config["added_tokens"].append(added)
    (copied / "tokenizer.json").write_text(json.dumps(config))
    rows = [{"prompt": "the zebra", "completion": " sat"}]
    refused(ModelError, lambda: run(write(rows, model={"base": str(copied)})), "tokenizer", "300", "300")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"model_type": "zzz"}, "zzz"),
        ({"num_attention_heads": 5}, "heads"),
        ({"hidden_size": "big"}, "hidden_size"),
        ({"vocab_size": 10}, "vocab"),
    ],
)
def test_a_shape_that_is_no_model(write: Write, llama: Path, change: dict[str, Any], word: str) -> None:
    recipe = write(model={"base": None, "shape": SHAPE | change, "tokenizer": str(llama)})
    error = refused(ModelError, lambda: run(recipe), word)
    assert len(error.what) < 300, "a list of every model there is helps nobody"


def test_an_encoder_cannot_write(write: Write, bert: Path) -> None:
    refused(ModelError, lambda: run(write(model={"base": str(bert)})), "encoder", "classify")


@pytest.mark.parametrize("targets", [["nope"], "nope", ["q_proj", "nope"], "nope(", ["norm"]])
def test_an_adapter_target_that_does_not_exist(write: Write, targets: Any) -> None:
    word = "nope" if "nope" in str(targets) else "orm"
    refused(ModelError, lambda: run(write(adapter={"targets": targets})), word, "all-linear", at="adapter.targets")


@pytest.mark.parametrize("name", ["./none", "nobody/none", "."])
def test_a_folder_that_holds_no_adapter(write: Write, name: str) -> None:
    refused(ModelError, lambda: run(write(adapter={"from": name})), "adapter")


# Output folders


def test_an_output_folder_that_holds_a_run(write: Write) -> None:
    recipe = write()
    out = recipe.parent / "out"
    run(recipe)
    before = files(recipe.parent)
    refused(RunError, lambda: run(recipe), "already holds a run", "--resume", at="out")
    refused(RunError, lambda: run(recipe, "optim.lr=1e-5"), "already holds a run", "--resume", at="out")
    assert files(recipe.parent) == before
    assert not verify_folder(out / "model")


@pytest.mark.parametrize("name", ["thesis.txt", ".hidden", "recipe.yaml", "events.jsonl", "model/model.safetensors"])
def test_an_output_folder_with_unrelated_files(write: Write, tmp_path: Path, name: str) -> None:
    recipe, out = write(), tmp_path / "taken"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("years of work")
    error = refused(RunError, lambda: run(recipe, out=out), "folder is not empty", at="taken")
    assert "--resume" not in error.fix, "there is no run to resume"
    assert files(out) == {name: b"years of work"}


def test_an_output_folder_that_cannot_be(write: Write, tmp_path: Path) -> None:
    recipe = write()
    (tmp_path / "file").write_text("kept")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    before = files(tmp_path)
    for name in ("file", "file/out", "dangling", "loop", "a" * 300, "a\0b"):
        refused(RunError, lambda name=name: run(recipe, out=tmp_path / name), at=name)
    assert files(tmp_path) == before


def test_the_folder_of_a_failed_run_may_be_used_again(write: Write, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "events.jsonl").write_text('{"type": "failed", "step": 0}\n')  # as earlier versions left it
    (tmp_path / "out" / "notes.txt").write_text("kept")
    refused(DataError, lambda: run(write([ROW, {**ROW, "completion": ""}])))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]
    (tmp_path / "out" / "events.jsonl").write_text('{"type": "failed", "step": 0}\n')
    assert run(write())[-1].type == "finished"
    assert (tmp_path / "out" / "notes.txt").read_text() == "kept"


@pytest.mark.parametrize("out", ["taken", "taken/file.txt", "taken/file.txt/tokenizer"])
def test_a_tokenizer_is_not_written_over_files(tmp_path: Path, out: str) -> None:
    data = write_jsonl(tmp_path / "data.jsonl", [ROW])
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file.txt").write_text("kept")
    command(2, "tokenizer", "train", data, "--out", tmp_path / out)
    assert files(tmp_path / "taken") == {"file.txt": b"kept"}


# Resuming


def begun(recipe: Path, saves: int = 2) -> Path:
    """A run of four updates, stopped when it had saved so many checkpoints."""
    settings = ("optim.steps=4", "optim.examples=2", "save.every=1", "save.keep=9")
    events = bottega.train(Recipe.load(recipe, *settings), recipe.parent / "out")
    while saves:
        saves -= next(events).type == "saved"
    events.close()
    return recipe.parent / "out"


@pytest.mark.parametrize("name", ["none", "recipe.yaml", ".", "empty"])
def test_resuming_what_is_not_a_run(write: Write, tmp_path: Path, name: str) -> None:
    write()
    (tmp_path / "empty").mkdir()
    before = files(tmp_path)
    refused(RunError, lambda: list(bottega.resume(tmp_path / name)), "not a run", at=str(tmp_path / name))
    assert files(tmp_path) == before


@pytest.mark.parametrize("name", ["resolved.json", "place.json"])
@pytest.mark.parametrize("content", [b"", b'{"data": {', b"[1]", b"\x00\x00", b"\xff\xfe"])
def test_resuming_a_damaged_run(write: Write, name: str, content: bytes) -> None:
    out = begun(write())
    (out / name).write_bytes(content)
    before = files(out / "checkpoints")
    refused(BottegaError, lambda: list(bottega.resume(out)), str(out))
    assert files(out / "checkpoints") == before


def test_resuming_after_the_log_was_torn(write: Write) -> None:
    out = begun(write())
    log = out / "events.jsonl"
    log.write_bytes(log.read_bytes() + b'\x00\x00\n\n{"type": "step')
    assert list(bottega.resume(out))[-1].type == "finished"


def test_resuming_with_a_changed_data_file(write: Write, tmp_path: Path) -> None:
    out = begun(write())
    log = (out / "events.jsonl").read_bytes()
    before = files(out)
    write_jsonl(tmp_path / "data.jsonl", [ROW, ROW])
    refused(RunError, lambda: list(bottega.resume(out)), "changed", at="data.jsonl")
    after = files(out)
    assert after.pop("events.jsonl").startswith(log)
    assert after == {name: content for name, content in before.items() if name != "events.jsonl"}
    write_jsonl(tmp_path / "data.jsonl", [ROW])
    assert list(bottega.resume(out))[-1].type == "finished"


def test_resuming_without_the_data_file(write: Write, tmp_path: Path) -> None:
    out = begun(write())
    (tmp_path / "data.jsonl").unlink()
    refused(DataError, lambda: list(bottega.resume(out)), "no such file", at="data.jsonl")


def test_resuming_a_run_in_progress(write: Write) -> None:
    out = begun(write())
    with RunStore.open(out):
        before = files(out)
        refused(RunError, lambda: list(bottega.resume(out)), "another process", at="out")
        assert files(out) == before


@pytest.mark.parametrize("damaged", [["step-00000002"], ["step-00000001", "step-00000002"]])
def test_resuming_over_damaged_checkpoints(write: Write, damaged: list[str]) -> None:
    """They are passed over, told of, and made anew."""
    out = begun(write())
    for name in damaged:
        weights = out / "checkpoints" / name / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-4])
    events = list(bottega.resume(out))
    assert [event.type for event in events if getattr(event, "subject", "") == "checkpoint"] == ["noted"] * len(damaged)
    assert events[-1].type == "finished"
    assert [verify_folder(path) for path in (out / "checkpoints").iterdir()] == [""] * 3


# Full disks


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """No file grows beyond `limit` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.slow
def test_a_disk_full_at_a_checkpoint(write: Write) -> None:
    recipe = write()
    out = begun(recipe, saves=1)
    first = out / "checkpoints" / "step-00000001"
    before = files(first)
    limit = (first / "optimizer.safetensors").stat().st_size - 1
    code = f"from resource import *; setrlimit(RLIMIT_FSIZE, ({limit}, {limit})); from bottega.cli import main; main()"
    ended = process("-c", code, "train", "--resume", str(out))
    assert ended.returncode == 2, ended.stderr
    assert "the disk is full" in ended.stderr
    assert f"--resume {out}" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert files(first) == before
    assert not verify_folder(first)
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000001"]
    assert not (out / "model").exists()
    events = list(bottega.resume(out))
    assert (events[0].step, events[-1].type) == (1, "finished")
    assert not verify_folder(out / "model")


def test_a_disk_full_at_the_end(write: Write) -> None:
    out = begun(write(), saves=3)
    with full_disk(10_000):
        refused(CheckpointError, lambda: list(bottega.resume(out)), "the disk is full", f"--resume {out}", at="model")
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["checkpoints"]
    assert [verify_folder(path) for path in (out / "checkpoints").iterdir()] == [""] * 3
    assert list(bottega.resume(out))[-1].type == "finished"


def test_a_disk_full_at_the_start(write: Write) -> None:
    recipe = Recipe.load(write())
    out = Path(recipe.data.train[0].path).parent / "out"
    with full_disk(0):
        refused(BottegaError, lambda: list(bottega.train(recipe, out)), "full", str(out))
    assert list(bottega.train(recipe, out))[-1].type == "finished"


def test_a_disk_full_while_logging(write: Write) -> None:
    out = begun(write())
    with full_disk((out / "events.jsonl").stat().st_size):
        refused(BottegaError, lambda: list(bottega.resume(out)), "full", str(out))
    assert [verify_folder(path) for path in (out / "checkpoints").iterdir()] == [""] * 2
    assert list(bottega.resume(out))[-1].type == "finished"


# Divergence


def whole(folder: Path) -> bool:
    """Every weight in a folder is a number."""
    weights = [load_file(path) for path in folder.glob("*.safetensors")]
    return all(bool(torch.isfinite(weight).all()) for part in weights for weight in part.values())


def check_nothing_is_left(out: Path) -> None:
    """No result, no checkpoint that is worth nothing, and the end in the log."""
    assert not (out / "model").exists()
    assert all(whole(path) for path in (out / "checkpoints").glob("*"))
    last = json.loads((out / "events.jsonl").read_text().splitlines()[-1])
    assert (last["type"], last["error"]) == ("failed", "Diverged")


@pytest.mark.parametrize(("kind", "rows"), [("sft", [ROW]), ("dpo", [PAIR]), ("classify", LABELLED)])
def test_weights_that_are_no_numbers(write: Write, copied: Path, kind: str, rows: list[dict[str, Any]]) -> None:
    weights = load_file(copied / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    recipe = write(rows, kind=kind, model={"base": str(copied)})
    error = refused(Diverged, lambda: run(recipe), "step 1", "data.jsonl line 1")
    assert error.where.count("data.jsonl line 1") == 1, "each row is named once"
    assert not (recipe.parent / "out").exists(), "it never began"


def test_a_learning_rate_out_of_all_measure(write: Write) -> None:
    recipe = write()
    refused(Diverged, lambda: run(recipe, "optim.lr=1e30", "optim.steps=3"), "step 2", "data.jsonl line 1", "optim.lr")
    check_nothing_is_left(recipe.parent / "out")


def test_no_checkpoint_is_made_of_what_diverged(write: Write) -> None:
    """A resume would begin with it."""
    recipe = write(save={"every": 1})
    refused(Diverged, lambda: run(recipe, "optim.lr=1e39", "optim.steps=3"), "step", "optim.lr")
    check_nothing_is_left(recipe.parent / "out")


def test_divergence_in_the_last_step(write: Write) -> None:
    """No step follows that would see it in its loss."""
    recipe = write()
    refused(Diverged, lambda: run(recipe, "optim.lr=1e39", "optim.steps=1"), "step 1", "optim.lr")
    check_nothing_is_left(recipe.parent / "out")


def test_a_validation_loss_that_is_no_number(write: Write, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "held.jsonl", [{**ROW, "prompt": "a dog"}])
    recipe = write(data={"validation": "held.jsonl"}, evaluate={"every": 1})
    error = refused(Diverged, lambda: run(recipe, "optim.lr=1e30", "optim.steps=1"), "step 1", "validation")
    assert "held.jsonl line 1" in error.where
    check_nothing_is_left(recipe.parent / "out")


# Command line


def command(code: int, *arguments: Any) -> Any:
    """The command run in this process; it must end with this exit code, and on an error with a remedy."""
    ended = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if ended.exception is not None and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    assert ended.exit_code == code, ended.stderr
    if code:
        assert "error: " in ended.stderr
        assert "\n  → " in ended.stderr
        assert "Traceback" not in ended.stderr
    return ended


def process(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False)


@pytest.mark.slow
def test_the_exit_code_of_bad_input(write: Write) -> None:
    recipe = write([ROW, {**ROW, "completion": ""}])
    ended = process("-m", "bottega", "train", str(recipe), "--out", str(recipe.parent / "out"))
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert "data.jsonl line 2, field completion" in ended.stderr
    assert "\n  → " in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_exit_code_of_a_diverged_run(write: Write) -> None:
    recipe = write()
    ended = command(1, "train", recipe, "optim.lr=1e30", "optim.steps=3", "--out", recipe.parent / "out")
    assert ended.stdout == ""
    assert "at step 2" in ended.stderr
    check_nothing_is_left(recipe.parent / "out")


def test_an_error_as_json(write: Write) -> None:
    ended = command(2, "train", write(None), "--dry-run", "--json")
    shown = json.loads(ended.stdout)
    assert sorted(shown) == ["error", "fix", "what", "where"]
    assert (shown["error"], shown["what"]) == ("DataError", "no such file")


@pytest.mark.parametrize("verb", [["preview"], ["train", "--dry-run"], ["train"]])
@pytest.mark.parametrize("override", ["optim.lr", "optim.lr=[", "optim.stps=3", "data.max_length=9999"])
def test_a_bad_override(write: Write, tmp_path: Path, monkeypatch: Any, verb: list[str], override: str) -> None:
    monkeypatch.chdir(tmp_path)
    ended = command(2, *verb, write(), override)
    assert override.partition("=")[0] in ended.stderr


def test_no_recipe(tmp_path: Path) -> None:
    command(2, "train")
    command(2, "train", tmp_path / "none.yaml")
    command(2, "preview", tmp_path)


@pytest.mark.parametrize("name", ["[/bold]", "[red]", "[", "a b"])
def test_names_that_look_like_markup(write: Write, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """In the output folder, in a data file, in a row."""
    monkeypatch.setenv("COLUMNS", "400")
    file = name.replace("/", "") + ".jsonl"
    recipe = write(None, data={"train": file})
    out = recipe.parent / name
    assert f"{file}: no such file" in command(2, "train", recipe, "--out", out).stderr
    write([{**ROW, name: 1, "prompt": name}], file=file)
    assert f"run {out}\n" in command(0, "train", recipe, "--out", out).stderr
    shown = command(0, "preview", recipe).stdout
    assert f"{file} line 1" in shown
    assert name in shown.replace("·", "")


def test_resuming_with_another_recipe(write: Write) -> None:
    recipe = write()
    out = begun(recipe)
    before = files(out)
    ended = command(2, "train", recipe, "--resume", out)
    assert "the recipe differs from that of the run" in ended.stderr
    assert f"--resume {out}" in ended.stderr
    command(2, "train", recipe, "--resume", out, "--out", out)
    command(2, "train", "--resume", recipe.parent)
    command(2, "train", "--resume", out, "optim.lr=3")
    assert files(out) == before


def test_a_damaged_run_does_not_hide_the_others(write: Write, tmp_path: Path) -> None:
    run(write(), out=tmp_path / "runs" / "sound")
    (tmp_path / "runs" / "damaged").mkdir()
    (tmp_path / "runs" / "damaged" / "resolved.json").write_text("{")
    ended = command(0, "runs", tmp_path / "runs", "--json")
    assert "finished" in [shown["status"] for shown in json.loads(ended.stdout)]


@pytest.mark.parametrize("content", [b"", b"caf\xe9", None])
def test_a_tokenizer_from_bad_files(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "data.txt").write_bytes(content)
    ended = command(2, "tokenizer", "train", tmp_path / "data.txt", "--out", tmp_path / "tokenizer")
    assert "data.txt" in ended.stderr
    assert not (tmp_path / "tokenizer").exists()


def test_a_model_is_trained_when_nothing_is_wrong(write: Write, tmp_path: Path) -> None:
    """What every test above would be worth nothing without."""
    model = make_model(tmp_path / "model")
    command(0, "train", write(model={"base": str(model)}), "--out", tmp_path / "out")
    assert whole(tmp_path / "out" / "model")


# Rows that are sound, however strange

STRANGE = {
    "emoji": "🙂👩‍👩‍👧‍👦🏳️‍🌈",
    "right to left": "שלום עולם مرحبا بالعالم",
    "combining": "e\u0301a\u0300 Z͑ͫ̓ͪ̂ͫ",
    "private use": "\ue000\ue001",
    "an escaped NUL": "a\0b",
    "line ends": "a\r\nb\rc\u2028d\x85e",
    "a byte-order mark": "\ufeffa",
}


@pytest.mark.parametrize("name", STRANGE)
def test_any_text_is_learned_as_it_is(write: Write, name: str) -> None:
    text = STRANGE[name]
    ((_, (pieces,)),) = bottega.preview(Recipe.load(write([{"prompt": "?", "completion": f" {text}"}]))).examples
    carrying = "".join(piece.text for piece in pieces if piece.weight)
    assert text in carrying
    talk = [{"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": f"so: {text}"}]}]
    ((_, (pieces,)),) = bottega.preview(Recipe.load(write(talk))).examples
    assert f"so: {text}" in "".join(piece.text for piece in pieces if piece.weight)


def test_a_row_of_100_000_characters(write: Write) -> None:
    long = "the cat sat on the mat " * 4500
    found = counts(write([ROW, {"prompt": "the", "completion": long}]))
    assert (found["rows"], found["examples"]) == (2, 1)
    assert list(found["dropped"]) == ["longer than max_length 128"]
    cut = counts(write([ROW, {"prompt": "the", "completion": long}], data={"too_long": "truncate"}))
    assert (cut["examples"], cut["truncated"]) == (2, 1)
    split = counts(write([{"text": long}], objective={"kind": "causal"}))
    assert split["labelled_tokens"] == split["tokens"] - 1


def test_formats_mixed_in_one_file_name_the_row(write: Write) -> None:
    rows = [ROW, {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
    refused(
        DataError, lambda: counts(write(rows)), "no field prompt", "first row", at="data.jsonl line 2, field prompt"
    )
    assert counts(write(rows, data={"bad_rows": "drop"}))["examples"] == 1
