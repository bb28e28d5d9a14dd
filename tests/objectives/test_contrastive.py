"""Texts that belong together: which are known to, the whole update at once, and the vectors that come of it."""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from typer.testing import CliRunner
from worlds import OWN, objective_and_rows, tokenizer

import bottega
from bottega.batch import Example, count_units
from bottega.cli.commands import app
from bottega.engine.engine import Engine
from bottega.engine.optimizer import Optimizer
from bottega.errors import DataError, RecipeError
from bottega.models.scorer_setup import fit_model
from bottega.objectives.contrastive import Contrastive
from bottega.packing import pack, split_into_micro_batches
from bottega.recipe.schema import Optim, Recipe
from bottega.records import Compared, Paired, Record
from bottega.seeding import derive
from bottega.tokenization.codec import Codec
from making import WORDS, make_model, tiny_config, write_jsonl


def codec(*, both_ways: bool = True) -> Codec:
    return Codec(tokenizer(), max_length=60, too_long="truncate", both_ways=both_ways)


def scored(records: list[Record], vectors: list[list[float]], **options: object) -> tuple[float, dict[str, float]]:
    """(loss, metrics) where each row's hidden states are its vector."""
    objective = Contrastive(**options)  # type: ignore[arg-type]
    examples = [Example(str(place), rows) for place, one in enumerate(records) for rows in objective.rows(one, codec())]
    batch = pack(examples)
    loss = objective.loss({"hidden": torch.tensor(vectors)[batch.row]}, batch)
    counts = count_units([batch])
    metrics = {name: float(term.sum) / counts[term.unit] for name, term in loss.metrics.items()}  # type: ignore[union-attr]
    return float(loss.total(counts)), metrics


def test_a_known_positive_is_not_a_negative() -> None:
    """The same positive, the same label, and the anchor's own text among the positives of others."""
    right, wrong = [1.0, 0.0], [0.0, 1.0]
    apart = [Paired("1", "a cat", "a dog"), Paired("2", "one red", "two blue")]
    loss, metrics = scored(apart, [right, right, wrong, wrong], temperature=0.5)
    assert loss == pytest.approx(np.log(1 + np.exp(-2)))
    assert metrics == {"accuracy": 1.0}
    known = [
        [Paired("1", "a cat", "a dog"), Paired("2", "one red", "a dog")],
        [Paired("1", "a cat", "a dog", label="x"), Paired("2", "one red", "two blue", label="x")],
        [Paired("1", "a cat", "a dog"), Paired("2", "a dog", "a cat")],
    ]
    # What 2 calls a negative is the positive of 1, which does not seek among it.
    own = [Paired("1", "a cat", "a dog", label="x"), Paired("2", "one red", "two blue", ("a dog",), label="x")]
    bare, _ = scored([own[1]], [right, wrong, right], temperature=1.0)
    assert scored(own, [right, right, right, wrong, right], temperature=1.0)[0] == pytest.approx(bare / 2)
    for pair in known:
        assert scored(pair, [right, right, wrong, wrong])[0] == 0.0
    # A negative of one's own stays one.
    loss, metrics = scored([Paired("1", "a cat", "a dog", ("two blue",))], [right, wrong, right], temperature=1.0)
    assert loss == pytest.approx(np.log(1 + np.e))
    assert metrics == {"accuracy": 0.0}


def test_rows_that_are_all_positives_of_each_other_are_refused(tmp_path: Path) -> None:
    rows = [{"anchor": f"the {word}", "positive": f"a {word}", "label": "1"} for word in WORDS]
    recipe = Recipe.parse(
        {
            "model": {"base": str(make_model(tmp_path / "base", "bert"))},
            "data": {"train": str(write_jsonl(tmp_path / "rows.jsonl", rows))},
            "objective": {"kind": "contrastive"},
            "optim": {"steps": 2, "examples": 4},
        }
    )
    with pytest.raises(DataError, match="nothing to tell apart"):
        list(bottega.train(recipe, tmp_path / "run"))


