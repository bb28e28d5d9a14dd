"""The scheduler of a model that answers many callers at once: requests wait, rows join, generate and leave.

Callers are served in turn: of each the oldest request first. A request gets the tokens that it
would get alone, because what is sampled depends on its seed, its prompt and the number of the continuation only.

Legend: B rows, V vocabulary.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TypeAlias

import torch
from torch import Tensor

from bottega.errors import BottegaError, Diverged, ModelError, Overloaded, from_system_error
from bottega.inference.compute_thread import ComputeThread
from bottega.inference.generator import Writer
from bottega.inference.row import GeneratedRow, TextPiece
from bottega.inference.row_decoder import DecodedRow, DecoderStep, RowDecoder
from bottega.inference.samplers import NO_TOKEN, filter_logits, greedy_tokens, sample_tokens
from bottega.inference.token_constraints import Constraint
from bottega.sampling import Sampling

# Rows that wait, beyond which a request is refused.
MAX_WAITING = 512

# Seconds after which a model that is unloaded may be there again.
RETURN_SECONDS = 2.0

# The shares of past seconds in the mean time of a row, which says how long a refused caller should wait.
SMOOTHING = 0.1


@dataclass(frozen=True, slots=True)
class TokenScore:
    """The log-probability of a token in nats, and the likeliest tokens in its place, the likeliest first.

    It is the model's own, before temperature, penalties and constraints.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class ScoredPiece:
    """A piece of a continuation, with the score of its token if one was asked for."""

    piece: TextPiece
    score: TokenScore | None = None


@dataclass(frozen=True, slots=True)
class PromptScores:
    """The scores of the tokens of a prompt but the first, which nothing precedes."""

    scores: list[TokenScore]


@dataclass(frozen=True, slots=True)
class Done:
    """Every continuation has ended."""


# What a caller is told: pieces in the order in which they come, then `Done` or an error.
Update: TypeAlias = ScoredPiece | PromptScores | Done | BottegaError


@dataclass(frozen=True)
class GenerationRequest:
    """What a caller wants.

    writer         makes the rows: it knows the tokenizer and the end tokens of the model that was asked for
    prompt         token ids
    settings       with at most as many tokens as the model has room for; none are generated if `score_only`
    continuations  how many of the prompt
    adapter        the adapter to use
    logprobs       how many of the likeliest tokens to score beside each generated one; None for no scores
    score_prompt   score the tokens of the prompt, too
    score_only     generate nothing
    grammar        makes the constraint of each continuation
    caller         callers are served in turn
    """

    writer: Writer
    prompt: tuple[int, ...]
    settings: Sampling
    continuations: int = 1
    adapter: str | None = None
    logprobs: int | None = None
    score_prompt: bool = False
    score_only: bool = False
    grammar: Callable[[], Constraint] | None = None
    caller: str = ""


class GenerationTicket:
    """A request that was accepted. `deliver` is called from the thread that computes, and must not block."""

    def __init__(self, request: GenerationRequest, deliver: Callable[[list[Update]], None]) -> None:
        self.request, self.deliver = request, deliver
        self.left = request.continuations
        self.ended = False

    def cancel(self) -> None:
        """Stop generating; nothing more is delivered."""
        self.ended = True


@dataclass(eq=False)
class ScheduledRow(DecodedRow):
    """One continuation of a request.

    generated  its text; None if nothing is generated
    scores     the scores of its prompt so far
    """

    ticket: GenerationTicket = field(kw_only=True)
    generated: GeneratedRow | None = None
    scores: list[TokenScore] = field(default_factory=list)
    joined: float = 0.0


@dataclass
class SchedulerStats:
    """Counts since the start, and what there is at the moment."""

    requests: int = 0
    refused: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    steps: int = 0
    preempted: int = 0
    running: int = 0
    waiting: int = 0
    seconds_a_row: float = 1.0


