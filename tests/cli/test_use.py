"""Commands that use a model: generate, run, chat, classify, tag, fill, embed."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

import bottega
from bottega.cli import use
from bottega.cli.commands import app
from bottega.recipe.schema import Recipe
from bottega.tokenization.tally import Tally
from making import make_model, write_jsonl

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a run with an adapter, after one update."""
    folder = tmp_path_factory.mktemp("tuned")
    document = {
        "model": {"base": str(make_model(folder / "model", "llama")), "dtype": "float32"},
        "adapter": {"rank": 2},
        "data": {"train": str(write_jsonl(folder / "rows.jsonl", [{"instruction": "the cat", "output": "sat"}] * 2))},
        "objective": {"kind": "sft"},
        "optim": {"steps": 1, "examples": 2, "lr": 1e-1},
    }
    list(bottega.train(Recipe.parse(document), folder / "run"))
    return str(folder / "run")


def answers(model: bottega.LanguageModel) -> list[str]:
    """The greedy answers to two messages."""
    turns = [[{"role": "user", "content": text}] for text in ("the cat", "red")]
    return [answer.text for (answer,) in model.generate(turns, bottega.Sampling(tokens=6))]


def test_generate_prints_continuations_or_json(run: str) -> None:
    cat, red = answers(bottega.load(run))
    options = ["--chat", "--temperature", "0", "--tokens", "6"]
    done = RUNNER.invoke(app, ["generate", run, "the cat", *options])
    assert (done.exit_code, done.stdout) == (0, f"{cat}\n\n")
    continued = RUNNER.invoke(app, ["generate", run, "the cat", "--temperature", "0", "--tokens", "6"])
    assert continued.stdout.startswith("the cat")
    done = RUNNER.invoke(app, ["generate", run, *options, "-n", "2", "--json"], input="the cat\n\nred\n")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["prompt"] for line in lines] == ["the cat", "the cat", "red", "red"]
    assert [line["text"] for line in lines] == [cat, cat, red, red]
    assert {line["reason"] for line in lines} <= {"length", "end"}


@pytest.mark.parametrize("option", [["--top-p", "0"], ["--repetition-penalty", "0"]])
def test_a_sampling_setting_out_of_range_names_its_option(run: str, option: list[str]) -> None:
    done = RUNNER.invoke(app, ["generate", run, "the cat", *option])
    assert done.exit_code == 2
    assert option[0] in done.stderr


def test_chat_compares_with_the_base_model(run: str) -> None:
    model = bottega.load(run)
    tuned, _ = answers(model)
    with model.untuned() as untuned:
        base, _ = answers(untuned)
    done = RUNNER.invoke(
        app, ["chat", run, "--temperature", "0", "--tokens", "6", "--compare"], input="the cat\n/quit\n"
    )
    assert done.exit_code == 0, done.output
    shown = " ".join(done.stdout.split())
    for name, answer in (("base", base), ("tuned", tuned)):
        assert f"{name} › {' '.join(answer.split())}".strip() in shown


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_a_missing_model_is_an_error(command: str, tmp_path: Path) -> None:
    done = RUNNER.invoke(app, [command, str(tmp_path / "none"), *(["x"] if command == "generate" else [])])
    assert done.exit_code == 2
    assert "no such folder" in done.stderr


def test_run_does_what_the_model_was_trained_to_do(run: str, bert: Path, tmp_path: Path) -> None:
    """An export runs as the model that it was made from."""
    out = str(tmp_path / "export")
    bottega.export(run, out)
    options = ["--tokens", "6", "--json"]
    results = [
        RUNNER.invoke(app, [command, model, "the cat", *options, *more])
        for command, model, more in (("generate", run, ["--temperature", "0"]), ("run", out, []), ("run", run, []))
    ]
    assert {result.exit_code for result in results} == {0}, results
    assert len({result.stdout for result in results}) == 1
    filled = RUNNER.invoke(app, ["run", str(bert), "the [MASK] sat", "--json"])
    assert filled.exit_code == 0, filled.output
    assert len(json.loads(filled.stdout)[0]) == 5


def test_a_masked_token_is_filled_in(bert: Path) -> None:
    text = "the cat [MASK] on the [MASK]"
    result = RUNNER.invoke(app, ["fill", str(bert), text, "--top", "3", "--json"])
    assert result.exit_code == 0, result.output
    masks = json.loads(result.stdout)
    assert [len(candidates) for candidates in masks] == [3, 3]
    assert all(0 < candidate["probability"] <= 1 for candidates in masks for candidate in candidates)
    lines = RUNNER.invoke(app, ["fill", str(bert), text, "--top", "1"]).stdout.splitlines()
    assert [line.strip() for line in lines if "[MASK]" in line] == ["[MASK] 1", "[MASK] 2"]
    assert sum("█" in line for line in lines) == 2


def test_texts_are_embedded(bert: Path, tmp_path: Path) -> None:
    printed = RUNNER.invoke(app, ["embed", str(bert), "--json"], input="the cat\n\na dog\n")
    assert printed.exit_code == 0, printed.output
    vectors = {line["text"]: line["vector"] for line in map(json.loads, printed.stdout.splitlines())}
    assert list(vectors) == ["the cat", "a dog"]
    file = tmp_path / "vectors.npy"
    written = RUNNER.invoke(app, ["embed", str(bert), "the cat", "a dog", "--out", str(file)])
    assert written.stdout == f"2 vectors of 32 numbers written to {file}\n"
    assert np.load(file) == pytest.approx(np.array(list(vectors.values())), abs=1e-6)
    similarity = float(np.dot(*vectors.values()))
    lines = RUNNER.invoke(app, ["embed", str(bert), "the cat", "a dog"]).stdout.splitlines()
    assert lines[1].split() == ["1", "the", "cat", "1.00", f"{similarity:.2f}"]


def test_a_file_that_cannot_be_written_is_reported_before_the_work(bert: Path, tmp_path: Path) -> None:
    result = RUNNER.invoke(app, ["embed", str(bert), "the cat", "--out", str(tmp_path / "none" / "vectors.npy")])
    assert result.exit_code == 2
    assert "none" in result.stderr


def test_texts_come_from_standard_input_without_blank_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("the cat\n \n  a dog \nlast"))
    assert use._input_lines() == ["the cat", "  a dog ", "last"]


@pytest.mark.parametrize(("texts", "words"), [([], "no text given"), (["a", " \t"], "text 2: the text is blank")])
def test_a_blank_text_is_named_by_its_number(texts: list[str], words: str) -> None:
    with pytest.raises(bottega.DataError) as caught:
        use._check_not_blank(texts)
    assert words in str(caught.value)
    use._check_not_blank(["a"])


def test_results_are_lines_of_text_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    results = [({"label": "è"}, "è\t0.900")]
    use._print_results(False, ["the cat"], results)
    use._print_results(True, ["the cat"], results)
    assert capsys.readouterr().out == 'è\t0.900\tthe cat\n{"text": "the cat", "label": "è"}\n'


def test_truncated_texts_are_noted(capsys: pytest.CaptureFixture[str]) -> None:
    use._note_truncated(SimpleNamespace(tally=Tally(truncated=0), max_length=8))
    assert capsys.readouterr().err == ""
    use._note_truncated(SimpleNamespace(tally=Tally(truncated=2), max_length=8))
    assert capsys.readouterr().err.startswith("note: 2 texts are longer than the 8 tokens the model reads")
