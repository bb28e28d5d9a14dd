"""The proof of an export: what its runtime computes, beside what was trained.

The reference is computed first and freed, then the export is opened: the two need not be in memory at once.

Legend: N tokens of all rows, V vocabulary, C classes or hidden width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bottega.errors import ModelError
from bottega.exporting._precision import Precision
from bottega.exporting._probes import Probe, make_probes, make_texts
from bottega.exporting._source import TrainedModel
from bottega.inference.runtimes import Floats, Runtime
from bottega.inference.runtimes.transformers import compute_logits, is_tied
from bottega.models.config import position_limit

# Tokens generated after each prompt.
GREEDY_TOKENS = 48
# Of the largest number that a head of one number gives, how far an export may be off.
SINGLE_NUMBER = 0.05
# Prompts that are continued.
GREEDY_PROMPTS = 2


@dataclass(frozen=True)
class Reference:
    """What the trained model gives in float32.

    logits   [T, C] of each probe
    answers  the likeliest continuation of the first prompts, each token after those before it; [] if it generates none
    texts    texts, and the tokens of each
    """

    probes: Sequence[Probe]
    logits: Sequence[Floats]
    answers: Sequence[Sequence[int]]
    texts: Sequence[tuple[str, Sequence[int]]]
    ends: frozenset[int]
    template: str | None
    tied: bool | None


@dataclass(frozen=True)
class Proof:
    """The export beside the trained model in float32, over tokens of real rows.

    rows         rows compared
    tokens       tokens compared
    difference   largest absolute difference of a logit
    kl           mean Kullback–Leibler divergence of the trained model's distribution from the export's, in nats a token
    agreement    fraction of tokens with the same likeliest prediction
    correlation  of all logits
    greedy       how many of `generated` tokens, each after the same tokens, the export finds as likely as any other
    generated    tokens that the trained model generated
    texts        texts that both split into the same tokens
    width        numbers that the head gives
    largest      absolute value of the largest of them
    """

    rows: int
    tokens: int
    difference: float
    kl: float
    agreement: float
    correlation: float
    greedy: int
    generated: int
    texts: int
    width: int
    largest: float


def compute_reference(model: TrainedModel) -> Reference:
    """What the model gives as it was trained, with its adapter beside the base."""
    probes = make_probes(model)
    module, network = model.reference()
    logits = [compute_logits(network, probe.tokens, probe.source) for probe in probes]
    answers = list(_generate(model, network, probes)) if model.generates else []
    # An adapter of one end unties what its base ties.
    tied = None if model.adapts_embeddings else is_tied(network)
    del module, network
    encode = model.tokenizer
    texts = [
        (text, list(encode(text, add_special_tokens=False).input_ids)) for text in make_texts(model.tokenizer, probes)
    ]
    return Reference(probes, logits, answers, texts, model.ends, model.tokenizer.chat_template, tied)


def _generate(model: TrainedModel, network: Any, probes: Sequence[Probe]) -> Iterator[list[int]]:
    """The likeliest tokens after each of the first prompts, by transformers' own loop; no token ends it."""
    from transformers import GenerationConfig

    limit = position_limit(model.config)
    for probe in probes[:GREEDY_PROMPTS]:
        prompt = probe.tokens[: probe.prompt] if probe.source is None else probe.source
        room = GREEDY_TOKENS if limit is None else min(GREEDY_TOKENS, limit - len(prompt))
        if room < 1:
            yield []
            continue
        settings = GenerationConfig(
            max_new_tokens=room,
            do_sample=False,
            pad_token_id=0,
            decoder_start_token_id=getattr(model.config, "decoder_start_token_id", None),
        )
        ids = torch.tensor(np.array(prompt), dtype=torch.long)[None]
        with torch.no_grad():
            # No config of the checkpoint, with settings of its own.
            network.generation_config = settings
            generated = network.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings)
        skipped = len(prompt) if probe.source is None else 1
        yield generated[0, skipped:].tolist()


