"""GRPO: what an update learns from, that leaving out what has no gradient changes nothing, and TRL's own loss."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from worlds import world

import bottega
from bottega import objectives
from bottega.batch import Example, Row, count_units
from bottega.errors import Diverged
from bottega.models.scorer_setup import fit_model
from bottega.objectives import RewardedAnswer
from bottega.objectives.grpo import Grpo
from bottega.packing import pack
from bottega.runs.store import read_events
from making import make_model, make_tokenizer, sharpen, tiny_config, write_jsonl


def made(**options: Any) -> Grpo:
    found = objectives.build_objective({"kind": "grpo", "rewards": "exact", **options})
    assert isinstance(found, Grpo)
    return found


def posed(*prompts: list[int]) -> list[Example]:
    one = np.ones(1, np.float32)
    rows = [Row(np.array(ids), np.array([len(ids) - 1]), np.zeros(1, np.int64), one) for ids in prompts]
    return [Example(f"line {place}", (row,)) for place, row in enumerate(rows)]


def answers(*groups: list[tuple[list[int], float]], ended: bool = True) -> list[list[RewardedAnswer]]:
    return [[RewardedAnswer(np.array(tokens), reward, ended) for tokens, reward in group] for group in groups]


def advantages(examples: list[Example]) -> list[float]:
    return [float(example.rows[0].columns["advantage"][0]) for example in examples]


@pytest.mark.parametrize(
    ("scale", "wanted"),
    [
        ("none", [0.5, -0.5, 3.0, -3.0]),
        ("group", [0.5 / (np.sqrt(0.5) + 1e-4), -0.5 / (np.sqrt(0.5) + 1e-4), 3 / (np.sqrt(18) + 1e-4), None]),
        ("update", [x / (np.std([1, 0, 6, 0], ddof=1) + 1e-4) for x in (0.5, -0.5, 3.0, -3.0)]),
    ],
)
def test_advantages_are_relative_to_the_group(scale: str, wanted: list[float | None]) -> None:
    drawn = answers([([5], 1.0), ([6], 0.0)], [([7], 6.0), ([8], 0.0)])
    found = advantages(made(scale=scale).training_examples(posed([1, 2], [1, 3]), drawn))
    for one, other in zip(found, wanted, strict=True):
        assert other is None or one == pytest.approx(other, rel=1e-6)


def test_the_rows_are_prompts_with_their_answers() -> None:
    (first, second) = made(scale="none").training_examples(posed([1, 2, 3]), answers([([7, 8, 9], 1.0), ([4], 0.0)]))
    row = first.rows[0]
    assert row.tokens.tolist() == [1, 2, 3, 7, 8, 9]
    assert row.computed_tokens.tolist() == [1, 2, 3, 7, 8], "the last token of an answer is seen by none"
    assert row.at.tolist() == [2, 3, 4]
    assert row.label.tolist() == [7, 8, 9]
    assert second.rows[0].computed_tokens.tolist() == [1, 2, 3]


def test_rounding_gives_equal_rewards_no_advantage() -> None:
    drawn = answers([([5], 0.1 + 0.2), ([6], 0.3), ([7], 0.1 + 0.2)], [([5], 0.7), ([6], 0.7), ([7], 0.7)])
    found = made(scale="group").training_examples(posed([1], [2]), drawn)
    assert {example.id for example in found} == {"line 0"}


def test_equal_rewards_leave_one_example_without_advantage() -> None:
    (only,) = made().training_examples(posed([1], [2]), answers([([5], 1.0)] * 2, [([6], 0.0)] * 2))
    assert advantages([only]) == [0.0]


@pytest.mark.parametrize("weighting", ["token", "answer", "constant"])
def test_leaving_out_groups_without_gradient_changes_nothing(weighting: str) -> None:
    """The gradients with a group whose answers are all alike in the batch, and without it."""
    own = world("grpo", "{}", "llama")
    objective = made(weighting=weighting, tokens=9, group=2)
    prompts = posed([1, 9, 10, 11, 12, 13, 14, 15, 16], [1, 20, 21])
    drawn = answers([([30, 31, 32], 1.0), ([33], 0.2)], [([34, 35], 0.5), ([36, 37, 38, 39], 0.5)])
    kept = objective.training_examples(prompts, drawn)
    assert len(kept) == 2
    values = objective._advantages(np.array([[one.reward for one in group] for group in drawn]))
    whole = [
        Example("here", (one.row(prompt.rows[0]).with_columns(advantage=value),))
        for prompt, group, row in zip(prompts, drawn, values, strict=True)
        for one, value in zip(group, row, strict=True)
    ]

    def gradients(examples: list[Example]) -> list[torch.Tensor]:
        batch = pack(examples)
        own.model.zero_grad()
        objective.loss(own.scorer()(batch, objective.outputs), batch).total(count_units([batch])).backward()
        return [weight.grad.clone() for weight in own.model.parameters() if weight.grad is not None]

    for one, other in zip(gradients(kept), gradients(whole), strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-7 * float(other.abs().max() + 1e-30))


def test_unfinished_answers_can_be_skipped() -> None:
    drawn = answers([([5], 1.0), ([6], 0.0)], ended=False)
    assert advantages(made(unfinished="skip").training_examples(posed([1]), drawn)) == [0.0], (
        "nothing is left to learn from"
    )
    assert len(made().training_examples(posed([1]), drawn)) == 2


WORDS = ["the cat sat", "a dog ran on", "red", "then it was", "one two", "the tree"]


def recipe(folder: Path, **objective: Any) -> bottega.Recipe:
    base = folder / "base"
    if not base.exists():
        make_model(base, "llama")
    rows = write_jsonl(folder / "rows.jsonl", [{"prompt": text} for text in WORDS])
    return bottega.Recipe.parse(
        {
            "model": {"base": str(base), "dtype": "float32"},
            "data": {"train": str(rows)},
            "objective": {"kind": "grpo", "group": 6, "tokens": 8, **objective},
            "optim": {"steps": 30, "examples": 4, "lr": 1e-2, "schedule": "constant", "warmup": 0},
            "save": {"every": 4},
        }
    )


def test_training_raises_the_reward(tmp_path: Path) -> None:
    rewards = {"kind": "pattern", "pattern": "[aeiou]"}
    events = list(bottega.train(recipe(tmp_path, rewards=rewards), tmp_path / "run"))
    found = [event.metrics["reward"] for event in events if event.type == "stepped"]
    assert np.mean(found[:3]) < 0.7 * np.mean(found[-3:])
    told = [event for event in events if event.type == "answered"]
    assert len(told) >= 10
    assert all(len(one.answers) == len(one.rewards) == 6 and one.where.endswith(tuple("123456")) for one in told)
    assert any(float("a" in text) <= mark for one in told for text, mark in zip(one.answers, one.rewards, strict=True))


@pytest.fixture(scope="module")
def passes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of a run with three passes, `whole`, and of what a kill after its 17th step would leave, `cut`."""
    folder = tmp_path_factory.mktemp("passes")
    found = recipe(folder, rewards={"kind": "pattern", "pattern": "[a-m]"}, passes=3)
    for event in bottega.train(found, folder / "whole"):
        if event.type == "stepped" and event.step == 17:
            shutil.copytree(folder / "whole", folder / "cut")
    return folder


