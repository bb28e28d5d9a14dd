"""Two runs of the same task are compared on the rows that both can read, whatever their tokenizers and labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import bottega
from bottega.evaluation.evaluate import evaluate
from bottega.recipe.schema import Recipe
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
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
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
                "optim": {"steps": 20, "examples": 8, "lr": 3e-3},
            }
            list(bottega.train(Recipe.parse(document | more), run))
        return run

    return build


# Rows with all words are too long for a tokenizer of bytes, and short enough for the other.
LIMIT = {"max_length": 100, "too_long": "drop"}


def test_two_taggers_with_other_tokenizers_labels_and_schemes(trained: Callable[..., Path]) -> None:
    run = trained("tag", "run")
    places = [
        {**row, "spans": [{**row["spans"][0], "label": "beast"}, {"start": 0, "end": 3, "label": "the"}]}
        for row in ROWS["tag"]
    ]
    scheme = trained("tag", "scheme", objective={"scheme": "BIOES"})
    labels = trained("tag", "labels", rows=places)
    other = trained("tag", "bytes", byte_tokenizer=True)
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
    trained: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bottega.records import Unusable
    from bottega.tokenization.codec import Codec

    run, other = trained("tag", "run"), trained("tag", "bytes", byte_tokenizer=True)
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
    trained: Callable[..., Path], kind: str
) -> None:
    adapter = {"adapter": {"rank": 2}} if kind == "dpo" else {}
    run = trained(kind, "limited", data=LIMIT, **adapter)
    other = trained(kind, "bytes", byte_tokenizer=True, **adapter)
    result = evaluate(run, against=[str(other), str(run)], answers=8)
    shorter, same = result.others
    assert "rows; they are left out" in result.unasked[str(other)]
    assert not result.dropped
    assert {each.rows for each in same.estimates} >= {result.rows}
    assert 0 < shorter.estimates[0].rows < result.rows
    assert len(result.records) == result.rows
    assert all(estimate.run == estimate.base for estimate in same.estimates)


def test_a_second_embedder_that_drops_a_text_is_named(trained: Callable[..., Path]) -> None:
    pairs = [
        {"anchor": f"{one} {other}", "positive": f"{other} {one}{f' {LONG}' if one == 'the' else ''}"}
        for one in WORDS[:6]
        for other in WORDS[6:14]
    ]
    run = trained("contrastive", "limited", rows=pairs, data=LIMIT)
    other = trained("contrastive", "bytes", rows=pairs, byte_tokenizer=True)
    result = evaluate(run, against=[str(other), str(run)])
    assert "ranks among fewer texts cannot be compared" in result.unasked[str(other)]
    assert [each.name for each in result.others] == ["contrastive-limited"]
    assert len(result.records) == result.rows
