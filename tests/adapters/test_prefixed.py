"""A model with trained keys and values before every text: beside PEFT, continued, served, switched off, refused."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import bottega
from bottega import adapters
from bottega.adapters import InstallOptions
from bottega.adapters.prefix import PrefixTuning
from bottega.batch import Example, Row
from bottega.errors import ModelError
from bottega.inference.deployment import Deployment, DeploymentSettings
from bottega.inference.language_model import LanguageModel, load_language_model
from bottega.inference.scheduler import Done, ScoredPiece, Update
from bottega.models.native import operators
from bottega.models.scorer import Scorer
from bottega.models.scorer_setup import add_adapter, fit_model
from bottega.packing import pack
from bottega.sampling import Sampling
from making import CAT_ROWS, make_model, write_jsonl

TOKENS = 6
OPTIONS = InstallOptions(peft_task="CAUSAL_LM")


def base(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def with_peft(network: Any, folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(network, str(folder)).eval()


def logp(network: Any, ids: list[int]) -> torch.Tensor:
    """[n - 1] of each token but the first, by plain transformers or PEFT."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Without a mask PEFT makes none for its own tokens either.
        logits = network(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids))).logits[0, -len(ids) :]
    return logits.log_softmax(-1)[:-1].gather(1, torch.tensor(ids)[1:, None])[:, 0]


def row_of(ids: list[int]) -> Row:
    tokens = np.array(ids)
    at = np.arange(len(ids) - 1)
    return Row(tokens, at, tokens[at + 1], np.ones(len(at), np.float32))


