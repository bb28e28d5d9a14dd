#!/usr/bin/env bash
# torch 2.13.0, CPU wheel, Linux, a processor with AMX for bfloat16, two threads.
#
# Two products in bfloat16 with the same number of operations, 1,000 rows from 576 to 1,536 and from 1,536 to 576 (the
# MLP of a small decoder, up and down), should take the same time; the second even writes less. It takes twice as long,
# for about a thousand rows; at 2,048 rows the two are equal again.
#
# Seen 2026-11-30 on two cores of a Xeon with AMX: 0.65 and 1.28 ms at 1,024 rows, 1.39 and 1.29 ms at 2,048.
set -euo pipefail
grep -q amx_bf16 /proc/cpuinfo || { echo "this needs a processor with AMX for bfloat16"; exit 1; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy
"$folder/venv/bin/python" - <<'PYTHON'
import time

import torch

torch.manual_seed(0)
torch.set_num_threads(2)


def milliseconds(rows, inner, columns):
    a, b = torch.randn(rows, inner).bfloat16(), torch.randn(columns, inner).bfloat16()
    times = []
    for _ in range(200):
        start = time.perf_counter()
        a @ b.T
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)  # another program may take a core meanwhile


for rows in (1024, 2048):
    up, down = milliseconds(rows, 576, 1536), milliseconds(rows, 1536, 576)
    print(f"{rows} rows: 576 to 1,536 {up:.2f} ms, 1,536 to 576 {down:.2f} ms")
    if rows == 1024:
        assert down > 1.4 * up, "the products take about the same time: this has changed"
PYTHON
