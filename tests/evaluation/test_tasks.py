"""Evaluation of each kind of task: classification, embedding, language, masked_lm, tagging.

Two runs of the same task are compared on the rows that both can read, whatever their tokenizers and labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import bottega
from bottega.batch import Row
from bottega.errors import DataError
from bottega.evaluation import tasks
from bottega.evaluation.context import EvaluationContext
from bottega.evaluation.evaluate import evaluate
from bottega.evaluation.tasks import classification, embedding, language, masked_lm, tagging
from bottega.metrics.scores import Scores, row_mean
from bottega.objectives import DEFAULT_KINDS
from bottega.recipe.schema import Recipe
from bottega.records import Entity, Preference, Tagged, Text
from making import WORDS, make_model, write_jsonl

LONG = " ".join(WORDS)
ROWS: dict[str, list[dict[str, Any]]] = {
    "tag": [
        {"text": f"the {animal} {word} here", "spans": [{"start": 4, "end": 4 + len(animal), "label": "animal"}]}
        for animal in ("cat", "dog")
        for word in WORDS
    ],
    "dpo": [
        {"prompt": f"the {animal} {word}{f' {LONG}' if number % 3 == 0 else ''}", "chosen": " on", "rejected": " under"}
        for animal in ("cat", "dog")
        for number, word in enumerate(WORDS)
    ],
}
ROWS["reward"] = ROWS["dpo"]
ROWS["classify"] = [
    {"text": row["prompt"], "label": "red" if "cat" in row["prompt"] else "blue"} for row in ROWS["dpo"]
]
ROWS["sft"] = [{"prompt": row["text"], "completion": f" {row['label']}"} for row in ROWS["classify"]]


def use_byte_tokenizer(folder: Path) -> None:
    """Give a model a tokenizer of single bytes, whose rows are several times as long."""
    special = ["<s>", "</s>", "<pad>", "<unk>", "<mask>"]
    vocabulary = {
        token: number for number, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])
    }
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    names = dict(zip(("bos_token", "eos_token", "pad_token", "unk_token", "mask_token"), special, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(str(folder))


@pytest.fixture(scope="module")
def build_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A run; made once each."""
    folder = tmp_path_factory.mktemp("two")
    kinds = {"tag": "bert", "classify": "bert"}

    def build(kind: str, name: str, *, byte_tokenizer: bool = False, rows: Any = None, **more: Any) -> Path:
        run = folder / f"{kind}-{name}"
        if not run.exists():
            base = make_model(folder / f"{kind}-{name}-base", kinds.get(kind, "llama"), max_position_embeddings=512)
            if byte_tokenizer:
                use_byte_tokenizer(base)
            document: dict[str, Any] = {
                "model": {"base": str(base), "dtype": "float32"},
                "data": {
                    "train": str(write_jsonl(folder / f"{kind}-{name}.jsonl", rows or ROWS[kind])),
                    "validation": 0.4,
                    **more.pop("data", {}),
                },
                "objective": {"kind": kind, **more.pop("objective", {})},
                "optim": {"steps": 2, "examples": 8, "lr": 3e-3},
            }
            list(bottega.train(Recipe.parse(document | more), run))
        return run

    return build


# Sections of a run that need not learn anything.
SHORT: dict[str, Any] = {"optim": {"steps": 1, "examples": 8}, "evaluate": None}

# Rows with all words are too long for a tokenizer of bytes, and short enough for the other.
LIMIT = {"max_length": 100, "too_long": "drop"}


def test_taggers_with_other_tokenizers_labels_and_schemes_are_compared(build_run: Callable[..., Path]) -> None:
    run = build_run("tag", "run")
    places = [
        {**row, "spans": [{**row["spans"][0], "label": "beast"}, {"start": 0, "end": 3, "label": "the"}]}
        for row in ROWS["tag"]
    ]
    scheme = build_run("tag", "scheme", objective={"scheme": "BIOES"})
    labels = build_run("tag", "labels", rows=places)
    other = build_run("tag", "bytes", byte_tokenizer=True)
    result = evaluate(run, against=[str(scheme), str(labels), str(other), str(run)])
    assert [each.name for each in result.others] == ["tag-scheme", "tag-labels", "tag-bytes", "tag-run"]
    assert {len(each.estimates) for each in result.others} == {2}
    assert {estimate.rows for each in result.others for estimate in each.estimates} == {result.rows}
    assert all(estimate.run == estimate.base for estimate in result.others[-1].estimates)
    spans, untyped = result.others[1].estimates
    assert spans.base == 0.0, "no label in common"
    assert untyped.base is not None
    assert not result.unasked


