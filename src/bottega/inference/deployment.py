"""A deployment: models by name that answer many callers at once.

deployment = bottega.Deployment()
deployment.add("support", "runs/support-1")
deployment.language("support").submit(["Where is my parcel?"], bottega.Sampling(), print)

Models are loaded when they are first used, and adapters of one base are put on it together.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from bottega.adapters import NotForRows
from bottega.errors import BottegaError, ModelError
from bottega.inference.compute_thread import ComputeThread
from bottega.inference.continuous_decoder import MAX_TOKENS, ContinuousDecoder
from bottega.inference.grammar import GrammarCompiler
from bottega.inference.language_model import FunctionTools, LanguageModel, Turns
from bottega.inference.loader import LOADERS, find_head
from bottega.inference.open_model import OpenedModel, find_model
from bottega.inference.row_decoder import RowDecoder, SerialDecoder
from bottega.inference.runtimes._network import RuntimeNetwork
from bottega.inference.scheduler import (
    MAX_WAITING,
    Done,
    GenerationRequest,
    GenerationTicket,
    Scheduler,
    SchedulerStats,
    ScoredPiece,
    Update,
)
from bottega.inference.token_constraints import Constraint, with_checkpoint_settings
from bottega.models.adapted import can_share_base
from bottega.models.row_adapters import RowAdapters
from bottega.models.scorer_setup import load_scorer
from bottega.models.source import locate
from bottega.models.tokenizer import load_tokenizer
from bottega.objectives import HeadKind
from bottega.recipe.schema import Quantize
from bottega.sampling import Sampling
from bottega.tokenization.token_text import token_bytes
from bottega.tokenization.tool_calls import ToolCallReader, call_marker

T = TypeVar("T")


class _Place(NamedTuple):
    """What is loaded: the base of an adapter, kept in memory as by the run that trained it, or a model itself."""

    source: str
    quantize: Quantize = "none"


# Tokens of an answer of a model without a limit of its own.
MOST_TOKENS = 1 << 15


@dataclass(frozen=True)
class DeploymentSettings:
    """Limits of a deployment.

    max_rows     continuations of a model that are computed together
    max_tokens   tokens of a model whose keys and values are in memory
    max_waiting  continuations of a model that wait; further requests are refused
    max_loaded   bases and models without one that are in memory; the one that was not used for longest goes
    """

    dtype: str = "auto"
    device: str = "auto"
    max_rows: int = 64
    max_tokens: int = MAX_TOKENS
    max_waiting: int = MAX_WAITING
    max_loaded: int = 4


@dataclass(eq=False)
class _Loaded:
    """A model in memory: of a language model, the base and the scheduler that all adapters on it share."""

    model: Any
    scheduler: Scheduler | None = None
    adapters: RowAdapters | None = None
    used: float = 0.0

    @property
    def is_idle(self) -> bool:
        stats = self.scheduler and self.scheduler.stats
        return not stats or not (stats.running or stats.waiting)


class ServedLanguageModel:
    """A language model that answers many callers.

    model    its tokenizer, template and limits; another adapter may have the same network
    adapter  what it is called among the adapters of its base; None for a base
    """

    def __init__(self, name: str, model: LanguageModel, scheduler: Scheduler, adapter: str | None) -> None:
        self.name, self.model, self.scheduler, self.adapter = name, model, scheduler, adapter

    def submit(
        self,
        prompts: Sequence[str | Turns | Sequence[int]],
        settings: Sampling,
        deliver: Callable[[int, list[Update]], None],
        *,
        tools: FunctionTools = (),
        continuations: int = 1,
        logprobs: int | None = None,
        score_prompt: bool = False,
        score_only: bool = False,
        grammar: Callable[[], Constraint] | None = None,
        caller: str = "",
    ) -> list[tuple[GenerationTicket, list[int]]]:
        """Ask for continuations of prompts; returns the ticket and the tokens of each.

        `deliver` is told of every prompt by its number, from the thread that computes, and must not block. For the
        other arguments see `GenerationRequest`. Raises a DataError for a prompt that this model cannot continue, and
        Overloaded.
        """
        requests = []
        for prompt in prompts:
            (ids,), limited = self.model.prepare([prompt], settings, tools)
            limited = with_checkpoint_settings(limited, self.model.writer.config)
            if self.model.limit is None:  # else an answer could go on for ever
                limited = limited.model_copy(update={"tokens": min(limited.tokens, MOST_TOKENS)})
            requests.append(
                GenerationRequest(
                    self.model.writer,
                    tuple(ids),
                    limited,
                    continuations,
                    self.adapter,
                    logprobs,
                    score_prompt,
                    score_only,
                    grammar,
                    caller,
                )
            )
        tickets: list[tuple[GenerationTicket, list[int]]] = []
        try:
            for number, request in enumerate(requests):
                told = _numbered(number, deliver)
                tickets.append((self.scheduler.submit(request, told), list(request.prompt)))
        except Exception:
            for ticket, _ in tickets:
                ticket.cancel()
            raise
        return tickets

    def answer(self, turns: Turns, settings: Sampling) -> str:
        """The assistant's next answer, when it is complete; not for the thread that computes."""
        told: queue.SimpleQueue[Update] = queue.SimpleQueue()

        def deliver(_: int, updates: list[Update]) -> None:
            for update in updates:
                told.put(update)

        self.submit([turns], settings, deliver)
        text = ""
        while not isinstance(update := told.get(), Done):
            if isinstance(update, BottegaError):
                raise update
            if isinstance(update, ScoredPiece):
                text += update.piece.text
        return text

    def token_bytes(self, token: int) -> bytes:
        """What a token adds to a text, in UTF-8."""
        return token_bytes(self.model.writer.tokenizer, token)

    @cached_property
    def grammars(self) -> GrammarCompiler:
        """Makes the constraints of answers that must be JSON."""
        config = self.model.scorer.network.config.get_text_config()
        return GrammarCompiler(self.model.writer.tokenizer, config.vocab_size, self.model.writer.ends)

    def call_reader(self, names: Sequence[str]) -> ToolCallReader:
        """Reads the calls of tools with these names in an answer; raises a DataError if the model cannot call any."""
        return ToolCallReader(self._call_marker, frozenset(names))

    @cached_property
    def _call_marker(self) -> str:
        return call_marker(self.model.codec.template)