def scores(scorer: Scorer, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return scorer(pack([Example("", (row_of(ids),))]), frozenset({"logp"}))["logp"]


@pytest.mark.parametrize("model", ["llama", "qwen3", "gemma3_text", "gpt2", "mixtral"])
def test_peft_computes_the_same_both_ways(model: str, tmp_path: Path) -> None:
    folder, ids = make_model(tmp_path / "base", model), list(range(3, 20))
    scorer = fit_model(base(folder), "language")
    add_adapter(scorer, PrefixTuning(tokens=4), new=(), reference=False)
    torch.nn.init.normal_(scorer.adapted.embedding.trained, std=0.7)
    (tmp_path / "one").mkdir()
    scorer.save(tmp_path / "one")
    plain = with_peft(base(folder), tmp_path / "one")
    wanted = logp(plain, ids)
    torch.testing.assert_close(scores(scorer, ids), wanted, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(wanted, logp(base(folder), ids), atol=1e-2)
    plain.save_pretrained(str(tmp_path / "two"))
    again = fit_model(base(folder), "language")
    again.adapted = adapters.attach(again.network, tmp_path / "two")
    torch.testing.assert_close(scores(again, ids), wanted, atol=1e-4, rtol=1e-4)
    with again.adapted.disabled():
        torch.testing.assert_close(scores(again, ids), logp(base(folder), ids), atol=1e-4, rtol=1e-4)


def test_it_starts_as_words_before_the_text(llama: Path) -> None:
    torch.manual_seed(0)
    words = torch.randint(len(base(llama).get_input_embeddings().weight), (4,)).tolist()
    torch.manual_seed(0)
    scorer = fit_model(base(llama), "language")
    add_adapter(scorer, PrefixTuning(tokens=4), new=(), reference=False)
    ids = list(range(3, 20))
    wanted = logp(base(llama), [*words, *ids])[4:]
    torch.testing.assert_close(scores(scorer, ids), wanted, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose layers operators in C++ compute, which know nothing of trained keys."""
    return make_model(tmp_path_factory.mktemp("models") / "wide", hidden_size=128, head_dim=32, intermediate_size=96)


@pytest.fixture(scope="module")
def run(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prefix")
    recipe = {
        "model": {"base": str(wide), "dtype": "float32"},
        "adapter": {"kind": "prefix", "tokens": 4},
        "objective": {"kind": "sft"},
        "data": {"train": str(write_jsonl(folder / "rows.jsonl", CAT_ROWS))},
        "optim": {"steps": 12, "examples": 4, "lr": 0.1},
    }
    list(bottega.train(bottega.Recipe.parse(recipe), out=folder / "run"))
    return folder / "run"


@pytest.fixture
def model(run: Path) -> LanguageModel:
    return load_language_model(str(run), dtype="float32")


def test_texts_are_continued_behind_it(model: LanguageModel, run: Path, wide: Path) -> None:
    prompts, plain = ["the cat", "a dog", "the cat"], with_peft(base(wide), run / "adapter")
    settings = Sampling(tokens=TOKENS, temperature=0)
    for prompt, (answer,) in zip(prompts, model.generate(prompts, settings), strict=True):
        ids = model.encode(prompt)
        for token in answer.tokens:
            with torch.no_grad():
                logits = plain(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids))).logits
            assert token == int(logits[0, -1].argmax())
            ids.append(token)


def test_without_it_the_base_answers(model: LanguageModel, wide: Path) -> None:
    plain, prompts = load_language_model(str(wide), dtype="float32"), ["the cat"]
    settings = Sampling(tokens=TOKENS, temperature=0)
    wanted = plain.generate(prompts, settings)[0][0].tokens
    assert model.generate(prompts, settings)[0][0].tokens != wanted
    with model.untuned() as untuned:
        assert untuned.generate(prompts, settings)[0][0].tokens == wanted
    assert plain.limit is not None
    assert model.limit == plain.limit - 4


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_server_continues_behind_it(dtype: str, run: Path) -> None:
    if dtype == "int8" and operators() is None:
        pytest.skip("8 bits need the operators in C++")
    deployment, done = Deployment(DeploymentSettings(dtype=dtype)), threading.Event()
    deployment.add("tuned", run)
    updates: list[Update] = []

    def deliver(_: int, new: list[Update]) -> None:
        updates.extend(new)
        if isinstance(new[-1], Done):
            done.set()

    settings = Sampling(tokens=TOKENS, temperature=0)
    deployment.language("tuned").submit(["the cat sat"], settings, deliver, logprobs=1)
    assert done.wait(60)
    deployment.close()
    written = [update.piece.token for update in updates if isinstance(update, ScoredPiece)]
    model = load_language_model(str(run), dtype=dtype)
    assert written == model.generate(["the cat sat"], settings)[0][0].tokens


def test_preferences_are_compared_with_the_base(llama: Path, train: Callable[..., Path], tmp_path: Path) -> None:
    rows = [{"prompt": f"the {word} ", "chosen": "sat on the mat", "rejected": "ran"} for word in ("cat", "dog")]
    run = train(llama, tmp_path / "run", rows, objective={"kind": "dpo"}, adapter={"kind": "prefix", "tokens": 2})
    assert (run / "adapter" / "adapter_model.safetensors").exists()


def test_an_adapter_of_another_shape_is_refused(llama: Path, tmp_path: Path) -> None:
    wide = base(make_model(tmp_path / "wide", hidden_size=64))
    (tmp_path / "saved").mkdir()
    PrefixTuning(tokens=3).install(wide, OPTIONS).save(tmp_path / "saved")
    with pytest.raises(ModelError, match=r"trained tokens of shape \(3, 128\), and this model needs \(3, 64\)"):
        adapters.attach(base(llama), tmp_path / "saved")
    save_file({"other": torch.ones(1)}, tmp_path / "saved" / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="the adapter has no trained tokens"):
        adapters.attach(base(llama), tmp_path / "saved")
    assert load_file(tmp_path / "saved" / "adapter_model.safetensors")


@pytest.mark.parametrize("model", ["bloom", "mamba"])
def test_models_that_are_not_packed_are_refused(model: str, tmp_path: Path) -> None:
    scorer = fit_model(base(make_model(tmp_path / "base", model)), "language")
    with pytest.raises(ModelError, match=r"in packed rows only|prefix tuning is not for"):
        add_adapter(scorer, PrefixTuning(tokens=3), new=(), reference=False)


def test_more_tokens_than_a_layer_sees_are_refused(tmp_path: Path) -> None:
    network = base(make_model(tmp_path / "base", "gemma3_text", sliding_window=8))
    with pytest.raises(ModelError, match="some layers of this model see 7 tokens back"):
        PrefixTuning(tokens=20).install(network, OPTIONS)
