"""Plain PyTorch pre-training, to measure against: a model on one page and the loop everybody writes.

    reference.py FOLDER --steps N [--gpt SETTINGS | --shape NAME] [--compile] [--until LOSS]

`--gpt` is nanoGPT's model at its settings for tinyshakespeare, which stops at a validation loss of `--until`: those for
a CPU (4 layers of 128, 4 heads, context 64, 12 rows an update, float32), or for a GPU (6 layers of 384, 6 heads,
context 256, 64 rows an update, dropout of a fifth, bfloat16 autocast), both with AdamW at 1e-3, 100 updates of warm-up,
and a cosine to a tenth. `--shape` is a Llama of that shape under bfloat16 autocast over rows of random tokens.
Attention is PyTorch's own, AdamW is fused.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from common import report
from torch import Tensor, nn

sys.path.append(str(Path(__file__).parent.parent))
from workloads import SHAPES, VOCABULARY


@dataclass
class Shape:
    vocabulary: int
    context: int
    width: int = 128
    layers: int = 4
    heads: int = 4
    groups: int = 4
    inner: int = 512
    llama: bool = False
    dropout: float = 0.0


# nanoGPT's context, rows of an update, and what else is in its shape.
SETTINGS = {
    "cpu": (64, 12, {}),
    "gpu": (256, 64, {"width": 384, "layers": 6, "heads": 6, "groups": 6, "inner": 1536, "dropout": 0.2}),
}


class Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape, self.head = shape, shape.width // shape.heads
        norm = nn.RMSNorm if shape.llama else lambda width: nn.LayerNorm(width, bias=False)
        self.one, self.two = norm(shape.width), norm(shape.width)
        self.qkv = nn.Linear(shape.width, (shape.heads + 2 * shape.groups) * self.head, bias=False)
        self.out = nn.Linear(shape.width, shape.width, bias=False)
        self.up = nn.Linear(shape.width, shape.inner * (2 if shape.llama else 1), bias=False)
        self.down = nn.Linear(shape.inner, shape.width, bias=False)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        rows, length, _ = x.shape
        sizes = [count * self.head for count in (self.shape.heads, self.shape.groups, self.shape.groups)]
        q, k, v = (
            part.view(rows, length, -1, self.head).transpose(1, 2) for part in self.qkv(self.one(x)).split(sizes, -1)
        )
        if self.shape.llama:
            q, k = rotated(q, *rotation), rotated(k, *rotation)
        grouped = self.shape.groups != self.shape.heads
        share = self.shape.dropout if self.training else 0.0
        seen = F.scaled_dot_product_attention(q, k, v, dropout_p=share, is_causal=True, enable_gqa=grouped)
        x = x + F.dropout(self.out(seen.transpose(1, 2).reshape(rows, length, -1)), share)
        up = self.up(self.two(x))
        if self.shape.llama:
            gate, up = up.chunk(2, -1)
            return x + self.down(F.silu(gate) * up)
        return x + F.dropout(self.down(F.gelu(up)), share)


def rotated(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    one, two = x.chunk(2, -1)
    return torch.cat([one * cosine - two * sine, two * cosine + one * sine], -1)


class Model(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.places = None if shape.llama else nn.Embedding(shape.context, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width) if shape.llama else nn.LayerNorm(shape.width, bias=False)
        head = shape.width // shape.heads
        angle = torch.arange(shape.context)[:, None] / 10000 ** (torch.arange(0, head, 2) / head)
        self.rotation = angle.cos(), angle.sin()
        for name, weight in self.named_parameters():
            if weight.dim() > 1:
                ends = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * shape.layers) if ends else 0.02)

    def forward(self, ids: Tensor, wanted: Tensor) -> Tensor:
        x = self.tokens(ids)
        x = x if self.places is None else x + self.places.weight
        x = F.dropout(x, self.shape.dropout, self.training)
        for block in self.blocks:
            x = block(x, self.rotation)
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1).float(), wanted.flatten())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--gpt", choices=SETTINGS)
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--until", type=float, default=0.0)
    options = parser.parse_args()
    torch.manual_seed(0)
    seconds, loss = shakespeare(options) if options.gpt else tokens(options)
    report(seconds, loss=loss, steps=len(seconds))


def shakespeare(options: argparse.Namespace) -> tuple[list[float], float]:
    """Seconds of each update until the validation loss is reached, and that loss."""
    text = (options.folder / "input.txt").read_text(encoding="utf-8")
    letters = {letter: index for index, letter in enumerate(sorted(set(text)))}
    ids = torch.tensor([letters[letter] for letter in text])
    context, count, more = SETTINGS[options.gpt]
    device = "cuda" if options.gpt == "gpu" and torch.cuda.is_available() else "cpu"
    model = Model(Shape(len(letters), context, **more)).to(device)
    ids = ids.to(device)
    half = torch.autocast(device, torch.bfloat16, enabled=options.gpt == "gpu")
    step = compiled(model) if options.compile else model
    train, held_out = ids[: int(0.9 * len(ids))], ids[int(0.9 * len(ids)) :]
    matrices = [weight for weight in model.parameters() if weight.dim() > 1]
    others = [weight for weight in model.parameters() if weight.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=True)
    seconds: list[float] = []
    loss = math.inf
    for number in range(1, options.steps + 1):
        started = time.perf_counter()
        rate = 1e-3 * number / 100
        if number > 100:
            share = (number - 100) / (options.steps - 100)
            rate = 1e-4 + 0.5 * (1 + math.cos(math.pi * share)) * 9e-4
        for group in optimizer.param_groups:
            group["lr"] = rate
        starts = torch.randint(len(train) - context, (count, 1), device=device)
        rows = train[starts + torch.arange(context + 1, device=device)]
        optimizer.zero_grad()
        with half:
            result = step(rows[:, :-1], rows[:, 1:])
        result.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        if number % 250 == 0 or number == options.steps:
            with half:
                loss = validated(model, held_out, context)
            if loss <= options.until:
                break
    return seconds, loss


@torch.no_grad()
def validated(model: Model, ids: Tensor, context: int) -> float:
    """Mean loss over all blocks of the context."""
    model.eval()
    blocks = ids[: (len(ids) - 1) // context * context + 1]
    rows, wanted = blocks[:-1].view(-1, context), blocks[1:].view(-1, context)
    losses = [
        model(rows[at : at + 128], wanted[at : at + 128]) * len(rows[at : at + 128]) for at in range(0, len(rows), 128)
    ]
    model.train()
    return float(sum(losses)) / len(rows)


def tokens(options: argparse.Namespace) -> tuple[list[float], float]:
    """Seconds of each update over rows of 512 random tokens, 8 an update."""
    known = SHAPES[options.shape]
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
    model = Model(Shape(VOCABULARY, 512, *(known[name] for name in names), llama=True))
    step = compiled(model) if options.compile else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    seconds: list[float] = []
    loss = math.inf
    for _ in range(options.steps):
        rows = torch.randint(VOCABULARY, (8, 513))
        started = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            result = step(rows[:, :-1], rows[:, 1:])
        result.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seconds.append(time.perf_counter() - started)
        loss = float(result.detach())
    return seconds, loss


def compiled(model: Model) -> nn.Module:
    return torch.compile(model)


if __name__ == "__main__":
    main()
