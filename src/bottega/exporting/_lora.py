"""LoRA adapters that are exported beside their base, each in a file of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bottega.errors import ModelError
from bottega.exporting._source import TrainedModel, open_trained
from bottega.models.low_rank import LowRankUpdate, read_updates, saved_invocation
from bottega.models.tokenizer import tokenizer_json
from bottega.runs.atomic_files import checksum

# The folder of an export with a folder of each adapter.
ADAPTERS = "adapters"


@dataclass(frozen=True)
class ExportedLora:
    """An adapter to export.

    name     its name in the export
    model    what it was trained to: the base with it
    updates  of every layer that it adapts, by the name of the layer in the base
    """

    name: str
    model: TrainedModel
    updates: Mapping[str, LowRankUpdate]

    @property
    def folder(self) -> Path:
        """Its folder in the export."""
        return Path(ADAPTERS, self.name)

    @property
    def rank(self) -> int:
        """The largest of its ranks."""
        return max(len(update.a) for update in self.updates.values())


def open_adapter(name: str | Path) -> ExportedLora:
    """The adapter of a run or a folder; a ModelError if it is no LoRA of linear layers."""
    model = open_trained(str(name))
    _check_adapter(model)
    return ExportedLora(_title(Path(model.name)), model, _read_updates(model))


def open_adapters(base: TrainedModel, names: Sequence[str | Path]) -> list[ExportedLora]:
    """The adapters of runs and folders, in order; a ModelError if they cannot stand beside one base."""
    models = [open_trained(str(name)) for name in names]
    for model in models:
        _check_base(base, model)
        _check_alike(models[0], model)
    titles = [_title(Path(model.name)) for model in models]
    if repeated := [title for title in titles if titles.count(title) > 1]:
        raise ModelError(
            f"two adapters are called {repeated[0]}", where="adapters", fix="rename the folder of one of them"
        )
    return [ExportedLora(title, model, _read_updates(model)) for title, model in zip(titles, models, strict=True)]


def shared_base(loras: Sequence[ExportedLora]) -> TrainedModel:
    """The base of adapters, with the tokenizer, the chat template and the end tokens that all of them were given."""
    model = loras[0].model
    return replace(model, source=replace(model.source, adapter=None))


def _title(folder: Path) -> str:
    """The name of a run; of a folder that only holds the adapter of one, that of the run."""
    return folder.parent.name if folder.name == "adapter" else folder.name


def _check_base(base: TrainedModel, model: TrainedModel) -> None:
    if base.source.adapter is not None:
        fix = "name its base, and the run among the adapters"
        raise ModelError("this model has an adapter itself", where=base.name, fix=fix)
    _check_adapter(model)
    if not _same_weights(base.source.base, model.source.base):
        what = f"the adapter was trained on another base: {model.source.base}"
        raise ModelError(what, where=model.name, fix=f"export that base: bottega export {model.source.base}")


def _check_adapter(model: TrainedModel) -> None:
    if model.source.adapter is None:
        raise ModelError("holds no adapter", where=model.name, fix="name a run that trained an adapter, or its folder")


def _same_weights(one: str, other: str) -> bool:
    """Whether two models are one, by name, or by the contents of their weight files."""
    if one == other:
        return True
    folders = [Path(one), Path(other)]
    digests = [sorted(map(checksum, folder.glob("*.safetensors"))) for folder in folders if folder.is_absolute()]
    return len(digests) == 2 and digests[0] == digests[1] != []


def _check_alike(one: TrainedModel, other: TrainedModel) -> None:
    """A ModelError unless both use the same tokens and end their answers alike: a base file has one of each."""
    differences = {
        "heads": one.head != other.head,
        "tokenizers": tokenizer_json(one.tokenizer) != tokenizer_json(other.tokenizer),
        "chat templates": one.tokenizer.chat_template != other.tokenizer.chat_template,
        "end tokens": one.ends != other.ends,
    }
    for what, differ in differences.items():
        if differ:
            raise ModelError(
                f"the adapters have different {what}, and one base cannot serve both",
                where=f"{one.name} and {other.name}",
                fix="export each run by itself",
            )


def _read_updates(model: TrainedModel) -> dict[str, LowRankUpdate]:
    folder = model.source.adapter
    assert folder is not None
    if saved_invocation(folder):
        # What reads an export, and a sum of updates, would use it from the first token on.
        what = "the adapter begins at its invocation, which nothing but bottega serve and PEFT knows of"
        raise ModelError(what, where=model.name, fix="serve the run itself, or train it again without invocation")
    return read_updates(model.base_network(), folder, model.name)
