"""Proofs that an accelerator computes what a CPU does, which must hold before anything is measured on it.

Attention against its definition, every objective's loss and gradients against the CPU's in float64, and interrupted
runs against uninterrupted ones. The models and rows are those that the tests of objectives use (`worlds`).
"""

from __future__ import annotations

import copy
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

# Required for deterministic matrix products; cuBLAS reads it once, so it must be set before the first one.
os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"

sys.path.append(str(Path(__file__).parent.parent / "tests"))
sys.path.append(str(Path(__file__).parent.parent / "tests" / "objectives"))

import worlds

import bottega
from bottega import objectives
from bottega.batch import Batch, Example, Row, count_units
from bottega.engine.offload import Offload
from bottega.engine.optimizer import Optimizer
from bottega.inference import decoding
from bottega.models.attention import make_layout
from bottega.models.attention.blocks import BlockLayout
from bottega.models.attention.dense import DenseLayout
from bottega.models.attention.flash import FlashLayout
from bottega.models.attention.flex import FlexLayout
from bottega.models.attention.mask import AttentionOptions
from bottega.models.quantization.linear import LINEAR_CLASSES
from bottega.packing import FLEX_BLOCK, pack, pad_tree
from bottega.recipe.schema import Optim
from bottega.runs.atomic_files import checksum
from bottega.sampling import Sampling
from making import make_model

# Largest difference, relative to the largest value, that float32 rounding explains; an error shows as 1e-2 or more.
FLOAT32_TOLERANCE = 1e-3

# The same for bfloat16.
BFLOAT16_TOLERANCE = 2e-2

# Yields (what is compared, largest difference relative to the largest value, tolerance).
Proof = Iterator[tuple[str, float, float]]


def prove(device: str, whole: bool, names: Sequence[str] = ()) -> list[str]:
    """Run the proofs and print their largest differences; returns the comparisons that failed.

    whole  prove each objective with every architecture that has its head, not with one
    names  of proofs to run; all if there are none
    """
    if unknown := set(names) - set(PROOFS):
        sys.exit(f"no such proof: {', '.join(unknown)}; choose from: {', '.join(PROOFS)}")
    failed = []
    for name, proof in PROOFS.items():
        if names and name not in names:
            continue
        started, worst, count = time.perf_counter(), 0.0, 0
        for what, difference, tolerance in _with_exceptions(proof, device, whole):
            count, worst = count + 1, max(worst, difference)
            if not difference <= tolerance:
                failed.append(f"{name}: {what}")
                print(f"  NOT EQUAL  {name}: {what}, difference {difference:.1e}", flush=True)
        print(
            f"{name}: {count} comparisons, largest difference {worst:.1e}, {time.perf_counter() - started:.0f} s",
            flush=True,
        )
    return failed


def _with_exceptions(proof: Callable[[str, bool], Proof], device: str, whole: bool) -> Proof:
    """The comparisons of a proof; an exception counts as one that failed."""
    try:
        yield from proof(device, whole)
    except Exception as error:  # the next proof runs all the same
        traceback.print_exc()
        yield f"{type(error).__name__}: {error}".splitlines()[0], float("inf"), 0.0


def _attention(device: str, whole: bool) -> Proof:
    """FlexAttention and blocks against the dense reference: values, and gradients except for FlexAttention on a CPU."""
    for seed, (window, cap, sinks, width) in enumerate(
        [(None, None, False, 64), (200, None, False, 64), (None, 3.0, False, 128), (9, 2.0, True, 8)]
    ):
        rng = random.Random(seed)
        torch.manual_seed(seed)
        rows = _rows(rng)
        tree, length = pad_tree(rows, FLEX_BLOCK).to(device), len(rows.tokens)
        shapes = [(heads, len(tree.tokens), width) for heads in (4, 2, 2)]
        tensors = [torch.randn(1, *shape, device=device, requires_grad=True) for shape in shapes]
        if sinks:
            tensors.append(torch.randn(4, device=device, requires_grad=True))
        options = AttentionOptions(0.2, window, cap, sinks=tensors[3] if sinks else None)
        results = []
        for layout in (DenseLayout(tree), FlexLayout(tree), BlockLayout(tree)):
            gradients = device != "cpu" or not isinstance(layout, FlexLayout)
            with torch.set_grad_enabled(gradients):
                out = layout.attend(*(tensors[:3] if gradients else [x.detach() for x in tensors[:3]]), options)
            # The outputs of padding are arbitrary.
            out = out[:, :length]
            weight = torch.linspace(-1, 1, out.numel(), device=device).view(out.shape)
            results.append([out, *(torch.autograd.grad((out * weight).sum(), tensors) if gradients else ())])
        parts = ("values", "∂query", "∂key", "∂value", "∂sinks")
        for name, result in (("Flex", results[1]), ("blocks", results[2])):
            for part, actual, expected in zip(parts, result, results[0], strict=False):
                case = f"{name}, window {window}, cap {cap}, sinks {sinks}, {part}"
                yield case, _difference(actual, expected), FLOAT32_TOLERANCE


