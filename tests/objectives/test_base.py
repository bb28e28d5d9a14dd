"""What every objective has by default, the weighted likelihood, and label smoothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from small_batches import batch_of, encode, loss_and_metrics, small_codec

from bottega.batch import Batch, Example, Loss, Row
from bottega.objectives import Likelihood, Objective, Score, Statistic, build_objective, completion_row, smoothed_nll
from bottega.records import Posed, Preference, Prompted, Record, Text, Unpaired
from bottega.tokenization.codec import Codec


class Plain(Objective):
    """Only what an objective must have."""

    kind: str = "plain"
    file: str | None = None

    def rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        assert isinstance(record, Text)
        return [(row,) for row in codec.encode_document(record)]

    def loss(self, scores: Any, batch: Batch) -> Loss:
        return Loss({})


class Weighted(Likelihood):
    """The likelihood of answers."""

    kind: str = "weighted"

    def rows(self, record: Record, codec: Codec) -> list[tuple[Row, ...]]:
        assert isinstance(record, Prompted)
        return [(codec.encode_answers(record),)]


def test_an_objective_needs_rows_and_a_loss_and_nothing_else() -> None:
    plain, record = Plain(), Text("line 1", "the cat sat")
    (example,) = encode(plain, [record])
    codec = small_codec()
    assert plain.augment(example, codec, 3) is example
    assert plain.window_tokens(example.rows[0], codec) is example.rows[0].tokens
    assert plain.window_row(example.rows[0].tokens, codec) is None
    (evaluated,) = plain.evaluation_rows(record, codec)
    assert evaluated[0].tokens.tolist() == example.rows[0].tokens.tolist()
    assert (plain.metadata(record), plain.prompt_and_reference(record), plain.count_labels([record])) == (
        None,
        None,
        {},
    )
    assert (plain.needs, plain.model_names, plain.code_files, plain.on_policy) == ((), (), (), None)
    assert (plain.prediction, plain.tag_scheme, plain.pooling_mode, plain.closing_note([])) == (None, "", None, "")
    assert (plain.weighted, plain.smoothing, plain.logit_temperature) == (False, 0.0, 1.0)
    assert plain.is_informative([example])
    assert Plain.class_for({"kind": "plain"}) is Plain
    with pytest.raises(TypeError, match="abstract"):
        Objective(kind="none")  # type: ignore[abstract]


def test_an_objective_is_a_value_with_finite_known_options() -> None:
    objective = build_objective({"kind": "dpo", "beta": 0.2})
    assert objective == build_objective({"kind": "dpo", "beta": 0.2})
    assert objective != build_objective({"kind": "dpo"})
    for options in ({"beta": float("nan")}, {"bta": 0.2}):
        with pytest.raises(ValidationError):
            build_objective({"kind": "dpo", **options})
    with pytest.raises(ValidationError, match="frozen"):
        objective.beta = 0.3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("needs", "compares"),
    [
        ((Score("reference", by="reference"),), True),
        ((Score("old", by="old"),), False),
        ((Statistic(lambda *_: [], lambda *_: {}),), False),
    ],
)
def test_a_score_by_the_reference_needs_a_frozen_copy(needs: tuple[Any, ...], compares: bool) -> None:
    class Needy(Plain):
        @property
        def needs(self) -> tuple[Score | Statistic, ...]:
            return needs

    assert Needy().compares_with_reference is compares


def test_the_users_file_is_the_code_that_runs() -> None:
    assert [str(path) for path in Plain(file="mine.py").code_files] == ["mine.py"]


def test_a_likelihood_is_a_mean_over_weights() -> None:
    objective = Weighted(label_smoothing=0.1)
    assert (objective.weighted, objective.smoothing) == (True, 0.1)
    batch = batch_of(objective, [Prompted("1", "the cat", " sat on"), Prompted("2", "a dog", " ran")])
    logp = -torch.arange(1.0, len(batch.at) + 1)
    loss, metrics = loss_and_metrics(objective, batch, logp=logp)
    assert loss == pytest.approx(float((batch.weight * -logp).sum() / batch.weight.sum()))
    assert metrics == {}


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_smoothed_nll_is_torchs_cross_entropy(smoothing: float) -> None:
    torch.manual_seed(0)
    logits, label = torch.randn(5, 7, dtype=torch.float64), torch.tensor([0, 6, 2, 2, 4])
    wanted = torch.nn.functional.cross_entropy(logits, label, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(smoothed_nll(logits, label, smoothing), wanted)


@pytest.mark.parametrize(
    "record",
    [
        Posed("1", "the cat", " sat on"),
        Preference("1", "the cat", " sat on", " ran"),
        Unpaired("1", "the cat", " sat on", True),
    ],
)
def test_a_completion_carries_the_loss_and_its_prompt_does_not(record: Posed | Preference | Unpaired) -> None:
    codec = small_codec()
    row = completion_row(record, " sat on", codec)
    wanted = codec.encode_answers(Prompted("1", "the cat", " sat on"))
    assert row.tokens.tolist() == wanted.tokens.tolist()
    assert row.at.tolist() == wanted.at.tolist()
    assert int(row.at[0]) + 1 == len(codec.encode_prompt("the cat"))
    assert Example("1", (row,)).tokens == len(row.tokens)
