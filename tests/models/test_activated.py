"""Adapters that begin at their invocation: beside PEFT, in packed rows, alone and together, written and served."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from test_scheduler import Caller
from transformers import AutoModelForCausalLM

import bottega
from bottega import adapters
from bottega.adapters.lora import Lora
from bottega.batch import Example, Row
from bottega.errors import DataError, ModelError
from bottega.inference.deployment import Deployment, DeploymentSettings
from bottega.inference.language_model import load_language_model
from bottega.inference.scheduler import Done, PromptScores, ScoredPiece, Update
from bottega.models.activated import Activated, find_start
from bottega.models.adapted import attach_saved
from bottega.models.scorer import Scorer
from bottega.models.scorer_setup import add_adapter, fit_model
from bottega.models.shared_base import SharedBase
from bottega.packing import pack
from bottega.sampling import Sampling
from making import CAT_ROWS, make_model, write_jsonl

CALL = (7, 8)
LOGP = frozenset({"logp"})

# Rows with the invocation once, with it twice, without it, and some that begin alike.
IDS = [
    [*range(20, 34), *CALL, 40, 41, 42],
    [*range(20, 34), *CALL, 40, 41, 43, *CALL, 50, 51],
    [*range(20, 34), 60, 61],
    [70, 71, *CALL, 72],
]


def base(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def example(ids: list[int], start: int = 0) -> Example:
    tokens = np.array(ids)
    at = np.arange(start, len(ids) - 1)
    return Example(str(ids), (Row(tokens, at, tokens[at + 1], np.ones(len(at), np.float32)),))


def activated(folder: Path, seed: int = 0) -> Scorer:
    """A scorer with such an adapter, of random weights."""
    torch.manual_seed(seed)
    scorer = fit_model(base(folder), "language")
    add_adapter(scorer, Lora(rank=3, invocation="x"), new=(), reference=True, invocation=CALL)
    with torch.no_grad():
        for weight in scorer.model.parameters():
            if weight.requires_grad:
                weight += 0.3 * torch.randn_like(weight)
    return scorer


def with_peft(network: Any, folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(network, str(folder)).eval()


def logp(network: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits = network(input_ids=torch.tensor([ids])).logits[0]
    return logits.log_softmax(-1)[:-1].gather(1, torch.tensor(ids)[1:, None])[:, 0]


@pytest.mark.parametrize("model", ["llama", "qwen3", "gemma3_text", "gpt2"])
def test_peft_computes_the_same_both_ways(model: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "base", model)
    scorer = activated(folder)
    (tmp_path / "one").mkdir()
    scorer.save(tmp_path / "one")
    plain = with_peft(base(folder), tmp_path / "one")
    with torch.no_grad():
        found = scorer(pack([example(ids) for ids in IDS]), LOGP)["logp"]
    wanted = torch.cat([logp(plain, ids) for ids in IDS])
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    bare = torch.cat([logp(base(folder), ids) for ids in IDS])
    assert not torch.allclose(wanted, bare, atol=1e-2)
    plain.save_pretrained(str(tmp_path / "two"))
    again = fit_model(base(folder), "language")
    add_adapter(again, adapters.build({"from": str(tmp_path / "two")}), new=(), reference=False)
    assert isinstance(again.adapted, Activated)
    with torch.no_grad():
        torch.testing.assert_close(again(pack([example(ids) for ids in IDS]), LOGP)["logp"], wanted, atol=1e-4, rtol=0)
        with again.adapted.disabled():
            found = again(pack([example(ids) for ids in IDS]), LOGP)["logp"]
    torch.testing.assert_close(found, bare, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("model", ["llama", "gpt2"])
def test_gradients_of_packed_rows_are_those_of_peft(model: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "base", model)
    scorer = activated(folder)
    (tmp_path / "one").mkdir()
    scorer.save(tmp_path / "one")
    scorer(pack([example(ids) for ids in IDS]), LOGP)["logp"].sum().backward()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = PeftModel.from_pretrained(base(folder), str(tmp_path / "one"), is_trainable=True)
    for ids in IDS:
        logits = plain(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        logits[:-1].gather(1, torch.tensor(ids)[1:, None]).sum().backward()
    wanted = {name: weight.grad for name, weight in plain.named_parameters() if weight.requires_grad}
    found = {name: weight.grad for name, weight in scorer.model.named_parameters() if weight.requires_grad}
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-4, rtol=1e-3, msg=name)


def test_prompts_are_shared_where_they_are_computed_alike(llama: Path) -> None:
    """Up to the invocation by all adapters; behind it by rows of one."""
    scorer = activated(llama)
    adapted = scorer.adapted
    assert isinstance(adapted, Activated)
    batch = adapted.mark_batch(pack([example(ids) for ids in IDS]))
    size = adapted.rows.vocabulary_size
    # The second row uses the adapter from its second invocation on, so what both write between is computed twice.
    assert sorted(batch.tokens[batch.tokens >= size].tolist()) == sorted(
        size + id for id in [*CALL, 40, 41, *CALL, 50, *CALL]
    )
    assert int((batch.tokens == 20).sum()) == 1
    assert adapted.mark_batch(batch) is batch


ROWS = [{"prompt": f"the {word} was in the garden and it said: ", "completion": "so it sat"} for word in ("cat", "dog")]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose layers operators in C++ compute, which know nothing of adapters."""
    return make_model(tmp_path_factory.mktemp("models") / "wide", hidden_size=128, head_dim=32, intermediate_size=96)


