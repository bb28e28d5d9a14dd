"""Input that would hang a reader, fill the memory or end the program is an error that says where."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import bottega
from bottega.data import open_files
from bottega.errors import DataError, RecipeError
from bottega.evaluation.user_metric import load_user_metric
from bottega.plugins import locate_user_errors
from bottega.recipe.schema import Recipe
from making import placed


@pytest.mark.parametrize("name", ["rows.json", "rows.csv", "rows.conll", "rows.parquet"])
def test_no_reader_waits_for_a_pipe(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match="a pipe or a device"):
        list(placed(tmp_path / name))


def test_a_pipe_is_not_waited_for(llama: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rows.jsonl")
    with pytest.raises(RecipeError, match="a pipe or a device"):
        Recipe.load(tmp_path / "rows.jsonl")
    document = {"model": {"base": str(llama)}, "objective": {"kind": "sft"}}
    recipe = Recipe.parse(document | {"data": {"train": str(tmp_path / "rows.jsonl")}})
    with pytest.raises(DataError, match="a pipe or a device"):
        list(bottega.train(recipe, tmp_path / "run"))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.conll"])
def test_a_row_longer_than_any_should_be(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_files, "MAX_ROW_CHARACTERS", 1 << 17)
    long = "x" * (1 << 20)
    content = {
        "rows.jsonl": json.dumps({"text": "a"}) + "\n" + json.dumps({"text": long}) + "\n",
        "rows.json": json.dumps([{"text": "a"}, {"text": long}]),
        "rows.csv": f"text,label\n{long},a\n",
        "rows.conll": f"a\tO\n{long}\tO\n",
    }
    (tmp_path / name).write_text(content[name])
    with pytest.raises(DataError, match="a row of more than 131,072 characters") as caught:
        list(placed(tmp_path / name))
    assert caught.value.where
    assert caught.value.fix
    assert name in caught.value.where


def test_a_text_of_one_line_is_parted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bottega.data.files.DOCUMENT_CHARACTERS", 1000)
    (tmp_path / "rows.txt").write_text("abcdefgh " * 1000)
    found = [fields["text"] for _, fields in placed(tmp_path / "rows.txt")]
    assert "".join(found) == "abcdefgh " * 1000
    assert max(map(len, found)) <= 3000


def test_own_code_that_ends_the_program(tmp_path: Path) -> None:
    path = tmp_path / "score.py"
    path.write_text("import sys\n\n\ndef score(written, right):\n    sys.exit(0)\n")
    with pytest.raises(RecipeError, match="it ends the program") as caught:
        load_user_metric(str(path)).sums("a", ["b"])
    assert caught.value.where == f"{path} line 5"
    path.write_text("import sys\n\nraise SystemExit\n")
    os.utime(path, (1, 1))
    with pytest.raises(RecipeError, match="it ends the program") as caught:
        load_user_metric(str(path))
    assert caught.value.where == f"{path} line 3"


def test_a_program_that_ends_elsewhere_ends(tmp_path: Path) -> None:
    with pytest.raises(SystemExit), locate_user_errors(str(tmp_path / "score.py")):
        raise SystemExit(2)


def test_what_own_code_prints_is_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "score.py"
    path.write_text("print('loaded')\n\n\ndef score(written, right):\n    print('asked')\n    return 1\n")
    assert load_user_metric(str(path)).sums("a", ["b"]) == (1.0, 1.0)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "loaded\nasked\n"


@pytest.mark.slow
def test_writing_imports_nothing_that_it_does_not_use(llama: Path) -> None:
    code = (
        "import sys, bottega; from bottega.sampling import Sampling;"
        f"bottega.load({str(llama)!r}, dtype='float32').generate(['the'], Sampling(tokens=2));"
        "print(sorted({'peft', 'bitsandbytes', 'datasets'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
