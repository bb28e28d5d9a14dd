"""What a preview shows: the pieces of a row join to its text, and each has its label and weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_styles import assistant, byte_level, codec, tokenizer_of, user

import bottega
from bottega.batch import Row
from bottega.recipe.schema import Recipe
from bottega.records import Chat, Prompted, Text
from bottega.training.preview import Preview, dry_run, token_pieces
from making import make_model, write_jsonl

TEXT = "the cat sat on the mat"
SPAN = {"start": 4, "end": 7, "label": "animal"}


def shown(folder: Path, model: Path, rows: list[dict[str, Any]], **objective: Any) -> Preview:
    data = write_jsonl(folder / "rows.jsonl", rows)
    document = {"model": {"base": str(model)}, "data": {"train": str(data)}, "objective": objective}
    return bottega.preview(Recipe.parse(document), rows=1)


def labelled(preview: Preview) -> list[list[tuple[str, str]]]:
    """For each row of the first example, its pieces that carry loss, with their labels."""
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


def test_a_masked_token_shows_the_original(bert: Path, tmp_path: Path) -> None:
    (masked,) = labelled(shown(tmp_path, bert, [{"text": TEXT}], kind="masked"))
    assert masked
    assert all(label.strip() in TEXT for _, label in masked)
    assert all(label for _, label in masked)


def test_a_prompt_that_is_judged_shows_the_right_answer(llama: Path, tmp_path: Path) -> None:
    rows = [{"prompt": TEXT, "answer": "red"}, {"prompt": "the", "answer": "blue"}]
    assert shown(tmp_path, llama, rows, kind="grpo", rewards="exact", tokens=4).labels == [["reference: red"]]


@pytest.mark.parametrize(("labels", "said"), [(["b", "a"], "a, b"), ([], "none")])
def test_a_text_with_several_labels_shows_them(labels: list[str], said: str, llama: Path, tmp_path: Path) -> None:
    rows = [{"text": TEXT, "labels": labels}, {"text": "the dog", "labels": ["a", "b"]}]
    preview = shown(tmp_path, llama, rows, kind="classify", multi_label=True)
    assert preview.labels == [[said]]
    assert [label for _, label in labelled(preview)[0]] == [said]


def test_texts_that_are_compared_show_how_alike_they_are(llama: Path, tmp_path: Path) -> None:
    rows = [{"sentence1": "the cat", "sentence2": "a cat", "score": 0.25}] * 2
    assert shown(tmp_path, llama, rows, kind="contrastive").labels[0][1] == "similarity: 0.25"


def test_what_a_decoder_is_to_write_of_a_span_carries_loss(tmp_path: Path) -> None:
    preview = shown(tmp_path, make_model(tmp_path / "t5", "t5"), [{"text": TEXT + " and ran " * 4}], kind="span")
    (written,) = labelled(preview)
    assert any("<extra_id_0>" in text for text, _ in written)


TEXTS = [
    "the cat sat on the mat",
    "  two before, two behind  ",
    "naïve café, 你好",
    "éé üü",
    "🙂",
    "🙂🙂 🙂",
    "a🙂\n\n🙂b",
    "👩🏽‍🚀 e\u0301\u0301",
    "what \ufffd was \ufffd\ufffd lost",
    "lost \ufffd",
    "\n \n",
]


def pieces_join(row: Row, tokenizer: Any) -> None:
    found = token_pieces(row, tokenizer)
    assert [piece.id for piece in found] == row.tokens.tolist()
    whole = tokenizer.decode(row.tokens.tolist(), clean_up_tokenization_spaces=False)
    assert "".join(piece.text for piece in found) == whole


@pytest.mark.parametrize("merges", [False, True], ids=["bytes", "merges"])
@pytest.mark.parametrize("text", TEXTS)
def test_pieces_join_to_the_text(text: str, merges: bool) -> None:
    tokenizer = byte_level(bos="<s>", eos="</s>", adds_bos=True, merges=merges)
    for row in (codec(tokenizer).encode_answers(Prompted("here", text, text)), codec(tokenizer).pooled_row(
        np.array(tokenizer(text, add_special_tokens=False)["input_ids"]), 0
    )):  # fmt: skip
        pieces_join(row, tokenizer)


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_of_a_tokenizer_with_byte_fallback_join_to_the_text(stories: Any, text: str) -> None:
    pieces_join(codec(stories).encode_answers(Prompted("here", text, text)), stories)
    bare = np.array(stories(text, add_special_tokens=False)["input_ids"])
    pieces_join(codec(stories).pooled_row(bare, 0), stories)


@pytest.mark.parametrize("length", range(2, 12))
def test_pieces_of_a_row_cut_inside_a_character_join_to_the_text(stories: Any, length: int) -> None:
    # Byte fallback decodes a run of byte tokens as one, so that one cut character spoils its neighbours: none here.
    for tokenizer, text in ((byte_level(bos="<s>", eos="</s>"), "a🙂é🙂🙂你 b"), (stories, "a🙂 é 🙂 你 b🙂")):
        for row in codec(tokenizer, max_length=length, too_long="split").encode_document(Text("here", text)):
            pieces_join(row, tokenizer)


def test_a_character_of_several_tokens_stands_at_its_last() -> None:
    tokenizer = byte_level(eos="</s>", merges=False)
    row = codec(tokenizer).encode_answers(Prompted("here", "a", "é🙂b"))
    assert [piece.text for piece in token_pieces(row, tokenizer)] == ["a", "", "é", "", "", "", "🙂", "b", "</s>"]


def test_pieces_show_what_carries_loss() -> None:
    tokenizer = tokenizer_of("zephyr", merges=False)
    messages = (user("a"), assistant("the cat", 0.5), user("b"), assistant("sat"))
    shown = token_pieces(codec(tokenizer).encode_answers(Chat("here", messages)), tokenizer)
    for weight, text in ((0.5, "the cat</s>"), (1.0, "sat</s>")):
        assert "".join(piece.text for piece in shown if piece.weight == weight) == text


def test_a_class_is_not_shown_as_a_token() -> None:
    """Not even if its id equals that of the row's second token."""
    tokenizer = byte_level(bos="[CLS]", adds_bos=True, merges=False)
    second = int(codec(tokenizer, both_ways=True).encode_pooled("here", "abc", 0).tokens[1])
    row = codec(tokenizer, both_ways=True).encode_pooled("here", "abc", second)
    assert [piece.weight for piece in token_pieces(row, tokenizer)] == [0.0] * 4


@pytest.mark.parametrize(("long", "told"), [(1, False), (2, True)])
def test_a_run_that_loses_more_than_a_fifth_of_its_rows_says_so_first(
    long: int, told: bool, llama: Path, tmp_path: Path
) -> None:
    answers = ["mat " * 200] * long + ["sat"] * (5 - long)
    rows = [{"prompt": f"the {number}", "completion": said} for number, said in enumerate(answers)]
    recipe = Recipe.parse(
        {
            "model": {"base": str(llama)},
            "data": {"train": str(write_jsonl(tmp_path / "rows.jsonl", rows)), "max_length": 32},
            "objective": {"kind": "sft"},
        }
    )
    notes = bottega.preview(recipe).notes
    assert bool(notes and "rows (40%) are not learned in full" in notes[0]) is told
    assert dry_run(recipe)["dropped"] == {"longer than max_length 32": long}
