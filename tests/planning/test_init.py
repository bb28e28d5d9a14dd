"""`bottega init`: a recipe for every task, that loads, with every key explained."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from bottega import objectives
from bottega.cli.commands import app
from bottega.errors import DataError, RecipeError
from bottega.planning.init import init
from bottega.recipe.schema import Recipe
from making import write_jsonl


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the file that an objective of one's own is in."""
    shutil.copy(Path(__file__).parents[1] / "objectives" / "own" / "own_loss.py", tmp_path / "my_loss.py")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", objectives.kinds())
@pytest.mark.parametrize("model", [None, "some/model"])
def test_a_recipe_for_every_objective(kind: str, model: str | None, own: Path) -> None:
    text = init(kind, model=model)
    recipe = Recipe.parse(yaml.safe_load(text))
    assert recipe.objective.kind == kind
    for section in (*Recipe.model_fields["optim"].annotation.model_fields, "steps", "tokens"):  # type: ignore[union-attr]
        assert f"{section}:" in text


@pytest.mark.parametrize("kind", objectives.kinds())
def test_what_stands_behind_a_mark_is_the_default(kind: str, own: Path) -> None:
    """Taking the marks away changes nothing."""
    text = init(kind, model="some/model")
    plain = Recipe.parse(yaml.safe_load(text))
    # A key without a default has nothing to be uncommented to.
    opened = [line.replace("# ", "", 1) if line.startswith("  # ") else line for line in text.splitlines()]
    kept = [line for line in opened if line.split("#")[0].rstrip()[-1:] != ":" or not line.startswith("  ")]
    assert Recipe.parse(yaml.safe_load("\n".join(kept))) == plain


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"instruction": "a", "output": "b"}, "sft"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "sft"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "dpo"),
        ({"prompt": "a", "completion": "b", "label": True}, "kto"),
        ({"text": "a", "label": "b"}, "classify"),
        ({"text": "a"}, "causal"),
        ({"anchor": "a", "positive": "b"}, "contrastive"),
        ({"sentence1": "a", "sentence2": "b", "score": 0.5}, "contrastive"),
        ({"sentence1": "a", "sentence2": "b", "label": 2}, "classify"),
        ({"premise": "a", "hypothesis": "b", "label": 0}, "classify"),
        ({"tokens": ["a"], "ner_tags": ["O"]}, "tag"),
        ({"prompt": "a"}, "grpo"),
        ({"prompt": "a", "solution": "b"}, "grpo"),
        ({"prompt": "a", "completion": "b"}, "sft"),
    ],
)
def test_rows_show_what_they_are_for(row: dict[str, Any], kind: str, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [row])
    recipe = Recipe.parse(yaml.safe_load(init(str(path))))
    assert recipe.objective.kind == kind
    assert recipe.data.train[0].path == str(path)


def test_what_cannot_be_begun_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="did you mean classify"):
        init("classfy")
    with pytest.raises(DataError, match="line 1"):
        init(str(write_jsonl(tmp_path / "odd.jsonl", [{"height": 3}])))


def test_nothing_is_written_over(tmp_path: Path) -> None:
    out = tmp_path / "recipe.yaml"
    first = CliRunner().invoke(app, ["init", "sft", "--out", str(out)])
    assert first.exit_code == 0
    assert "bottega train" in first.stdout
    before = out.read_bytes()
    second = CliRunner().invoke(app, ["init", "dpo", "--out", str(out)])
    assert second.exit_code == 2
    assert "already exists" in second.stderr
    assert out.read_bytes() == before


def test_paths_are_seen_from_where_the_recipe_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf").mkdir()
    (tmp_path / "smol").mkdir()
    write_jsonl(Path("rows of mine.jsonl"), [{"instruction": "a", "output": "b"}])
    done = CliRunner().invoke(app, ["init", "rows of mine.jsonl", "--model", "smol", "--out", "conf/recipe.yaml"])
    assert done.exit_code == 0, done.output
    recipe = Recipe.load("conf/recipe.yaml")
    assert recipe.data.train[0].path == str(tmp_path / "rows of mine.jsonl")
    assert recipe.model.base == str(tmp_path / "smol")
    lost = CliRunner().invoke(app, ["init", "sft", "--out", "nowhere/recipe.yaml"])
    assert lost.exit_code == 2
    assert "cannot be written" in lost.stderr
