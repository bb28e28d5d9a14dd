"""The model card of an export: proof, use, licences."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import yaml

import bottega


def test_a_card_has_the_proof_the_use_and_the_licences(train: Callable[..., Path], llama: Path, tmp_path: Path) -> None:
    run = train(llama, tmp_path / "run", adapter={"rank": 2})
    result = bottega.export(run, tmp_path / "shipped")
    card = (tmp_path / "shipped" / "README.md").read_text()
    header = yaml.safe_load(card.split("---\n")[1])
    assert header == {
        "library_name": "transformers",
        "tags": ["bottega"],
        "base_model": llama.name,
        "license": "unknown",
    }
    assert "# run, transformers folder, fp32" in card
    assert result.proof is not None
    assert f"| largest difference of a logit | {result.proof.difference:.1e} |" in card
    assert f"| generated tokens that are the same | {result.proof.greedy} of {result.proof.generated} |" in card
    assert 'bottega run shipped "…"' in card
    assert f"| base model | {llama.name} | unknown |" in card
    assert "| data | run.jsonl | unknown |" in card
    assert str(tmp_path) not in card
