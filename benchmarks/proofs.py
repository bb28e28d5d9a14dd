"""What must be equal on an accelerator before anything is measured on it.

Attention against its definition, every objective's loss and gradients against the CPU's in float64, and runs that were
interrupted against runs that were not. The worlds are those that objectives are tested in.
"""

from __future__ import annotations

import copy
import json
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

# As a session asks; the matrix library reads it once.
os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"

sys.path.append(str(Path(__file__).parent.parent / "tests"))
sys.path.append(str(Path(__file__).parent.parent / "tests" / "objectives"))

import worlds

import bottega
from bottega import objectives
from bottega.batch import Batch, Example, Row, count_units
from bottega.engine.offload import Offload
from bottega.engine.optimizer import Optimizer
from bottega.inference import generator
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

# Largest difference, in parts of the largest number, taken for float32's rounding; a fault shows as 1e-2 or more.
CLOSE = 1e-3

# The same for bfloat16's.
HALF = 2e-2

# (what was compared, how far it was off in parts of its largest number, how far it may be).
Proof = Iterator[tuple[str, float, float]]


def prove(device: str, whole: bool, names: Sequence[str] = ()) -> list[str]:
    """Print what is equal on the device and how nearly; returns what is not.

    whole  every objective with every architecture that has its head, not with one
    names  of the proofs that are wanted; none for all
    """
    if unknown := set(names) - set(PROOFS):
        sys.exit(f"no proof {', '.join(unknown)}; there are: {', '.join(PROOFS)}")
    failed = []
    for name, proof in PROOFS.items():
        if names and name not in names:
            continue
        started, worst, count = time.perf_counter(), 0.0, 0
        for what, off, most in _guarded(proof, device, whole):
            count, worst = count + 1, max(worst, off)
            if not off <= most:
                failed.append(f"{name}: {what}")
                print(f"  NOT EQUAL  {name}: {what}, off by {off:.1e}", flush=True)
        print(
            f"{name}: {count} compared, off by {worst:.1e} at most, {time.perf_counter() - started:.0f} s", flush=True
        )
    return failed


def _guarded(proof: Callable[[str, bool], Proof], device: str, whole: bool) -> Proof:
    """The proof's findings; what it raises is one that failed."""
    try:
        yield from proof(device, whole)
    except Exception as error:  # the next proof is to be tried all the same
        traceback.print_exc()
        yield f"{type(error).__name__}: {error}".splitlines()[0], float("inf"), 0.0


def _attention(device: str, whole: bool) -> Proof:
    """FlexAttention against the definition, values and gradients; on a CPU it has no gradients."""
    for seed, (window, cap, sinks, width) in enumerate(
        [(None, None, False, 64), (200, None, False, 64), (None, 3.0, False, 128), (9, 2.0, True, 8)]
    ):
        draw = random.Random(seed)
        torch.manual_seed(seed)
        rows = _rows(draw)
        made, real = pad_tree(rows, FLEX_BLOCK).to(device), len(rows.tokens)
        shapes = [(heads, len(made.tokens), width) for heads in (4, 2, 2)]
        tensors = [torch.randn(1, *shape, device=device, requires_grad=True) for shape in shapes]
        if sinks:
            tensors.append(torch.randn(4, device=device, requires_grad=True))
        style = AttentionOptions(0.2, window, cap, sinks=tensors[3] if sinks else None)
        found = []
        for layout in (DenseLayout(made), FlexLayout(made), BlockLayout(made)):
            gradients = device != "cpu" or not isinstance(layout, FlexLayout)
            with torch.set_grad_enabled(gradients):
                out = layout.attend(*(tensors[:3] if gradients else [x.detach() for x in tensors[:3]]), style)
            # What padding gives is nobody's concern.
            out = out[:, :real]
            weight = torch.linspace(-1, 1, out.numel(), device=device).view(out.shape)
            found.append([out, *(torch.autograd.grad((out * weight).sum(), tensors) if gradients else ())])
        for name, other in (("Flex", found[1]), ("blocks", found[2])):
            for place, (one, two) in enumerate(zip(other, found[0], strict=False)):
                part = ("values", "∂query", "∂key", "∂value", "∂sinks")[place]
                yield f"{name}, window {window}, cap {cap}, sinks {sinks}, {part}", _off(one, two), CLOSE


def _flash(device: str, whole: bool) -> Proof:
    """FlashAttention over the nodes in bfloat16 against the definition in float32, of the same numbers."""
    if device == "cpu":
        return
    for seed, (window, both, width) in enumerate([(None, 0.0, 64), (50, 0.0, 128), (None, 1.0, 64), (20, 1.0, 16)]):
        torch.manual_seed(seed)
        rows = _rows(random.Random(seed), both)
        made, real = pad_tree(rows, FLEX_BLOCK).to(device), len(rows.tokens)
        shapes = [(heads, len(made.tokens), width) for heads in (4, 2, 2)]
        halves = [torch.randn(1, *shape, device=device).bfloat16().requires_grad_() for shape in shapes]
        wides = [half.detach().float().requires_grad_() for half in halves]
        style, found = AttentionOptions(width**-0.5, window), []
        flash = FlashLayout(made)
        yield f"taken, both ways {both}", float(not flash.supports(halves[0], halves[2], style)), 0.0
        for layout, tensors in ((DenseLayout(made), wides), (flash, halves)):
            out = layout.attend(*tensors, style)
            weight = torch.linspace(-1, 1, out.numel(), device=device).view(out.shape)
            weight[:, real:] = 0
            found.append([out[:, :real], *torch.autograd.grad((out * weight).sum(), tensors)])
        for place, (one, two) in enumerate(zip(found[1], found[0], strict=True)):
            part = ("values", "∂query", "∂key", "∂value")[place]
            yield f"window {window}, both ways {both}, width {width}, {part}", _off(one, two), HALF