def compare(reference: Reference, runtime: Runtime, precision: Precision) -> Proof:
    """How far the export is from what was trained; a ModelError if it is another model than that."""
    texts = _compare_texts(reference, runtime)
    if runtime.ends != reference.ends:
        lost, new = sorted(reference.ends - runtime.ends), sorted(runtime.ends - reference.ends)
        raise _differs(f"answers end at other tokens: {lost} are lost, {new} are new")
    if runtime.template != reference.template:
        raise _differs("its chat template is another one")
    if None not in (runtime.tied, reference.tied) and runtime.tied != reference.tied:
        raise _differs(
            "its head has the weight of the embeddings" if runtime.tied else "its head has a weight of its own"
        )
    exported = [runtime.logits(probe.tokens, probe.source) for probe in reference.probes]
    for ours, theirs in zip(reference.logits, exported, strict=True):
        if ours.shape != theirs.shape:
            raise _differs(
                f"it gives {theirs.shape[1]} numbers for each of {theirs.shape[0]} tokens, not {ours.shape[1]}"
            )
    pairs = list(zip(reference.logits, exported, strict=True))  # [T, C] of each row
    slack = 2 * (precision.difference or 0.0)
    greedy = [
        found
        for probe, answer in zip(reference.probes, reference.answers, strict=False)
        for found in _follow(runtime, probe, answer, slack)
    ]
    return Proof(
        rows=len(reference.probes),
        tokens=sum(map(len, reference.logits)),
        difference=max(float(np.abs(wanted - given).max()) for wanted, given in pairs),
        kl=float(np.concatenate([_divergence(wanted, given) for wanted, given in pairs]).mean()),
        agreement=float(np.concatenate([wanted.argmax(-1) == given.argmax(-1) for wanted, given in pairs]).mean()),
        correlation=_correlation(pairs),
        greedy=sum(greedy),
        generated=len(greedy),
        texts=texts,
        width=pairs[0][0].shape[-1],
        largest=max(float(np.abs(wanted).max()) for wanted, _ in pairs),
    )


def check(proof: Proof, precision: Precision) -> None:
    """A ModelError if a bound of the precision does not hold. Written so that NaN fails."""
    if precision.difference is not None and not proof.difference <= precision.difference:
        raise _differs(f"a logit by {proof.difference:.2g}; rounding is at most {precision.difference:g}")
    # The distribution of one number is no measure, nor is its correlation.
    if proof.width == 1 and not proof.difference <= SINGLE_NUMBER * max(1.0, proof.largest):
        raise _differs(f"a number by {proof.difference:.2g}, where the largest is {proof.largest:.2g}")
    if not proof.correlation >= precision.correlation:
        least = f"at least {precision.correlation:g} is rounding to {precision.title}"
        raise _differs(f"the logits correlate by {proof.correlation:.3f}; {least}")
    if precision.kl is not None and not proof.kl <= precision.kl:
        raise _differs(f"the distribution of a token by {proof.kl:.2g} nats; at most {precision.kl:g} is allowed")
    if precision.greedy and proof.greedy < proof.generated:
        raise _differs(f"only {proof.greedy} of {proof.generated} generated tokens are the same")


def _differs(what: str) -> ModelError:
    fix = "nothing was kept; choose another format or precision, and please report this"
    return ModelError(f"the export differs from what was trained: {what}", where="the proof of the export", fix=fix)


def _compare_texts(reference: Reference, runtime: Runtime) -> int:
    for text, wanted in reference.texts:
        given = runtime.encode(text)
        if given != list(wanted):
            same = takewhile(lambda pair: pair[0] == pair[1], zip(wanted, given, strict=False))
            raise _differs(f"its tokenizer splits {text[:60]!r} otherwise, from token {len(list(same))} on")
    return len(reference.texts)


def _follow(runtime: Runtime, probe: Probe, answer: Sequence[int], slack: float) -> Iterator[bool]:
    """Whether each token of an answer is the likeliest after those before it, or within `slack` of it in its logit."""
    prompt = probe.tokens[: probe.prompt] if probe.source is None else probe.source
    logits = runtime.start(prompt.tolist())
    for position, token in enumerate(answer):
        yield bool(logits[token] >= logits.max() - slack)
        if position + 1 < len(answer):
            logits = runtime.step(token)


def _divergence(wanted: Floats, given: Floats) -> NDArray[np.float64]:
    """[T] the Kullback–Leibler divergence of each token's distributions, in nats."""
    wanted_logp, given_logp = _log_softmax(wanted), _log_softmax(given)
    divergence: NDArray[np.float64] = (np.exp(wanted_logp) * (wanted_logp - given_logp)).sum(-1)
    return divergence


def _correlation(pairs: Sequence[tuple[Floats, Floats]]) -> float:
    """Of all numbers, those of each row about its mean; 1 for a head of one number, of which a row has no more.

    By row, so that no copy of all is needed: there is a number for every token and every entry of the vocabulary.
    """
    if pairs[0][0].shape[-1] == 1:
        return 1.0
    sums = np.zeros(3)
    for wanted, given in pairs:
        a, b = (each.astype(np.float64) - each.mean(dtype=np.float64) for each in (wanted, given))
        sums += [(a * b).sum(), (a * a).sum(), (b * b).sum()]
    return float(sums[0] / np.sqrt(sums[1] * sums[2]))


def _log_softmax(logits: Floats) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    logp: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return logp
