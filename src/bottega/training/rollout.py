"""Rollouts: answers sampled from the policy, which an on-policy objective learns from.

A round of answers is sampled here, scored in `answer_rewards`, and joined with the policy's own scores of it in
`old_scores`. What a loss does with rewards and old scores (advantages, ratios) is the objective's business.
"""

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
from bottega.errors import CheckpointError
from bottega.events import Answered
from bottega.inference.generator import Continuation
from bottega.objectives import OnPolicy, RewardedAnswer, equal_rewards
from bottega.objectives.rewards import SampledAnswer
from bottega.sampling import Sampling
from bottega.seeding import derive
from bottega.tokenization.codec import Codec
from bottega.training.answer_rewards import AnswerRewards
from bottega.training.old_scores import OldScores, join_old_scores, score_old

FILE = "rollout.safetensors"

# The arrays of the file that describe the answers; every other array holds old scores.
ANSWER_ARRAYS = ("tokens", "sizes", "rewards", "ended")

# Most characters of a prompt or an answer in an event: events are read as a whole by `bottega show`.
MAX_EVENT_CHARACTERS = 2000


@dataclass(frozen=True)
class UpdateExamples:
    """The examples an update trains on, and what is reported about them.

    metrics       of the sampled answers; empty for objectives that do not sample
    answered      one prompt with its sampled answers, in the first update of a round
    dropout_step  the number that dropout seeds are derived from; None for that of the update
    """

    examples: list[Example]
    metrics: Mapping[str, float] = field(default_factory=dict)
    answered: Answered | None = None
    dropout_step: int | None = None


@dataclass(frozen=True)
class _Round:
    """The answers that `passes` consecutive updates train on.

    index       of the round, from 0
    old_scores  of the tokens trained on, by the policy that sampled them, in the order of the examples
    """

    index: int
    answers: list[list[RewardedAnswer]]
    metrics: Mapping[str, float]
    old_scores: OldScores


