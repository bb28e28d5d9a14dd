#!/usr/bin/env bash
# bitsandbytes 0.50.2, torch 2.13.0, CPU wheels, Linux.
#
# `quantize_4bit` of a bfloat16 weight on a CPU takes seven times the weight's bytes while it works: the values in
# float32, several times, and codes in int32. A model that is quantized weight by weight to save memory then has a peak
# that its largest weight decides. A weight cut into pieces of whole blocks of 64 gives the same codes and scales with a
# fraction of that; the scales of all pieces are quantized together, as `compress_statistics` does.
#
# Seen 2026-12-01, [6144, 2304]: whole, 7.0 times the weight; by pieces of 65,536 values, 0.8 times.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy
"$folder/venv/bin/pip" install --quiet bitsandbytes==0.50.2
cat > "$folder/look.py" <<'PYTHON'
import ctypes
import gc

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit, quantize_blockwise

# Freed memory goes back at once, so that the peak is what is in use.
ctypes.CDLL(None).mallopt(-3, 1 << 16)


def kilobytes(name):
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith(name)))


def peak_of(function):
    gc.collect()
    open("/proc/self/clear_refs", "w").write("5")  # the peak is counted anew
    before = kilobytes("VmRSS")
    found = function()
    return found, (kilobytes("VmHWM") - before) * 1024


def by_pieces(weight, size=1 << 16):
    pieces = [quantize_4bit(piece, quant_type="nf4") for piece in weight.reshape(-1).split(size)]
    scales = torch.cat([state.absmax for _, state in pieces])
    state = pieces[0][1]
    state.offset, state.shape, state.nested = scales.mean(), weight.shape, True
    state.absmax, state.state2 = quantize_blockwise(scales - state.offset, blocksize=256)
    return torch.cat([codes for codes, _ in pieces]), state


weight = torch.randn(6144, 2304, generator=torch.Generator().manual_seed(0)).bfloat16()
quantize_4bit(weight[:64], compress_statistics=True, quant_type="nf4")  # what is loaded at the first call
by_pieces(weight[:64])
(codes, state), whole = peak_of(lambda: quantize_4bit(weight, compress_statistics=True, quant_type="nf4"))
(its, other), pieces = peak_of(lambda: by_pieces(weight))
print(f"whole: {whole / weight.nbytes:.1f} times the weight; by pieces: {pieces / weight.nbytes:.1f}")
assert torch.equal(codes, its) and torch.equal(dequantize_4bit(codes, state), dequantize_4bit(its, other))
assert whole > 5 * weight.nbytes, "it takes less now: this finding is out of date"
PYTHON
"$folder/venv/bin/python" "$folder/look.py"
