"""Scores of batches: row by row and packed, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

import bottega
from bottega.batch import Batch, Example, Row
from bottega.errors import ModelError
from bottega.models import scorer as scorer_module
from bottega.models.scorer import Fit, Scorer, check_token_ids, first_position_id, score_batches
from bottega.models.scorer_setup import fit_model
from bottega.packing import pack
from making import sharpen, tiny_config

SMALL = {
    "vocab_size": 100, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
}  # fmt: skip


def test_a_token_without_embedding_is_refused(copied: Path) -> None:
    config = json.loads((copied / "tokenizer.json").read_text())
    added = {"id": 300, "content": "zebra", "special": False, "normalized": False}
    config["added_tokens"].append(added | {"single_word": False, "lstrip": False, "rstrip": False})
    (copied / "tokenizer.json").write_text(json.dumps(config))
    model, embedder, short = bottega.load(copied), bottega.load_embedder(copied), bottega.Sampling(tokens=2)
    for use in (
        lambda text: model.generate([text], short),
        lambda text: list(model.stream(text, short)),
        lambda text: embedder.embed([text]),
    ):
        assert len(use("the cat"))
        with pytest.raises(ModelError, match=r"token 300, but the model's vocab_size is 300") as caught:
            use("a zebra")
        assert caught.value.where == str(copied)
        assert caught.value.fix


def rows(*lengths: int) -> list[Row]:
    drawn = [np.random.default_rng(length).integers(5, 250, length) for length in lengths]
    plain = [Row(ids, np.arange(0), ids[:0], np.ones(0, np.float32)) for ids in drawn]
    return [row.predict_every_token() for row in plain]


def batch_of(rows: list[Row]) -> Batch:
    return pack([Example(str(place), (row,)) for place, row in enumerate(rows)])


def network(kind: str = "llama") -> Any:
    torch.manual_seed(0)
    return sharpen(AutoModelForCausalLM.from_config(tiny_config(kind), dtype=torch.float32)).eval()


@torch.no_grad()
def test_packed_rows_and_single_rows_have_the_scores_of_the_model() -> None:
    batch, outputs = batch_of(rows(9, 14, 3)), frozenset({"logp", "best"})
    packed, alone = (
        scorer.eval()(batch, outputs)
        for scorer in (fit_model(network(), "language"), Scorer(network(), "language", Fit(packed=False)))
    )
    torch.testing.assert_close(packed["logp"], alone["logp"], rtol=1e-4, atol=1e-4)
    assert torch.equal(packed["best"], alone["best"])
    wanted = []
    for row in rows(9, 14, 3):
        ids = torch.from_numpy(row.tokens)
        logp = network()(ids[None]).logits[0, :-1].log_softmax(1)
        wanted.append(logp.gather(1, ids[1:, None]).squeeze(1))
    # In the flat sequence rows stand in the order of their tokens.
    assert torch.allclose(torch.cat(wanted).sort().values, alone["logp"].sort().values, rtol=1e-4, atol=1e-4)


def test_only_requested_outputs_are_computed() -> None:
    scorer = fit_model(network(), "language")
    for outputs in ({"logp"}, {"logits"}, {"logp", "states"}):
        assert set(scorer(batch_of(rows(5)), frozenset(outputs))) == outputs


def test_large_inputs_are_scored_in_batches_with_the_indices_of_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer_module, "MAX_SCORED_TOKENS", 20)
    scorer = fit_model(network(), "language")
    given, told = rows(9, 14, 3, 11), []
    found = list(score_batches(given, scorer, lambda done, total: told.append((done, total))))
    assert len(found) > 1
    assert sorted(index for indices, _ in found for index in indices) == [0, 1, 2, 3]
    for indices, batch in found:
        assert batch.tokens_real == sum(len(given[index].tokens) for index in indices)
    assert told[-1] == (4, 4)
    assert list(score_batches([], scorer)) == []


def test_token_ids_beyond_the_vocabulary_are_refused() -> None:
    check_token_ids(tiny_config("llama"), 299, "here")
    with pytest.raises(ModelError, match="token 300, but the model's vocab_size is 300") as caught:
        check_token_ids(tiny_config("llama"), 300, "here")
    assert caught.value.where == "here"
    check_token_ids(AutoConfig.for_model("canine"), 10**6, "here")


def test_the_first_position_of_a_row() -> None:
    roberta = AutoModel.from_config(
        AutoConfig.for_model("roberta", **{**SMALL, "pad_token_id": 3, "max_position_embeddings": 40})
    )
    assert first_position_id(roberta) == 4
    assert first_position_id(network()) == 0


def test_an_error_of_the_models_own_code_names_the_length_of_the_text() -> None:
    model = network()

    def fail(module: Any, given: Any, named: Any) -> None:
        if named["input_ids"].shape[1] < 3:
            raise IndexError("too short")

    model.model.register_forward_pre_hook(fail, with_kwargs=True)
    scorer = Scorer(model, "language", Fit(packed=False))
    assert len(scorer(batch_of(rows(5)), frozenset({"logp"}))["logp"]) == 4
    with pytest.raises(ModelError, match="cannot compute a text of 2 tokens: IndexError: too short") as caught:
        scorer(batch_of(rows(5, 3)), frozenset({"logp"}))
    assert caught.value.where == "LlamaModel of transformers"


def test_a_model_with_fewer_results_than_tokens_is_refused() -> None:
    model = network()

    def halve(module: Any, given: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state[:, ::2]
        return output

    model.model.register_forward_hook(halve)
    with pytest.raises(ModelError, match="returns 2 results for 4 tokens"):
        Scorer(model, "language", Fit(packed=False))(batch_of(rows(5)), frozenset({"logp"}))


def test_the_mode_is_that_of_the_network_even_if_something_else_switched_it() -> None:
    scorer = Scorer(network(), "language", Fit())
    scorer.train()
    scorer.network.eval()
    assert scorer.train().network.training
    assert not scorer.eval().network.training


def test_noise_is_added_to_each_embedding_module_once_and_in_training_alone() -> None:
    scorer, batch = fit_model(network(), "language"), batch_of(rows(9))
    scorer.add_noise(5.0)
    quiet = scorer.eval()(batch, frozenset({"logp"}))["logp"]
    assert torch.equal(scorer(batch, frozenset({"logp"}))["logp"], quiet)
    assert not torch.equal(scorer.train()(batch, frozenset({"logp"}))["logp"], quiet)


def test_a_model_is_saved_as_transformers_loads_it(tmp_path: Path) -> None:
    scorer = Scorer(network(), "language", Fit())
    scorer.save(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert scorer.library == "transformers"
    assert torch.equal(loaded.get_output_embeddings().weight, scorer.network.get_output_embeddings().weight)
