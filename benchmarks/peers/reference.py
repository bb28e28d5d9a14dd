"""Plain PyTorch pre-training as a reference: a model on one page and an ordinary training loop.

    reference.py FOLDER --steps N [--gpt SETTINGS | --shape NAME] [--compile] [--until LOSS]

`--gpt` trains nanoGPT's model at its settings for tinyshakespeare, until a validation loss of `--until`. The settings
for a CPU are 4 layers of width 128, 4 heads, context 64, 12 rows per update, float32; those for a GPU 6 layers of width
384, 6 heads, context 256, 64 rows per update, dropout 0.2, bfloat16 autocast. Both use AdamW at 1e-3, 100 updates of
warmup, and a cosine schedule down to a tenth. `--shape` trains a Llama of that shape on rows of random tokens, under
bfloat16 autocast unless `--dtype float32`. Attention is PyTorch's own, and AdamW is fused.
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


# nanoGPT's settings: (context, rows per update, other fields of the shape).
SETTINGS = {
    "cpu": (64, 12, {}),
    "gpu": (256, 64, {"width": 384, "layers": 6, "heads": 6, "groups": 6, "inner": 1536, "dropout": 0.2}),
}


class Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape, self.head = shape, shape.width // shape.heads
        norm = nn.RMSNorm if shape.llama else lambda width: nn.LayerNorm(width, bias=False)
        self.attention_norm, self.mlp_norm = norm(shape.width), norm(shape.width)
        self.qkv = nn.Linear(shape.width, (shape.heads + 2 * shape.groups) * self.head, bias=False)
        self.out = nn.Linear(shape.width, shape.width, bias=False)
        self.up = nn.Linear(shape.width, shape.inner * (2 if shape.llama else 1), bias=False)
        self.down = nn.Linear(shape.inner, shape.width, bias=False)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        rows, length, _ = x.shape
        sizes = [count * self.head for count in (self.shape.heads, self.shape.groups, self.shape.groups)]
        q, k, v = (
            part.view(rows, length, -1, self.head).transpose(1, 2)
            for part in self.qkv(self.attention_norm(x)).split(sizes, -1)
        )
        if self.shape.llama:
            q, k = rotate(q, *rotation), rotate(k, *rotation)
        grouped = self.shape.groups != self.shape.heads
        dropout = self.shape.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, enable_gqa=grouped)
        x = x + F.dropout(self.out(attended.transpose(1, 2).reshape(rows, length, -1)), dropout)
        up = self.up(self.mlp_norm(x))
        if self.shape.llama:
            gate, up = up.chunk(2, -1)
            return x + self.down(F.silu(gate) * up)
        return x + F.dropout(self.down(F.gelu(up)), dropout)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)


class Model(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.positions = None if shape.llama else nn.Embedding(shape.context, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width) if shape.llama else nn.LayerNorm(shape.width, bias=False)
        head = shape.width // shape.heads
        angle = torch.arange(shape.context)[:, None] / 10000 ** (torch.arange(0, head, 2) / head)
        self.rotation = angle.cos(), angle.sin()
        for name, weight in self.named_parameters():
            if weight.dim() > 1:
                is_output = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * shape.layers) if is_output else 0.02)

    def forward(self, ids: Tensor, labels: Tensor) -> Tensor:
        x = self.tokens(ids)
        x = x if self.positions is None else x + self.positions.weight
        x = F.dropout(x, self.shape.dropout, self.training)
        for block in self.blocks:
            x = block(x, self.rotation)
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--gpt", choices=SETTINGS)
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16", help="of --shape")
    parser.add_argument("--until", type=float, default=0.0)
    options = parser.parse_args()
    torch.manual_seed(0)
    seconds, loss = train_on_shakespeare(options) if options.gpt else train_on_random_tokens(options)
    report(seconds, loss=loss, steps=len(seconds))


def train_on_shakespeare(options: argparse.Namespace) -> tuple[list[float], float]:
    """(seconds of each update until the validation loss is reached, that loss)."""
    text = (options.folder / "input.txt").read_text(encoding="utf-8")
    characters = {character: index for index, character in enumerate(sorted(set(text)))}
    ids = torch.tensor([characters[character] for character in text])
    context, count, fields = SETTINGS[options.gpt]
    device = "cuda" if options.gpt == "gpu" and torch.cuda.is_available() else "cpu"
    model = Model(Shape(len(characters), context, **fields)).to(device)
    ids = ids.to(device)
    autocast = torch.autocast(device, torch.bfloat16, enabled=options.gpt == "gpu")
    step = compile_model(model) if options.compile else model
    train, held_out = ids[: int(0.9 * len(ids))], ids[int(0.9 * len(ids)) :]
    matrices = [weight for weight in model.parameters() if weight.dim() > 1]
    others = [weight for weight in model.parameters() if weight.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=True)
    seconds: list[float] = []
    loss = math.inf
    for update in range(1, options.steps + 1):
        started = time.perf_counter()
        lr = 1e-3 * update / 100
        if update > 100:
            progress = (update - 100) / (options.steps - 100)
            lr = 1e-4 + 0.5 * (1 + math.cos(math.pi * progress)) * 9e-4
        for group in optimizer.param_groups:
            group["lr"] = lr
        starts = torch.randint(len(train) - context, (count, 1), device=device)
        rows = train[starts + torch.arange(context + 1, device=device)]
        optimizer.zero_grad()
        with autocast:
            result = step(rows[:, :-1], rows[:, 1:])
        result.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        if update % 250 == 0 or update == options.steps:
            with autocast:
                loss = validation_loss(model, held_out, context)
            if loss <= options.until:
                break
    return seconds, loss


@torch.no_grad()
def validation_loss(model: Model, ids: Tensor, context: int) -> float:
    """The mean loss over all blocks of one context length."""
    model.eval()
    blocks = ids[: (len(ids) - 1) // context * context + 1]
    rows, labels = blocks[:-1].view(-1, context), blocks[1:].view(-1, context)
    losses = [
        model(rows[start : start + 128], labels[start : start + 128]) * len(rows[start : start + 128])
        for start in range(0, len(rows), 128)
    ]
    model.train()
    return float(sum(losses)) / len(rows)


def train_on_random_tokens(options: argparse.Namespace) -> tuple[list[float], float]:
    """(seconds of each update on 8 rows of 512 random tokens, last loss)."""
    shape = SHAPES[options.shape]
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
    model = Model(Shape(VOCABULARY, 512, *(shape[name] for name in names), llama=True))
    step = compile_model(model) if options.compile else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    seconds: list[float] = []
    loss = math.inf
    for _ in range(options.steps):
        rows = torch.randint(VOCABULARY, (8, 513))
        started = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=options.dtype == "bfloat16"):
            result = step(rows[:, :-1], rows[:, 1:])
        result.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seconds.append(time.perf_counter() - started)
        loss = float(result.detach())
    return seconds, loss


def compile_model(model: Model) -> nn.Module:
    return torch.compile(model)


if __name__ == "__main__":
    main()