def test_a_base_with_another_head_is_evaluated_as_an_embedder(tmp_path: Path) -> None:
    """And the result says by itself how its vectors are made."""
    texts = write_jsonl(tmp_path / "texts.jsonl", [{"text": " ".join(WORDS)}] * 8)
    masked = Recipe.parse(
        {
            "model": {"base": str(make_model(tmp_path / "base", "bert"))},
            "data": {"train": str(texts)},
            "objective": {"kind": "masked"},
            "optim": {"steps": 1},
        }
    )
    list(bottega.train(masked, tmp_path / "masked"))
    pairs = [{"anchor": f"the {word}", "positive": f"a {word} too"} for word in WORDS[:12]]
    recipe = Recipe.parse(
        {
            "model": {"base": str(tmp_path / "masked")},
            "data": {"train": str(write_jsonl(tmp_path / "pairs.jsonl", pairs)), "validation": 0.5},
            "objective": {"kind": "contrastive", "pooling": "first"},
            "optim": {"steps": 1, "examples": 4},
        }
    )
    list(bottega.train(recipe, tmp_path / "run"))
    assert bottega.evaluate(tmp_path / "run").base == "masked"
    assert bottega.load_embedder(tmp_path / "run" / "model").pooling == "first"
    modules = json.loads((tmp_path / "run" / "model" / "modules.json").read_text())
    assert [one["path"] for one in modules] == ["", "1_Pooling", "2_Normalize"]


def test_pairs_with_and_without_scores_may_be_mixed() -> None:
    rows: list[Record] = [Paired("1", "a", "b", ("c",)), Compared("2", "d", "e", 0.25)]
    loss, _ = scored(rows, [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]], temperature=1.0)
    assert loss == pytest.approx(np.log(1 + np.exp(-1)) + 0.25**2)


