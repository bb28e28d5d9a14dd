"""Our model in the lm-evaluation-harness says what the harness's own model says, to the last number."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import bottega
from bottega.errors import RunError
from bottega.evaluation.evaluate import evaluate
from bottega.evaluation.lm_eval import _sampling, harness_model, run_lm_eval
from bottega.recipe.schema import Recipe
from bottega.sampling import Sampling
from making import WORDS, make_model, write_jsonl

# What the harness and what it imports say of themselves is no fault of ours.
pytestmark = pytest.mark.filterwarnings("ignore")


def asked(*pairs: Any) -> list[Any]:
    return [SimpleNamespace(args=pair) for pair in pairs]


def task(folder: Path) -> dict[str, Any]:
    """A multiple-choice exam with two examples before each question."""
    draw = [{"query": f"the {one} sat on", "choices": [f"the {two}" for two in WORDS[:3]], "gold": 1} for one in WORDS]
    write_jsonl(folder / "exam.jsonl", draw)
    return {
        "task": "little",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "exam.jsonl"), "shown": str(folder / "exam.jsonl")}},
        "test_split": "test",
        "fewshot_split": "shown",
        "fewshot_config": {"sampler": "first_n"},
        "num_fewshot": 2,
        "output_type": "multiple_choice",
        "doc_to_text": "{{query}}",
        "doc_to_target": "gold",
        "doc_to_choice": "{{choices}}",
        "metric_list": [{"metric": "acc"}],
    }


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bloom"])
def test_likelihoods_and_texts_equal_those_of_the_model_of_the_harness(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    from lm_eval.models.huggingface import HFLM

    folder = make_model(tmp_path / "model", kind)
    ours = harness_model(bottega.load(folder, dtype="float32"))
    theirs = HFLM(str(folder), dtype="float32", device="cpu", batch_size=4, max_length=ours.max_length)
    pairs = [(f"the {one} sat on ", f"the {two}") for one in WORDS[:4] for two in WORDS[:4]] + [("", "the cat")]
    found, wanted = (model.loglikelihood(asked(*pairs), disable_tqdm=True) for model in (ours, theirs))
    assert [one for one, _ in found] == pytest.approx([one for one, _ in wanted], rel=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in wanted]
    greedy = theirs.generate_until(asked((pairs[0][0], {"until": ["zzz"], "max_gen_toks": 5})), disable_tqdm=True)
    assert ours.generate_until(asked((pairs[0][0], {"until": ["zzz"], "max_gen_toks": 5}))) == greedy
    long = " ".join(WORDS * 30)
    rolled = [model.loglikelihood_rolling(asked((long,), ("the cat",)), disable_tqdm=True) for model in (ours, theirs)]
    assert rolled[0] == pytest.approx(rolled[1], rel=1e-4)


def test_a_task_is_scored_for_the_run_and_its_base(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    rows = [{"prompt": f"the {one} sat on", "completion": f" the {WORDS[1]}"} for one in WORDS]
    document = {
        "model": {"base": str(make_model(tmp_path / "model")), "dtype": "float32"},
        "data": {"train": str(write_jsonl(tmp_path / "rows.jsonl", rows)), "validation": 0.4},
        "objective": {"kind": "sft"},
        "optim": {"steps": 40, "examples": 8, "lr": 5e-3},
    }
    list(bottega.train(Recipe.parse(document), tmp_path / "run"))
    given = task(tmp_path)
    scores = run_lm_eval(bottega.load(tmp_path / "run"), [given], rows=10)
    assert [one.metric for one in scores] == ["little: acc"]
    found = evaluate(tmp_path / "run", against=[], lm_eval=[given], rows=12)
    one = next(one for one in found.estimates if one.metric == "little: acc")
    assert one.rows == 12
    assert one.base is not None
    assert one.run > one.base
    assert json.dumps(found.document())


def test_settings_of_a_task() -> None:
    found = _sampling({"until": "\n", "max_gen_toks": 999, "do_sample": False, "temperature": 1.0}, 100)
    assert (found.stop, found.tokens, found.temperature) == (("\n",), 50, 0.0)
    assert _sampling({"do_sample": True, "temperature": 0.7}, 1000).temperature == 0.7
    assert _sampling({"until": ["\n"]}, 100, ("<|end|>",)).stop == ("\n", "<|end|>")


def test_an_end_of_turn_that_is_text_ends_answers_to_conversations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bottega.evaluation.lm_eval._import_package", lambda name: SimpleNamespace(TemplateLM=object))
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<over>{% endfor %}"
    template += "{% if add_generation_prompt %}<assistant>{% endif %}"
    model = bottega.load(make_model(tmp_path / "model", template=template))
    assert model.codec.stop_strings == ("<over>",)
    told, asked = list[tuple[str, ...]](), SimpleNamespace(args=("the cat", {"until": ["x"]}))

    def write(prompts: Any, settings: Sampling, **more: Any) -> Any:
        told.append(settings.stop)
        return [(SimpleNamespace(text=""),) for _ in prompts]

    monkeypatch.setattr(model.writer, "write", write)
    harness = harness_model(model)
    harness.generate_until([asked])
    harness.apply_chat_template([{"role": "user", "content": "the cat"}])
    harness.generate_until([asked])
    assert told == [("x",), ("x", "<over>")]


def test_a_missing_harness_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lm_eval.api.model", None)
    with pytest.raises(RunError, match="not installed") as caught:
        harness_model(bottega.load(make_model(tmp_path / "model")))
    assert caught.value.fix == "pip install lm-eval"
