"""The model card: what a result is made of, under which licences, and nothing of the place it was made at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import bottega
from bottega.recipe.schema import Recipe
from bottega.training.model_card import licence_of
from making import make_model, write_jsonl

ROWS = [{"instruction": "the cat", "output": "sat"}] * 4
APACHE = "\n                                 Apache License\n                           Version 2.0, January 2004\n"


def trained(folder: Path, name: str, model: Path, data: dict[str, Any], **more: Any) -> tuple[dict[str, Any], str]:
    """Head and text of the card of a run."""
    document = {"name": name, "model": {"base": str(model)}, "data": data, "objective": {"kind": "sft"}}
    recipe = Recipe.parse(document | {"optim": {"steps": 1, "examples": 2}} | more)
    (*_, finished) = bottega.train(recipe, folder / name)
    text = (folder / name / finished.result / "README.md").read_text()  # type: ignore[attr-defined]
    return yaml.safe_load(text.split("---\n")[1]), text


def test_licences_of_base_and_data_are_carried_on(tmp_path: Path) -> None:
    model = make_model(tmp_path / "smol", "llama")
    (model / "README.md").write_text("---\nlicense: mit\n---\n# smol\n")
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "LICENSE").write_text(APACHE)
    rows = write_jsonl(tmp_path / "rows" / "a.jsonl", ROWS)
    other = write_jsonl(tmp_path / "b.jsonl", ROWS)
    mixed = {"train": [str(rows), {"path": str(other), "license": "cc-by-4.0"}]}
    head, text = trained(tmp_path, "first", model, mixed, adapter={"rank": 2})
    assert head == {
        "library_name": "peft", "tags": ["bottega", "sft"], "base_model": "smol", "license": "mit",
    }  # fmt: skip
    for line in ("| base model | smol | mit |", "| data | a.jsonl | apache-2.0 |", "| data | b.jsonl | cc-by-4.0 |"):
        assert line in text
    assert str(tmp_path) not in text
    # A run that starts from this one names the licence its base came with.
    head, text = trained(tmp_path, "second", tmp_path / "first", {"train": str(other)})
    assert (head["license"], head["library_name"]) == ("mit", "transformers")
    assert "find out the licence of: data b.jsonl" in text
    head, text = trained(tmp_path, "third", tmp_path / "second", {"train": str(rows)})
    assert (head["base_model"], head["license"]) == ("second", "mit")
    for line in ("| base model | smol | mit |", "| data | a.jsonl | apache-2.0 |", "| data | b.jsonl | unknown |"):
        assert line in text, "what a run began from is made of counts too"


def test_equal_runs_leave_equal_cards_wherever_they_stand(tmp_path: Path) -> None:
    cards = []
    for place in ("one", "two"):
        model = make_model(tmp_path / place / "smol", "llama")
        rows = write_jsonl(tmp_path / place / "rows.jsonl", ROWS)
        cards.append(trained(tmp_path / place, "run", model, {"train": str(rows)})[1])
    assert cards[0] == cards[1]


@pytest.mark.parametrize(
    ("files", "licence"),
    [
        ({"README.md": "---\nlicense: [mit, apache-2.0]\n---\n"}, "mit, apache-2.0"),
        ({"README.md": "# no head\n", "LICENSE.txt": "MIT License\n\nCopyright"}, "mit"),
        ({"README.md": "---\n: [broken\n---\n", "COPYING": "GNU GENERAL PUBLIC LICENSE\nVersion 3"}, "gpl"),
        ({"LICENCE": "Our own terms, of 2026\n"}, "see LICENCE: Our own terms, of 2026"),
        ({"LICENSE": "Creative Commons Attribution-ShareAlike 4.0 International"}, "cc-by-sa-4.0"),
        ({"README.md": "# Data\n\n---\nlicense: mit\n---\n"}, "unknown"),
        ({"README.md": "---\nlicense: [1.0, mit]\n---\n"}, "1.0, mit"),
        ({"LICENSE": ""}, "unknown"),
        (
            {"LICENSE": "Open terms: we permit licenses of any kind"},
            "see LICENSE: Open terms: we permit licenses of any kind",
        ),
        ({}, "unknown"),
    ],
)
def test_where_a_licence_is_found(files: dict[str, str], licence: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "rows.jsonl").write_text("{}")
    assert licence_of(tmp_path) == licence
    assert licence_of(tmp_path / "rows.jsonl") == licence


def test_a_dataset_carries_its_own(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for text, licence in ((json.dumps({"license": "cc0-1.0"}), "cc0-1.0"), ("[1]", "unknown"), ("{", "unknown")):
        (tmp_path / "train" / "dataset_info.json").write_text(text)
        assert licence_of(tmp_path) == licence
        assert licence_of(tmp_path / "rows.jsonl") == "unknown", "a file is no part of a dataset that stands near it"


def test_the_recipe_in_a_card_can_be_run_again(tmp_path: Path) -> None:
    model = make_model(tmp_path / "smol", "llama")
    rows = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    _, text = trained(tmp_path, "run", model, {"train": str(rows)}, adapter={"rank": 2})
    found = text.split("```yaml\n")[1].removesuffix("```\n")
    (tmp_path / "card.yaml").write_text(found)
    again = Recipe.load(tmp_path / "card.yaml")
    assert again == Recipe.parse(json.loads((tmp_path / "run" / "resolved.json").read_text()))