def _flash(device: str, whole: bool) -> Proof:
    """FlashAttention over nodes in bfloat16 against the dense reference in float32, on the same numbers."""
    if device == "cpu":
        return
    for seed, (window, bidirectional, width) in enumerate(
        [(None, 0.0, 64), (50, 0.0, 128), (None, 1.0, 64), (20, 1.0, 16)]
    ):
        torch.manual_seed(seed)
        rows = _rows(random.Random(seed), bidirectional)
        tree, length = pad_tree(rows, FLEX_BLOCK).to(device), len(rows.tokens)
        shapes = [(heads, len(tree.tokens), width) for heads in (4, 2, 2)]
        halves = [torch.randn(1, *shape, device=device).bfloat16().requires_grad_() for shape in shapes]
        wides = [half.detach().float().requires_grad_() for half in halves]
        options, results = AttentionOptions(width**-0.5, window), []
        flash = FlashLayout(tree)
        yield f"supported, bidirectional {bidirectional}", float(not flash.supports(halves[0], halves[2], options)), 0.0
        for layout, tensors in ((DenseLayout(tree), wides), (flash, halves)):
            out = layout.attend(*tensors, options)
            weight = torch.linspace(-1, 1, out.numel(), device=device).view(out.shape)
            weight[:, length:] = 0
            results.append([out[:, :length], *torch.autograd.grad((out * weight).sum(), tensors)])
        for part, actual, expected in zip(("values", "∂query", "∂key", "∂value"), results[1], results[0], strict=True):
            case = f"window {window}, bidirectional {bidirectional}, width {width}, {part}"
            yield case, _difference(actual, expected), BFLOAT16_TOLERANCE


def _rows(rng: random.Random, bidirectional_fraction: float = 0.2) -> Batch:
    """Rows of different lengths, half of them with a common prefix, a fraction of them bidirectional."""
    import numpy as np

    def row(ids: Any, bidirectional: bool) -> Row:
        return Row(ids, np.arange(len(ids)), ids, np.ones(len(ids), np.float32), bidirectional)

    prefix = np.array([rng.randrange(50) for _ in range(rng.randint(100, 300))])
    rows = []
    for _ in range(12):
        ids = np.array([rng.randrange(50) for _ in range(rng.randint(1, 300))])
        rows.append(
            row(np.concatenate([prefix, ids]) if rng.random() < 0.5 else ids, rng.random() < bidirectional_fraction)
        )
    return pack([Example(str(index), (token_row,)) for index, token_row in enumerate(rows)])


def _dropout(device: str, whole: bool) -> Proof:
    """Attention dropout: gradients against those of autograd, with the same masks."""
    tree = pad_tree(_rows(random.Random(5)), FLEX_BLOCK).to(device)
    shapes = [(heads, len(tree.tokens), 16) for heads in (4, 2, 2)]
    torch.manual_seed(0)
    tensors = [torch.randn(1, *shape, device=device, requires_grad=True) for shape in shapes]
    results = []
    # With sinks, even of weight 0, the layout leaves the backward to autograd.
    for sinks in (None, torch.full((4,), -torch.inf, device=device)):
        torch.manual_seed(1)
        layout = BlockLayout(tree) if sinks is not None else make_layout(tree)
        out = layout.attend(*tensors, AttentionOptions(0.2, None, None, 0.4, sinks))
        results.append([out, *torch.autograd.grad(out.pow(2).sum(), tensors)])
    if device == "cpu":  # on an accelerator both draw their masks differently
        for actual, expected in zip(*results, strict=True):
            yield "dropout", _difference(actual, expected), FLOAT32_TOLERANCE
    else:
        dropped = float((results[0][0] == 0).float().mean())
        yield "dropout leaves some outputs", float(dropped > 0.5), 0.0
        torch.manual_seed(1)
        again = make_layout(tree).attend(*tensors, AttentionOptions(0.2, None, None, 0.4))
        yield "dropout repeats with the same seed", _difference(again, results[0][0]), 0.0