@pytest.mark.parametrize("options", [{}, {"rows": "compared"}, {"file": str(OWN / "own_module.py")}])
def test_micro_batches_give_the_gradient_of_one_batch(options: dict) -> None:
    """Scored twice by the memory of one batch: the gradients of all at once, with dropout on, and of no split."""
    objective, records = objective_and_rows("contrastive", dict(options))
    examples = [Example(one.where, rows) for one in records for rows in objective.rows(one, codec())]

    seed = partial(derive, 0, "dropout", 1)

    def engine(dropout: float) -> Engine:
        torch.manual_seed(0)
        drops = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
        model = transformers.AutoModel.from_config(tiny_config("bert", **drops), dtype=torch.float32)
        scorer = fit_model(model, "embedding")
        return Engine(scorer, Optimizer(model, Optim()), tokenizer(), reference=None, seed=0)

    parts = [pack(group) for group in split_into_micro_batches(examples, 40)]
    assert len(parts) > 2
    dropping = engine(0.2)
    (part,) = dropping.accumulate(objective, parts, count_units(parts), step=1, dropout_seed=seed)
    assert sorted(dropping.accumulated_ids) == sorted(one.id for one in examples)
    # The same by autograd alone, all graphs kept.
    plain = engine(0.2)
    plain.scorer.train()
    found = [plain.training_scores(objective, batch, seed(number))["hidden"] for number, batch in enumerate(parts)]
    total, other = plain.compute_loss(objective, {"hidden": torch.cat(found)}, part.batch, count_units(parts), 1)
    total.backward()
    assert part.loss == pytest.approx(other.loss, rel=1e-5)
    for name, gradient in plain.optimizer.gradients.items():
        torch.testing.assert_close(dropping.optimizer.gradients[name], gradient, rtol=1e-4, atol=1e-6)
    # And of one batch.
    divided, whole = engine(0.0), engine(0.0)
    together = [pack(examples)]
    divided.accumulate(objective, parts, count_units(parts), step=1, dropout_seed=seed)
    whole.accumulate(objective, together, count_units(together), step=1, dropout_seed=seed)
    for name, gradient in whole.optimizer.gradients.items():
        torch.testing.assert_close(divided.optimizer.gradients[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module", params=["bert", pytest.param("llama", marks=pytest.mark.slow)])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that learned that texts of one kind of word belong together."""
    folder = tmp_path_factory.mktemp("contrastive")
    draw = random.Random(0)
    kinds = [WORDS[:6], WORDS[6:12], WORDS[12:18]]

    def text(kind: int) -> str:
        return " ".join(draw.choice(kinds[kind]) for _ in range(6))

    rows = [{"anchor": text(kind), "positive": text(kind), "label": f"kind {kind}"} for kind in [0, 1, 2] * 40]
    recipe = Recipe.parse(
        {
            "model": {"base": str(make_model(folder / "base", request.param)), "dtype": "float32"},
            "data": {"train": str(write_jsonl(folder / "rows.jsonl", rows)), "validation": 0.2},
            "objective": {"kind": "contrastive", "pooling": "mean", "temperature": 0.1},
            "optim": {"steps": 30, "examples": 16, "tokens": 100, "lr": 3e-3},
            "evaluate": {"every": 15},
        }
    )
    for _ in bottega.train(recipe, folder / "run"):
        pass
    return folder / "run"


def test_training_brings_positives_together(run: Path) -> None:
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    losses = [event["loss"] for event in events if event["type"] == "validated"]
    assert losses[-1] < 0.7 * losses[0]
    found = bottega.evaluate(run)
    assert found.base == "base"
    named = {one.metric: one for one in found.estimates}
    assert set(named) == {"accuracy_at_1", "mrr"}
    assert named["accuracy_at_1"].run > named["accuracy_at_1"].base + 0.2  # type: ignore[operator]
    model = bottega.load_embedder(run)
    one, other, third = model.embed([" ".join(WORDS[:4]), " ".join(WORDS[2:6]), " ".join(WORDS[12:16])])
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-5)
    assert one @ other > one @ third + 0.3
    assert model.embed([]).shape == (0, len(one))


def test_the_command_embeds_texts(run: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    shown = runner.invoke(app, ["embed", str(run), "the cat", "a dog"])
    assert shown.exit_code == 0, shown.output
    assert "1.00" in shown.output
    told = runner.invoke(app, ["embed", str(run), "the cat", "--json"])
    assert len(json.loads(told.stdout)["vector"]) == bottega.load_embedder(run).embed(["a"]).shape[1]
    runner.invoke(app, ["embed", str(run), "the cat", "a dog", "--out", str(tmp_path / "x.npy")])
    torch.testing.assert_close(
        np.load(tmp_path / "x.npy"), bottega.load_embedder(run).embed(["the cat", "a dog"]), rtol=0, atol=1e-6
    )
    other = runner.invoke(app, ["chat", str(run)])
    assert other.exit_code == 2
    assert "bottega embed" in other.output


def test_pooling_and_modules_that_cannot_work_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="attends to nothing but itself"):
        Contrastive(pooling="first").rows(Paired("1", "a", "b"), codec(both_ways=False))
    trained = tmp_path / "trained.py"
    trained.write_text("import torch\nclass Own(torch.nn.Linear):\n    def __init__(self): super().__init__(2, 2)\n")
    with pytest.raises(RecipeError, match="trainable weights"):
        scored([Paired("1", "a", "b")], [[1.0, 0.0]] * 2, file=str(trained))
    odd = tmp_path / "odd.py"
    odd.write_text("import torch\nclass Own(torch.nn.Module):\n    def forward(self, a, b, c): return a\n")
    with pytest.raises(RecipeError, match=r"shape \[1, 2\] for 1 pairs"):
        scored([Paired("1", "a", "b")], [[1.0, 0.0]] * 2, file=str(odd))
    broken = tmp_path / "broken.py"
    broken.write_text(
        "import torch\nclass Own(torch.nn.Module):\n    def forward(self, a, b, c):\n        return a + z\n"
    )
    with pytest.raises(RecipeError, match="name 'z' is not defined") as caught:
        scored([Paired("1", "a", "b")], [[1.0, 0.0]] * 2, file=str(broken))
    assert caught.value.where == f"{broken} line 4"