def test_a_tagger_that_finds_no_word_in_a_text_is_compared_on_the_others(
    build_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bottega.records import Unusable
    from bottega.tokenization.codec import Codec

    run, other = build_run("tag", "run"), build_run("tag", "bytes", byte_tokenizer=True)
    windows = Codec.encode_word_windows

    def refuse(self: Codec, text: str) -> Any:
        if len(self.tokenizer) < 270 and "sat" in text:
            raise Unusable("has no words")
        return windows(self, text)

    monkeypatch.setattr(Codec, "encode_word_windows", refuse)
    rows = [row for row in ROWS["tag"] if "cat" in row["text"]]
    data = write_jsonl(other.parent / "cats.jsonl", rows)
    result = evaluate(run, str(data), against=[str(other), str(run)])
    assert result.unasked == {str(other): f"it cannot read 1 of {len(rows)} rows; they are left out"}
    assert [each.estimates[0].rows for each in result.others] == [len(rows) - 1, len(rows)]


@pytest.mark.parametrize("kind", ["dpo", "reward", "classify", "sft"])
def test_rows_that_a_second_model_drops_are_left_out_of_its_comparison_alone(
    build_run: Callable[..., Path], kind: str
) -> None:
    adapter = {"adapter": {"rank": 2}} if kind == "dpo" else {}
    run = build_run(kind, "limited", data=LIMIT, **adapter)
    other = build_run(kind, "bytes", byte_tokenizer=True, **adapter)
    result = evaluate(run, against=[str(other), str(run)], answers=8)
    shorter, same = result.others
    assert "rows; they are left out" in result.unasked[str(other)]
    assert not result.dropped
    assert {each.rows for each in same.estimates} >= {result.rows}
    assert 0 < shorter.estimates[0].rows < result.rows
    assert len(result.records) == result.rows
    assert all(estimate.run == estimate.base for estimate in same.estimates)


def test_a_second_embedder_that_drops_a_text_is_named(build_run: Callable[..., Path]) -> None:
    pairs = [
        {"anchor": f"{one} {other}", "positive": f"{other} {one}{f' {LONG}' if one == 'the' else ''}"}
        for one in WORDS[:6]
        for other in WORDS[6:14]
    ]
    run = build_run("contrastive", "limited", rows=pairs, data=LIMIT)
    other = build_run("contrastive", "bytes", rows=pairs, byte_tokenizer=True)
    result = evaluate(run, against=[str(other), str(run)])
    assert "ranks among fewer texts cannot be compared" in result.unasked[str(other)]
    assert [each.name for each in result.others] == ["contrastive-limited"]
    assert len(result.records) == result.rows


def test_classifiers_and_regressions_are_compared_with_the_nearest_rows(
    trained: Callable[..., Path], tmp_path: Path
) -> None:
    run, llama = trained("classify", model="bert", **SHORT), make_model(tmp_path / "llama")
    found = evaluate(run, against=["bm25", "dense", f"few-shot={llama}", f"zero-shot={llama}", "few-shot", str(run)])
    assert [one.name for one in found.others] == [
        "nearest training rows, bm25", "nearest training rows, dense", "llama, few-shot", "llama, zero-shot",
        "classify-bert--optim-evaluate",
    ]  # fmt: skip
    for one in found.others[:4]:
        assert [each.metric for each in one.estimates] == ["accuracy", "f1_macro"]
    assert found.unasked == {"few-shot": "no language model given: few-shot=FOLDER"}
    numbers = evaluate(trained("regress", model="bert", **SHORT))
    assert [one.name for one in numbers.others] == ["nearest training rows, bm25", "nearest training rows, dense"]
    error = numbers.others[0].estimate("mae")
    assert error is not None
    assert error.base is not None
    assert numbers.estimates[0].base is not None
    assert error.base < 0.7 * numbers.estimates[0].base, "the number stands in the text, beside a word"


def test_an_embedder_is_compared_with_bm25(trained: Callable[..., Path]) -> None:
    found = evaluate(trained("contrastive", model="bert", **SHORT))
    assert found.others[0].name == "the words they share, BM25"
    nearest = found.others[0].estimate("accuracy_at_1")
    assert nearest is not None
    assert nearest.base == 1.0, "both texts of a pair have the same words"


# classification


def classes(*labels: int) -> list[Row]:
    """Rows of a class each."""
    return [row(label=[label]) for label in labels]


def row(*, tokens: int = 3, label: list[Any] | None = None, **columns: list[Any]) -> Row:
    values = np.array([0] if label is None else label)
    arrays = {name: np.array([column]) for name, column in columns.items()}
    return Row(np.arange(tokens), np.arange(len(values)), values, np.ones(len(values), np.float32), columns=arrays)


def metrics(scores: Sequence[Scores]) -> dict[str, float]:
    return {each.metric: float(each.statistic(each.sums[each.known].sum(0))) for each in scores}


def test_the_most_frequent_label_has_the_loss_of_the_label_frequencies() -> None:
    result = classification._most_frequent(["a", "b", "c"], {"b": 7, "c": 1}, classes(1, 1, 2, 0))
    assert (result.name, result.base) == ("always b, the most frequent label", True)
    # Counts start at one.
    loss = -np.log(np.array([8, 8, 2, 1]) / 11).mean()
    assert metrics(result.scores) == pytest.approx({"loss": loss, "accuracy": 0.5, "f1_macro": (2 / 3) / 3})


def test_sets_of_labels_are_right_as_a_whole_or_in_part() -> None:
    predicted = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0]], bool)
    labels = np.array([[1, 0, 1], [0, 1, 1], [1, 0, 0]], bool)
    scores = metrics(classification._label_sets(predicted, labels))
    assert scores == pytest.approx({"subset_accuracy": 1 / 3, "f1_micro": 2 * 3 / (3 + 5)})
    frequent = classification._most_frequent_of_several(
        ["a", "b", "c"], {"a": 2, "c": 5}, [row(present=list(line)) for line in labels.astype(int).tolist()]
    )
    assert frequent.name == "always c, the most frequent label"
    assert metrics(frequent.scores)["f1_micro"] == pytest.approx(2 * 2 / (3 + 5))


