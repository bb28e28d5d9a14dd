"""A model with trained embeddings before every text: scored, continued, served and switched off."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import bottega
from bottega.adapters._prompted import PromptedEmbedding
from bottega.batch import Row
from bottega.inference.deployment import Deployment, DeploymentSettings
from bottega.inference.language_model import LanguageModel, load_language_model
from bottega.inference.scheduler import Done, PromptScores, ScoredPiece, Update
from bottega.sampling import Sampling
from making import CAT_ROWS, write_jsonl

TOKENS = 6


@pytest.fixture(scope="module")
def run(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompt")
    recipe = {
        "model": {"base": str(llama), "dtype": "float32"},
        "adapter": {"kind": "prompt", "tokens": 4},
        "objective": {"kind": "sft"},
        "data": {"train": str(write_jsonl(folder / "rows.jsonl", CAT_ROWS))},
        "optim": {"steps": 12, "examples": 4, "lr": 0.3},
    }
    list(bottega.train(bottega.Recipe.parse(recipe), out=folder / "run"))
    return folder / "run"


@pytest.fixture
def model(run: Path) -> LanguageModel:
    return load_language_model(str(run), dtype="float32")


def logits(model: LanguageModel, ids: list[int]) -> torch.Tensor:
    """[n, V] by the network alone, whole, with embeddings put together by hand."""
    network = model.scorer.network
    embedding = network.get_input_embeddings()
    embedded = torch.cat([embedding.trained, embedding.original(torch.tensor(ids))])
    before = network.config._attn_implementation
    network.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            out: torch.Tensor = network(inputs_embeds=embedded[None], use_cache=False).logits[
                0, len(embedding.trained) :
            ]
    finally:
        network.set_attn_implementation(before)
    return out


def test_an_embedding_beyond_the_vocabulary() -> None:
    words = nn.Embedding(5, 3)
    embedding = PromptedEmbedding(words, 2)
    ids = torch.tensor([[5, 0, 6], [4, 1, 1]])
    wanted = torch.stack([embedding.trained[0], words.weight[0], embedding.trained[1]])
    torch.testing.assert_close(embedding(ids)[0], wanted)
    torch.testing.assert_close(embedding(ids)[1], words(ids[1]))
    assert embedding.weight is words.weight
    assert any(torch.equal(embedding.trained[0], word) for word in words.weight), "it starts as a word"


def test_rows_are_scored_behind_it(model: LanguageModel) -> None:
    rows = []
    for text in ("the cat sat on", "the cat was"):
        tokens = np.array(model.encode(text))
        at = np.arange(len(tokens) - 1)
        rows.append(Row(tokens, at, tokens[at + 1], np.ones(len(at), np.float32)))
    found = model.logp(rows)
    for row, sum_ in zip(rows, found, strict=True):
        logp = logits(model, row.tokens.tolist()).log_softmax(-1)
        wanted = sum(float(logp[at, label]) for at, label in zip(row.at, row.label, strict=True))
        assert sum_ == pytest.approx(wanted, abs=1e-3)


def test_texts_are_continued_behind_it(model: LanguageModel) -> None:
    prompts = ["the cat", "a dog", "the cat"]
    greedy = Sampling(tokens=TOKENS, temperature=0, repetition_penalty=1.2)
    plain = Sampling(tokens=TOKENS, temperature=0)
    assert len(model.generate(prompts, greedy)) == 3
    for prompt, (answer,) in zip(prompts, model.generate(prompts, plain), strict=True):
        ids = model.encode(prompt)
        for token in answer.tokens:
            assert token == int(logits(model, ids)[-1].argmax())
            ids.append(token)


def test_without_it_the_base_answers(model: LanguageModel, llama: Path) -> None:
    plain, prompts = load_language_model(str(llama), dtype="float32"), ["the cat"]
    settings = Sampling(tokens=TOKENS, temperature=0)
    wanted = plain.generate(prompts, settings)[0][0].tokens
    assert model.generate(prompts, settings)[0][0].tokens != wanted
    with model.untuned() as untuned:
        assert untuned.generate(prompts, settings)[0][0].tokens == wanted


def test_it_takes_positions_of_the_model(model: LanguageModel, llama: Path) -> None:
    plain = load_language_model(str(llama), dtype="float32")
    assert plain.limit is not None
    assert model.limit == plain.limit - 4


def test_a_server_scores_and_continues_behind_it(model: LanguageModel, run: Path) -> None:
    deployment, done = Deployment(DeploymentSettings(dtype="float32")), threading.Event()
    deployment.add("tuned", run)
    updates: list[Update] = []

    def deliver(_: int, new: list[Update]) -> None:
        updates.extend(new)
        if isinstance(new[-1], Done):
            done.set()

    settings = Sampling(tokens=TOKENS, temperature=0)
    deployment.language("tuned").submit(["the cat sat"], settings, deliver, logprobs=1, score_prompt=True)
    assert done.wait(60)
    deployment.close()
    ids = model.encode("the cat sat")
    (found,) = [update for update in updates if isinstance(update, PromptScores)]
    logp = logits(model, ids).log_softmax(-1)
    assert [score.token for score in found.scores] == ids[1:]
    for place, score in enumerate(found.scores):
        assert score.logprob == pytest.approx(float(logp[place, ids[place + 1]]), abs=1e-3)
    written = [update.piece.token for update in updates if isinstance(update, ScoredPiece)]
    assert written == model.generate(["the cat sat"], settings)[0][0].tokens


def test_preferences_are_compared_with_the_base(llama: Path, train: Callable[..., Path], tmp_path: Path) -> None:
    rows = [{"prompt": f"the {word} ", "chosen": "sat on the mat", "rejected": "ran"} for word in ("cat", "dog")]
    run = train(llama, tmp_path / "run", rows, objective={"kind": "dpo"}, adapter={"kind": "prompt", "tokens": 2})
    assert (run / "adapter" / "adapter_model.safetensors").exists()
