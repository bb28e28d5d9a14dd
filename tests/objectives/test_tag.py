"""What tagging learns of the entities of a text, and which of them it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_batches import batch_of, loss_and_metrics, small_codec
from word_texts import TEXT, tagged, word_codec

from bottega.data.example_cache import ExampleCache
from bottega.errors import DataError
from bottega.objectives._tags import snap_to_words
from bottega.objectives.tag import Scheme, Tag
from bottega.records import Entity, Tagged
from bottega.training.dataset import EncodedRows
from bottega.training.encoding import encode_record


def test_without_a_pre_tokenizer_characters_of_scripts_without_spaces_are_words(tmp_path: Path) -> None:
    made = word_codec(tmp_path / "m", "unsplit")
    record = tagged(("田中", "PER"), ("佐藤", "PER"))
    assert snap_to_words(record, made.encode_words("here", TEXT)[1]) == list(record.spans)
    assert Tag().rows(record, made)[0][0].label.tolist()[-5:] == [1, 2, 0, 1, 2]
    assert made.tally.untagged == 0


def test_entities_without_a_word_of_their_own_are_counted(tmp_path: Path) -> None:
    """Two in one word, and white space alone; a row that has no other is none."""
    made = word_codec(tmp_path / "m", "bytes")
    text = "Anna met AnnaMaria now"
    inner = (Entity(0, 4, "PER"), Entity(9, 13, "PER"), Entity(13, 18, "PER"))
    record = Tagged("1", text, inner)
    assert snap_to_words(record, made.encode_words("1", text)[1]) == [Entity(0, 4, "PER"), Entity(9, 18, "PER")]
    encoded = EncodedRows(ExampleCache())
    encoded.add(encode_record(record, Tag(), made))
    assert made.tally.untagged == 1
    encoded.add(encode_record(Tagged("2", text, (Entity(4, 5, "PER"),)), Tag(), made))
    assert encoded.dropped == {"none of its entities has a word of its own": 1}
    nothing = EncodedRows(ExampleCache())
    nothing.add(encode_record(Tagged("2", text, (Entity(4, 5, "PER"),)), Tag(), made))
    with pytest.raises(DataError, match="nothing to learn"):
        nothing.refuse_empty("rows.jsonl")


def test_what_lies_beyond_the_cut_is_not_counted_as_lost(tmp_path: Path) -> None:
    made = word_codec(tmp_path / "m", "bytes", length=6)
    Tag().rows(tagged(("Oslo", "LOC")), made)
    assert (made.tally.truncated, made.tally.untagged) == (1, 0)


CAT_AND_RED = Tagged("line 1", "the cat sat red", (Entity(4, 7, "animal"), Entity(12, 15, "colour")))


@pytest.mark.parametrize(
    ("scheme", "tags"),
    [
        ("BIO", ["O", "B-animal", "I-animal", "B-colour", "I-colour"]),
        ("BIOES", ["O", *(f"{prefix}-{name}" for name in ("animal", "colour") for prefix in "BIES")]),
    ],
)
def test_tags_are_counted_in_the_order_of_their_ids(scheme: Scheme, tags: list[str]) -> None:
    counts = Tag(scheme=scheme).count_labels([CAT_AND_RED, Tagged("line 2", "a dog", (Entity(2, 5, "animal"),))])
    assert list(counts) == tags
    assert (counts["B-animal"], counts["B-colour"]) == (2, 1)
    assert Tag(scheme=scheme).tag_scheme == scheme


def test_rows_without_any_span_are_refused() -> None:
    with pytest.raises(DataError, match="no row has a span") as caught:
        Tag().count_labels([Tagged("line 1", "a dog", ())])
    assert caught.value.where == "line 1"


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_cross_entropy_of_words_and_metrics_count_entities(smoothing: float) -> None:
    objective = Tag(label_smoothing=smoothing)
    batch = batch_of(
        objective, [CAT_AND_RED], small_codec(both_ways=True, labels=objective.count_labels([CAT_AND_RED]))
    )
    assert batch.label.tolist() == [0, 1, 0, 3]
    # The animal is found, the colour is not, and a colour is found where none is.
    predicted = torch.tensor([3, 1, 0, 0])
    logits = 2.0 * torch.nn.functional.one_hot(predicted, 5).double()
    loss, metrics = loss_and_metrics(objective, batch, logits=logits)
    assert loss == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits, batch.label, label_smoothing=smoothing))
    )
    assert metrics == pytest.approx({"accuracy": 2 / 4, "span_f1": 2 * 1 / (2 + 2)})