def test_errors_of_numbers() -> None:
    scores = metrics(classification._errors(np.array([1.0, 5.0]), np.array([2.0, 2.0])))
    assert scores == pytest.approx({"mae": 2.0, "rmse": 5**0.5})


def test_a_reward_model_prefers_the_answer_with_the_higher_score() -> None:
    logits = np.array([[2.0], [1.0], [0.0], [0.5], [1.0], [1.0]])
    (scores,) = classification._score_preferences(None, logits, [])  # type: ignore[arg-type]
    assert scores.each is not None
    assert scores.each.tolist() == [1.0, 0.0, 0.0]


def test_the_longer_answer_is_taken_and_a_tie_is_decided_by_the_answer_itself() -> None:
    assert classification._is_longer(row(tokens=4), row(tokens=3), seed=0)
    assert not classification._is_longer(row(tokens=3), row(tokens=4), seed=0)
    ties = [classification._is_longer(row(tokens=size), row(tokens=size), seed=0) for size in range(1, 200)]
    assert 60 < sum(ties) < 140
    assert ties == [classification._is_longer(row(tokens=size), row(tokens=size), seed=0) for size in range(1, 200)]


# embedding

PAIR = {"pair": 1, "compared": 0, "score": 0.0}


def columns(*texts: tuple[int, int]) -> dict[str, Any]:
    """The columns of pairs of an anchor and its positive, by the number of each text."""
    rows = []
    for number, (anchor, positive) in enumerate(texts):
        pair = {**PAIR, "group": number, "anchor_text": anchor}
        rows.append({**pair, "pair": 0, "anchor": 1, "positive": 0, "text": anchor})
        rows.append({**pair, "anchor": 0, "positive": 1, "text": positive})
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def test_the_rank_of_a_positive_counts_the_texts_above_it_and_half_of_those_beside_it() -> None:
    similarity = np.array([[0.9, 0.1, 0.2], [0.9, 0.5, 0.7], [0.3, 0.3, 0.3]], np.float32)
    given = columns((1, 11), (2, 12), (3, 13))
    assert embedding._ranks(similarity, given).tolist() == [1.0, 3.0, 2.0]
    scores = metrics(embedding._score_ranks(similarity, given))
    assert scores == pytest.approx({"accuracy_at_1": 1 / 3, "mrr": (1 + 1 / 3 + 1 / 2) / 3})