def test_answers_are_used_in_several_passes(passes: Path) -> None:
    """The same prompts in `passes` updates, whose answers were written by the policy before the first of them."""
    events = [event for event in read_events(passes / "whole") if event["type"] == "stepped"]
    rewards, clipped = ([event["metrics"][name] for event in events] for name in ("reward", "clipped"))
    assert all(len(set(rewards[start : start + 3])) == 1 for start in range(0, 30, 3))
    assert len(set(rewards)) > 3
    assert set(clipped[0::3]) == {0.0}, "nothing has moved yet"
    assert any(value > 0 for value in clipped)
    assert [round(event["epoch"] * 6) for event in events[:7]] == [0, 0, 4, 4, 4, 8, 8]


def test_a_run_cut_between_two_passes_goes_on_with_its_answers(passes: Path) -> None:
    assert (passes / "cut" / "checkpoints" / "step-00000016" / "rollout.safetensors").exists()
    list(bottega.resume(passes / "cut"))
    losses = [
        [
            (event["loss"], event["metrics"])
            for event in read_events(passes / name)
            if event["type"] == "stepped" and event["step"] > 16
        ][-14:]
        for name in ("whole", "cut")
    ]
    assert losses[0] == losses[1]
    assert len({json.dumps(metrics) for _, metrics in losses[0]}) > 3
    model = "model/model.safetensors"
    assert (passes / "whole" / model).read_bytes() == (passes / "cut" / model).read_bytes()


