"""Three updates over each real file as it was published: nothing converted, nothing mapped by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

import bottega
from bottega.recipe.schema import Recipe
from making import shared_data

FILES = {
    "tinyshakespeare/input.txt": ("causal", "read as text"),
    "it_promessi_sposi": ("causal", "read as text"),
    "it_divina_commedia": ("causal", "read as text"),
    "rasbt_instruct_1100/instruction-data.json": ("sft", "read as instruction"),
    "rasbt_preference_1100/instruction-data-with-preference.json": ("dpo", "read as preference"),
    "gsm8k/train.jsonl": ("sft", "read as question"),
    "banking77/train.csv": ("classify", "read as labelled"),
    "wnut17/wnut17train.conll": ("sft", "read as conll"),
    "scitldr_a/dev.jsonl": ("sft", "read as summary"),
    "xquad_en/xquad.en.json": ("sft", "read as question"),
    "arc_easy/arc_easy.jsonl": ("sft", "read as choice"),
}


# A file of each sort; `make slow` has the others too.
EVERY_TIME = {
    "it_promessi_sposi",
    "rasbt_preference_1100/instruction-data-with-preference.json",
    "banking77/train.csv",
    "wnut17/wnut17train.conll",
    "xquad_en/xquad.en.json",
}


@pytest.mark.parametrize(
    "name", [name if name in EVERY_TIME else pytest.param(name, marks=pytest.mark.slow) for name in FILES]
)
def test_a_run_over_a_real_file(name: str, tmp_path: Path) -> None:
    kind, said = FILES[name]
    data: dict[str, object] = {"train": str(shared_data(name)), "bad_rows": "drop"}
    if kind != "causal":
        data |= {"too_long": "drop", "max_length": 512}
    recipe = Recipe.parse(
        {
            "model": {"base": str(shared_data("stories260K_hf"))},
            "data": data,
            "objective": {"kind": kind},
            "adapter": {"kind": "lora"},
            "optim": {"steps": 3, "examples": 4},
        },
        folder=tmp_path,
    )
    seen = list(bottega.train(recipe, tmp_path / "run"))
    assert next(event.message for event in seen if getattr(event, "subject", "") == "format").endswith(said)
    assert sum(event.type == "stepped" for event in seen) == 3
    assert seen[-1].type == "finished"