def _rows(draw: random.Random, both_ways: float = 0.2) -> Batch:
    """Long and short rows, some with what others begin with, some read both ways."""
    import numpy as np

    def row(ids: Any, both: bool) -> Row:
        return Row(ids, np.arange(len(ids)), ids, np.ones(len(ids), np.float32), both)

    start = np.array([draw.randrange(50) for _ in range(draw.randint(100, 300))])
    rows = []
    for _ in range(12):
        ids = np.array([draw.randrange(50) for _ in range(draw.randint(1, 300))])
        rows.append(row(np.concatenate([start, ids]) if draw.random() < 0.5 else ids, draw.random() < both_ways))
    return pack([Example(str(number), (one,)) for number, one in enumerate(rows)])


def _dropout(device: str, whole: bool) -> Proof:
    """Attention dropout: the gradients beside autograd's own, of the same draws."""
    made = pad_tree(_rows(random.Random(5)), FLEX_BLOCK).to(device)
    shapes = [(heads, len(made.tokens), 16) for heads in (4, 2, 2)]
    torch.manual_seed(0)
    tensors = [torch.randn(1, *shape, device=device, requires_grad=True) for shape in shapes]
    found = []
    # Sinks of no weight make it take autograd's way.
    for sinks in (None, torch.full((4,), -torch.inf, device=device)):
        torch.manual_seed(1)
        layout = BlockLayout(made) if sinks is not None else make_layout(made)
        out = layout.attend(*tensors, AttentionOptions(0.2, None, None, 0.4, sinks))
        found.append([out, *torch.autograd.grad(out.pow(2).sum(), tensors)])
    if device == "cpu":  # on an accelerator autograd's way draws by a kernel of its own
        for one, other in zip(*found, strict=True):
            yield "dropout", _off(one, other), CLOSE
    else:
        share = float((found[0][0] == 0).float().mean())
        yield "dropout leaves something", float(share > 0.5), 0.0
        torch.manual_seed(1)
        again = make_layout(made).attend(*tensors, AttentionOptions(0.2, None, None, 0.4))
        yield "dropout is the same again", _off(again, found[0][0]), 0.0


def _objectives(device: str, whole: bool) -> Proof:
    """Loss and gradients of every objective in float32 against float64 on the CPU."""
    one_each = {json.dumps([kind, options]): (kind, options, model) for kind, options, model in reversed(worlds.CASES)}
    cases = worlds.CASES if whole else [*reversed(one_each.values())]
    for kind, options, model in cases:
        made = worlds.world(kind, json.dumps(options), model)
        batch = made.complete(pack(made.examples, share=made.fit.packed), made.fit)
        loss, gradients = made.gradients([batch])
        moved = copy.copy(made)
        moved.model, moved.reference = (_moved(one, device) for one in (made.model, made.reference))
        there, found = _on(device, lambda moved=moved, batch=batch: moved.gradients([_singled(batch).to(device)]))
        worlds.world.cache_clear()
        size = max(float(gradient.abs().max()) for gradient in gradients.values())
        off = max(float((gradients[name] - found[name].cpu()).abs().max()) / size for name in gradients)
        yield f"{kind} {options} of {model}", max(off, abs(loss - there) / max(abs(loss), 1e-6)), CLOSE


def _moved(model: Any, device: str) -> Any:
    return model.to(device=device, dtype=torch.float32)


def _singled(batch: Batch) -> Batch:
    """The batch with its floating point columns in float32."""
    columns = {k: v.float() if v.is_floating_point() else v for k, v in batch.columns.items()}
    return batch.with_columns(**columns)


def _on(device: str, run: Callable[[], Any]) -> Any:
    """What `run` gives, its new tensors on the device (probes are packed on the CPU)."""
    whole = worlds.pack
    try:
        worlds.pack = lambda *arguments, **options: whole(*arguments, **options).to(device)
        return run()
    finally:
        worlds.pack = whole


def _optimizers(device: str, whole: bool) -> Proof:
    """A few updates of each optimiser in float32 against float64 on the CPU."""
    for name in ("adamw", "muon"):
        found = []
        for on, dtype in (("cpu", torch.float64), (device, torch.float32)):
            torch.manual_seed(0)
            parts = [torch.nn.Embedding(400, 200), torch.nn.Linear(200, 40)]
            model = torch.nn.Sequential(*parts).to(device=on, dtype=dtype)
            optimizer = Optimizer(model, Optim(optimizer=name, steps=1, weight_decay=0.1, clip=0.5), ["0.weight"])
            for step in range(4):
                ids = (torch.arange(30, device=on) * (step + 3)) % 400
                model(ids).pow(2).sum().backward()
                optimizer.step(1e-2, optimizer.norm())
            found.append([weight.detach().cpu().double() for weight in model.parameters()])
        for one, other in zip(*found, strict=True):
            # Muon's products are in bfloat16 by its own rule.
            yield name, _off(one, other), HALF if name == "muon" else CLOSE


