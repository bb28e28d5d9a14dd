"""A scheduler gives every caller what it would get alone, in whatever company."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_low_rank import save_adapter

from bottega.errors import BottegaError, Diverged, ModelError, Overloaded
from bottega.inference.compute_thread import ComputeThread
from bottega.inference.continuous_decoder import ContinuousDecoder
from bottega.inference.generator import Continuation, Writer
from bottega.inference.language_model import load_language_model
from bottega.inference.row_decoder import DecodedRow, DecoderStep, RowDecoder, SerialDecoder
from bottega.inference.scheduler import (
    Done,
    GenerationRequest,
    PromptScores,
    Scheduler,
    ScoredPiece,
    TokenScore,
    Update,
)
from bottega.models.row_adapters import RowAdapters
from bottega.sampling import Sampling
from making import make_model

# Seconds after which a test gives up on an answer.
PATIENCE = 60


class Caller:
    """Collects what it is told of one request."""

    def __init__(self) -> None:
        self.updates: list[Update] = []
        self.ended = threading.Event()

    def __call__(self, updates: list[Update]) -> None:
        self.updates += updates
        if isinstance(updates[-1], Done | BottegaError):
            self.ended.set()

    def wait(self) -> list[Continuation]:
        """The continuations, once all have ended; an error is raised."""
        assert self.ended.wait(PATIENCE)
        if isinstance(self.updates[-1], BottegaError):
            raise self.updates[-1]
        written: dict[int, Continuation] = {}
        for update in self.updates:
            if isinstance(update, ScoredPiece):
                one = written.setdefault(update.piece.index, Continuation())
                one.tokens.append(update.piece.token)
                one.text += update.piece.text
                one.reason = update.piece.reason or "length"
        return [written[index] for index in sorted(written)]

    @property
    def scores(self) -> list[TokenScore]:
        """Those of the prompt, then those of the generated tokens."""
        of_prompt = [score for update in self.updates if isinstance(update, PromptScores) for score in update.scores]
        return of_prompt + [update.score for update in self.updates if isinstance(update, ScoredPiece) and update.score]


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Writer:
    return load_language_model(make_model(tmp_path_factory.mktemp("llama")), dtype="float32").writer


@pytest.fixture(scope="module")
def thread() -> Iterator[ComputeThread]:
    thread = ComputeThread()
    yield thread
    thread.close()


def random_requests(writer: Writer, count: int) -> list[GenerationRequest]:
    """Requests of all kinds, many of which begin alike."""
    draw = np.random.default_rng(0)
    shared = tuple(map(int, draw.integers(5, 290, 80)))
    requests = []
    for number in range(count):
        prompt = tuple(map(int, draw.integers(5, 290, draw.integers(1, 40))))
        prompt = (*shared[: draw.choice([0, 30, 80])], *prompt)
        settings = Sampling(
            tokens=int(draw.integers(1, 90)),
            seed=number,
            temperature=float(draw.choice([0, 0, 0.7, 1.5])),
            top_k=int(draw.choice([0, 20])),
            frequency_penalty=float(draw.choice([0, 0, 0.5])),
            repetition_penalty=float(draw.choice([1, 1.3])),
            logit_bias=((7, 3.0), (8, -100.0)) if number % 5 == 0 else (),
        )
        requests.append(
            GenerationRequest(writer, prompt, settings, int(draw.choice([1, 1, 3])), caller=f"{number % 3}")
        )
    return requests


def alone(request: GenerationRequest) -> list[Continuation]:
    return request.writer.write([request.prompt], request.settings, continuations=request.continuations)[0]


@pytest.mark.parametrize("max_tokens", [1 << 16, 900], ids=["roomy", "tight"])
def test_among_others_as_alone(writer: Writer, max_tokens: int, thread: ComputeThread) -> None:
    """Also where memory is so tight that rows are put back into the queue."""
    requests = random_requests(writer, 32)
    expected = [alone(request) for request in requests]
    decoder = ContinuousDecoder(writer.network, max_tokens=max_tokens, chunk=48)
    scheduler = Scheduler(decoder, thread)
    callers = [Caller() for _ in requests]
    for request, caller in zip(requests, callers, strict=True):
        scheduler.submit(request, caller)
        time.sleep(0.002)  # they join one after the other
    assert [caller.wait() for caller in callers] == expected
    scheduler.close()
    assert decoder.cached_tokens > 0
    assert (scheduler.stats.preempted > 0) == (max_tokens < 1000)
    assert decoder.prefixes.tokens <= max_tokens
    assert (decoder.cache.tokens, scheduler.stats.waiting) == (0, 0)


def test_rows_of_several_adapters_are_computed_together(tmp_path: Path, thread: ComputeThread) -> None:
    """Each as the model with this adapter alone; those of the same prompt too."""
    base = make_model(tmp_path / "base")
    folders = {}
    for number, name in enumerate(("one", "two")):
        torch.manual_seed(number)
        network = load_language_model(base, dtype="float32").model
        folders[name] = save_adapter(network, tmp_path / name, base_model_name_or_path=str(base))
    models = {name: load_language_model(folder, dtype="float32").writer for name, folder in folders.items()}
    shared = load_language_model(base, dtype="float32").writer
    adapters = RowAdapters(shared.network)
    for name, folder in folders.items():
        adapters.add(name, folder)
    scheduler = Scheduler(ContinuousDecoder(shared.network, adapters), thread)
    settings, draw = Sampling(tokens=40), np.random.default_rng(0)
    prompts = [tuple(map(int, draw.integers(5, 290, length))) for length in (90, 5, 17)]
    callers = {}
    for name in (None, "one", "two"):
        for prompt in prompts:
            callers[name, prompt] = Caller()
            request = GenerationRequest(shared, prompt, settings, adapter=name)
            scheduler.submit(request, callers[name, prompt])
    found = {key: caller.wait() for key, caller in callers.items()}
    scheduler.close()
    texts = set()
    adapters.use([])
    for (name, prompt), written in found.items():
        model = load_language_model(base, dtype="float32").writer if name is None else models[name]
        assert written == model.write([prompt], settings)[0]
        texts.add(tuple(written[0].tokens))
    assert len(texts) == len(found)


def test_scores_are_those_of_the_model(writer: Writer, thread: ComputeThread) -> None:
    """Of the prompt and of the answer, with the likeliest tokens; the prefix cache changes nothing."""
    prompt = tuple(range(10, 60))
    request = GenerationRequest(writer, prompt, Sampling(tokens=6, temperature=1.0), logprobs=3, score_prompt=True)
    scheduler = Scheduler(ContinuousDecoder(writer.network, chunk=7), thread)
    callers = [Caller() for _ in range(2)]
    for caller in callers:
        scheduler.submit(request, caller)
    (written,), _ = (caller.wait() for caller in callers)
    only = Caller()
    scheduler.submit(
        GenerationRequest(writer, prompt, Sampling(), logprobs=3, score_prompt=True, score_only=True), only
    )
    assert only.wait() == []
    scheduler.close()
    tokens = [*prompt, *written.tokens]
    writer.network.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            logp = writer.network(torch.tensor([tokens])).logits[0].float().log_softmax(-1)
    finally:
        writer.network.set_attn_implementation("bottega")
    assert len(only.scores) == len(prompt) - 1
    for caller in (*callers, only):
        for place, score in enumerate(caller.scores):
            assert score.token == tokens[place + 1]
            assert score.logprob == pytest.approx(float(logp[place, score.token]), abs=1e-4)
            best = logp[place].topk(3)
            assert [token for token, _ in score.top] == best.indices.tolist()
            assert [value for _, value in score.top] == pytest.approx(best.values.tolist(), abs=1e-4)


def test_one_caller_does_not_hold_up_another(writer: Writer, thread: ComputeThread) -> None:
    """The first request of a new caller goes before the others of one with many."""
    scheduler = Scheduler(ContinuousDecoder(writer.network, max_rows=1), thread)
    order: list[str] = []

    def submit(caller: str) -> Caller:
        one = Caller()

        def deliver(updates: list[Update]) -> None:
            one(updates)
            if isinstance(updates[-1], Done):
                order.append(caller)

        scheduler.submit(GenerationRequest(writer, (7, 8), Sampling(tokens=30), caller=caller), deliver)
        return one

    callers = [submit("many") for _ in range(4)] + [submit("one")]
    for caller in callers:
        caller.wait()
    scheduler.close()
    assert order.index("one") <= 2


def test_a_caller_that_leaves_stops_its_generation(writer: Writer, thread: ComputeThread) -> None:
    scheduler = Scheduler(ContinuousDecoder(writer.network), thread)
    gone, first = Caller(), threading.Event()
    ticket = scheduler.submit(
        GenerationRequest(
            writer, (7, 8), Sampling(tokens=100_000, logit_bias=((writer.tokenizer.eos_token_id, -100.0),))
        ),
        lambda updates: (gone(updates), first.set()),  # type: ignore[func-returns-value]
    )
    assert first.wait(PATIENCE)
    ticket.cancel()
    other = Caller()
    scheduler.submit(GenerationRequest(writer, (9,), Sampling(tokens=2)), other)
    other.wait()
    told = len(gone.updates)
    assert scheduler.stats.running <= 1
    time.sleep(0.05)
    assert len(gone.updates) == told
    scheduler.close()


def test_too_many_requests_are_refused(writer: Writer, thread: ComputeThread) -> None:
    scheduler = Scheduler(ContinuousDecoder(writer.network, max_rows=1), thread, max_waiting=2)
    request = GenerationRequest(writer, (7, 8), Sampling(tokens=60))
    callers = [Caller() for _ in range(5)]
    # Nothing is computed meanwhile, so that the first two wait.
    gate = threading.Event()
    held = threading.Thread(target=lambda: thread.call(gate.wait))
    held.start()
    for caller in callers[:2]:
        scheduler.submit(request, caller)
    with pytest.raises(Overloaded, match="too many") as raised:
        scheduler.submit(request, callers[2])
    gate.set()
    held.join()
    assert raised.value.seconds > 0
    assert scheduler.stats.refused == 1
    scheduler.close()


class Failing(RowDecoder):
    """Fails at its first step, and gives logits that are not finite at every other."""

    def __init__(self) -> None:
        self.rows: list[DecodedRow] = []
        self.failed = False

    def has_room(self, row: DecodedRow) -> bool:
        return True

    def join(self, row: DecodedRow) -> None:
        self.rows.append(row)

    def leave(self, row: DecodedRow) -> None:
        self.rows.remove(row)

    def step(self) -> DecoderStep:
        if not self.failed:
            self.failed = True
            raise ValueError("a kernel is missing")
        return DecoderStep(self.rows, torch.full((len(self.rows), 300), torch.nan))


def test_a_failure_is_told_and_the_next_request_is_served(writer: Writer, thread: ComputeThread) -> None:
    decoder = Failing()
    scheduler = Scheduler(decoder, thread)
    for error, words in ((ModelError, "a kernel is missing"), (Diverged, "not finite")):
        caller = Caller()
        scheduler.submit(GenerationRequest(writer, (7, 8), Sampling(tokens=3)), caller)
        with pytest.raises(error, match=words):
            caller.wait()
    thread.call(lambda: None)
    assert decoder.rows == []
    scheduler.close()
    with pytest.raises(Overloaded, match="unloaded"):
        scheduler.submit(GenerationRequest(writer, (7, 8), Sampling(tokens=3)), Caller())


def test_what_waits_is_told_that_the_server_stops(writer: Writer, thread: ComputeThread) -> None:
    scheduler = Scheduler(ContinuousDecoder(writer.network, max_rows=1), thread)
    request = GenerationRequest(writer, (7, 8), Sampling(tokens=2000, logit_bias=((2, -100.0),)))
    callers = [Caller() for _ in range(3)]
    for caller in callers:
        scheduler.submit(request, caller)
    scheduler.close()
    for caller in callers:
        if not any(isinstance(update, Done) for update in caller.updates):
            with pytest.raises(Overloaded, match="unloaded"):
                caller.wait()


@pytest.mark.parametrize("kind", ["bloom", "t5"])
def test_models_that_compute_one_row_at_a_time(kind: str, tmp_path: Path, thread: ComputeThread) -> None:
    writer = load_language_model(make_model(tmp_path, kind), dtype="float32").writer
    scheduler = Scheduler(SerialDecoder(writer), thread)
    requests: list[Any] = [
        GenerationRequest(writer, prompt, Sampling(tokens=12, temperature=temperature), continuations)
        for prompt, temperature, continuations in (((7, 8, 9), 0.0, 1), ((10,), 1.0, 2), ((11, 12), 0.0, 1))
    ]
    callers = [Caller() for _ in requests]
    for request, caller in zip(requests, callers, strict=True):
        scheduler.submit(request, caller)
    found = [caller.wait() for caller in callers]
    scheduler.close()
    assert found == [alone(request) for request in requests]