@pytest.fixture(scope="module")
def run(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("activated")
    recipe = {
        "model": {"base": str(wide), "dtype": "float32"},
        "adapter": {"rank": 4, "invocation": "said: "},
        "objective": {"kind": "sft"},
        "data": {"train": str(write_jsonl(folder / "rows.jsonl", ROWS * 4))},
        "optim": {"steps": 12, "examples": 4, "lr": 3e-2},
        "save": {"every": 6},
    }
    events = list(bottega.train(bottega.Recipe.parse(recipe), out=folder / "run"))
    losses = [event.loss for event in events if event.type == "stepped"]
    assert losses[-1] < 0.7 * losses[0]
    return folder / "run"


def continued(network: Any, ids: list[int], count: int, start: int | None = None) -> list[int]:
    """The likeliest tokens after a prompt, by PEFT, whole for each: the invocation is the prompt's."""
    found = list(ids)
    for _ in range(count):
        with torch.no_grad():
            found.append(int(network(input_ids=torch.tensor([found])).logits[0, -1].argmax()))
    return found[len(ids) :]


def test_texts_are_continued_as_by_peft(run: Path, wide: Path) -> None:
    model, plain = load_language_model(str(run), dtype="float32"), with_peft(base(wide), run / "adapter")
    prompts = [ROWS[0]["prompt"], "the dog was", ROWS[1]["prompt"]]
    settings = Sampling(tokens=6, temperature=0)
    for prompt, (answer,) in zip(prompts, model.generate(prompts, settings), strict=True):
        assert answer.tokens == continued(plain, model.encode(prompt), len(answer.tokens))
    with model.untuned() as untuned:
        (answer,) = untuned.generate(prompts[:1], settings)[0]
    assert answer.tokens == continued(base(wide), model.encode(prompts[0]), len(answer.tokens))


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_server_mixes_it_with_others_of_its_base(dtype: str, run: Path, wide: Path, tmp_path: Path) -> None:
    """Their prompts are read once for all that begin there; each answers what it answers alone."""
    recipe = bottega.stored_recipe(run).document()
    recipe["data"]["train"] = str(write_jsonl(tmp_path / "rows.jsonl", CAT_ROWS * 2))
    recipe["adapter"]["invocation"] = None
    list(bottega.train(bottega.Recipe.parse(recipe), out=tmp_path / "plain"))
    deployment = Deployment(DeploymentSettings(dtype=dtype))
    sources = {"activated": run, "again": run, "plain": tmp_path / "plain", "base": wide}
    for name, source in sources.items():
        deployment.add(name, source)
    settings, prompt = Sampling(tokens=6, temperature=0), ROWS[0]["prompt"]
    told: dict[str, list[Update]] = {name: [] for name in sources}
    done = {name: threading.Event() for name in sources}

    def deliver(name: str) -> Callable[[int, list[Update]], None]:
        def tell(_: int, new: list[Update]) -> None:
            told[name].extend(new)
            if isinstance(new[-1], Done):
                done[name].set()

        return tell

    for name in sources:
        served = deployment.language(name)
        served.submit([prompt], settings, deliver(name), logprobs=0, score_prompt=name == "activated")
    for name in sources:
        assert done[name].wait(60)
    deployment.close()
    for name, source in sources.items():
        written = [update.piece.token for update in told[name] if isinstance(update, ScoredPiece)]
        alone = load_language_model(str(source), dtype=dtype)
        assert written == alone.generate([prompt], settings)[0][0].tokens, name
    (scored,) = [update for update in told["activated"] if isinstance(update, PromptScores)]
    ids = load_language_model(str(run), dtype=dtype).encode(prompt)
    wanted = logp(with_peft(base(wide), run / "adapter"), ids)
    torch.testing.assert_close(
        torch.tensor([score.logprob for score in scored.scores]),
        wanted,
        atol=1e-3 if dtype == "float32" else 0.3,
        rtol=0,
    )


def test_resumed_is_uninterrupted(run: Path, tmp_path: Path) -> None:
    recipe = bottega.stored_recipe(run)
    stopped = bottega.train(recipe, out=tmp_path / "cut")
    for event in stopped:
        if event.type == "saved":
            stopped.close()
            break
    list(bottega.resume(tmp_path / "cut"))
    name = "adapter/adapter_model.safetensors"
    assert (tmp_path / "cut" / name).read_bytes() == (run / name).read_bytes()


def test_what_it_cannot_do_is_refused(run: Path, wide: Path, llama: Path, tmp_path: Path) -> None:
    recipe = bottega.stored_recipe(run).document()
    recipe["adapter"]["invocation"] = "never written"
    with pytest.raises(DataError, match="no row has 'never written' as tokens"):
        list(bottega.train(bottega.Recipe.parse(recipe), out=tmp_path / "run"))
    with pytest.raises(ModelError, match="cannot be added to weights, which compute all tokens"):
        attach_saved(base(wide), run / "adapter").merge()
    with pytest.raises(ModelError, match="begins at its invocation"):
        bottega.Explainer(run)
    with pytest.raises(ModelError, match="nothing but bottega serve and PEFT knows of"):
        bottega.combine_adapters({str(run): 1.0, str(run / "adapter"): 1.0}, tmp_path / "sum")
    with pytest.raises(ModelError, match="cannot be added to weights"):
        bottega.export(run, tmp_path / "merged", format="merged", rows=0)
    with pytest.raises(ModelError, match="decoders that compute packed rows"):
        add_adapter(
            fit_model(base(make_model(tmp_path / "bloom", "bloom")), "language"),
            Lora(rank=2, invocation="x"),
            new=(),
            reference=False,
            invocation=CALL,
        )
    for wrong in ({"dora": True}, {"dropout": 0.1}, {"init": "pissa"}, {"train": ["norm"]}):
        with pytest.raises(ValueError, match="it is for plain LoRA"):
            adapters.build({"invocation": "x", **wrong})


def test_the_invocation_is_looked_for_before_the_answer() -> None:
    """As where an answer is generated: what it says changes nothing."""
    said_twice = [*range(20, 30), *CALL, 40, *CALL, 41]
    assert find_start(example(said_twice).rows[0], CALL) == 13
    assert find_start(example(said_twice, start=11).rows[0], CALL) == 10
    assert find_start(example(said_twice, start=10).rows[0], CALL) is None
    # Of several answers, the last one counts.
    row = example(said_twice, start=14).rows[0]
    assert find_start(replace(row, at=np.array([11, 12, 14])), CALL) == 13


def test_one_that_is_continued_is_compared_with_what_it_was(run: Path, wide: Path) -> None:
    """Where it is disabled, a frozen copy of it answers, and not the base."""
    folder, batch = run / "adapter", pack([example([*range(20, 30), *saved_call(run), 40, 41])])
    scorer = fit_model(base(wide), "language")
    add_adapter(scorer, adapters.build({"from": str(folder)}), new=(), reference=True)
    assert scorer.adapted is not None
    with torch.no_grad():
        before = scorer(batch, LOGP)["logp"]
        for weight in scorer.model.parameters():
            weight += 0.1 * weight.requires_grad
        assert (scorer(batch, LOGP)["logp"] - before).abs().max() > 1e-2
        with scorer.adapted.disabled():
            torch.testing.assert_close(scorer(batch, LOGP)["logp"], before)
    assert not any("reference" in name for name, _ in scorer.model.named_parameters())


def saved_call(run: Path) -> list[int]:
    ids: list[int] = json.loads((run / "adapter/adapter_config.json").read_text("utf-8"))["alora_invocation_tokens"]
    return ids


def test_one_that_is_continued_keeps_its_invocation(run: Path) -> None:
    options = {"from": str(run / "adapter"), "invocation": "y"}
    with pytest.raises(ValueError, match="a continued adapter keeps its own invocation"):
        adapters.build(options)


def test_a_start_on_a_quantized_base_begins_there_too(run: Path, wide: Path, tmp_path: Path) -> None:
    """Alone, and served, where it shares the base with another adapter that was trained on it."""
    recipe = bottega.stored_recipe(run).document()
    recipe["model"]["quantize"] = "nf4"
    list(bottega.train(bottega.Recipe.parse(recipe), out=tmp_path / "one"))
    recipe["adapter"]["invocation"] = None
    list(bottega.train(bottega.Recipe.parse(recipe), out=tmp_path / "two"))
    deployment = Deployment(DeploymentSettings(dtype="float32"))
    settings, prompt = Sampling(tokens=6, temperature=0), ROWS[0]["prompt"]
    written = {}
    for name in ("one", "two"):
        deployment.add(name, tmp_path / name)
        caller = Caller()
        deployment.language(name).submit([prompt], settings, partial(_tell, caller))
        written[name] = caller.wait()[0].tokens
        alone = load_language_model(str(tmp_path / name), dtype="float32")
        assert written[name] == alone.generate([prompt], settings)[0][0].tokens, name
    with alone.untuned() as untuned:
        assert written["one"] != untuned.generate([prompt], settings)[0][0].tokens
    assert len(deployment.stats()) == 1
    deployment.close()


def _tell(caller: Caller, _: int, updates: list[Update]) -> None:
    caller(updates)


def test_several_need_packed_rows(tmp_path: Path) -> None:
    shared = SharedBase(2)
    shared.load(lambda: (fit_model(base(make_model(tmp_path / "bloom", "bloom")), "language"), []))
    with pytest.raises(ModelError, match="decoders that compute packed rows"):
        shared.adapt("one", Lora(rank=2, invocation="x"), CALL)


def test_rows_without_it_are_counted(run: Path, tmp_path: Path) -> None:
    recipe = bottega.stored_recipe(run).document()
    rows = [*ROWS * 4, {"prompt": "the cat sat: ", "completion": "so it said: "}]
    recipe["data"]["train"] = str(write_jsonl(tmp_path / "rows.jsonl", rows))
    recipe["optim"]["steps"] = 1
    events = list(bottega.train(bottega.Recipe.parse(recipe), out=tmp_path / "run"))
    assert "1 of 9 rows looked at have no invocation before their answer, and teach nothing" in [
        event.message for event in events if event.type == "noted"
    ]
