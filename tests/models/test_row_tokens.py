"""Adapters of all kinds on one base, in one batch: each row is generated and scored as by its adapter alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_kv_cache import example
from test_scheduler import Caller
from transformers import AutoModelForCausalLM

from bottega import adapters
from bottega.adapters import InstallOptions, NotForRows
from bottega.batch import Row
from bottega.errors import ModelError
from bottega.inference.deployment import Deployment, DeploymentSettings
from bottega.inference.language_model import load_language_model
from bottega.inference.scheduler import PromptScores, Update
from bottega.models.adapted import can_share_base, read_parts
from bottega.models.attention import make_layout
from bottega.models.row_adapters import RowAdapters
from bottega.models.row_tokens import RowEmbedding
from bottega.models.scorer_setup import fit_model
from bottega.packing import pack
from bottega.sampling import Sampling
from making import make_model

KINDS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 3},
    "dora": {"rank": 2, "dora": True},
    "pissa": {"rank": 2, "init": "pissa"},
    "ia3": {"kind": "ia3"},
    "vera": {"kind": "vera", "rank": 4},
    "houlsby": {"kind": "bottleneck", "width": 4},
    "prompt": {"kind": "prompt", "tokens": 3},
    "longer prompt": {"kind": "prompt", "tokens": 5},
    "prefix": {"kind": "prefix", "tokens": 4},
    "other prefix": {"kind": "prefix", "tokens": 4},
}

PROMPTS = ("the cat sat on the mat, and ", "the cat sat on the hat, and ")


def save_one(base: Path, folder: Path, options: dict[str, Any], seed: int) -> Path:
    """An adapter with weights that are nowhere near those it starts at."""
    torch.manual_seed(seed)
    network = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    adapter = adapters.build(options)
    whole = adapter.modules_trained_whole(network)
    adapted = adapter.install(network, InstallOptions(peft_task="CAUSAL_LM", whole=whole))
    with torch.no_grad():
        for weight in adapted.model.parameters():
            if weight.requires_grad:
                weight += 0.4 * torch.randn_like(weight)
    folder.mkdir()
    adapted.save(folder)
    return folder


@pytest.mark.parametrize("model", ["llama", "qwen3", "gemma3_text", "gpt2"])
def test_rows_of_all_kinds_are_generated_and_scored_as_alone(model: str, tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", model)
    sources = {"base": base}
    for seed, (name, options) in enumerate(KINDS.items()):
        sources[name] = save_one(base, tmp_path / name, options, seed)
    deployment = Deployment(DeploymentSettings(dtype="float32"))
    for name, source in sources.items():
        deployment.add(name, source)
        deployment.language(name)
    assert len(deployment.stats()) == 1, "all on one base"
    settings = Sampling(tokens=8, seed=3)
    callers = {(name, prompt): Caller() for name in sources for prompt in PROMPTS}
    for (name, prompt), caller in callers.items():
        served = deployment.language(name)
        served.submit([prompt], settings, told(caller), logprobs=0, score_prompt=True)
    found = set()
    for (name, prompt), caller in callers.items():
        alone = load_language_model(str(sources[name]), dtype="float32")
        (written,) = caller.wait()
        assert written == alone.generate([prompt], settings)[0][0], name
        tokens = np.array(alone.encode(prompt))
        row = Row(tokens, tokens[:0], tokens[:0], np.ones(0, np.float32)).predict_every_token()
        (scored,) = [update for update in caller.updates if isinstance(update, PromptScores)]
        found.add(total := sum(score.logprob for score in scored.scores))
        assert total == pytest.approx(float(alone.logp([row])[0]), abs=1e-3)
    deployment.close()
    assert len(found) == len(callers), "no two compute the same"


def told(caller: Caller) -> Callable[[int, list[Update]], None]:
    return lambda _, updates: caller(updates)


def test_what_is_removed_is_gone(tmp_path: Path) -> None:
    """And what is left computes what it did."""
    base = make_model(tmp_path / "base")
    network: Any = fit_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval(), "language").network
    rows, ids = RowAdapters(network), torch.arange(5, 12)
    layout = {"position_ids": torch.arange(7)[None], "layout": make_layout(pack([example(ids.tolist())]))}
    plain = network(input_ids=ids[None], **layout, use_cache=False).logits
    for seed, name in enumerate(("prompt", "prefix", "houlsby")):
        rows.add(name, save_one(base, tmp_path / name, KINDS[name], seed))
    assert isinstance(network.get_input_embeddings(), RowEmbedding)
    assert (len(rows.prefix("prompt")), len(rows.prefix("prefix")), rows.prefix("houlsby")) == (3, 4, ())
    assert not {*rows.prefix("prompt")} & {*rows.prefix("prefix")}
    marked = torch.from_numpy(rows.mark("houlsby", ids.numpy(), 3))
    rows.use_marked(marked)
    with torch.no_grad():
        changed = network(input_ids=ids[None], **layout, use_cache=False).logits
        torch.testing.assert_close(changed[:, :3], plain[:, :3])
        assert (changed[:, 3:] - plain[:, 3:]).abs().max() > 0.01
        for name in ("prompt", "prefix", "houlsby"):
            rows.remove(name)
        rows.use_marked(ids)
        torch.testing.assert_close(network(input_ids=ids[None], **layout, use_cache=False).logits, plain)


def test_adapters_that_change_more_are_loaded_by_themselves(tmp_path: Path) -> None:
    """Each answers as alone, and leaves the base to the others as it was."""
    base = make_model(tmp_path / "base")
    options = {
        "whole": {"rank": 2, "train": ["norm"]},
        "head": {"rank": 2, "targets": ["q_proj", "lm_head"]},
        "embeddings": {"rank": 2, "targets": ["q_proj", "embed_tokens"]},
    }
    folders = {name: save_one(base, tmp_path / name, one, 0) for name, one in options.items()}
    assert [can_share_base(folder) for folder in folders.values()] == [False, True, False]
    with pytest.raises(NotForRows, match="it changes lm_head"):
        read_parts(AutoModelForCausalLM.from_pretrained(base), folders["head"])
    deployment = Deployment(DeploymentSettings(dtype="float32"))
    for name, source in {"base": base, **folders}.items():
        deployment.add(name, source)
        caller = Caller()
        deployment.language(name).submit([PROMPTS[0]], Sampling(tokens=8), told(caller))
        alone = load_language_model(str(source), dtype="float32").generate([PROMPTS[0]], Sampling(tokens=8))
        assert caller.wait() == alone[0], name
    assert len(deployment.stats()) == 4
    deployment.close()


@pytest.mark.parametrize("kind", ["lora", "ia3", "houlsby", "prompt", "prefix"])
def test_one_that_does_not_fit_leaves_the_others_alone(kind: str, tmp_path: Path) -> None:
    base = make_model(tmp_path / "base")
    other = make_model(tmp_path / "other", hidden_size=48, head_dim=12)
    network: Any = fit_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval(), "language").network
    rows = RowAdapters(network)
    rows.add("kept", save_one(base, tmp_path / "kept", KINDS["prefix"], 0))
    ids = torch.tensor([*rows.prefix("kept"), 5, 6, 7])

    @torch.no_grad()
    def compute() -> torch.Tensor:
        layout = make_layout(pack([example(list(range(len(ids))))]))
        known = rows.use_marked(ids)
        found: torch.Tensor = network(
            input_ids=known[None], position_ids=torch.arange(len(ids))[None], layout=layout, use_cache=False
        ).logits
        return found

    before, modules = compute(), {name: id(module) for name, module in network.named_modules()}
    with pytest.raises(ModelError, match=r"and this model needs|does not fit|do not match"):
        rows.add("wrong", save_one(other, tmp_path / "wrong", KINDS[kind], 1))
    assert {name: id(module) for name, module in network.named_modules()} == modules
    assert torch.equal(compute(), before)
    assert rows.names == ["kept"]
