"""Adapters that are trained at once end as they would alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import bottega
from bottega.errors import RecipeError
from bottega.packing import repack
from bottega.recipe.several import parse_several
from bottega.runs.store import history
from bottega.training.together import resume_together, train_together, trained_together
from making import make_model, write_jsonl

WEIGHTS = "adapter/adapter_model.safetensors"
SETS = {"cats": ("cat", "dog", "tree", "mat"), "ways": ("sat", "on", "the"), "all": ("a", "mat", "cat", "the", "dog")}


def recipes(folder: Path, base: Path, objective: str = "sft", **changes: Any) -> dict[str, bottega.Recipe]:
    entries: dict[str, Any] = {}
    for name, words in SETS.items():
        rows = [row(objective, word) for word in words]
        entries[name] = {"data": {"train": str(write_jsonl(folder / f"{name}.jsonl", rows)), "validation": 0.34}}
    entries["ways"] |= {"adapter": {"rank": 2, "alpha": 3}, "optim": {"steps": 4}, "seed": 3}
    return parse_several(
        {
            "model": {"base": str(base), "dtype": "float32"},
            "adapter": {"rank": 4},
            "objective": {"kind": objective},
            "optim": {"steps": 6, "examples": 2, "lr": 5e-3, "tokens": 64},
            "evaluate": {"every": 2},
            "save": {"every": 3},
            "adapters": entries,
            **changes,
        }
    )


def row(objective: str, word: str) -> dict[str, str]:
    if objective == "dpo":
        return {"prompt": f"the {word} ", "chosen": "sat on the mat", "rejected": "cat dog"}
    if objective == "masked":
        return {"text": f"the {word} sat on the mat"}
    return {"prompt": f"the {word} ", "completion": "sat on the mat"}


@pytest.mark.parametrize(("kind", "objective"), [("llama", "sft"), ("llama", "dpo"), ("gpt2", "sft"), ("qwen3", "sft")])
def test_each_is_what_it_is_alone(kind: str, objective: str, tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", kind)
    together = recipes(tmp_path, base, objective)
    events = list(train_together(together, tmp_path / "all"))
    for name, recipe in together.items():
        alone = list(bottega.train(recipe, tmp_path / "alone" / name))
        for event, wanted in zip((e for n, e in events if n == name), alone, strict=True):
            assert event.type == wanted.type
            if event.type in ("stepped", "validated"):
                assert event.loss == pytest.approx(wanted.loss, rel=1e-5)  # type: ignore[attr-defined]
        found, expected = (load_file(tmp_path / run / name / WEIGHTS) for run in ("all", "alone"))
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, atol=1e-5, rtol=0)
        configs = [(tmp_path / run / name / "adapter/adapter_config.json").read_text() for run in ("all", "alone")]
        assert configs[0] == configs[1]
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(tmp_path / "all" / name / "adapter"))


@pytest.mark.parametrize(("kind", "objective"), [("llama", "sft"), ("gpt2", "sft"), ("llama", "dpo")])
def test_prompts_are_computed_once_for_adapters_that_begin_behind_them(
    kind: str, objective: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And each ends with the weights that it has alone."""
    base = make_model(tmp_path / "base", kind)
    start = "the cat sat on the mat and the dog sat under the tree: "

    def ask(row: dict[str, str], word: str) -> dict[str, str]:
        return {**row, "prompt": f"{start} {word} said:"}

    entries = {}
    for name, words in SETS.items():
        rows = [ask(row(objective, word), word) for word in words]
        entries[name] = {"data": {"train": str(write_jsonl(tmp_path / f"{name}.jsonl", rows))}}
    together = parse_several(
        {
            "model": {"base": str(base), "dtype": "float32"},
            "adapter": {"rank": 4, "invocation": "said:"},
            "objective": {"kind": objective},
            "optim": {"steps": 4, "examples": 2, "lr": 1e-3},
            "adapters": entries,
        }
    )
    computed = list[int]()
    monkeypatch.setattr(
        "bottega.packing.repack",
        lambda batch, change: computed.append(len((found := repack(batch, change)).tokens)) or found,
    )
    list(train_together(together, tmp_path / "all"))
    separate = 0
    for name, recipe in together.items():
        stepped = [event for event in bottega.train(recipe, tmp_path / "alone" / name) if event.type == "stepped"]
        separate += sum(event.tokens for event in stepped)
        found, expected = (load_file(tmp_path / run / name / WEIGHTS) for run in ("all", "alone"))
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, atol=1e-5, rtol=0)
        configs = [(tmp_path / run / name / "adapter/adapter_config.json").read_text() for run in ("all", "alone")]
        assert configs[0] == configs[1]
    assert sum(computed) < 0.8 * separate


