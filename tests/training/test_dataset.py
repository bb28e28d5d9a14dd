"""The rows of a recipe as its model sees them: encoded, counted, and refused where nothing would be learned."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from chat_styles import byte_level, codec
from transformers import AutoTokenizer

from bottega.data.example_cache import ExampleCache
from bottega.data.reader import RecipeReader
from bottega.errors import DataError, ModelError
from bottega.objectives.sft import Sft
from bottega.recipe.schema import Recipe
from bottega.records import Chat, Message, Prompted
from bottega.tokenization.chat_template import ChatTemplateError
from bottega.tokenization.codec import Codec
from bottega.training import encoding
from bottega.training.dataset import EncodedRows, build_dataset, day_of
from bottega.training.encoding import encode_record
from making import WORDS, make_tokenizer, write_jsonl


def data(path: Path, rows: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
    return {"train": str(write_jsonl(path / "own.jsonl", rows)), **options}


def completions(*texts: str) -> list[dict[str, Any]]:
    return [{"prompt": "the cat", "completion": f" {text}"} for text in texts]


def test_rows_are_split_encoded_and_described(recipe: Callable[..., Recipe]) -> None:
    made = build_dataset(recipe())
    assert (len(made.train.examples), len(made.validation.examples)) == (18, 6)
    assert (made.train.rows, made.validation.rows) == (18, 6)
    assert made.labels == []
    assert made.codec.max_length == made.config.max_position_embeddings == 128
    assert not made.codec.both_ways
    (path,) = made.formats
    assert path.endswith("rows.jsonl")
    row = made.train.examples[0].rows[0]
    assert made.tokenizer.decode(row.tokens[row.at + 1]) == made.tokenizer.decode(row.label)


def test_an_encoder_reads_both_ways_and_its_labels_are_counted(
    recipe: Callable[..., Recipe], bert: Path, tmp_path: Path
) -> None:
    rows = [{"text": f"the {word}", "label": word[0]} for word in WORDS]
    sections = {"model": {"base": str(bert)}, "objective": {"kind": "classify"}, "data": data(tmp_path, rows)}
    made = build_dataset(recipe(**sections))
    assert made.codec.both_ways
    assert set(made.labels) == {word[0] for word in WORDS}
    assert made.template is None


@pytest.mark.parametrize("part", [1, 3, 256])
def test_rows_keep_their_order_however_many_are_encoded_at_once(
    part: int, recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "CHUNK_RECORDS", part)
    made = build_dataset(recipe(data=data(tmp_path, completions(*WORDS))))
    assert [example.id for example in made.train.examples] == [
        f"own.jsonl line {number + 1}" for number in range(len(WORDS))
    ]


@pytest.mark.parametrize("part", [2, 256])
def test_an_unusable_row_is_named_after_those_before_it(
    part: int, recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "CHUNK_RECORDS", part)
    rows = [*completions("red", "blue", "one"), {"prompt": "the cat", "completion": 5.5}, *completions("two")]
    with pytest.raises(DataError) as caught:
        build_dataset(recipe(data=data(tmp_path, rows)))
    assert (caught.value.where or "").startswith("own.jsonl line 4")


def test_notes_begin_with_rows_that_are_lost(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    long = "red blue " * 40
    given = data(tmp_path, completions("red", "blue", long, ""), max_length=30, too_long="truncate", bad_rows="drop")
    made = build_dataset(recipe(data=given))
    (subject, message), *_ = made.notes()
    assert subject == "lost"
    assert message.startswith("2 of 4 training rows (50%) are not learned in full: 1 left out, ")
    assert message.endswith("; 1 cut short")
    few = data(tmp_path, completions(*["red"] * 9, ""), bad_rows="drop")
    assert "lost" not in dict(build_dataset(recipe(data=few)).notes()), "one of ten is no reason to worry"


def test_conversations_say_which_template_they_are_written_with(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}]
    made = build_dataset(recipe(data=data(tmp_path, [{"messages": turns}] * 4)))
    assert made.template
    assert dict(made.notes())["template"].endswith(f"the chat template: {made.template}")
    assert build_dataset(recipe()).template is None


@pytest.mark.parametrize(
    ("objective", "rows", "words"),
    [
        ({"kind": "sft"}, completions(""), "no valid row: 1 rows: empty completion"),
        (
            {"kind": "sft"},
            completions("red blue " * 90),
            "no row carries a label, so there is nothing to learn: .*max_length",
        ),
        ({"kind": "contrastive"}, [{"anchor": "the cat", "positive": "a cat"}] * 4, "nothing to tell apart"),
    ],
)
def test_rows_that_teach_nothing_are_refused(
    objective: dict[str, Any], rows: list[dict[str, Any]], words: str, recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    given = recipe(objective=objective, data=data(tmp_path, rows, bad_rows="drop", too_long="drop"), evaluate=None)
    with pytest.raises(DataError, match=words):
        build_dataset(given)


def test_lengths_and_the_day_of_an_earlier_start_are_kept(recipe: Callable[..., Recipe]) -> None:
    made = build_dataset(recipe(), {"max_length": 50, "day": "2025-01-02"})
    assert made.codec.max_length == 50
    assert made.codec.template.day == date(2025, 1, 2)
    assert day_of({"day": "2025-01-02"}) == date(2025, 1, 2)
    assert day_of(None) is day_of({}) is None


def test_tokens_the_model_has_no_embedding_of_are_refused(
    recipe: Callable[..., Recipe], llama: Path, tmp_path: Path
) -> None:
    words = make_tokenizer(tmp_path / "words")
    tokenizer = AutoTokenizer.from_pretrained(words)
    tokenizer.add_tokens(["zebra"])
    tokenizer.save_pretrained(str(words))
    given = recipe(model={"base": str(llama), "tokenizer": str(words)}, data=data(tmp_path, completions("a zebra")))
    with pytest.raises(ModelError, match="vocab_size is 300"):
        build_dataset(given)


def test_blocks_of_a_long_text_are_named_after_its_row(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    rows = [{"text": "the cat sat " * 30}, {"text": "red"}]
    given = recipe(objective={"kind": "causal"}, data=data(tmp_path, rows, max_length=40), evaluate=None)
    made = build_dataset(given).train
    *blocks, last = [example.id for example in made.examples]
    assert blocks == [f"own.jsonl line 1 block {number + 1}" for number in range(len(blocks))]
    assert len(blocks) > 2
    assert last == "own.jsonl line 2"
    assert (made.rows, made.truncated, made.dropped.total()) == (2, 0, 0)


def test_rows_that_are_divided_after_they_are_encoded(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read once or twice, the same rows are on the same sides, with the same counts."""
    rows = [*completions(*WORDS, "", "red blue " * 40, *WORDS[:3], ""), {"prompt": "a", "completion": 5.5}]
    rows = [{**row, "prompt": f"{row['prompt']} {number % 11}"} for number, row in enumerate(rows)]
    given = recipe(data=data(tmp_path, rows, validation=0.3, max_length=30, too_long="truncate", bad_rows="drop"))
    assert RecipeReader(given).divides_whole_records
    once = build_dataset(given)
    monkeypatch.setattr(RecipeReader, "divides_whole_records", False)
    twice = build_dataset(given)
    for one, other in ((once.train, twice.train), (once.validation, twice.validation)):
        assert [repr(example) for example in one.examples] == [repr(example) for example in other.examples]
        assert (one.rows, one.truncated) == (other.rows, other.truncated)
        assert list(one.dropped.items()) == list(other.dropped.items())
        assert len(one.examples)
    assert once.train.truncated + once.validation.truncated == 1
    assert once.train.dropped.total() + once.validation.dropped.total() == 3


