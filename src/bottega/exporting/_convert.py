"""A LoRA adapter as a file for a graph with places for adapters, without writing the graph again."""

from __future__ import annotations

from pathlib import Path

from bottega.errors import ModelError, RunError
from bottega.exporting._formats import load_format
from bottega.exporting._lora import open_adapter

SUFFIX = ".onnx_adapter"


def convert_adapter(name: str | Path, out: str | Path) -> tuple[Path, int]:
    """Write the adapter of a run or a folder for ONNX Runtime GenAI; (the file, its rank).

    Raises a ModelError if it is no LoRA of linear layers, a RunError if the file exists.
    """
    from bottega.exporting._genai_lora import write_lora

    load_format("genai")
    path = Path(out)
    path = path if path.suffix == SUFFIX else path.with_name(path.name + SUFFIX)
    if path.exists():
        raise RunError("already exists", where=str(path), fix="name another file, or delete this one")
    lora = open_adapter(name)
    refusal = load_format("genai").refusal(lora.model)
    if refusal:
        fix = f"bottega export {lora.model.source.base} --to gguf --adapters {name}"
        raise ModelError(f"ONNX Runtime GenAI cannot hold its base: {refusal}", where=str(name), fix=fix)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        write_lora(lora, lora.rank, None, lora.model.config, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path, lora.rank
