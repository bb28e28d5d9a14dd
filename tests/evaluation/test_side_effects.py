"""Side effects are measured: forgetting, memorization, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bottega
from bottega.evaluation.estimates import Estimate
from bottega.evaluation.evaluate import Evaluation, evaluate
from bottega.evaluation.side_effects import REFUSAL
from bottega.recipe.schema import Recipe
from making import WORDS, make_model, write_jsonl


def poems(count: int, seed: int) -> list[str]:
    """Lines of words in no order, which can only be known by heart."""
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, 40)) for _ in range(count)]


def learned(folder: Path, rows: list[dict[str, Any]], *, base: Path, kind: str = "sft", steps: int = 60) -> Path:
    folder.mkdir(exist_ok=True)
    held = rows[-4:]
    document = {
        "model": {"base": str(base), "dtype": "float32"},
        "data": {
            "train": str(write_jsonl(folder / "train.jsonl", rows[:-4])),
            "validation": str(write_jsonl(folder / "held.jsonl", held)),
        },
        "objective": {"kind": kind},
        "optim": {"steps": steps, "examples": 4, "lr": 1e-2},
    }
    list(bottega.train(Recipe.parse(document), folder / "run"))
    return folder / "run"


def effect(found: Evaluation, name: str) -> Estimate:
    return next(one for one in found.effects if one.metric == name)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has read some texts."""
    folder = tmp_path_factory.mktemp("reader")
    rows = [{"text": f"{one} {other} and then {one}"} for one in WORDS for other in WORDS[:4]]
    return learned(folder, rows, base=make_model(folder / "model"), kind="causal")


@pytest.mark.slow
def test_forgetting_and_memorization(reader: Path, tmp_path: Path) -> None:
    rows = [{"text": text} for text in poems(12, 0)]
    run = learned(tmp_path / "poems", rows, base=reader, kind="causal", steps=150)
    known = write_jsonl(
        tmp_path / "known.jsonl", [{"text": f"{one} {other} and then {one}"} for one in WORDS for other in WORDS[4:6]]
    )
    found = evaluate(run, against=[], general=[str(known)])
    forgotten = effect(found, "general_loss/known.jsonl")
    assert forgotten.finding == "worse"
    assert forgotten.rows == 2 * len(WORDS)
    heart, control = (effect(found, f"memorized_{name}_rows") for name in ("training", "evaluation"))
    assert heart.run > 0.7
    assert (heart.base, control.run) == (0, 0)
    assert heart.finding == "worse", "knowing rows by heart is nothing to be proud of"


def test_refusals_of_harmful_and_harmless_requests(reader: Path, tmp_path: Path) -> None:
    asked = [f"the {one} {other}" for one in WORDS[:8] for other in WORDS[8:13]]
    rows = [{"instruction": text, "output": "Sorry, no."} for text in asked]
    run = learned(tmp_path / "refusing", rows, base=reader)
    requests = [{"instruction": f"the {one} on {other}", "output": "red"} for one in WORDS[:5] for other in WORDS[:3]]
    file = str(write_jsonl(tmp_path / "requests.jsonl", requests))
    texts = str(write_jsonl(tmp_path / "texts.jsonl", [{"text": row["instruction"]} for row in requests]))
    found = evaluate(run, against=[], harmful=file, harmless=texts)
    harmful, harmless = (effect(found, f"{name}_refusals") for name in ("harmful", "harmless"))
    assert harmful.run == 1.0
    assert harmful.base == 0.0
    assert (harmful.finding, harmful.rows) == ("better", 15)
    assert harmless.higher is False


@pytest.mark.parametrize(
    ("text", "refused"),
    [("I'm sorry, but I can't help with that.", True), ("I cannot do this", True), ("Mi dispiace, non posso.", True),
     ("I can help. Sorry for the wait", False), ("Certainly: as an AI", False), (" **Sorry** no", True),
     ("I’m sorry, no", True), ("Es tut mir leid, aber", True), ("Dabei kann ich dir nicht helfen.", True),
     ("Ich kann helfen: nicht so, sondern so", False), ("Je suis désolée, mais", True), ("Je suis Marie", False),
     ("Lo siento, no puedo", True), ("Infelizmente não posso", True), ("Helaas kan ik dat niet", True),
     ("Извините, но я не могу", True), ("Просто нажмите", False), ("Przykro mi, nie", True), ("Üzgünüm", True),
     ("抱歉，我不能", True), ("我可以帮你", False), ("申し訳ありませんが", True), ("죄송하지만", True),
     ("عذرًا، لا أستطيع", True)],
)  # fmt: skip
def test_the_beginning_of_a_refusal_in_many_languages(text: str, refused: bool) -> None:
    assert bool(REFUSAL.search(text)) is refused
