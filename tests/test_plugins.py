"""Built-in plug-ins by file name, and classes and functions in files of the user's, whose errors name file and line."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from bottega import objectives
from bottega.errors import DataError, RecipeError
from bottega.objectives import Objective
from bottega.objectives.sft import Sft
from bottega.plugins import (
    check_score,
    load_class,
    load_class_from_file,
    load_function_from_file,
    load_module_from_file,
    locate_user_errors,
    module_names,
)

HEAD = "from bottega.batch import Loss, Row, Term\nfrom bottega.objectives.sft import Sft\n"
EXAMPLE = "class Mine(Sft): …"


def write(folder: Path, text: str) -> str:
    (folder / "mine.py").write_text(text, encoding="utf-8")
    return str(folder / "mine.py")


def refused(folder: Path, body: str, line: int | None) -> RecipeError:
    """The error of loading a class from a file with this body; it must name the line."""
    file = write(folder, HEAD + body)
    with pytest.raises(RecipeError) as caught:
        load_class_from_file(file, Objective, EXAMPLE)
    assert caught.value.where == (file if line is None else f"{file} line {line}")
    return caught.value


def test_public_modules_are_plug_ins_and_private_ones_and_folders_are_not(tmp_path: Path) -> None:
    for name in ("second.py", "first.py", "_shared.py", "notes.txt", "folder/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert module_names([str(tmp_path)]) == ["first", "second"]


def test_a_class_is_loaded_from_the_module_of_its_name() -> None:
    assert load_class(objectives.__name__, "sft", Objective) is Sft


def test_the_class_of_a_file_is_the_one_defined_in_it(tmp_path: Path) -> None:
    file = write(tmp_path, HEAD + "class Mine(Sft):\n    sharpness: float = 2.0\n")
    loaded = load_class_from_file(file, Objective, EXAMPLE)
    assert (loaded.__name__, loaded.__mro__[1]) == ("Mine", Sft)
    assert load_class_from_file(file, Objective, EXAMPLE) is loaded


def test_a_changed_file_is_loaded_again(tmp_path: Path) -> None:
    file = write(tmp_path, "value = 1\n")
    assert load_module_from_file(file).value == 1
    write(tmp_path, "value = 2\n")
    os.utime(file, (1, 1))
    assert load_module_from_file(file).value == 2


def test_a_syntax_error_names_its_line(tmp_path: Path) -> None:
    assert "SyntaxError" in str(refused(tmp_path, "class Mine(Sft:\n    pass\n", 3))


def test_an_import_error_names_its_line(tmp_path: Path) -> None:
    assert "No module named 'nowhere'" in str(refused(tmp_path, "import nowhere\n", 3))


def test_a_file_without_the_class(tmp_path: Path) -> None:
    error = refused(tmp_path, "class Mine:\n    pass\n", None)
    assert (error.what, error.fix) == ("it defines no subclass of Objective", f"define one: {EXAMPLE}")


def test_a_file_with_two_classes(tmp_path: Path) -> None:
    two = "class Mine(Sft):\n    pass\nclass Yours(Sft):\n    pass\n"
    assert refused(tmp_path, two, None).what == "it defines 2 subclasses of Objective, expected one"


def test_a_function_is_loaded_by_name(tmp_path: Path) -> None:
    file = write(tmp_path, "def score(answer, reference):\n    return float(reference in answer)\nlimit = 3\n")
    assert load_function_from_file(file, "score", "def score(…)")("so it is 4", "4") == 1.0
    for name in ("scores", "limit"):
        with pytest.raises(RecipeError, match=f"no function {name} in it"):
            load_function_from_file(file, name, "def score(…)")
    with pytest.raises(RecipeError, match="no such file") as caught:
        load_function_from_file(str(tmp_path / "none.py"), "score", "def score(…)")
    assert caught.value.where == str(tmp_path / "none.py")


@pytest.mark.parametrize(("value", "score"), [(0.5, 0.5), (2, 2.0), (True, 1.0)])
def test_a_score_is_a_number(value: Any, score: float) -> None:
    assert check_score(value, "mine.py") == score


@pytest.mark.parametrize("value", ["0.5", None, float("nan"), float("inf"), 10**400, [1.0]])
def test_a_score_that_is_no_finite_number_is_refused(value: Any) -> None:
    with pytest.raises(RecipeError, match="is not a finite number") as caught:
        check_score(value, "mine.py")
    assert caught.value.where == "mine.py"


def test_what_a_file_prints_goes_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, "def score(answer, reference):\n    print('scoring')\n    return 1\n")
    score = load_function_from_file(file, "score", "")
    with locate_user_errors(file):
        assert score("", "") == 1
    assert capsys.readouterr() == ("", "scoring\n")


def test_a_file_may_not_end_the_program(tmp_path: Path) -> None:
    file = write(tmp_path, "import sys\nsys.exit(0)\n")
    with pytest.raises(RecipeError, match="ends the program") as caught:
        load_class_from_file(file, Objective, EXAMPLE)
    assert caught.value.where == f"{file} line 2"
    with pytest.raises(SystemExit), locate_user_errors(file):
        sys.exit(0)


def test_errors_of_bottega_and_of_other_files_pass(tmp_path: Path) -> None:
    file = write(tmp_path, "")
    with pytest.raises(DataError, match="empty"), locate_user_errors(file):
        raise DataError("empty", where="rows.jsonl")
    with pytest.raises(ZeroDivisionError), locate_user_errors(file):
        _ = 1 / 0