def _numbered(number: int, deliver: Callable[[int, list[Update]], None]) -> Callable[[list[Update]], None]:
    return lambda updates: deliver(number, updates)


class Deployment:
    """Models by name; everything that computes runs in one thread."""

    def __init__(self, settings: DeploymentSettings | None = None) -> None:
        self.settings = settings or DeploymentSettings()
        self.thread = ComputeThread()
        self._lock = threading.Lock()
        # What a name means now, and what it meant when it was added.
        self._sources: dict[str, str] = {}
        self._first: dict[str, str] = {}
        self._added: dict[str, float] = {}
        self._served: dict[str, tuple[_Loaded, ServedLanguageModel]] = {}
        # Only the thread that computes changes it.
        self._loaded: dict[_Place, _Loaded] = {}
        self._keys = count()

    def add(self, name: str, source: str | Path) -> None:
        """Serve a run, a folder, an export or a hub id under a name; a ModelError if there is no such model.

        What the name meant before goes when the requests for it have ended.
        """
        found = find_model(str(source))
        with self._lock:
            # The same again changes nothing for those who use it.
            before = None if self._sources.get(name) == found.name else self._served.pop(name, None)
            self._sources[name] = self._first[name] = found.name
            self._added[name] = time.time()
        self._retire(before)

    def remove(self, name: str) -> None:
        """Serve a name no longer, if it is served; requests under way end as they began."""
        with self._lock:
            for about in (self._sources, self._first, self._added):
                about.pop(name, None)
            before = self._served.pop(name, None)
        self._retire(before)

    def switch(self, name: str, to: str) -> None:
        """Let a name answer with the model of another from the next request on; requests under way end as they began.

        Switched to itself, it means again what it was added as. Raises a ModelError, and changes nothing, if one of
        them is not served, or if they stand on different bases.
        """
        bases = {one: _base(self.source(one)) for one in (name, to)}
        if bases[name] != bases[to]:
            what = f"{name} stands on {bases[name]}, and {to} on {bases[to]}"
            raise ModelError(what, where=name, fix=f"ask for {to} by its own name")
        if name == to:
            self.add(name, self._first[name])
            return
        self.language(to)  # loaded before anything changes
        with self._lock:
            if name not in self._sources or to not in self._served:
                raise ModelError("one of the two was removed meanwhile", where=f"{name}, {to}", fix="ask again")
            before = self._served.get(name)
            self._served[name] = self._served[to]
            self._sources[name], self._added[name] = self._sources[to], time.time()
        self._retire(before)

    def _retire(self, before: tuple[_Loaded, ServedLanguageModel] | None) -> None:
        """Take the adapter of a name off its base, unless another name has it, once no request uses it."""
        if before is None:
            return
        loaded, served = before
        with self._lock:
            is_used = any(other.adapter == served.adapter for _, other in self._served.values())
        adapters, adapter, scheduler = loaded.adapters, served.adapter, loaded.scheduler
        if adapters is not None and adapter is not None and scheduler is not None and not is_used:
            scheduler.retire(adapter, lambda: adapters.remove(adapter))

    @property
    def names(self) -> dict[str, float]:
        """Every name, and when it was added, in seconds since 1970."""
        with self._lock:
            return dict(self._added)

    def source(self, name: str) -> str:
        """The folder or hub id of a model; a ModelError if none has this name."""
        with self._lock:
            if name not in self._sources:
                raise ModelError("no such model", where=name, fix="name one of: " + ", ".join(self._sources))
            return self._sources[name]

    def head(self, name: str) -> HeadKind:
        """The head of a model; a ModelError if none has this name."""
        return find_head(self.source(name))

    def language(self, name: str) -> ServedLanguageModel:
        """A language model, which is loaded if it is not; a ModelError if it is none."""
        self.source(name)  # an error, if it is not served
        with self._lock:
            if name in self._served:
                loaded, served = self._served[name]
                loaded.used = time.time()
                return served
        return self.thread.call(lambda: self._load_language(name))

    def compute(self, name: str, head: HeadKind, use: Callable[[Any], T]) -> T:
        """What a function makes of a model with another head, in the thread that computes."""
        source = self.source(name)
        return self.thread.call(lambda: use(self._open(_Place(source), lambda: self._load_other(source, head)).model))

    def stats(self) -> dict[str, SchedulerStats]:
        """Counts of every language model in memory, by a name of one that is computed with it."""
        with self._lock:
            schedulers = {served.scheduler: name for name, (_, served) in reversed(self._served.items())}
        return {name: scheduler.stats for scheduler, name in schedulers.items()}

    def close(self) -> None:
        """Stop; requests that have not ended get an error."""
        self.thread.call(self._close_all)
        self.thread.close()

    # In the thread that computes

    def _load_language(self, name: str) -> ServedLanguageModel:
        source = self.source(name)
        with self._lock:
            if name in self._served:  # another request loaded it while this one waited
                return self._served[name][1]
        place, adapter = _base_and_adapter(source)
        loaded = self._open(place, lambda: self._load_base(place))
        key, model = None, loaded.model
        if adapter is not None:
            try:
                # A new key each time: what the prefix cache has of one that had this name before is not found again.
                key = f"{name}#{next(self._keys)}"
                model = self._put_adapter_on(loaded, key, source, adapter)
            except NotForRows:
                key, alone = None, _Place(source)
                loaded = self._open(alone, lambda: self._load_base(alone))
                model = loaded.model
        assert loaded.scheduler is not None
        served = ServedLanguageModel(name, model, loaded.scheduler, key)
        with self._lock:
            if self._sources.get(name) == source:
                self._served[name] = loaded, served
                return served
        # It means something else by now, or nothing.
        self._retire((loaded, served))
        return self._load_language(name)

    def _load_base(self, place: _Place) -> _Loaded:
        settings = self.settings
        opened = None
        if place.quantize != "none":
            scorer = load_scorer(place.source, settings.dtype, settings.device, native=True, quantize=place.quantize)
            opened = OpenedModel(scorer, load_tokenizer(place.source))
        model = LanguageModel(place.source, dtype=settings.dtype, device=settings.device, opened=opened)
        network, adapters = model.scorer.network, None
        decoder: RowDecoder
        if model.scorer.fit.packed and not network.config.is_encoder_decoder:
            # A model with an adapter of another kind on it computes as it is.
            adapters = RowAdapters(network) if model.scorer.adapted is None else None
            limits = {"max_rows": settings.max_rows, "max_tokens": settings.max_tokens}
            decoder = ContinuousDecoder(network, adapters, **limits)
        else:
            decoder = SerialDecoder(model.writer)
        return _Loaded(model, Scheduler(decoder, self.thread, max_waiting=settings.max_waiting), adapters)

    def _load_other(self, source: str, head: HeadKind) -> _Loaded:
        return _Loaded(LOADERS[head](source, dtype=self.settings.dtype, device=self.settings.device))

    def _put_adapter_on(self, loaded: _Loaded, key: str, source: str, adapter: Path) -> LanguageModel:
        """The model of an adapter, on the network of its base; `NotForRows` if it cannot share that."""
        base: LanguageModel = loaded.model
        assert loaded.scheduler is not None
        decoder, prefix = loaded.scheduler.decoder, tuple[int, ...]()
        if loaded.adapters is not None:
            loaded.adapters.add(key, adapter)
            prefix = loaded.adapters.prefix(key)
        elif isinstance(decoder, SerialDecoder) and isinstance(base.scorer.network, RuntimeNetwork):
            decoder.adapters[key] = adapter
        else:  # a model that computes one row at a time has an adapter on it or none
            raise NotForRows("the base computes one row at a time", where=source, fix="load it by itself")
        opened = OpenedModel(base.scorer, load_tokenizer(locate(source).tokenizer), prefix)
        return LanguageModel(source, dtype=self.settings.dtype, opened=opened)

    def _open(self, place: _Place, load: Callable[[], _Loaded]) -> _Loaded:
        """What is in memory, or else loaded now; of too many, those that were not used for longest go."""
        if place not in self._loaded:
            self._loaded[place] = load()
        kept = self._loaded[place]
        kept.used = time.time()
        idle = [key for key, loaded in self._loaded.items() if loaded.is_idle and loaded is not kept]
        surplus = max(0, len(self._loaded) - self.settings.max_loaded)
        for key in sorted(idle, key=lambda key: self._loaded[key].used)[:surplus]:
            self._close(key)
        return kept

    def _close_all(self) -> None:
        for place in list(self._loaded):
            self._close(place)

    def _close(self, place: _Place) -> None:
        loaded = self._loaded.pop(place)
        with self._lock:
            self._served = {name: pair for name, pair in self._served.items() if pair[0] is not loaded}
        if loaded.scheduler is not None:
            loaded.scheduler.close()


def _base(source: str) -> str:
    """What stands under the adapter of a model, or the model itself."""
    found = find_model(source)
    if found.export is not None:
        return str(found.exported_model)
    located = locate(source)
    return source if located.adapter is None else located.base


def _base_and_adapter(source: str) -> tuple[_Place, Path | None]:
    """(what has to be loaded, the adapter on it): the source alone if its adapter cannot stand beside others."""
    found = find_model(source)
    if found.export is not None:
        return (_Place(str(found.exported_model)), found.folder) if found.export.base else (_Place(source), None)
    located = locate(source)
    if located.adapter is None or not can_share_base(located.adapter):
        return _Place(source), None
    return _Place(located.base, located.quantize), located.adapter
