"""LoRA adapters as GGUF files, for `llama-cli --lora` and an Ollama Modelfile's ADAPTER."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bottega.errors import ModelError
from bottega.exporting import ExportedLora
from bottega.exporting._gguf_families import Family


def write_lora(lora: ExportedLora, family: Family, config: Any, names: Any, path: Path) -> None:
    """Write an adapter; `names` maps names of transformers to those of llama.cpp."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, family.architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    # No further scale: it is in B.
    writer.add_float32("adapter.lora.alpha", 0.0)
    for layer, update in lora.updates.items():
        # The rows of B are those of the weight, and are arranged alike.
        rows = {f"{layer}.weight": update.b.T if update.transposed else update.b}
        for name, b in family.weights(rows, config):
            found = names.get_name(name, try_suffixes=(".weight",))
            if found is None:
                raise ModelError(f"llama.cpp has no place for {name}", where=lora.name, fix="export the run by itself")
            writer.add_tensor(f"{found}.lora_a", np.ascontiguousarray(update.a))
            writer.add_tensor(f"{found}.lora_b", np.ascontiguousarray(b))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
