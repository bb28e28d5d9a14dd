"""Tokens of several adapters in one forward: each computes what its adapter computes alone."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from test_kv_cache import example, network_of
from test_low_rank import save_adapter

from bottega.batch import join_batches
from bottega.models.attention import make_layout
from bottega.models.kernels.lora_linear import ROW_ADAPTER
from bottega.models.row_adapters import RowAdapters, RowMatrices
from bottega.models.scorer import first_position_id
from bottega.models.scorer_setup import fit_model
from bottega.packing import pack

ROWS = [[7, 8, 9, 10, 11], [12, 13, 14], [20, 21, 22, 23], [30, 31, 32]]
USED = ["one", None, "two", "one"]


def scores(network: torch.nn.Module, rows: list[list[int]]) -> torch.Tensor:
    batch = pack([example(row) for row in rows], share=False)
    position = (batch.position + first_position_id(network))[None]
    calls = {"position_ids": position, "layout": make_layout(batch), "use_cache": False}
    found: torch.Tensor = network(input_ids=batch.tokens[None], **calls).logits[0]
    return found[batch.at]


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "phi3"])
@torch.no_grad()
def test_each_row_is_computed_with_its_adapter(kind: str, tmp_path: Path) -> None:
    network = network_of(kind)
    some = ["c_attn"] if kind == "gpt2" else ["o_proj", "down_proj"]
    folders = {
        "one": save_adapter(network, tmp_path / "one"),
        "two": save_adapter(network, tmp_path / "two", r=5, target_modules=some),
    }
    plain = scores(network, ROWS)
    expected = plain.clone()
    for name, folder in folders.items():
        alone = peft.PeftModel.from_pretrained(network_of(kind), str(folder)).double().merge_and_unload()
        for index in (index for index, used in enumerate(USED) if used == name):
            expected[index] = scores(fit_model(alone.eval(), "language").network, [ROWS[index]])[0]
    assert (expected - plain).abs().max() > 0.1
    adapters = RowAdapters(network)
    for name, folder in folders.items():
        adapters.add(name, folder)
    order = [index for row, index in sorted(zip(ROWS, range(len(ROWS)), strict=True))]
    counts = {index: len(pack([example(ROWS[index])], share=False).tokens) for index in order}
    adapters.use([USED[index] for index in order for _ in range(counts[index])])
    torch.testing.assert_close(scores(network, ROWS), expected, rtol=0, atol=1e-5)
    adapters.use(["two"] * sum(counts.values()))
    torch.testing.assert_close(scores(network, ROWS)[2], expected[2], rtol=0, atol=1e-5)
    adapters.use([None] * sum(counts.values()))
    torch.testing.assert_close(scores(network, ROWS), plain)
    adapters.remove("two")
    adapters.use([USED[index] and "one" for index in order for _ in range(counts[index])])
    torch.testing.assert_close(scores(network, ROWS)[0], expected[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_adapters_in_turn_are_each_alone_and_so_are_their_gradients(kind: str) -> None:
    network = network_of(kind).float().requires_grad_(False)
    rows, generator = RowAdapters(network), torch.Generator().manual_seed(0)
    places = [name for name, _ in network.named_modules() if name.endswith(("c_attn", "q_proj", "up_proj", "c_fc"))]
    for name, rank, scale in (("one", 2, 3.0), ("two", 3, 0.5)):
        matrices = {}
        for place in places:
            layer = network.get_submodule(place)
            inputs, outputs = (
                getattr(layer, "nx", None) or layer.in_features,
                getattr(layer, "nf", None) or layer.out_features,
            )
            a, b = (0.3 * torch.randn(shape, generator=generator) for shape in ((rank, inputs), (outputs, rank)))
            matrices[place] = RowMatrices(*(torch.nn.Parameter(one) for one in (a, b)), scale)
        rows.put(name, matrices)

    def gradients(examples: list[list[int]], *used: str) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        parts = [pack([example(row)], share=False) for row in examples]
        rows.use_in_turn({name: len(part.tokens) for name, part in zip(used, parts, strict=True)})
        joined = join_batches(parts)
        position = (joined.position + first_position_id(network))[None]
        found = network(
            input_ids=joined.tokens[None], position_ids=position, layout=make_layout(joined), use_cache=False
        )
        values = found.logits[0][joined.at]
        weights = [
            weight
            for name in used
            for module in network.modules()
            if (layer := getattr(module, ROW_ADAPTER, None)) is not None
            for weight in layer.matrices[name][:2]
        ]
        return list(values), list(torch.autograd.grad(values[: len(used)].square().sum(), weights))

    both, shared = gradients(ROWS[:2], "one", "two")
    alone = [gradients([row], name) for row, name in zip(ROWS, ("one", "two"), strict=False)]
    torch.testing.assert_close(both, [values[0] for values, _ in alone], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(shared, [one for _, found in alone for one in found], atol=1e-4, rtol=1e-4)


def test_what_is_trained_is_never_stale() -> None:
    """Though its other half is frozen, and several are in use."""
    network = network_of("llama").float().requires_grad_(False)
    rows, place = RowAdapters(network), "model.layers.0.self_attn.q_proj"
    layer = network.get_submodule(place)
    b = torch.nn.Parameter(torch.zeros(layer.out_features, 2))
    rows.put("one", {place: RowMatrices(torch.randn(2, layer.in_features), b)})
    rows.put("two", {place: RowMatrices(torch.randn(2, layer.in_features), torch.randn(layer.out_features, 2))})
    x = torch.randn(4, layer.in_features)
    rows.use(["one", "one", "two", None])
    before = layer(x)
    with torch.no_grad():
        b += 1
    after = layer(x)
    assert (after[:2] - before[:2]).abs().max() > 0.1
    torch.testing.assert_close(after[2:], before[2:])
