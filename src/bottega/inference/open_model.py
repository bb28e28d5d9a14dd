"""Opening a trained model for use: a run, a folder or a hub id → its scorer and tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bottega.errors import DataError, ModelError
from bottega.inference.runtimes import open_runtime
from bottega.inference.runtimes._network import RuntimeNetwork
from bottega.models import heads
from bottega.models.config import decoder_start_token, is_encoder, load_stored_config, position_limit
from bottega.models.generation_config import load_generation_config
from bottega.models.scorer import Fit, Scorer
from bottega.models.scorer_setup import load_scorer
from bottega.models.source import locate
from bottega.models.tokenizer import load_tokenizer
from bottega.objectives import HeadKind
from bottega.records import MAX_SHOWN, TooLong, Unusable
from bottega.records.fields import SURROGATES
from bottega.runs.export_info import ExportInfo
from bottega.runs.resolve import ResolvedName, resolve
from bottega.tokenization.codec import Codec

# A token limit for models without one of their own, such as those with relative positions.
UNLIMITED = 1 << 30


class OpenedModel(NamedTuple):
    """A model ready to score, and its tokenizer.

    own_prefix  the ids of the trained tokens of an adapter, on a base that the scorer computes without it
    """

    scorer: Scorer
    tokenizer: Any
    own_prefix: tuple[int, ...] = ()

    def prefix(self) -> tuple[int, ...]:
        """Token ids that stand before every text."""
        return self.own_prefix or self.scorer.prefix()

    @property
    def limit(self) -> int | None:
        """The number of positions the model has for texts; None if unlimited."""
        limit = position_limit(self.scorer.network.config)
        return None if limit is None else limit - len(self.prefix())

    def codec(self, max_length: int | None = None, too_long: TooLong = "error", labels: Iterable[str] = ()) -> Codec:
        """The codec of its inputs; see `make_codec`."""
        return make_codec(self.tokenizer, self.scorer.network.config, max_length or self.limit, too_long, labels)


def make_codec(
    tokenizer: Any,
    config: Any,
    max_length: int | None = None,
    too_long: TooLong = "error",
    labels: Iterable[str] = (),
) -> Codec:
    """The codec of a model's inputs; they have at most as many tokens as the model has positions, or `max_length`."""
    return Codec(
        tokenizer,
        max_length=max_length or position_limit(config) or UNLIMITED,
        too_long=too_long,
        both_ways=is_encoder(config),
        labels=labels,
        decoder_start=decoder_start_token(config),
    )


def find_model(name: str, head: HeadKind | None = None) -> ResolvedName:
    """What a name refers to, with its path made absolute.

    Raises a ModelError for a path that is no folder, and for a run whose model has another head than the one given.
    """
    source = resolve(_absolute_path(name))
    if head is not None and source.export is not None and source.export.head != head:
        raise ModelError(
            f"exported with another head: not {heads.load(head).description}",
            where=source.name,
            fix=f"use it with: {heads.load(source.export.head).command or 'bottega run'}",
        )
    if head is not None and source.recipe is not None and (trained := source.recipe.objective).head != head:
        raise ModelError(
            f"trained with {trained.kind}: not {heads.load(head).description}",
            where=source.name,
            fix=f"use it with: {heads.load(trained.head).command}",
        )
    return source


def open_model(
    name: str,
    head: HeadKind,
    *,
    dtype: str = "auto",
    device: str = "auto",
    labels: Sequence[str] = (),
    native: bool = True,
) -> OpenedModel:
    """Load the model of a name that `find_model` returned, as one with this head; an adapter is put on its base.

    labels  names of the head's classes
    native  it may compute in C++: not while something is trained, see `load_scorer`
    """
    tokenizer = load_tokenizer(locate(name).tokenizer)
    resolved = resolve(name)
    export = resolved.export
    # A folder of transformers is opened as any model, which is faster than its runtime.
    if export is not None and export.runtime != "transformers":
        if export.head != head:
            what = f"an export in the format {export.format} has one head, and is not {heads.load(head).description}"
            raise ModelError(what, where=name, fix="name the run or the folder that it was made from")
        adapter = resolved.folder if export.base else None
        return OpenedModel(_scorer_of_export(resolved.exported_model, export, adapter), tokenizer)
    # A classifier must know its padding token, which the tokenizer names.
    return OpenedModel(load_scorer(name, dtype, device, head, labels, tokenizer, native=native), tokenizer)


def _scorer_of_export(folder: Path, export: ExportInfo, adapter: Path | None) -> Scorer:
    runtime = open_runtime(export.runtime, folder, export.head, adapter)
    network = RuntimeNetwork(runtime, load_stored_config(str(folder)), load_generation_config(folder))
    fit = Fit(packed=False, own_head=True, reason=f"{runtime.title} computes one row at a time")
    return Scorer(network, export.head, fit)


@contextmanager
def text_errors(text: str) -> Iterator[None]:
    """Raise a DataError that quotes the text if it cannot be encoded inside."""
    where = f"the text {text[:MAX_SHOWN]!r}"
    # Tokenizers fail on lone surrogates, with errors of different types.
    if SURROGATES.search(text):
        raise DataError("contains half a character", where=where, fix="write it as Unicode")
    try:
        yield
    except Unusable as unusable:
        raise DataError(unusable.reason, where=where, fix="write some words") from None


def _absolute_path(name: str) -> str:
    """A folder by its absolute path; a hub id unchanged."""
    path = Path(name).expanduser()
    # Refused here, because such a name would be looked up as a hub id, which has one slash at most.
    if (name.startswith((".", "/", "~")) or name.count("/") > 1) and not path.is_dir():
        raise ModelError("no such folder", where=name, fix="name a run, a folder or a hub id; list runs: bottega runs")
    return str(path.absolute()) if path.exists() else name