class Scheduler:
    """Drives a decoder, in a thread that computes.

    max_waiting  continuations that wait at once; more requests are refused
    """

    def __init__(self, decoder: RowDecoder, thread: ComputeThread, *, max_waiting: int = MAX_WAITING) -> None:
        self.decoder, self.thread, self.max_waiting = decoder, thread, max_waiting
        self.stats = SchedulerStats()
        self._rows: list[ScheduledRow] = []  # in the order in which they joined
        self._waiting: dict[str, deque[ScheduledRow]] = {}
        self._lock = threading.Lock()
        self._closed = False
        # Adapters that no further request may use, and of those still in use what is done when none uses them any more.
        self._refused = set[str | None]()
        self._retired: dict[str, Callable[[], None]] = {}
        thread.register(self._step)

    def submit(self, request: GenerationRequest, deliver: Callable[[list[Update]], None]) -> GenerationTicket:
        """Accept a request; raises Overloaded if too many wait, or if its adapter was retired."""
        ticket = GenerationTicket(request, deliver)
        rows = [self._new_row(ticket, number) for number in range(request.continuations)]
        with self._lock:
            if self._closed:
                raise Overloaded("the model is being unloaded", where="the model", seconds=RETURN_SECONDS)
            if request.adapter in self._refused:
                raise Overloaded("the model is being replaced", where="the model", seconds=RETURN_SECONDS)
            # A large request is accepted when nothing waits, or it could never be.
            if self.stats.waiting and self.stats.waiting + len(rows) > self.max_waiting:
                self.stats.refused += 1
                raise Overloaded("too many requests wait", where="the queue of the model", seconds=self._wait_seconds())
            self._waiting.setdefault(request.caller, deque()).extend(rows)
            self.stats.waiting += len(rows)
            self.stats.requests += 1
        self.thread.wake()
        return ticket

    def retire(self, adapter: str, remove: Callable[[], None]) -> None:
        """Refuse requests for an adapter; when none uses it any more, the thread that computes calls `remove`."""
        with self._lock:
            self._refused.add(adapter)
            self._retired[adapter] = remove
        self.thread.wake()

    def _remove_retired(self) -> None:
        with self._lock:
            waiting = {row.adapter for rows in self._waiting.values() for row in rows}
            used = waiting | {row.adapter for row in self._rows}
            unused = [self._retired.pop(adapter) for adapter in list(self._retired) if adapter not in used]
        for remove in unused:
            remove()

    def close(self) -> None:
        """Stop; requests that have not ended get an error."""
        with self._lock:
            self._closed = True
        self.thread.unregister(self._step)
        self.thread.call(self._stop)

    def _stop(self) -> None:
        self._fail_all(Overloaded("the model is being unloaded", where="the model", seconds=RETURN_SECONDS))
        self.decoder.close()

    def _wait_seconds(self) -> float:
        """When a place in the queue is likely to be free."""
        return self.stats.seconds_a_row / max(self.stats.running, 1)

    def _new_row(self, ticket: GenerationTicket, number: int) -> ScheduledRow:
        request = ticket.request
        # The scores of a prompt are needed once.
        all_logits = request.score_prompt and number == 0
        tokens = [*request.writer.prefix(), *request.prompt]
        row = ScheduledRow(tokens, request.adapter, all_logits, ticket=ticket)
        if not request.score_only:
            grammar = None if request.grammar is None else request.grammar()
            settings, prompt = request.settings, request.prompt
            row.generated = request.writer.new_row(
                number, prompt, settings, number, streamed=True, grammar=grammar, penalized=True
            )
        return row

    def _step(self) -> bool:
        """Take one step of the decoder; False if there is nothing to do."""
        if self._retired:
            self._remove_retired()
        self._admit()
        if not self._rows:
            return False
        try:
            with torch.inference_mode():
                updates = self._advance(self.decoder.step())
        except Exception as error:  # of any kind: the thread must go on for others
            self._fail_all(error)
        else:
            for ticket, new in updates.items():
                self._deliver(ticket, new)
        return True

    def _admit(self) -> None:
        """Let rows leave whose caller has gone, and rows join while there is room."""
        for row in [row for row in self._rows if row.ticket.ended]:
            self._leave(row)
        while len(self._rows) > 1 and self.decoder.is_overfull:
            # The youngest goes back to the queue; it begins again with the tokens it has.
            row = self._rows[-1]
            self._leave(row)
            row.scores = []
            self.stats.preempted += 1
            with self._lock:
                self._waiting.setdefault(row.ticket.request.caller, deque()).appendleft(row)
                self.stats.waiting += 1
            return
        while (row_or_none := self._next_waiting()) is not None:
            row_or_none.joined = time.perf_counter()
            self._rows.append(row_or_none)
            self.decoder.join(row_or_none)
            self.stats.prompt_tokens += len(row_or_none.ticket.request.prompt)
        self.stats.running = len(self._rows)

    def _next_waiting(self) -> ScheduledRow | None:
        """The next row that may join, of the caller whose turn it is."""
        with self._lock:
            while self._waiting:
                caller, rows = next(iter(self._waiting.items()))
                while rows and rows[0].ticket.ended:
                    rows.popleft()
                    self.stats.waiting -= 1
                if rows and not self.decoder.has_room(rows[0]):
                    return None
                # The caller goes to the end of the line.
                del self._waiting[caller]
                if not rows:
                    continue
                row = rows.popleft()
                self.stats.waiting -= 1
                if rows:
                    self._waiting[caller] = rows
                return row
        return None

    def _leave(self, row: ScheduledRow) -> None:
        self._rows.remove(row)
        self.decoder.leave(row)

    def _advance(self, step: DecoderStep) -> dict[GenerationTicket, list[Update]]:
        """Choose the next token of every row that has logits, and end those that are complete."""
        self.stats.steps += 1
        self.stats.cached_tokens = self.decoder.cached_tokens
        updates: dict[GenerationTicket, list[Update]] = {}
        for row, logits in step.prompts:
            assert isinstance(row, ScheduledRow)
            _score_prompt(row, logits)
        rows = [row for row in step.rows if isinstance(row, ScheduledRow)]
        for row in rows:
            if row.all_logits:
                row.all_logits = False
                # What an adapter puts before the prompt is not its caller's.
                before = len(row.ticket.request.writer.prefix())
                updates.setdefault(row.ticket, []).append(PromptScores(row.scores[before:]))
        generating = [index for index, row in enumerate(rows) if row.generated is not None]
        logits = _at(step.logits, generating)
        tokens = _choose_tokens([rows[index] for index in generating], logits)
        scores = _score_tokens([rows[index] for index in generating], logits, tokens)
        for index, token, score in zip(generating, tokens, scores, strict=True):
            row = rows[index]
            assert row.generated is not None
            if token == NO_TOKEN:
                updates.setdefault(row.ticket, []).append(_not_finite())
                row.ticket.ended = True
                continue
            row.tokens.append(token)
            updates.setdefault(row.ticket, []).append(ScoredPiece(row.generated.add(token), score))
            self.stats.generated_tokens += 1
        for row in rows:
            if row.generated is None or row.generated.reason is not None:
                self._end(row, updates)
        return updates

    def _end(self, row: ScheduledRow, updates: dict[GenerationTicket, list[Update]]) -> None:
        self._leave(row)
        seconds = time.perf_counter() - row.joined
        self.stats.seconds_a_row += SMOOTHING * (seconds - self.stats.seconds_a_row)
        row.ticket.left -= 1
        if not row.ticket.left:
            updates.setdefault(row.ticket, []).append(Done())

    def _deliver(self, ticket: GenerationTicket, updates: list[Update]) -> None:
        # An error ends a ticket, and must still be told.
        if ticket.ended and not isinstance(updates[-1], BottegaError):
            return
        try:
            ticket.deliver(updates)
        except Exception:  # a caller that cannot be told has gone
            ticket.ended = True

    def _fail_all(self, error: Exception) -> None:
        """Tell every caller that the model failed, and begin again without rows."""
        told = error if isinstance(error, BottegaError) else from_system_error(error)
        if told is None:
            what = f"the model failed: {type(error).__name__}: {error}"
            told = ModelError(what, where="generation", fix="try another request; if it fails again, report this")
        tickets = {row.ticket for row in self._rows if not row.ticket.ended}
        for row in list(self._rows):
            self._leave(row)
        if self._closed:
            with self._lock:
                tickets |= {row.ticket for rows in self._waiting.values() for row in rows if not row.ticket.ended}
                self._waiting, self.stats.waiting = {}, 0
        for ticket in tickets:
            ticket.ended = True
            self.stats.failed += 1
            self._deliver(ticket, [told])