def _quantized(device: str, whole: bool) -> Proof:
    """Layers in 4 and 8 bits, packed on the CPU: what they unpack to, their products and gradients there and here."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(256, 384).bfloat16()
    x, g = torch.randn(70, 256).bfloat16(), torch.randn(70, 384).bfloat16()
    for name, kind in LINEAR_CLASSES.items():
        found = []
        packed = kind(layer)
        for on in ("cpu", device):
            packed, at = packed.to(on), x.detach().to(on).requires_grad_()
            out = packed(at)
            (gradient,) = torch.autograd.grad(out, at, g.to(on))
            found.append([part.detach().cpu() for part in (packed.weight, out, gradient)])
        for what, one, other in zip(("weight", "values", "∂x"), *found[::-1], strict=True):
            yield f"{name}, {what}", _off(one, other), 0.0 if what == "weight" else HALF


def _offloaded(device: str, whole: bool) -> Proof:
    """Gradients with what the forward keeps sent to the host and back, and without."""
    made = copy.copy(worlds.world("sft", "{}", "llama"))
    made.model = _moved(made.model, device)
    batch = _singled(pack(made.examples)).to(device)
    found = []
    for least in (None, 0):
        made.model.zero_grad()
        scorer = made.scorer()
        with nullcontext() if least is None else Offload(scorer, min_bytes=least):
            scores = scorer(batch, made.objective.outputs)
        made.objective.loss(scores, batch).total(count_units([batch])).backward()
        found.append({name: weight.grad.clone() for name, weight in made.model.named_parameters()})
    worlds.world.cache_clear()
    yield "gradients", max(_off(found[1][name], one) for name, one in found[0].items() if one.any()), 0.0


def _resumed(device: str, whole: bool) -> Proof:
    """Runs that were interrupted end in the files of runs that were not, bit for bit.

    They are resumed in a process of their own, that finds no kernels compiled before and meets other lengths first.
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
            drops = {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1} if model == "gpt2" else {}
            base = make_model(folder / "base", model, **drops)
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
            yield f"{kind}, {model}, {'LoRA' if adapter else 'every weight'}", float(sums[0] != sums[1]), 0.0


def _line(record: Any) -> str:
    """The line of a file that reads back as this record."""
    messages = getattr(record, "messages", None) or record.prompt
    said = [{"role": one.role, "content": one.content} for one in messages]
    if hasattr(record, "chosen"):
        return json.dumps({"prompt": said, "chosen": record.chosen, "rejected": record.rejected})
    if hasattr(record, "right"):
        return json.dumps({"prompt": said, "answer": record.right})
    return json.dumps({"messages": said})


def _writing(device: str, whole: bool) -> Proof:
    """What a model writes, token for token, against the CPU: alone, and many rows that end at different times."""
    with tempfile.TemporaryDirectory() as name:
        base = make_model(Path(name, "base"), "llama")
        prompts = ["the cat", "the dog sat on the mat and then", "the dog sat on the mat and so"]
        ways = {
            "greedy": (Sampling(tokens=12, temperature=0.0), 1),
            "drawn": (Sampling(tokens=80, temperature=1.0, stop=("e",)), 5),
        }
        for way, (settings, continuations) in ways.items():
            said = []
            for on in ("cpu", device):
                model = bottega.load(base, device=on, dtype="float32")
                with _recorded() as made:
                    found = model.generate(prompts, settings, continuations=continuations)
                said.append([one.tokens for group in found for one in group])
            yield f"{way} continuations", float(said[0] != said[1]), 0.0
        if device != "cpu":
            yield "steps are played", float(not any(one.played for one in made)), 0.0


@contextmanager
def _recorded() -> Iterator[list[Any]]:
    """Every `Recorded` that is made inside."""
    made, whole = list[Any](), generator.Recorded

    def noted(*arguments: Any, **options: Any) -> Any:
        made.append(whole(*arguments, **options))
        return made[-1]

    generator.Recorded = noted
    try:
        yield made
    finally:
        generator.Recorded = whole


def _off(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference in parts of the largest number; infinite where one is no number."""
    gap = float((one.detach().double() - other.detach().double()).abs().max() / other.detach().abs().max())
    return gap if gap == gap else float("inf")


PROOFS: dict[str, Callable[[str, bool], Proof]] = {
    "attention": _attention,
    "attention in bfloat16": _flash,
    "attention dropout": _dropout,
    "optimisers": _optimizers,
    "quantised layers": _quantized,
    "activations sent away": _offloaded,
    "resumed = uninterrupted": _resumed,
    "writing": _writing,
    "loss and gradients of the objectives": _objectives,
}
