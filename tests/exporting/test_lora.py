"""Adapters beside one base: each computes what it was trained to, and only those that can share a base do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import bottega
from bottega.errors import ModelError
from bottega.inference.runtimes import is_installed, open_runtime
from bottega.runs.atomic_files import verify_folder
from bottega.runs.resolve import resolve
from making import make_model, write_jsonl

TOKENS = 48

FORMATS = [
    pytest.param(format, runtime, marks=pytest.mark.skipif(not is_installed(runtime), reason=f"no {runtime}"))
    for format, runtime in (("genai", "genai"), ("gguf", "llama_cpp"), ("onnx", "onnx"))
]


def peft_tokens(base: Path, run: Path, prompt: list[int]) -> list[int]:
    """The likeliest tokens after a prompt, by PEFT and transformers alone; no token ends them."""
    from peft import PeftModel

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), run / "adapter").eval()
    ids = torch.tensor([prompt])
    model.generation_config.eos_token_id = None
    settings = {"max_new_tokens": TOKENS, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with torch.no_grad():
        generated = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **settings)
    return list(generated[0, len(prompt) :].tolist())


@pytest.mark.parametrize(("format", "runtime"), FORMATS)
def test_each_adapter_generates_what_peft_generates(
    format: str, runtime: str, wide: Path, two_adapters: Callable[..., list[Path]], tmp_path: Path
) -> None:
    """One file of the base, switched between them in one process."""
    runs = two_adapters(wide)
    result = bottega.export(wide, tmp_path / "out", format=format, adapters=runs)
    assert list(result.adapters) == ["all", "some"]
    for comparison in result.adapters.values():
        assert comparison.proof is not None
        assert comparison.proof.difference < 1e-3
        assert comparison.proof.greedy == comparison.proof.generated == 2 * TOKENS
    assert verify_folder(tmp_path / "out") == ""
    opened = open_runtime(runtime, tmp_path / "out", "language")
    prompt = AutoTokenizer.from_pretrained(wide)("the cat ").input_ids
    answers = []
    for run in (*runs, *reversed(runs)):
        opened.use_adapter(tmp_path / "out" / "adapters" / run.name)
        logits = opened.start(prompt)
        tokens = [int(logits.argmax())]
        while len(tokens) < TOKENS:
            tokens.append(int(opened.step(tokens[-1]).argmax()))
        assert tokens == peft_tokens(wide, run, prompt)
        answers.append(tokens)
    assert answers[0] != answers[1]
    opened.use_adapter(None)
    plain = open_runtime(runtime, tmp_path / "out", "language")
    assert (opened.start(prompt) == plain.start(prompt)).all()


@pytest.mark.parametrize(("format", "runtime"), FORMATS[:2])
def test_an_adapter_in_an_export_is_used_like_a_run(
    format: str,
    runtime: str,
    wide: Path,
    two_adapters: Callable[..., list[Path]],
    same_answers: Callable[..., None],
    tmp_path: Path,
) -> None:
    runs = two_adapters(wide)
    bottega.export(wide, tmp_path / "out", format=format, adapters=[run / "adapter" for run in runs])
    for run in runs:
        folder = tmp_path / "out" / "adapters" / run.name
        same_answers(run, folder)
        assert resolve(folder).exported_model == tmp_path / "out"
        assert f'bottega run {run.name} "…"' in (folder / "README.md").read_text()


def test_an_adapter_without_its_export(llama: Path, two_adapters: Callable[..., list[Path]], tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    bottega.export(llama, tmp_path / "out", format="gguf", adapters=two_adapters(llama)[:1])
    (tmp_path / "out" / "adapters" / "all").rename(tmp_path / "alone")
    with pytest.raises(ModelError, match="an adapter in an export, without the export"):
        bottega.load(tmp_path / "alone")


def refusal(base: Path, adapters: list[Path], out: Path, format: str = "gguf") -> str:
    with pytest.raises(ModelError) as caught:
        bottega.export(base, out, format=format, adapters=adapters)
    assert not out.exists()
    return str(caught.value)


def test_adapters_that_cannot_share_the_base(
    llama: Path, train: Callable[..., Path], two_adapters: Callable[..., list[Path]], tmp_path: Path
) -> None:
    pytest.importorskip("gguf")
    runs, out = two_adapters(llama), tmp_path / "out"
    other = make_model(tmp_path / "other", tie_word_embeddings=True)
    assert "trained on another base" in refusal(other, runs, out)
    assert "this model has an adapter itself" in refusal(runs[0], runs, out)
    assert "holds no adapter" in refusal(llama, [llama], out)
    assert "two adapters are called all" in refusal(llama, [runs[0], runs[0]], out)
    assert "holds no adapters beside the weights" in refusal(llama, runs, out, "merged")
    chat = [{"messages": [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}]}] * 4
    data = {"train": str(write_jsonl(tmp_path / "chat.jsonl", chat)), "template": "chatml"}
    answers = train(llama, tmp_path / "chat", adapter={"rank": 2}, data=data)
    assert "different chat templates" in refusal(llama, [runs[0], answers], out)


def test_a_copy_of_the_base_is_the_base(llama: Path, two_adapters: Callable[..., list[Path]], tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    import shutil

    copy = Path(shutil.copytree(llama, tmp_path / "copy"))
    assert list(bottega.export(copy, tmp_path / "out", format="gguf", adapters=two_adapters(llama)).adapters) == [
        "all",
        "some",
    ]


def test_what_is_no_low_rank_update_is_named(llama: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    from peft import LoraConfig, get_peft_model

    out, base = tmp_path / "out", {"task_type": "CAUSAL_LM", "r": 2}
    for name, options, reason in (
        ("dora", {"use_dora": True, "target_modules": ["q_proj"]}, "lora_magnitude_vector"),
        ("whole", {"modules_to_save": ["lm_head"], "target_modules": ["q_proj"]}, "lm_head"),
        ("embeddings", {"target_modules": ["embed_tokens"]}, "lora_embedding_A"),
    ):
        model = AutoModelForCausalLM.from_pretrained(llama)
        get_peft_model(model, LoraConfig(**base, **options)).save_pretrained(
            tmp_path / name, save_embedding_layers=False
        )
        assert reason in refusal(llama, [tmp_path / name], out)