def _choose_tokens(rows: Sequence[ScheduledRow], logits: Tensor) -> list[int]:
    """The next token of each row from its [V] logits; rows with equal settings are computed together."""
    tokens = [NO_TOKEN] * len(rows)
    order = sorted(range(len(rows)), key=lambda index: _filters(rows[index]))
    for _, group in groupby(order, key=lambda index: _filters(rows[index])):
        indices = list(group)
        constrained = _constrain([rows[index] for index in indices], _at(logits, indices))
        settings = rows[indices[0]].ticket.request.settings
        filtered = filter_logits(constrained, None, settings)
        if settings.temperature:
            generated = [rows[index].generated for index in indices]
            uniform = [next(row.uniform) for row in generated if row is not None]
            chosen = sample_tokens(filtered, torch.tensor(uniform, dtype=torch.float64, device=logits.device))
        else:
            chosen = greedy_tokens(filtered)
        for index, token in zip(indices, chosen.tolist(), strict=True):
            tokens[index] = token
    return tokens


def _at(logits: Tensor, rows: Sequence[int]) -> Tensor:
    """The logits of some rows, in the same memory if they are all of them: a copy is megabytes."""
    return logits if len(rows) == len(logits) else logits[rows]


def _filters(row: ScheduledRow) -> tuple[float, ...]:
    settings = row.ticket.request.settings
    if not settings.temperature:  # greedy: no filter changes the likeliest token
        return (0.0,)
    return settings.temperature, settings.top_k, settings.top_p, settings.min_p


