"""A kind in one file that changes a model in place: trained, resumed, switched off, saved, loaded."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import bottega
from bottega import adapters
from bottega.adapters import CONFIG, InstallOptions
from bottega.adapters._base import WEIGHTS
from bottega.batch import Row
from bottega.errors import ModelError
from bottega.inference.language_model import load_language_model
from bottega.models.tokenizer import load_tokenizer
from bottega.runs.store import history
from bottega.sampling import Sampling
from making import page_file, write_jsonl


@pytest.fixture(scope="module", autouse=True)
def after_mlp(module_plug_in: Callable[..., None]) -> None:
    module_plug_in(adapters, "after_mlp", page_file("src/bottega/adapters/after_mlp.py"))


@pytest.fixture(scope="module")
def run(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of sixteen steps with the new kind; not to be changed."""
    folder = tmp_path_factory.mktemp("after_mlp")
    list(bottega.train(make_recipe(llama, folder), out=folder / "run"))
    return folder / "run"


def make_recipe(llama: Path, tmp_path: Path, **changes: Any) -> bottega.Recipe:
    rows = [{"prompt": f"the {word} ", "completion": "sat on the mat"} for word in ("cat", "dog", "tree", "mat")]
    return bottega.Recipe.parse(
        {
            "model": {"base": str(llama), "dtype": "float32"},
            "adapter": {"kind": "after_mlp", "width": 3},
            "objective": {"kind": "sft"},
            "data": {"train": str(write_jsonl(tmp_path / "rows.jsonl", rows))},
            "optim": {"steps": 16, "examples": 4, "lr": 5e-2},
            "save": {"every": 8},
            **changes,
        }
    )


def make_row(llama: Path, prompt: str, answer: str) -> Row:
    """The answer after the prompt, each of its tokens predicted."""
    tokenizer = load_tokenizer(str(llama))
    before, after = (tokenizer(text, add_special_tokens=False).input_ids for text in (prompt, answer))
    tokens = np.array(before + after)
    at = np.arange(len(before) - 1, len(tokens) - 1)
    return Row(tokens, at, tokens[at + 1], np.ones(len(at), np.float32))


def test_a_new_kind_is_trained_and_used(llama: Path, run: Path) -> None:
    losses = [event["loss"] for event in history(run) if event["type"] == "stepped"]
    assert losses[-1] < losses[0] / 2
    weights = load_file(run / "adapter" / "adapter_model.safetensors")
    assert all(".mlp.after." in name for name in weights), "the adapter and nothing else is saved"

    trained, base = load_language_model(str(run)), load_language_model(str(llama))
    row = make_row(llama, "the cat ", "sat on the mat")
    (adapted,), (plain,) = trained.logp([row]), base.logp([row])
    assert adapted > plain + 1
    assert trained.scorer.adapted is not None
    with trained.scorer.adapted.disabled():
        assert trained.logp([row]) == [plain]
    greedy = Sampling(tokens=8, temperature=0)
    texts = [model.generate(["the cat "], greedy)[0][0].text for model in (trained, base)]
    assert texts[0] != texts[1], "answers are generated with it"


def test_it_is_computed_packed_as_transformers_computes_it(llama: Path, run: Path) -> None:
    """No faster path goes round the modules it added."""
    trained = load_language_model(str(run), dtype="float32")
    assert trained.scorer.fit.packed
    row = make_row(llama, "the cat ", "sat on")
    (packed,) = trained.logp([row, make_row(llama, "the cat ", "was here")])[:1]
    trained.scorer.network.set_attn_implementation("eager")
    with torch.no_grad():
        logp = trained.scorer.network(input_ids=torch.tensor(row.tokens)[None]).logits[0].log_softmax(-1)  # [T, V]
    alone = sum(float(logp[at, label]) for at, label in zip(row.at, row.label, strict=True))
    assert packed == pytest.approx(alone, abs=1e-4)


