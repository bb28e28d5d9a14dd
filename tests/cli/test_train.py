"""Commands that train or prepare training: dry runs, previews, runs, resuming, tokenizers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bottega.cli.commands import app
from bottega.cli.train import _format_count, _how_to_continue
from making import make_model, make_run, make_started, make_stepped, write_jsonl

ROWS = [{"prompt": f"the cat {n}", "completion": f" sat on {n}"} for n in ("red", "blue", "one", "two", "three")]


def call(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout


def test_a_dry_run_counts_and_writes_nothing(llama: Path, tmp_path: Path, write_recipe: Callable) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", [*ROWS, {"prompt": "the", "completion": " end" * 200}])
    recipe = write_recipe(model={"base": str(llama)}, data={"train": str(data)}, objective={"kind": "sft"})
    before = sorted(tmp_path.rglob("*"))
    code, out = call("train", str(recipe), "--dry-run", "--json")
    counts = json.loads(out)
    assert code == 0
    assert counts["rows"] == 6
    assert counts["dropped"] == {"longer than max_length 128": 1}
    assert 0 < counts["labelled_tokens"] < counts["tokens"]
    assert sorted(tmp_path.rglob("*")) == before
    code, out = call("train", str(recipe), "--dry-run")
    assert code == 0
    assert "1 longer than max_length 128" in out
    assert not set("{}[]'") & set(out), "counts in words"


def test_preview_shows_what_carries_loss(llama: Path, tmp_path: Path, write_recipe: Callable) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    recipe = write_recipe(model={"base": str(llama)}, data={"train": str(data)}, objective={"kind": "sft"})
    code, out = call("preview", str(recipe), "--rows", "2", "--json")
    (_, (pieces,)), _ = json.loads(out)["examples"]
    assert code == 0
    assert "".join(piece["text"] for piece in pieces if piece["weight"]) == " sat on red</s>"
    assert "".join(piece["text"] for piece in pieces if not piece["weight"]) == "<s>the cat red"
    code, out = call("preview", str(recipe))
    assert code == 0
    assert "carry loss" in out


PREVIEWS = [
    ("classify", {"text": "the cat", "label": "a"}, ["a"], ["a"]),
    ("regress", {"text": "the cat", "label": 0.5}, ["0.5"], ["0.5"]),
    ("kto", {"prompt": "the cat", "completion": " sat", "label": False}, ["undesirable"], []),
    ("reward", {"prompt": "the", "chosen": " cat", "rejected": " red"}, ["chosen", "rejected"], []),
    ("dpo", {"prompt": "the", "chosen": " cat", "rejected": " red"}, ["chosen", "rejected"], []),
    ("contrastive", {"anchor": "the", "positive": "cat"}, ["", "positive"], []),
]


@pytest.mark.parametrize(("kind", "row", "labels", "said"), PREVIEWS, ids=lambda value: str(value)[:12])
def test_preview_shows_labels(
    kind: str,
    row: dict[str, Any],
    labels: list[str],
    said: list[str],
    llama: Path,
    tmp_path: Path,
    write_recipe: Callable,
) -> None:
    changed = {"classify": {"label": "b"}, "contrastive": {"anchor": "blue", "positive": "red"}}
    data = write_jsonl(tmp_path / "rows.jsonl", [row, row | changed.get(kind, {})])
    recipe = write_recipe(model={"base": str(llama)}, data={"train": str(data)}, objective={"kind": kind})
    code, out = call("preview", str(recipe), "--rows", "1", "--json")
    assert code == 0
    shown = json.loads(out)
    assert shown["labels"] == [labels]
    ((_, rows),) = shown["examples"]
    carrying = [[piece["label"] for piece in pieces if piece["weight"]] for pieces in rows]
    assert all(carrying)
    assert not said or carrying == [said]


def test_a_run_is_trained_resumed_and_listed(tmp_path: Path, write_recipe: Callable) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    recipe = write_recipe(
        # Transformers would advise an attention mask, because its rows end in the token that others pad with.
        model={"base": str(make_model(tmp_path / "gpt2", "gpt2", resid_pdrop=0.1))},
        data={"train": str(data)},
        objective={"kind": "sft"},
        optim={"steps": 3, "examples": 2},
    )
    # As a process of its own, in another folder: the default name, progress on stderr, the result on stdout.
    command = [sys.executable, "-m", "bottega", "train", str(recipe), "optim.lr=1e-3", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    assert "[transformers]" not in done.stderr
    assert result["run"] == "runs/run-1"
    assert (result["status"], result["step"], result["result"]) == ("finished", 3, "model")
    run = tmp_path / "runs" / "run-1"
    assert "# optim.lr=1e-3" in (run / "recipe.yaml").read_text()
    assert json.loads((run / "place.json").read_text())["choices"]["lr"] == 1e-3
    events = (run / "events.jsonl").read_bytes()
    code, _ = call("train", "--resume", str(run))
    assert code == 0
    assert (run / "events.jsonl").read_bytes() == events, "a finished run is left as it is"
    code, out = call("runs", str(tmp_path / "runs"), "--json")
    assert code == 0
    assert [found["name"] for found in json.loads(out)] == ["run"]


def test_a_model_is_trained_from_scratch_with_its_own_tokenizer(tmp_path: Path, write_recipe: Callable) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat and then the dog ran. " * 60)
    code, _ = call("tokenizer", "train", str(text), "--vocab", "300", "--out", str(tmp_path / "tokenizer"))
    assert code == 0
    shape = {"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    recipe = write_recipe(
        model={"shape": shape | {"intermediate_size": 48}, "tokenizer": "tokenizer", "dtype": "float32"},
        data={"train": "text.txt", "validation": 0.2, "max_length": 32},
        objective={"kind": "causal"},
        optim={"steps": 30, "examples": 4, "optimizer": "muon", "lr": 1e-2},
        evaluate={"every": 30},
    )
    code, out = call("train", str(recipe), "--out", str(tmp_path / "run"), "--json")
    assert code == 0
    assert json.loads(out)["validation_loss"] < 3


@pytest.mark.parametrize(
    ("value", "text"), [(5, "5"), ({"too long": 2, "blank": 1}, "2 too long, 1 blank"), (["a", "b"], "a, b")]
)
def test_counts_of_a_dry_run_are_put_in_words(value: Any, text: str) -> None:
    assert _format_count(value) == text


def test_an_existing_recipe_is_not_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "recipe.yaml"
    assert call("init", "sft", "--out", str(out))[0] == 0
    written = out.read_text()
    code, _ = call("init", "dpo", "--out", str(out))
    assert (code, out.read_text()) == (2, written)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no recipe given"),
        (("--dry-run",), "no recipe given"),
        (("--resume", "nowhere"), "nowhere"),
    ],
)
def test_a_run_needs_a_recipe_or_a_run_to_continue(
    arguments: tuple[str, ...], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["train", *arguments])
    assert result.exit_code == 2
    assert words in result.stderr


def test_how_to_continue_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _how_to_continue(tmp_path, True) == "stopped before the first update; nothing was saved"
    folder = make_run(tmp_path / "my run", make_started())
    assert _how_to_continue(folder, False) == (
        f"stopped after update 0 of 40; continue with: bottega train --resume '{folder}'"
    )
    make_run(folder, make_started(), make_stepped(3))
    assert "stopped after update 3 of 40; " in _how_to_continue(folder, True)
    assert json.loads(capsys.readouterr().out)["step"] == 3
