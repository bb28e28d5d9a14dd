"""The rows an audit looks at; a row that cannot be read is a finding."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import bottega
from bottega.auditing.checks import Context
from bottega.auditing.entries import RowLocations
from bottega.auditing.findings import Audit
from bottega.auditing.reader import MAX_REASONS, AuditRows, InvalidRows, estimate_row_count, select_rows
from bottega.errors import DataError, RecipeError
from bottega.recipe.schema import Layout
from making import random_rows, write_jsonl


def kinds(found: Audit) -> list[str]:
    return [one.kind for one in found.findings]


def test_an_invalid_row_is_a_finding(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    sound = [json.dumps(row) for row in random_rows(3)]
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
    (tmp_path / "rows.json").write_text(json.dumps(random_rows(3))[:-20])
    found = bottega.audit(tmp_path / "rows.json", only=["unsound"])
    assert kinds(found) == ["damaged file"]
    assert "nothing after this line was read" in found.findings[0].what


def test_a_recipe_is_compared_with_its_validation_rows(
    write_recipe: Callable[..., Path], llama: Path, tmp_path: Path
) -> None:
    sound = random_rows(40)
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


def entries(rows: AuditRows, invalid: InvalidRows | None = None) -> list[str]:
    return [entry.where for entry in rows.entries(RowLocations(), invalid)]


def selected(*paths: Path, against: Sequence[Path] = (), **layout: Any) -> tuple[AuditRows, list[AuditRows]]:
    return select_rows([str(path) for path in paths], [str(path) for path in against], "auto", {}, Layout(**layout))


def test_rows_have_places_that_tell_files_of_one_name_apart(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_jsonl(tmp_path / folder / "rows.jsonl", [{"text": folder}])
    train, (test,) = selected(tmp_path / "a" / "rows.jsonl", against=[tmp_path / "b" / "rows.jsonl"])
    assert (entries(train), entries(test)) == (["a/rows.jsonl line 1"], ["b/rows.jsonl line 1"])


def test_invalid_rows_keep_their_index_and_are_counted_by_reason(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [{"text": text} for text in ("a", " ", 7, "b", "")])
    invalid = InvalidRows()
    assert entries(selected(path)[0], invalid) == ["rows.jsonl line 1", "rows.jsonl line 4"]
    assert {reason: list(rows) for reason, rows in invalid.rows.items()} == {
        "empty text": [1, 4],
        "text is a number, not a string": [2],
    }
    assert invalid.first_reason == "empty text"


def test_many_reasons_share_one_finding() -> None:
    invalid, context = InvalidRows(), Context()
    for index in range(MAX_REASONS + 10):
        context.locations.add(f"rows line {index}")
        invalid.add(index, DataError(f"no field {index}", where=f"rows line {index}", fix="write it"))
    found = list(invalid.findings(context))
    assert len(found) == MAX_REASONS + 1
    assert (found[0].what, found[0].count) == ("invalid row: other faults", 10)
    assert found[1].mend == "remove"


def test_the_layout_is_that_of_the_data_and_of_files_that_end_like_it(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_bytes("één;x\n".encode("latin-1"))
    write_jsonl(tmp_path / "c.jsonl", [{"text": "één", "label": "x"}])
    options = {"encoding": "latin-1", "delimiter": ";", "columns": ["text", "label"]}
    train, comparisons = selected(tmp_path / "a.csv", against=[tmp_path / "b.csv", tmp_path / "c.jsonl"], **options)
    for rows in (train, *comparisons):
        ((entry),) = rows.entries(RowLocations())
        assert entry.content == "één"


@pytest.mark.parametrize(
    ("name", "content", "count"),
    [("a.jsonl", '{"text": "a"}\n' * 3, 3), ("a.csv", "text\na\nb\n", 3), ("a.json", '[{"text": "a"}]', None)],
)
def test_rows_are_estimated_from_lines(name: str, content: str, count: int | None, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    train, _ = selected(tmp_path / name)
    assert estimate_row_count([train]) == count
    other = write_jsonl(tmp_path / "b.jsonl", [{"text": "a"}] * 2)
    train, comparisons = selected(tmp_path / name, against=[other])
    assert estimate_row_count([train, *comparisons]) == (None if count is None else count + 2)


def test_an_option_that_is_wrong_is_named_as_on_the_command_line(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [{"text": "a"}])
    with pytest.raises(RecipeError) as caught:
        select_rows([str(path)], [], "tables", {}, Layout())
    assert caught.value.where == "--format"
