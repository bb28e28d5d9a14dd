"""A bottega model for EleutherAI's lm-evaluation-harness: `bottega evaluate RUN --lm-eval arc_easy`.

The harness makes the questions and the scores; bottega's model answers. All requests of a call are packed, so that a
prefix they share, such as the examples of a 5-shot prompt or the question of several choices, is computed once.
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
from bottega.models.scorer import score_batches
from bottega.sampling import Sampling
from bottega.tokenization.template_sandbox import render

# Tokens of a generated answer where a task sets no limit; the default of the harness itself.
DEFAULT_TOKENS = 256


def harness_model(model: LanguageModel) -> Any:
    """An `lm_eval` model backed by a bottega model; a RunError where the package is not installed."""
    # Imported here, as the package is optional and slow to import.
    base = _import_package("lm_eval.api.model").TemplateLM
    utils = _import_package("lm_eval.utils")

    class Harness(base):  # type: ignore[misc, valid-type]
        """Tokenizes texts as the harness's own `hf` model does, so that log-likelihoods are equal to its."""

        backend = "causal"

        def __init__(self) -> None:
            super().__init__()
            self.model, self.tokenizer = model, model.codec.tokenizer
            self.max_length = model.limit or 2048
            self.is_chat = False

        @property
        def eot_token_id(self) -> int:
            return cast(int, self.tokenizer.eos_token_id)

        @property
        def prefix_token_id(self) -> int:
            bos = self.tokenizer.bos_token_id
            return self.eot_token_id if bos is None else cast(int, bos)

        @property
        def tokenizer_name(self) -> str:
            return model.name.replace("/", "__")

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **more: Any) -> list[int]:
            if add_special_tokens is None:
                bos = self.tokenizer.bos_token
                # A chat template may have written the BOS token into the text, which must not have two.
                has_bos = bos is not None and string.startswith(bos)
                ids: list[int] = self.tokenizer.encode(string, add_special_tokens=not has_bos)
                return ids
            return cast("list[int]", self.tokenizer.encode(string, add_special_tokens=add_special_tokens))

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            self.is_chat = True
            rendered = render(self.tokenizer, chat_history, generation=add_generation_prompt)  # within limits
            if add_generation_prompt:
                return rendered
            options = {"tokenize": False, "continue_final_message": True}
            return str(self.tokenizer.apply_chat_template(chat_history, **options))

        def _loglikelihood_tokens(self, requests: Sequence[Any], **more: Any) -> list[tuple[float, bool]]:
            scores = score_rows(model, [self._row(prompt, answer) for _, prompt, answer in requests])
            for (texts, _, _), score in zip(requests, scores, strict=True):
                if texts is not None:
                    self.cache_hook.add_partial("loglikelihood", texts, score)
            return scores

        def _row(self, prompt: list[int], answer: list[int]) -> Row:
            """The answer after the prompt, which loses its beginning where both are too long for the model."""
            # One more than the limit: the last token is only predicted, never read.
            ids = np.array((prompt + answer)[-(self.max_length + 1) :], np.int64)
            at = np.arange(len(ids) - 1 - len(answer), len(ids) - 1)
            return Row(ids[:-1], at, ids[at + 1], np.ones(len(at), np.float32))

        def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
            # Disjoint windows: every token is predicted once, whatever the model's length.
            windows = [
                (index, self._row(*utils.make_disjoint_window(window)))
                for index, request in enumerate(requests)
                for window in utils.get_rolling_token_windows(
                    token_list=self.tok_encode(request.args[0]),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=self.max_length,
                    context_len=1,
                )
            ]
            sums = [0.0] * len(requests)
            for (index, _), (logp, _) in zip(windows, score_rows(model, [row for _, row in windows]), strict=True):
                sums[index] += logp
            return sums

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
            texts = [""] * len(requests)
            # Requests with equal settings are generated in one batch; settings are dicts, so their text is the key.
            order = sorted(range(len(requests)), key=lambda index: repr(requests[index].args[1]))
            for _, same in groupby(order, key=lambda index: repr(requests[index].args[1])):
                indices = list(same)
                ends = model.codec.stop_strings if self.is_chat else ()
                settings = _sampling(requests[indices[0]].args[1], self.max_length, ends)
                room = self.max_length - settings.tokens
                prompts = [self.tok_encode(requests[index].args[0])[-room:] for index in indices]
                for index, (answer,) in zip(indices, model.writer.write(prompts, settings), strict=True):
                    texts[index] = answer.text
            return texts

    return Harness()


@torch.no_grad()
def score_rows(model: LanguageModel, rows: Sequence[Row]) -> list[tuple[float, bool]]:
    """For each row the log-probability of its labels, and whether every label is the most likely token."""
    scores = [(0.0, False)] * len(rows)
    for indices, batch in score_batches(rows, model.scorer):
        out = model.scorer(batch, frozenset({"logp", "best"}))
        logp = batch.sum_rows(out["logp"]).tolist()
        wrong = batch.sum_rows((out["best"] != batch.label).float()).tolist()  # labels that are not the most likely
        for index, row_logp, missed in zip(indices, logp, wrong, strict=True):
            scores[index] = (row_logp, missed == 0)
    return scores


def run_lm_eval(
    model: LanguageModel, tasks: Sequence[str | Mapping[str, Any]], *, rows: int | None = None
) -> list[Scores]:
    """Scores in tasks of the harness, per question, so that two models can be compared.

    tasks  names, such as `arc_easy`, or `arc_easy:5` for 5-shot; or task configurations
    rows   maximum number of questions per task
    """
    scores = list[Scores]()
    for task in tasks:
        name_or_config, shots = _parse_task(task)
        result = _import_package("lm_eval").simple_evaluate(
            model=harness_model(model),
            tasks=[name_or_config],
            num_fewshot=shots,
            limit=rows,
            log_samples=True,
            bootstrap_iters=0,
        )
        for name, samples in result["samples"].items():
            for metric in samples[0]["metrics"]:
                values = [sample.get(metric) for sample in samples]
                # Some metrics, such as perplexity, are of a whole task, and have no value per question.
                if all(isinstance(value, (int, float)) for value in values):
                    scores.append(
                        row_mean(f"{name}: {metric}", values, higher=result["higher_is_better"][name][metric])
                    )
    return scores


def _parse_task(task: str | Mapping[str, Any]) -> tuple[Any, int | None]:
    """(the task, its number of few-shot examples); None for the number that the task itself sets."""
    if not isinstance(task, str):
        return dict(task), None
    name, _, shots = task.partition(":")
    return name, int(shots) if shots.isdecimal() else None


def _sampling(given: Mapping[str, Any], limit: int, ends: tuple[str, ...] = ()) -> Sampling:
    """The sampling settings of a generation request.

    ends  texts that end an answer beside those of the task
    """
    until = given.get("until") or ()
    stop = ((until,) if isinstance(until, str) else tuple(until)) + ends
    names = ("temperature", "top_p", "top_k", "min_p") if given.get("do_sample") else ()
    sampled = {name: given.get(name) for name in names}
    tokens = given.get("max_gen_toks") or given.get("max_new_tokens") or DEFAULT_TOKENS
    # Half of the positions are left to the prompt.
    return Sampling(tokens=min(tokens, limit // 2), stop=stop, **{k: v for k, v in sampled.items() if v is not None})


def _import_package(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError:
        what = "EleutherAI's lm-evaluation-harness is not installed"
        raise RunError(what, where="--lm-eval", fix="pip install lm-eval") from None
