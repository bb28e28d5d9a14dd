"""Loss and gradients beside TRL's own, on the same model and rows in float32; skipped where TRL is not installed."""

from __future__ import annotations

import warnings
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers

from bottega import objectives
from bottega.batch import Example, count_units
from bottega.models.scorer_setup import fit_model
from bottega.objectives import Statistic
from bottega.packing import pack
from bottega.records import Preference, Record, Unpaired
from bottega.tokenization.codec import Codec
from bottega.training.needs import statistics
from making import make_tokenizer, sharpen, tiny_config

pytest.importorskip("trl")


class Case(NamedTuple):
    """An objective of ours and the trainer of theirs that computes the same."""

    kind: str
    options: dict[str, Any]
    trainer: str
    settings: dict[str, Any]


CASES = [
    Case("dpo", {}, "trl.DPO", {}),
    Case("dpo", {"normalised": True}, "trl.DPO", {"loss_type": ["sigmoid_norm"]}),
    Case(
        "dpo", {"form": "robust", "label_smoothing": 0.2}, "trl.DPO", {"loss_type": ["robust"], "label_smoothing": 0.2}
    ),
    Case("dpo", {"form": "ipo", "normalised": True}, "trl.DPO", {"loss_type": ["ipo"]}),
    Case("orpo", {"prompt": True, "weight": 0.3}, "trl.experimental.orpo.ORPO", {"beta": 0.3}),
    Case(
        "simpo",
        {"label_smoothing": 0.1},
        "trl.experimental.cpo.CPO",
        {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 1.0, "cpo_alpha": 0.0, "label_smoothing": 0.1},
    ),
    Case("cpo", {"likelihood": "token"}, "trl.experimental.cpo.CPO", {"loss_type": "sigmoid", "beta": 0.1}),
    Case("kto", {"desirable": 1.2}, "trl.KTO", {"desirable_weight": 1.2}),
    Case("reward", {"centering": 0.1}, "trl.Reward", {"center_rewards_coefficient": 0.1}),
]
PAIRS = [
    {"prompt": "the cat sat", "chosen": " on the mat", "rejected": " under it"},
    {"prompt": "a dog ran on", "chosen": " and was very happy then", "rejected": " sad"},
    {"prompt": "the cat sat", "chosen": " under the tree", "rejected": " one two three"},
    {"prompt": "red", "chosen": " blue", "rejected": " the dog and the cat"},
]
SINGLE = [
    {"prompt": row["prompt"], "completion": row["chosen" if good else "rejected"], "label": good}
    for row, good in zip(PAIRS, (True, False, True, False), strict=True)
]


def rows(case: Case) -> list[dict[str, Any]]:
    return SINGLE if case.kind == "kto" else PAIRS


def records(case: Case) -> list[Record]:
    if case.kind == "kto":
        return [Unpaired("here", row["prompt"], row["completion"], row["label"]) for row in SINGLE]
    return [Preference("here", row["prompt"], row["chosen"], row["rejected"]) for row in PAIRS]


def model(case: Case, seed: int) -> Any:
    torch.manual_seed(seed)
    if case.kind == "reward":
        config = tiny_config("llama", num_labels=1)
        return sharpen(transformers.AutoModelForSequenceClassification.from_config(config, dtype=torch.float32))
    return sharpen(transformers.AutoModelForCausalLM.from_config(tiny_config("llama"), dtype=torch.float32))


def gradients(found: Any) -> dict[str, torch.Tensor]:
    return {name: weight.grad.clone() for name, weight in found.named_parameters() if weight.grad is not None}


def ours(case: Case, tokenizer: Any) -> tuple[float, dict[str, torch.Tensor]]:
    objective = objectives.load(case.kind)(kind=case.kind, **case.options)
    codec = Codec(tokenizer, max_length=100, too_long="error", both_ways=False, labels=objective.count_labels([]))
    examples = [Example("here", parts) for record in records(case) for parts in objective.rows(record, codec)]
    policy, frozen = (fit_model(model(case, seed).eval(), objective.head) for seed in (0, 1))

    def scored(which: Any, batch: Any) -> Any:
        with torch.no_grad():
            return which(batch, objective.outputs)

    def complete(group: list[Example]) -> Any:
        batch = pack(group)
        return (
            batch.with_columns(reference=scored(frozen, batch)["logp"]) if objective.compares_with_reference else batch
        )

    batch = complete(examples)
    for need in (need for need in objective.needs if isinstance(need, Statistic)):
        found = statistics(need, [complete(need.examples(examples, 100))], lambda probed: scored(policy, probed))
        batch = replace(batch, statistics=found)
    loss = objective.loss(policy(batch, objective.outputs), batch).total(count_units([batch]))
    loss.backward()
    return float(loss.detach()), gradients(policy.model)


def theirs(case: Case, tokenizer: Any, folder: Path) -> tuple[float, dict[str, torch.Tensor]]:
    from datasets import Dataset

    place, _, name = case.trainer.rpartition(".")
    module = import_module(place)
    config = getattr(module, f"{name}Config")(
        output_dir=str(folder),
        per_device_train_batch_size=len(rows(case)),
        use_cpu=True,
        bf16=False,
        report_to=[],
        gradient_checkpointing=False,
        disable_tqdm=True,
        **case.settings,
    )
    more = {"ref_model": model(case, 1)} if case.kind in ("dpo", "kto") else {}
    trainer = getattr(module, f"{name}Trainer")(
        model=model(case, 0),
        args=config,
        train_dataset=Dataset.from_list(rows(case)),
        processing_class=tokenizer,
        **more,
    )
    loss = trainer.compute_loss(trainer.model, next(iter(trainer.get_train_dataloader())))
    loss.backward()
    return float(loss.detach()), gradients(trainer.model)


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join([case.kind, *map(str, case.options.values())]))
def test_loss_and_gradients_are_trls(case: Case, tmp_path: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(make_tokenizer(tmp_path / "tokenizer"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted, expected = theirs(case, tokenizer, tmp_path / "out")
    loss, found = ours(case, tokenizer)
    assert loss == pytest.approx(wanted, rel=1e-5)
    assert found.keys() == expected.keys()
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        assert (found[name] - gradient).abs().max() <= 1e-5 * scale, name