@pytest.mark.parametrize(
    "noise", [{"adapter": {"rank": 4, "dropout": 0.3}}, {"neftune": 5.0}], ids=["dropout", "noise"]
)
def test_nothing_is_clipped_in_the_first_pass(noise: dict[str, Any], tmp_path: Path) -> None:
    document = recipe(tmp_path, rewards={"kind": "pattern", "pattern": "[a-m]"}, passes=2).document()
    document["optim"] |= {"steps": 6, "neftune": noise.get("neftune")}
    found = bottega.Recipe.parse(document | {"adapter": noise.get("adapter")})
    clipped = [event.metrics["clipped"] for event in bottega.train(found, tmp_path / "run") if event.type == "stepped"]
    assert set(clipped[0::2]) == {0.0}
    assert max(clipped[1::2]) > 0


def test_about_ten_answered_events_whatever_the_passes(tmp_path: Path) -> None:
    found = recipe(tmp_path, rewards={"kind": "pattern", "pattern": "[a-m]"}, passes=2, group=2, tokens=2).document()
    found["optim"] |= {"steps": 40}
    events = list(bottega.train(bottega.Recipe.parse(found), tmp_path / "run"))
    assert [event.step for event in events if event.type == "answered"] == list(range(1, 40, 4))


def test_scores_that_are_not_finite_end_the_run(tmp_path: Path) -> None:
    document = recipe(tmp_path, rewards={"kind": "pattern", "pattern": "[a-m]"}).document()
    document["optim"] |= {"lr": 1e30}
    with pytest.raises(Diverged, match=r"not finite|is nan|is inf"):
        list(bottega.train(bottega.Recipe.parse(document), tmp_path / "run"))


def test_skipped_answers_have_no_reference_loss() -> None:
    own = world("grpo", "{}", "llama")
    objective = made(unfinished="skip", beta=0.5)
    (example,) = objective.training_examples(posed([1, 9, 10]), answers([([30, 31], 1.0), ([33], 0.2)], ended=False))
    batch = pack([example])
    batch = batch.with_columns(reference=torch.full((len(batch.at),), -3.0))
    loss = objective.loss(own.scorer()(batch, objective.outputs), batch)
    assert float(loss.total(count_units([batch])).detach()) == 0.0


CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"loss_type": "dapo"}),
    ({"scale": "none", "weighting": "constant"}, {"loss_type": "dr_grpo", "scale_rewards": "none"}),
    (
        {"scale": "update", "weighting": "answer", "clip_high": 0.28},
        {"loss_type": "grpo", "scale_rewards": "batch", "epsilon_high": 0.28},
    ),
    ({"weighting": "answer", "ratio": "answer"}, {"loss_type": "grpo", "importance_sampling_level": "sequence"}),
    ({"beta": 0.04, "weighting": "answer"}, {"loss_type": "grpo", "use_bias_correction_kl": False}),
    ({"temperature": 0.7, "beta": 0.04, "unbiased": True}, {"loss_type": "dapo", "temperature": 0.7}),
]


