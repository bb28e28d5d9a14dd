#!/usr/bin/env bash
# torch 2.13.0, CPU wheel, on an x86 processor with AVX2 and no AVX-512 (such as AMD's up to Zen 3).
#
# `torch.optim.Muon` orthogonalises in bfloat16 on every device. Where the processor does not multiply bfloat16, neither
# oneDNN nor MKL takes the product: torch falls back to loops of its own, which mostly run on one thread and take tens of
# times as long as float32. A float32 model that trains with Muon then spends more time in its optimiser than in its
# gradients, and nothing says so; profilers show it as `addmm` and `baddbmm`. The same five steps on the same matrix in
# float32 give the same update to three places.
#
# Seen 2026-11-28, two cores, matrices of 256 by 768: a step of Muon took 55 times as long as the same arithmetic in
# float32, and 11 times beside two busy programs.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy
cat > "$folder/look.py" <<'PYTHON'
import time
from statistics import median

import torch

has = torch.cpu.get_capabilities()
if has.get("architecture") != "x86_64" or has.get("avx512_f") or has.get("amx_bf16"):
    raise SystemExit("this processor is no x86 with AVX2 alone: nothing to see here")


def orthogonal(matrix, dtype):
    """Five Newton-Schulz steps (Jordan et al. 2024)."""
    x = matrix.to(dtype)
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=-4.775, alpha=2.0315), x, beta=3.4445)
    return x.float()


def seconds(work):
    spent = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        spent.append(time.perf_counter() - start)
    return median(spent)


torch.manual_seed(0)
weights = [torch.nn.Parameter(torch.randn(256, 768)) for _ in range(4)]
for weight in weights:
    weight.grad = torch.randn_like(weight)
optimizer = torch.optim.Muon(weights, lr=1e-3)
optimizer.step()
step = seconds(optimizer.step)
single = seconds(lambda: [orthogonal(weight.grad, torch.float32) for weight in weights])
half = orthogonal(weights[0].grad, torch.bfloat16)
apart = (half - orthogonal(weights[0].grad, torch.float32)).norm() / half.norm()
print(f"torch {torch.__version__}: Muon's step {step:.3f} s, its arithmetic in float32 {single:.4f} s, {step / single:.0f} times; results {apart:.3f} apart")
assert step > 5 * single and apart < 0.05
PYTHON
"$folder/venv/bin/python" "$folder/look.py"
