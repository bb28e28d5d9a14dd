"""What is left out of a text, that nothing is lost, and an encoder–decoder from its rows to its answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from typer.testing import CliRunner
from worlds import tokenizer

import bottega
from bottega.batch import Example, Row
from bottega.cli.commands import app
from bottega.data.train_tokenizer import train_tokenizer
from bottega.errors import DataError, ModelError
from bottega.models.attention.blocks import BlockLayout
from bottega.models.attention.dense import DenseLayout
from bottega.models.attention.mask import AttentionOptions
from bottega.objectives.causal import Causal
from bottega.objectives.span import Span, _original_tokens
from bottega.packing import pack
from bottega.recipe.schema import Recipe
from bottega.records import Prompted, Text
from bottega.sampling import Sampling
from bottega.tokenization.codec import Codec
from making import WORDS, make_model, write_jsonl

LONG = " ".join(WORDS * 3)


def codec(length: int = 500, start: int | None = 2) -> Codec:
    return Codec(tokenizer(spans=True), max_length=length, too_long="split", decoder_start=start)


def corrupted(seed: int, **options: float) -> tuple[Row, Codec]:
    made, objective = codec(), Span(**options)  # type: ignore[arg-type]
    ((row,),) = objective.rows(Text("here", LONG), made)
    (drawn,) = objective.augment(Example("here", (row,)), made, seed).rows
    return drawn, made


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("options", [{}, {"share": 0.5, "length": 2.0}, {"share": 0.9, "length": 1.0}])
def test_nothing_of_the_text_is_lost(options: dict, seed: int) -> None:
    row, made = corrupted(seed, **options)
    assert row.source is not None
    assert _original_tokens(row, made).tolist() == tokenizer(spans=True)(LONG)["input_ids"]
    assert row.tokens.tolist() == [2, *row.label[:-1].tolist()]
    marks = [token for token in row.source.tolist() if token in made.special_tokens.sentinels]
    told = [token for token in row.label.tolist() if token in made.special_tokens.sentinels]
    assert marks == made.special_tokens.sentinels[: len(marks)].tolist()
    assert told == made.special_tokens.sentinels[: len(marks) + 1].tolist()


def test_fractions_and_lengths_of_removed_spans() -> None:
    row, made = corrupted(0, share=0.3, length=4.0)
    whole = len(tokenizer(spans=True)(LONG)["input_ids"])
    out = sum(token not in made.special_tokens.sentinels for token in row.label.tolist())
    assert out == round(0.3 * whole)
    assert len(row.label) - out - 1 == min(round(out / 4), len(made.special_tokens.sentinels) - 1)
    assert not np.array_equal(corrupted(1)[0].label, corrupted(2)[0].label)
    assert np.array_equal(corrupted(1, dynamic=False)[0].label, corrupted(2, dynamic=False)[0].label)


def test_the_encoder_reads_the_prompt_and_the_decoder_predicts_the_answer() -> None:
    row = codec().encode_answers(Prompted("here", "the cat", " sat on"))
    ids = tokenizer(spans=True)("the cat sat on")["input_ids"]
    assert row.source is not None
    assert row.source.tolist() + row.label.tolist() == [*ids, 1]
    assert row.tokens[0] == 2
    assert codec().encode_prompt("the cat") == row.source.tolist()


def test_the_last_block_of_a_text_may_be_short() -> None:
    """One token is left of it, of which nothing can be left out."""
    ids = tokenizer(spans=True)(LONG)["input_ids"]
    length = next(length for length in range(20, len(ids)) if len(ids) % length == 1)
    rows = Span().rows(Text("here", LONG), codec(length))
    assert len(rows) == len(ids) // length


def test_a_row_that_is_cut_keeps_its_source() -> None:
    made = Codec(tokenizer(spans=True), max_length=8, too_long="truncate", decoder_start=2)
    row = made.encode_answers(Prompted("here", "the cat", " sat on the mat and then it was very happy"))
    assert row.source is not None
    assert len(row.tokens) == 8
    row = made.encode_answers(Prompted("here", " ".join(WORDS), " sat"))
    assert row.source is not None
    assert len(row.source) == 8


def test_noise_is_added_in_encoder_and_decoder(tmp_path: Path) -> None:
    losses = []
    for neftune in (None, 50.0):
        recipe = Recipe.parse(
            {
                "model": {"base": str(make_model(tmp_path / f"{neftune}", "t5")), "dtype": "float32"},
                "data": {"train": str(write_jsonl(tmp_path / "rows.jsonl", [{"text": LONG}] * 4))},
                "objective": {"kind": "span"},
                "optim": {"steps": 2, "examples": 4, "neftune": neftune},
            }
        )
        events = bottega.train(recipe, tmp_path / f"run {neftune}")
        losses.append([event.loss for event in events if event.type == "stepped"])
    assert losses[0][0] != losses[1][0]


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize("targets", [["q", "v"], ["q", "v", "lm_head"]])
def test_an_adapter_of_an_encoder_decoder(targets: list[str], tmp_path: Path) -> None:
    """Saved as what it is, and with its head adapted it runs a row at a time."""
    import peft

    rows = [{"prompt": "the cat", "completion": " sat on"}, {"prompt": "the dog", "completion": " ran"}] * 4
    run = taught(tmp_path, {"kind": "sft"}, rows, adapter={"rank": 4, "targets": targets}, steps=3)
    assert peft.AutoPeftModelForSeq2SeqLM.from_pretrained(str(run / "adapter")) is not None
    assert bottega.load(run).generate(["the cat"], Sampling(tokens=3))[0]


def test_models_and_tokenizers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="span needs an encoder–decoder"):
        Span().rows(Text("here", LONG), codec(start=None))
    with pytest.raises(ModelError, match="does not predict plain texts"):
        Causal().rows(Text("here", LONG), codec())
    (tmp_path / "text.txt").write_text(LONG)
    assert train_tokenizer([tmp_path / "text.txt"], 500, tmp_path / "spans", span=True) <= 500
    made = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "spans"))
    assert len(Codec(made, max_length=9, too_long="split").special_tokens.sentinels) == 100
    assert made.pad_token == "<pad>"
    train_tokenizer([tmp_path / "text.txt"], 300, tmp_path / "bytes")
    other = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "bytes"))
    with pytest.raises(ModelError, match="no sentinel tokens") as caught:
        _ = Codec(other, max_length=9, too_long="split").special_tokens.sentinels
    assert "--span" in str(caught.value.fix)
    with pytest.raises(DataError, match="only a byte-level tokenizer"):
        train_tokenizer([tmp_path / "text.txt"], 300, tmp_path / "pieces", "wordpieces", span=True)
    with pytest.raises(ModelError, match="is an encoder–decoder"):
        taught(tmp_path, {"kind": "classify"}, [{"text": "a", "label": "b"}, {"text": "c", "label": "d"}])


def taught(folder: Path, objective: dict, rows: list[dict], adapter: dict | None = None, **optim: object) -> Path:
    """A run of a tiny T5."""
    recipe = Recipe.parse(
        {
            "model": {"base": str(make_model(folder / "model", "t5")), "dtype": "float32"},
            "data": {"train": str(write_jsonl(folder / "rows.jsonl", rows))},
            "objective": objective,
            "adapter": adapter,
            "optim": {"steps": 200, "examples": 16, "lr": 1e-2, **optim},
        }
    )
    for _ in bottega.train(recipe, folder / "run"):
        pass
    return folder / "run"


@pytest.mark.parametrize("near", [False, True])
def test_block_attention_equals_dense_attention(near: bool) -> None:
    """Of the encoder, of the decoder with what distances add, and across; values and gradients."""
    made = codec()
    answers = [Prompted("here", " ".join(WORDS[:n]), " " + " ".join(WORDS[n : n + 5])) for n in (3, 9, 3, 14)]
    batch = pack([Example(str(n), (made.encode_answers(one),)) for n, one in enumerate(answers)])
    assert batch.source is not None
    assert len(batch.source.nodes) == 3, "two have one source"
    torch.manual_seed(0)
    table = torch.randn(2 * 4 + 1, 2, dtype=torch.float64, requires_grad=True) if near else None
    for stream, source in ((batch, None), (batch.source, None), (batch, batch.source)):
        keys = len(stream.tokens) if source is None else len(source.tokens)
        q = torch.randn(1, 2, len(stream.tokens), 4, dtype=torch.float64, requires_grad=True)
        k, v = (torch.randn(1, 2, keys, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
        style = AttentionOptions(0.5, relative_bias=None if source is not None else table)
        given = [q, k, v, *([table] if style.relative_bias is not None else [])]
        found = []
        for layout in (BlockLayout(stream, source), DenseLayout(stream, source)):
            out = layout.attend(q, k, v, style)
            found.append([out, *torch.autograd.grad(out.sin().sum(), given)])
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.slow
def test_an_encoder_decoder_learns_to_answer(tmp_path: Path) -> None:
    words = ["red", "blue", "happy", "sad"]
    rows = [{"prompt": f"the {one} {other}", "completion": f"{other} then {one}"} for one in words for other in words]
    run = taught(tmp_path, {"kind": "sft"}, rows)
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    losses = [event["loss"] for event in events if event["type"] == "stepped"]
    assert losses[-1] < 0.3 * losses[0]
    model = bottega.load(run)
    prompts = ["the red blue", "the sad happy", "the red blue"]
    written = [found[0].text for found in model.generate(prompts, Sampling(tokens=12))]
    assert written == [model.generate([prompt], Sampling(tokens=12))[0][0].text for prompt in prompts]
    # The same as transformers alone.
    plain = transformers.AutoModelForSeq2SeqLM.from_pretrained(str(run / "model"))
    ids = torch.tensor([model.codec.encode_prompt(prompts[1])])
    theirs = plain.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=1)[0]
    assert model.codec.tokenizer.decode(theirs, skip_special_tokens=True) == written[1]
    shown = CliRunner().invoke(app, ["generate", str(run), "the red blue", "--temperature", "0"])
    assert written[0] in shown.output
    found = {one.metric: one for one in bottega.evaluate(run, str(tmp_path / "rows.jsonl")).estimates}
    assert found["loss"].run < found["loss"].base  # type: ignore[operator]
    assert found["exact_match"].run >= found["exact_match"].base  # type: ignore[operator]


@pytest.mark.parametrize(("more", "part"), [({}, 0.8), ({"adapter": {"rank": 4}}, 0.95)], ids=["full", "lora"])
@pytest.mark.slow
def test_spans_are_learned(more: dict, part: float, tmp_path: Path) -> None:
    recipe = Recipe.parse(
        {
            "model": {"base": str(make_model(tmp_path / "model", "t5")), "dtype": "float32"},
            "data": {"train": str(write_jsonl(tmp_path / "rows.jsonl", [{"text": LONG}] * 8))},
            "objective": {"kind": "span"},
            "optim": {"steps": 60, "examples": 4, "lr": 2e-2, "tokens": 100, "neftune": 1.0},
            **more,
        }
    )
    losses = [event.loss for event in bottega.train(recipe, tmp_path / "run") if event.type == "stepped"]
    assert losses[-1] < part * losses[0]
