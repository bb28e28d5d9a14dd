"""What every objective promises, for every objective in the folder; a new file there is tested without being named."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import references
import torch
from worlds import CASES, UNPACKABLE, World, fitting, world

from bottega import objectives
from bottega.batch import Row
from bottega.models.kernels import apply_kernels
from bottega.models.scorer import Fit
from bottega.objectives import Statistic
from bottega.packing import pack, split_into_micro_batches

ALONE = Fit(packed=False, own_head=True)


# The objective that `make test` holds every architecture to; the others take turns, and `make slow` has them all.
WHOLE = "sft"


def everyday(kind: str, model: str) -> bool:
    able, place = fitting(kind), objectives.kinds().index(kind)
    return kind == WHOLE or len(able) < 4 or (able.index(model) + place) % 4 == 0 or model == able[0]


PARAMS = [
    pytest.param(
        case,
        id="-".join([case[0], *map(str, case[1].values()), case[2]]),
        marks=[] if everyday(case[0], case[2]) else pytest.mark.slow,
    )
    for case in CASES
]


@pytest.fixture(params=PARAMS)
def made(request: pytest.FixtureRequest) -> World:
    kind, options, model = request.param
    return world(kind, json.dumps(options), model)


def same(one: tuple, other: tuple, tolerance: float) -> None:
    (loss, gradients), (wanted, expected) = one, other
    assert loss == pytest.approx(wanted, rel=tolerance)
    assert gradients.keys() == expected.keys()
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in gradients.items():
        assert (gradient - expected[name]).abs().max() <= tolerance * scale, name


def alone(made: World) -> tuple:
    """Every row by itself through nothing but the model's own forward and attention."""
    packed = made.model.config._attn_implementation
    for model in (made.model, made.reference):
        model.set_attn_implementation("eager")
    try:
        batches = [made.complete(pack([example], share=False), ALONE) for example in made.examples]
        return made.gradients(batches, ALONE)
    finally:
        for model in (made.model, made.reference):
            model.set_attn_implementation(packed)


def test_packed_is_alone(made: World) -> None:
    assert made.fit == Fit(fused=made.fit.fused), "these architectures are all packed, with a head known here"
    same(made.shared, alone(made), made.tolerance)


def test_fused_is_plain(made: World) -> None:
    """The faster forwards of a model's parts against its own, whose norms compute in float32 whatever the dtype."""
    batch, fused = made.complete(pack(made.examples), made.fit), made.whole
    own = [vars(module).pop("forward", None) for module in made.model.modules()]
    assert sum(forward is not None for forward in own) >= (2 if made.fit.fused else 0)
    try:
        same(fused, made.gradients([batch]), 10 * made.tolerance)
    finally:
        apply_kernels(made.model, made.fit.fused)


def test_a_shared_prefix_is_a_repeated_one(made: World) -> None:
    shared = pack(made.examples, min_shared=2)
    repeated = pack(made.examples, share=False)
    if not made.examples[0].rows[0].both_ways:
        shares = shared.source is None or made.objective.kind != "span"
        fewer = shared.computed_token_count < repeated.computed_token_count
        assert not shares or fewer, "nothing was shared, so nothing is tested"
    same(made.shared, made.gradients([made.complete(repeated, made.fit)]), made.tolerance)


@pytest.mark.parametrize("tokens", [30, pytest.param(90, marks=pytest.mark.slow)])
def test_any_split_into_micro_batches_is_the_same_update(made: World, tokens: int) -> None:
    parts = split_into_micro_batches(made.examples, tokens)
    assert tokens > 30 or len(parts) > 1
    batches = [made.complete(pack(part), made.fit) for part in parts]
    same(made.gradients(batches), made.whole, made.tolerance)


def called(row: Row) -> dict[str, torch.Tensor]:
    """How a model is asked about one row."""
    tokens = torch.from_numpy(row.tokens)[None]
    if row.source is None:
        return {"input_ids": tokens}
    return {"input_ids": torch.from_numpy(row.source)[None], "decoder_input_ids": tokens}


