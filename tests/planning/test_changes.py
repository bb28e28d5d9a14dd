"""Changes of a recipe that save memory, the mildest first."""

from __future__ import annotations

from pathlib import Path

from bottega.planning.changes import apply_changes, memory_saving_changes
from bottega.recipe.schema import Recipe
from bottega.training.dataset import build_dataset
from making import make_recipe


def test_the_mildest_changes_come_first(tmp_path: Path) -> None:
    """First how it is computed, then what is trained, how the rest is kept, and last what is read."""
    full = make_recipe(tmp_path)
    rows = build_dataset(full)
    least = "optim.tokens=8 optim.checkpointing=true"
    adapted = f"adapter.rank=16 {least}"
    packed = f"model.quantize=nf4 {adapted}"
    half = max(len(example.rows[0].tokens) for example in rows.train.examples) // 2
    shorter = f"data.max_length={half} data.too_long=truncate"
    assert list(memory_saving_changes(full, rows, 8)) == [
        "optim.tokens=8",
        "optim.checkpointing=true",
        least,
        "adapter.rank=16",
        adapted,
        packed,
        f"{adapted} {shorter}",
        f"{packed} {shorter}",
    ]
    lora = make_recipe(tmp_path / "lora", adapter={"rank": 4})
    assert list(memory_saving_changes(lora, rows, 8))[3:4] == [f"model.quantize=nf4 {least}"]
    document = lora.document()
    small = Recipe.parse({**document, "model": document["model"] | {"quantize": "fp8"}})
    assert list(memory_saving_changes(small, rows, 8))[3:] == [f"{least} {shorter}"]
    for change in memory_saving_changes(lora, rows, 8):
        apply_changes(lora, change)


def test_a_change_is_applied_to_a_copy(tmp_path: Path) -> None:
    given = make_recipe(tmp_path)
    changed = apply_changes(given, "optim.tokens=8 adapter.rank=16 data.too_long=truncate")
    assert changed.adapter is not None
    assert (changed.optim.tokens, changed.too_long) == (8, "truncate")
    assert given.adapter is None
    assert given.optim.tokens is None
    assert apply_changes(given, "") == given


def test_what_has_no_base_gets_no_adapter_and_split_rows_are_not_cut(tmp_path: Path) -> None:
    shape = {"model_type": "llama", "hidden_size": 32}
    full = make_recipe(tmp_path)
    rows = build_dataset(full)
    new = make_recipe(tmp_path, model={"shape": shape, "tokenizer": str(tmp_path / "model")})
    assert not any("adapter" in change or "quantize" in change for change in memory_saving_changes(new, rows, 8))
    texts = {"train": str(tmp_path / "rows.jsonl"), "mapping": {"text": "completion"}}
    split = make_recipe(tmp_path, objective={"kind": "causal"}, data=texts)
    assert split.too_long == "split"
    *_, last = memory_saving_changes(split, rows, 8)
    assert "data.max_length" in last
    assert "truncate" not in last
