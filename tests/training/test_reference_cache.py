"""The reference is computed once an example: remembered = computed, and a resume remembers the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bottega.data.train_tokenizer import train_tokenizer
from bottega.errors import CheckpointError, ModelError, RecipeError
from bottega.models.scorer_setup import load_scorer
from bottega.recipe.schema import Recipe
from bottega.training.input_files import list_input_files
from bottega.training.needs import micro_batches
from bottega.training.reference_cache import ReferenceCache
from bottega.training.setup import Run, build
from making import make_model, write_jsonl

PAIRS = [{"prompt": f"the {word}", "chosen": " sat on the mat", "rejected": " ran"} for word in "abcdef"]


def session(folder: Path, steps: int, **more: object) -> Run:
    document = {
        "model": {"base": str(make_model(folder / "model", "llama")), "dtype": "float32"},
        "data": {"train": str(write_jsonl(folder / "pairs.jsonl", PAIRS))},
        "objective": {"kind": "dpo"},
        "optim": {"steps": steps, "examples": 3},
    }
    return build(Recipe.parse(document | more))


@pytest.mark.parametrize("more", [{}, {"adapter": {"rank": 2}}], ids=["full", "lora"])
def test_what_is_remembered_is_what_was_computed(more: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = session(tmp_path, 4, **more)
    examples = one.sampler.examples[:]
    (first,) = micro_batches(one, examples)
    monkeypatch.setattr(one.engine, "score", None)  # whoever asks the model again fails
    (again,) = micro_batches(one, examples)
    assert torch.equal(again.columns["reference"], first.columns["reference"])
    (other,) = micro_batches(one, examples[3:] + examples[:2])
    known = {
        name: first.columns["reference"][first.example[first.row] == place] for place, name in enumerate(first.ids)
    }
    for place, name in enumerate(other.ids):
        assert torch.equal(other.columns["reference"][other.example[other.row] == place], known[name])


def test_nothing_is_kept_where_nothing_comes_back(tmp_path: Path) -> None:
    assert session(tmp_path, 2).reference_cache is None
    assert session(tmp_path, 3).reference_cache is not None


def test_a_checkpoint_remembers_the_same_bits(tmp_path: Path) -> None:
    one = session(tmp_path, 4)
    assert one.reference_cache is not None
    micro_batches(one, one.sampler.examples[:4])
    one.reference_cache.save(tmp_path)
    back = ReferenceCache()
    back.load(tmp_path)
    assert torch.equal(back.of(one.sampler.examples[:4]), one.reference_cache.of(one.sampler.examples[:4]))
    assert one.sampler.examples[4] not in back


def test_an_empty_memory_is_saved_too(tmp_path: Path) -> None:
    ReferenceCache().save(tmp_path)
    back = ReferenceCache()
    back.load(tmp_path)
    assert session(tmp_path, 2).sampler.examples[0] not in back


def test_one_that_was_known_keeps_its_bits(tmp_path: Path) -> None:
    """Whatever company it is computed in again: a resumed run knows it from the start."""
    one = session(tmp_path, 4, model={"base": str(make_model(tmp_path / "model", "llama")), "dtype": "bfloat16"})
    known, *others = one.sampler.examples[:]
    (first,) = micro_batches(one, [known])
    (batch,) = micro_batches(one, [known, *others])
    place = batch.ids.index(known.id)
    assert torch.equal(batch.columns["reference"][batch.example[batch.row] == place], first.columns["reference"])


def test_a_checkpoint_without_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="another version"):
        ReferenceCache().load(tmp_path)


def test_examples_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """The same file read twice, with other fields: rows of the same name and another length."""
    swapped = {"path": str(tmp_path / "pairs.jsonl"), "mapping": {"chosen": "rejected", "rejected": "chosen"}}
    one = session(tmp_path, 9, data={"train": [str(tmp_path / "pairs.jsonl"), swapped]})
    first, second = one.sampler.examples[0], one.sampler.examples[len(PAIRS)]
    assert first.id == second.id
    (batch,) = micro_batches(one, [first, second])
    (again,) = micro_batches(one, [first, second])
    assert torch.equal(again.columns["reference"], batch.columns["reference"])


@pytest.mark.parametrize("more", [{}, {"adapter": {"rank": 2}}], ids=["full", "lora"])
def test_a_model_named_is_the_reference(more: dict, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", "gpt2")
    base = {"base": str(make_model(tmp_path / "model", "llama")), "dtype": "float32", "reference": str(other)}
    one = session(tmp_path, 4, model=base, **more)
    (batch,) = micro_batches(one, one.sampler.examples[:])
    plain = load_scorer(str(other), "float32", "cpu")
    with torch.no_grad():
        wanted = plain(batch, frozenset({"logp"}))["logp"]
    torch.testing.assert_close(batch.columns["reference"], wanted, rtol=0, atol=1e-5)
    assert (batch.columns["reference"] - one.engine.score(batch, frozenset({"logp"}))["logp"]).abs().max() > 1e-2
    assert str(other / "model.safetensors") in map(str, list_input_files(one.recipe))


def test_one_that_packs_nothing_keeps_the_policy_from_it(tmp_path: Path) -> None:
    base = {"base": str(make_model(tmp_path / "model", "llama")), "dtype": "float32"}
    one = session(tmp_path, 4, model=base | {"reference": str(make_model(tmp_path / "other", "bloom"))})
    assert one.engine.scorer.fit.packed
    assert not one.packed
    (batch,) = micro_batches(one, one.sampler.examples[:])
    assert len(batch.nodes) == len(batch.example), "every row stands alone"


def test_a_reference_with_another_tokenizer_is_refused(tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", "llama")
    (other / "tokenizer.json").unlink()
    (tmp_path / "text.txt").write_text("the cat sat on the mat")
    train_tokenizer([tmp_path / "text.txt"], 270, tmp_path / "words")
    for path in (tmp_path / "words").iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    base = {"base": str(make_model(tmp_path / "model", "llama")), "reference": str(other)}
    with pytest.raises(ModelError, match="another tokenizer") as caught:
        session(tmp_path, 4, model=base)
    assert caught.value.where == str(other)
    with pytest.raises(RecipeError, match=r"model\.reference: sft has no reference model"):
        session(tmp_path, 4, model=base, objective={"kind": "sft"})