def test_resumed_is_uninterrupted(llama: Path, run: Path, tmp_path: Path) -> None:
    stopped = bottega.train(make_recipe(llama, tmp_path), out=tmp_path / "cut")
    for event in stopped:
        if event.type == "saved":
            stopped.close()
            break
    list(bottega.resume(tmp_path / "cut"))
    whole, cut = (folder / "adapter" / "adapter_model.safetensors" for folder in (run, tmp_path / "cut"))
    assert cut.read_bytes() == whole.read_bytes()


def test_it_is_continued(llama: Path, run: Path, tmp_path: Path) -> None:
    continued = make_recipe(
        llama,
        tmp_path,
        adapter={"kind": "after_mlp", "from": str(run)},
        optim={"steps": 1, "examples": 4, "lr": 1e-9},
    )
    list(bottega.train(continued, out=tmp_path / "more"))
    folders = (run, tmp_path / "more")
    before, after = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in folders)
    assert before.keys() == after.keys()
    for name in before:
        torch.testing.assert_close(after[name], before[name], atol=1e-6, rtol=0)


def test_merging_and_an_unknown_saved_kind_are_refused(llama: Path, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    chained = make_recipe(llama, tmp_path, model={"base": str(tmp_path / "run")})
    with pytest.raises(ModelError, match="cannot be merged"):
        list(bottega.train(chained, out=tmp_path / "chained"))
    config = tmp_path / "run" / "adapter" / CONFIG
    config.write_text(config.read_text().replace('"kind": "after_mlp"', '"kind": "after_mpl"'), encoding="utf-8")
    with pytest.raises(ModelError, match=r"unknown kind 'after_mpl'(?s:.*)after_mlp, bottleneck, ia3, lora"):
        load_language_model(str(tmp_path / "run"))


def installed(llama: Path) -> Any:
    """The new kind on a fresh model, and the model."""
    model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    return adapters.build({"kind": "after_mlp", "width": 2}).install(model, InstallOptions(("lm_head",))), model


def test_only_its_weights_and_new_modules_are_trained_and_saved(llama: Path, tmp_path: Path) -> None:
    adapted, model = installed(llama)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained == adapted.names
    assert "lm_head.weight" in trained
    assert all(".after." in name for name in trained - {"lm_head.weight"})
    adapted.save(tmp_path)
    assert set(load_file(tmp_path / WEIGHTS)) == trained
    saved = adapters.read_saved(tmp_path)
    assert (saved.kind, saved.base, saved.settings["width"]) == ("after_mlp", str(llama), 2)


@pytest.mark.parametrize("trainable", [False, True])
def test_saved_weights_are_loaded_to_use_or_to_train_further(trainable: bool, llama: Path, tmp_path: Path) -> None:
    adapted, model = installed(llama)
    for name in adapted.names:
        model.get_parameter(name).data.normal_()
    adapted.save(tmp_path)
    fresh = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    again = adapters.attach(fresh, tmp_path, trainable=trainable)
    for name in adapted.names:
        assert torch.equal(fresh.get_parameter(name), model.get_parameter(name))
        assert fresh.get_parameter(name).requires_grad is trainable
    assert (again.left_out, again.changes_head, again.library) == ([], False, "bottega")
    (tmp_path / "again").mkdir()
    again.save(tmp_path / "again")
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (tmp_path / WEIGHTS).read_bytes()


@pytest.mark.parametrize("change", ["another shape", "unknown", "missing"])
def test_weights_that_do_not_match_the_model_are_refused(change: str, llama: Path, tmp_path: Path) -> None:
    adapted, _ = installed(llama)
    adapted.save(tmp_path)
    weights = load_file(tmp_path / WEIGHTS)
    name = next(name for name in sorted(weights) if ".after." in name)
    value = weights.pop(name)
    if change != "missing":
        weights["elsewhere" if change == "unknown" else name] = value if change == "unknown" else value[:1]
    save_file({key: one.contiguous() for key, one in weights.items()}, tmp_path / WEIGHTS)
    fresh = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    with pytest.raises(ModelError, match="1 weights do not match this model") as caught:
        adapters.attach(fresh, tmp_path)
    assert ("elsewhere" if change == "unknown" else name) in caught.value.what
