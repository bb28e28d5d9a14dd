"""The trained model that an export starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bottega.batch import Ints, Row
from bottega.errors import RunError
from bottega.models.adapted import attach_saved, merge_saved
from bottega.models.checkpoint import check_head_is_trained, load_model
from bottega.models.config import load_config
from bottega.models.source import ModelSource, locate
from bottega.models.tokenizer import load_tokenizer
from bottega.objectives import HeadKind
from bottega.recipe import schema as recipes
from bottega.runs.resolve import ResolvedName, resolve
from bottega.training.dataset import build_dataset

# A few rows show a wrong export; more only take longer.
PROBE_ROWS = 8
PROBE_TEXT = "A model that ships must be the model that was trained."


@dataclass(frozen=True)
class TrainedModel:
    """A run, a folder or a hub id, with all that is needed to write it in another format."""

    name: str
    resolved: ResolvedName
    source: ModelSource
    head: HeadKind
    labels: Sequence[str]
    tokenizer: Any

    def merged(self, dtype: torch.dtype) -> Any:
        """The model with its adapter merged into the weights of the base, in float32, then rounded to `dtype`.

        A base that was kept in 4 or 8 bits is merged into its full-precision weights.
        """
        base = self._base()
        return base.to(dtype) if self.source.adapter is None else merge_saved(base, self.source.adapter, dtype)

    def reference(self) -> tuple[nn.Module, Any]:
        """(the model as it was trained, in float32, with its adapter beside the base; the network in it to call)."""
        base = self._base()
        if self.source.adapter is None:
            return base.eval(), base
        adapted = attach_saved(base, self.source.adapter)
        return adapted.model.eval(), adapted.network

    def _base(self) -> Any:
        section = recipes.Model(base=self.source.base)
        config = load_config(section, None)
        model, new = load_model(section, config, self.head, self.labels, torch.float32, self.tokenizer)
        check_head_is_trained(self.name, new, self.head, self.source.adapter)
        return model

    def probe_rows(self) -> list[Row]:
        """Rows to compare on: the first held out by the run, else of its training rows, else a sentence."""
        if self.resolved.recipe is None or self.resolved.place is None:
            return [plain_row(np.array(self.tokenizer(PROBE_TEXT).input_ids, np.int64))]
        dataset = build_dataset(self.resolved.recipe, self.resolved.place["choices"])
        examples = dataset.validation.examples if len(dataset.validation.examples) else dataset.train.examples
        rows = [row for index in range(min(PROBE_ROWS, len(examples))) for row in examples[index].rows]
        return rows[:PROBE_ROWS]


def plain_row(tokens: Ints) -> Row:
    """A row of tokens that are read at every position, with nothing to predict."""
    at = np.arange(len(tokens))
    return Row(tokens, at, np.zeros_like(at), np.zeros(len(at), np.float32))


def open_trained(name: str) -> TrainedModel:
    """The trained model of a name; a RunError for a run that has no result yet."""
    absolute = str(Path(name).absolute()) if Path(name).exists() else name
    resolved = resolve(absolute)
    if resolved.is_run and resolved.result is None:
        raise RunError("this run has no result yet", where=name, fix=f"finish it: bottega train --resume {name}")
    source = locate(absolute)
    recipe = resolved.recipe
    labels = resolved.place["choices"]["labels"] if resolved.place else []
    head = "language" if recipe is None else recipe.objective.head
    return TrainedModel(absolute, resolved, source, head, labels, load_tokenizer(source.tokenizer))


@torch.no_grad()
def compute_logits(network: Any, row: Row) -> NDArray[np.floating]:
    """[T, C] what a transformers model gives for each token of a row; [1, C] from a head that reads the whole row."""
    inputs = {"input_ids": torch.tensor(row.tokens, dtype=torch.long)[None]}
    if row.source is not None:
        source = torch.tensor(row.source, dtype=torch.long)[None]
        inputs = {"input_ids": source, "decoder_input_ids": inputs["input_ids"]}
    output = network(**inputs)
    values = output.logits if "logits" in output else output.last_hidden_state
    logits: NDArray[np.floating] = values[0].reshape(-1, values.shape[-1]).float().numpy()
    return logits