@pytest.mark.parametrize(("options", "settings"), CASES, ids=lambda one: "-".join(map(str, one.values())) or "usual")
@pytest.mark.filterwarnings("ignore")
def test_loss_and_gradients_are_trls(options: dict[str, Any], settings: dict[str, Any], tmp_path: Path) -> None:
    """Of the answers that TRL's trainer writes, with its advantages, as if the policy had moved since."""
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    tokenizer = transformers.AutoTokenizer.from_pretrained(make_tokenizer(tmp_path / "tokenizer"))
    torch.manual_seed(0)
    policy = sharpen(transformers.AutoModelForCausalLM.from_config(tiny_config("llama"), dtype=torch.float32))
    config = trl.GRPOConfig(
        output_dir=str(tmp_path / "out"),
        num_generations=3,
        per_device_train_batch_size=12,
        num_iterations=2,
        max_completion_length=9,
        use_cpu=True,
        bf16=False,
        report_to=[],
        gradient_checkpointing=False,
        disable_tqdm=True,
        **settings,
    )

    def reward(completions: list[str], **_: Any) -> list[float]:
        return [sum(map(ord, text)) % 7 / 3 for text in completions]

    prompts = Dataset.from_list([{"prompt": text} for text in WORDS[:4]])
    trainer = trl.GRPOTrainer(policy, reward, args=config, train_dataset=prompts, processing_class=tokenizer)
    trainer.current_gradient_accumulation_steps = 1
    policy.train()
    inputs = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    draw = torch.Generator().manual_seed(1)
    size = inputs["completion_ids"].shape
    inputs["old_per_token_logps"] = inputs["old_per_token_logps"] + 0.3 * torch.randn(size, generator=draw)
    if "beta" in options:
        trainer.beta = options["beta"]
        inputs["ref_per_token_logps"] = inputs["old_per_token_logps"] + 0.5 * torch.randn(size, generator=draw)
    wanted = trainer.compute_loss(policy, inputs)
    wanted.backward()
    expected = {name: weight.grad.clone() for name, weight in policy.named_parameters() if weight.grad is not None}
    policy.zero_grad()

    kept = inputs["completion_mask"].bool()
    prompts_ = [
        ids[mask.bool()].tolist() for ids, mask in zip(inputs["prompt_ids"], inputs["prompt_mask"], strict=True)
    ]
    written = [ids[mask] for ids, mask in zip(inputs["completion_ids"], kept, strict=True)]
    order = sorted(range(12), key=lambda place: prompts_[place])
    marks = reward(tokenizer.batch_decode(written, skip_special_tokens=True))
    objective = made(group=3, tokens=9, passes=2, **options)
    groups = [order[start : start + 3] for start in range(0, 12, 3)]
    drawn = [[RewardedAnswer(written[place].numpy(), marks[place], True) for place in group] for group in groups]
    examples = objective.training_examples(posed(*(prompts_[group[0]] for group in groups)), drawn)
    beside = {"old": inputs["old_per_token_logps"], "reference": inputs.get("ref_per_token_logps")}
    by_row = {(tuple(prompts_[place]), tuple(written[place].tolist())): place for place in order}
    rows = []
    for example in examples:
        row = example.rows[0]
        place = by_row[tuple(row.tokens[: int(row.at[0]) + 1].tolist()), tuple(row.label.tolist())]
        columns = {name: value[place][kept[place]].numpy() for name, value in beside.items() if value is not None}
        rows.append(Example(example.id, (row.with_columns(**columns),)))
    scorer = fit_model(policy, "language")
    batch = pack(rows)
    scores = scorer(batch, objective.outputs, temperature=objective.logit_temperature)
    loss = objective.loss(scores, batch).total(count_units([batch]))
    loss.backward()
    found = {name: weight.grad for name, weight in policy.named_parameters() if weight.grad is not None}
    # What is left out has no gradient, but a loss that the advantages of its group sum up to zero only at ratio 1.
    whole = len(rows) == 12
    assert not whole or float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5, abs=1e-6)
    assert found.keys() == expected.keys()
    most = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        assert (found[name] - gradient).abs().max() <= 1e-5 * most, name
