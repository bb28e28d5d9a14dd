"""Peak memory of a run by part: counted from shapes, except for what only a measurement shows."""

from __future__ import annotations

from pathlib import Path

from bottega.hardware.datasheets import Datasheet
from bottega.hardware.device import available_device
from bottega.models import heads
from bottega.models.dimensions import hidden_width, layer_count, vocabulary_size
from bottega.recipe.schema import Recipe
from bottega.training import memory_estimate
from bottega.training.dataset import Dataset

# Names of parts. They are keys of `bottega plan --json`.
ACTIVATIONS, PROCESS, CUDA = "activations, logits, allocator", "python and torch", "CUDA context"

# The language-model head works in chunks of 512 rows; 8 bytes are a float32 logit and its gradient.
LOGIT_BYTES = 512 * 8

# Bytes of a CUDA context and the workspaces of its libraries.
CUDA_CONTEXT_BYTES = 700 << 20


def memory_by_part(recipe: Recipe, dataset: Dataset, peak: int) -> dict[str, int]:
    """Bytes of each part, which sum up to `peak`; what is left of it after all counted parts goes to ACTIVATIONS."""
    # On a GPU the libraries of the host take none of the memory that is planned.
    process = process_bytes() if available_device(recipe.devices.device) == "cpu" else 0
    counted = {**memory_estimate.memory_parts(recipe, dataset.config, weight_bytes(recipe)), PROCESS: process}
    return {**counted, ACTIVATIONS: max(peak - sum(counted.values()), 0)}


def activation_bytes(recipe: Recipe, dataset: Dataset, tokens: float) -> int:
    """Bytes of the activations and logits of a micro-batch of `tokens`, on an accelerator, by the model's shapes."""
    width, layers = hidden_width(dataset.config), layer_count(dataset.config)
    # memory_estimate.ACTIVATION_BYTES was measured in bfloat16, at 2 bytes a number.
    layer_bytes = memory_estimate.ACTIVATION_BYTES * weight_bytes(recipe) / 2
    # With checkpointing, a layer keeps its input only; with offloading, not even that. One layer is always whole.
    kept = weight_bytes(recipe) if recipe.optim.checkpointing else 0 if recipe.optim.offload else layer_bytes
    over_vocabulary = heads.load(recipe.objective.head).over_vocabulary
    logits = LOGIT_BYTES * vocabulary_size(dataset.config) if over_vocabulary else 0
    return round(tokens * width * (kept * layers + layer_bytes) + logits)


def micro_batch_tokens(recipe: Recipe, dataset: Dataset, datasheet: Datasheet | None) -> int:
    """Most tokens of a micro-batch on a device, or on this machine if there is no datasheet."""
    if recipe.optim.tokens is not None:
        return recipe.optim.tokens
    device, limit = ("cuda", datasheet.memory) if datasheet else (available_device(recipe.devices.device), None)
    return memory_estimate.micro_batch_tokens(recipe, dataset.config, weight_bytes(recipe), device, limit)


def weight_bytes(recipe: Recipe) -> int:
    """Bytes of one weight."""
    return 4 if recipe.model.dtype == "float32" else 2


def process_bytes() -> int:
    """Resident bytes of this process, which has torch and transformers imported but no model; 0 if unknown."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    kilobytes = next((int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)
    return kilobytes << 10