def _objectives(device: str, whole: bool) -> Proof:
    """Loss and gradients of every objective in float32 against float64 on the CPU."""
    one_case_each = {
        json.dumps([kind, options]): (kind, options, model) for kind, options, model in reversed(worlds.CASES)
    }
    cases = worlds.CASES if whole else [*reversed(one_case_each.values())]
    for kind, options, architecture in cases:
        world = worlds.world(kind, json.dumps(options), architecture)
        batch = world.complete(pack(world.examples, share=world.fit.packed), world.fit)
        expected_loss, expected = world.gradients([batch])
        moved = copy.copy(world)
        moved.model, moved.reference = (_to_float32(model, device) for model in (world.model, world.reference))
        loss, gradients = _packed_on(
            device, lambda moved=moved, batch=batch: moved.gradients([_batch_to_float32(batch).to(device)])
        )
        worlds.world.cache_clear()
        largest = max(float(gradient.abs().max()) for gradient in expected.values())
        difference = max(float((expected[name] - gradients[name].cpu()).abs().max()) / largest for name in expected)
        loss_difference = abs(expected_loss - loss) / max(abs(expected_loss), 1e-6)
        yield f"{kind} {options} with {architecture}", max(difference, loss_difference), FLOAT32_TOLERANCE


def _to_float32(model: Any, device: str) -> Any:
    return model.to(device=device, dtype=torch.float32)


def _batch_to_float32(batch: Batch) -> Batch:
    """The batch with its floating-point columns in float32."""
    columns = {k: v.float() if v.is_floating_point() else v for k, v in batch.columns.items()}
    return batch.with_columns(**columns)


def _packed_on(device: str, run: Callable[[], Any]) -> Any:
    """Call `run` while `worlds.pack` moves its batches to the device; a world packs on the CPU otherwise."""
    original = worlds.pack
    try:
        worlds.pack = lambda *arguments, **options: original(*arguments, **options).to(device)
        return run()
    finally:
        worlds.pack = original


def _optimizers(device: str, whole: bool) -> Proof:
    """A few updates of each optimizer in float32 against float64 on the CPU."""
    for name in ("adamw", "muon"):
        results = []
        for on, dtype in (("cpu", torch.float64), (device, torch.float32)):
            torch.manual_seed(0)
            parts = [torch.nn.Embedding(400, 200), torch.nn.Linear(200, 40)]
            model = torch.nn.Sequential(*parts).to(device=on, dtype=dtype)
            optimizer = Optimizer(model, Optim(optimizer=name, steps=1, weight_decay=0.1, clip=0.5), ["0.weight"])
            for step in range(4):
                ids = (torch.arange(30, device=on) * (step + 3)) % 400
                model(ids).pow(2).sum().backward()
                optimizer.step(1e-2, optimizer.norm())
            results.append([weight.detach().cpu().double() for weight in model.parameters()])
        for expected, actual in zip(*results, strict=True):
            # Muon orthogonalizes in bfloat16, whatever the dtype of the weights.
            yield name, _difference(actual, expected), BFLOAT16_TOLERANCE if name == "muon" else FLOAT32_TOLERANCE


