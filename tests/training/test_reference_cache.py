"""The reference is computed once an example: remembered = computed, and a resume remembers the same bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bottega.errors import CheckpointError
from bottega.training.needs import micro_batches
from bottega.training.reference_cache import ReferenceCache
from bottega.training.setup import Run
from making import make_model


@pytest.mark.parametrize("more", [{}, {"adapter": {"rank": 2}}], ids=["full", "lora"])
def test_cached_scores_are_those_that_were_computed(
    session: Callable[..., Run], more: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = session(4, **more)
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


def test_nothing_is_cached_if_no_example_comes_again(session: Callable[..., Run], tmp_path: Path) -> None:
    assert session(2).reference_cache is None
    assert session(3).reference_cache is not None


def test_a_checkpoint_restores_the_same_bits(session: Callable[..., Run], tmp_path: Path) -> None:
    one = session(4)
    assert one.reference_cache is not None
    micro_batches(one, one.sampler.examples[:4])
    one.reference_cache.save(tmp_path)
    back = ReferenceCache()
    back.load(tmp_path)
    assert torch.equal(back.of(one.sampler.examples[:4]), one.reference_cache.of(one.sampler.examples[:4]))
    assert one.sampler.examples[4] not in back


def test_an_empty_cache_is_saved_too(session: Callable[..., Run], tmp_path: Path) -> None:
    ReferenceCache().save(tmp_path)
    back = ReferenceCache()
    back.load(tmp_path)
    assert session(2).sampler.examples[0] not in back


def test_a_cached_example_keeps_its_bits(session: Callable[..., Run], tmp_path: Path) -> None:
    """It is not computed again with other examples in its batch: a resumed run would have it cached from the start."""
    one = session(4, model={"base": str(make_model(tmp_path / "model", "llama")), "dtype": "bfloat16"})
    known, *others = one.sampler.examples[:]
    (first,) = micro_batches(one, [known])
    (batch,) = micro_batches(one, [known, *others])
    place = batch.ids.index(known.id)
    assert torch.equal(batch.columns["reference"][batch.example[batch.row] == place], first.columns["reference"])


def test_a_checkpoint_without_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="another version"):
        ReferenceCache().load(tmp_path)


def test_examples_with_equal_ids_are_distinguished(session: Callable[..., Run], tmp_path: Path) -> None:
    """The same file read twice with different fields gives rows with the same id and different lengths."""
    swapped = {"path": str(tmp_path / "pairs.jsonl"), "mapping": {"chosen": "rejected", "rejected": "chosen"}}
    one = session(9, data={"train": [str(tmp_path / "pairs.jsonl"), swapped]})
    first, second = one.sampler.examples[0], one.sampler.examples[6]
    assert first.id == second.id
    (batch,) = micro_batches(one, [first, second])
    (again,) = micro_batches(one, [first, second])
    assert torch.equal(again.columns["reference"], batch.columns["reference"])
