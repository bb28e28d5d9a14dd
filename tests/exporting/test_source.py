"""The trained model an export starts from: merged, as it was trained, and the rows to compare both on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from bottega.batch import Row
from bottega.errors import ModelError, RunError
from bottega.exporting._source import PROBE_ROWS, PROBE_TEXT, compute_logits, open_trained, plain_row
from bottega.recipe.files import RESOLVED
from bottega.recipe.schema import Recipe
from making import WORDS, make_model, make_tokenizer, sharpen, tiny_config, write_jsonl


@pytest.fixture
def adapted(llama: Path, tmp_path: Path, train: Callable[..., Path]) -> Path:
    """A run of one update that ended in an adapter, and held out half of its pairs."""
    rows = [{"prompt": f"the {word} ", "chosen": "sat on the mat", "rejected": "ran"} for word in WORDS]
    data = {"train": str(write_jsonl(tmp_path / "rows.jsonl", rows)), "validation": 0.5}
    sections = {"objective": {"kind": "dpo"}, "adapter": {"rank": 2}, "data": data}
    return train(llama, tmp_path / "run", optim={"steps": 1, "examples": 2, "lr": 0.1}, **sections)


def test_a_run_is_merged_into_the_weights_of_its_base(adapted: Path, llama: Path) -> None:
    model = open_trained(str(adapted))
    assert (model.head, model.labels, model.source.base) == ("language", [], str(llama))
    row = plain_row(np.arange(5, 15))
    module, network = model.reference()
    trained = compute_logits(network, row)
    merged = model.merged(torch.float32)
    assert not any("lora" in name for name, _ in merged.named_parameters())
    np.testing.assert_allclose(compute_logits(merged.eval(), row), trained, rtol=0, atol=1e-4)
    base = compute_logits(AutoModelForCausalLM.from_pretrained(llama).eval(), row)
    assert np.abs(base - trained).max() > 1e-3
    assert not module.training
    assert {weight.dtype for weight in model.merged(torch.bfloat16).parameters()} == {torch.bfloat16}


def test_rows_to_compare_on_are_those_that_were_held_out(adapted: Path) -> None:
    model = open_trained(str(adapted))
    rows = model.probe_rows()
    assert len(rows) == PROBE_ROWS
    assert model.tokenizer.decode(rows[0].tokens, skip_special_tokens=True).endswith("sat on the mat")
    assert model.tokenizer.decode(rows[1].tokens, skip_special_tokens=True).endswith("ran"), "both rows of a pair"


def test_a_model_without_a_run_is_compared_on_a_sentence(llama: Path) -> None:
    model = open_trained(str(llama))
    (row,) = model.probe_rows()
    assert PROBE_TEXT in model.tokenizer.decode(row.tokens)
    assert row.at.tolist() == list(range(len(row.tokens)))
    assert not row.weight.any()


def test_a_run_without_a_result_is_refused(llama: Path, tmp_path: Path) -> None:
    document = {"model": {"base": str(llama)}, "data": {"train": "rows.jsonl"}, "objective": {"kind": "sft"}}
    (tmp_path / RESOLVED).write_text(json.dumps(Recipe.parse(document).document()))
    with pytest.raises(RunError, match="this run has no result yet") as caught:
        open_trained(str(tmp_path))
    assert caught.value.fix == f"finish it: bottega train --resume {tmp_path}"
    with pytest.raises(ModelError, match="no such folder"):
        open_trained(str(tmp_path / "none"))


def test_logits_of_tokens_of_a_class_and_of_a_decoder(llama: Path, tmp_path: Path) -> None:
    row = plain_row(np.arange(5, 12))
    network = AutoModelForCausalLM.from_pretrained(llama).eval()
    ids = torch.arange(5, 12)[None]
    np.testing.assert_array_equal(compute_logits(network, row), network(ids).logits[0].detach().numpy())
    np.testing.assert_array_equal(
        compute_logits(network.model, row), network.model(ids).last_hidden_state[0].detach().numpy()
    )
    torch.manual_seed(0)
    config = tiny_config("llama", num_labels=3)
    folder = make_tokenizer(tmp_path / "classes")
    classifier = sharpen(AutoModelForSequenceClassification.from_config(config)).eval()
    classifier.save_pretrained(str(folder))
    assert compute_logits(classifier, row).shape == (1, 3)
    decoder = open_trained(str(make_model(tmp_path / "t5", "t5"))).reference()[1]
    with_source = Row(row.tokens, row.at, row.label, row.weight, source=np.arange(30, 50))
    wanted = decoder(input_ids=torch.arange(30, 50)[None], decoder_input_ids=ids).logits[0].detach().numpy()
    np.testing.assert_allclose(compute_logits(decoder, with_source), wanted, rtol=0, atol=1e-5)