def _quantized(device: str, whole: bool) -> Proof:
    """Layers quantized on the CPU: dequantized weights, products and gradients on the device against the CPU."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(256, 384).bfloat16()
    x, g = torch.randn(70, 256).bfloat16(), torch.randn(70, 384).bfloat16()
    for name, linear_class in LINEAR_CLASSES.items():
        results = []
        quantized = linear_class(layer)
        for on in ("cpu", device):
            quantized, input = quantized.to(on), x.detach().to(on).requires_grad_()
            out = quantized(input)
            (gradient,) = torch.autograd.grad(out, input, g.to(on))
            results.append([tensor.detach().cpu() for tensor in (quantized.weight, out, gradient)])
        for what, actual, expected in zip(("weight", "values", "∂x"), *results[::-1], strict=True):
            yield f"{name}, {what}", _difference(actual, expected), 0.0 if what == "weight" else BFLOAT16_TOLERANCE


def _offloaded(device: str, whole: bool) -> Proof:
    """Gradients with activation offload against gradients without."""
    world = copy.copy(worlds.world("sft", "{}", "llama"))
    world.model = _to_float32(world.model, device)
    batch = _batch_to_float32(pack(world.examples)).to(device)
    gradients = []
    for min_bytes in (None, 0):
        world.model.zero_grad()
        scorer = world.scorer()
        with nullcontext() if min_bytes is None else Offload(scorer, min_bytes=min_bytes):
            scores = scorer(batch, world.objective.outputs)
        world.objective.loss(scores, batch).total(count_units([batch])).backward()
        gradients.append({name: weight.grad.clone() for name, weight in world.model.named_parameters()})
    worlds.world.cache_clear()
    differences = (_difference(gradients[1][name], plain) for name, plain in gradients[0].items() if plain.any())
    yield "gradients", max(differences), 0.0


def _resumed(device: str, whole: bool) -> Proof:
    """Interrupted runs write the same files as uninterrupted ones, bit for bit.

    They resume in a process of their own, without compiled kernels and with another order of lengths.
    """
    lora = {"rank": 4, "dropout": 0.1}
    for kind, model, adapter in (
        ("sft", "llama", None),
        ("dpo", "llama", lora),
        ("sft", "gpt2", lora),
        ("sft", "bloom", None),
        ("grpo", "llama", lora),
    ):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            dropout = {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1} if model == "gpt2" else {}
            base = make_model(folder / "base", model, **dropout)
            options = {"kind": kind, **worlds.OPTIONS[kind][0]}
            objective = objectives.build_objective(options)
            lines = [_line(record) for record in worlds.records(objective, 31)]
            (folder / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
            recipe = bottega.Recipe.parse(
                {
                    "model": {"base": str(base), "dtype": "bfloat16"},
                    "adapter": adapter,
                    "data": {"train": str(folder / "rows.jsonl"), "validation": 0.2},
                    "objective": options,
                    "optim": {"steps": 7, "examples": 9, "tokens": 300, "lr": 1e-2},
                    "evaluate": {"every": 3},
                    "save": {"every": 2, "keep": 2},
                    "devices": {"device": device},
                }
            )
            for event in bottega.train(recipe, folder / "whole"):
                if event.type == "stepped" and event.step == 5:
                    shutil.copytree(folder / "whole", folder / "cut")
            paths = {"TORCHINDUCTOR_CACHE_DIR": str(folder / "kernels"), "PYTHONPATH": os.pathsep.join(sys.path)}
            command = [sys.executable, "-m", "bottega", "train", "--resume", str(folder / "cut")]
            subprocess.run(command, check=True, capture_output=True, env=os.environ | paths)
            sums = [
                {str(file.relative_to(run)): checksum(file) for file in sorted(run.rglob("*.safetensors"))}
                for run in (folder / "whole", folder / "cut")
            ]
            yield f"{kind}, {model}, {'LoRA' if adapter else 'full fine-tuning'}", float(sums[0] != sums[1]), 0.0


def _line(record: Any) -> str:
    """A line of JSON that is parsed as this record."""
    messages = getattr(record, "messages", None) or record.prompt
    prompt = [{"role": message.role, "content": message.content} for message in messages]
    if hasattr(record, "chosen"):
        return json.dumps({"prompt": prompt, "chosen": record.chosen, "rejected": record.rejected})
    if hasattr(record, "right"):
        return json.dumps({"prompt": prompt, "answer": record.right})
    return json.dumps({"messages": prompt})


def _generation(device: str, whole: bool) -> Proof:
    """Generated tokens against the CPU's: one continuation per prompt, and several that end at different lengths."""
    with tempfile.TemporaryDirectory() as name:
        base = make_model(Path(name, "base"), "llama")
        prompts = ["the cat", "the dog sat on the mat and then", "the dog sat on the mat and so"]
        modes = {
            "greedy": (Sampling(tokens=12, temperature=0.0), 1),
            "sampled": (Sampling(tokens=80, temperature=1.0, stop=("e",)), 5),
        }
        for mode, (settings, continuations) in modes.items():
            tokens = []
            for on in ("cpu", device):
                model = bottega.load(base, device=on, dtype="float32")
                with _created_steps() as steps:
                    results = model.generate(prompts, settings, continuations=continuations)
                tokens.append([continuation.tokens for group in results for continuation in group])
            yield f"{mode} continuations", float(tokens[0] != tokens[1]), 0.0
        if device != "cpu":
            yield "decoding steps are replayed", float(not any(step.replays for step in steps)), 0.0


@contextmanager
def _created_steps() -> Iterator[list[Any]]:
    """The list of every `CapturedStep` that is created inside."""
    steps, original = list[Any](), decoding.CapturedStep

    def create(*arguments: Any, **options: Any) -> Any:
        steps.append(original(*arguments, **options))
        return steps[-1]

    decoding.CapturedStep = create
    try:
        yield steps
    finally:
        decoding.CapturedStep = original


def _difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, relative to the largest expected value; infinite if it is NaN."""
    actual, expected = actual.detach().double(), expected.detach().double()
    difference = float((actual - expected).abs().max() / expected.abs().max())
    return float("inf") if math.isnan(difference) else difference


PROOFS: dict[str, Callable[[str, bool], Proof]] = {
    "attention": _attention,
    "attention in bfloat16": _flash,
    "attention dropout": _dropout,
    "optimizers": _optimizers,
    "quantized layers": _quantized,
    "activation offload": _offloaded,
    "resumed = uninterrupted": _resumed,
    "generation": _generation,
    "loss and gradients of the objectives": _objectives,
}
