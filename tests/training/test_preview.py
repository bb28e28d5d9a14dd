"""What a preview says of rows whose labels are no tokens to come: tags, classes, numbers, what is covered or judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import bottega
from bottega.recipe.schema import Recipe
from bottega.training.preview import Preview
from making import make_model, write_jsonl

TEXT = "the cat sat on the mat"
SPAN = {"start": 4, "end": 7, "label": "animal"}


def shown(folder: Path, model: Path, rows: list[dict[str, Any]], **objective: Any) -> Preview:
    data = write_jsonl(folder / "rows.jsonl", rows)
    document = {"model": {"base": str(model)}, "data": {"train": str(data)}, "objective": objective}
    return bottega.preview(Recipe.parse(document), rows=1)


def labelled(preview: Preview) -> list[list[tuple[str, str]]]:
    """Of each row of the first example the pieces that carry loss, with what is said of them."""
    ((_, rows),) = preview.examples
    return [[(piece.text, piece.label) for piece in pieces if piece.weight] for pieces in rows]


@pytest.mark.parametrize(
    "row",
    [
        {"text": TEXT, "spans": [SPAN]},
        {"text": TEXT, "label": [[3, 7, "animal"]]},
        {"tokens": TEXT.split(), "ner_tags": ["O", "U-animal", "O", "O", "O", "O"]},
    ],
)
def test_each_word_has_its_tag(row: dict[str, Any], llama: Path, tmp_path: Path) -> None:
    (words,) = labelled(shown(tmp_path, llama, [row], kind="tag"))
    assert [label for _, label in words] == ["O", "B-animal", "O", "O", "O", "O"]


def test_spans_that_are_written_out_carry_loss(llama: Path, tmp_path: Path) -> None:
    preview = shown(tmp_path, llama, [{"text": TEXT, "spans": [SPAN]}], kind="sft")
    (said,) = labelled(preview)
    assert "".join(text for text, _ in said).startswith('[{"label": "animal", "text": "cat"}]')


def test_a_covered_token_says_what_it_was(bert: Path, tmp_path: Path) -> None:
    (covered,) = labelled(shown(tmp_path, bert, [{"text": TEXT}], kind="masked"))
    assert covered
    assert all(label.strip() in TEXT for _, label in covered)
    assert all(label for _, label in covered)


def test_a_prompt_that_is_judged_shows_the_right_answer(llama: Path, tmp_path: Path) -> None:
    rows = [{"prompt": TEXT, "answer": "red"}, {"prompt": "the", "answer": "blue"}]
    assert shown(tmp_path, llama, rows, kind="grpo", rewards="exact", tokens=4).labels == [["right: red"]]


@pytest.mark.parametrize(("labels", "said"), [(["b", "a"], "a, b"), ([], "none")])
def test_a_text_with_several_labels_shows_them(labels: list[str], said: str, llama: Path, tmp_path: Path) -> None:
    rows = [{"text": TEXT, "labels": labels}, {"text": "the dog", "labels": ["a", "b"]}]
    preview = shown(tmp_path, llama, rows, kind="classify", multi_label=True)
    assert preview.labels == [[said]]
    assert [label for _, label in labelled(preview)[0]] == [said]


def test_texts_that_are_compared_show_how_alike_they_are(llama: Path, tmp_path: Path) -> None:
    rows = [{"sentence1": "the cat", "sentence2": "a cat", "score": 0.25}] * 2
    assert shown(tmp_path, llama, rows, kind="contrastive").labels[0][1] == "alike: 0.25"


def test_what_a_decoder_is_to_write_of_a_span_carries_loss(tmp_path: Path) -> None:
    preview = shown(tmp_path, make_model(tmp_path / "t5", "t5"), [{"text": TEXT + " and ran " * 4}], kind="span")
    (written,) = labelled(preview)
    assert any("<extra_id_0>" in text for text, _ in written)
