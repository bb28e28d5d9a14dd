"""A model of bottega for EleutherAI's lm-evaluation-harness: `bottega evaluate RUN --lm-eval arc_easy`.

The harness makes the questions and the marks; we answer. All that it asks at once is packed, so that what requests
begin with, such as the examples of a 5-shot exam and the question of several choices, is computed once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, cast

import numpy as np
import torch

from bottega.batch import Row
from bottega.errors import RunError
from bottega.inference.language_model import LanguageModel
from bottega.metrics.scores import Scores, row_mean
from bottega.models.scorer import batched
from bottega.sampling import Sampling
from bottega.tokenization.template_sandbox import render

DEFAULT_TOKENS = 256
"""Most tokens of an answer where a task does not say."""


def harness_model(model: LanguageModel) -> Any:
    """An `lm_eval` model that answers with ours; a RunError where the package is not there."""
    base = _import_package("lm_eval.api.model").TemplateLM
    utils = _import_package("lm_eval.utils")

    class Harness(base):  # type: ignore[misc, valid-type]
        """Texts are cut into tokens as its `hf` model does it, so that both are asked exactly the same."""

        backend = "causal"

        def __init__(self) -> None:
            super().__init__()
            self.model, self.tokenizer = model, model.codec.tokenizer
            self.max_length = model.limit or 2048
            self.talks = False

        @property
        def eot_token_id(self) -> int:
            return cast(int, self.tokenizer.eos_token_id)

        @property
        def prefix_token_id(self) -> int:
            begins = self.tokenizer.bos_token_id
            return self.eot_token_id if begins is None else cast(int, begins)

        @property
        def tokenizer_name(self) -> str:
            return model.name.replace("/", "__")

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **more: Any) -> list[int]:
            if add_special_tokens is None:
                bos = self.tokenizer.bos_token
                given = bos is not None and string.startswith(bos)
                ids: list[int] = self.tokenizer.encode(string, add_special_tokens=not given)
                return ids
            return cast("list[int]", self.tokenizer.encode(string, add_special_tokens=add_special_tokens))

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            self.talks = True
            rendered = render(self.tokenizer, chat_history, generation=add_generation_prompt)  # within limits
            if add_generation_prompt:
                return rendered
            how = {"tokenize": False, "continue_final_message": True}
            return str(self.tokenizer.apply_chat_template(chat_history, **how))

        def _loglikelihood_tokens(self, requests: Sequence[Any], **more: Any) -> list[tuple[float, bool]]:
            found = score_rows(model, [self._row(asked, answer) for _, asked, answer in requests])
            for (texts, _, _), one in zip(requests, found, strict=True):
                if texts is not None:
                    self.cache_hook.add_partial("loglikelihood", texts, one)
            return found

        def _row(self, asked: list[int], answer: list[int]) -> Row:
            """The answer after what is asked, of which the model's last positions are read where it is too long."""
            ids = np.array((asked + answer)[-(self.max_length + 1) :], np.int64)
            at = np.arange(len(ids) - 1 - len(answer), len(ids) - 1)
            return Row(ids[:-1], at, ids[at + 1], np.ones(len(at), np.float32))

        def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
            windows = [
                (number, self._row(*utils.make_disjoint_window(window)))
                for number, request in enumerate(requests)
                for window in utils.get_rolling_token_windows(
                    token_list=self.tok_encode(request.args[0]),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=self.max_length,
                    context_len=1,
                )
            ]
            sums = [0.0] * len(requests)
            for (number, _), (logp, _) in zip(windows, score_rows(model, [row for _, row in windows]), strict=True):
                sums[number] += logp
            return sums

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
            texts = [""] * len(requests)
            order = sorted(range(len(requests)), key=lambda number: repr(requests[number].args[1]))
            for _, same in groupby(order, key=lambda number: repr(requests[number].args[1])):
                numbers = list(same)
                ends = model.codec.stop_strings if self.talks else ()
                settings = _sampling(requests[numbers[0]].args[1], self.max_length, ends)
                room = self.max_length - settings.tokens
                asked = [self.tok_encode(requests[number].args[0])[-room:] for number in numbers]
                for number, (written,) in zip(numbers, model.writer.write(asked, settings), strict=True):
                    texts[number] = written.text
            return texts

    return Harness()


@torch.no_grad()
def score_rows(model: LanguageModel, rows: Sequence[Row]) -> list[tuple[float, bool]]:
    """Of each row the log-probability of its labels, and whether each of them is the likeliest."""
    found = [(0.0, False)] * len(rows)
    for numbers, batch in batched(rows, model.scorer):
        out = model.scorer(batch, frozenset({"logp", "best"}))
        logp = batch.sum_rows(out["logp"]).tolist()
        wrong = batch.sum_rows((out["best"] != batch.label).float()).tolist()
        for number, one, missed in zip(numbers, logp, wrong, strict=True):
            found[number] = (one, missed == 0)
    return found


def run_lm_eval(
    model: LanguageModel, tasks: Sequence[str | Mapping[str, Any]], *, rows: int | None = None
) -> list[Scores]:
    """The marks of a model in tasks of the harness, question by question, so that two models can be compared.

    tasks  names, such as `arc_easy`, with `:5` for five examples before each question; or configurations of its own
    rows   most questions of each
    """
    found = list[Scores]()
    for task in tasks:
        given, shots = _parse_task(task)
        said = _import_package("lm_eval").simple_evaluate(
            model=harness_model(model),
            tasks=[given],
            num_fewshot=shots,
            limit=rows,
            log_samples=True,
            bootstrap_iters=0,
        )
        for name, samples in said["samples"].items():
            for metric in samples[0]["metrics"]:
                values = [sample.get(metric) for sample in samples]
                # Some marks, such as perplexity, are of a whole exam: they are no numbers of a question.
                if all(isinstance(value, (int, float)) for value in values):
                    found.append(row_mean(f"{name}: {metric}", values, higher=said["higher_is_better"][name][metric]))
    return found


def _parse_task(task: str | Mapping[str, Any]) -> tuple[Any, int | None]:
    """A task and how many examples stand before each question; None for as many as it says itself."""
    if not isinstance(task, str):
        return dict(task), None
    name, _, shots = task.partition(":")
    return name, int(shots) if shots.isdecimal() else None


def _sampling(given: Mapping[str, Any], limit: int, ends: tuple[str, ...] = ()) -> Sampling:
    """How the harness wants an answer to be written.

    ends  texts that end an answer beside those the task names
    """
    until = given.get("until") or ()
    stop = ((until,) if isinstance(until, str) else tuple(until)) + ends
    names = ("temperature", "top_p", "top_k", "min_p") if given.get("do_sample") else ()
    drawn = {name: given.get(name) for name in names}
    tokens = given.get("max_gen_toks") or given.get("max_new_tokens") or DEFAULT_TOKENS
    return Sampling(tokens=min(tokens, limit // 2), stop=stop, **{k: v for k, v in drawn.items() if v is not None})


def _import_package(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError:
        what = "EleutherAI's lm-evaluation-harness is not installed"
        raise RunError(what, where="--lm-eval", fix="pip install lm-eval") from None