def _constrain(rows: Sequence[ScheduledRow], logits: Tensor) -> Tensor:
    """[B, V] logits after the constraints of each row."""
    changed = [row.generated.constraints if row.generated else None for row in rows]
    if all(one is None for one in changed):
        return logits
    parts = zip(changed, torch.split(logits, 1), strict=True)
    wide = torch.promote_types(logits.dtype, torch.float32)
    return torch.cat([part.to(wide) if one is None else one.apply(part) for one, part in parts])


def _score_tokens(rows: Sequence[ScheduledRow], logits: Tensor, tokens: Sequence[int]) -> list[TokenScore | None]:
    scores: list[TokenScore | None] = [None] * len(rows)
    for index, (row, token) in enumerate(zip(rows, tokens, strict=True)):
        count = row.ticket.request.logprobs
        if count is not None and token != NO_TOKEN:
            (scores[index],) = _scores(logits[index : index + 1], [token], count)
    return scores


def _score_prompt(row: ScheduledRow, logits: Tensor) -> None:
    """Score the tokens of the prompt that come after the next n, from the [n, V] logits after these."""
    start = len(row.scores) + 1
    # The last logits are those of the first token to generate.
    # Tokens that an adapter puts before the prompt have no logits; their scores are left out later.
    following = [min(token, logits.shape[1] - 1) for token in row.tokens[start : start + len(logits)]]
    row.scores += _scores(logits[: len(following)], following, row.ticket.request.logprobs or 0)


def _scores(logits: Tensor, tokens: Sequence[int], count: int) -> list[TokenScore]:
    """The score of each token from its [V] logits, with the `count` likeliest in its place."""
    if not tokens:
        return []
    logp = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    chosen = logp.gather(1, torch.tensor(tokens, device=logp.device)[:, None])[:, 0].tolist()
    best = logp.topk(min(count, logp.shape[1]))
    tops = [
        tuple(zip(ids, values, strict=True))
        for ids, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    return [TokenScore(*score) for score in zip(tokens, chosen, tops, strict=True)]


def _not_finite() -> Diverged:
    return Diverged(
        "the logits of the next token are not finite",
        where="generation",
        fix="its weights are damaged, or a constraint allows no token",
    )
