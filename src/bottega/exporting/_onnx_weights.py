"""The weights of an ONNX graph in 8 or 4 bits, in blocks of 32 that share a scale."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

BLOCK = 32


def quantize(path: Path, bits: int) -> None:
    """Quantize the weights of a graph's matrix products, and of its token embeddings, in place."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    logging.getLogger("onnxruntime.quantization").setLevel(logging.ERROR)
    config = DefaultWeightOnlyQuantConfig(
        block_size=BLOCK,
        is_symmetric=True,
        accuracy_level=4,
        bits=bits,
        # Rows of the embeddings can be in 4 bits only.
        op_types_to_quantize=("MatMul", "Gather") if bits == 4 else ("MatMul",),
        quant_axes=(("MatMul", 0), ("Gather", 1)),
    )
    quantizer = MatMulNBitsQuantizer(onnx.load(path), algo_config=config)
    # It divides by the scale of a block of zeros.
    with np.errstate(invalid="ignore", divide="ignore"):
        quantizer.process()
    data = path.with_name(path.name + ".data")
    data.unlink(missing_ok=True)
    path.unlink()
    onnx.save_model(quantizer.model.model, path, save_as_external_data=True, location=data.name)