def test_the_loss_is_the_numpy_reference(made: World) -> None:
    def logits(model: torch.nn.Module) -> list:
        needed = (need for need in made.objective.needs if isinstance(need, Statistic))
        examples = [*made.examples, *(one for need in needed for one in need.examples(made.examples, 100))]
        rows = [row for example in examples for row in example.rows]
        with torch.no_grad():
            model.set_attn_implementation("eager")
            out = [model(**called(row)) for row in rows]
            model.set_attn_implementation("bottega")
        name = "last_hidden_state" if made.objective.head == "embedding" else "logits"
        return [(getattr(one, name)[0].double().numpy(), row) for one, row in zip(out, rows, strict=True)]

    wanted = getattr(references, made.objective.kind)(logits(made.model), logits(made.reference), made.objective)
    assert made.whole[0] == pytest.approx(wanted, rel=max(made.tolerance, 1e-6))


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        pytest.param(kind, model, marks=[] if kind == WHOLE or model == UNPACKABLE[0] else pytest.mark.slow)
        for kind in objectives.kinds()
        for model in fitting(kind, UNPACKABLE)
    ],
)
def test_models_that_cannot_be_packed_are_detected_and_computed_exactly(kind: str, model: str) -> None:
    made = world(kind, "{}", model)
    assert not made.fit.packed
    assert "differ" in made.fit.reason
    # Recurrent kernels sum in another order for another length.
    batch = made.complete(pack(made.examples, share=False), made.fit)
    batches = [made.complete(pack([example], share=False), ALONE) for example in made.examples]
    same(made.gradients([batch]), made.gradients(batches, ALONE), 1e-6)


def test_objectives_load_without_torch() -> None:
    needed = {"custom": None, "grpo": {"rewards": ["exact"]}}
    wanted = {kind: needed.get(kind, {}) for kind in objectives.kinds()}
    code = f"import sys; from bottega import objectives; wanted = {wanted}\n"
    code += "for kind, options in wanted.items():\n"
    code += "    made = objectives.load(kind)\n    options is None or made(**options)\n"
    code += "    assert 'torch' not in sys.modules, kind"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("kind", ["dpo", "orpo", "simpo", "cpo", "reward"])
def test_preference_accuracy_is_the_share_of_positive_margins(kind: str) -> None:
    made = world(kind, "{}", "llama")
    batch = made.complete(pack(made.examples), made.fit)
    with torch.no_grad():
        scores = made.scorer()(batch, made.objective.outputs)
    loss = made.objective.loss(scores, batch)
    objective = made.objective
    if kind == "reward":
        rows = scores["logits"][:, 0]
    elif kind == "dpo":
        rows = objective.beta * batch.sum_rows(scores["logp"] - batch.columns["reference"])
    elif kind == "cpo":
        rows = objective.beta * batch.sum_rows(scores["logp"])
    else:
        rows = batch.mean_rows(scores["logp"])
        rows = objective.beta * rows if kind == "simpo" else rows - torch.log(1 - rows.exp())
    margins = [float(chosen - rejected) for chosen, rejected in rows.reshape(-1, 2)]
    assert float(loss.metrics["accuracy"].sum) == sum(margin > 0 for margin in margins)
    assert 0 < sum(margin > 0 for margin in margins) < len(margins), "all on one side shows nothing"
    assert float(loss.metrics["margin"].sum) == pytest.approx(sum(margins))


def test_accuracy_is_the_share_of_right_classes() -> None:
    made = world("classify", "{}", "llama")
    batch = pack(made.examples)
    scores = made.scorer()(batch, made.objective.outputs)
    right = np.argmax(scores["logits"].detach().numpy(), 1) == batch.label.numpy()
    assert float(made.objective.loss(scores, batch).metrics["accuracy"].sum) == right.sum()
