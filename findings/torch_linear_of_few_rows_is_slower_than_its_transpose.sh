#!/usr/bin/env bash
# torch 2.13.0, CPU wheel, Linux, a processor that multiplies bfloat16 (AMX or AVX512-BF16).
#
# `linear(x, w)` of a few rows in bfloat16, as in decoding, takes half again to twice as long as the same product
# written the other way round, `(w @ x.T).T`: oneDNN lays the second factor out anew for every call, and there that is
# the small one. Nothing has to be prepared or kept for it, as packed weights would. In float32, which MKL multiplies,
# there is no such difference, and from about a thousand rows on none in bfloat16 either.
#
# Seen 2026-11-29 on two cores with AMX, weights [3072, 576] of 30 layers in turn, 16 rows: 0.31 ms, transposed 0.18 ms.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy
cat > "$folder/look.py" <<'PYTHON'
import time
from statistics import median

import torch
from torch.nn.functional import linear

if not (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()):
    raise SystemExit("this processor does not multiply bfloat16: nothing to see here")
torch.manual_seed(0)
x = torch.randn(16, 576).bfloat16()
weights = [torch.randn(3072, 576).bfloat16() for _ in range(30)]
pair = linear(x, weights[0]), (weights[0] @ x.T).T
torch.testing.assert_close(*pair, rtol=2**-6, atol=0.5)


def milliseconds(product):
    """Of one product, over all weights in turn, so that none is still in the cache of a core."""
    times = []
    for _ in range(9):
        start = time.perf_counter()
        for weight in weights:
            product(weight)
        times.append(time.perf_counter() - start)
    return 1e3 * median(times) / len(weights)


plain, transposed = (milliseconds(one) for one in (lambda w: linear(x, w), lambda w: (w @ x.T).T))
print(f"linear {plain:.3f} ms, transposed {transposed:.3f} ms, {plain / transposed:.2f} times")
assert plain > 1.2 * transposed, "linear is no longer slower: this finding is out of date"
PYTHON
"$folder/venv/bin/python" "$folder/look.py"