class Rollouts:
    """Samples answers to the prompts of each round, and keeps them until the next."""

    def __init__(self, objective: OnPolicy, engine: Engine, codec: Codec, tokens: int, *, packed: bool) -> None:
        self.objective, self.engine, self.codec = objective, engine, codec
        self.tokens, self.packed = tokens, packed
        network = engine.scorer.network
        self.rewards = AnswerRewards(objective.rewards, str(network.device), str(network.dtype).removeprefix("torch."))
        self._round: _Round | None = None

    def sample_update(self, step: int, prompts: Sequence[Example]) -> UpdateExamples:
        """The examples of update `step`: from new answers, or from those of the current round."""
        index, answered = (step - 1) // self.objective.passes, None
        if self._round is None or self._round.index != index:
            self._round, answered = self._sample_round(index, step, prompts)
        examples = self.objective.training_examples(prompts, self._round.answers)
        examples = join_old_scores(examples, self._round.old_scores)
        # The ratio to the old policy measures movement alone only if all updates of a round share dropout masks.
        return UpdateExamples(examples, self._round.metrics, answered, dropout_step=index)

    def validate(self, prompts: Sequence[Example], seed: int) -> tuple[float, dict[str, float]]:
        """(mean reward, metrics) of one sampled answer to each prompt."""
        sampled = [answers[0] for answers in _sampled_answers(prompts, self._sample(prompts, seed, 1))]
        scores = self.rewards.score(sampled)  # [K, N]
        return float(self.rewards.total(scores).mean()), self.rewards.metrics(sampled, scores)

    def _sample_round(self, index: int, step: int, prompts: Sequence[Example]) -> tuple[_Round, Answered]:
        """A new round, and the event that shows its first prompt."""
        group, seed = self.objective.group, derive(self.engine.seed, "rollout", index)
        continuations = self._sample(prompts, seed, group)  # [P][G]
        sampled = [answer for answers in _sampled_answers(prompts, continuations) for answer in answers]
        scores = self.rewards.score(sampled)  # [K, P·G]
        rewards = self.rewards.total(scores).reshape(len(prompts), group)  # [P, G]
        answers = [
            [
                RewardedAnswer(np.array(continuation.tokens, np.int64), float(reward), continuation.reason != "length")
                for continuation, reward in zip(*pair, strict=True)
            ]
            for pair in zip(continuations, rewards, strict=True)
        ]
        metrics = self.rewards.metrics(sampled, scores) | {
            "reward_spread": float(rewards.std(1, ddof=1).mean()),
            "even_groups": float(equal_rewards(rewards).mean()),
        }
        examples = self.objective.training_examples(prompts, answers)
        old = score_old(self.engine, self.objective, examples, self.tokens, packed=self.packed, dropout_step=index)
        answered = self._answered(step, prompts[0], continuations[0], rewards[0].tolist())
        return _Round(index, answers, metrics, old), answered

    def _sample(self, prompts: Sequence[Example], seed: int, count: int) -> list[list[Continuation]]:
        """`count` continuations of each prompt by the current policy."""
        objective = self.objective
        stop = (*objective.stop, *self.codec.stop_strings_in_use)
        settings = Sampling(tokens=objective.tokens, temperature=objective.temperature, stop=stop, seed=seed)
        tokens = [example.rows[0].prompt for example in prompts]
        return self.engine.sample(tokens, settings, ends=self.codec.end_tokens, continuations=count)

    def _answered(
        self, step: int, prompt: Example, continuations: Sequence[Continuation], rewards: list[float]
    ) -> Answered:
        text = self.codec.tokenizer.decode(prompt.rows[0].prompt)[-MAX_EVENT_CHARACTERS:]
        answers = [continuation.text[:MAX_EVENT_CHARACTERS] for continuation in continuations]
        return Answered(step=step, where=prompt.id, prompt=text, answers=answers, rewards=rewards)

    def save(self, folder: Path, step: int) -> None:
        """Save the round if an update after `step` trains on it again: sampled anew, it would be another."""
        if self._round is None or step % self.objective.passes == 0:
            return
        answers = [answer for group in self._round.answers for answer in group]
        arrays: dict[str, NDArray[np.generic]] = {
            "tokens": np.concatenate([answer.tokens for answer in answers]),
            "sizes": np.array([len(answer.tokens) for answer in answers]),
            "rewards": np.array([answer.reward for answer in answers]),
            "ended": np.array([answer.ended for answer in answers]),
            **self._round.old_scores,
        }
        # A single metadata entry: safetensors writes several in no fixed order, and equal runs write equal files.
        metadata = {"round": json.dumps({"number": self._round.index, "metrics": dict(self._round.metrics)})}
        save_file({name: torch.from_numpy(array) for name, array in arrays.items()}, folder / FILE, metadata)

    def load(self, folder: Path, step: int) -> None:
        """Restore what `save` wrote; raise a CheckpointError if the file is needed and missing."""
        if step % self.objective.passes == 0:
            return
        if not (folder / FILE).exists():
            fix = "start a new run with its recipe.yaml"
            raise CheckpointError(f"{FILE} is missing, so a resume would not be exact", where=str(folder), fix=fix)
        with safe_open(folder / FILE, "np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is not a mapping
            metadata = json.loads(file.metadata()["round"])
        tokens = np.split(arrays["tokens"], np.cumsum(arrays["sizes"])[:-1])
        values = zip(tokens, arrays["rewards"].tolist(), arrays["ended"].tolist(), strict=True)
        answers, size = [RewardedAnswer(*value) for value in values], self.objective.group
        groups = [answers[start : start + size] for start in range(0, len(answers), size)]
        old = {name: array for name, array in arrays.items() if name not in ANSWER_ARRAYS}
        self._round = _Round(metadata["number"], groups, metadata["metrics"], old)


def _sampled_answers(
    prompts: Sequence[Example], continuations: Sequence[Sequence[Continuation]]
) -> list[list[SampledAnswer]]:
    """The answers as reward functions take them, with the record of their prompt."""
    return [
        [SampledAnswer(prompt.about, answer.text, len(answer.tokens), answer.reason != "length") for answer in group]
        for prompt, group in zip(prompts, continuations, strict=True)
    ]
