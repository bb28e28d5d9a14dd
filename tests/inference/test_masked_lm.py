"""Masked language models: what stands at a masked place, from the rows to the command."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM
from typer.testing import CliRunner

import bottega
from bottega.batch import Row
from bottega.cli.commands import app
from bottega.data.train_tokenizer import train_tokenizer
from bottega.errors import DataError, ModelError
from bottega.evaluation.evaluate import evaluate
from bottega.recipe.schema import Recipe
from bottega.runs.store import history
from making import WORDS, write_jsonl

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder from nothing, on sentences that always go the same way."""
    folder = tmp_path_factory.mktemp("masked")
    draw = random.Random(0)
    lines = [" ".join(draw.choices(WORDS, k=6)) for _ in range(50)]
    (folder / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    rows = [{"text": f"the {one} sat on the red mat and the {one} ran"} for one in ("cat", "dog") for _ in range(40)]
    train_tokenizer([folder / "text.txt"], 120, folder / "pieces", "wordpieces")
    shape = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    document = {
        "model": {"shape": shape | {"intermediate_size": 64}, "tokenizer": str(folder / "pieces"), "dtype": "float32"},
        "data": {"train": str(write_jsonl(folder / "rows.jsonl", rows)), "validation": 0.5},
        "objective": {"kind": "masked", "share": 0.5},
        "optim": {"steps": 60, "examples": 16, "lr": 1.2e-2},
        "evaluate": {"every": 60},
    }
    list(bottega.train(Recipe.parse(document), folder / "run"))
    return folder / "run"


def test_a_masked_word_is_found(filled: Path) -> None:
    model = bottega.load_masked(filled)
    (where,) = model.fill("the cat sat on the red [MASK] and the cat ran", top=3)
    assert where[0].text == "mat"
    assert where[0].probability > 0.8
    assert where[0].probability >= where[1].probability
    first, second = model.fill("the [MASK] sat on the red mat and the [MASK] ran")
    assert {first[0].text, second[0].text} <= {"cat", "dog"}


def test_the_command_fills_in(filled: Path) -> None:
    shown = RUNNER.invoke(app, ["fill", str(filled), "the cat [MASK] on the red mat and the cat ran"])
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.splitlines()[0].split()[0] == "sat"
    assert "%" in shown.stdout
    listed = RUNNER.invoke(app, ["fill", str(filled), "--json", "--top", "2", "the cat [MASK] on the red mat"])
    assert [len(place) for place in json.loads(listed.stdout)] == [2]
    assert evaluate(filled).estimates


def test_the_baseline_is_the_most_common_tokens(filled: Path) -> None:
    loss = [event["loss"] for event in history(filled) if event["type"] == "validated"][-1]
    estimates = {one.metric: one for one in evaluate(filled).estimates}
    assert estimates["loss"].run == pytest.approx(loss, rel=1e-5)
    assert estimates["masked_accuracy"].base is not None
    assert estimates["masked_accuracy"].run > estimates["masked_accuracy"].base
    assert estimates["top_5_accuracy"].run >= estimates["masked_accuracy"].run
    assert estimates["loss"].finding is None, "there are only two sentences, and each says the same every time"


def test_another_use_of_the_model_is_refused_with_its_command(filled: Path) -> None:
    with pytest.raises(ModelError, match="fill"):
        bottega.load_language_model(filled)
    with pytest.raises(ModelError, match="bottega fill"):
        bottega.load_tagger(filled)
    with pytest.raises(ModelError, match="no such folder"):
        bottega.load_masked(filled / "none")


def test_a_text_without_a_masked_place_is_refused(filled: Path) -> None:
    model = bottega.load_masked(filled)
    with pytest.raises(DataError, match="nothing is masked") as caught:
        model.fill("the cat")
    assert caught.value.where == "the text 'the cat'"
    with pytest.raises(DataError, match="too short"):
        model.fill("[MASK]")


def test_probabilities_are_those_of_transformers(bert: Path) -> None:
    model = bottega.load_masked(bert, dtype="float32")
    mask = model.codec.special_tokens.mask
    tokens = np.array([0, 40, mask, 50, mask])
    at = np.array([2, 4])
    found = model.probabilities(Row(tokens, at, tokens[at], np.ones(2, np.float32), both_ways=True))
    plain = AutoModelForMaskedLM.from_pretrained(bert, dtype=torch.float32).eval()
    with torch.no_grad():
        wanted = plain(torch.from_numpy(tokens)[None]).logits[0, at].softmax(-1)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_the_candidates_are_as_many_as_asked_for(bert: Path) -> None:
    model = bottega.load_masked(bert)
    for top, count in ((2, 2), (1000, 300)):
        (candidates,) = model.fill("the cat sat on the [MASK]", top=top)
        chances = [one.probability for one in candidates]
        assert len(chances) == count
        assert chances == sorted(chances, reverse=True)
    assert sum(chances) == pytest.approx(1, abs=1e-2)
