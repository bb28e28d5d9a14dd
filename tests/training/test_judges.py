"""Reward models score answers as transformers would, and other models are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from bottega.errors import ModelError
from bottega.objectives.rewards import SampledAnswer
from bottega.recipe.files import RESOLVED
from bottega.recipe.schema import Recipe
from bottega.records import Posed
from bottega.training.judges import LoadedJudges
from making import make_tokenizer, sharpen, tiny_config


def classifier(folder: Path, labels: int = 1) -> Path:
    torch.manual_seed(0)
    config = tiny_config("llama", num_labels=labels)
    sharpen(AutoModelForSequenceClassification.from_config(config)).save_pretrained(str(make_tokenizer(folder)))
    return folder


def answers(prompt: str, *texts: str) -> list[SampledAnswer]:
    return [SampledAnswer(Posed("rows line 1", prompt), text, 3, True) for text in texts]


@torch.no_grad()
def test_a_score_is_the_logit_of_the_last_token_in_the_order_of_the_answers(tmp_path: Path) -> None:
    judge = classifier(tmp_path / "judge")
    given = answers("the cat", " sat", " ran under the tree", "", " sat")
    models = LoadedJudges("cpu", "float32")
    found = models(str(judge), given)
    model, codec = AutoModelForSequenceClassification.from_pretrained(judge).eval(), models.load(str(judge)).codec
    for answer, score in zip(given, found, strict=True):
        ids = (
            codec.encode_completion("", "the cat", answer.text).tokens.tolist()
            if answer.text
            else codec.encode_prompt("the cat")
        )
        assert score == pytest.approx(model(torch.tensor([ids])).logits.item(), abs=1e-4)
    assert found[0] == pytest.approx(found[3], abs=1e-6)
    assert len({round(score, 3) for score in found}) == 3
    assert models.load(str(judge)) is models.load(str(judge)), "it is loaded once"


def test_the_beginning_of_a_prompt_beyond_the_limit_is_cut(tmp_path: Path) -> None:
    judge, models = str(classifier(tmp_path / "judge")), LoadedJudges("cpu", "float32")
    assert models.load(judge).limit == 128
    long = "the cat sat " * 100
    with pytest.warns(RuntimeWarning, match="reads 128 tokens"):
        scores = models(judge, answers(long, " red", " blue", " on the mat"))
    assert len(set(scores)) == 3


def test_models_without_one_score_are_refused(llama: Path, tmp_path: Path) -> None:
    models = LoadedJudges("cpu", "float32")
    with pytest.raises(ModelError, match="not a reward model: LlamaForCausalLM"):
        models.load(str(llama))
    with pytest.raises(ModelError, match="not a reward model: LlamaForSequenceClassification with 3 labels"):
        models.load(str(classifier(tmp_path / "three", 3)))
    document = {"model": {"base": str(llama)}, "data": {"train": "rows.jsonl"}, "objective": {"kind": "sft"}}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / RESOLVED).write_text(json.dumps(Recipe.parse(document).document()))
    with pytest.raises(ModelError, match="not a reward model: trained with sft") as caught:
        models.load(str(tmp_path / "run"))
    assert caught.value.where == str(tmp_path / "run")
    assert "objective: {kind: reward}" in (caught.value.fix or "")


def test_a_missing_head_is_not_replaced_by_a_random_one(llama: Path, tmp_path: Path) -> None:
    folder = classifier(tmp_path / "judge")
    (folder / "model.safetensors").write_bytes((llama / "model.safetensors").read_bytes())
    with pytest.raises(ModelError, match="score is missing, and a new one would answer at random"):
        LoadedJudges("cpu", "float32").load(str(folder))
