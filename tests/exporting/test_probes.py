"""What an export is compared on: rows that were held out, longer ones where length matters, and texts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bottega.exporting._probes import (
    HARD_TEXTS,
    PROBE_ROWS,
    PROBE_TEXT,
    PROBE_TOKENS,
    make_probes,
    make_texts,
)
from bottega.exporting._source import open_trained
from making import make_model


def test_probes_are_the_rows_that_were_held_out(adapted: Path) -> None:
    model = open_trained(str(adapted))
    probes = make_probes(model)
    assert len(probes) == PROBE_ROWS
    texts = [model.tokenizer.decode(probe.tokens, skip_special_tokens=True) for probe in probes]
    assert texts[0].endswith("sat on the mat")
    assert texts[1].endswith("ran"), "both rows of a pair"
    prompt = model.tokenizer.decode(probes[0].tokens[: probes[0].prompt], skip_special_tokens=True)
    assert texts[0].startswith(prompt)
    assert "sat" not in prompt
    assert "the" in prompt


def test_a_model_without_a_run_is_compared_on_a_sentence(llama: Path) -> None:
    model = open_trained(str(llama))
    (probe,) = make_probes(model)
    assert PROBE_TEXT in model.tokenizer.decode(probe.tokens)
    assert (probe.prompt, probe.source) == (len(probe.tokens), None)


def test_rotations_that_depend_on_the_length_are_compared_on_a_longer_row(tmp_path: Path) -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
    model = open_trained(str(make_model(tmp_path / "model", rope_parameters=rope)))
    short, longer = make_probes(model)
    assert len(short.tokens) < 128 < len(longer.tokens)


def test_long_rows_are_cut(llama: Path, tmp_path: Path, train: Callable[..., Path]) -> None:
    rows = [{"text": "the cat sat on the mat " * 60}] * 4
    run = train(llama, tmp_path / "run", rows, objective={"kind": "causal"}, optim={"steps": 1, "examples": 2})
    assert max(len(probe.tokens) for probe in make_probes(open_trained(str(run)))) == PROBE_TOKENS


def test_texts_are_the_prompts_and_what_is_often_split_otherwise(tmp_path: Path) -> None:
    template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    model = open_trained(str(make_model(tmp_path / "chat", template=template)))
    texts = make_texts(model.tokenizer, make_probes(model))
    assert set(HARD_TEXTS) < set(texts)
    assert texts[-1] == "<user>Where is my parcel?<assistant>On its way.<user>Thank you!"


def test_a_window_of_attention_is_exceeded(tmp_path: Path) -> None:
    model = open_trained(str(make_model(tmp_path / "model", "mistral", sliding_window=64)))
    assert [len(probe.tokens) > 64 for probe in make_probes(model)] == [False, True]


def test_a_run_whose_data_is_gone_is_compared_on_a_sentence(adapted: Path) -> None:
    (adapted.parent / "rows.jsonl").unlink()
    model = open_trained(str(adapted))
    (probe,) = make_probes(model)
    assert PROBE_TEXT in model.tokenizer.decode(probe.tokens)


def test_a_template_that_refuses_a_conversation_is_left_out(tmp_path: Path) -> None:
    model = open_trained(str(make_model(tmp_path / "model", template="{{ raise_exception('only tools') }}")))
    assert set(make_texts(model.tokenizer, make_probes(model))) >= set(HARD_TEXTS)