def test_they_stop_and_go_on(llama: Path, tmp_path: Path) -> None:
    together = recipes(tmp_path, llama)
    list(train_together(together, tmp_path / "whole"))
    asked = iter([False] * 20 + [True] * 100)
    list(train_together(together, tmp_path / "cut", stop=lambda: next(asked)))
    assert not (tmp_path / "cut" / "all" / "adapter").exists()
    list(resume_together(tmp_path / "cut"))
    assert trained_together(tmp_path / "cut") == list(together)
    for name in together:
        losses = [
            [event["loss"] for event in history(tmp_path / run / name) if event["type"] == "validated"]
            for run in ("cut", "whole")
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
        found, expected = (load_file(tmp_path / run / name / WEIGHTS) for run in ("cut", "whole"))
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, atol=1e-5, rtol=0)


def test_a_run_that_diverges_ends_alone(llama: Path, tmp_path: Path) -> None:
    together = recipes(tmp_path, llama)
    wild = together["ways"].model_copy(update={"optim": together["ways"].optim.model_copy(update={"lr": 1e30})})
    with pytest.raises(bottega.Diverged):
        list(train_together({**together, "ways": wild}, tmp_path / "all"))
    ends = {name: [event["type"] for event in history(tmp_path / "all" / name)][-1] for name in together}
    assert ends == {"cats": "finished", "ways": "failed", "all": "finished"}


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"objective": {"kind": "causal"}}, "another objective than cats has"),
        ({"model": {"base": "org/other"}}, "another model than cats has"),
        ({"optim": {"neftune": 5}}, "are trained in a run alone"),
    ],
)
def test_what_cannot_be_one_batch_is_refused(changes: dict[str, Any], what: str, llama: Path, tmp_path: Path) -> None:
    together = recipes(tmp_path, llama)
    document = {**together["all"].document(), **changes}
    other = bottega.Recipe.parse(document)
    with pytest.raises(RecipeError, match=what):
        list(train_together({**together, "all": other}, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("adapter", [{"kind": "ia3"}, {"dora": True}, {"dropout": 0.1}, {"train": ["norm"]}])
def test_other_adapters_than_plain_lora_are_refused(adapter: dict[str, Any], llama: Path, tmp_path: Path) -> None:
    together = {
        name: bottega.Recipe.parse({**recipe.document(), "adapter": adapter})
        for name, recipe in recipes(tmp_path, llama).items()
    }
    with pytest.raises(bottega.ModelError, match=r"adapters that are trained at once, .* are LoRA of linear layers"):
        list(train_together(together, tmp_path / "out"))
    assert not list((tmp_path / "out").glob("*/events.jsonl"))


def test_the_base_may_be_quantized(llama: Path, tmp_path: Path) -> None:
    together = recipes(tmp_path, llama, model={"base": str(llama), "dtype": "float32", "quantize": "fp8"})
    list(train_together(together, tmp_path / "all"))
    for name, recipe in together.items():
        list(bottega.train(recipe, tmp_path / "alone" / name))
        found, expected = (load_file(tmp_path / run / name / WEIGHTS) for run in ("all", "alone"))
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, atol=1e-4, rtol=0)


def test_runs_that_were_not_trained_at_once_are_not_continued_so(llama: Path, tmp_path: Path) -> None:
    for name, recipe in recipes(tmp_path, llama).items():
        list(bottega.train(recipe, tmp_path / "runs" / name))
    with pytest.raises(bottega.RunError, match="holds no adapters that were trained at once"):
        list(resume_together(tmp_path / "runs"))


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_other_models_than_decoders_are_refused(kind: str, tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", kind)
    together = recipes(tmp_path, base, "masked" if kind == "bert" else "sft")
    with pytest.raises(bottega.ModelError, match="on decoders"):
        list(train_together(together, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_dropout_of_the_base_is_refused(tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", "gpt2", resid_pdrop=0.1)
    with pytest.raises(bottega.ModelError, match=r"set model\.dropout to 0"):
        list(train_together(recipes(tmp_path, base), tmp_path / "out"))
