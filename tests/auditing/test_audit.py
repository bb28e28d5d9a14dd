"""`bottega.audit` and its command: which rows are read, which checks run, what is written, which errors are raised."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import bottega
from bottega.auditing import checks
from bottega.auditing.findings import Audit
from bottega.auditing.minhash import NearDuplicateIndex
from bottega.cli.commands import app
from bottega.errors import DataError, ModelError, RecipeError
from making import WORDS, shared_data, write_jsonl


def rows(count: int, seed: int = 0) -> list[dict[str, str]]:
    draw = random.Random(seed)
    return [
        {
            "prompt": " ".join(draw.choices(WORDS, k=12)) + f" {n}?",
            "completion": " ".join(draw.choices(WORDS, k=6)) + ".",
        }
        for n in range(count)
    ]


def kinds(found: Audit) -> list[str]:
    return [one.kind for one in found.findings]


def test_valid_rows_have_no_findings(tmp_path: Path) -> None:
    found = bottega.audit(write_jsonl(tmp_path / "rows.jsonl", rows(50)), near=0.95)
    assert kinds(found) == []
    assert found.rows == 50
    assert found.worst() is None
    assert {"no_loss", "quality"} <= set(found.unchecked)


@pytest.mark.parametrize("name", checks.names())
def test_each_check_can_be_run_alone_and_left_out(name: str, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [*rows(20), *rows(2)])
    alone = bottega.audit(path, only=[name])
    assert set(alone.unchecked) - {name} == {"unsound", *checks.names()} - {name}
    assert bottega.audit(path, skip=[name]).unchecked[name] == "not selected"


def test_an_invalid_row_is_a_finding(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    sound = [json.dumps(row) for row in rows(3)]
    path.write_text("\n".join([sound[0], '{"prompt": ', sound[1], '{"prompt": "a"}', "7", sound[2]]) + "\n")
    found = bottega.audit(path, only=["unsound"])
    assert found.rows == 6
    places = {one.what.partition(": ")[2].partition(":")[0]: list(one.examples) for one in found.findings}
    assert places == {
        "broken JSON": ["rows.jsonl line 2"],
        "no field completion, required by the format of the first row": ["rows.jsonl line 4"],
        "a JSON number where a row is expected": ["rows.jsonl line 5"],
    }


def test_a_damaged_file_is_read_up_to_the_damage(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps(rows(3))[:-20])
    found = bottega.audit(tmp_path / "rows.json", only=["unsound"])
    assert kinds(found) == ["damaged file"]
    assert "nothing after this line was read" in found.findings[0].what


def test_a_recipe_is_compared_with_its_validation_rows(
    write_recipe: Callable[..., Path], llama: Path, tmp_path: Path
) -> None:
    sound = rows(40)
    # The same prompts stand on one side; nearly the same do not.
    nearly = [{**row, "prompt": row["prompt"].upper()} for row in sound]
    write_jsonl(tmp_path / "rows.jsonl", [*sound, *nearly])
    sections: dict[str, Any] = {"model": {"base": str(llama)}, "objective": {"kind": "sft"}}
    fraction = write_recipe("a.yaml", **sections, data={"train": "rows.jsonl", "validation": 0.25})
    found = bottega.audit(str(fraction))
    assert found.rows == 160 - 80
    assert dict(found.against) == {"the validation rows": 80}
    assert "near leak" in kinds(found)
    assert "tokens" in found.shape
    write_jsonl(tmp_path / "held.jsonl", sound[:5])
    files = write_recipe(
        "b.yaml",
        **sections,
        data={"train": "rows.jsonl", "validation": "held.jsonl", "max_length": 20, "too_long": "drop"},
    )
    found = bottega.audit(bottega.Recipe.load(files))
    assert dict(found.against) == {"validation": 5}
    assert {"leak", "nothing to learn"} <= set(kinds(found))
    (leak,) = (one for one in found.findings if one.kind == "leak")
    assert leak.rows.tolist() == [0, 1, 2, 3, 4]
    assert leak.examples[0] == "rows.jsonl line 1 ~ held.jsonl line 1"


def test_rows_that_carry_no_loss(llama: Path, tmp_path: Path) -> None:
    said = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat", "weight": 0}]
    heavy = [{**message, "weight": 1} if message["role"] == "assistant" else message for message in said]
    path = write_jsonl(tmp_path / "rows.jsonl", [{"messages": said}, *[{"messages": heavy}] * 3])
    found = bottega.audit(path, model=str(llama), only=["no_loss"])
    assert [(one.kind, one.rows.tolist()) for one in found.findings] == [("nothing to learn", [0])]


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_every_record_type_is_encoded(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    model = str(request.getfixturevalue(kind))
    told = [
        {"text": "the cat sat"},
        {"text": "the cat", "label": "a"},
        {"text": "the cat", "labels": ["a", "b"]},
        {"text": "the cat", "spans": [{"start": 4, "end": 7, "label": "x"}]},
        {"anchor": "the cat", "positive": "a cat"},
        {"sentence1": "the cat", "sentence2": "a cat", "score": 0.5},
    ]
    told += [] if kind == "bert" else [
        {"prompt": "the cat", "completion": " sat"},
        {"prompt": "the cat", "chosen": " sat", "rejected": " ran"},
        {"prompt": "the cat", "completion": " sat", "label": True},
        {"question": "the cat?", "choices": ["sat", "ran"], "answer": 0},
    ]  # fmt: skip
    for number, row in enumerate(told):
        path = write_jsonl(tmp_path / f"{number}.jsonl", [row])
        found = bottega.audit(path, model=model, only=["no_loss"])
        assert found.findings == [], row
        assert sum(count for _, count in found.shape["tokens"]) == 1


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


def test_a_cleaned_copy(tmp_path: Path) -> None:
    told: list[dict[str, Any]] = [{**row, "n": n} for n, row in enumerate(rows(10))]
    told += [
        {**told[3], "n": 10},
        {**told[4], "completion": "perch\u00c3\u00a9 no, it was. " + told[5]["completion"], "n": 11},
    ]
    path = write_jsonl(tmp_path / "rows.jsonl", told)
    path.write_text(path.read_text() + '{"prompt": \n')
    before = path.read_bytes()
    test = write_jsonl(tmp_path / "test.jsonl", told[:2])
    found = bottega.audit(path, against=[test], skip=["near_duplicates"], fix=tmp_path / "clean.jsonl")
    assert path.read_bytes() == before
    kept = [json.loads(line) for line in (tmp_path / "clean.jsonl").read_text().splitlines()]
    assert [row["n"] for row in kept] == [2, 3, 4, 5, 6, 7, 8, 9, 11]
    assert kept[-1]["completion"].startswith("perché no")
    log = [json.loads(line) for line in (tmp_path / "clean.log.jsonl").read_text().splitlines()]
    assert [(one["row"], one["action"], one["why"].partition(":")[0]) for one in log] == [
        ("rows.jsonl line 1", "removed", "leak"),
        ("rows.jsonl line 2", "removed", "leak"),
        ("rows.jsonl line 11", "removed", "duplicate"),
        ("rows.jsonl line 12", "repaired", "mojibake"),
        ("rows.jsonl line 13", "removed", str(path) + " line 13"),
    ]
    assert found.cleaned == (9, 4, 1)
    clean = bottega.audit(tmp_path / "clean.jsonl", against=[test], skip=["near_duplicates"])
    assert kinds(clean) == ["contradiction"]


def test_text_that_many_rows_share_does_not_make_them_near_duplicates(tmp_path: Path) -> None:
    """Rows under the same long instruction are not near duplicates of each other; exact duplicates are not listed."""
    header = "Below is an instruction that describes a task, paired with an input. Answer as well as you can: "
    told = [{"prompt": header + row["prompt"], "completion": row["completion"]} for row in rows(150)]
    for path in (write_jsonl(tmp_path / "a.jsonl", told), write_jsonl(tmp_path / "b.jsonl", [*told, *told[:3]])):
        found = bottega.audit(path, only=["near_duplicates"])
        assert kinds(found) == []


def test_texts_that_were_not_compared_are_reported(tmp_path: Path) -> None:
    book = {"text": " ".join(random.Random(0).choices(WORDS, k=9000))}
    data = write_jsonl(tmp_path / "rows.jsonl", [book, {"text": "the cat sat"}])
    exam = write_jsonl(tmp_path / "exam.jsonl", [{"prompt": "which cat?", "completion": "a cat that sat on the mat"}])
    found = bottega.audit(data, against=[exam], only=["near_duplicates", "overlap"])
    assert found.unchecked["near_duplicates"] == "the ends of 1 texts, beyond 20,000 characters of each"
    assert found.unchecked["overlap"].startswith("1 inputs of fewer than 8 words")


def test_near_duplicate_pairs_equal_those_of_brute_force() -> None:
    draw = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    known = ["".join(draw.choices(letters, k=6)) for _ in range(300)]
    texts = [" ".join(draw.choices(known, k=30)) for _ in range(60)]
    for text in texts[:30]:
        words = text.split()
        for place in draw.sample(range(30), draw.randrange(1, 8)):
            words[place] = draw.choice(known)
        texts.append(" ".join(words))
    index = NearDuplicateIndex(0.7)
    for number, text in enumerate(texts):
        index.add(7 * number, text)
    sets = [{text[start : start + 5] for start in range(len(text) - 4)} for text in texts]
    wanted = {
        (7 * one, 7 * other)
        for one in range(len(texts))
        for other in range(one + 1, len(texts))
        if len(sets[one] & sets[other]) >= 0.7 * len(sets[one] | sets[other])
    }
    assert {(one, other) for one, other, _ in index.pairs()} == wanted
    assert len(wanted) >= 10


def test_the_command(tmp_path: Path) -> None:
    path = str(write_jsonl(tmp_path / "rows.jsonl", [{"utterance": "where is my card now", "intent": "a"}] * 3))
    shown = CliRunner().invoke(app, ["audit", path, "--map", "text=utterance", "--map", "label=intent"])
    assert shown.exit_code == 0, shown.output
    assert "duplicate" in shown.output
    assert "rows.jsonl line 2 ~ rows.jsonl line 1" in shown.output
    assert "not checked" in shown.output
    assert "--fix clean.jsonl" in shown.output
    asked = ["audit", path, "--map", "text=utterance", "--map", "label=intent", "--json", "--strict"]
    printed = CliRunner().invoke(app, asked)
    assert printed.exit_code == 2, "one label is an error"
    document = json.loads(printed.stdout)
    assert {one["kind"] for one in document["findings"]} == {"duplicate", "one label", "rare label"}
    assert document["shape"]["labels"] == [["a", 3]]


@pytest.mark.parametrize(
    ("options", "error", "what"),
    [
        ({"only": ["duplicate"]}, RecipeError, "no check duplicate"),
        ({"fix": "clean.csv"}, DataError, "a cleaned copy is written as JSON lines"),
        ({"fix": "none/clean.jsonl"}, DataError, "no such folder"),
        ({"fix": "rows.jsonl"}, DataError, "already exists"),
        ({"format": "tables"}, RecipeError, "'tables' is not one of its values"),
        ({"mapping": {"prompt": "question"}}, DataError, "no valid row: 3 rows: no field question"),
        ({"against": ["none.jsonl"]}, DataError, r"none\.jsonl: no such file\n"),
        ({"model": "./none"}, ModelError, "no such folder"),
    ],
)
def test_wrong_options_are_explained(
    options: dict[str, Any], error: type[Exception], what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "rows.jsonl", rows(3))
    with pytest.raises(error, match=what):
        bottega.audit("rows.jsonl", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_recipe_cannot_be_combined_with_rows(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="a recipe cannot be combined with other rows"):
        bottega.audit(["a.yaml", "b.jsonl"])
    with pytest.raises(RecipeError, match="no such recipe"):
        bottega.audit("a.yaml")
