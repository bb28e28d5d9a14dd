"""Prompts → answers of the policy as it is → what they are worth → what an update learns from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file

from bottega.batch import Example
from bottega.engine.engine import Engine
from bottega.errors import CheckpointError, RunError
from bottega.events import Answered
from bottega.inference.generator import Continuation
from bottega.objectives import OnPolicy, RewardedAnswer, Score, equal_rewards
from bottega.objectives.rewards import SampledAnswer
from bottega.objectives.rewards.model import ModelReward
from bottega.packing import pack, split_into_micro_batches
from bottega.sampling import Sampling
from bottega.seeding import derive
from bottega.tokenization.codec import Codec
from bottega.training.reward_models import RewardModels

FILE = "rollout.safetensors"

LOGP: frozenset[str] = frozenset({"logp"})

HUGE = 1e12
"""Rewards beyond this have no gradient: advantages are computed with their squares, and kept in 32 bits."""

SHOWN = 2000
"""Most characters of a prompt or an answer in an event."""


@dataclass(frozen=True)
class UpdateExamples:
    """What an update learns from, and what is to be told of it.

    answered  one of its prompts, with what was written
    noise     what dropout is drawn by, where not by the step
    """

    examples: list[Example]
    metrics: Mapping[str, float] = field(default_factory=dict)
    answered: Answered | None = None
    noise: int | None = None


@dataclass(frozen=True)
class _Round:
    """The answers from which some updates learn.

    number  of the round, from 0
    old     log-probabilities of the tokens that are learned from, as they were written, in the order of the examples
    """

    number: int
    answers: list[list[RewardedAnswer]]
    metrics: Mapping[str, float]
    old: NDArray[np.float32] | None


class Rollouts:
    """The answers that a policy writes while it learns by an objective."""

    def __init__(self, objective: OnPolicy, engine: Engine, codec: Codec, tokens: int, *, packed: bool) -> None:
        self.objective, self.engine, self.codec = objective, engine, codec
        self.tokens, self.packed = tokens, packed
        network = engine.scorer.network
        self.judges = RewardModels(str(network.device), str(network.dtype).removeprefix("torch."))
        for reward in objective.rewards:
            reward.check()
            if isinstance(reward, ModelReward):
                self.judges.load(reward.model)
        self._round: _Round | None = None

    def drawn(self, step: int, posed: Sequence[Example]) -> UpdateExamples:
        """What update `step` learns from these prompts: new answers, or those of the update before."""
        number, told = (step - 1) // self.objective.passes, None
        if self._round is None or self._round.number != number:
            self._round, told = self._begin(number, step, posed)
        examples = _beside(self.objective.training_examples(posed, self._round.answers), self._round.old)
        # A ratio tells how far the policy has moved, if the noise is the same in all updates of a round.
        return UpdateExamples(examples, self._round.metrics, told, number)

    def validated(self, posed: Sequence[Example], seed: int) -> tuple[float, dict[str, float]]:
        """(mean reward, metrics) of one answer to each prompt."""
        written = [one for (one,) in _judged(posed, self._continuations(posed, seed, 1))]
        marks = self._marks(written)
        return float(self._rewards(marks).mean()), self._metrics(written, marks)

    def _begin(self, number: int, step: int, posed: Sequence[Example]) -> tuple[_Round, Answered]:
        """New answers to the prompts of a round, and what they are worth; with those to one of them."""
        group, seed = self.objective.group, derive(self.engine.seed, "rollout", number)
        continuations = self._continuations(posed, seed, group)
        written = [one for answers in _judged(posed, continuations) for one in answers]
        marks = self._marks(written)
        rewards = self._rewards(marks).reshape(len(posed), group)
        answers = [
            [
                RewardedAnswer(np.array(one.tokens, np.int64), float(reward), one.reason != "length")
                for one, reward in zip(drawn, row, strict=True)
            ]
            for drawn, row in zip(continuations, rewards, strict=True)
        ]
        spread, even = float(rewards.std(1, ddof=1).mean()), float(equal_rewards(rewards).mean())
        metrics = self._metrics(written, marks) | {"reward_spread": spread, "even_groups": even}
        old = self._old(self.objective.training_examples(posed, answers), number) if self._needs_old else None
        return _Round(number, answers, metrics, old), self._told(step, posed[0], continuations[0], rewards[0].tolist())

    @property
    def _needs_old(self) -> bool:
        return any(isinstance(need, Score) and need.by == "old" for need in self.objective.needs)

    def _continuations(self, posed: Sequence[Example], seed: int, count: int) -> list[list[Continuation]]:
        objective = self.objective
        stop = (*objective.stop, *self.codec.stop_strings_in_use)
        settings = Sampling(tokens=objective.tokens, temperature=objective.temperature, stop=stop, seed=seed)
        prompts = [example.rows[0].prompt for example in posed]
        return self.engine.sample(prompts, settings, ends=self.codec.end_tokens, continuations=count)

    def _marks(self, written: Sequence[SampledAnswer]) -> NDArray[np.float64]:
        """[K, N] what each reward gives each answer; a RunError where that is no number."""
        found = []
        for reward in self.objective.rewards:
            marks = np.array(reward.scores(written, self.judges), float)
            if not np.isfinite(marks).all():
                where = written[int(np.flatnonzero(~np.isfinite(marks))[0])].record.where
                raise RunError(
                    f"the reward {reward.name} of an answer is no number", where=where, fix="mend the reward"
                )
            found.append(marks)
        self._refuse_huge(written, found)
        return np.stack(found)

    def _refuse_huge(self, written: Sequence[SampledAnswer], marks: Sequence[NDArray[np.float64]]) -> None:
        """A RunError of a reward whose square, or whose deviation, is beyond what can be computed with."""
        for reward, one in zip(self.objective.rewards, marks, strict=True):
            huge = np.flatnonzero(np.abs(reward.weight * one) > HUGE)
            if len(huge):
                what = f"the reward {reward.name}, times its weight, gives an answer {reward.weight * one[huge[0]]:g}"
                fix = f"keep rewards within ±{HUGE:g}; what counts is how they differ, so -1 to 1 will do"
                raise RunError(what, where=written[int(huge[0])].record.where, fix=fix)

    def _rewards(self, marks: NDArray[np.float64]) -> NDArray[np.float64]:
        """[K, N] → [N] the reward of each answer."""
        return np.array([reward.weight for reward in self.objective.rewards]) @ marks

    def _metrics(self, written: Sequence[SampledAnswer], marks: NDArray[np.float64]) -> dict[str, float]:
        found = {"reward": float(self._rewards(marks).mean())}
        if len(marks) > 1:
            names = [reward.name for reward in self.objective.rewards]
            named = [name if names.count(name) == 1 else f"{name}_{place + 1}" for place, name in enumerate(names)]
            found |= {f"reward_{name}": float(one.mean()) for name, one in zip(named, marks, strict=True)}
        return found | {
            "answer_tokens": float(np.mean([one.tokens for one in written])),
            "unfinished": float(np.mean([not one.ended for one in written])),
        }

    def _told(self, step: int, posed: Example, continuations: Sequence[Continuation], rewards: list[float]) -> Answered:
        prompt = self.codec.tokenizer.decode(posed.rows[0].prompt)
        texts = [one.text[:SHOWN] for one in continuations]
        return Answered(step=step, where=posed.id, prompt=prompt[-SHOWN:], answers=texts, rewards=rewards)

    def _old(self, examples: Sequence[Example], noise: int) -> NDArray[np.float32]:
        """The log-probabilities of what the examples predict, by the policy as it is, in an update's micro-batches."""
        found: dict[int, NDArray[np.float32]] = {}
        for place, group in enumerate(split_into_micro_batches(examples, self.tokens, share=self.packed)):
            batch = pack(group, share=self.packed).to(str(self.engine.scorer.network.device))
            seed = derive(self.engine.seed, "dropout", noise, place)  # that of this micro-batch in the updates to come
            scores = self.engine.score(batch, LOGP, temperature=self.objective.logit_temperature, dropout_seed=seed)
            logp = scores["logp"].float().cpu().numpy()
            ends = np.cumsum([len(example.rows[0].at) for example in group])[:-1]
            found |= {id(example): part for example, part in zip(group, np.split(logp, ends), strict=True)}
        return np.concatenate([found[id(example)] for example in examples])

    def save(self, folder: Path, step: int) -> None:
        """What a resume after `step` needs where its answers are learned from again."""
        if self._round is None or step % self.objective.passes == 0:
            return
        answers = [one for group in self._round.answers for one in group]
        assert self._round.old is not None
        arrays = {
            "tokens": np.concatenate([one.tokens for one in answers]),
            "sizes": np.array([len(one.tokens) for one in answers]),
            "rewards": np.array([one.reward for one in answers]),
            "ended": np.array([one.ended for one in answers]),
            "old": self._round.old,
        }
        # In one entry: several would be written in any order.
        told = {"round": json.dumps({"number": self._round.number, "metrics": dict(self._round.metrics)})}
        save_file({name: torch.from_numpy(array) for name, array in arrays.items()}, folder / FILE, told)

    def load(self, folder: Path, step: int) -> None:
        """The inverse of `save`; a CheckpointError for a checkpoint that lacks what is needed."""
        if step % self.objective.passes == 0:
            return
        if not (folder / FILE).exists():
            fix = "start a new run with its recipe.yaml"
            raise CheckpointError(f"{FILE} is missing, so no resume from it would be exact", where=str(folder), fix=fix)
        with safe_open(folder / FILE, "np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
            told = json.loads(file.metadata()["round"])
        parts = np.split(arrays["tokens"], np.cumsum(arrays["sizes"])[:-1])
        values = zip(parts, arrays["rewards"].tolist(), arrays["ended"].tolist(), strict=True)
        answers, size = [RewardedAnswer(*one) for one in values], self.objective.group
        groups = [answers[start : start + size] for start in range(0, len(answers), size)]
        self._round = _Round(told["number"], groups, told["metrics"], arrays["old"])


def _judged(posed: Sequence[Example], continuations: Sequence[Sequence[Continuation]]) -> list[list[SampledAnswer]]:
    """The answers with what they answer, as rewards take them."""
    return [
        [SampledAnswer(example.about, one.text, len(one.tokens), one.reason != "length") for one in group]
        for example, group in zip(posed, continuations, strict=True)
    ]


def _beside(examples: Sequence[Example], old: NDArray[np.float32] | None) -> list[Example]:
    """The examples with what their tokens' log-probabilities were, where that is another than they are."""
    if old is None:
        return list(examples)
    ends = np.cumsum([len(example.rows[0].at) for example in examples])[:-1]
    parts = zip(examples, np.split(old, ends), strict=True)
    return [Example(example.id, (example.rows[0].with_columns(old=part),)) for example, part in parts]
