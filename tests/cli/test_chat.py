"""Conversations with a model: from Python, in the terminal, and beside the base model."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import bottega
from bottega.cli.chat import Conversation
from bottega.errors import DataError, ModelError
from bottega.inference.language_model import LanguageModel
from bottega.recipe.schema import Recipe
from bottega.sampling import Sampling
from making import make_model, write_jsonl

ASKED = [{"role": "user", "content": "the cat"}]


@pytest.fixture(scope="module")
def tune(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Runs a few steps on a tiny model; returns the run's folder."""
    folder = tmp_path_factory.mktemp("tuned")
    model = make_model(folder / "model", "llama")
    rows = write_jsonl(folder / "rows.jsonl", [{"instruction": "the cat", "output": "sat on the mat"}] * 8)

    def build(name: str, **sections: Any) -> Path:
        document = {
            "model": {"base": str(model), "dtype": "float32"},
            "data": {"train": str(rows)},
            "objective": {"kind": "sft"},
            "optim": {"steps": 40, "examples": 8, "lr": 2e-2},
            **sections,
        }
        if not (folder / name).exists():
            list(bottega.train(Recipe.parse(document), folder / name))
        return folder / name

    return build


@pytest.fixture(scope="module")
def lora(tune: Callable[..., Path]) -> LanguageModel:
    return bottega.load(tune("lora", adapter={"rank": 8}))


@pytest.mark.parametrize("sections", [{}, {"adapter": {"rank": 8}}], ids=["full", "lora"])
def test_a_run_gives_the_answer_it_was_trained_on(tune: Callable[..., Path], sections: dict[str, Any]) -> None:
    run = tune("lora" if sections else "full", **sections)
    answer = bottega.load(run).chat(ASKED)
    assert (answer.text, answer.reason) == ("sat on the mat", "end")
    with bottega.load(run).untuned() as before:
        assert before.chat(ASKED, Sampling(tokens=8)).text != "sat on the mat"


def test_an_adapter_is_on_again_after_the_untuned_model_was_used(lora: LanguageModel) -> None:
    with lora.untuned() as before:
        before.chat(ASKED, Sampling(tokens=4))
    assert lora.chat(ASKED).text == "sat on the mat"


def test_the_folder_of_an_adapter_is_a_model(tune: Callable[..., Path]) -> None:
    run = tune("lora", adapter={"rank": 8})
    assert bottega.load(run / "adapter").chat(ASKED).text == "sat on the mat"


def test_streamed_text_equals_generated_text(lora: LanguageModel) -> None:
    assert "".join(lora.stream(ASKED)) == "sat on the mat"
    many = lora.generate([ASKED, "the", ASKED], Sampling(tokens=5, temperature=1.0), continuations=2)
    assert [len(found) for found in many] == [2, 2, 2]


def test_an_empty_prompt_is_the_first_token_of_a_text(lora: LanguageModel) -> None:
    assert lora.codec.encode_prompt("") == [lora.codec.tokenizer.bos_token_id]


def test_a_prompt_longer_than_the_positions_of_the_model_is_an_error(lora: LanguageModel) -> None:
    assert lora.limit
    with pytest.raises(DataError, match="positions"):
        lora.generate(["the cat " * lora.limit])
    longest = lora.codec.tokenizer.decode(lora.codec.encode_prompt("the " * lora.limit)[1 : lora.limit - 2])
    ((found,),) = lora.generate([longest], Sampling(tokens=100))
    assert 1 <= len(found.tokens) <= 3


def test_a_model_that_was_not_tuned_has_no_untuned_one(tune: Callable[..., Path], lora: LanguageModel) -> None:
    assert lora.origin
    plain = bottega.load(lora.origin)
    with pytest.raises(ModelError, match="not tuned from another"), plain.untuned():
        pass


# In a terminal


def talk(model: LanguageModel, *lines: str, **options: Any) -> tuple[str, Conversation]:
    console = Console(file=io.StringIO(), width=200)
    conversation = Conversation(model, Sampling(tokens=12), console, **options)
    conversation.run(lines)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue(), conversation


def test_commands_of_a_conversation(lora: LanguageModel, tmp_path: Path) -> None:
    file = tmp_path / "talk.jsonl"
    shown, held = talk(lora, "the cat", "", "/nonsense", f"/save {file}", "/save", "/reset", "/quit", "unheard")
    assert "sat on the mat" in shown
    assert "unknown command /nonsense" in shown
    assert "no file given" in shown
    saved = [*ASKED, {"role": "assistant", "content": "sat on the mat"}]
    assert json.loads(file.read_text()) == {"messages": saved}
    assert held.turns == []


def test_a_saved_conversation_can_be_trained_on(lora: LanguageModel, tmp_path: Path) -> None:
    talk(lora, "the cat", f"/save {tmp_path / 'talk.jsonl'}")
    document = {
        "model": {"base": lora.origin},
        "data": {"train": str(tmp_path / "talk.jsonl")},
        "objective": {"kind": "sft"},
    }
    ((_, rows),) = bottega.preview(Recipe.parse(document)).examples
    assert "".join(piece.text for piece in rows[0] if piece.weight).strip().startswith("sat on the mat")


def test_a_system_prompt_survives_a_reset(lora: LanguageModel) -> None:
    system = {"role": "system", "content": "be a dog"}
    _, held = talk(lora, "the cat", "/reset", system="be a dog")
    assert held.turns == [system]
    _, held = talk(lora, "/system be a dog", "the cat")
    assert held.turns[0] == system
    assert len(held.turns) == 3


def test_answers_of_the_base_model_are_shown_beside_those_of_the_tuned_one(lora: LanguageModel) -> None:
    shown, held = talk(lora, "/compare", "the cat", "/compare", "the cat")
    first, second = shown.split("comparing off")
    assert "base ›" in first
    assert "tuned › sat on the mat" in first
    assert "base" not in second
    assert held.turns[1]["content"] == "sat on the mat"


def test_the_oldest_exchange_is_forgotten_when_there_is_no_room(lora: LanguageModel) -> None:
    assert lora.limit
    long = "the cat sat on the mat " * (lora.limit // 12)
    shown, held = talk(lora, long, long, long, system="dog")
    assert "forgotten" in shown
    assert held.turns[0]["role"] == "system"
    assert lora.room(held.turns[:-1]) >= 1
    shown, held = talk(lora, long * 20, "the cat")
    assert "positions" in shown
    assert "sat on the mat" in shown, "an error does not end a conversation"
