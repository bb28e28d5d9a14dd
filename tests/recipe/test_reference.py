"""The reference page of the recipe is generated from its sections."""

from __future__ import annotations

from bottega.objectives import rewards
from bottega.recipe.reference import objective_kinds, recipe_reference
from making import ROOT


def test_the_reference_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8") == recipe_reference(), (
        "python -m bottega.cli.docs > docs/recipe.md"
    )


def test_every_section_objective_and_reward_has_a_table() -> None:
    page = recipe_reference()
    for title in ("Top level", "`optim`", "A `source`", "`adapter: {kind: lora}`"):
        assert f"\n## {title}\n" in page
    for kind in objective_kinds():
        assert f"## `objective: {{kind: {kind}}}`" in page
    for kind in rewards.kinds():
        assert f"## A reward `{{kind: {kind}}}`" in page


def test_a_line_has_values_default_and_description() -> None:
    rows = {tuple(line.split(" | ")[:3]) for line in recipe_reference().splitlines() if line.startswith("| `")}
    assert ("| `base`", "text", "") in rows
    assert ("| `train`", "list of [source](#a-source)", "required") in rows
    assert ("| `clip`", "number", "`1.0`") in rows
    assert ("| `betas`", "list of number", "`[0.9, 0.999]`") in rows
    assert ("| `device`", "`auto`, `cpu`, `cuda`", "`auto`") in rows
    assert any(key == "| `from`" for key, _, _ in rows), "a key has the name that is written in a recipe"
