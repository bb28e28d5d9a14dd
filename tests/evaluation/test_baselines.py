"""What a run is compared with: each baseline is scored on the same rows, and as it would be alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bottega
from bottega.data.reader import RecipeReader
from bottega.errors import RunError
from bottega.evaluation.baselines import Baseline, parse_baseline
from bottega.evaluation.evaluate import Comparison, Evaluation, evaluate
from bottega.evaluation.retrieval import Bm25Retriever
from bottega.recipe.schema import Recipe
from bottega.records import Message
from making import WORDS, make_model, write_jsonl


def beside(found: Evaluation, name: str) -> Comparison:
    return next(one for one in found.contenders if name in one.name)


def test_a_baseline_is_a_method_a_model_a_run_or_a_server(tmp_path: Path, trained: Callable[..., Path]) -> None:
    assert parse_baseline("few-shot").method == "few-shot"
    assert parse_baseline("dense=some/encoder") == Baseline("dense", "some/encoder", "dense=some/encoder")
    assert parse_baseline("http://localhost:1/v1#small").model == "small"
    run = trained("sft")
    assert parse_baseline(str(run)).method == "run"
    assert parse_baseline(str(make_model(tmp_path / "m"))).method == "zero-shot"
    bottega.export(tmp_path / "m", tmp_path / "export")
    assert parse_baseline(str(tmp_path / "export")).method == "run", "as it is, not with a prompt of ours"
    with pytest.raises(RunError, match="not a baseline") as caught:
        parse_baseline("fewshot")
    assert "few-shot" in str(caught.value.fix)
    with pytest.raises(RunError, match="missing address or #model"):
        parse_baseline("http://localhost:1/v1")


def test_few_shot_prompts_score_as_each_does_alone(trained: Callable[..., Path]) -> None:
    found = evaluate(trained("sft"), against=["few-shot", "bm25"], shots=2)
    few = beside(found, "few-shot")
    assert [one.metric for one in few.estimates] == [
        "loss", "perplexity", "accuracy", "f1_macro", "exact_match",
    ]  # fmt: skip
    assert few.cost is not None
    assert found.cost is not None
    assert few.cost.read > 2 * found.cost.read, "two examples take more than twice the room of the question"
    assert by_hand(trained("sft"), found, shots=2) == pytest.approx(few.estimates[0].base, rel=1e-4)
    assert found.verdict.beside == "nearest training rows, bm25"
    nearest = beside(found, "bm25")
    assert [one.metric for one in nearest.estimates] == ["accuracy", "f1_macro", "exact_match"]
    assert nearest.cost is None


def by_hand(run: Path, found: Evaluation, *, shots: int) -> float:
    """The loss of the base on the answers, each after the likest training rows, one row at a time."""
    recipe = Recipe.parse(json.loads((run / "resolved.json").read_text()))
    base = bottega.load(str(recipe.model.base), dtype="float32")
    known = [
        one for record in RecipeReader(recipe).training() if (one := recipe.objective.prompt_and_reference(record))
    ]
    asked = [one for record in found.records if (one := recipe.objective.prompt_and_reference(record))]
    numbers, _ = Bm25Retriever([prompt[-1].content for prompt, _ in known]).nearest(
        [p[-1].content for p, _ in asked], shots
    )
    nll = tokens = 0.0
    for (prompt, answer), near in zip(asked, numbers.tolist(), strict=True):
        turns = [turn for number in near[::-1] for turn in (*known[number][0], Message("assistant", known[number][1]))]
        row = base.codec.encode_completion("by hand", (*turns, *prompt), answer)
        nll, tokens = nll - base.logp([row])[0], tokens + row.weight.sum()
    return float(nll / tokens)


@pytest.mark.slow
def test_other_models_and_runs_and_passages_are_baselines(trained: Callable[..., Path], tmp_path: Path) -> None:
    run, other = trained("sft"), trained("sft", name="other", optim={"steps": 1, "lr": 1e-5})
    model = make_model(tmp_path / "fresh")
    texts = write_jsonl(tmp_path / "texts.jsonl", [{"text": f"the {word} is red"} for word in WORDS])
    against = [str(other), str(model), f"few-shot={model}", "retrieval", "dense", f"dense={model}"]
    found = evaluate(run, against=against, documents=[str(texts)], rows=24)
    assert [one.name for one in found.contenders] == [
        "llama", "sft-llama-other-optim", "fresh, zero-shot", "fresh, few-shot", "llama, retrieval",
        "nearest training rows, dense",
    ]  # fmt: skip
    assert found.unasked == {"dense": "no encoder given: dense=FOLDER"}
    same = evaluate(run, against=[str(run)])
    assert same.verdict.outcome != "worse"
    assert all(one.run == one.base and one.finding != "better" for one in same.contenders[1].estimates)
    alone = evaluate(other, against=[], rows=24)
    ours = {one.metric: one.run for one in alone.estimates}
    theirs = {one.metric: one.base for one in beside(found, "sft-llama-other-optim").estimates}
    assert theirs == pytest.approx(ours), "a run is measured the same beside another"


def test_baselines_that_give_no_answer_are_noted(trained: Callable[..., Path]) -> None:
    found = evaluate(trained("causal", optim={"steps": 1, "examples": 8}, evaluate=None), against=["few-shot", "bm25"])
    assert set(found.unasked.values()) == {"the rows are not prompts with answers"}
    run = trained("dpo", adapter={"rank": 4}, optim={"steps": 2, "examples": 8}, evaluate=None)
    found = evaluate(run, against=["few-shot", str(run)], rows=12)
    assert found.unasked == {"few-shot": "it gives no probability to an answer"}
    assert beside(found, "dpo").estimates[0].interval is not None


def test_a_model_on_a_server_is_a_baseline_and_a_judge(
    server: Any, trained: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    server.busy = 2
    found = evaluate(trained("sft"), against=[f"{server.url}#small"], judge=f"{server.url}#judge", rows=20)
    small = beside(found, "small")
    accuracy = small.estimate("accuracy")
    assert accuracy is not None
    assert accuracy.base == 1.0
    assert small.cost is not None
    assert (small.cost.read, small.cost.written) == (9, 2)
    first = next(one for one in server.requests if one["model"] == "small")
    assert (first["path"], first["key"], first["temperature"]) == ("/v1/chat/completions", "Bearer secret", 0)
    assert "blue, red" in first["messages"][0]["content"]
    mark = small.estimate("judge_score")
    assert mark is not None
    assert 0 < mark.rows < 20, "a mark that cannot be read is unknown"
    assert mark.base == pytest.approx(0.3), "Red is not red, so it marks 3 of 10"
