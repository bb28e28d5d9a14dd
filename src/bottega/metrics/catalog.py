"""Every metric of an evaluation: its id, its label for people, its direction, its unit, and its former names.

Metrics of training events are not in here; neither are those of the lm-evaluation-harness and of the user, which are
called as their authors call them. Imports nothing but the standard library.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class MetricInfo:
    """A metric.

    id       its name in JSON, in `report.json`, and in `verdict.metric` of a recipe
    label    its name in sentences and tables
    higher   whether higher is better; None where neither is
    unit     empty for a fraction from 0 to 1
    aliases  former names, still accepted in `verdict.metric`
    """

    id: str
    label: str
    higher: bool | None = True
    unit: str = ""
    aliases: tuple[str, ...] = ()


_METRICS = (
    # Language models
    MetricInfo("loss", "loss", False, "nats"),
    MetricInfo("perplexity", "perplexity", False, "tokens"),
    MetricInfo("chosen_loss", "loss of the chosen answers", False, "nats", ("loss of the chosen",)),
    MetricInfo("preference_accuracy", "preference accuracy", aliases=("preference accuracy",)),
    MetricInfo("implicit_reward_accuracy", "implicit-reward accuracy", aliases=("raised accuracy",)),
    MetricInfo("choice_accuracy", "choice accuracy", aliases=("choice accuracy",)),
    MetricInfo("choice_accuracy_per_byte", "choice accuracy per byte", aliases=("choice accuracy, by length",)),
    MetricInfo("masked_accuracy", "masked-token accuracy", aliases=("right",)),
    MetricInfo("top_5_accuracy", "top-5 accuracy", aliases=("right among the first 5",)),
    # Generated answers
    MetricInfo("exact_match", "exact match", aliases=("exact match",)),
    MetricInfo("numeric_match", "numeric match", aliases=("right number",)),
    MetricInfo("fields_f1", "fields F1", aliases=("fields F1",)),
    MetricInfo("rouge_l", "ROUGE-L", aliases=("ROUGE-L",)),
    MetricInfo("bleu", "BLEU", unit="of 100", aliases=("BLEU",)),
    MetricInfo("chrf", "chrF", unit="of 100", aliases=("chrF",)),
    MetricInfo("judge_score", "judge's score", aliases=("judge's mark",)),
    MetricInfo("reward", "reward", unit="reward"),
    # Classes, numbers, spans
    MetricInfo("accuracy", "accuracy", aliases=("label accuracy",)),
    MetricInfo("f1_macro", "macro F1", aliases=("macro-F1",)),
    MetricInfo("f1_micro", "micro F1", aliases=("micro-F1",)),
    MetricInfo("subset_accuracy", "subset accuracy", aliases=("all labels right",)),
    MetricInfo("mae", "mean absolute error", False, "of the label", ("mean error",)),
    MetricInfo("rmse", "root mean squared error", False, "of the label", ("root mean squared error",)),
    MetricInfo("span_f1", "span F1", aliases=("span F1",)),
    MetricInfo("untyped_span_f1", "untyped span F1", aliases=("span F1, kinds aside",)),
    # Embeddings
    MetricInfo("accuracy_at_1", "accuracy@1", aliases=("nearest is right",)),
    MetricInfo("mrr", "mean reciprocal rank", aliases=("reciprocal rank",)),
    MetricInfo("cosine_mae", "mean absolute error of the cosine", False, "cosine", ("mean error of the cosine",)),
    # Side effects
    MetricInfo("memorized_training_rows", "memorized training rows", False),
    MetricInfo("memorized_evaluation_rows", "memorized evaluation rows", None),
    MetricInfo("harmful_refusals", "harmful requests refused"),
    MetricInfo("harmless_refusals", "harmless requests refused", False),
)

METRICS = {metric.id: metric for metric in _METRICS}

_BY_NAME = {name: metric.id for metric in _METRICS for name in (metric.label, *metric.aliases)}

# Metrics of which there is one for each reward, or each file: the id is the prefix and its name.
_FAMILIES = {"reward/": "reward, {}", "general_loss/": "loss on {}"}


def metric_label(metric: str) -> str:
    """The name of a metric for people; of one that is not in the catalog, its own."""
    if metric in METRICS:
        return METRICS[metric].label
    for prefix, label in _FAMILIES.items():
        if metric.startswith(prefix):
            return label.format(metric.removeprefix(prefix))
    return metric


def resolve_metric(name: str, measured: Collection[str]) -> str:
    """The id of a metric by its id, its label or a former name; what is not known comes back as it is.

    measured  ids that there are; they come first, as a user may have named a metric as another once was
    """
    if name in measured:
        return name
    if name in _BY_NAME:
        return _BY_NAME[name]
    for prefix, label in _FAMILIES.items():
        start = label.format("")
        if name.startswith(start):
            return prefix + name.removeprefix(start)
    return name