def test_documents_and_classes_are_divided_before_they_are_encoded(
    recipe: Callable[..., Recipe], bert: Path, tmp_path: Path
) -> None:
    texts = [{"text": "the cat sat " * 9}, {"text": "red blue " * 9}]
    books = recipe(objective={"kind": "causal"}, data=data(tmp_path, texts, validation=0.3))
    assert not RecipeReader(books).divides_whole_records
    made = build_dataset(books)
    assert len(made.train.examples) == len(made.validation.examples) == 2, "each is cut"
    assert RecipeReader(recipe(data=data(tmp_path, completions(*WORDS), validation=0.3))).divides_whole_records
    assert not RecipeReader(recipe(data=data(tmp_path, completions(*WORDS)))).divides_whole_records
    labelled = [{"text": f"the {word}", "label": word[0]} for word in [*WORDS, *WORDS]]
    sections = {"model": {"base": str(bert)}, "objective": {"kind": "classify"}}
    classes = build_dataset(recipe(**sections, data=data(tmp_path, labelled, validation=0.3)))
    assert set(classes.labels) == {word[0] for word in WORDS}


def encoded() -> EncodedRows:
    return EncodedRows(ExampleCache())


def reader(**options: Any) -> Codec:
    return codec(byte_level(eos="</s>", merges=False), **options)


def test_dropped_rows_are_counted_by_reason() -> None:
    found, made = encoded(), reader(max_length=6)
    for completion in ("abc", "abcd", "abcdefgh", "a"):
        found.add(encode_record(Prompted("here", "qq", completion), Sft(), made))
    assert (found.rows, len(found.examples)) == (4, 2)
    assert found.dropped == {"longer than max_length 6": 2}
    found.refuse_empty("rows.jsonl")


def test_cut_rows_are_counted_also_where_they_are_dropped() -> None:
    found, made = encoded(), reader(max_length=4, too_long="truncate")
    found.add(encode_record(Prompted("here", "q", "abcdefgh"), Sft(), made))
    found.add(encode_record(Prompted("here", "q", "a"), Sft(), made))
    assert (found.truncated, found.rows) == (1, 2)


def test_a_conversation_that_the_template_refuses_is_an_error_or_dropped() -> None:
    refusing = "{{ raise_exception('no') }}"
    made = codec(byte_level(eos="</s>", template=refusing))
    chat = Chat("rows line 1", (Message("user", "q"), Message("assistant", "a")))
    with pytest.raises(ChatTemplateError):
        encoded().add(encode_record(chat, Sft(), made))
    found = encoded()
    found.add(encode_record(chat, Sft(), made, drop=True))
    ((reason, count),) = found.dropped.items()
    assert "refuses this conversation" in reason
    assert count == 1


def test_nothing_to_learn_is_an_error_that_names_the_cause() -> None:
    found = encoded()
    found.add(encode_record(Prompted("here", "qqqqqqq", "a"), Sft(), reader(max_length=4)))
    with pytest.raises(DataError, match=r"nothing to learn: .*longer than max_length 4") as caught:
        found.refuse_empty("rows.jsonl")
    assert (caught.value.where, caught.value.fix) == ("rows.jsonl", "raise data.max_length")
    with pytest.raises(DataError, match="every token to be learned has weight 0"):
        encoded().refuse_empty("rows.jsonl")