def test_other_texts_that_belong_to_an_anchor_are_left_out_of_its_ranking() -> None:
    similarity = np.array([[0.5, 0.9], [0.9, 0.5]], np.float32)
    assert embedding._ranks(similarity, columns((1, 11), (2, 12))).tolist() == [2.0, 2.0]
    # Both have the same positive: none is wrong, so nothing can be ranked.
    assert np.isnan(embedding._ranks(similarity, columns((1, 11), (2, 11)))).all()
    with pytest.raises(DataError, match="no ranking can be wrong"):
        embedding._refuse_single_group([Text("row 1", "x")], columns((1, 11), (2, 11)))
    embedding._refuse_single_group([Text("row 1", "x")], columns((1, 11), (2, 12)))


# language


def test_the_likelier_answer_is_preferred_and_the_loss_is_per_token_of_the_chosen() -> None:
    rows = [row(label=[0] * size) for size in (2, 1, 3, 1, 1, 1)]
    scores = metrics(language._score_preferences(rows, np.array([1.0, 2.0, 4.0, 3.0, 5.0, 6.0])))
    assert scores == pytest.approx({"preference_accuracy": 2 / 3, "chosen_loss": (1 + 4 + 5) / (2 + 3 + 1)})


def test_rows_are_preferences_where_each_record_makes_a_chosen_and_a_rejected_one() -> None:
    pair = Preference("row 1", "?", "yes", "no")
    assert language._is_preference([pair], [row(), row()])
    assert not language._is_preference([pair], [row()])
    assert not language._is_preference([Text("row 1", "x")], [row(), row()])


def test_losses_of_two_vocabularies_are_not_compared() -> None:
    def model(*words: str) -> Any:
        vocabulary = {word: number for number, word in enumerate(words)}
        return SimpleNamespace(codec=SimpleNamespace(tokenizer=SimpleNamespace(get_vocab=lambda: vocabulary)))

    scores = [row_mean(metric, [1.0]) for metric in ("loss", "perplexity", "accuracy", "chosen_loss", "bleu")]
    assert language._comparable(scores, model("a"), model("a")) == scores
    kept = language._comparable(scores, model("a"), model("b"))
    assert [each.metric for each in kept] == ["accuracy", "bleu"]


# masked_lm


def test_the_scores_of_masked_positions_are_weighted_by_their_number() -> None:
    rows = [row(label=[5]), row(label=[5, 6, 7])]
    scores = masked_lm._scores(rows, np.array([1.0, 6.0]), np.array([1.0, 1.0]), np.array([1.0, 2.0]))
    assert metrics(scores) == {"loss": 7 / 4, "masked_accuracy": 2 / 4, "top_5_accuracy": 3 / 4}
    assert [each.higher for each in scores] == [False, True, True]


# tagging


def test_entities_count_with_their_label_or_by_their_boundaries_alone() -> None:
    words = [(0, 3), (4, 7), (8, 12)]
    record = Tagged("row 1", "Ada met Rome", (Entity(0, 3, "person"), Entity(8, 12, "place")))
    # One is right, one has another label and is widened to its word, and one is not there.
    predicted = [Entity(0, 3, "person"), Entity(9, 11, "person"), Entity(4, 7, "place")]
    scores = metrics(tagging._span_f1([record], [predicted], [words]))
    assert scores == pytest.approx({"span_f1": 2 * 1 / 5, "untyped_span_f1": 2 * 2 / 5})
    assert metrics(tagging._span_f1([record], [[]], [words])) == {"span_f1": 0.0, "untyped_span_f1": 0.0}


def test_entities_without_a_word_of_their_own_are_noted() -> None:
    record = Tagged("row 1", "Ada met Rome", (Entity(0, 3, "person"), Entity(8, 12, "place")))
    notes = list[tuple[str, str]]()
    context = cast(EvaluationContext, SimpleNamespace(note=lambda *note: notes.append(note)))
    tagging._note_lost_entities(context, [record], [[(0, 3), (4, 7)]])
    assert notes == [("entities", "1 of 2 have no word of their own, and are not counted")]
    tagging._note_lost_entities(context, [record], [[(0, 3), (4, 7), (8, 12)]])
    assert len(notes) == 1


def test_every_head_has_its_task_and_default_baselines() -> None:
    assert set(tasks.TASKS_BY_HEAD) == set(DEFAULT_KINDS)
    assert {head: tasks.default_baselines(head) for head in tasks.TASKS_BY_HEAD} == {
        "language": ("few-shot", "bm25"), "sequence": ("bm25", "dense"), "token": (), "masked": (),
        "embedding": ("bm25",),
    }  # fmt: skip
