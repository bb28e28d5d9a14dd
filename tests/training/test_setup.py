"""A run built from its recipe: model, reference, held-out rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import bottega
from bottega.batch import count_units
from bottega.data.train_tokenizer import train_tokenizer
from bottega.errors import ModelError, RecipeError
from bottega.models.scorer_setup import load_scorer
from bottega.recipe.schema import Recipe
from bottega.training import provenance
from bottega.training.dataset import build_dataset
from bottega.training.input_files import list_input_files
from bottega.training.needs import micro_batches
from bottega.training.setup import MAX_HEAD_LR, Run, _select_held_out, build, resolve_threads
from making import make_model, write_jsonl


def test_checkpointing_changes_nothing_but_rounding(recipe: Callable, tmp_path: Path) -> None:
    losses = []
    for checkpointing in (False, True):
        optim = {"steps": 4, "examples": 4, "lr": 1e-2, "checkpointing": checkpointing}
        made = recipe(optim=optim, adapter={"rank": 2}, evaluate=None)
        events = list(bottega.train(made, tmp_path / str(checkpointing)))
        losses.append([event.loss for event in events if event.type == "stepped"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("more", [{}, {"adapter": {"rank": 2}}], ids=["full", "lora"])
def test_the_reference_of_the_recipe_is_compared_with(session: Callable[..., Run], more: dict, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", "gpt2")
    base = {"base": str(make_model(tmp_path / "model", "llama")), "dtype": "float32", "reference": str(other)}
    one = session(4, model=base, **more)
    (batch,) = micro_batches(one, one.sampler.examples[:])
    plain = load_scorer(str(other), "float32", "cpu")
    with torch.no_grad():
        wanted = plain(batch, frozenset({"logp"}))["logp"]
    torch.testing.assert_close(batch.columns["reference"], wanted, rtol=0, atol=1e-5)
    assert (batch.columns["reference"] - one.engine.score(batch, frozenset({"logp"}))["logp"]).abs().max() > 1e-2
    assert str(other / "model.safetensors") in map(str, list_input_files(one.recipe))


def test_nothing_is_packed_with_a_reference_that_cannot_be_packed(session: Callable[..., Run], tmp_path: Path) -> None:
    base = {"base": str(make_model(tmp_path / "model", "llama")), "dtype": "float32"}
    one = session(4, model=base | {"reference": str(make_model(tmp_path / "other", "bloom"))})
    assert one.engine.scorer.fit.packed
    assert not one.packed
    (batch,) = micro_batches(one, one.sampler.examples[:])
    assert len(batch.nodes) == len(batch.example), "every row stands alone"


def test_a_reference_with_another_tokenizer_is_refused(session: Callable[..., Run], tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", "llama")
    (other / "tokenizer.json").unlink()
    (tmp_path / "text.txt").write_text("the cat sat on the mat")
    train_tokenizer([tmp_path / "text.txt"], 270, tmp_path / "words")
    for path in (tmp_path / "words").iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    base = {"base": str(make_model(tmp_path / "model", "llama")), "reference": str(other)}
    with pytest.raises(ModelError, match="another tokenizer") as caught:
        session(4, model=base)
    assert caught.value.where == str(other)
    with pytest.raises(RecipeError, match=r"model\.reference: sft has no reference model"):
        session(4, model=base, objective={"kind": "sft"})


def test_the_choices_of_an_earlier_start_are_kept(recipe: Callable[..., Recipe]) -> None:
    first = build(recipe())
    place = {
        "files": provenance.checksums(recipe()),
        "choices": provenance.place_document(first, {}, None)["choices"]
        | {"threads": 3, "lr": 0.5, "micro_batch_tokens": 77},
    }
    again = build(recipe(), place)
    assert (again.choices.threads, again.choices.lr, again.choices.micro_batch_tokens) == (3, 0.5, 77)
    assert again.schedule.lr(2) == pytest.approx(50 * first.schedule.lr(2))
    assert again.engine.scorer.fit.fused == first.engine.scorer.fit.fused


LABELED = [
    {"text": f"the {word} sat", "label": label} for word, label in (("cat", "a"), ("dog", "b")) for _ in range(3)
]


@pytest.mark.parametrize("adapter", [None, {"rank": 2}, {"kind": "ia3"}, {"kind": "bottleneck"}])
def test_a_new_head_learns_at_a_rate_of_its_own(adapter: dict[str, Any] | None, bert: Path, tmp_path: Path) -> None:
    """Whatever adapter is trained beside it; all else at that of the recipe."""

    def recipe_of(base: Path, **optim: float) -> Recipe:
        sections = {
            "model": {"base": str(base), "dtype": "float32"},
            "data": {"train": str(write_jsonl(tmp_path / "rows.jsonl", LABELED))},
            "objective": {"kind": "classify"},
            "optim": {"steps": 2, "examples": 2, "lr": 1e-4, "warmup": 0, "schedule": "constant", **optim},
        }
        return Recipe.parse(sections | ({} if adapter is None else {"adapter": adapter}))

    run = build(recipe_of(bert))
    assert run.choices.head_lr == MAX_HEAD_LR
    assert build(recipe_of(bert, head_lr=2e-3)).choices.head_lr == 2e-3
    assert build(recipe_of(bert, lr=0.05)).choices.head_lr == 0.05
    trained = {name: weight for name, weight in run.engine.scorer.model.named_parameters() if weight.requires_grad}
    before = {name: weight.detach().clone() for name, weight in trained.items()}
    (batch,) = micro_batches(run, run.sampler.examples[:2])
    scores = run.engine.training_scores(run.recipe.objective, batch, 0)
    run.engine.compute_loss(run.recipe.objective, scores, batch, count_units([batch]), 1)[0].backward()
    run.engine.update(1e-4, step=1)
    moved = {name: float((weight.detach() - before[name]).abs().max()) for name, weight in trained.items()}
    # The first update of AdamW moves a weight by its learning rate.
    head = {name: value for name, value in moved.items() if "classifier" in name}
    assert len(head) == 2
    assert all(value == pytest.approx(MAX_HEAD_LR, rel=1e-2) for value in head.values())
    assert all(value <= 1.01e-4 for name, value in moved.items() if name not in head)


def test_a_head_that_was_trained_has_no_rate_of_its_own(bert: Path, tmp_path: Path) -> None:
    sections = {
        "model": {"base": str(bert), "dtype": "float32"},
        "data": {"train": str(write_jsonl(tmp_path / "rows.jsonl", LABELED))},
        "objective": {"kind": "classify"},
        "optim": {"steps": 1, "examples": 2},
    }
    list(bottega.train(Recipe.parse(sections), out=tmp_path / "run"))
    sections["model"] = {"base": str(tmp_path / "run"), "dtype": "float32"}
    assert build(Recipe.parse(sections)).choices.head_lr is None
    with pytest.raises(RecipeError, match="no head that starts from random weights"):
        build(Recipe.parse(sections | {"optim": {"steps": 1, "examples": 2, "head_lr": 1e-3}}))


def test_threads_are_those_stored_or_of_the_recipe_or_of_torch(recipe: Callable[..., Recipe]) -> None:
    given = recipe(devices={"threads": 2})
    assert resolve_threads(given, {"choices": {"threads": 5}}) == 5
    assert resolve_threads(given, None) == resolve_threads(given, {"choices": {}}) == 2
    assert resolve_threads(recipe(), None) == torch.get_num_threads()


def test_validation_rows_are_the_same_at_every_start(recipe: Callable[..., Recipe]) -> None:
    data, few = build_dataset(recipe()), recipe(evaluate={"rows": 3})
    ids = [[example.id for example in _select_held_out(few, data)] for _ in range(2)]
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 3
    assert len(_select_held_out(recipe(evaluate={"rows": 100}), data)) == 6, "there are no more"
    assert _select_held_out(recipe(evaluate=None), data) == []


def test_new_weights_depend_on_the_seed_alone(recipe: Callable[..., Recipe], llama: Path) -> None:
    shape = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 2}
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(weights))
        run = build(recipe(model={"shape": shape, "tokenizer": str(llama), "dtype": "float32"}, seed=seed))
        weights.append(run.engine.scorer.network.get_output_embeddings().weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_reference_is_a_frozen_copy_where_every_weight_is_trained(session: Callable[..., Run]) -> None:
    full, adapted = session(4), session(4, adapter={"rank": 2})
    assert adapted.engine.reference is None, "the base without its adapter is the reference"
    assert full.engine.reference is not None
    assert not any(weight.requires_grad for weight in full.engine.reference.parameters())
    for own, copied in zip(full.engine.scorer.parameters(), full.engine.reference.parameters(), strict=True):
        assert own is not copied
        assert torch.equal(own, copied)
